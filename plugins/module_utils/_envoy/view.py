# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proxy view: what one Envoy's admin pages say about a target. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ansible_collections.meshops.istio.plugins.module_utils._envoy.clusters import parse_clusters, parse_hosts
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import LISTENERS
from ansible_collections.meshops.istio.plugins.module_utils._envoy.routes import carries_port, domains_of, routing, serving_hosts, tcp_route, virtual_hosts_of
from ansible_collections.meshops.istio.plugins.module_utils._envoy.values import Pages, known_form, page_of, seconds_of
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    HASHING,
    CheckError,
    ClusterView,
    Host,
    JsonDict,
    Key,
    ProxyView,
    RouteView,
    Target,
    Unread,
)

UNREAD = "unread_envoy"
DEFAULT_KEY = Key("header", "user-session")


@dataclass(frozen=True)
class AdminDump:
    """One Envoy's pages, parsed once for all services: `virtual_hosts` by the domains that they serve,
    `listeners` by name. `hosts` and `clusters` are by the cluster's name. `unread` says of the pages that were not read
    whole why not: they say nothing about what there is."""

    info: JsonDict
    clusters: dict[str, ClusterView]
    hosts: dict[str, list[Host]]
    routes: JsonDict = field(default_factory=dict)
    virtual_hosts: dict[str, list[tuple[JsonDict, JsonDict]]] = field(default_factory=dict)
    listeners: dict[str, JsonDict] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def parse_pages(pages: Pages) -> AdminDump | None:
    """The pages' bodies as data, or None if no Envoy responded, so there are no pages.

    Raises `CheckError` with `strange_envoy`, or with `unread_envoy` if not even the first page was read whole.
    """
    if not pages:
        return None
    info = page_of(pages, "info")
    if isinstance(info, Unread):
        raise _unread({"info": info.why})
    with known_form():
        return _parsed(pages, info)


def _parsed(pages: Pages, info: JsonDict) -> AdminDump:
    names = ["routes", "clusters", *(name for name in pages if name.startswith(LISTENERS))]
    read = {name: page_of(pages, name) for name in names}
    bodies = {name: page for name, page in read.items() if not isinstance(page, Unread)}
    unread = {name: page.why for name, page in read.items() if isinstance(page, Unread)}
    text = pages.get("hosts", Unread("it was not read"))
    if isinstance(text, Unread):
        unread["hosts"] = text.why
    by_domain: dict[str, list[tuple[JsonDict, JsonDict]]] = {}
    for config, host in virtual_hosts_of(bodies.get("routes", {})):
        for domain in host.get("domains") or []:
            by_domain.setdefault(domain, []).append((config, host))
    return AdminDump(
        info=info,
        clusters=parse_clusters(bodies.get("clusters", {})),
        hosts={} if isinstance(text, Unread) else parse_hosts(text.decode("utf-8", "replace")),
        routes=bodies.get("routes", {}),
        virtual_hosts=by_domain,
        listeners={entry.get("name", ""): entry for name, page in bodies.items() if name.startswith(LISTENERS) for entry in page.get("configs") or []},
        unread=unread,
    )


def _unread(pages: dict[str, str]) -> CheckError:
    listed = "; ".join(f"{name.partition('.')[0]}: {why}" for name, why in pages.items())
    return CheckError(
        UNREAD,
        f"The admin pages of Envoy could not be read completely ({listed}), so its state is unknown. "
        "Next: run it again; if that fails too, look at the load and the size of this Envoy's configuration.",
    )


def proxy_view(target: Target, pages: Pages) -> ProxyView | None:
    """The view from the pages' bodies, or None if no Envoy responded. Raises `CheckError` with `strange_envoy` or `unread_envoy`."""
    dump = parse_pages(pages)
    return view_of(dump, target) if dump else None


def view_or_unread(target: Target, pages: Pages) -> ProxyView | Unread | None:
    """The same, where a view that cannot be had is no error: the measurement may still show that sessions move."""
    try:
        return proxy_view(target, pages)
    except CheckError as error:
        if error.code != UNREAD:
            raise
        return Unread(error.msg)


def led_to(target: Target, view: ProxyView | Unread | None) -> Target:
    """The service whose cluster the route leads to: the target itself, or another host that a VirtualService names."""
    first = view.route.clusters[0][0] if isinstance(view, ProxyView) and view.route is not None and view.route.clusters else ""
    match = re.fullmatch(r"outbound\|(\d+)\|[^|]*\|([^.|]+)\.([^.|]+)\.svc\..+", first)
    if match is None or (match.group(2), match.group(3)) == (target.service, target.namespace):
        return target
    return replace(target, port=int(match.group(1)), service=match.group(2), namespace=match.group(3), listener=None)


def view_of(dump: AdminDump, target: Target) -> ProxyView:
    """One service's part. Raises `CheckError` with `strange_envoy`, or with `unread_envoy` if it rests on a page that was not
    read whole."""
    with known_form():
        return _view(dump, target)


