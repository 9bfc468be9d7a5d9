# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules are correct, but Envoy has another or an old configuration. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Section, Situation, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    applies,
    blind_to_service,
    command,
    delete,
    label,
    made_anew,
    patch,
    rule_in_force,
    rules_of,
    what_is_in_force,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import ROOT_NAMESPACE, balancer, cluster_parts, hashes, named, policy_of, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import HASHING, JsonDict

SECTION = Section("The rule is correct, but Envoy has another configuration")
# Seconds after which a change has certainly reached every connected Envoy.
SURELY_PUSHED = 30.0


@SECTION.cause(
    "C16",
    "An EnvoyFilter changes the route or the cluster that Istio generates",
    symptom="sessions move although DestinationRule and VirtualService are correct",
    seen="the rules hash on the key, Envoy does not, and an EnvoyFilter that patches clusters or routes selects the client",
    cure="remove that patch from the EnvoyFilter",
    reference="https://istio.io/latest/docs/reference/config/networking/envoy-filter/",
)
def patched(situation: Situation) -> Iterator[Hit]:
    for client, view in blind_to_service(situation):
        rule = rule_in_force(situation, client)
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        whole = parts is not None and not parts[1] and view.cluster is not None and view.cluster.type == "EDS"
        if rule is None or not whole or not hashes(balancer(policy_of(rule), situation.target.port), situation.key):
            continue
        half = ("CLUSTER",) if view.cluster and view.cluster.lb_policy not in HASHING else ("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE")
        for found in _filters(situation, client):
            patches = spec_of(found).get("configPatches") or []
            place = next((number for number, entry in enumerate(patches) if entry.get("applyTo") in half and _concerns(situation, entry)), None)
            if place is None:
                continue
            value = (patches[place].get("patch") or {}).get("value")
            seen = (
                (label("EnvoyFilter", found), f"spec.configPatches[{place}]", f"{patches[place]['applyTo']}: {value}"),
                (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", "consistentHash on " + str(situation.key)),
                *what_is_in_force(situation, client, view),
            )
            removal = patch("EnvoyFilter", found, [{"op": "remove", "path": f"/spec/configPatches/{place}"}], "json")
            yield Hit(evidence(*seen), removal if len(patches) > 1 else command(delete("EnvoyFilter", found)))


def _concerns(situation: Situation, entry: JsonDict) -> bool:
    """Whether a patch applies to this service, or to all services. A match names a cluster, a service or a virtual host."""
    match = entry.get("match") or {}
    cluster, route = match.get("cluster") or {}, match.get("routeConfiguration") or {}
    names = [cluster.get("name"), cluster.get("service"), (route.get("vhost") or {}).get("name")]
    wanted = f"{situation.target.service}.{situation.target.namespace}.svc."
    return all(wanted in name for name in names if name)


def _filters(situation: Situation, client: Client) -> list[JsonDict]:
    """The EnvoyFilters that select the client's proxy."""
    labels = situation.body_of(client)["metadata"].get("labels") or {}
    places = (situation.namespace_of(client), ROOT_NAMESPACE)
    filters = situation.facts.rules.get("EnvoyFilter", ())
    return [entry for entry in filters if entry["metadata"]["namespace"] in places and selects(spec_of(entry).get("workloadSelector"), labels)]


@SECTION.cause(
    "C17",
    "The rules are correct, but Envoy does not have them",
    symptom="sessions move although all objects are correct",
    seen="the DestinationRule hashes on the key, Envoy does not, and no EnvoyFilter selects the client",
    cure="recreate the client pod to reconnect its proxy to istiod; see istioctl proxy-status",
    reference="https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/",
)
def not_delivered(situation: Situation) -> Iterator[Hit]:
    for client, view in blind_to_service(situation):
        rule = next((rule for rule in rules_of(situation) if applies(situation, client, rule)), None)
        if rule is None or (view.cluster and view.cluster.rule not in (None, named(rule))) or _filters(situation, client):
            continue
        settings = [entry for entry in [policy_of(rule)] if not entry.get("portLevelSettings")]
        plain = view.route is not None and len(view.route.clusters) == 1 and "||" in view.route.clusters[0][0]
        if not plain or not settings or not hashes(settings[0].get("loadBalancer") or {}, situation.key):
            continue
        seen = (
            (label("DestinationRule", rule), "metadata.generation", rule["metadata"].get("generation")),
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", "consistentHash on " + str(situation.key)),
            *what_is_in_force(situation, client, view),
        )
        yield Hit(evidence(*seen), made_anew(situation, client))


@SECTION.cause(
    "C64",
    "Ready pods are missing from the client's Envoy, which receives no more updates",
    symptom="some ready pods get no session from this client; the same session lands on different pods from different clients",
    seen="the EndpointSlices have not changed for a while, and have ready pods that are not among Envoy's hosts",
    cure="recreate the client pod to reconnect its proxy to istiod; check other proxies with istioctl proxy-status",
    reference="https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/",
)
def pods_unknown(situation: Situation) -> Iterator[Hit]:
    membership, local = situation.membership, situation.service["spec"].get("internalTrafficPolicy") == "Local"
    if situation.target.via or local or membership.age is None or membership.age < SURELY_PUSHED:
        return
    for client, view in situation.seen():
        known = {host.address for host in view.hosts}
        # Envoy knows a pod with two addresses by the first one.
        heard = {backend.pod for backend in membership.backends if backend.address in known}
        missing = sorted(backend.address for backend in membership.ready() if backend.pod not in heard)
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        whole = parts is not None and not parts[1] and parts[2] == situation.fqdn
        if not missing or not heard or not whole or view.cluster is None or view.cluster.type != "EDS":
            continue
        seen = (
            (situation.source, "ready endpoints that Envoy does not know", missing),
            (situation.source, "seconds since the EndpointSlices changed", f"{membership.age:.0f}"),
            (proxy_name(situation, client), f"hosts of cluster {view.cluster.name}", sorted(known)),
        )
        yield Hit(evidence(*seen), made_anew(situation, client), situation.severity)
