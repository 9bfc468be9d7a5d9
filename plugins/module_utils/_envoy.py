# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an Envoy admits on its admin pages about one service: route, cluster, hosts. Pure.

Pages: https://www.envoyproxy.io/docs/envoy/latest/operations/admin. Only GET, only the pages named here.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import (
    ClusterView,
    HashPolicy,
    Host,
    JsonDict,
    ProxyView,
    RouteView,
    Target,
)

ADMIN = "http://localhost:15000"


def admin_pages(target: Target) -> dict[str, str]:
    """The pages to read for a full view, by name. The filters keep each to a few kilobytes on a big mesh.

    Istio puts all plain HTTP ports of one number into a route configuration named after the port, and a port whose
    protocol is sniffed into one of its own (C(service.namespace.svc.domain:port)).
    """
    name = f"{re.escape(target.service)}\\.{re.escape(target.namespace)}\\.svc\\..*"
    # A gateway names its route configurations after its own ports, which are not the Service's.
    routes = quote("^https?\\..*" if target.via else f"^({target.port}|{name}:{target.port})$", safe="")
    clusters = quote(f"^outbound\\|.*\\|{name}$", safe="")
    return {
        "info": f"{ADMIN}/server_info",
        "routes": f"{ADMIN}/config_dump?resource=dynamic_route_configs&name_regex={routes}",
        "clusters": f"{ADMIN}/config_dump?resource=dynamic_active_clusters&name_regex={clusters}",
    }


def hosts_page() -> str:
    """All hosts of all clusters as text; Envoy can't filter it (envoy#14702), so the pod does, by L(hosts_filter)."""
    return f"{ADMIN}/clusters"


def hosts_filter(target: Target) -> str:
    """The part of a line that marks the target's clusters: C(outbound|80|v1|nginx-service.sample.svc.cluster.local::…)."""
    return f"|{target.service}.{target.namespace}.svc."


def proxy_view(target: Target, pages: dict[str, bytes]) -> ProxyView | None:
    """The view from the pages' bodies, or None where there is no Envoy to ask."""
    info = _json(pages.get("info", b""))
    if not info:
        return None
    clusters = parse_clusters(_json(pages.get("clusters", b"")))
    route = find_route(_json(pages.get("routes", b"")), target)
    name = _cluster_of(route, target, clusters)
    hosts = parse_hosts(pages.get("hosts", b"").decode("utf-8", "replace"))
    return ProxyView(
        proxy_version=_version(info),
        uptime=_seconds(info.get("uptime_current_epoch")),
        route=route,
        cluster=clusters.get(name) if name else None,
        hosts=tuple(hosts.get(name, [])) if name else (),
        bytes_read=sum(len(body) for body in pages.values()),
    )


def led_to(target: Target, pages: dict[str, bytes]) -> Target:
    """The service whose cluster the route leads to: the target itself, or another host that a VirtualService names."""
    route = find_route(_json(pages.get("routes", b"")), target)
    first = route.clusters[0][0] if route is not None and route.clusters else ""
    match = re.fullmatch(r"outbound\|(\d+)\|[^|]*\|([^.|]+)\.([^.|]+)\.svc\..+", first)
    if match is None or (match.group(2), match.group(3)) == (target.service, target.namespace):
        return target
    return replace(target, port=int(match.group(1)), service=match.group(2), namespace=match.group(3))


def zone_of(pages: dict[str, bytes]) -> str | None:
    """The zone that the proxy believes to be in, which decides its locality balancing."""
    node = _json(pages.get("info", b"")).get("node") or {}
    return (node.get("locality") or {}).get("zone") or None


def _json(body: bytes) -> JsonDict:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _version(info: JsonDict) -> str | None:
    """C(1.31.0) of Istio where the node says so, else Envoy's own C(hash/1.40.0/Clean/RELEASE/BoringSSL)."""
    istio = ((info.get("node") or {}).get("metadata") or {}).get("ISTIO_VERSION")
    return istio or info.get("version")


def _seconds(text: str | None) -> float | None:
    try:
        return float((text or "").rstrip("s"))
    except ValueError:
        return None


def _rule_of(meta: JsonDict | None, kind: str) -> str | None:
    """C(namespace/name) from the path that Istio writes: /apis/networking.istio.io/v1/namespaces/NS/KIND/NAME."""
    path = ((((meta or {}).get("filter_metadata") or {}).get("istio") or {}).get("config")) or ""
    match = re.search(rf"/namespaces/([^/]+)/{kind}/([^/]+)$", path)
    return f"{match.group(1)}/{match.group(2)}" if match else None


def parse_clusters(dump: JsonDict) -> dict[str, ClusterView]:
    views = {}
    for config in dump.get("configs") or []:
        cluster = config.get("cluster") or {}
        ring = (cluster.get("ring_hash_lb_config") or {}).get("minimum_ring_size")
        table = (cluster.get("maglev_lb_config") or {}).get("table_size")
        view = ClusterView(
            name=cluster.get("name", ""),
            type=cluster.get("type", "STATIC"),
            lb_policy=cluster.get("lb_policy", "ROUND_ROBIN"),
            rule=_rule_of(cluster.get("metadata"), "destination-rule"),
            version=str(config.get("version_info", "")),
            minimum_ring_size=int(ring) if ring is not None else None,
            table_size=int(table) if table is not None else None,
        )
        views[view.name] = view
    return views


