# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Affinity has two halves in Envoy, the route's hash policy and the cluster's balancer, and one is missing. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, evidence, policies_of, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    ambient_by,
    as_yaml,
    command,
    delete,
    hash_on,
    label,
    new_rule,
    patch,
    route_in_force,
    routes_of,
    rule_in_force,
    rules_of,
    settings_of,
    waypoint_without_route,
    with_rule,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes.protocol import entry_led_to
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers
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
from ansible_collections.meshops.istio.plugins.module_utils._model import HASHING, JsonDict, ProxyView

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
        merged = [*(spec_of(meant).get("http") or []), *(spec_of(winner).get("http") or [])]
        items = (
            (proxy_name(situation, client), "VirtualService of the route", named(winner)),
            (label("VirtualService", winner), "metadata.creationTimestamp", winner["metadata"].get("creationTimestamp")),
            (label("VirtualService", meant), "metadata.creationTimestamp", meant["metadata"].get("creationTimestamp")),
            *_halves(situation, client, view),
        )
        change = patch("VirtualService", winner, {"spec": {"http": merged}}).body
        yield Hit(evidence(*items), command(change, delete("VirtualService", meant)))


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
                gateways = [*spec_of(route)["gateways"], "mesh"]
                items = (
                    (label("VirtualService", route), "spec.gateways", spec_of(route)["gateways"]),
                    (proxy_name(situation, client), "VirtualService of the route", None),
                    *_halves(situation, client, view),
                )
                yield Hit(evidence(*items), as_yaml({**route, "spec": {**spec_of(route), "gateways": gateways}}))


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
        host = parts[2]
        namespace = host.split(".")[1] if ".svc." in host else situation.target.namespace
        rule = new_rule(
            "DestinationRule", f"{host.partition('.')[0]}-affinity", namespace, {"host": host, "trafficPolicy": {"loadBalancer": hash_on(situation.key)}}
        )
        items = (
            (proxy_name(situation, client), "cluster of the route", view.route.clusters[0][0]),
            (proxy_name(situation, client), "VirtualService of the route", view.route.rule),
            *_halves(situation, client, view),
        )
        yield Hit(evidence(*items), as_yaml(rule))


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
        yield Hit(evidence(*items), as_yaml(_with_port(situation, route)))


def _with_port(situation: Situation, route: JsonDict) -> JsonDict:
    def named_port(entry: JsonDict) -> JsonDict:
        destination = entry.get("destination") or {}
        return {**entry, "destination": {**destination, "port": destination.get("port") or {"number": situation.target.port}}}

    http = [{**each, "route": [named_port(entry) for entry in each["route"]]} if each.get("route") else each for each in spec_of(route)["http"]]
    return {**route, "spec": {**spec_of(route), "http": http}}


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
        entries = [{**each, "loadBalancer": policy["loadBalancer"]} if each is entry else each for each in policy["portLevelSettings"]]
        others = [name for name in entry if name != "port"]
        items = (
            (label("DestinationRule", rule), f"spec.trafficPolicy.portLevelSettings of port {situation.target.port}", others),
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", "consistentHash"),
            *_halves(situation, client, view),
        )
        yield Hit(evidence(*items), as_yaml({**rule, "spec": {**spec_of(rule), "trafficPolicy": {**policy, "portLevelSettings": entries}}}))


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
        subset = subset_of(rule, parts[1]) if parts and parts[1] else None
        settings = balancer((subset or {}).get("trafficPolicy") or {}, situation.target.port)
        if subset is None or not settings or policy_in(settings) or not hashes(settings_of(situation, rule), situation.key):
            continue
        hashing = {**subset["trafficPolicy"], "loadBalancer": hash_on(situation.key, settings)}
        subsets = [{**each, "trafficPolicy": hashing} if each is subset else each for each in spec_of(rule)["subsets"]]
        items = (
            (label("DestinationRule", rule), f"trafficPolicy.loadBalancer of subset {subset['name']}", f"simple: {settings.get('simple')}"),
            *_halves(situation, client, view),
        )
        yield Hit(evidence(*items), as_yaml({**rule, "spec": {**spec_of(rule), "subsets": subsets}}))


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
        yield Hit(evidence(*ambient, *items), as_yaml(route))
