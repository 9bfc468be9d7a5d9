# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules are correct, but Envoy has another or an old configuration. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Section, Situation, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import list_patch, manual, merged_in_force, scene
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    applies,
    items_in_force,
    label,
    not_hashing_for_service,
    rules_of,
    settings_of,
    with_rule,
    workload_text,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes.hosts import distribution_of, missing_from
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Destination, cluster_balancer
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import ROOT_NAMESPACE, cluster_parts, hashes, named, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import HASHING, Fix, JsonDict, ProxyView

SECTION = Section("The rule is correct, but Envoy has another configuration")
# The largest ring that Envoy accepts.
LARGEST_RING = 8388608
# Seconds by which the clocks of the API server and of a node may differ.
CLOCKS = 5.0
# Seconds after which a change has certainly reached every connected Envoy.
SURELY_PUSHED = 30.0


@SECTION.cause(
    "C16",
    "An EnvoyFilter changes the route or the cluster that Istio generates",
    symptom="sessions move although DestinationRule and VirtualService are correct",
    evidence="the rules hash on the key, Envoy does not, and an EnvoyFilter that patches clusters or routes selects the client",
    fix="remove that patch from the EnvoyFilter, or limit it to other services",
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
            yield Hit(evidence(*items), _without_patch(situation, envoy_filter, place))


def _without_patch(situation: Situation, envoy_filter: JsonDict, place: int) -> Fix:
    """Remove one of several patches, if it names nothing but this service."""
    patches = spec_of(envoy_filter)["configPatches"]
    what = f"Remove spec.configPatches[{place}] from {label('EnvoyFilter', envoy_filter)}"
    if len(patches) < 2 or not _names_only(situation, patches[place]):
        return manual(f"{what}, or limit it to other services. Look at what else it changes: it applies to every proxy that the EnvoyFilter selects.")
    checked = f"The entry matches nothing but {situation.fqdn}; the other entries of the EnvoyFilter stay."
    removal = {"op": "remove", "path": f"/spec/configPatches/{place}"}
    return list_patch("EnvoyFilter", envoy_filter, [removal], checked=checked, otherwise=f"{what}.")


def _names_only(situation: Situation, entry: JsonDict) -> bool:
    """Whether a patch is for clusters or virtual hosts that are named, and are this service's."""
    match = entry.get("match") or {}
    cluster, route = match.get("cluster") or {}, match.get("routeConfiguration") or {}
    names = [name for name in (cluster.get("name"), cluster.get("service"), (route.get("vhost") or {}).get("name")) if name]
    return bool(names) and all(situation.fqdn in name for name in names)


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
    "C74",
    "Envoy refuses the cluster: minimumRingSize is above its limit, and the previous configuration stays in force",
    symptom="sessions move although all objects are correct; a client pod that is recreated does not become ready",
    evidence="minimumRingSize of the rule that applies is above 8388608, the limit of Envoy",
    fix="lower minimumRingSize before any client pod is recreated: a new Envoy does not start with a cluster that it refuses",
    reference="https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    synthetic="a state that was measured on Istio 1.31: a ring of 10,000,000, after which the client's Envoy counts cds.update_rejected",
)
def refused(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        if parts is None:
            continue
        chosen = cluster_balancer(merged_in_force(situation, client, view), Destination(parts[2], parts[0], parts[1])).get("consistentHash") or {}
        size = (chosen.get("ringHash") or {}).get("minimumRingSize") or chosen.get("minimumRingSize") or 0
        near = scene(situation, client, view).near
        if not near or int(size) <= LARGEST_RING:
            continue
        rule = label("DestinationRule", near[0])
        items = ((rule, "consistentHash.ringHash.minimumRingSize", size), ("Envoy", "its limit", LARGEST_RING), *items_in_force(situation, client, view))
        yield Hit(
            evidence(*items),
            manual(f"In {rule}, set minimumRingSize to 1024, or to {LARGEST_RING} at most. Do this before any client pod is recreated: it would not start."),
        )


@SECTION.cause(
    "C17",
    "The rules are correct, but Envoy has not received them: its configuration is older than the last change of the rule",
    symptom="sessions move although all objects are correct",
    evidence="the DestinationRule hashes on the key, Envoy does not; Envoy received its route and its cluster before the rule was last changed; no "
    "EnvoyFilter selects the client",
    fix="run istioctl proxy-status; if only this proxy is out of date, recreate its pod; if others are too, look at istiod",
    reference="https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/",
)
def not_delivered(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        rule = next((rule for rule in rules_of(situation) if applies(situation, client, rule)), None)
        if rule is None or (view.cluster and view.cluster.rule not in (None, named(rule))):
            continue
        if _filters(situation, client) or situation.unread("EnvoyFilter"):
            continue
        stage = scene(situation, client, view)
        last, received = _changed_at(rule), _received_at(view)
        if last is None or received is None or (last - received).total_seconds() < CLOCKS:
            continue
        if stage.refusal(stage.rules) is not None:
            continue
        items = (
            (label("DestinationRule", rule), "metadata.managedFields[].time, the last", last.isoformat()),
            (proxy_name(situation, client), "last_updated of route and cluster, the later", received.isoformat()),
            (label("DestinationRule", rule), "hash in force by the rules that were read", str(situation.key)),
            *items_in_force(situation, client, view),
        )
        yield Hit(evidence(*items), _reconnect(situation, client))


def _reconnect(situation: Situation, client: Client) -> Fix:
    return manual(
        f"Run istioctl proxy-status. If only the proxy of pod {client.pod} is out of date, recreate it ({workload_text(client, situation.body_of(client))}) "
        "after you make sure that a new pod becomes ready; if others are out of date or refuse their configuration, look at istiod first."
    )


def _changed_at(rule: JsonDict) -> datetime | None:
    """When a rule was last written, by the API server's clock."""
    meta = rule["metadata"]
    times = [entry["time"] for entry in meta.get("managedFields") or [] if entry.get("time")] or [meta.get("creationTimestamp")]
    return max((time for text in times if (time := _time(text)) is not None), default=None)


def _received_at(view: ProxyView) -> datetime | None:
    """When Envoy last received a part of its configuration for the service. None if a part does not say."""
    times = [_time(part.updated) if part else None for part in (view.route, view.cluster)]
    known = [time for time in times if time is not None]
    return max(known) if len(known) == len(times) else None


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


@SECTION.cause(
    "C64",
    "Ready pods are missing from the client's Envoy, which receives no more updates",
    symptom="some ready pods get no session from this client; the same session lands on different pods from different clients",
    evidence="the EndpointSlices have not changed for a while, and have ready pods that are not among Envoy's hosts",
    fix="run istioctl proxy-status; if only this proxy is out of date, recreate its pod; if others are too, look at istiod",
    reference="https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/",
)
def missing_pods(situation: Situation) -> Iterator[Hit]:
    membership, local = situation.membership, situation.service["spec"].get("internalTrafficPolicy") == "Local"
    if situation.target.via or local or membership.age is None or membership.age < SURELY_PUSHED:
        return
    for client, view in situation.readable():
        known = {host.address for host in view.hosts}
        missing = sorted(backend.address for backend in missing_from(situation, view))
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        whole = parts is not None and not parts[1] and parts[2] == situation.fqdn
        some = len(missing) < len(membership.ready())
        # A rule that leaves out a locality leaves out its pods.
        left_out = distribution_of(situation, client, view) or situation.unread("DestinationRule")
        if not missing or not some or left_out or not whole or view.cluster is None or view.cluster.type != "EDS":
            continue
        items = (
            (situation.source, "ready endpoints that Envoy does not know", missing),
            (situation.source, "seconds since the EndpointSlices changed", f"{membership.age:.0f}"),
            (proxy_name(situation, client), f"hosts of cluster {view.cluster.name}", sorted(known)),
        )
        yield Hit(evidence(*items), _reconnect(situation, client), situation.severity)
