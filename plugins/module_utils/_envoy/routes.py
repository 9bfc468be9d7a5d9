# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The route that a request takes, from Envoy's admin pages. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._envoy.matching import (
    Choice,
    authority_of,
    choose,
    choose_for_all,
    request_of,
    virtual_host_for,
)
from ansible_collections.meshops.istio.plugins.module_utils._envoy.re2 import Budget
from ansible_collections.meshops.istio.plugins.module_utils._envoy.values import hash_policies, istio_rule
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict, Lane, RouteView, Target

STATEFUL_FILTER = "envoy.filters.http.stateful_session"
# Actions by which Envoy answers a request itself.
NO_ROUTE = "no route"
ANSWERED = {"redirect": "a redirect", "direct_response": "a direct response", NO_ROUTE: "404, as no route matches"}
# The session of a request, if none is known, and how many are evaluated.
SAMPLE, MOST_SESSIONS = "meshops-check-1", 20


def virtual_hosts_of(routes: JsonDict) -> Iterator[tuple[JsonDict, JsonDict]]:
    for config in routes.get("configs") or []:
        for host in (config.get("route_config") or {}).get("virtual_hosts") or []:
            yield config, host


@dataclass(frozen=True)
class Routing:
    """What a virtual host does with the probe's requests."""

    route: RouteView | None = None
    doubt: str | None = None
    keyless: RouteView | None = None
    lanes: tuple[Lane, ...] = ()


def routing(serving: Iterable[tuple[JsonDict, JsonDict]], target: Target) -> Routing:
    """The route that the target's virtual host has for the probe's requests, with the key and without it."""
    found = Routing()
    for config, host in serving:
        found = _routing(config, host, target)
        if found.route or found.doubt:
            break
    return found


def _routing(config: JsonDict, host: JsonDict, target: Target) -> Routing:
    if host.get("require_tls") in ("ALL", "EXTERNAL_ONLY"):
        return Routing(_route_view(config, host, {"redirect": {"https_redirect": True}}))
    if host.get("matcher"):
        return Routing(doubt="the virtual host's matcher cannot be evaluated")
    budget = Budget()
    routes = host.get("routes") or []
    sent = target.sessions[:MOST_SESSIONS] or (SAMPLE,)
    keyed = choose_for_all(routes, [request_of(target, session if target.key else None, budget) for session in sent])
    bare = choose(routes, request_of(target, None, budget))
    differs = keyed.doubt is None and bare.doubt is None and bare.route is not keyed.route
    lanes = [Lane(condition, tuple(name for name, _weight in view.clusters), view.hash_policies) for condition, view in _views(config, host, keyed)]
    return Routing(
        _route_view(config, host, keyed.route) if keyed.route is not None else None,
        keyed.doubt,
        _route_view(config, host, bare.route or {NO_ROUTE: {}}) if differs else None,
        tuple(lanes),
    )


def _views(config: JsonDict, host: JsonDict, choice: Choice) -> Iterator[tuple[str, RouteView]]:
    return ((condition, _route_view(config, host, route)) for condition, route in choice.lanes)


def serving_hosts(routes: JsonDict, target: Target) -> list[tuple[JsonDict, JsonDict]]:
    """The virtual host of a gateway's Envoy for the target, with its route configuration: of the port that is called only.
    Istio names that after the port of the gateway's pod."""
    found = []
    for config in routes.get("configs") or []:
        body = config.get("route_config") or {}
        called = f"http.{target.via.listens}" if target.via and target.via.listens else None
        if called in (None, body.get("name")) and (host := virtual_host_for(body, authority_of(target))):
            found.append((config, host))
    return found


def carries_port(config: JsonDict, target: Target) -> bool:
    """Whether a sidecar's route configuration is that of the target's port."""
    name = (config.get("route_config") or {}).get("name", "")
    return bool(name.rpartition(":")[2] == str(target.port))


