# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hash is correct, but the eligible hosts differ between requests or between clients. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import (
    Client,
    Hit,
    Item,
    Section,
    Situation,
    balancing,
    evidence,
    policies_of,
    proxy_name,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import command, delete, label, patch, rule_in_force, workload_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import named, policy_of, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, ProxyView

SECTION = Section("The eligible hosts differ")
# The port of a gateway between networks, by Istio's installation guide for several networks.
CROSS_NETWORK_PORT = 15443
NETWORK = "topology.istio.io/network"
EJECTED = "failed_outlier_check"
LOCALITY = "https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/"


def _lower_priority(situation: Situation, view: ProxyView) -> list[str]:
    """Addresses of ready backends that are not eligible because of their priority."""
    ready = {backend.address for backend in situation.membership.ready()}
    return [host.address for host in view.hosts if host.address in ready and host.healthy and host.address not in view.eligible()]


@SECTION.cause(
    "C53",
    "Locality load balancing limits this client to the pods of its own zone, and clients of different zones disagree",
    symptom="some ready pods get no session; the same session lands on different pods from different zones",
    evidence="Envoy has the other pods at a lower priority; the rule has outlierDetection, which enables locality failover, or the Service trafficDistribution",
    fix="set localityLbSetting.enabled: false in the DestinationRule, and no trafficDistribution in the Service",
    reference=LOCALITY,
)
def locality(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        lower = _lower_priority(situation, view)
        if not lower:
            continue
        priorities = sorted({host.priority for host in view.hosts})
        zones = sorted({host.zone for host in view.hosts if host.zone})
        items: list[Item] = [
            (proxy_name(situation, client), "hosts at a lower priority", lower),
            (proxy_name(situation, client), "priorities", priorities),
            (proxy_name(situation, client), "zones of the hosts", zones),
        ]
        distribution = situation.service["spec"].get("trafficDistribution")
        rule = rule_in_force(situation, client)
        if distribution:
            items.append((situation.source, "spec.trafficDistribution", distribution))
            yield Hit(evidence(*items), patch("Service", situation.service, {"spec": {"trafficDistribution": None}}))
        elif rule is not None:
            items.append((label("DestinationRule", rule), "spec.trafficPolicy.outlierDetection", policy_of(rule).get("outlierDetection")))
            change = {"spec": {"trafficPolicy": {"loadBalancer": {"localityLbSetting": {"enabled": False}}}}}
            yield Hit(evidence(*items), patch("DestinationRule", rule, change))


@SECTION.cause(
    "C52",
    "So few hosts are healthy that the client's Envoy enters panic mode and balances over all of them",
    symptom="sessions move when pods fail, and move back when more of them fail",
    evidence="the share of healthy hosts is below the panic threshold of Envoy's cluster, which the rule's minHealthPercent sets",
    fix="fix the pods that return errors; minHealthPercent: 0 (Istio's default) disables panic mode; without outlierDetection sessions stay where they are",
    reference="https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/panic_threshold",
)
def panic_mode(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        view = next((view for view in client.views if view.panics()), None)
        rule = rule_in_force(situation, client)
        if view is None or view.cluster is None or rule is None:
            continue
        out = {host.address: host.health_flags for host in view.hosts if not host.healthy}
        settings = policy_of(rule).get("outlierDetection") or {}
        items: list[Item] = [
            (proxy_name(situation, client), "healthy hosts", f"{len(view.hosts) - len(out)} of {len(view.hosts)}"),
            (proxy_name(situation, client), "healthy_panic_threshold of the cluster", f"{view.cluster.panic:g} %"),
            *((proxy_name(situation, client), f"health_flags of {address}", flags) for address, flags in out.items()),
            (label("DestinationRule", rule), "spec.trafficPolicy.outlierDetection.minHealthPercent", settings.get("minHealthPercent")),
        ]
        yield Hit(evidence(*items), _without_ejection(rule), situation.severity)


def _without_ejection(rule: JsonDict) -> Fix:
    return patch("DestinationRule", rule, {"spec": {"trafficPolicy": {"outlierDetection": None}}})


@SECTION.cause(
    "C51",
    "The client's Envoy has ejected a pod because of its errors",
    symptom="sessions of one pod move to the others and come back after a while",
    evidence="a ready pod has the flag failed_outlier_check in the client's Envoy",
    fix="fix the pod that returns errors; without outlierDetection its sessions stay on it",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#OutlierDetection",
)
def ejected(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        hosts = {host.address: host.health_flags for view in client.views for host in view.hosts if EJECTED in host.health_flags}
        rule = rule_in_force(situation, client)
        if not hosts or rule is None:
            continue
        items: list[Item] = [(proxy_name(situation, client), f"health_flags of {address}", flags) for address, flags in hosts.items()]
        items.append((label("DestinationRule", rule), "spec.trafficPolicy.outlierDetection", policy_of(rule).get("outlierDetection")))
        statuses = [entry.tally.by_status for entry in situation.window.client_windows] if situation.window else []
        bad = sum(count for by_status in statuses for status, count in by_status.items() if status.startswith("5"))
        items += [("responses", "status 5xx", bad)] if bad else []
        yield Hit(evidence(*items), _without_ejection(rule))


@SECTION.cause(
    "C55",
    "The pods are in another network: the hash selects its gateway, which spreads connections over the pods on its own",
    symptom="sessions move between the pods of another network",
    evidence="the hosts in the client's Envoy are not endpoints of the service, and the pods' label topology.istio.io/network differs from the client's",
    fix="use pods in the client's own network, or one flat network; between networks, only a gateway that processes HTTP can hash",
    reference="https://istio.io/latest/docs/setup/install/multicluster/multi-primary_multi-network/",
)
def another_network(situation: Situation) -> Iterator[Hit]:
    addresses = {backend.address for backend in situation.membership.backends}
    networks = {_network(pod) for pod in situation.backend_pods()}
    for client, view in situation.readable():
        foreign = sorted(host.address for host in view.hosts if host.address not in addresses)
        own = _network(situation.body_of(client))
        # Pods of another cluster are not in this API: only the port of their network's gateway shows them, beside the local pods.
        beside = not addresses or any(host.address in addresses for host in view.hosts)
        gateways = [address for address in foreign if beside and address.endswith(f":{CROSS_NETWORK_PORT}")]
        if situation.target.via or not foreign or not (gateways or (own and networks - {own, None})):
            continue
        items: list[Item] = [
            (proxy_name(situation, client), "hosts that are not pods of the service", foreign),
            (f"Pod {client.pod}", f"metadata.labels['{NETWORK}']", own),
            (situation.source, f"metadata.labels['{NETWORK}'] of its pods", sorted(name for name in networks if name)),
        ]
        place = f"network {own}" if own else "the network of the client"
        fix = Fix("manual", f"Call a service whose pods are in {place}, or merge the networks: set the same {NETWORK} on the pods that reach each other.")
        yield Hit(evidence(*items), fix, situation.severity)


def _network(pod: JsonDict) -> str | None:
    return (pod["metadata"].get("labels") or {}).get(NETWORK)


@SECTION.cause(
    "C54",
    "The clients balance differently: their Envoys have different rules or hosts",
    symptom="the same session sticks to a different pod from each client",
    evidence="rule, balancer or hosts differ between the Envoys of two client pods",
    fix="use one rule for all clients, and no locality load balancing",
    reference=LOCALITY,
)
def clients_differ(situation: Situation) -> Iterator[Hit]:
    known = [(client, view) for client, view in situation.readable() if view.balances_by(situation.key)]
    for (one, first), (two, second) in itertools.pairwise(known):
        if balancing(first) == balancing(second):
            continue
        items: list[Item] = []
        for client, view in ((one, first), (two, second)):
            proxy = proxy_name(situation, client)
            rule = view.cluster.rule if view.cluster else None
            items += [
                (proxy, "DestinationRule of the cluster", rule),
                (proxy, "balancer", _balancing_text(view)),
                (proxy, "eligible hosts", sorted(view.eligible())),
            ]
        yield Hit(evidence(*items), _alike(situation, (one, two)))
        return


def _balancing_text(view: ProxyView) -> str:
    cluster = view.cluster
    size = (cluster.minimum_ring_size or cluster.table_size) if cluster else None
    return f"{cluster.lb_policy if cluster else 'none'} {size or ''}".strip() + f", {policies_of(view)}"


def _alike(situation: Situation, pair: tuple[Client, Client]) -> Fix:
    """Remove the rule that applies to only one of the clients, if there is one."""
    rules = [rule for client in pair if (rule := rule_in_force(situation, client)) is not None]
    special = next((rule for rule in rules if spec_of(rule).get("workloadSelector")), None)
    if special is not None and len({named(rule) for rule in rules}) > 1:
        return command(delete("DestinationRule", special))
    return Fix("manual", "Give both clients the same rule and the same hosts: compare the two rules, the zones of the clients, and Sidecar resources.")


@SECTION.cause(
    "C50",
    "Pods were added, removed or changed their readiness during the measurement",
    symptom="some sessions move once and then stay",
    evidence="the service's EndpointSlices differ before and after the measurement",
    fix="measure again after the rollout (options attempts and settle); no rule can keep sessions on removed pods",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-ConsistentHashLB",
)
def backends_changed(situation: Situation) -> Iterator[Hit]:
    if situation.verdict is None or not situation.verdict.changed:
        return
    events = [event for event in situation.verdict.events if event.startswith(("pod ", "endpoints "))]
    items = [(situation.source, "endpoints", event) for event in events[:6]]
    restarts = [(f"Pod {named(pod)}", "restarts", count) for pod in situation.backend_pods() if (count := _restarts(pod))]
    if not items:
        return
    workloads = list(dict.fromkeys(entry for pod in situation.backend_pods() if (entry := workload_of(pod))))
    lines = [f"kubectl -n {situation.target.namespace} rollout status {kind}/{name} --timeout=300s" for kind, name in workloads]
    fix = command(*lines) if lines else Fix("manual", "Wait until the pods no longer change, then measure again.")
    yield Hit(evidence(*items, *restarts), fix, "warning")


def _restarts(pod: JsonDict) -> int:
    return sum(int(entry.get("restartCount") or 0) for entry in (pod.get("status") or {}).get("containerStatuses") or [])