def _view(dump: AdminDump, target: Target) -> ProxyView:
    serving = serving_hosts(dump.routes, target) if target.via else _candidates(dump, target)
    found = routing(serving, target)
    route, needed = found.route, {"routes", "clusters", "hosts"}
    if not serving and target.listener:
        needed |= {name for name in dump.unread if name.startswith(LISTENERS)} if target.listener not in dump.listeners else set()
        route = tcp_route(dump.listeners[target.listener]) if target.listener in dump.listeners else None
    if lost := {name: why for name, why in dump.unread.items() if name in needed}:
        raise _unread(lost)
    name = _cluster_of(route, target, dump.clusters)
    return ProxyView(
        proxy_version=_version(dump.info),
        uptime=seconds_of(dump.info.get("uptime_current_epoch")),
        route=route,
        cluster=dump.clusters.get(name) if name else None,
        hosts=tuple(dump.hosts.get(name, [])) if name else (),
        virtual_host=serving[0][1].get("name") if serving else None,
        alike=len({_choice(dump, destination) for destination in route.destinations()}) <= 1 if route else True,
        doubt=found.doubt,
        keyless=found.keyless,
        lanes=found.lanes,
        control_plane=((((dump.info.get("node") or {}).get("metadata") or {}).get("PROXY_CONFIG")) or {}).get("discoveryAddress"),
    )


def _choice(dump: AdminDump, name: str) -> object:
    """The properties that map a hash to a host: clusters that share them select the same hosts."""
    cluster = dump.clusters.get(name)
    if cluster is None or cluster.lb_policy not in HASHING:
        return name
    sizes = (cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size, cluster.by_locality, cluster.unusual)
    return (*sizes, tuple((host.address, host.healthy, host.weight, host.priority) for host in dump.hosts.get(name, [])))


def _candidates(dump: AdminDump, target: Target) -> list[tuple[JsonDict, JsonDict]]:
    """The virtual hosts of a sidecar that have one of the target's names, with their route configurations."""
    candidates = {id(host): (config, host) for name in domains_of(target) for config, host in dump.virtual_hosts.get(name, [])}
    return [(config, host) for config, host in candidates.values() if carries_port(config, target)]


def hashed_ports(dump: AdminDump) -> dict[tuple[str, str], set[int]]:
    """The ports of each (namespace, service) for which this Envoy has at least one half of affinity, in any subset."""
    hashed: dict[tuple[str, str], set[int]] = {}
    for domain, places in dump.virtual_hosts.items():
        match = re.fullmatch(r"([^.]+)\.([^.]+)\.svc", domain)
        for config, host in places if match else ():
            port = (config.get("route_config") or {}).get("name", "").rpartition(":")[2]
            hashing = any((route.get("route") or {}).get("hash_policy") for route in host.get("routes") or [])
            if match and port.isdigit() and hashing:
                hashed.setdefault((match.group(2), match.group(1)), set()).add(int(port))
    for name, cluster in dump.clusters.items():
        match = re.match(r"outbound\|(\d+)\|[^|]*\|([^.]+)\.([^.]+)\.svc\.", name)
        if match and cluster.lb_policy in HASHING:
            hashed.setdefault((match.group(3), match.group(2)), set()).add(int(match.group(1)))
    return hashed


def mesh_domains(dump: AdminDump) -> set[str]:
    """The mesh's domains, from the names of Envoy's clusters for Services."""
    matches = [re.match(r"outbound\|\d+\|[^|]*\|[^.|]+\.[^.|]+\.svc\.(.+)", name) for name in dump.clusters]
    return {match.group(1) for match in matches if match}


def zone_of(pages: Pages) -> str | None:
    """The zone of the proxy according to itself, which determines its locality balancing."""
    info = page_of(pages, "info")
    node = {} if isinstance(info, Unread) else info.get("node") or {}
    return (node.get("locality") or {}).get("zone") or None


def _version(info: JsonDict) -> str | None:
    """`1.31.0` of Istio if the node has it, else Envoy's own `hash/1.40.0/Clean/RELEASE/BoringSSL`."""
    istio = ((info.get("node") or {}).get("metadata") or {}).get("ISTIO_VERSION")
    return istio or info.get("version")


def _cluster_of(route: RouteView | None, target: Target, clusters: dict[str, ClusterView]) -> str | None:
    """The cluster of the route; without a route (for example for a TCP port), the service's own for that port and no subset."""
    if route is not None and (route.clusters or route.answered):
        return next(iter(route.destinations()), None)
    plain = [name for name in clusters if name.startswith(f"outbound|{target.port}||")]
    return plain[0] if len(plain) == 1 else None


def key_in_force(view: ProxyView | None) -> Key:
    """The key of the rule that the client's Envoy has, else the sample's."""
    for policy in view.policies() if view else ():
        if policy.type in ("header", "cookie", "query", "source_ip"):
            return Key(policy.type, policy.name, "rule")
    return DEFAULT_KEY