def domains_of(target: Target) -> set[str]:
    return {target.host, f"{target.host}:{target.port}", f"{target.service}.{target.namespace}.svc"}


def _route_view(config: JsonDict, host: JsonDict, route: JsonDict) -> RouteView:
    action = route.get("route") or {}
    weighted = (action.get("weighted_clusters") or {}).get("clusters") or []
    clusters = tuple((entry["name"], int(entry.get("weight", 0))) for entry in weighted)
    if "cluster" in action:
        clusters = ((action["cluster"], 100),)
    # Envoy applies these of a weighted route's clusters, of the route and of the virtual host.
    levels = [*weighted, route, host]
    if unforwarded := next((text for name, text in ANSWERED.items() if name in route), None):
        clusters = ()
    retries = (action.get("retry_policy") or {}).get("retry_host_predicate") or []
    return RouteView(
        route_config=(config.get("route_config") or {}).get("name", ""),
        virtual_host=host.get("name", ""),
        clusters=clusters,
        hash_policies=tuple(hash_policies(action.get("hash_policy") or [])),
        rule=istio_rule(route.get("metadata"), "virtual-service"),
        version=str(config.get("version_info", "")),
        headers_removed=tuple(name.lower() for level in levels for name in level.get("request_headers_to_remove") or []),
        headers_set=tuple(_headers_changed(levels, overwritten=True)),
        retry_predicates=tuple(entry.get("name", "") for entry in retries),
        headers_added=tuple(name for name, _value in _headers_changed(levels, overwritten=False)),
        unusual=tuple(_unusual_routing(action)),
        stateful=any(STATEFUL_FILTER in (part.get("typed_per_filter_config") or {}) for part in (host, route)),
        updated=config.get("last_updated"),
        answered=unforwarded,
    )


def _headers_changed(levels: Iterable[JsonDict], *, overwritten: bool) -> Iterator[tuple[str, str]]:
    """Header and value of the entries that overwrite the sent value, or of those that only add one."""
    for level in levels:
        for entry in level.get("request_headers_to_add") or []:
            replaces = entry.get("append_action") in ("OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
            if replaces == overwritten:
                header = entry.get("header") or {}
                yield str(header.get("key", "")).lower(), str(header.get("value", ""))


def _unusual_routing(action: JsonDict) -> Iterator[str]:
    """Settings that change the hash of a route and can only come from an EnvoyFilter, as text."""
    if any((entry.get("header") or {}).get("regex_rewrite") for entry in action.get("hash_policy") or []):
        yield "regex_rewrite of the hashed header"
    if any(entry.get("terminal") for entry in action.get("hash_policy") or []):
        yield "a terminal hash policy"
    if "cluster_header" in action:
        yield "cluster_header"


def tcp_route(listener: JsonDict) -> RouteView | None:
    """How a port's listener handles connections that it does not treat as HTTP; None if it treats all as HTTP."""
    state = (listener.get("active_state") or {}).get("listener") or {}
    chains = [*(state.get("filter_chains") or []), *filter(None, [state.get("default_filter_chain")])]
    configs = [entry.get("typed_config") or {} for chain in chains for entry in chain.get("filters") or []]
    if any(config.get("@type", "").endswith(".HttpConnectionManager") for config in configs):
        return None
    proxy = next((config for config in configs if config.get("@type", "").endswith(".TcpProxy")), None)
    if proxy is None:
        return None
    weighted = [(entry["name"], int(entry.get("weight", 0))) for entry in (proxy.get("weighted_clusters") or {}).get("clusters") or []]
    return RouteView(
        route_config=listener.get("name", ""),
        virtual_host="",
        clusters=tuple(weighted) or ((proxy.get("cluster", ""), 100),),
        hash_policies=tuple(HashPolicy("source_ip" if "source_ip" in entry else "other", None) for entry in proxy.get("hash_policy") or []),
        rule=None,
        version=str((listener.get("active_state") or {}).get("version_info", "")),
        protocol="tcp",
    )
