# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an Envoy admits on its admin pages about one service: route, cluster, hosts. Pure.

Pages: https://www.envoyproxy.io/docs/envoy/latest/operations/admin. Only GET, only the pages named here.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import (
    CheckError,
    ClusterView,
    HashPolicy,
    Host,
    JsonDict,
    ProxyView,
    RouteView,
    Target,
)

ADMIN = "http://localhost:15000"
HASHING = ("RING_HASH", "MAGLEV")
# What Istio never sends in a cluster's ring_hash_lb_config, and what it changes.
RING_EXTRAS = {"hash_function": "another hash function", "maximum_ring_size": "a largest ring size"}
# Envoy prints these of each host; one that lacks any of them stands on a page that was cut short, and isn't guessed at.
NEEDED = ("health_flags", "weight", "priority", "rq_total")
STATEFUL_FILTER = "envoy.filters.http.stateful_session"


def admin_pages(target: Target) -> dict[str, str]:
    """The pages to read for a full view, by name. The filters keep each to a few kilobytes on a big mesh.

    Istio puts all plain HTTP ports of one number into a route configuration named after the port, and a port whose
    protocol is sniffed into one of its own (C(service.namespace.svc.domain:port)).
    """
    name = f"{re.escape(target.service)}\\.{re.escape(target.namespace)}\\.svc\\..*"
    # A gateway names its route configurations after its own ports, which are not the Service's.
    routes = quote("^https?\\..*" if target.via else f"^({target.port}|{name}:{target.port})$", safe="")
    clusters = quote(f"^outbound\\|.*\\|{name}$", safe="")
    pages = {
        "info": f"{ADMIN}/server_info",
        "routes": f"{ADMIN}/config_dump?resource=dynamic_route_configs&name_regex={routes}",
        "clusters": f"{ADMIN}/config_dump?resource=dynamic_active_clusters&name_regex={clusters}",
    }
    if target.listener and not target.via:
        pages["listeners"] = _dump("dynamic_listeners", f"^{re.escape(target.listener)}$")
    return pages


def hosts_page() -> str:
    """All hosts of all clusters as text; Envoy can't filter it (envoy#14702), so the pod does, by L(hosts_filter)."""
    return f"{ADMIN}/clusters"


def hosts_filter(target: Target) -> str:
    """The part of a line that marks the target's clusters: C(outbound|80|v1|nginx-service.sample.svc.cluster.local::…)."""
    return f"|{target.service}.{target.namespace}.svc."


def wide_pages(namespaces: Sequence[str] | None, ports: Sequence[int], listeners: Sequence[str]) -> dict[str, str]:
    """The pages to read for all services of some namespaces (None: of all) at once, by name.

    C(ports) are the services' ports, C(listeners) the names (C(ip_port)) of those that may not be HTTP.
    """
    where = f"({'|'.join(map(re.escape, namespaces))})" if namespaces is not None else "[^.]+"
    name = f"[^.]+\\.{where}\\.svc\\..*"
    numbers = f"({'|'.join(str(port) for port in sorted(set(ports)))})"
    pages = {
        "info": f"{ADMIN}/server_info",
        "routes": _dump("dynamic_route_configs", f"^({numbers}|{name}:{numbers})$"),
        "clusters": _dump("dynamic_active_clusters", f"^outbound\\|.*\\|{name}$"),
    }
    if listeners:
        pages["listeners"] = _dump("dynamic_listeners", f"^({'|'.join(re.escape(listener) for listener in sorted(set(listeners)))})$")
    return pages


def wide_filter(namespaces: Sequence[str] | None) -> str:
    """The part of a line of the hosts page that marks the clusters of a wide look."""
    return f".{namespaces[0]}.svc." if namespaces is not None and len(namespaces) == 1 else "outbound|"


def _dump(resource: str, names: str) -> str:
    return f"{ADMIN}/config_dump?resource={resource}&name_regex={quote(names, safe='')}"


