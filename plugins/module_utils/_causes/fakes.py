# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions seem to stick without affinity. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Hit, Item, Section, Situation, evidence, policies_of, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import manual
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import label, route_in_force, settings_of, with_rule, workload_of
from ansible_collections.meshops.istio.plugins.module_utils._causes.rule import replace_hash
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import cluster_parts, policy_in

SECTION = Section("It only looks like affinity")
VERDICTS = "https://github.com/meshops/istio/blob/main/docs/verdict.md"
# What Envoy writes where no pod responded.
NOT_FROM_A_POD = ("502", "503", "504")
KEYS = "https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-ConsistentHashLB"


def _severity(situation: Situation) -> str:
    """Info for an inspection: nothing is wrong, but a check could not prove affinity."""
    return "info" if situation.verdict is None else "warning"


@SECTION.cause(
    "F5",
    "The rule hashes on the source address, which is the same for all requests of a client",
    symptom="everything from one client lands on one pod",
    evidence="the hash policy of Envoy's route is the source address, and requests without the key land on the same pod",
    fix="hash on a value that identifies the session",
    reference=KEYS,
)
def by_address(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.not_hashing()):
        policy = policy_in(settings_of(situation, rule))
        if policy is None or policy.type != "source_ip":
            continue
        items: list[Item] = [
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer.consistentHash", "useSourceIp"),
            (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        ]
        if situation.verdict is not None:
            items.append(("control", "requests without the key", situation.verdict.controls["keyless"].detail))
        yield Hit(evidence(*items), replace_hash(situation, rule, policy), situation.severity)


@SECTION.cause(
    "F3",
    "The route leads to a subset with only one pod, and every session sticks to it",
    symptom="everything lands on one pod",
    evidence="Envoy's cluster is for a subset and has one host, while the service has more ready pods",
    fix="run more pods of the subset, or route to one with more pods",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#Subset",
)
def one_pod_in_the_subset(situation: Situation) -> Iterator[Hit]:
    ready = len(situation.membership.ready())
    for client, view in situation.readable():
        rule = route_in_force(situation, client)
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        if parts is None or not parts[1] or len(view.hosts) != 1 or ready < 2:
            continue
        items: list[Item] = [
            (proxy_name(situation, client), "cluster of the route", view.cluster.name if view.cluster else None),
            (proxy_name(situation, client), "eligible hosts", sorted(view.eligible())),
            (situation.source, "ready endpoints", ready),
        ]
        if rule is None:
            continue
        items.append((label("VirtualService", rule), "spec.http[].route[].destination.subset", parts[1]))
        text = (
            f"Run more than one pod with the labels of subset {parts[1]}, or route these requests to a larger subset, in {label('VirtualService', rule)}. "
            "If the subset is a version in rollout, wait until it has finished: without the subset, requests reach the other versions too."
        )
        yield Hit(evidence(*items), manual(text), "warning")


@SECTION.cause(
    "F1",
    "Fewer than two pods are ready, so every session sticks regardless of the rule, or none is served",
    symptom="everything lands on one pod; the check is inconclusive",
    evidence="the service's EndpointSlices have fewer than two ready endpoints",
    fix="run two pods or more, at least during the measurement",
    reference=VERDICTS,
)
def one_backend(situation: Situation) -> Iterator[Hit]:
    ready = situation.membership.ready()
    if len(ready) > 1:
        return
    waiting = [backend.pod for backend in situation.membership.backends if not backend.ready]
    items: list[Item] = [(situation.source, "ready endpoints", [backend.pod for backend in ready])]
    items += [(situation.source, "endpoints that are not ready", waiting)] if waiting else []
    workload = next((entry for pod in situation.backend_pods() if (entry := workload_of(pod))), None)
    name = f"{workload[0]} {situation.target.namespace}/{workload[1]}" if workload else "the workload"
    text = f"Find out why pods of {situation.source} are not ready."
    if not waiting and not ready:
        text = f"Find out why {situation.source} selects no pod: compare its selector with the labels of the pods, and check that the workload runs."
    elif not waiting:
        text = f"If the application can run in several pods, set two replicas or more for {name}, at least during the measurement."
    yield Hit(evidence(*items), manual(text), _severity(situation))


@SECTION.cause(
    "F2",
    "Connections were reused, and a connection stays on one pod if nothing balances its requests",
    symptom="sessions stick in a test with keep-alive, and move in production",
    evidence="the check ran with connection: keepalive",
    fix="measure with connection: new",
    reference=VERDICTS,
)
def connections_reused(situation: Situation) -> Iterator[Hit]:
    if situation.window is not None and situation.window.keepalive:
        yield Hit(
            evidence(("option connection", "value", "keepalive")),
            manual("Run the check with connection: new, which opens a connection for each request."),
            "warning",
        )


@SECTION.cause(
    "F4",
    "The responses do not identify the responding pod: they name something that is no pod of the service",
    symptom="the check is inconclusive, or all responses seem to come from one place",
    evidence="the identity header or body has values that are not pods of the service",
    fix="find out who responds; make the application return its pod name, or name the header or pattern that has it",
    reference=VERDICTS,
)
def not_identified(situation: Situation) -> Iterator[Hit]:
    window = situation.window
    if window is None or any(entry.identified for entry in window.client_windows):
        return
    identities = [text for text in window.identification.unknown if text.strip()]
    # Responses that Envoy wrote itself, because it reached no pod, name nobody.
    pods_answered = any(status not in NOT_FROM_A_POD for entry in window.client_windows for status in entry.tally.by_status)
    if not identities or not pods_answered:
        return
    items = [
        ("responses", "identity", identities[:3]),
        (situation.source, "pods", [backend.pod for backend in situation.membership.ready()][:3]),
    ]
    fix = manual(
        "Find out who responds. If the pods of the service are a proxy for other pods, check the service of those pods instead: no counter of this "
        "client's Envoy counts them. Otherwise make the application return its pod name, or name the header or pattern in identify_header or identify_pattern."
    )
    yield Hit(evidence(*items), fix, "warning")
