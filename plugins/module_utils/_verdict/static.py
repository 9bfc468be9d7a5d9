# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether sessions can stick, from the state of the clients' Envoys, without sending requests. Pure.

Each client is judged alone, then the clients are compared. One client whose sessions cannot stick is enough for
`does_not`. `unknown` means that the inspection allows no statement, and the sentence gives the reason.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import touches_key
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import Declared
from ansible_collections.meshops.istio.plugins.module_utils._membership import pods_of, pods_without, ready_addresses
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    DOES_NOT,
    HASHING,
    STICKS,
    UNKNOWN,
    ClientPod,
    Key,
    Membership,
    ProxyView,
    RouteView,
    Target,
)

# Where a cluster has it, Envoy ignores the cluster's lb_policy.
OWN_POLICY = "load_balancing_policy"


@dataclass(frozen=True)
class Static:
    """The verdict, and the reason as a sentence."""

    verdict: str
    why: str


@dataclass(frozen=True)
class ClientView:
    """The result of reading one client's Envoy: a view, or an error, or neither if no Envoy responded.

    `filters` are the EnvoyFilters that change the client's filter chains, whose effect cannot be determined. `hidden` is why
    a client that has nothing of the service may be kept from it, where others are not.
    """

    client: ClientPod
    view: ProxyView | None
    error: str | None = None
    filters: tuple[str, ...] = ()
    hidden: str | None = None


def static_verdict(key: Key | None, target: Target, declared: Declared, membership: Membership | None, client_views: Sequence[ClientView]) -> Static:
    """The verdict on one port of a service. `membership` is None without permission to read the endpoints, `key` if no option
    and no rule names one."""
    if not client_views:
        return _without_client(target, declared)
    if membership is not None and not membership.ready():
        return Static(UNKNOWN, f"service {target} has no ready pod")
    if key is None:
        return _without_key(target, client_views)
    verdicts = [_of_client(key, target, membership, entry) for entry in client_views]
    broken = next((entry for entry in verdicts if entry.verdict == DOES_NOT), None)
    if broken:
        return broken
    split = _disagreement(key, [entry for entry in client_views if entry.view is not None])
    if split:
        return split
    doubt = next((entry for entry in verdicts if entry.verdict == UNKNOWN), None)
    return doubt or _sticks(key, client_views)


_NO_CLIENT = "there is no ready client pod whose Envoy could be read; label one in this namespace, or name one with its namespace in the option client"


def _without_client(target: Target, declared: Declared) -> Static:
    rules = ", ".join(declared.rules)
    if declared.headless:
        return Static(DOES_NOT, f"service {target} is headless, so Envoy forwards requests to the address that the client selected")
    if rules:
        return Static(UNKNOWN, f"DestinationRule {rules} asks for affinity, but {_NO_CLIENT}")
    return Static(UNKNOWN, _NO_CLIENT)


def _without_key(target: Target, client_views: Sequence[ClientView]) -> Static:
    """Nobody asks for affinity, as far as it was read."""
    verdicts = [_unreadable(target, entry) for entry in client_views]
    unknown = next((entry for entry in verdicts if entry is not None), None)
    if any(entry.view and entry.view.policies() for entry in client_views):
        unknown = unknown or Static(UNKNOWN, f"the route of service {target} hashes on something that no option key.type stands for")
    cluster = next((entry.view.cluster for entry in client_views if entry.view and entry.view.cluster), None)
    if unknown or cluster is None:
        return unknown or Static(DOES_NOT, f"no client's Envoy has a route or a cluster for service {target}")
    proxy = f"the Envoy of pod {client_views[0].client}"
    return Static(DOES_NOT, f"no rule in force asks for affinity: {proxy} balances {_short(cluster.name)} by {cluster.lb_policy} and hashes on nothing")


def _unreadable(target: Target, entry: ClientView) -> Static | None:
    """Why nothing can be said of one client."""
    proxy, client, view = f"the Envoy of pod {entry.client}", entry.client, entry.view
    if entry.error:
        return Static(UNKNOWN, f"pod {client} could not be inspected: {entry.error}")
    if view is None and client.ambient:
        return Static(UNKNOWN, f"pod {client} is in ambient mode, where a waypoint may hash, which is not read; inspect it from a client pod with a sidecar")
    if view is None:
        return Static(UNKNOWN, f"{proxy} did not respond") if client.sidecar else None
    if view.doubt:
        return Static(UNKNOWN, f"the route of service {target} in {proxy} cannot be determined: {view.doubt}")
    if view.route is None and view.cluster is None and entry.hidden:
        return Static(UNKNOWN, f"{proxy} has neither a route nor a cluster for service {target}: {entry.hidden}")
    return None