@dataclass(frozen=True)
class AdminDump:
    """One Envoy's pages, parsed once for however many services: C(virtual_hosts) by the domains that they serve,
    C(listeners) by name. C(hosts) and C(clusters) are by the cluster's name."""

    info: JsonDict
    clusters: dict[str, ClusterView]
    hosts: dict[str, list[Host]]
    routes: JsonDict = field(default_factory=dict)
    virtual_hosts: dict[str, list[tuple[JsonDict, JsonDict]]] = field(default_factory=dict)
    listeners: dict[str, JsonDict] = field(default_factory=dict)
    bytes_read: int = 0


def parse_pages(pages: dict[str, bytes]) -> AdminDump | None:
    """The pages' bodies as data, or None where there is no Envoy to ask. Raises L(CheckError) with C(strange_envoy)."""
    info = _json(pages.get("info", b""))
    if not info:
        return None
    with known_form():
        return _parsed(pages, info)


@contextlib.contextmanager
def known_form() -> Iterator[None]:
    """A page that is not of the form that it has in every known Envoy is not guessed over."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckError(
            "strange_envoy",
            f"The admin pages of Envoy do not have the known form ({type(error).__name__}: {error}). "
            "Next: look at /server_info, /config_dump and /clusters on port 15000 of the client pod.",
        ) from error


def _parsed(pages: dict[str, bytes], info: JsonDict) -> AdminDump:
    routes = _json(pages.get("routes", b""))
    by_domain: dict[str, list[tuple[JsonDict, JsonDict]]] = {}
    for config, host in _virtual_hosts(routes):
        for domain in host.get("domains") or []:
            by_domain.setdefault(domain, []).append((config, host))
    listeners = {entry.get("name", ""): entry for entry in _json(pages.get("listeners", b"")).get("configs") or []}
    return AdminDump(
        info=info,
        clusters=parse_clusters(_json(pages.get("clusters", b""))),
        hosts=parse_hosts(pages.get("hosts", b"").decode("utf-8", "replace")),
        routes=routes,
        virtual_hosts=by_domain,
        listeners=listeners,
        bytes_read=sum(len(body) for body in pages.values()),
    )


def proxy_view(target: Target, pages: dict[str, bytes]) -> ProxyView | None:
    """The view from the pages' bodies, or None where there is no Envoy to ask. Raises L(CheckError) with C(strange_envoy)."""
    dump = parse_pages(pages)
    return view_of(dump, target) if dump else None


def led_to(target: Target, view: ProxyView | None) -> Target:
    """The service whose cluster the route leads to: the target itself, or another host that a VirtualService names."""
    first = view.route.clusters[0][0] if view is not None and view.route is not None and view.route.clusters else ""
    match = re.fullmatch(r"outbound\|(\d+)\|[^|]*\|([^.|]+)\.([^.|]+)\.svc\..+", first)
    if match is None or (match.group(2), match.group(3)) == (target.service, target.namespace):
        return target
    return replace(target, port=int(match.group(1)), service=match.group(2), namespace=match.group(3), listener=None)


def view_of(dump: AdminDump, target: Target) -> ProxyView:
    """One service's part. Raises L(CheckError) with C(strange_envoy)."""
    with known_form():
        return _view(dump, target)


def _view(dump: AdminDump, target: Target) -> ProxyView:
    serving = [(config, host) for config, host in _candidates(dump, target) if _serves(host, target) and _carries(config, target)]
    route = _matching_route(serving, target)
    if not serving and target.listener in dump.listeners:
        route = tcp_route(dump.listeners[target.listener])
    name = _cluster_of(route, target, dump.clusters)
    return ProxyView(
        proxy_version=_version(dump.info),
        uptime=_seconds(dump.info.get("uptime_current_epoch")),
        route=route,
        cluster=dump.clusters.get(name) if name else None,
        hosts=tuple(dump.hosts.get(name, [])) if name else (),
        bytes_read=dump.bytes_read,
        virtual_host=serving[0][1].get("name") if serving else None,
        alike=len({_choice(dump, destination) for destination in route.destinations()}) <= 1 if route else True,
    )


