# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The route that a request takes, from Envoy's admin pages. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ansible_collections.meshops.istio.plugins.module_utils._envoy.values import istio_rule, seconds_of
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict, RouteView, Target

STATEFUL_FILTER = "envoy.filters.http.stateful_session"


def virtual_hosts_of(routes: JsonDict) -> Iterator[tuple[JsonDict, JsonDict]]:
    for config in routes.get("configs") or []:
        for host in (config.get("route_config") or {}).get("virtual_hosts") or []:
            yield config, host


def matching_route(serving: Iterable[tuple[JsonDict, JsonDict]], target: Target) -> RouteView | None:
    """The first route of the target's virtual host that matches the probe's path, as Envoy selects it."""
    for config, host in serving:
        for route in host.get("routes") or []:
            if route_matches(route.get("match") or {}, target):
                return _route_view(config, host, route)
    return None


def carries_port(config: JsonDict, target: Target) -> bool:
    """Whether a route configuration is that of the target's port; a gateway names them differently."""
    name = (config.get("route_config") or {}).get("name", "")
    return target.via is not None or name.rpartition(":")[2] == str(target.port)


def serves(host: JsonDict, target: Target) -> bool:
    if target.via:
        host_header = target.via.host.lower()
        return any(_covers(domain.lower(), host_header) for domain in host.get("domains") or [])
    return bool(domains_of(target) & set(host.get("domains") or []))


def domains_of(target: Target) -> set[str]:
    return {target.host, f"{target.host}:{target.port}", f"{target.service}.{target.namespace}.svc"}


def _covers(domain: str, host: str) -> bool:
    """Whether a virtual host's domain (exact, `*.example.com`, `host:*` or `*`) matches a Host header."""
    domain = domain.removesuffix(":*")
    name = host.partition(":")[0] if ":" not in domain else host
    return domain in ("*", name, host) or (domain.startswith("*.") and name.endswith(domain[1:]))


def route_matches(match: JsonDict, target: Target) -> bool:
    """Whether a request of the probe matches this route, by path and method. Routes with other matchers for headers or query
    parameters are skipped: they are for special requests."""
    path, _sep, _query = target.path.partition("?")
    if "prefix" in match:
        fits = path.startswith(match["prefix"])
    elif "path" in match:
        fits = path == match["path"]
    elif "path_separated_prefix" in match:
        prefix = match["path_separated_prefix"]
        fits = path == prefix or path.startswith(prefix + "/")
    elif "safe_regex" in match:
        fits = _fits(match["safe_regex"].get("regex", ""), path)
    else:
        fits = False
    others = [entry for entry in match.get("headers") or [] if not _is_method(entry, target.method)]
    return fits and not others and not match.get("query_parameters")


def _fits(regex: str, path: str) -> bool:
    """Envoy uses RE2; an expression that Python cannot parse counts as no match."""
    try:
        return re.fullmatch(regex, path) is not None
    except re.error:
        return False


def _is_method(entry: JsonDict, method: str) -> bool:
    return entry.get("name") == ":method" and method in (entry.get("exact_match"), (entry.get("string_match") or {}).get("exact"))


def _route_view(config: JsonDict, host: JsonDict, route: JsonDict) -> RouteView:
    action = route.get("route") or {}
    weighted = (action.get("weighted_clusters") or {}).get("clusters") or []
    clusters = tuple((entry["name"], int(entry.get("weight", 0))) for entry in weighted)
    if "cluster" in action:
        clusters = ((action["cluster"], 100),)
    # Envoy applies these of a weighted route's clusters, of the route and of the virtual host.
    levels = [*weighted, route, host]
    retries = (action.get("retry_policy") or {}).get("retry_host_predicate") or []
    return RouteView(
        route_config=(config.get("route_config") or {}).get("name", ""),
        virtual_host=host.get("name", ""),
        clusters=clusters,
        hash_policies=tuple(_hash_policies(action.get("hash_policy") or [])),
        rule=istio_rule(route.get("metadata"), "virtual-service"),
        version=str(config.get("version_info", "")),
        headers_removed=tuple(name.lower() for level in levels for name in level.get("request_headers_to_remove") or []),
        headers_set=tuple(_headers_changed(levels, overwritten=True)),
        retry_predicates=tuple(entry.get("name", "") for entry in retries),
        headers_added=tuple(name for name, _value in _headers_changed(levels, overwritten=False)),
        unusual=tuple(_unusual_routing(action)),
        stateful=any(STATEFUL_FILTER in (part.get("typed_per_filter_config") or {}) for part in (host, route)),
        updated=config.get("last_updated"),
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


def _hash_policies(entries: Iterable[JsonDict]) -> Iterable[HashPolicy]:
    for entry in entries:
        if "header" in entry:
            yield HashPolicy("header", entry["header"].get("header_name"))
        elif "cookie" in entry:
            cookie = entry["cookie"]
            yield HashPolicy("cookie", cookie.get("name"), seconds_of(cookie.get("ttl")) if "ttl" in cookie else None)
        elif "query_parameter" in entry:
            yield HashPolicy("query", entry["query_parameter"].get("name"))
        elif "connection_properties" in entry:
            yield HashPolicy("source_ip", None)
        else:
            yield HashPolicy("other", None)
