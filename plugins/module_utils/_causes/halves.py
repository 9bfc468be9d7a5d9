# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Affinity has two halves in Envoy, the route's hash policy and the cluster's balancer, and one is missing. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, evidence, policies_of, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import (
    as_yaml,
    change_rule,
    create_rule,
    list_patch,
    manual,
    merge_patch,
    new_rule,
    only_for,
    scene,
    set_hash,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    ambient_by,
    label,
    not_hashing_for_service,
    route_in_force,
    routes_of,
    rule_in_force,
    rules_of,
    settings_of,
    waypoint_without_route,
    with_rule,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes.protocol import entry_led_to
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Destination, cluster_balancer, hash_in_force, merged, rule_with
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers, full_name
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import (
    balancer,
    cluster_parts,
    destinations,
    hashes,
    named,
    on_mesh,
    policy_in,
    policy_of,
    port_entry,
    spec_of,
    subset_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import HASHING, Fix, JsonDict, ProxyView

SECTION = Section("One half is missing: the route's hash policy or the cluster's balancer")
REFERENCE = "https://istio.io/latest/docs/reference/config/networking/"


def _halves(situation: Situation, client: Client, view: ProxyView) -> tuple[Item, ...]:
    cluster = view.cluster
    name = cluster.name if cluster else ", ".join(name for name, _weight in view.route.clusters) if view.route else "none"
    return (
        (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        (proxy_name(situation, client), f"lb_policy of cluster {name}", cluster.lb_policy if cluster else "not read"),
    )


def _reaches(situation: Situation, route: JsonDict, rule: JsonDict) -> bool:
    """Whether a VirtualService leads to a destination for which a DestinationRule hashes on the key."""
    for destination in destinations(route):
        if not covers(destination.get("host", ""), route["metadata"]["namespace"], situation.fqdn):
            continue
        subset = subset_of(rule, destination.get("subset", ""))
        settings = balancer((subset or {}).get("trafficPolicy") or {}, situation.target.port) or settings_of(situation, rule)
        if hashes(settings, situation.key):
            return True
    return False


@SECTION.cause(
    "C26",
    "Two VirtualServices have the same host, and Istio uses the older one, whose routes do not hash",
    symptom="sessions move; the newer VirtualService has no effect",
    evidence="two VirtualServices on the mesh have the host; Envoy's route names the older one",
    fix="merge them into one",
    reference="https://istio.io/latest/docs/ops/best-practices/traffic-management/#split-virtual-services",
)
def two_routes(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.not_hashing():
        winner, rule = route_in_force(situation, client), next(iter(rules_of(situation)), None)
        losers = [route for route in routes_of(situation) if winner and named(route) != named(winner) and on_mesh(route)]
        meant = next((route for route in losers if rule and _reaches(situation, route, rule)), None)
        if winner is None or meant is None:
            continue
        items = (
            (proxy_name(situation, client), "VirtualService of the route", named(winner)),
            (label("VirtualService", winner), "metadata.creationTimestamp", winner["metadata"].get("creationTimestamp")),
            (label("VirtualService", meant), "metadata.creationTimestamp", meant["metadata"].get("creationTimestamp")),
            *_halves(situation, client, view),
        )
        hosts = ", ".join(spec_of(winner).get("hosts") or [])
        text = (
            f"Merge the routes of {label('VirtualService', meant)} into {label('VirtualService', winner)}, which Istio uses because it is older, then remove "
            f"the newer one. It is your decision which routes come first: all callers of {hosts} on the mesh get them."
        )
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C25",
    "The VirtualService is bound to a gateway only, and sidecars do not use it",
    symptom="sessions stick through the gateway, but move between services",
    evidence="spec.gateways does not include mesh; Envoy's route is not from a VirtualService; only this one leads to the subset that hashes",
    fix="add mesh to spec.gateways",
    reference="https://github.com/istio/istio/issues/12178",
)
def gateway_only(situation: Situation) -> Iterator[Hit]:
    if situation.target.via:
        return
    for client, view in situation.not_hashing():
        rule = rule_in_force(situation, client) or next(iter(rules_of(situation)), None)
        if rule is None or view.route is None or view.route.rule is not None:
            continue
        for route in routes_of(situation):
            if not on_mesh(route) and _reaches(situation, route, rule):
                items = (
                    (label("VirtualService", route), "spec.gateways", spec_of(route)["gateways"]),
                    (proxy_name(situation, client), "VirtualService of the route", None),
                    *_halves(situation, client, view),
                )
                yield Hit(evidence(*items), _onto_the_mesh(situation, client, view, route))


def _onto_the_mesh(situation: Situation, client: Client, view: ProxyView, route: JsonDict) -> Fix:
    """Add mesh to the gateways of a VirtualService which does nothing but lead to a destination that hashes."""
    what = f"add mesh to spec.gateways of {label('VirtualService', route)}"
    destination, stage = _single_destination(route), scene(situation, client, view)
    others = [other for other in routes_of(situation) if on_mesh(other)]
    if destination is None or others or not only_for(route, situation.fqdn) or situation.unread("DestinationRule", "VirtualService"):
        return manual(f"{what[0].upper()}{what[1:]}. From then on its routes apply to all callers on the mesh of {', '.join(spec_of(route)['hosts'])}.")
    there = Destination(situation.fqdn, stage.to.port, destination.get("subset", ""), bool(destination.get("port")))
    policy = hash_in_force(stage.rules, there, stage.caller)
    if policy is None or not policy.matches(situation.key):
        return manual(f"{what[0].upper()}{what[1:]}, and hash on {situation.key} where it leads.")
    checked = (
        f"The VirtualService has no host but {situation.fqdn} and no route but the one to {destination.get('subset') or 'it'}, where the DestinationRules "
        f"in force for pod {client.pod} hash on {situation.key}; no other VirtualService on the mesh has the host."
    )
    change = {"spec": {"gateways": [*spec_of(route)["gateways"], "mesh"]}}
    return merge_patch("VirtualService", route, change, checked=checked, otherwise=f"{what[0].upper()}{what[1:]}.")


def _single_destination(route: JsonDict) -> JsonDict | None:
    """The destination of a VirtualService that only routes, and all requests to one place; None for any other."""
    http = spec_of(route).get("http") or []
    plain = len(http) == 1 and set(http[0]) <= {"name", "route"} and len(http[0]["route"]) == 1 and set(http[0]["route"][0]) <= {"destination", "weight"}
    return http[0]["route"][0].get("destination") if plain and not spec_of(route).get("tcp") and not spec_of(route).get("tls") else None


@SECTION.cause(
    "C24",
    "The route leads to another host, for which no rule sets a hash",
    symptom="sessions move; the DestinationRule of the requested host has no effect",
    evidence="the cluster of Envoy's route belongs to another host",
    fix="add a DestinationRule for that host too, or route to the host that has one",
    reference=f"{REFERENCE}virtual-service/#Destination",
)
def another_host(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.not_hashing():
        parts = cluster_parts(view.route.clusters[0][0]) if view.route and view.route.clusters else None
        if parts is None or parts[2] == situation.fqdn or view.route is None or entry_led_to(situation, view):
            continue
        stage = scene(situation, client, view, host=parts[2])
        spec = merged(stage.near)
        # Of rules that could not be read, only the cluster says whether they hash.
        hashing = situation.unread("DestinationRule") and view.cluster is not None and view.cluster.lb_policy in HASHING
        if hashing or hashes(cluster_balancer(spec, stage.to), situation.key):
            continue
        items = (
            (proxy_name(situation, client), "cluster of the route", view.route.clusters[0][0]),
            (proxy_name(situation, client), "VirtualService of the route", view.route.rule),
            (f"host {parts[2]}", "DestinationRules in force", situation.unread("DestinationRule") or [named(rule) for rule in stage.near]),
            *_halves(situation, client, view),
        )
        # A hash on another key may be what the callers of that host rely on.
        other = policy_in(cluster_balancer(spec, stage.to))
        fix = create_rule(stage, f"{parts[2].partition('.')[0]}-affinity")
        if not stage.to.home and (unread := situation.unread("ServiceEntry")):
            fix = manual(f"Find out what defines host {parts[2]}: Envoy hashes only where it has the pods' addresses, and {unread}.")
        elif stage.near:
            text = (
                f"In {named(stage.near[0])}, hash on {situation.key} instead of {other.name or other.type}, if none of its callers need that." if other else ""
            )
            fix = manual(text) if text else set_hash(situation, client, view)
        yield Hit(evidence(*items), fix)


@SECTION.cause(
    "C70",
    "The VirtualService routes to an alias of the service, and Istio looks up the hash policy of the route by the alias",
    symptom="sessions move although the service has a rule, because requests are routed by an alias (an ExternalName Service)",
    evidence="a destination of the VirtualService is another host, and its cluster in Envoy is the service's own; the cluster hashes, the route does not",
    fix="name the service itself as the destination",
    reference="https://github.com/istio/istio/issues/50912",
)
def by_alias(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        route = route_in_force(situation, client)
        policy = policy_in(settings_of(situation, rule)) if (rule := rule_in_force(situation, client)) else None
        if route is None or policy is None or not policy.matches(situation.key) or view.route is None or view.route.hash_policies:
            continue
        aliases = _destination_hosts(situation, route)
        names = {name for _place, name in aliases}
        leads_here = all((parts := cluster_parts(name)) is not None and parts[2] == situation.fqdn for name, _weight in view.route.clusters)
        # With several destinations, the one that Envoy's route is of may be another.
        if len(names) != 1 or situation.fqdn in names or not leads_here:
            continue
        items = (
            (label("VirtualService", route), "spec.http[].route[].destination.host", [name for _place, name in aliases]),
            (proxy_name(situation, client), "clusters of the route", [name for name, _weight in view.route.clusters]),
            *_halves(situation, client, view),
        )
        operations = [{"op": "replace", "path": f"{place}/host", "value": situation.fqdn} for place, _name in aliases]
        checked = f"Envoy's route leads to the clusters of {situation.fqdn} before and after; only the host by which Istio looks up its rules changes."
        otherwise = f"In {label('VirtualService', route)}, name {situation.fqdn} as the destination."
        fix = list_patch("VirtualService", route, operations, checked=checked, otherwise=otherwise)
        yield Hit(evidence(*items), fix, situation.severity)


def _destination_hosts(situation: Situation, route: JsonDict) -> list[tuple[str, str]]:
    """The place and the full host of every HTTP destination."""
    return [
        (
            f"/spec/http/{number}/route/{position}/destination",
            full_name(str(entry.get("destination", {}).get("host")), route["metadata"]["namespace"], situation.fqdn),
        )
        for number, http in enumerate(spec_of(route).get("http") or [])
        for position, entry in enumerate(http.get("route") or [])
    ]


@SECTION.cause(
    "C69",
    "The route leads to a subset that the DestinationRule in force for this client does not have",
    symptom="requests of some clients fail with 503, those of others stick",
    evidence="Envoy's route names the cluster of a subset, Envoy has no such cluster, and the rule in force for the client defines no such subset",
    fix="add the subset to the rule in force, or remove that rule if it is not needed",
    reference=f"{REFERENCE}destination-rule/#Subset",
    synthetic="a state that was measured on Istio 1.31: a rule in the client's namespace without the subset that the route names",
)
def subset_unknown(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        parts = cluster_parts(view.route.clusters[0][0]) if view.route and view.route.clusters else None
        if view.cluster is not None or view.route is None or parts is None or not parts[1] or parts[2] != situation.fqdn:
            continue
        near = scene(situation, client, view).near
        # A rule that could not be read may be in force, and may have the subset.
        if rule_with(near, parts[1]) is not None or situation.unread("DestinationRule"):
            continue
        others = [rule for rule in rules_of(situation) if subset_of(rule, parts[1])]
        items = [
            (proxy_name(situation, client), "cluster of the route", view.route.clusters[0][0]),
            (proxy_name(situation, client), "that cluster", None),
            *((label("DestinationRule", rule), "spec.subsets, in force", [entry.get("name") for entry in spec_of(rule).get("subsets") or []]) for rule in near),
            *((label("DestinationRule", rule), "spec.subsets, not in force for this client", parts[1]) for rule in others),
        ]
        rule_text = label("DestinationRule", near[0]) if near else f"a DestinationRule for {situation.fqdn}"
        like = f", as in {label('DestinationRule', others[0])}" if others else ""
        text = f"Define subset {parts[1]} in {rule_text}{like}, with the same policy. {rule_text} applies to the callers in its own namespace first."
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C68",
    "The route leads to a subset that selects no pod",
    symptom="every request fails with 503 (no healthy upstream)",
    evidence="Envoy's cluster is for a subset and has no host, while the service has ready pods",
    fix="correct the labels of the subset, or route to a subset with pods",
    reference=f"{REFERENCE}destination-rule/#Subset",
)
def subset_without_pods(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        if parts is None or not parts[1] or view.hosts or not situation.membership.ready():
            continue
        near = scene(situation, client, view).near
        rule = rule_with(near, parts[1])
        subset = (subset_of(rule, parts[1]) if rule else None) or {}
        labels = [f"{name}={value}" for name, value in (subset.get("labels") or {}).items()]
        items: list[Item] = [
            (proxy_name(situation, client), "cluster of the route", view.cluster.name if view.cluster else None),
            (proxy_name(situation, client), "hosts of that cluster", None),
            (situation.source, "ready endpoints", len(situation.membership.ready())),
        ]
        items += [(label("DestinationRule", rule), f"labels of subset {parts[1]}", labels)] if rule else []
        place = label("DestinationRule", rule) if rule else f"the DestinationRule of subset {parts[1]}"
        text = (
            f"Correct the labels of subset {parts[1]} in {place}: no pod of the service has {', '.join(labels) or 'them'}. "
            "If a rollout controller writes them, find out why it has not finished; the subset serves every route that names it."
        )
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C20",
    "The hash is set for a port only, and the route has no hash policy because it names no port",
    symptom="sessions move",
    evidence="the rule's consistentHash is in portLevelSettings; Envoy's cluster hashes and its route does not; the VirtualService has no destination.port",
    fix="add destination.port to the VirtualService, or move consistentHash out of portLevelSettings",
    reference="https://github.com/istio/istio/issues/41257",
)
def port_not_named(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.not_hashing()):
        route = route_in_force(situation, client)
        entry = port_entry(policy_of(rule), situation.target.port)
        if route is None or not hashes((entry or {}).get("loadBalancer") or {}, situation.key):
            continue
        if view.cluster is None or view.cluster.lb_policy not in HASHING or all(destination.get("port") for destination in destinations(route)):
            continue
        items = (
            (label("DestinationRule", rule), "spec.trafficPolicy.portLevelSettings", f"consistentHash for port {situation.target.port}"),
            (label("VirtualService", route), "spec.http[].route[].destination.port", None),
            *_halves(situation, client, view),
        )
        yield Hit(evidence(*items), _name_port(situation, route))


def _name_port(situation: Situation, route: JsonDict) -> Fix:
    """Name the port in the destinations that are the service; of several ports, requests to the others would be led to it."""
    port = situation.target.port
    bare = [place for place, name in _destination_hosts(situation, route) if name == situation.fqdn]
    kept = [each for each in destinations(route) if each.get("port")]
    otherwise = f"In {label('VirtualService', route)}, add port.number: {port} to the destination."
    if len(situation.service["spec"].get("ports") or []) != 1 or kept or len(bare) != len(destinations(route)):
        return manual(f"{otherwise} It then leads all its requests to this port, also those to other ports, so give each port a route of its own.")
    operations = [{"op": "add", "path": f"{place}/port", "value": {"number": port}} for place in bare]
    checked = (
        f"{situation.source} has no port but {port}, so the same requests go to the same place; the DestinationRule in force hashes on {situation.key} there."
    )
    return list_patch("VirtualService", route, operations, checked=checked, otherwise=otherwise)


@SECTION.cause(
    "C21",
    "The port's entry in portLevelSettings has no loadBalancer, and inherits none",
    symptom="sessions move",
    evidence="trafficPolicy.loadBalancer has consistentHash, the port's entry in portLevelSettings has none; Envoy's route hashes, its cluster does not",
    fix="repeat loadBalancer in the port's entry",
    reference=f"{REFERENCE}destination-rule/#TrafficPolicy-PortTrafficPolicy",
)
def port_inherits_nothing(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.not_hashing()):
        policy = policy_of(rule)
        entry = port_entry(policy, situation.target.port)
        if entry is None or entry.get("loadBalancer") or not hashes(policy.get("loadBalancer") or {}, situation.key):
            continue
        others = [name for name in entry if name != "port"]
        items = (
            (label("DestinationRule", rule), f"spec.trafficPolicy.portLevelSettings of port {situation.target.port}", others),
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", "consistentHash"),
            *_halves(situation, client, view),
        )
        place = ("spec", "trafficPolicy", "portLevelSettings", policy["portLevelSettings"].index(entry), "loadBalancer")
        what = f"repeat trafficPolicy.loadBalancer in the entry of portLevelSettings for port {situation.target.port}"
        yield Hit(evidence(*items), change_rule(scene(situation, client, view), view, rule, place, policy["loadBalancer"], what))


@SECTION.cause(
    "C22",
    "The route leads to a subset with its own loadBalancer, which does not hash",
    symptom="sessions move",
    evidence="Envoy's route hashes, its cluster for the subset does not; trafficPolicy.loadBalancer of the subset is simple",
    fix="remove the subset's loadBalancer, or set consistentHash there too",
    reference=f"{REFERENCE}destination-rule/#Subset",
)
def subset_overrides(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.not_hashing()):
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        near = scene(situation, client, view).near
        # Istio merges the subsets of all rules for the host into the oldest.
        owner = rule_with(near, parts[1]) if parts and parts[1] else None
        subset = subset_of(owner, parts[1]) if owner and parts else None
        settings = balancer((subset or {}).get("trafficPolicy") or {}, situation.target.port)
        if owner is None or subset is None or not settings or policy_in(settings) or not hashes(settings_of(situation, rule), situation.key):
            continue
        items = (
            (label("DestinationRule", owner), f"trafficPolicy.loadBalancer of subset {subset['name']}", f"simple: {settings.get('simple')}"),
            *_halves(situation, client, view),
        )
        yield Hit(evidence(*items), set_hash(situation, client, view))


@SECTION.cause(
    "C23",
    "The service's waypoint runs Istio before 1.31, which sets a hash policy only on the routes of a VirtualService",
    symptom="in ambient mode, sessions move although the rule exists",
    evidence="the client is in ambient mode without a sidecar, the service uses a waypoint, istiod is older than 1.31, no VirtualService leads to the service",
    fix="upgrade to Istio 1.31, or add a VirtualService with the service itself as its only destination",
    reference="https://github.com/istio/istio/issues/61045",
    synthetic="istio #61045 names the versions and the workaround; the lab has no waypoint",
)
def waypoint_without_hash(situation: Situation) -> Iterator[Hit]:
    items = waypoint_without_route(situation) if situation.moved() else ()
    ambient = [item for client in situation.clients if (item := ambient_by(situation, client))]
    if items and ambient and not situation.target.via:
        spec = {"hosts": [situation.fqdn], "http": [{"route": [{"destination": {"host": situation.fqdn}}]}]}
        route = new_rule("VirtualService", f"{situation.target.service}-by-waypoint", situation.target.namespace, spec)
        otherwise = f"Upgrade to Istio 1.31, or add a route to {situation.fqdn} itself to the VirtualService that has its host."
        checked = f"No VirtualService has {situation.fqdn} as a host, so no other route is replaced; this one leads all its requests to where they go now."
        fix = manual(otherwise) if routes_of(situation) else as_yaml(route, checked=checked, otherwise=otherwise)
        yield Hit(evidence(*ambient, *items), fix)
