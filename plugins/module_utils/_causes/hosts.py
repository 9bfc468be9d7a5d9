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
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import change_balancer, command, manual, merged_in_force
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import label, rule_in_force, workload_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Destination, cluster_balancer
from ansible_collections.meshops.istio.plugins.module_utils._istio.names import kubectl
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import cluster_parts, named, port_entry, spec_of, subset_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, JsonDict, ProxyView

SECTION = Section("The eligible hosts differ")
# The port of a gateway between networks, by Istio's installation guide for several networks.
CROSS_NETWORK_PORT = 15443
NETWORK = "topology.istio.io/network"
EJECTED = "failed_outlier_check"
DISTRIBUTION = "networking.istio.io/traffic-distribution"
LOCALITY_LABEL = "istio-locality"
LOCALITY = "https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/"


def _lower_priority(situation: Situation, view: ProxyView) -> list[str]:
    """Addresses of ready backends that are not eligible because of their priority."""
    ready = {backend.address for backend in situation.membership.ready()}
    return [host.address for host in view.hosts if host.address in ready and host.healthy and host.address not in view.eligible()]


@SECTION.cause(
    "C53",
    "Locality load balancing limits this client to the pods of its own zone, and clients of different zones disagree",
    symptom="some ready pods get no session; the same session lands on different pods from different zones",
    evidence="Envoy has the other pods at a lower priority; the rule has outlierDetection, which enables locality failover, or the Service or its namespace "
    "prefers nearby pods (trafficDistribution, or the annotation networking.istio.io/traffic-distribution)",
    fix="set localityLbSetting.enabled: false in the DestinationRule",
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
        reasons = _reasons_for_locality(situation, client, view)
        what = "set loadBalancer.localityLbSetting.enabled: false, which Istio prefers to outlierDetection, trafficDistribution and its annotation"
        also = "All callers to which the rule applies then reach the pods of all zones, which may cost more than their own zone."
        fix = change_balancer(situation, client, view, {"localityLbSetting": {"enabled": False}}, what, also)
        if not reasons:
            unread = f" No DestinationRule is known to, but {why}." if (why := situation.unread("DestinationRule")) else ""
            fix = manual(f"Find out what prefers the pods of one zone for {situation.fqdn}: localityLbSetting of the mesh, or an EnvoyFilter.{unread}")
        yield Hit(evidence(*items, *reasons), fix)


def _reasons_for_locality(situation: Situation, client: Client, view: ProxyView) -> list[Item]:
    """What makes Istio give the pods of other zones a lower priority, where it stands."""
    namespace = situation.facts.namespaces.get(situation.target.namespace) or {"metadata": {}}
    places = ((situation.source, situation.service), (f"Namespace {situation.target.namespace}", namespace))
    notes = [(source, f"metadata.annotations['{DISTRIBUTION}']", (body["metadata"].get("annotations") or {}).get(DISTRIBUTION)) for source, body in places]
    found: list[Item] = [(situation.source, "spec.trafficDistribution", situation.service["spec"].get("trafficDistribution")), *notes]
    rule = rule_in_force(situation, client)
    name = label("DestinationRule", rule) if rule else "DestinationRule in force"
    found += [(name, place, settings) for place, settings in _outlier_detections(situation, client, view)]
    return [item for item in found if item[2]]


def _outlier_detections(situation: Situation, client: Client, view: ProxyView) -> list[tuple[str, object]]:
    """The outlierDetection of the cluster in use, of the level that sets it: the subset's, the port's or the service's."""
    parts = cluster_parts(view.cluster.name) if view.cluster else None
    if parts is None:
        return []
    spec = merged_in_force(situation, client, view)
    own = ((subset_of({"spec": spec}, parts[1]) if parts[1] else None) or {}).get("trafficPolicy") or {}
    levels = []
    for name, policy in ((f"subset {parts[1]}: ", own), ("", spec["trafficPolicy"])):
        levels += [(f"{name}portLevelSettings of port {parts[0]}.outlierDetection", (port_entry(policy, parts[0]) or {}).get("outlierDetection"))]
        levels += [(f"{name}trafficPolicy.outlierDetection", policy.get("outlierDetection"))]
    return [level for level in levels if level[1]][:1]


@SECTION.cause(
    "C73",
    "The DestinationRule distributes requests to zones, and leaves out the zone of some pods",
    symptom="the pods of one zone get no session",
    evidence="localityLbSetting.distribute of the rule in force names no locality of the ready pods that are missing from Envoy",
    fix="add the zone to distribute[].to, with weights that add up to 100",
    reference=LOCALITY,
    synthetic="a state that was measured on Istio 1.31: distribute with one of two zones; the lab has one zone for nodes",
)
def zone_left_out(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        missing = missing_from(situation, view)
        entries = distribution_of(situation, client, view) if missing else []
        localities = sorted({locality for backend in missing if (locality := _locality(situation, backend))})
        to = sorted({name for entry in entries for name in entry.get("to") or {}})
        left_out = [locality for locality in localities if not any(_within(locality, name) for name in to)]
        if not entries or not left_out:
            continue
        rule = rule_in_force(situation, client)
        name = label("DestinationRule", rule) if rule else "DestinationRule in force"
        items = (
            (name, "localityLbSetting.distribute[].to", to),
            (situation.source, "localities of the ready pods that Envoy does not have", left_out),
            (proxy_name(situation, client), "ready pods that are missing", sorted(backend.pod for backend in missing)),
        )
        text = (
            f"In {name}, add {', '.join(left_out)} to localityLbSetting.distribute[].to, or remove distribute. All callers then send a share of requests there."
        )
        yield Hit(evidence(*items), manual(text), situation.severity)


def missing_from(situation: Situation, view: ProxyView) -> list[Backend]:
    """The ready backends of which Envoy has no address; it uses only the first address of a pod that has two."""
    known = {host.address for host in view.hosts}
    pods = {backend.pod for backend in situation.membership.backends if backend.address in known}
    return [backend for backend in situation.membership.ready() if backend.pod not in pods]


def distribution_of(situation: Situation, client: Client, view: ProxyView) -> list[JsonDict]:
    """The entries of `distribute` in force for a client's destination."""
    parts = cluster_parts(view.cluster.name) if view.cluster else None
    if parts is None:
        return []
    settings = cluster_balancer(merged_in_force(situation, client, view), Destination(parts[2], parts[0], parts[1]))
    return (settings.get("localityLbSetting") or {}).get("distribute") or []


def _locality(situation: Situation, backend: Backend) -> str:
    """`region/zone` from the pod's label, else `/zone` of its node."""
    pod = situation.facts.pods.get((situation.target.namespace, backend.pod)) or {"metadata": {}}
    text = (pod["metadata"].get("labels") or {}).get(LOCALITY_LABEL)
    return str(text).replace(".", "/") if text else f"/{backend.zone}" if backend.zone else ""


def _within(locality: str, wanted: str) -> bool:
    """Whether a locality matches one of `distribute`, such as region/zone/*; an unknown region matches any."""
    for have, want in zip(locality.split("/"), wanted.split("/"), strict=False):
        if want == "*":
            return True
        if have and have != want:
            return False
    return True


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
        settings = next((settings for _place, settings in _outlier_detections(situation, client, view) if isinstance(settings, dict)), {})
        items: list[Item] = [
            (proxy_name(situation, client), "healthy hosts", f"{len(view.hosts) - len(out)} of {len(view.hosts)}"),
            (proxy_name(situation, client), "healthy_panic_threshold of the cluster", f"{view.cluster.panic:g} %"),
            *((proxy_name(situation, client), f"health_flags of {address}", flags) for address, flags in out.items()),
            (label("DestinationRule", rule), "spec.trafficPolicy.outlierDetection.minHealthPercent", settings.get("minHealthPercent")),
        ]
        text = (
            f"Find out why pods of {situation.source} return errors. In {label('DestinationRule', rule)}, minHealthPercent: 0 disables panic mode; without "
            "outlierDetection no pod is ejected, and its sessions keep getting its errors."
        )
        yield Hit(evidence(*items), manual(text), situation.severity)


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
        items += [(label("DestinationRule", rule), place, settings) for place, settings in _outlier_detections(situation, client, client.views[-1])]
        statuses = [entry.tally.by_status for entry in situation.window.client_windows] if situation.window else []
        bad = sum(count for by_status in statuses for status, count in by_status.items() if status.startswith("5"))
        items += [("responses", "status 5xx", bad)] if bad else []
        text = (
            f"Find out why the ejected pods return errors. Without outlierDetection in {label('DestinationRule', rule)} their sessions stay on them, and keep "
            "getting the errors; that holds for all callers of the service."
        )
        yield Hit(evidence(*items), manual(text))


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
        fix = manual(f"Call a service whose pods are in {place}, or merge the networks: set the same {NETWORK} on the pods that reach each other.")
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
        text = "Give both clients the same rule and the same hosts: compare the two rules, the zones of the clients, and Sidecar resources."
        both = [in_use for client in (one, two) if (in_use := rule_in_force(situation, client)) is not None]
        rules = {named(entry): entry for entry in both}
        special = next((rule for rule in rules.values() if spec_of(rule).get("workloadSelector")), None)
        if special is not None and len(rules) > 1:
            text = f"Decide whether {label('DestinationRule', special)} is needed: it applies only to what its workloadSelector matches, and differs."
        yield Hit(evidence(*items), manual(text))
        return


def _balancing_text(view: ProxyView) -> str:
    cluster = view.cluster
    size = (cluster.minimum_ring_size or cluster.table_size) if cluster else None
    return f"{cluster.lb_policy if cluster else 'none'} {size or ''}".strip() + f", {policies_of(view)}"


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
    wait = "Wait until the pods no longer change, then measure again."
    lines = [kubectl("rollout status", kind, situation.target.namespace, name, "--timeout=300s") for kind, name in workloads]
    fix = command(*lines, checked="The commands change nothing: they wait for the rollout.", otherwise=wait) if lines else manual(wait)
    yield Hit(evidence(*items, *restarts), fix, "warning")


def _restarts(pod: JsonDict) -> int:
    return sum(int(entry.get("restartCount") or 0) for entry in (pod.get("status") or {}).get("containerStatuses") or [])
