# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hash is right, but the hosts to choose from, or the choice, are not the same for all requests. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, evidence, policies_of, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    as_yaml,
    command,
    delete,
    label,
    named,
    new_rule,
    patch,
    policy_of,
    remade,
    route_in_force,
    rule_in_force,
    spec_of,
    workload_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, Key, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._ring import RING_SIZE, chooser_of, hashes_of, no_prediction

SECTION = Section("The hosts to choose from, or the choice, differ")
EJECTED = "failed_outlier_check"
# Fewer points than this for a host, and a ring is no fair share of anything.
FEW_POINTS = 4
LOCALITY = "https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/"


@SECTION.cause(
    "C56",
    "The route is weighted over several destinations, and each request is drawn anew",
    symptom="sessions flip between versions, in proportion to the weights",
    seen="Envoy's route has weighted clusters",
    cure="one destination, or a route of its own for the sessions that are to meet the other version",
    reference="https://github.com/istio/istio/issues/9764",
)
def weighted(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        route = client.view.route if client.view else None
        shares = [(name, weight) for name, weight in route.clusters if weight > 0] if route else []
        # Destinations with the same hosts and balancer choose the same host: their weights break nothing.
        if len(shares) < 2 or client.view is None or client.view.alike:
            continue
        seen: list[Item] = [(proxy_name(situation, client), f"weight of cluster {name}", weight) for name, weight in shares]
        rule = route_in_force(situation, client)
        fix = Fix("manual", "Leave one destination in the route.")
        if rule is not None:
            seen.append((label("VirtualService", rule), "spec.http[].route[].weight", [weight for _name, weight in shares]))
            fix = patch("VirtualService", rule, {"spec": {"http": [_heaviest(entry) for entry in spec_of(rule)["http"]]}})
        yield Hit(evidence(*seen), fix, "error" if situation.expected else "info")


def _heaviest(http: JsonDict) -> JsonDict:
    routes = http.get("route") or []
    if len(routes) < 2:
        return http
    kept = max(routes, key=lambda entry: int(entry.get("weight") or 0))
    return {**http, "route": [{name: value for name, value in kept.items() if name != "weight"}]}


def _out_of_reach(situation: Situation, client: Client, flag: str | None) -> list[str]:
    """Addresses of ready backends that the client's Envoy leaves out for a health flag, or else for their priority."""
    if client.view is None:
        return []
    ready = {backend.address for backend in situation.membership.ready()}
    eligible = client.view.eligible()
    left = [host for host in client.view.hosts if host.address in ready and host.address not in eligible]
    return [host.address for host in left if (flag in host.health_flags if flag else host.healthy)]


@SECTION.cause(
    "C53",
    "Locality balancing keeps this client to the pods of its own zone, so clients of two zones disagree",
    symptom="some ready pods get no session; the same session meets different pods from different zones",
    seen="Envoy has the other pods at a lower priority; the rule has outlierDetection, which switches locality failover on, or the Service trafficDistribution",
    cure="localityLbSetting.enabled: false in the DestinationRule; no trafficDistribution",
    reference=LOCALITY,
)
def locality(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        left = _out_of_reach(situation, client, None)
        if not left or client.view is None:
            continue
        priorities = sorted({host.priority for host in client.view.hosts})
        zones = sorted({host.zone for host in client.view.hosts if host.zone})
        seen: list[Item] = [
            (proxy_name(situation, client), "hosts at a lower priority", left),
            (proxy_name(situation, client), "priorities", priorities),
            (proxy_name(situation, client), "zones of the hosts", zones),
        ]
        distribution = situation.service["spec"].get("trafficDistribution")
        rule = rule_in_force(situation, client)
        if distribution:
            seen.append((situation.source, "spec.trafficDistribution", distribution))
            yield Hit(evidence(*seen), patch("Service", situation.service, {"spec": {"trafficDistribution": None}}))
        elif rule is not None:
            seen.append((label("DestinationRule", rule), "spec.trafficPolicy.outlierDetection", policy_of(rule).get("outlierDetection")))
            change = {"spec": {"trafficPolicy": {"loadBalancer": {"localityLbSetting": {"enabled": False}}}}}
            yield Hit(evidence(*seen), patch("DestinationRule", rule, change))


@SECTION.cause(
    "C51",
    "The client's Envoy has put a pod out of the balancing, because of its errors",
    symptom="sessions of one pod move to the others and come back after a while",
    seen="a ready pod bears the flag failed_outlier_check in the client's Envoy",
    cure="mend the pod that answers with errors; without outlierDetection its sessions stay with it",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#OutlierDetection",
)
def ejected(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        hosts = {host.address: host.health_flags for view in client.views for host in view.hosts if EJECTED in host.health_flags}
        rule = rule_in_force(situation, client)
        if not hosts or rule is None:
            continue
        seen: list[Item] = [(proxy_name(situation, client), f"health_flags of {address}", flags) for address, flags in hosts.items()]
        seen.append((label("DestinationRule", rule), "spec.trafficPolicy.outlierDetection", policy_of(rule).get("outlierDetection")))
        statuses = [entry.tally.by_status for entry in situation.window.evidence] if situation.window else []
        bad = sum(count for by_status in statuses for status, count in by_status.items() if status.startswith("5"))
        seen += [("answers", "status 5xx", bad)] if bad else []
        yield Hit(evidence(*seen), patch("DestinationRule", rule, {"spec": {"trafficPolicy": {"outlierDetection": None}}}))


@SECTION.cause(
    "C58",
    "Envoy's ring is stale: it was not rebuilt when hosts came",
    symptom="pods that came last get no session at all",
    seen="every session landed where a ring without those hosts would put it, and not where the ring of all hosts would",
    cure="Istio 1.30.1 or newer; until then, make the client pod anew after each scaling",
    reference="https://github.com/istio/istio/issues/60312",
    synthetic="istio #60312, envoy #45212: only Istio 1.30.0 is affected",
)
def stale_ring(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        view = client.view
        if view is None or no_prediction(view, situation.key) is not None:
            continue
        missing = _ring_without(situation, client, view)
        if missing:
            seen = (
                (proxy_name(situation, client), "healthy hosts that the ring lacks", missing),
                (proxy_name(situation, client), "version", view.proxy_version),
                ("sessions", "landed where the ring without them puts them", "all"),
            )
            yield Hit(
                evidence(*seen), command(*remade(situation.body_of(client), None)) if situation.body_of(client)["metadata"] else Fix("manual", "Upgrade Istio.")
            )


def _ring_without(situation: Situation, client: Client, view: ProxyView) -> list[str]:
    """The hosts without which a ring explains where every session landed, while that of all hosts does not."""
    entry = next((found for found in situation.window.evidence if found.client == client.pod), None) if situation.window else None
    addresses = {backend.pod: backend.address for backend in situation.membership.backends}
    landed: dict[str, str] = {}
    for session, trace in zip(entry.plan.sessions, entry.traces, strict=True) if entry else ():
        pods = set(trace.counts)
        if len(pods) > 1 or not pods <= addresses.keys():
            return []
        landed.update((session, addresses[pod]) for pod in pods)
    eligible = view.eligible()
    used = frozenset(landed.values())
    # Everything on one host fits a ring of that host alone, whatever put it there.
    if len(used) < 2 or not used < eligible or view.cluster is None or _fits(view, situation.key, eligible, landed):
        return []
    return sorted(eligible - used) if _fits(view, situation.key, used, landed) else []


def _fits(view: ProxyView, key: Key, hosts: frozenset[str], landed: dict[str, str]) -> bool:
    if view.cluster is None:
        return False
    choose = chooser_of(view.cluster, hosts)
    return [choose(value) for value in hashes_of(view, key, landed)] == list(landed.values())


@SECTION.cause(
    "C57",
    "A request that failed was tried again on another pod",
    symptom="single requests of many sessions land elsewhere while pods fail now and then",
    seen="Envoy counted more requests than were sent; its route keeps retries from the host that failed (previous_hosts)",
    cure="a VirtualService with one destination, whose retries stay with the hash, and no retries for what the pod itself answers",
    reference="https://github.com/istio/istio/pull/50759",
)
def retried(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        route, counted = (client.view.route if client.view else None), client.counted()
        sent = sum(entry.tally.sent for entry in situation.window.evidence if entry.client == client.pod) if situation.window else 0
        predicates = [name for name in (route.retry_predicates if route else ()) if "previous_hosts" in name]
        if situation.target.via or not situation.moved() or not predicates or counted is None or counted <= sent:
            continue
        seen = (
            (proxy_name(situation, client), "requests counted, of those sent", f"{counted} of {sent}"),
            (proxy_name(situation, client), "retry_host_predicate of the route", predicates),
        )
        rule = route_in_force(situation, client)
        if rule is not None:
            http = [{**entry, "retries": {"attempts": 0}} for entry in spec_of(rule).get("http") or []]
            yield Hit(evidence(*seen), patch("VirtualService", rule, {"spec": {"http": http}}))
            continue
        destination = {"host": situation.fqdn, "port": {"number": situation.target.port}}
        spec = {"hosts": [situation.fqdn], "http": [{"route": [{"destination": destination}], "retries": {"attempts": 0}}]}
        yield Hit(evidence(*seen), as_yaml(new_rule("VirtualService", f"{situation.target.service}-no-retries", situation.target.namespace, spec)))


@SECTION.cause(
    "C54",
    "The clients do not balance alike: their Envoys have other rules or other hosts",
    symptom="each client sticks to a pod of its own for the same session",
    seen="rule, balancer or hosts differ between the Envoys of two client pods",
    cure="one rule for all clients, and no locality balancing",
    reference=LOCALITY,
)
def clients_differ(situation: Situation) -> Iterator[Hit]:
    known = [(client, client.view) for client in situation.clients if client.view is not None and client.view.balances_by(situation.key)]
    for (one, first), (two, second) in itertools.pairwise(known):
        if _balancing(first) == _balancing(second):
            continue
        seen: list[Item] = []
        for client, view in ((one, first), (two, second)):
            who = proxy_name(situation, client)
            rule = view.cluster.rule if view.cluster else None
            seen += [
                (who, "DestinationRule of the cluster", rule),
                (who, "balancer", _balancing_text(view)),
                (who, "hosts to choose from", sorted(view.eligible())),
            ]
        yield Hit(evidence(*seen), _alike(situation, (one, two)))
        return


def _balancing(view: ProxyView) -> tuple[object, ...]:
    cluster = view.cluster
    return (view.eligible(), (cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size) if cluster else None)


def _balancing_text(view: ProxyView) -> str:
    cluster = view.cluster
    size = (cluster.minimum_ring_size or cluster.table_size) if cluster else None
    return f"{cluster.lb_policy if cluster else 'none'} {size or ''}".strip() + f", {policies_of(view)}"


def _alike(situation: Situation, pair: tuple[Client, Client]) -> Fix:
    """To remove the rule that is for one of the clients only, where there is one."""
    rules = [rule for client in pair if (rule := rule_in_force(situation, client)) is not None]
    special = next((rule for rule in rules if spec_of(rule).get("workloadSelector")), None)
    if special is not None and len({named(rule) for rule in rules}) > 1:
        return command(delete("DestinationRule", special))
    return Fix("manual", "Give both clients the same rule and the same hosts: compare the two rules, the zones of the clients, and Sidecar resources.")


@SECTION.cause(
    "C61",
    "The ring is so small that pods get very unequal shares, or none",
    symptom="some pods have most of the sessions, others hardly any",
    seen="minimumRingSize of the rule leaves a host fewer than four points of the ring",
    cure="minimumRingSize of at least 1024, or maglev",
    reference="https://github.com/istio/istio/issues/13261",
)
def tiny_ring(situation: Situation) -> Iterator[Hit]:
    for client in situation.clients:
        view, rule = client.view, rule_in_force(situation, client)
        hosts = len(view.eligible()) if view else 0
        size = view.cluster.minimum_ring_size if view and view.cluster and view.cluster.lb_policy == "RING_HASH" else None
        if not size or hosts < 2 or rule is None or math.ceil(size / hosts) >= FEW_POINTS:
            continue
        seen = (
            (label("DestinationRule", rule), "minimumRingSize", size),
            (proxy_name(situation, client), "points of the ring for each host", math.ceil(size / hosts)),
        )
        chosen = (policy_of(rule).get("loadBalancer") or {}).get("consistentHash") or {}
        value: JsonDict = {"ringHash": {"minimumRingSize": RING_SIZE}} if "ringHash" in chosen else {"minimumRingSize": RING_SIZE}
        change = {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": value}}}}
        yield Hit(evidence(*seen), patch("DestinationRule", rule, change), "warning")


@SECTION.cause(
    "C50",
    "Pods came, went or changed their readiness while it was measured",
    symptom="some sessions move, once, and stay where they went",
    seen="the service's EndpointSlices are not the same before and after",
    cure="measure again when the rollout is over (options attempts and settle); a rule can't keep sessions on pods that are gone",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-ConsistentHashLB",
)
def backends_changed(situation: Situation) -> Iterator[Hit]:
    if situation.verdict is None or not situation.verdict.changed:
        return
    events = [event for event in situation.verdict.events if event.startswith(("pod ", "endpoints "))]
    seen = [(situation.source, "endpoints", event) for event in events[:6]]
    restarts = [(f"Pod {named(pod)}", "restarts", count) for pod in situation.backend_pods() if (count := _restarts(pod))]
    if not seen:
        return
    makers = list(dict.fromkeys(maker for pod in situation.backend_pods() if (maker := workload_of(pod))))
    lines = [f"kubectl -n {situation.target.namespace} rollout status {kind}/{name} --timeout=300s" for kind, name in makers]
    fix = command(*lines) if lines else Fix("manual", "Wait until the pods stay as they are, then measure again.")
    yield Hit(evidence(*seen, *restarts), fix, "warning")


def _restarts(pod: JsonDict) -> int:
    return sum(int(entry.get("restartCount") or 0) for entry in (pod.get("status") or {}).get("containerStatuses") or [])