def _of_client(key: Key, target: Target, membership: Membership | None, client_view: ClientView) -> Static:
    """One client alone: the first thing that breaks affinity or prevents a statement."""
    proxy, view = f"the Envoy of pod {client_view.client}", client_view.view
    unreadable = _unreadable(target, client_view)
    if unreadable:
        return unreadable
    if view is None:
        return Static(DOES_NOT, f"pod {client_view.client} has no sidecar (istio-proxy), so no rule of the mesh applies to its requests")
    broken = _of_route(key, target, view, proxy) or _of_cluster(key, view, proxy) or _of_locality(view, proxy)
    return broken or _of_hosts(membership, view, proxy) or _of_filters(client_view, proxy) or Static(STICKS, "")


def _of_route(key: Key, target: Target, view: ProxyView, proxy: str) -> Static | None:
    route = view.route
    if route is None:
        return _of_no_route(target, view, proxy)
    if route.answered:
        return Static(UNKNOWN, f"{proxy} responds to {_request(target)} with {route.answered}, so the request reaches no pod")
    if not view.alike:
        names = " and ".join(_short(name) for name in route.destinations())
        return Static(DOES_NOT, f"the route in {proxy} is weighted over {names}, and Envoy selects one of them for each request{_lanes(view)}")
    if not any(policy.matches(key) for policy in view.policies()):
        return Static(DOES_NOT, _hashing(view, route, proxy, key) + _lanes(view))
    return _of_key(key, view, proxy)


def _of_no_route(target: Target, view: ProxyView, proxy: str) -> Static:
    if view.virtual_host:
        return Static(UNKNOWN, f"every route of {view.virtual_host} in {proxy} requires other headers or another path than {_request(target)}{_lanes(view)}")
    if view.cluster:
        return Static(DOES_NOT, f"{proxy} has no HTTP route for service {target}, so it balances connections, not requests")
    return Static(DOES_NOT, f"{proxy} has neither a route nor a cluster for service {target}")


def _request(target: Target) -> str:
    return f"{target.method} {target.path}"


def _lanes(view: ProxyView) -> str:
    """Routes for other requests, such as those of a canary's callers, which this verdict is not about."""
    texts = [f"{lane.condition} leads to {' and '.join(_short(name) for name in lane.clusters) or 'no cluster'}" for lane in view.lanes]
    return f". Other requests take a route of their own: {'; '.join(texts[:3])}{'; …' if len(texts) > 3 else ''}" if texts else ""


def other_routes(view: ProxyView) -> str:
    """Where requests go that carry other headers, or no key, as sentences; empty if all take one route."""
    return (_keyless(view) + _lanes(view)).removeprefix(". ")


def _keyless(view: ProxyView) -> str:
    if view.keyless is None:
        return ""
    if view.keyless.answered:
        return f". Requests without the key are answered by Envoy itself ({view.keyless.answered})"
    names = " and ".join(_short(name) for name in view.keyless.destinations())
    return f". Requests without the key take another route, to {names or 'no cluster'}"


def _hashing(view: ProxyView, route: RouteView, proxy: str, key: Key) -> str:
    policies = [" ".join(filter(None, (policy.type, policy.name))) for policy in view.policies()]
    hashing = f"hashes on {', '.join(policies)}, not on {key}" if policies else f"has no hash policy for {key}"
    return f"{proxy} treats the port as TCP and {hashing}" if route.protocol == "tcp" else f"the route in {proxy} {hashing}"


def _of_key(key: Key, view: ProxyView, proxy: str) -> Static | None:
    """Envoy must hash the value that the client sent."""
    touched = touches_key(view, key)
    if touched in ("removes", "sets"):
        return Static(DOES_NOT, f"the route in {proxy} {touched} the {key} before Envoy hashes it")
    others = [policy for policy in view.policies() if not policy.matches(key)]
    if others:
        return Static(UNKNOWN, f"the route in {proxy} hashes on more than {key}: {', '.join(policy.name or policy.type for policy in others)}")
    return None


def _of_cluster(key: Key, view: ProxyView, proxy: str) -> Static | None:
    cluster = view.cluster
    if cluster is None:
        name = f"cluster {_short(view.route.destinations()[0])}, which does not exist" if view.route and view.route.clusters else "no cluster"
        return Static(UNKNOWN, f"the route in {proxy} leads to {name}")
    if OWN_POLICY in cluster.unusual:
        return Static(UNKNOWN, f"an EnvoyFilter gives {_short(cluster.name)} in {proxy} a load_balancing_policy of its own, which is not evaluated")
    if cluster.lb_policy not in HASHING:
        rule = f"DestinationRule {cluster.rule}" if cluster.rule else "no DestinationRule in force"
        return Static(DOES_NOT, f"{proxy} balances {_short(cluster.name)} by {cluster.lb_policy} ({rule}), although its route hashes on {key}")
    return None


