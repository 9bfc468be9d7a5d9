# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions seem to stick without affinity. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Hit, Item, Section, Situation, evidence, policies_of, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    command,
    label,
    patch,
    route_in_force,
    set_hash,
    settings_of,
    with_rule,
    workload_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import cluster_parts, policy_in, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict

SECTION = Section("It only looks like affinity")
VERDICTS = "https://github.com/meshops/istio/blob/main/docs/verdict.md"
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
        yield Hit(evidence(*items), set_hash(situation, rule), situation.severity)


@SECTION.cause(
    "F3",
    "The route leads to a subset with only one pod, and every session sticks to it",
    symptom="everything lands on one pod",
    evidence="Envoy's cluster is for a subset and has one host, while the service has more ready pods",
    fix="use a subset with all pods, or no subset in the route",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#Subset",
)
def one_pod_in_the_subset(situation: Situation) -> Iterator[Hit]:
    ready = len(situation.membership.ready())
    for client, view in situation.readable():
        rule = route_in_force(situation, client)
        parts = cluster_parts(view.cluster.name) if view.cluster else None
        if parts is None or not parts[1] or len(view.eligible()) > 1 or ready < 2:
            continue
        items: list[Item] = [
            (proxy_name(situation, client), "cluster of the route", view.cluster.name if view.cluster else None),
            (proxy_name(situation, client), "eligible hosts", sorted(view.eligible())),
            (situation.source, "ready endpoints", ready),
        ]
        if rule is None:
            continue
        items.append((label("VirtualService", rule), "spec.http[].route[].destination.subset", parts[1]))
        http = [_whole(entry, parts[1]) for entry in spec_of(rule)["http"]]
        # An inspection only states that sessions stick; a check cannot prove that the rule is the reason.
        yield Hit(evidence(*items), patch("VirtualService", rule, {"spec": {"http": http}}), "warning" if situation.verdict is None else "error")


def _whole(http: JsonDict, subset: str) -> JsonDict:
    """The same route, to the whole service."""
    if not http.get("route"):
        return http

    def without(entry: JsonDict) -> JsonDict:
        destination = entry.get("destination") or {}
        return {**entry, "destination": {name: value for name, value in destination.items() if (name, value) != ("subset", subset)}}

    return {**http, "route": [without(entry) for entry in http["route"]]}


@SECTION.cause(
    "F1",
    "Only one pod is ready, and every session sticks to it regardless of the rule",
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
    fix = Fix("manual", f"Find out why the pods of {situation.source} are not ready: kubectl -n {situation.target.namespace} describe pods.")
    if workload is not None and not waiting:
        kubectl = f"kubectl -n {situation.target.namespace}"
        fix = command(f"{kubectl} scale {'/'.join(workload)} --replicas=2", f"{kubectl} rollout status {'/'.join(workload)} --timeout=180s")
    yield Hit(evidence(*items), fix, _severity(situation))


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
            Fix("manual", "Run the check with connection: new, which opens a connection for each request."),
            "warning",
        )


@SECTION.cause(
    "F4",
    "The responses do not identify the responding pod: they name something else",
    symptom="the check is inconclusive, or all responses seem to come from one place",
    evidence="the identity header or body has values that are not pods of the service",
    fix="make the application return its pod name, or use identify: upstream",
    reference=VERDICTS,
)
def not_identified(situation: Situation) -> Iterator[Hit]:
    window = situation.window
    if window is None or any(entry.identified for entry in window.client_windows) or not any(entry.tally.answered for entry in window.client_windows):
        return
    items = [
        ("responses", "identity", window.identification.unknown[:3]),
        (situation.source, "pods", [backend.pod for backend in situation.membership.ready()][:3]),
    ]
    fix = Fix("manual", "Run the check with identify: upstream, which reads the counters of the client's sidecar, or make the application return its pod name.")
    yield Hit(evidence(*items), fix, "warning")
