# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of known truth for the verdict: a balancer, a history of the backends, answers that get lost.

Synthetic by design: the truth of a window is only known where it was made.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import Chooser, chooser_of, request_hash
from ansible_collections.meshops.istio.plugins.module_utils._membership import PUSH_DELAY, all_backends, is_settled
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
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import identify
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, Need, Plan, make_plan, of_one_source
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import MOST_RUNS, Run, Tally, Trace
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.stages import further_plans
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import ClientWindow, Window

KEY = Key("header", "user-session")
CLUSTER = ClusterView("outbound|80||nginx-service.sample.svc.cluster.local", "EDS", "RING_HASH", "sample/nginx-destinationrule", "1")
ROUTE = RouteView("80", "nginx-service", ((CLUSTER.name, 100),), (HashPolicy("header", "user-session"),), "sample/nginx-virtualservice", "1")
BY_SOURCE = replace(ROUTE, hash_policies=(HashPolicy("source_ip", None),))
Hosts = tuple[str, ...]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@cache
def address(pod: str) -> str:
    return f"10.0.{_hash(pod) % 250}.{_hash(pod) // 250 % 250}:8080"


def chooser(cluster: ClusterView, hosts: Iterable[str], _weights: Mapping[str, int] | None = None) -> Chooser:
    """The real one, made once for each ring; here all hosts weigh the same."""
    return _chooser(cluster, frozenset(hosts))


@cache
def _chooser(cluster: ClusterView, hosts: frozenset[str]) -> Chooser:
    return chooser_of(cluster, hosts)


@cache
def _landing(sessions: tuple[str, ...], hosts: Hosts) -> tuple[str, ...]:
    """The pods that Envoy's ring gives these sessions."""
    pods = {address(pod): pod for pod in hosts}
    choose = chooser(CLUSTER, pods)
    return tuple(pods[choose(request_hash(session))] for session in sessions)


def _by_chance(count: int, hosts: Hosts, chance: random.Random) -> Sequence[str]:
    return chance.choices(hosts, k=count)


@dataclass(frozen=True)
class Balancer:
    """What a mesh does with one round: C(keyed) gives a pod for each of the sessions, C(keyless) for so many requests
    without the key."""

    keyed: Callable[[tuple[str, ...], Hosts, random.Random], Sequence[str]]
    keyless: Callable[[int, Hosts, random.Random], Sequence[str]] = _by_chance


# A rule in force: by Envoy's ring, and at random where there is no key.
ring = Balancer(lambda sessions, hosts, _chance: _landing(sessions, hosts))
# No rule: least-request at idle is as good as chance.
at_random = Balancer(lambda sessions, hosts, chance: _by_chance(len(sessions), hosts, chance))
# The key's header set to a constant on the way: everything on one pod, which sticks for the wrong reason.
constant = Balancer(
    lambda sessions, hosts, _chance: _landing(("constant",), hosts) * len(sessions),
    lambda count, hosts, _chance: _landing(("constant",), hosts) * count,
)