def _choice(dump: AdminDump, name: str) -> object:
    """What decides to which host of a cluster a hash leads: clusters that have it in common are as good as one."""
    cluster = dump.clusters.get(name)
    if cluster is None or cluster.lb_policy not in HASHING:
        return name
    sizes = (cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size, cluster.by_locality, cluster.unusual)
    return (*sizes, tuple((host.address, host.healthy, host.weight, host.priority) for host in dump.hosts.get(name, [])))


def _candidates(dump: AdminDump, target: Target) -> Iterable[tuple[JsonDict, JsonDict]]:
    """Route configurations with a virtual host that can be the target's: through a gateway any, else by its names."""
    if target.via:
        return _virtual_hosts(dump.routes)
    found = {id(host): (config, host) for name in _names(target) for config, host in dump.virtual_hosts.get(name, [])}
    return found.values()


def hashed_ports(dump: AdminDump) -> dict[tuple[str, str], set[int]]:
    """The ports of each (namespace, service) for which this Envoy has one half of affinity at least, in any subset."""
    found: dict[tuple[str, str], set[int]] = {}
    for domain, places in dump.virtual_hosts.items():
        match = re.fullmatch(r"([^.]+)\.([^.]+)\.svc", domain)
        for config, host in places if match else ():
            port = (config.get("route_config") or {}).get("name", "").rpartition(":")[2]
            hashing = any((route.get("route") or {}).get("hash_policy") for route in host.get("routes") or [])
            if match and port.isdigit() and hashing:
                found.setdefault((match.group(2), match.group(1)), set()).add(int(port))
    for name, cluster in dump.clusters.items():
        match = re.match(r"outbound\|(\d+)\|[^|]*\|([^.]+)\.([^.]+)\.svc\.", name)
        if match and cluster.lb_policy in HASHING:
            found.setdefault((match.group(3), match.group(2)), set()).add(int(match.group(1)))
    return found


def zone_of(pages: dict[str, bytes]) -> str | None:
    """The zone that the proxy believes to be in, which decides its locality balancing."""
    node = _json(pages.get("info", b"")).get("node") or {}
    return (node.get("locality") or {}).get("zone") or None


def _json(body: bytes) -> JsonDict:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
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
            by_locality="locality_weighted_lb_config" in (cluster.get("common_lb_config") or {}),
            unusual=tuple(_unusual_balancing(cluster)),
            panic=_panic_threshold(cluster),
        )
        views[view.name] = view
    return views


def _panic_threshold(cluster: JsonDict) -> float:
    """In percent. Envoy's own is 50; a percentage of nothing, which Istio sends with outlierDetection, is printed empty."""
    found = (cluster.get("common_lb_config") or {}).get("healthy_panic_threshold")
    return 50.0 if found is None else float(found.get("value", 0))


def _unusual_balancing(cluster: JsonDict) -> Iterator[str]:
    """What changes the choice of a hashing cluster and can only come from an EnvoyFilter, in words."""
    for name, what in RING_EXTRAS.items():
        if (cluster.get("ring_hash_lb_config") or {}).get(name) not in (None, "XX_HASH"):
            yield what
    if (cluster.get("common_lb_config") or {}).get("consistent_hashing_lb_config"):
        yield "consistent_hashing_lb_config (host names or bounded load)"
    if cluster.get("load_balancing_policy"):
        yield "load_balancing_policy"


def _virtual_hosts(routes: JsonDict) -> Iterator[tuple[JsonDict, JsonDict]]:
    for config in routes.get("configs") or []:
        for host in (config.get("route_config") or {}).get("virtual_hosts") or []:
            yield config, host


def _matching_route(serving: Iterable[tuple[JsonDict, JsonDict]], target: Target) -> RouteView | None:
    """The first route of the target's virtual host that the probe's path matches, as Envoy would choose it."""
    for config, host in serving:
        for route in host.get("routes") or []:
            if matches(route.get("match") or {}, target):
                return _route_view(config, host, route)
    return None


def _carries(config: JsonDict, target: Target) -> bool:
    """Whether a route configuration is that of the target's port; a gateway's go by other names."""
    name = (config.get("route_config") or {}).get("name", "")
    return target.via is not None or name.rpartition(":")[2] == str(target.port)


