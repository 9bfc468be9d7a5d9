# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hash is correct and the hosts are the same, but Envoys select among them differently. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, balancing, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import change_balancer, manual
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import label, route_in_force, with_rule, workload_text
from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import hashes_of, no_prediction
from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import RING_SIZE, TABLE_SIZE, chooser_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import policy_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, Key, ProxyView

SECTION = Section("The selection among the same hosts differs")
# The fields of a rule that set the size of a ring.
RINGS = ("ringHash", "minimumRingSize")
# This many sessions do not alternate between the same two rings by chance.
FEW_SESSIONS = 3
# With fewer points for each host, a ring does not share the sessions fairly.
FEW_POINTS = 4


@SECTION.cause(
    "C56",
    "The route has several weighted destinations, and Envoy draws one for each request",
    symptom="sessions flip between versions, in proportion to the weights",
    evidence="Envoy's route has weighted clusters",
    fix="give the sessions of the other version a route of their own, or finish the rollout",
    reference="https://github.com/istio/istio/issues/9764",
)
def weighted(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        shares = [(name, weight) for name, weight in view.route.clusters if weight > 0] if view.route else []
        # Destinations with the same hosts and balancer select the same host: their weights break nothing.
        if len(shares) < 2 or view.alike:
            continue
        items: list[Item] = [(proxy_name(situation, client), f"weight of cluster {name}", weight) for name, weight in shares]
        rule = route_in_force(situation, client)
        where = "the route"
        if rule is not None:
            where = label("VirtualService", rule)
            items.append((where, "spec.http[].route[].weight", [weight for _name, weight in shares]))
        text = (
            f"Finish or roll back the rollout that {where} carries out, or give the sessions of one version a route of their own, for example by a cookie that "
            "the other route sets. Keeping only one destination ends the canary for all callers."
        )
        # The route hashes, so affinity is expected of it, whatever the rules of the requested host say.
        hashing = view.route is not None and bool(view.route.hash_policies)
        yield Hit(evidence(*items), manual(text), "error" if hashing else situation.severity)


def _recreate(situation: Situation, client: Client) -> Fix:
    """A proxy restarts with its pod. The operator must first make sure that the pod comes back."""
    return manual(
        f"Recreate pod {client.pod} ({workload_text(client, situation.body_of(client))}): its Envoy then rebuilds its ring. Requests in flight are lost; "
        "first make sure that a new pod of this workload becomes ready."
    )


@SECTION.cause(
    "C58",
    "Envoy's ring is stale: it was not rebuilt when hosts were added",
    symptom="pods that were added last, or that returned, get no session at all",
    evidence="every session landed where a ring without those hosts places it, not where the ring of all hosts does",
    fix="upgrade to Istio 1.30.1 or newer, and use no EnvoyFilter with an update_merge_window; until then, recreate the client pod after each scaling",
    reference="https://github.com/istio/istio/issues/60312",
)
def stale_ring(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        if no_prediction(view, situation.key) is not None:
            continue
        missing = _ring_without(situation, client, view)
        if missing:
            items = (
                (proxy_name(situation, client), "healthy hosts that the ring lacks", missing),
                (proxy_name(situation, client), "version", view.proxy_version),
                ("sessions", "landed where the ring without them puts them", "all"),
            )
            yield Hit(evidence(*items), _recreate(situation, client))


def _landed(situation: Situation, client: Client) -> dict[str, frozenset[str]]:
    """The hosts that each session of a client landed on; empty if a response came from elsewhere."""
    entry = next(iter(situation.parts_of(client)), None)
    addresses = {backend.pod: backend.address for backend in situation.membership.backends}
    landed = {session: set(trace.counts) for session, trace in zip(entry.plan.sessions, entry.traces, strict=True) if trace.counts} if entry else {}
    if any(not pods <= addresses.keys() for pods in landed.values()):
        return {}
    return {session: frozenset(addresses[pod] for pod in pods) for session, pods in landed.items()}


def _ring_without(situation: Situation, client: Client, view: ProxyView) -> list[str]:
    """The hosts without which a ring explains all landing pods, if the ring of all hosts does not."""
    landed = _landed(situation, client)
    if any(len(hosts) > 1 for hosts in landed.values()):
        return []
    places = {session: next(iter(hosts)) for session, hosts in landed.items()}
    eligible = view.eligible()
    used = frozenset(places.values())
    # Sessions that all landed on one host always fit a ring of that host alone.
    if len(used) < 2 or not used < eligible or view.cluster is None or _fits(view, situation.key, eligible, places):
        return []
    return sorted(eligible - used) if _fits(view, situation.key, used, places) else []


def _fits(view: ProxyView, key: Key, hosts: frozenset[str], landed: dict[str, str]) -> bool:
    return _by_ring(view, key, hosts, landed) == list(landed.values())


def _by_ring(view: ProxyView, key: Key, hosts: frozenset[str], sessions: Iterable[str]) -> list[str]:
    if view.cluster is None or not hosts:
        return []
    choose = chooser_of(view.cluster, hosts)
    return [choose(value) for value in hashes_of(view, key, sessions)]


def _fits_either(view: ProxyView, key: Key, landed: dict[str, frozenset[str]], without: str) -> bool:
    """Whether every session landed on the host of the whole ring, of the ring without one host, or on both."""
    whole, rest = (_by_ring(view, key, hosts, landed) for hosts in (view.eligible(), view.eligible() - {without}))
    # A ring of one host proves nothing.
    return len(view.eligible()) > 2 and all(hosts <= {one, other} for hosts, one, other in zip(landed.values(), whole, rest, strict=True))


@SECTION.cause(
    "C60",
    "Hosts on a ring have different weights, and their positions then depend on their order, which differs between Envoys",
    symptom="a few sessions land on another pod from another client, or after a change of the hosts",
    evidence="Envoy's cluster is a ring, and its hosts differ in weight (weight of a WorkloadEntry or of a ServiceEntry's endpoint)",
    fix="use maglev, which sorts its hosts, or equal weights",
    reference="https://github.com/envoyproxy/envoy/blob/main/source/extensions/load_balancing_policies/ring_hash/ring_hash_lb.cc",
)
def unequal_weights(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.readable()):
        eligible = view.eligible()
        weights = {host.address: host.weight for host in view.hosts if host.address in eligible}
        ring = view.cluster is not None and view.cluster.lb_policy == "RING_HASH"
        if not ring or len(set(weights.values())) < 2 or not view.balances_by(situation.key):
            continue
        items: list[Item] = [(proxy_name(situation, client), f"weight of host {address}", weight) for address, weight in weights.items()]
        items.append((proxy_name(situation, client), "lb_policy of the cluster", "RING_HASH"))
        value = {**dict.fromkeys(RINGS), "maglev": {"tableSize": TABLE_SIZE}}
        yield Hit(evidence(*items), _algorithm(situation, client, view, rule, value, "maglev instead of a ring"), "warning" if situation.expected else "info")


def _algorithm(situation: Situation, client: Client, view: ProxyView, rule: JsonDict, value: JsonDict, words: str) -> Fix:
    """A patch of the rule's hash; a manual fix if it belongs to a port or a subset."""
    what, also = f"set {words} in the consistentHash of this port or subset", "Each session is then reassigned once."
    if not (policy_of(rule).get("loadBalancer") or {}).get("consistentHash"):
        return manual(f"In {label('DestinationRule', rule)}, {what}. {also}")
    return change_balancer(situation, client, view, {"consistentHash": value}, what, also)


@SECTION.cause(
    "C62",
    "Some clients reach the pods through HBONE tunnels and others do not, and a tunnel's address has another hash",
    symptom="the same session sticks to a different pod from each client, since some clients were upgraded or moved to ambient mode",
    evidence="the hosts have envoy:// addresses in one client's Envoy, but not in another's or at another time",
    fix="use the same proxy version and the same HBONE settings for all clients",
    reference="https://istio.io/latest/docs/ambient/architecture/hbone/",
    synthetic="the internal address that istio/istio pilot/pkg/xds/endpoints/endpoint_builder.go gives to hosts behind a tunnel; the lab has no HBONE",
)
def some_tunnels(situation: Situation) -> Iterator[Hit]:
    views = [(client, view) for client in situation.clients for view in client.views if view.balances_by(situation.key)]
    for (one, first), (two, second) in itertools.pairwise(views):
        both = {host.address: host.hbone for host in first.hosts}
        differ = sorted(host.address for host in second.hosts if host.address in both and host.hbone != both[host.address])
        if not differ:
            continue
        items = [
            (proxy_name(situation, client), f"path to {address}", "HBONE tunnel" if host.hbone else "direct")
            for address in differ[:3]
            for client, view in ((one, first), (two, second))
            for host in view.hosts
            if host.address == address
        ]
        fix = manual("Use the same proxy version and the same HBONE settings for all clients, then recreate their pods.")
        yield Hit(evidence(*items), fix, "error" if situation.moved() else "warning")
        return


@SECTION.cause(
    "C59",
    "Envoys, or the threads of one Envoy, use different rings although they have the same hosts",
    symptom="some sessions alternate between two pods by connection, or land on a different pod from each client",
    evidence="every response fits the ring of all hosts or the ring without one of them, and both occur for the same sessions while the hosts stay the same; "
    "or one client's responses fit the ring of its hosts, and another's do not with the same hosts",
    fix="recreate the client pod, after which all its threads build their rings from the same hosts; upgrade Istio",
    reference="https://github.com/envoyproxy/envoy/issues/45055",
    synthetic="envoy #45055: worker threads that miss an update of the hosts; the lab's Envoy does not",
)
def two_rings(situation: Situation) -> Iterator[Hit]:
    if situation.verdict is None or situation.verdict.changed or not situation.moved():
        return
    for client, view in situation.readable():
        landed = _landed(situation, client)
        split = [session for session, hosts in landed.items() if len(hosts) > 1]
        steady = len({each.eligible() for each in client.views}) == 1
        if len(split) < FEW_SESSIONS or not steady or view.cluster is None or no_prediction(view, situation.key) is not None:
            continue
        without = next((host for host in sorted(view.eligible()) if _fits_either(view, situation.key, landed, host)), None)
        if without is None:
            continue
        items: list[Item] = [
            (proxy_name(situation, client), "healthy hosts throughout", sorted(view.eligible())),
            ("responses", "fit the ring of all hosts, or the one that lacks", without),
            *(("responses", f"hosts of session {session}", sorted(landed[session])) for session in split[:3]),
        ]
        yield Hit(evidence(*items), _recreate(situation, client))
    yield from _odd_one_out(situation)


def _odd_one_out(situation: Situation) -> Iterator[Hit]:
    """A client that sticks, but not to the pods of its ring, while another client with the same hosts and rules does."""
    known = [(client, view, _landed(situation, client)) for client, view in situation.readable() if no_prediction(view, situation.key) is None]
    fitting = [(client, view, landed) for client, view, landed in known if _follows(situation, view, landed)]
    for client, view, landed in known:
        alike = [(one, places) for one, first, places in fitting if balancing(first) == balancing(view)]
        stuck, counted = all(len(hosts) == 1 for hosts in landed.values()), client.counted() or 0
        if not alike or not stuck or counted < sum(entry.tally.answered for entry in situation.parts_of(client)):
            continue
        one, places = alike[0]
        differ = [session for session, hosts in landed.items() if session in places and hosts != places[session]]
        if len(differ) < FEW_SESSIONS or _ring_without(situation, client, view):
            continue
        items: list[Item] = [
            (proxy_name(situation, client), "eligible hosts, the same as in the other", sorted(view.eligible())),
            ("sessions", f"follow the ring from {one.pod}, and not from {client.pod}", f"{len(differ)} of {len(landed)}"),
        ]
        yield Hit(evidence(*items), _recreate(situation, client))


def _follows(situation: Situation, view: ProxyView, landed: dict[str, frozenset[str]]) -> bool:
    """Whether every session landed on the host that the view's own ring gives it."""
    return bool(landed) and [frozenset({host}) for host in _by_ring(view, situation.key, view.eligible(), landed)] == list(landed.values())


@SECTION.cause(
    "C57",
    "A failed request was retried on another pod",
    symptom="single requests of many sessions land on another pod while pods fail occasionally",
    evidence="Envoy counted more requests than were sent; its route retries on a host other than the failed one (previous_hosts)",
    fix="use a VirtualService with one destination, whose retries follow the hash, and do not retry responses of the pod itself",
    reference="https://github.com/istio/istio/pull/50759",
)
def retried(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.readable():
        counted = client.counted()
        sent = sum(entry.tally.sent for entry in situation.parts_of(client))
        predicates = [name for name in (view.route.retry_predicates if view.route else ()) if "previous_hosts" in name]
        if situation.target.via or not situation.moved() or not predicates or counted is None or counted <= sent:
            continue
        items = (
            (proxy_name(situation, client), "requests counted, of those sent", f"{counted} of {sent}"),
            (proxy_name(situation, client), "retry_host_predicate of the route", predicates),
        )
        # Envoy names the VirtualService of its route, whether or not it could be read.
        rule = view.route.rule if view.route else None
        where = f"in VirtualService {rule}" if rule else f"in a VirtualService for {situation.fqdn} with itself as the only destination"
        text = (
            f"Decide whether callers of {situation.fqdn} may do without retries: with retries.attempts: 0 {where}, no failed request is sent to another pod, "
            "and its error reaches the caller."
        )
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C61",
    "The ring is too small: pods get very unequal shares, or none",
    symptom="some pods have most of the sessions, others hardly any",
    evidence="with the rule's minimumRingSize, a host has fewer than four points on the ring",
    fix="set minimumRingSize to at least 1024, or use maglev",
    reference="https://github.com/istio/istio/issues/13261",
)
def tiny_ring(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.readable()):
        hosts = len(view.eligible())
        size = view.cluster.minimum_ring_size if view.cluster and view.cluster.lb_policy == "RING_HASH" else None
        if not size or hosts < 2 or math.ceil(size / hosts) >= FEW_POINTS:
            continue
        items = (
            (label("DestinationRule", rule), "minimumRingSize", size),
            (proxy_name(situation, client), "points of the ring for each host", math.ceil(size / hosts)),
        )
        chosen = (policy_of(rule).get("loadBalancer") or {}).get("consistentHash") or {}
        value: JsonDict = {"ringHash": {"minimumRingSize": RING_SIZE}} if "ringHash" in chosen else {"minimumRingSize": RING_SIZE}
        yield Hit(evidence(*items), _algorithm(situation, client, view, rule, value, f"a minimumRingSize of {RING_SIZE}"), "warning")