def _of_locality(view: ProxyView, proxy: str) -> Static | None:
    """Balancing that depends on the client's location, so a client elsewhere balances differently."""
    eligible = view.eligible()
    if not eligible:
        return Static(UNKNOWN, f"no host of the service is healthy in {proxy}, which is in panic mode")
    priorities = {host.priority for host in view.hosts if host.healthy}
    if len(priorities) > 1:
        near = f"{len(eligible)} of {sum(1 for host in view.hosts if host.healthy)}"
        return Static(DOES_NOT, f"{proxy} prefers {near} pods, those of its own locality, so clients elsewhere select other pods")
    if view.cluster is not None and view.cluster.by_locality and len({host.zone for host in view.hosts}) > 1:
        return Static(UNKNOWN, f"localities have weights in {proxy}, and a client elsewhere may have other weights")
    return None


def _of_hosts(membership: Membership | None, view: ProxyView, proxy: str) -> Static | None:
    """Every ready pod must be eligible: other clients may select the pods that this one leaves out."""
    eligible = view.eligible()
    if membership is None:
        return Static(UNKNOWN, "there is no permission to read the service's endpoints, so Envoy may not know all of them")
    others = eligible - ready_addresses(membership)
    if others:
        return Static(UNKNOWN, f"{proxy} can select {len(others)} hosts that are not ready pods of the service ({min(others)})")
    ready, lacking = len(pods_of(membership, [view])), len(pods_without(view, membership))
    if lacking:
        return Static(UNKNOWN, f"{proxy} can select {ready - lacking} of {ready} ready pods; sessions move when it adds the others")
    return None


def _of_filters(client_view: ClientView, proxy: str) -> Static | None:
    """Checked last: no filter can repair broken affinity."""
    if not client_view.filters:
        return None
    return Static(UNKNOWN, f"EnvoyFilter {', '.join(client_view.filters)} changes the filters of {proxy}, and their effect on requests cannot be determined")


def _disagreement(key: Key, client_views: Sequence[ClientView]) -> Static | None:
    """Clients that would send one session to different pods. With the source address as key, each client has its own
    sessions. Changed pods reach one Envoy before the other, so a difference in hosts alone is no proof."""
    if key.type == "source_ip":
        return None
    for basis, verdict in ((_rules, DOES_NOT), (_choice, UNKNOWN)):
        by_basis: dict[object, ClientView] = {}
        for entry in client_views:
            by_basis.setdefault(basis(entry.view), entry)
        if len(by_basis) > 1:
            first, second = list(by_basis.values())[:2]
            differ = _difference(first.view, second.view)
            return Static(verdict, f"the Envoys of {first.client} and {second.client} balance differently: {differ}")
    return None


def _rules(view: ProxyView | None) -> object:
    if view is None or view.cluster is None:
        return None
    cluster = view.cluster
    return cluster.name, cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size


def _choice(view: ProxyView | None) -> object:
    return view.eligible() if view is not None and view.cluster is not None else None


def _difference(first: ProxyView | None, second: ProxyView | None) -> str:
    if first is None or second is None or first.cluster is None or second.cluster is None:
        return "one of them has no cluster for the service"
    if first.eligible() != second.eligible():
        lacking = (("first", first.eligible() - second.eligible()), ("second", second.eligible() - first.eligible()))
        return " and ".join(f"only the {which} can select {_hosts(addresses)}" for which, addresses in lacking if addresses)
    rules = [f"{view.cluster.lb_policy} of {view.cluster.rule or 'no DestinationRule'}" for view in (first, second) if view.cluster]
    return " and ".join(rules)


def _hosts(addresses: Iterable[str]) -> str:
    ordered = sorted(addresses)
    return f"{len(ordered)} pods" if len(ordered) != 1 else f"one pod ({ordered[0]})"


def _sticks(key: Key, client_views: Sequence[ClientView]) -> Static:
    first = client_views[0].view
    policy = first.cluster.lb_policy if first and first.cluster else ""
    pods = len(first.eligible()) if first else 0
    whole = f" of {_short(first.cluster.name)}" if first and first.cluster and _subset(first.cluster.name) else ""
    more = _keyless(first) + _lanes(first) if first else ""
    proxy = f"the Envoy of pod {client_views[0].client}" if len(client_views) == 1 else f"the Envoys of all {len(client_views)} client pods"
    verb = "hashes" if len(client_views) == 1 else "hash"
    if pods == 1:
        return Static(STICKS, f"{proxy} {verb} on {key}, and there is only one pod")
    return Static(STICKS, f"{proxy} {verb} on {key} by {policy} over {pods} ready pods{whole}{more}")


def _subset(cluster: str) -> bool:
    """Whether a cluster is for a subset of the pods: `outbound|80|v1|host`."""
    return cluster.count("|") >= 3 and cluster.split("|")[2] != ""


def _short(cluster: str) -> str:
    """`outbound|80|v1|nginx-service.sample.svc.cluster.local` as text: nginx-service.sample:80 (subset v1)."""
    parts = cluster.split("|")
    if len(parts) < 4:
        return cluster
    name = parts[3].partition(".svc.")[0]
    return f"{name}:{parts[1]}" + (f" (subset {parts[2]})" if parts[2] else "")
