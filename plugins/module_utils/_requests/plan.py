# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of the requests: sessions times rounds, plus controls, shuffled by a seed. Pure.

Round-major: every session is sent once before any is sent again, so that a short disturbance meets all sessions
and not the requests of one. Requests without the key are dealt over the rounds for the same reason.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key

SPREAD_SESSIONS = 20
KEYLESS_REQUESTS = 20
# A run has segments with a checkpoint between them: enough to date a change, and still fast.
SEGMENTS = 4
# curl 7.88 keeps about 1.8 KB for each transfer of its configuration until it ends.
BATCH = 5000
# Of all sessions together; requests without the key come on top.
MOST_REQUESTS = 1_000_000


@dataclass(frozen=True)
class Profile:
    """Sizes of a run: sessions at least, per backend and at most, requests a session, the bound to reach."""

    sessions: int
    per_backend: int
    most_sessions: int
    requests: int
    max_flip_rate: float


# Twelve sessions a backend leave a ready pod of a healthy ring without a session in fewer than 1 of 1,000 runs.
# Three requests a session cannot prove a rate below 6 %, whatever is measured, hence the bound of the profile quick.
PROFILES = {
    "quick": Profile(20, 12, 120, 3, 0.08),
    "default": Profile(20, 12, 120, 20, 0.02),
    "deep": Profile(60, 12, 120, 50, 0.02),
}


@dataclass(frozen=True)
class Request:
    """One request: `session` is the position in the plan's sessions, or None for a request without the key."""

    index: int
    session: int | None
    round: int


@dataclass(frozen=True)
class Plan:
    """What one client sends. `sessions` are key values; the user asked for the first `requested` of
    them, and the others were added for the spread control."""

    key: Key
    sessions: tuple[str, ...]
    requested: int
    rounds: int
    keyless: int
    seed: int

    @property
    def total(self) -> int:
        return len(self.sessions) * self.rounds + self.keyless

    def segments(self) -> Iterator[list[range]]:
        """The rounds in at most `SEGMENTS` groups, each group in batches of a size that curl can handle."""
        per_round = len(self.sessions) + -(-self.keyless // self.rounds)
        in_batch = max(1, BATCH // per_round)
        size = -(-self.rounds // SEGMENTS)
        for start in range(0, self.rounds, size):
            stop = min(start + size, self.rounds)
            yield [range(first, min(first + in_batch, stop)) for first in range(start, stop, in_batch)]

    def requests(self, rounds: Sequence[int]) -> Iterator[Request]:
        """The requests of these rounds in sending order, which does not depend on the batches."""
        for number in rounds:
            slots: list[int | None] = list(range(len(self.sessions)))
            first, last = self._keyless_before(number), self._keyless_before(number + 1)
            slots.extend([None] * (last - first))
            random.Random(f"{self.seed}/{number}").shuffle(slots)
            index = number * len(self.sessions) + first
            for offset, session in enumerate(slots):
                yield Request(index + offset, session, number)

    def _keyless_before(self, number: int) -> int:
        return self.keyless * number // self.rounds


def generated(key: Key, number: int) -> str:
    """A generated session ID, counted from 1. Addresses are from the range reserved for benchmarks (RFC 2544)."""
    if key.type == "source_ip":
        return f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 255}.{number & 255}"
    return f"meshops-check-{number}"


def make_plan(
    key: Key,
    given: Sequence[str] | None,
    count: int | None,
    requests: int | None,
    profile: Profile,
    backends: int,
    seed: int,
    keyless: bool = True,
) -> Plan:
    """Sessions as given (or counted, or by profile), filled up to what the spread control needs."""
    wanted = min(max(profile.sessions, profile.per_backend * backends), profile.most_sessions)
    sessions = list(given) if given else [generated(key, number) for number in range(1, (count or wanted) + 1)]
    requested = len(sessions)
    number = 1
    while len(sessions) < SPREAD_SESSIONS:
        filler = generated(key, number)
        if filler not in sessions:
            sessions.append(filler)
        number += 1
    rounds = requests or profile.requests
    plan = Plan(key, tuple(sessions), requested, rounds, KEYLESS_REQUESTS if keyless else 0, seed)
    asking = len(sessions) * rounds
    if asking > MOST_REQUESTS:
        raise CheckError("too_many_requests", f"{asking} requests are more than the cap of {MOST_REQUESTS}. Next: lower sessions or requests.")
    return plan


def of_one_source(plan: Plan, address: str) -> Plan:
    """The same number of requests for a client that is itself the session: all have its own address."""
    return replace(plan, sessions=(address,), requested=1, rounds=plan.rounds * len(plan.sessions))
