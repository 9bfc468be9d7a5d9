# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which sessions a planned maintenance moves. Pure.

The removed pods are known, so the sessions that move without replacements are exact. New pods have addresses that are not
known yet, and the ring depends on them: the share that moves is estimated by drawing random addresses.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import TABLE_SIZE, chooser_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, CheckError, ClusterView, JsonDict

# A new draw lies between the least and the greatest of n others in all but 2 of n + 1 cases: 199 make that 99 %.
DRAWS = 199
# The two algorithms are compared by their usual share only: a table of Maglev costs a twentieth of a second.
COMPARED = 5
# Sessions that stand for all where none are named.
SESSIONS = 1000
_chooser = lru_cache(maxsize=4)(chooser_of)


@dataclass(frozen=True)
class Scenario:
    """The planned change: pods to remove, a node to drain, and the number of pods after it (None: as many as now)."""

    remove_pods: tuple[str, ...] = ()
    drain_node: str | None = None
    replicas: int | None = None

    def victims(self, backends: Sequence[Backend]) -> frozenset[str]:
        """The addresses of the removed backends."""
        return frozenset(backend.address for backend in backends if backend.pod in self.remove_pods or (self.drain_node and backend.node == self.drain_node))


@dataclass(frozen=True)
class Balancing:
    """How sessions are balanced now: the cluster's algorithm and sizes, and its eligible addresses. Services with the same
    pods and settings share one, and its results are computed once."""

    cluster: ClusterView
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, cluster: ClusterView, hosts: Iterable[str]) -> Balancing:
        return cls(replace(cluster, name="", version="", rule=None), tuple(hosts))

    def by(self, policy: str) -> Balancing:
        """The same hosts with another algorithm: with its own sizes if it is in force, else with Envoy's defaults."""
        if policy == self.cluster.lb_policy:
            return self
        return replace(self, cluster=replace(self.cluster, lb_policy=policy, minimum_ring_size=None, table_size=TABLE_SIZE))

    def place(self, hosts: Sequence[str], sessions: Sequence[int]) -> tuple[str, ...]:
        choose = _chooser(self.cluster, tuple(hosts))
        return tuple(choose(session) for session in sessions)


def read_scenario(option: JsonDict | None) -> Scenario | None:
    """The option `what_if`. Raises `CheckError` with `bad_option`."""
    if option is None:
        return None
    pods, node, replicas = tuple(option.get("remove_pods") or ()), option.get("drain_node"), option.get("replicas")
    if not pods and not node and replicas is None:
        raise CheckError("bad_option", "Option what_if is empty; give remove_pods, drain_node or replicas.")
    if replicas is not None and replicas < 1:
        raise CheckError("bad_option", f"Option what_if.replicas is {replicas}; it must be at least 1.")
    return Scenario(pods, node, replicas)


def outcome(plan: Scenario, balancing: Balancing, backends: Sequence[Backend], sessions: Sequence[str], hashes: tuple[int, ...]) -> JsonDict:
    """The returned `what_if` for a service whose sessions can be predicted; `hashes` are those of the sessions."""
    victims = plan.victims([backend for backend in backends if backend.address in balancing.hosts])
    left = tuple(host for host in balancing.hosts if host not in victims)
    now = balancing.place(balancing.hosts, hashes)
    must = [session for session, host in zip(sessions, now, strict=True) if host in victims]
    later = balancing.place(left, hashes) if left else ()
    moved = [session for session, host, then in zip(sessions, now, later, strict=True) if host != then] if left else list(sessions)
    change = Change(left, plan.replicas if plan.replicas is not None else len(balancing.hosts))
    chosen = change.pods >= len(left)
    return {
        "must_move": must if chosen else None,
        "if_not_replaced": moved if chosen else None,
        "expected_share": expected_share(balancing, change, hashes, DRAWS),
        "ring_hash_share": usual_share(balancing.by("RING_HASH"), change, hashes),
        "maglev_share": usual_share(balancing.by("MAGLEV"), change, hashes),
        "pods": {"now": len(balancing.hosts), "removed": len(victims), "then": change.pods},
        "reason": None if chosen else f"which {len(left) - change.pods} other pods are removed is unknown; name them in remove_pods",
    }


def no_outcome(reason: str) -> JsonDict:
    """The same keys if nothing can be computed."""
    keys = ("must_move", "if_not_replaced", "expected_share", "ring_hash_share", "maglev_share", "pods")
    return {**dict.fromkeys(keys), "reason": reason}


@dataclass(frozen=True)
class Change:
    """The remaining pods, and the number of pods after the change, which may add new ones or remove more."""

    left: tuple[str, ...]
    pods: int

    @property
    def known(self) -> bool:
        """Whether all pods after the change are known."""
        return self.pods == len(self.left)

    def draw(self, chance: random.Random) -> tuple[str, ...]:
        """A random outcome: the remaining pods with new addresses, or a sample of them."""
        if self.known:
            return self.left
        if self.pods < len(self.left):
            return tuple(sorted(chance.sample(self.left, self.pods)))
        port = self.left[0].rpartition(":")[2] if self.left else "80"
        hosts = set(self.left)
        while len(hosts) < self.pods:
            hosts.add(f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}:{port}")
        return tuple(sorted(hosts))


def expected_share(balancing: Balancing, change: Change, sessions: tuple[int, ...], draws: int) -> dict[str, float]:
    """The smallest and the largest share of the sessions that moved in these draws."""
    shares = _shares(balancing, change, sessions, draws)
    return {"low": round(min(shares), 4), "high": round(max(shares), 4)}


def usual_share(balancing: Balancing, change: Change, sessions: tuple[int, ...]) -> float:
    shares = _shares(balancing, change, sessions, COMPARED)
    return round(sum(shares) / len(shares), 4)


@lru_cache(maxsize=64)
def _shares(balancing: Balancing, change: Change, sessions: tuple[int, ...], draws: int) -> tuple[float, ...]:
    """The share that moved in each draw. The seed is fixed, so every run gives the same result."""
    now = balancing.place(balancing.hosts, sessions)
    chance = random.Random(f"{sorted(balancing.hosts)}/{change.pods}")
    return tuple(_moved(now, balancing.place(change.draw(chance), sessions)) for _draw in range(1 if change.known else draws))


def _moved(now: Sequence[str], then: Sequence[str]) -> float:
    return sum(1 for one, other in zip(now, then, strict=True) if one != other) / len(now)