def weighted(rate: float) -> Balancer:
    """A route with weights: a share of the requests goes to a subset, half of the pods, that has a ring of its own."""

    def balance(sessions: tuple[str, ...], hosts: Hosts, chance: random.Random) -> Sequence[str]:
        stable, canary = _landing(sessions, hosts), _landing(sessions, hosts[: max(1, len(hosts) // 2)])
        return [pods[chance.random() < rate] for pods in zip(stable, canary, strict=True)]

    return Balancer(balance)


def flipping(rate: float) -> Balancer:
    """A rule in force, but a share of the requests goes anywhere (one of several gateways is out of step, say)."""

    def balance(sessions: tuple[str, ...], hosts: Hosts, chance: random.Random) -> Sequence[str]:
        return [chance.choice(hosts) if chance.random() < rate else pod for pod in _landing(sessions, hosts)]

    return Balancer(balance)


@dataclass(frozen=True)
class Truth:
    """What really happens: C(history) gives the set of pods from a moment on; the first entry holds from ever on.
    Moments are counted in rounds, 0 being the first look at the earliest. C(pace) is the seconds that a round takes,
    C(lag) the rounds by which Envoy learns of a change later than the API server."""

    balancer: Balancer = ring
    history: tuple[tuple[int, Hosts], ...] = ((0, ("a", "b", "c")),)
    sessions: int | None = None
    # None: as many as the profile needs, and more where the verdict needs them.
    rounds: int | None = None
    profile: str = "default"
    lost: float = 0.0
    clients: int = 1
    seed: int = 1
    seen_by: dict[int, Hosts] = field(default_factory=dict)
    rules_changed: bool = False
    keyless: bool = True
    pace: float = 0.1
    lag: int = 0
    max_flip_rate: float = 0.02
    key: Key = KEY
    # What the client's Envoy says of the route.
    route: RouteView = ROUTE
    alike: bool = True


def hosts_at(truth: Truth, number: int) -> Hosts:
    return next((hosts for start, hosts in reversed(truth.history) if number >= start), truth.history[0][1])


def membership(truth: Truth, number: int) -> Membership:
    """What the API server says; each change has raised the slice's generation by one."""
    changed = [start for start, _hosts in truth.history[1:] if start <= number]
    # Known to the second only, so a change can be almost a second younger than it seems.
    age = (number - changed[-1]) * truth.pace + 0.99 if changed else None
    return Membership({"slice": 1 + len(changed)}, _backends(hosts_at(truth, number)), age)


@cache
def _backends(hosts: Hosts) -> tuple[Backend, ...]:
    return tuple(Backend(pod, f"uid-{pod}", address(pod), None, None, True) for pod in hosts)


def view(truth: Truth, number: int, client: int, counters: Counter[str]) -> ProxyView:
    hosts = (Host(address(pod), True, "healthy", 1, 0, "", counters[pod]) for pod in _visible(truth, number, client))
    route = BY_SOURCE if truth.key.type == "source_ip" else truth.route
    return ProxyView("1.31.0", 100.0, route, CLUSTER, tuple(hosts), alike=truth.alike)


def _visible(truth: Truth, number: int, client: int) -> Hosts:
    """The pods that a client's Envoy chooses from in a round."""
    hosts, seen = hosts_at(truth, number - truth.lag), truth.seen_by.get(client)
    return hosts if seen is None else tuple(pod for pod in hosts if pod in seen)


def trace_of(pods: Sequence[str | None]) -> Trace:
    """The trace of a session that met these pods, round by round, None where an answer was lost: what Trace.add makes
    of them one by one, but fast."""
    trace = Trace()
    if (first := pods[0]) is not None and pods.count(first) == len(pods):
        trace.runs.append(Run(0, len(pods) - 1, first))
        trace.counts[first] = len(pods)
        return trace
    for number, pod in enumerate(pods):
        if pod is not None and trace.runs and trace.runs[-1].pod == pod:
            trace.runs[-1].last = number
        elif pod is not None:
            trace.runs.append(Run(number, number, pod))
    trace.counts.update(pod for pod in pods if pod is not None)
    assert len(trace.runs) <= MOST_RUNS, "longer than the simulation is made for"
    return trace


class Client:
    """One client's part of a window, in the making."""

    def __init__(self, truth: Truth, plan: Plan, number: int, chance: random.Random) -> None:
        self.truth, self.plan, self.number, self.chance = truth, plan, number, chance
        self.tally, self.counters = Tally([]), Counter[str]()
        self.rounds: list[Sequence[str | None]] = []
        self.start = next(at for at in itertools.count() if at * truth.pace >= PUSH_DELAY or is_settled(self.look(at)))
        self.checkpoints = [self.look(self.start)]
        self.segments: list[range] = []

    def look(self, at: int) -> Checkpoint:
        return Checkpoint(view(self.truth, at, self.number, self.counters), membership(self.truth, at), at=at * self.truth.pace)

    @property
    def end(self) -> int:
        return self.start + len(self.rounds)

    def send(self, segments: Iterable[list[range]]) -> None:
        truth, plan, tally = self.truth, self.plan, self.tally
        for batches in segments:
            self.segments.append(range(batches[0].start, batches[-1].stop))
            for at in self.segments[-1]:
                hosts = _visible(truth, self.start + at, self.number)
                answers = _answers(truth, truth.balancer.keyed(plan.sessions, hosts, self.chance), self.chance)
                keyless = plan.keyless * min(at + 1, plan.rounds) // plan.rounds - plan.keyless * min(at, plan.rounds) // plan.rounds
                others = _answers(truth, truth.balancer.keyless(keyless, hosts, self.chance), self.chance)
                self.rounds.append(answers)
                tally.keyless.update(pod for pod in others if pod is not None)
                tally.sent += len(answers) + len(others)
                self.counters.update(pod for pod in (*answers, *others) if pod is not None)
            self.checkpoints.append(self.look(self.start + self.segments[-1].stop - 1))
        tally.sessions = [trace_of(pods) for pods in zip(*self.rounds, strict=True)]
        tally.answered = self.counters.total()
        tally.identities = set(self.counters)

    def part(self, pods: dict[str, str]) -> ClientWindow:
        return ClientWindow(
            ClientPod("sample", f"test-{self.number}", f"uid-{self.number}", None, f"zone-{self.number}", "curl", True),
            self.plan,
            self.tally,
            tuple(self.tally.sessions),
            {pods[name]: count for name, count in self.tally.keyless.items() if name in pods},
            tuple(self.checkpoints),
            tuple(self.segments),
        )


def window(truth: Truth) -> Window:
    """The window that a check of this truth would have seen, at the speed of one request after the other."""
    chance = random.Random(truth.seed)
    need = Need(truth.max_flip_rate if truth.rounds else None, truth.clients)
    profile, backends = PROFILES[truth.profile], len(hosts_at(truth, 0))
    plan = make_plan(truth.key, None, truth.sessions, truth.rounds, profile, backends, truth.seed, truth.keyless, need)
    plans = [of_one_source(plan, f"10.9.0.{number + 1}") if truth.key.own else plan for number in range(truth.clients)]
    clients = [Client(truth, plans[number], number, chance) for number in range(truth.clients)]
    for client in clients:
        client.send(client.plan.segments())
    seen = _window(truth, clients)
    further = further_plans(seen, judge(seen)) if truth.rounds is None else None
    if further is None:
        return seen
    for client, longer in zip(clients, further, strict=True):
        client.plan = longer
        client.send(longer.extra_segments())
    return _window(truth, clients)


def _window(truth: Truth, clients: Sequence[Client]) -> Window:
    # The survey comes some tenths of a second before the first look.
    before, after = membership(truth, -round(0.3 / truth.pace)), membership(truth, max(client.end for client in clients))
    memberships = [before, *(checkpoint.membership for client in clients for checkpoint in client.checkpoints), after]
    found = identify({identity for client in clients for identity in client.tally.identities}, ("header X-Pod-Name",), all_backends(memberships))
    rule = ObjectVersion("DestinationRule", "sample", "nginx-destinationrule", "uid", 1)
    later = replace(rule, generation=2) if truth.rules_changed else rule
    return Window(truth.key, before, after, (rule,), (later,), found, tuple(client.part(found.pods) for client in clients), truth.max_flip_rate)


def _answers(truth: Truth, pods: Sequence[str], chance: random.Random) -> Sequence[str | None]:
    """What came back: some answers are lost, after a time-out."""
    return [None if chance.random() < truth.lost else pod for pod in pods] if truth.lost else pods