def find_route(dump: JsonDict, target: Target) -> RouteView | None:
    """The first route of the target's virtual host that the probe's path matches, as Envoy would choose it."""
    for config in dump.get("configs") or []:
        routes = config.get("route_config") or {}
        for host in routes.get("virtual_hosts") or []:
            if not _serves(host, target):
                continue
            for route in host.get("routes") or []:
                if matches(route.get("match") or {}, target):
                    return _route_view(config, host, route)
    return None


def _serves(host: JsonDict, target: Target) -> bool:
    if target.via:
        host_header = target.via.host.lower()
        return any(_covers(domain.lower(), host_header) for domain in host.get("domains") or [])
    wanted = {target.host, f"{target.host}:{target.port}", f"{target.service}.{target.namespace}.svc"}
    return bool(wanted & set(host.get("domains") or []))


def _covers(domain: str, host: str) -> bool:
    """Whether a virtual host's domain (exact, C(*.example.com), C(host:*) or C(*)) takes a Host header."""
    domain = domain.removesuffix(":*")
    name = host.partition(":")[0] if ":" not in domain else host
    return domain in ("*", name, host) or (domain.startswith("*.") and name.endswith(domain[1:]))


def matches(match: JsonDict, target: Target) -> bool:
    """Whether a request of the probe takes this route, judged by path and method; other header and query matchers
    are only met by requests that a rule's author had in mind, so a route that has them is passed over."""
    path, _sep, _query = target.path.partition("?")
    if "prefix" in match:
        fits = path.startswith(match["prefix"])
    elif "path" in match:
        fits = path == match["path"]
    elif "path_separated_prefix" in match:
        prefix = match["path_separated_prefix"]
        fits = path == prefix or path.startswith(prefix + "/")
    elif "safe_regex" in match:
        fits = re.fullmatch(match["safe_regex"].get("regex", ""), path) is not None
    else:
        fits = False
    others = [entry for entry in match.get("headers") or [] if not _is_method(entry, target.method)]
    return fits and not others and not match.get("query_parameters")


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
        rule=_rule_of(route.get("metadata"), "virtual-service"),
        version=str(config.get("version_info", "")),
        headers_removed=tuple(name.lower() for level in levels for name in level.get("request_headers_to_remove") or []),
        headers_set=tuple(_overwritten(entry for level in levels for entry in level.get("request_headers_to_add") or [])),
        retry_predicates=tuple(entry.get("name", "") for entry in retries),
    )


def _overwritten(entries: Iterable[JsonDict]) -> Iterable[tuple[str, str]]:
    """Header and value of the entries that do not merely add a second value."""
    for entry in entries:
        if entry.get("append_action") == "OVERWRITE_IF_EXISTS_OR_ADD":
            header = entry.get("header") or {}
            yield str(header.get("key", "")).lower(), str(header.get("value", ""))


def _hash_policies(entries: Iterable[JsonDict]) -> Iterable[HashPolicy]:
    for entry in entries:
        if "header" in entry:
            yield HashPolicy("header", entry["header"].get("header_name"))
        elif "cookie" in entry:
            cookie = entry["cookie"]
            yield HashPolicy("cookie", cookie.get("name"), _seconds(cookie.get("ttl")) if "ttl" in cookie else None)
        elif "query_parameter" in entry:
            yield HashPolicy("query", entry["query_parameter"].get("name"))
        elif "connection_properties" in entry:
            yield HashPolicy("source_ip", None)
        else:
            yield HashPolicy("other", None)


def _cluster_of(route: RouteView | None, target: Target, clusters: dict[str, ClusterView]) -> str | None:
    """The cluster of the route; without a route (a TCP port, say) the service's own for that port and no subset."""
    if route is not None and route.clusters:
        return route.clusters[0][0]
    plain = [name for name in clusters if name.startswith(f"outbound|{target.port}||")]
    return plain[0] if len(plain) == 1 else None


def parse_hosts(text: str) -> dict[str, list[Host]]:
    """Hosts by cluster from C(/clusters), a line a value: C(cluster::address::name::value)."""
    values: dict[tuple[str, str], dict[str, str]] = {}
    for line in text.splitlines():
        cluster, _sep, rest = line.partition("::")
        match = re.match(r"(\[.*?\]:\d+|[^:]+:\d+)::([a-z_]+)::(.*)$", rest)
        if match:
            values.setdefault((cluster, match.group(1)), {})[match.group(2)] = match.group(3)
    hosts: dict[str, list[Host]] = {}
    for (cluster, address), fields in values.items():
        flags = fields.get("health_flags", "")
        hosts.setdefault(cluster, []).append(
            Host(
                address=address,
                healthy=flags == "healthy",
                health_flags=flags,
                weight=_int(fields.get("weight"), 1),
                priority=_int(fields.get("priority"), 0),
                zone=fields.get("zone", ""),
                rq_total=_int(fields.get("rq_total"), 0),
            )
        )
    for entries in hosts.values():
        entries.sort(key=lambda host: host.address)
    return hosts


def _int(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default
