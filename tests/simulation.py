# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of known truth for the verdict: a balancer, a history of the backends, answers that get lost.

Synthetic by design: the truth of a window is only known where it was made.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ansible_collections.meshops.istio.plugins.module_utils._curl import FIELD, Observation
from ansible_collections.meshops.istio.plugins.module_utils._identity import identify
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    Checkpoint,
    ClientPod,
    ClusterView,
    HashPolicy,
    Host,
    Key,
    Membership,
    ObjectVersion,
    ProxyView,
    RouteView,
)
from ansible_collections.meshops.istio.plugins.module_utils._plan import PROFILES, Plan, make_plan
from ansible_collections.meshops.istio.plugins.module_utils._ring import Chooser, request_hash, ring_chooser
from ansible_collections.meshops.istio.plugins.module_utils._tally import Tally, Trace
from ansible_collections.meshops.istio.plugins.module_utils._verdict import Evidence, Window, all_backends

KEY = Key("header", "user-session")
# Given a session's ID (None without the key), the hosts and a source of chance: the host that gets the request.
Balancer = Callable[[str | None, Sequence[str], random.Random], str]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@cache
def _chooser(hosts: tuple[str, ...]) -> Chooser:
    return ring_chooser(hosts)


def address(pod: str) -> str:
    return f"10.0.{_hash(pod) % 250}.{_hash(pod) // 250 % 250}:8080"


def ring(session: str | None, hosts: Sequence[str], chance: random.Random) -> str:
    """A rule in force: by Envoy's ring, and at random where there is no key."""
    if session is None:
        return chance.choice(list(hosts))
    pods = {address(pod): pod for pod in hosts}
    return pods[_chooser(tuple(sorted(pods)))(request_hash(session))]


def at_random(_session: str | None, hosts: Sequence[str], chance: random.Random) -> str:
    """No rule: least-request at idle is as good as chance."""
    return chance.choice(list(hosts))


def first_host(_session: str | None, hosts: Sequence[str], _chance: random.Random) -> str:
    """Everything on one pod: sticks for the wrong reason."""
    return min(hosts)


def flipping(rate: float) -> Balancer:
    """A rule in force, but a share of the requests goes elsewhere (a weighted route)."""

    def balance(session: str | None, hosts: Sequence[str], chance: random.Random) -> str:
        return at_random(session, hosts, chance) if chance.random() < rate else ring(session, hosts, chance)

    return balance


@dataclass(frozen=True)
class Truth:
    """What really happens: C(history) gives the set of pods from a round on, the first entry from round 0."""

    balancer: Balancer = ring
    history: tuple[tuple[int, tuple[str, ...]], ...] = ((0, ("a", "b", "c")),)
    sessions: int | None = None
    rounds: int = 20
    lost: float = 0.0
    clients: int = 1
    seed: int = 1
    seen_by: dict[int, tuple[str, ...]] = field(default_factory=dict)
    rules_changed: bool = False
    keyless: bool = True


def hosts_at(truth: Truth, number: int) -> tuple[str, ...]:
    return next(hosts for start, hosts in reversed(truth.history) if number >= start)


def changes_until(truth: Truth, number: int) -> int:
    return sum(1 for start, _hosts in truth.history[1:] if start <= number)


def membership(truth: Truth, number: int) -> Membership:
    backends = tuple(Backend(pod, f"uid-{pod}", address(pod), None, None, True) for pod in hosts_at(truth, number))
    return Membership({"slice": 1 + changes_until(truth, number)}, backends)


def view(members: Membership, visible: tuple[str, ...] | None, counters: Counter[str]) -> ProxyView:
    hosts = tuple(
        Host(backend.address, True, "healthy", 1, 0, "", counters[backend.pod]) for backend in members.backends if visible is None or backend.pod in visible
    )
    name = "outbound|80||nginx-service.sample.svc.cluster.local"
    route = RouteView("80", "nginx-service", ((name, 100),), (HashPolicy("header", "user-session"),), "sample/nginx-virtualservice", "1")
    return ProxyView("1.31.0", 100.0, route, ClusterView(name, "EDS", "RING_HASH", "sample/nginx-destinationrule", "1"), hosts)


def window(truth: Truth) -> Window:
    """The window that a check of this truth would have seen, at the speed of one request after the other."""
    chance = random.Random(truth.seed)
    backends = len(hosts_at(truth, 0))
    plan = make_plan(KEY, None, truth.sessions, truth.rounds, PROFILES["default"], backends, truth.seed, truth.keyless)
    runs = [_client(truth, plan, number, chance) for number in range(truth.clients)]
    before, after = membership(truth, 0), membership(truth, truth.rounds)
    memberships = [before, *(checkpoint.membership for _tally, checkpoints, _segments in runs for checkpoint in checkpoints), after]
    found = identify({identity for tally, _c, _s in runs for identity in tally.identities}, ("header X-Pod-Name",), all_backends(memberships))
    evidence = tuple(
        Evidence(
            ClientPod("sample", f"test-{number}", f"uid-{number}", None, f"zone-{number}", "curl", True),
            plan,
            tally,
            tuple(trace.mapped(found.pods) for trace in tally.sessions),
            {found.pods[name]: count for name, count in tally.keyless.items() if name in found.pods},
            tuple(checkpoints),
            tuple(segments),
        )
        for number, (tally, checkpoints, segments) in enumerate(runs)
    )
    rule = ObjectVersion("DestinationRule", "sample", "nginx-destinationrule", "uid", 1)
    later = replace(rule, generation=2) if truth.rules_changed else rule
    return Window(KEY, before, after, (rule,), (later,), found, evidence, 0.02)


def _client(truth: Truth, plan: Plan, number: int, chance: random.Random) -> tuple[Tally, list[Checkpoint], list[range]]:
    tally = Tally([Trace() for _session in plan.sessions])
    visible = truth.seen_by.get(number)
    counters: Counter[str] = Counter()

    def look(at: int) -> Checkpoint:
        members = membership(truth, at)
        return Checkpoint(view(members, visible, counters), members)

    checkpoints, segments = [look(0)], []
    for batches in plan.segments():
        segments.append(range(batches[0].start, batches[-1].stop))
        for rounds in batches:
            for request in plan.requests(rounds):
                tally.sent += 1
                hosts = [host for host in hosts_at(truth, request.round) if visible is None or host in visible]
                if chance.random() < truth.lost:
                    tally.add(request, Observation(request.index, 0, 28, 5.0, "", False, ""))
                    continue
                session = None if request.session is None else plan.sessions[request.session]
                pod = truth.balancer(session, hosts, chance)
                counters[pod] += 1
                tally.add(request, Observation(request.index, 200, 0, 0.01, "envoy", True, FIELD.join([pod])))
        checkpoints.append(look(segments[-1].stop - 1))
    return tally, checkpoints, segments
