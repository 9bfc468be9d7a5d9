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
    command,
    delete,
    items_in_force,
    label,
    not_hashing_for_service,
    patch,
    recreate_client,
    rules_of,
    settings_of,
    with_rule,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import ROOT_NAMESPACE, cluster_parts, hashes, named, policy_of, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import HASHING, JsonDict

SECTION = Section("The rule is correct, but Envoy has another configuration")
# Seconds after which a change has certainly reached every connected Envoy.
SURELY_PUSHED = 30.0


@SECTION.cause(
    "C16",
    "An EnvoyFilter changes the route or the cluster that Istio generates",
    symptom="sessions move although DestinationRule and VirtualService are correct",
    evidence="the rules hash on the key, Envoy does not, and an EnvoyFilter that patches clusters or routes selects the client",
    fix="remove that patch from the EnvoyFilter",
    reference="https://istio.io/latest/docs/reference/config/networking/envoy-filter/",
)
def patched(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, not_hashing_for_service(situation)):
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        whole = parts is not None and not parts[1] and view.cluster is not None and view.cluster.type == "EDS"
        if not whole or not hashes(settings_of(situation, rule), situation.key):
            continue
        half = ("CLUSTER",) if view.cluster and view.cluster.lb_policy not in HASHING else ("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE")
        for envoy_filter in _filters(situation, client):
            patches = spec_of(envoy_filter).get("configPatches") or []
            place = next((number for number, entry in enumerate(patches) if entry.get("applyTo") in half and _concerns(situation, entry)), None)
            if place is None:
                continue
            value = (patches[place].get("patch") or {}).get("value")
            items = (
                (label("EnvoyFilter", envoy_filter), f"spec.configPatches[{place}]", f"{patches[place]['applyTo']}: {value}"),
                (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", "consistentHash on " + str(situation.key)),
                *items_in_force(situation, client, view),
            )
            removal = patch("EnvoyFilter", envoy_filter, [{"op": "remove", "path": f"/spec/configPatches/{place}"}], "json")
            yield Hit(evidence(*items), removal if len(patches) > 1 else command(delete("EnvoyFilter", envoy_filter)))


def _concerns(situation: Situation, entry: JsonDict) -> bool:
    """Whether a patch applies to this service, or to all services. A match names a cluster, a service or a virtual host."""
    match = entry.get("match") or {}
    cluster, route = match.get("cluster") or {}, match.get("routeConfiguration") or {}
    names = [cluster.get("name"), cluster.get("service"), (route.get("vhost") or {}).get("name")]
    wanted = f"{situation.target.service}.{situation.target.namespace}.svc."
    return all(wanted in name for name in names if name)


def _filters(situation: Situation, client: Client) -> list[JsonDict]:
    """The EnvoyFilters that select the client's proxy."""
    labels, places = situation.labels_of(client), (situation.namespace_of(client), ROOT_NAMESPACE)
    filters = situation.facts.rules.get("EnvoyFilter", ())
    return [entry for entry in filters if entry["metadata"]["namespace"] in places and selects(spec_of(entry).get("workloadSelector"), labels)]


@SECTION.cause(
    "C17",
    "The rules are correct, but Envoy does not have them",
    symptom="sessions move although all objects are correct",
    evidence="the DestinationRule hashes on the key, Envoy does not, and no EnvoyFilter selects the client",
    fix="recreate the client pod to reconnect its proxy to istiod; see istioctl proxy-status",
    reference="https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/",
)
def not_delivered(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        rule = next((rule for rule in rules_of(situation) if applies(situation, client, rule)), None)
        if rule is None or (view.cluster and view.cluster.rule not in (None, named(rule))) or _filters(situation, client):
            continue
        settings = [entry for entry in [policy_of(rule)] if not entry.get("portLevelSettings")]
        plain = view.route is not None and len(view.route.clusters) == 1 and "||" in view.route.clusters[0][0]
        if not plain or not settings or not hashes(settings[0].get("loadBalancer") or {}, situation.key):
            continue
        items = (
            (label("DestinationRule", rule), "metadata.generation", rule["metadata"].get("generation")),
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", "consistentHash on " + str(situation.key)),
            *items_in_force(situation, client, view),
        )
        yield Hit(evidence(*items), recreate_client(situation, client))


@SECTION.cause(
    "C64",
    "Ready pods are missing from the client's Envoy, which receives no more updates",
    symptom="some ready pods get no session from this client; the same session lands on different pods from different clients",
    evidence="the EndpointSlices have not changed for a while, and have ready pods that are not among Envoy's hosts",
    fix="recreate the client pod to reconnect its proxy to istiod; check other proxies with istioctl proxy-status",
    reference="https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/",
)
def missing_pods(situation: Situation) -> Iterator[Hit]:
    membership, local = situation.membership, situation.service["spec"].get("internalTrafficPolicy") == "Local"
    if situation.target.via or local or membership.age is None or membership.age < SURELY_PUSHED:
        return
    for client, view in situation.readable():
        known = {host.address for host in view.hosts}
        # Envoy uses only the first address of a pod that has two.
        known_pods = {backend.pod for backend in membership.backends if backend.address in known}
        missing = sorted(backend.address for backend in membership.ready() if backend.pod not in known_pods)
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        whole = parts is not None and not parts[1] and parts[2] == situation.fqdn
        if not missing or not known_pods or not whole or view.cluster is None or view.cluster.type != "EDS":
            continue
        items = (
            (situation.source, "ready endpoints that Envoy does not know", missing),
            (situation.source, "seconds since the EndpointSlices changed", f"{membership.age:.0f}"),
            (proxy_name(situation, client), f"hosts of cluster {view.cluster.name}", sorted(known)),
        )
        yield Hit(evidence(*items), recreate_client(situation, client), situation.severity)
