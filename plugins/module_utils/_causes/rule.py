# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rule exists, but Envoy uses another one, or the rule does not hash on the key. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import (
    Client,
    Hit,
    Section,
    Situation,
    evidence,
    policy_text,
    proxy_name,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import change_rule, create_rule, manual, merged_in_force, scene, set_hash
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    applies,
    consulted,
    items_in_force,
    label,
    not_hashing_for_service,
    rules_of,
    settings_of,
    with_rule,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Destination, cluster_balancer
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers, exported, full_name, selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import (
    balancer,
    cluster_parts,
    hashes,
    means_the_key,
    named,
    policy_in,
    spec_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, HashPolicy, JsonDict, Key, ProxyView

SECTION = Section("The rule in force is not the intended one")
REFERENCE = "https://istio.io/latest/docs/reference/config/networking/destination-rule/"
UNASKED = (
    "If sessions of {} are to stick, create a DestinationRule for it whose trafficPolicy.loadBalancer.consistentHash names the header, cookie or query "
    "parameter that identifies a session."
)
# How similar a host must be to count as a typo.
ALIKE = 0.8
# Tracing headers, which have a new value in each request: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/observability/tracing
TRACING = (
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-cloud-trace-context",
    "x-amzn-trace-id",
    "uber-trace-id",
    "grpc-trace-bin",
)


@SECTION.cause(
    "C14",
    "The DestinationRule applies to other clients: its workloadSelector does not match this pod",
    symptom="sessions stick from some clients and move from others",
    evidence="spec.workloadSelector of the rule names labels that the client pod does not have; Envoy's cluster names no rule or another one",
    fix="add the labels to the client pod, or remove the selector if no other client's rules change with it",
    reference=f"{REFERENCE}#DestinationRule",
)
def for_other_clients(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        labels = situation.labels_of(client)
        for rule in _meant(situation, client):
            selector = spec_of(rule).get("workloadSelector")
            if not selector or selects(selector, labels) or rule["metadata"]["namespace"] not in consulted(situation, client):
                continue
            wanted = selector.get("matchLabels") or {}
            items = (
                (label("DestinationRule", rule), "spec.workloadSelector.matchLabels", [f"{name}={value}" for name, value in wanted.items()]),
                (f"Pod {client.pod}", "metadata.labels", [f"{name}={labels.get(name, '(absent)')}" for name in wanted]),
                *items_in_force(situation, client, view),
            )
            what = f"remove workloadSelector, or add its labels to the pods that are to use it, such as {client.pod}"
            yield Hit(evidence(*items), change_rule(scene(situation, client, view), None, rule, ("spec", "workloadSelector"), None, what))


def _meant(situation: Situation, client: Client) -> list[JsonDict]:
    """Rules for the service that hash on the key, but are not the one that Envoy uses."""
    winner = client.view.cluster.rule if client.view and client.view.cluster else None
    return [rule for rule in rules_of(situation) if named(rule) != winner and means_the_key(rule, situation.key)]


@SECTION.cause(
    "C11",
    "The DestinationRule is not visible to this client: it is in another namespace, or not exported to the client's",
    symptom="sessions move, from all clients or from those of some namespaces",
    evidence="the rule is in neither the client's, the service's nor the root namespace, or its exportTo excludes the client's namespace",
    fix="export the rule to the client's namespace, or create one in the service's namespace",
    reference="https://istio.io/latest/docs/ops/best-practices/traffic-management/#cross-namespace-configuration",
)
def not_visible(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        for rule in _meant(situation, client):
            own, places = rule["metadata"]["namespace"], consulted(situation, client)
            if own in places and exported(rule, situation.namespace_of(client)):
                continue
            items = (
                (label("DestinationRule", rule), "metadata.namespace", own),
                (label("DestinationRule", rule), "spec.exportTo", spec_of(rule).get("exportTo")),
                (proxy_name(situation, client), "namespaces that Istio searches", places),
                *items_in_force(situation, client, view),
            )
            stage = scene(situation, client, view)
            if own in places:
                exports = [
                    *(space for space in spec_of(rule).get("exportTo") or [] if space != "~"),
                    "." if own == stage.caller.namespace else stage.caller.namespace,
                ]
                fix = change_rule(stage, None, rule, ("spec", "exportTo"), exports, f"add namespace {stage.caller.namespace} to exportTo")
            else:
                fix = create_rule(stage, f"{situation.target.service}-affinity")
            yield Hit(evidence(*items), fix)


@SECTION.cause(
    "C13",
    "Two DestinationRules in one namespace have the same host, and the older one's trafficPolicy is in force",
    symptom="sessions move; the trafficPolicy of the newer rule has no effect",
    evidence="both rules have the host; Envoy's cluster names the older one, whose trafficPolicy does not hash",
    fix="set consistentHash in the older rule too, then merge them into one",
    reference="https://istio.io/latest/docs/ops/best-practices/traffic-management/#split-virtual-services",
)
def older_rule_counts(situation: Situation) -> Iterator[Hit]:
    for client, view, winner in with_rule(situation, not_hashing_for_service(situation)):
        for rule in _meant(situation, client):
            same = rule["metadata"]["namespace"] == winner["metadata"]["namespace"]
            if not same or not applies(situation, client, rule) or _host(situation, rule) != _host(situation, winner):
                continue
            items = (
                (label("DestinationRule", winner), "metadata.creationTimestamp", winner["metadata"].get("creationTimestamp")),
                (label("DestinationRule", rule), "metadata.creationTimestamp", rule["metadata"].get("creationTimestamp")),
                (label("DestinationRule", rule), "spec.host", spec_of(rule).get("host")),
                *items_in_force(situation, client, view),
            )
            yield Hit(evidence(*items), set_hash(situation, client, view))


def _host(situation: Situation, rule: JsonDict) -> str:
    return full_name(spec_of(rule).get("host", ""), rule["metadata"]["namespace"], situation.fqdn)


@SECTION.cause(
    "C12",
    "Another DestinationRule takes precedence: the client's namespace comes before the service's, an exact host before a wildcard",
    symptom="sessions move, often only from the clients of one namespace",
    evidence="Envoy's cluster names a rule other than the one that hashes",
    fix="set consistentHash in the rule in force too, or remove that rule",
    reference="https://istio.io/latest/docs/ops/best-practices/traffic-management/#cross-namespace-configuration",
)
def another_rule_wins(situation: Situation) -> Iterator[Hit]:
    for client, view, winner in with_rule(situation, not_hashing_for_service(situation)):
        for rule in _meant(situation, client):
            same = rule["metadata"]["namespace"] == winner["metadata"]["namespace"] and _host(situation, rule) == _host(situation, winner)
            if same or not applies(situation, client, rule):
                continue
            items = (
                *items_in_force(situation, client, view),
                (label("DestinationRule", winner), "spec.host", spec_of(winner).get("host")),
                (label("DestinationRule", rule), "spec.host", spec_of(rule).get("host")),
            )
            yield Hit(evidence(*items), set_hash(situation, client, view))


@SECTION.cause(
    "C67",
    "A DestinationRule for other workloads keeps Istio from using the rule that is meant for the service",
    symptom="sessions move from the clients that the selector does not match",
    evidence="the first namespace in which Istio finds rules for the host has only rules whose workloadSelector does not match the client",
    fix="add a rule without workloadSelector beside it, which hashes on the key",
    reference=f"{REFERENCE}#DestinationRule",
    synthetic="istio/istio pilot/pkg/model/push_context.go (destinationRule): the search ends in the first namespace with a rule for the host",
)
def swallowed_by_selector(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        stage = scene(situation, client, view)
        used = view.cluster.rule if view.cluster else None
        candidates = [rule for rule in rules_of(situation) if applies(situation, client, rule) and means_the_key(rule, situation.key)]
        if used or stage.near or not candidates:
            continue
        own = [rule for rule in rules_of(situation) if rule["metadata"]["namespace"] == stage.caller.namespace and spec_of(rule).get("workloadSelector")]
        if not own:
            continue
        items = (
            (label("DestinationRule", own[0]), "spec.workloadSelector.matchLabels", spec_of(own[0])["workloadSelector"].get("matchLabels")),
            (label("DestinationRule", candidates[0]), "spec.trafficPolicy.loadBalancer", f"consistentHash on {situation.key}"),
            *items_in_force(situation, client, view),
        )
        text = (
            f"In namespace {stage.caller.namespace}, add a DestinationRule for {situation.fqdn} without workloadSelector, with the policy of "
            f"{named(candidates[0])}. It applies to every workload of that namespace that the selector of {named(own[0])} does not match."
        )
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C65",
    "The DestinationRule hashes on the key only in a subset or for a port that no request of this client is routed to",
    symptom="sessions move although a DestinationRule has consistentHash",
    evidence="the rule in force has consistentHash in subsets or portLevelSettings; the cluster of Envoy's route is another subset or port",
    fix="set consistentHash where the route leads, or route to the subset that hashes",
    reference=f"{REFERENCE}#Subset",
)
def hash_elsewhere(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, not_hashing_for_service(situation)):
        spec = merged_in_force(situation, client, view)
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        places = [place for place, settings in _hashing_places(spec) if hashes(settings, situation.key)]
        if parts is None or not places or cluster_balancer(spec, Destination(parts[2], parts[0], parts[1])).get("consistentHash"):
            continue
        # The balancer of the whole service or of this very port, which a subset or port overrides, is another cause.
        if hashes(balancer(spec["trafficPolicy"], parts[0]), situation.key) or hashes(spec["trafficPolicy"].get("loadBalancer") or {}, situation.key):
            continue
        items = (
            (label("DestinationRule", rule), f"consistentHash on {situation.key}", places),
            (proxy_name(situation, client), "cluster of the route", view.cluster.name if view.cluster else None),
            *items_in_force(situation, client, view),
        )
        yield Hit(evidence(*items), set_hash(situation, client, view), situation.severity)


def _hashing_places(spec: JsonDict) -> Iterator[tuple[str, JsonDict]]:
    """The balancers of ports and subsets, each with its place as text."""
    for name, policy in (("", spec["trafficPolicy"]), *((f"subset {entry.get('name')}", entry.get("trafficPolicy") or {}) for entry in spec["subsets"])):
        if name:
            yield name, policy.get("loadBalancer") or {}
        for entry in policy.get("portLevelSettings") or []:
            yield f"{name} port {(entry.get('port') or {}).get('number')}".strip(), entry.get("loadBalancer") or {}


@SECTION.cause(
    "C15",
    "A rule generated from a Gateway API policy overrides the DestinationRule",
    symptom="sessions move since a BackendTLSPolicy or XBackendTrafficPolicy was added",
    evidence="the rule that Envoy's cluster names ends with ~istio-autogenerated-k8s-gateway",
    fix="upgrade to Istio 1.31 or newer, where the DestinationRule's own fields take precedence",
    reference="https://github.com/istio/istio/pull/60432",
    synthetic="the name that pilot/pkg/config/kube/gateway of istio/istio gives to generated rules; Istio 1.31, which the lab runs, merges them",
)
def generated_for_gateway_api(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        rule = view.cluster.rule if view.cluster else None
        if rule and rule.endswith("~istio-autogenerated-k8s-gateway"):
            version = ("istiod", "version", situation.facts.versions.get("istiod"))
            yield Hit(evidence(*items_in_force(situation, client, view), version), Fix("manual", "Upgrade Istio to 1.31 or newer."))


@SECTION.cause(
    "C18",
    "The DestinationRule in force does not hash on this key",
    symptom="sessions move",
    evidence="the rule that Envoy's cluster names has simple instead of consistentHash, no loadBalancer in the right place, or another key",
    fix="set trafficPolicy.loadBalancer.consistentHash; if the rule hashes on another key, first find out which callers rely on it",
    reference=f"{REFERENCE}#LoadBalancerSettings-ConsistentHashLB",
)
def other_hash(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, not_hashing_for_service(situation)):
        if means_the_key(rule, situation.key) or _meant(situation, client) or _separate_cause(rule, situation):
            continue
        settings = settings_of(situation, rule)
        if settings.get("simple") == "PASSTHROUGH":
            continue
        other = policy_in(settings)
        hash_text = f"consistentHash on {policy_text(other)}" if other else f"simple: {settings['simple']}" if settings.get("simple") else "no consistentHash"
        items = (
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer", hash_text),
            ("requests", "key", str(situation.key)),
            *items_in_force(situation, client, view),
        )
        yield Hit(evidence(*items), replace_hash(situation, rule, other) if other else set_hash(situation, client, view), situation.severity)


def replace_hash(situation: Situation, rule: JsonDict, other: HashPolicy) -> Fix:
    """A hash that works is not replaced: callers may rely on it, and one rule hashes on one key only."""
    text = (
        f"Decide which key {situation.fqdn} is to hash on: {label('DestinationRule', rule)} hashes on {policy_text(other)}, and the check sends "
        f"{situation.key}. Changing it ends the affinity of all callers that send {policy_text(other)}. If that key is right, run the check with it."
    )
    return manual(text)


def _separate_cause(rule: JsonDict, situation: Situation) -> bool:
    """A typo, the source address and a tracing header are separate causes."""
    policy = policy_in(settings_of(situation, rule))
    return policy is not None and (is_nearly_key(policy, situation.key) or policy.type == "source_ip" or is_tracing_header(policy))


def is_tracing_header(policy: HashPolicy) -> bool:
    return policy.type == "header" and (policy.name or "").lower() in TRACING


def is_nearly_key(policy: HashPolicy, key: Key) -> bool:
    """Whether the policy's name looks like a typo of the key's, or is the same."""
    one, two = (text.lower().replace("_", "-") for text in (policy.name or "", key.name or ""))
    return policy.type == key.type and difflib.SequenceMatcher(None, one, two).ratio() > ALIKE


@SECTION.cause(
    "C66",
    "The Service sets sessionAffinity: ClientIP, which Istio does not read, and no DestinationRule asks for affinity",
    symptom="sessions stick without a sidecar, and move since the client has one",
    evidence="spec.sessionAffinity of the Service is ClientIP; Envoy's cluster names no rule",
    fix="create a DestinationRule that hashes on the source address (useSourceIp), or on a key that identifies the session",
    reference=f"{REFERENCE}#LoadBalancerSettings-ConsistentHashLB",
)
def client_ip(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        if not _by_client_ip(situation) or not _without_rule(situation, client, view):
            continue
        # Without another key that a user asked for, the affinity that the Service asks for.
        key = situation.key if situation.expected else Key("source_ip", None)
        items = ((situation.source, "spec.sessionAffinity", "ClientIP"), *items_in_force(situation, client, view))
        yield Hit(evidence(*items), create_rule(scene(situation, client, view, key), f"{situation.target.service}-affinity"), situation.severity)


def _by_client_ip(situation: Situation) -> bool:
    """Whether the Service alone asks for affinity, as far as that is known."""
    asks = situation.service["spec"].get("sessionAffinity") == "ClientIP"
    return asks and _mistyped(situation) is None and not situation.unread("DestinationRule")


def _without_rule(situation: Situation, client: Client, view: ProxyView) -> bool:
    """Whether no rule is in force, by Envoy's cluster and by the rules that were read, and none is meant."""
    return not (view.cluster and view.cluster.rule) and not _meant(situation, client) and not scene(situation, client, view).near


@SECTION.cause(
    "C10",
    "No DestinationRule is in force for the service",
    symptom="sessions move across all pods",
    evidence="Envoy's cluster names no rule, and its lb_policy is Istio's default; a rule may have a host that does not exist",
    fix="create a DestinationRule with the service's full name as host",
    reference=f"{REFERENCE}#DestinationRule",
)
def no_rule(situation: Situation) -> Iterator[Hit]:
    for client, view in not_hashing_for_service(situation):
        if (view.cluster and view.cluster.rule) or _meant(situation, client) or _by_client_ip(situation):
            continue
        items = items_in_force(situation, client, view)
        wrong = _mistyped(situation)
        if wrong is not None:
            means = full_name(spec_of(wrong)["host"], wrong["metadata"]["namespace"], situation.fqdn)
            host = (label("DestinationRule", wrong), "spec.host", f"{spec_of(wrong)['host']} (resolves to {means})")
            items = (host, (situation.source, "full name", situation.fqdn), *items)
        # Nobody asks for affinity, so there is no key to hash on.
        asks = situation.expected or wrong is not None
        fix = create_rule(scene(situation, client, view), f"{situation.target.service}-affinity") if asks else manual(UNASKED.format(situation.fqdn))
        yield Hit(evidence(*items), fix, situation.severity)


def _mistyped(situation: Situation) -> JsonDict | None:
    """The rule on the key whose host is most similar to the service's name without matching it."""
    best: tuple[float, JsonDict | None] = (ALIKE, None)
    for rule in situation.facts.rules.get("DestinationRule", ()):
        host, namespace = spec_of(rule).get("host", ""), rule["metadata"]["namespace"]
        if covers(host, namespace, situation.fqdn) or not means_the_key(rule, situation.key) or "*" in host:
            continue
        if "." not in host and namespace != situation.target.namespace and host != situation.target.service:
            continue
        wanted = situation.fqdn if ".svc." in host else ".".join(situation.fqdn.split(".")[: host.count(".") + 1])
        alike = difflib.SequenceMatcher(None, host, wanted).ratio()
        if alike > best[0] and not _serves_another(situation, host, namespace):
            best = (alike, rule)
    return best[1]


def _serves_another(situation: Situation, host: str, namespace: str) -> bool:
    """Whether the host is another existing service, for which the rule is intended."""
    name = full_name(host, namespace, situation.fqdn).split(".")
    return len(name) > 1 and (name[1], name[0]) in situation.facts.services
