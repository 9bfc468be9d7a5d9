# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hash is right and the hosts are the same, but the choice among them is not. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    as_yaml,
    command,
    label,
    new_rule,
    patch,
    policy_of,
    remade,
    route_in_force,
    rule_in_force,
    spec_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, Key, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._ring import RING_SIZE, chooser_of, hashes_of, no_prediction

SECTION = Section("The choice among the same hosts differs")
# Fewer points than this for a host, and a ring is no fair share of anything.
FEW_POINTS = 4


@SECTION.cause(
    "C56",
    "The route is weighted over several destinations, and each request is drawn anew",
    symptom="sessions flip between versions, in proportion to the weights",
    seen="Envoy's route has weighted clusters",
    cure="one destination, or a route of its own for the sessions that are to meet the other version",
    reference="https://github.com/istio/istio/issues/9764",
)
def weighted(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.seen():
        shares = [(name, weight) for name, weight in view.route.clusters if weight > 0] if view.route else []
        # Destinations with the same hosts and balancer choose the same host: their weights break nothing.
        if len(shares) < 2 or view.alike:
            continue
        seen: list[Item] = [(proxy_name(situation, client), f"weight of cluster {name}", weight) for name, weight in shares]
        rule = route_in_force(situation, client)
        fix = Fix("manual", "Leave one destination in the route.")
        if rule is not None:
            seen.append((label("VirtualService", rule), "spec.http[].route[].weight", [weight for _name, weight in shares]))
            fix = patch("VirtualService", rule, {"spec": {"http": [_heaviest(entry) for entry in spec_of(rule)["http"]]}})
        yield Hit(evidence(*seen), fix, situation.severity)


def _heaviest(http: JsonDict) -> JsonDict:
    routes = http.get("route") or []
    if len(routes) < 2:
        return http
    kept = max(routes, key=lambda entry: int(entry.get("weight") or 0))
    return {**http, "route": [{name: value for name, value in kept.items() if name != "weight"}]}


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
    for client, view in situation.seen():
        if no_prediction(view, situation.key) is not None:
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
    for client, view in situation.seen():
        counted = client.counted()
        sent = sum(entry.tally.sent for entry in situation.window.evidence if entry.client == client.pod) if situation.window else 0
        predicates = [name for name in (view.route.retry_predicates if view.route else ()) if "previous_hosts" in name]
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
    "C61",
    "The ring is so small that pods get very unequal shares, or none",
    symptom="some pods have most of the sessions, others hardly any",
    seen="minimumRingSize of the rule leaves a host fewer than four points of the ring",
    cure="minimumRingSize of at least 1024, or maglev",
    reference="https://github.com/istio/istio/issues/13261",
)
def tiny_ring(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.seen():
        rule, hosts = rule_in_force(situation, client), len(view.eligible())
        size = view.cluster.minimum_ring_size if view.cluster and view.cluster.lb_policy == "RING_HASH" else None
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