def _serves(host: JsonDict, target: Target) -> bool:
    if target.via:
        host_header = target.via.host.lower()
        return any(_covers(domain.lower(), host_header) for domain in host.get("domains") or [])
    return bool(_names(target) & set(host.get("domains") or []))


def _names(target: Target) -> set[str]:
    return {target.host, f"{target.host}:{target.port}", f"{target.service}.{target.namespace}.svc"}


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
        fits = _fits(match["safe_regex"].get("regex", ""), path)
    else:
        fits = False
    others = [entry for entry in match.get("headers") or [] if not _is_method(entry, target.method)]
    return fits and not others and not match.get("query_parameters")


def _fits(regex: str, path: str) -> bool:
    """Envoy's expressions are RE2's; one that Python can't read is taken for one that does not fit."""
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
        rule=_rule_of(route.get("metadata"), "virtual-service"),
        version=str(config.get("version_info", "")),
        headers_removed=tuple(name.lower() for level in levels for name in level.get("request_headers_to_remove") or []),
        headers_set=tuple(_headers_changed(levels, overwritten=True)),
        retry_predicates=tuple(entry.get("name", "") for entry in retries),
        headers_added=tuple(name for name, _value in _headers_changed(levels, overwritten=False)),
        unusual=tuple(_unusual_routing(action)),
        stateful=any(STATEFUL_FILTER in (part.get("typed_per_filter_config") or {}) for part in (host, route)),
    )


def _headers_changed(levels: Iterable[JsonDict], *, overwritten: bool) -> Iterator[tuple[str, str]]:
    """Header and value of the entries that put theirs in the place of what was sent, or of those that merely add one."""
    for level in levels:
        for entry in level.get("request_headers_to_add") or []:
            replaces = entry.get("append_action") in ("OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
            if replaces == overwritten:
                header = entry.get("header") or {}
                yield str(header.get("key", "")).lower(), str(header.get("value", ""))


def _unusual_routing(action: JsonDict) -> Iterator[str]:
    """What changes the hash of a route and can only come from an EnvoyFilter, in words."""
    if any((entry.get("header") or {}).get("regex_rewrite") for entry in action.get("hash_policy") or []):
        yield "regex_rewrite of the hashed header"
    if any(entry.get("terminal") for entry in action.get("hash_policy") or []):
        yield "a terminal hash policy"
    if "cluster_header" in action:
        yield "cluster_header"


def tcp_route(listener: JsonDict) -> RouteView | None:
    """What a port's listener does with connections that it does not take for HTTP; None where it takes them all for it."""
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
        return route.destinations()[0]
    plain = [name for name in clusters if name.startswith(f"outbound|{target.port}||")]
    return plain[0] if len(plain) == 1 else None


def parse_hosts(text: str) -> dict[str, list[Host]]:
    """Hosts by cluster from C(/clusters), a line a value: C(cluster::address::name::value)."""
    values: dict[tuple[str, str], dict[str, str]] = {}
    for line in text.splitlines():
        cluster, _sep, rest = line.partition("::")
        match = re.match(r"((?:envoy://[^/]*/)?(?:\[.*?\]:\d+|[^:/]+:\d+))::([a-z_]+)::(.*)$", rest)
        if match:
            values.setdefault((cluster, match.group(1)), {})[match.group(2)] = match.group(3)
    hosts: dict[str, list[Host]] = {}
    for (cluster, address), fields in values.items():
        if not all(fields.get(name) for name in NEEDED):
            continue
        flags = fields["health_flags"]
        hosts.setdefault(cluster, []).append(
            Host(
                address=address.rpartition("/")[2],
                healthy=flags == "healthy",
                health_flags=flags,
                weight=_int(fields.get("weight"), 1),
                priority=_int(fields.get("priority"), 0),
                zone=fields.get("zone", ""),
                rq_total=_int(fields.get("rq_total"), 0),
                hbone=address.startswith("envoy://"),
            )
        )
    for entries in hosts.values():
        entries.sort(key=lambda host: host.address)
    return hosts


def _int(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch(r"[0-9]{1,19}", text) else default
