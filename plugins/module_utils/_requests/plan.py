# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of the requests: sessions times rounds, plus controls, shuffled by a seed. Pure.

Round-major: every session is sent once before any is sent again, so that a short disturbance meets all sessions
and not the requests of one. Requests without the key are dealt over the rounds for the same reason.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key

SPREAD_SESSIONS = 20
KEYLESS_REQUESTS = 15
# A run has segments with a checkpoint between them: enough to date a change, and still fast.
SEGMENTS = 4
# curl 7.88 keeps about 1.8 KB for each transfer of its configuration until it ends.
BATCH = 5000
# Of all sessions together; requests without the key come on top.
MOST_REQUESTS = 1_000_000


# The chance of a wrong bound is 5 %. Where the plan is ours, it is shared between a first look at the end of the plan and a second
# one after more rounds, for which lost responses are the reason: two looks at 95 % each would be wrong more often.
CONFIDENCE, FIRST_LOOK, SECOND_LOOK = 0.95, 0.955, 0.995
# One round shows no move, and a prediction alone is not to be trusted.
LEAST_ROUNDS = 2
# Twelve for each of six backends; with more backends the prediction shows the spread.
ENOUGH_SESSIONS = 72
# A second look may take this many times the requests of the first.
MOST_LONGER = 5
# After so many rounds a session that is not kept has moved more often than pods come and go.
MOVING_ROUNDS = 20


@dataclass(frozen=True)
class Profile:
    """Sizes of a run: sessions at least, per backend and at most; the rate of moves that the requests suffice to exclude, and
    the bound to reach."""

    sessions: int
    per_backend: int
    most_sessions: int
    rate: float
    max_flip_rate: float


# Twelve sessions a backend leave a ready pod of a healthy ring without a session in fewer than 1 of 1,000 runs.
PROFILES = {
    "quick": Profile(20, 12, 120, 0.08, 0.08),
    "default": Profile(20, 12, 120, 0.02, 0.02),
    "deep": Profile(60, 12, 120, 0.001, 0.02),
}


def least_trials(rate: float, confidence: float = FIRST_LOOK) -> int:
    """The fewest trials without an event that exclude this rate of events."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate)) if rate < 1 else 1


@dataclass(frozen=True)
class Request:
    """One request: `session` is the position in the plan's sessions, or None for a request without the key."""

    index: int
    session: int | None
    round: int


@dataclass(frozen=True)
class Plan:
    """What one client sends. `sessions` are key values; the user asked for the first `requested` of
    them, and the others were added for the spread control. `extra` are rounds that were added to the planned ones later.
    `rate` is the rate of moves that the plan is made to exclude, None if the number of rounds is the user's."""

    key: Key
    sessions: tuple[str, ...]
    requested: int
    rounds: int
    keyless: int
    seed: int
    extra: int = 0
    rate: float | None = None
    confidence: float = CONFIDENCE

    @property
    def all_rounds(self) -> int:
        return self.rounds + self.extra

    @property
    def keyed(self) -> int:
        """The number of requests with the key."""
        return len(self.sessions) * self.all_rounds

    @property
    def total(self) -> int:
        return self.keyed + self.keyless

    def segments(self) -> Iterator[list[range]]:
        """The planned rounds in at most `SEGMENTS` groups, each group in batches of a size that curl can handle."""
        return self._grouped(0, self.rounds)

    def extra_segments(self) -> Iterator[list[range]]:
        """The rounds that were added, in the same way."""
        return self._grouped(self.rounds, self.all_rounds)

    def _grouped(self, begin: int, end: int) -> Iterator[list[range]]:
        per_round = len(self.sessions) + -(-self.keyless // self.rounds)
        in_batch = max(1, BATCH // per_round)
        size = max(1, -(-(end - begin) // SEGMENTS))
        for start in range(begin, end, size):
            stop = min(start + size, end)
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
        return self.keyless * min(number, self.rounds) // self.rounds


def generated(key: Key, number: int) -> str:
    """A generated session ID, counted from 1. Addresses are from the range reserved for benchmarks (RFC 2544)."""
    if key.type == "source_ip":
        return f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 255}.{number & 255}"
    return f"meshops-check-{number}"


@dataclass(frozen=True)
class Need:
    """What a plan must show, and at what price: the bound to reach (None: the profile's), the number of client pods, the most
    requests of all of them together, and whether Envoy's state may tell where each session lands."""

    max_flip_rate: float | None = None
    clients: int = 1
    cap: int | None = None
    predictable: bool = True


def make_plan(
    key: Key,
    given: Sequence[str] | None,
    count: int | None,
    requests: int | None,
    profile: Profile,
    backends: int,
    seed: int,
    keyless: bool = True,
    need: Need = Need(),
) -> Plan:
    """Sessions as given (or counted, or by profile), filled up to what the spread control needs, and as few rounds as
    exclude the rate of moves. A plan of ours gets smaller to fit the cap, as long as it can still reach the bound."""
    keyless_requests = KEYLESS_REQUESTS if keyless else 0
    fixed = max(len(given) if given else count or 0, SPREAD_SESSIONS) if given or count else None
    sizes = [(fixed or _wanted(profile, backends), requests)] if requests else list(_sizes(profile, backends, fixed, keyless_requests, need))
    room = need.cap // need.clients if need.cap is not None else None
    number, rounds = next((size for size in sizes if room is None or size[0] * size[1] + keyless_requests <= room), sizes[-1])
    ids = list(given) if given else [generated(key, place) for place in range(1, (count or number) + 1)]
    sessions = _filled(key, ids, SPREAD_SESSIONS)
    rate = None if requests else min(profile.rate, need.max_flip_rate or 1.0)
    confidence = CONFIDENCE if requests else FIRST_LOOK
    plan = Plan(key, tuple(sessions), len(ids), rounds, keyless_requests, seed, rate=rate, confidence=confidence)
    if plan.keyed > MOST_REQUESTS:
        raise CheckError("too_many_requests", f"{plan.keyed} requests are more than the cap of {MOST_REQUESTS}. Next: lower sessions or requests.")
    return plan


def _wanted(profile: Profile, backends: int) -> int:
    return min(max(profile.sessions, profile.per_backend * backends), profile.most_sessions)


def _sizes(profile: Profile, backends: int, fixed: int | None, keyless: int, need: Need) -> Iterator[tuple[int, int]]:
    """Sessions and rounds, the best first: each client excludes the profile's rate of moves; as much of that as fits the cap;
    each client reaches the bound; all clients together reach it."""
    bound = need.max_flip_rate or profile.max_flip_rate
    full, enough = least_trials(min(profile.rate, bound)), least_trials(bound)
    room = need.cap // need.clients - keyless if need.cap is not None else full
    for trials in (full, min(full, max(enough, room - (fixed or _wanted(profile, backends)))), enough, -(-enough // need.clients)):
        # Where each session lands is computed, which shows the spread too, and then no more sessions are needed than requests.
        most = max(ENOUGH_SESSIONS, -(-trials // LEAST_ROUNDS)) if need.predictable else profile.most_sessions
        wanted = fixed or min(_wanted(profile, backends), most)
        rounds = max(LEAST_ROUNDS, -(-trials // fixed) if fixed else trials // wanted)
        sessions = fixed or max(wanted, -(-trials // rounds))
        yield sessions, rounds if need.predictable else rounds + 1


def _filled(key: Key, ids: Sequence[str], least: int) -> list[str]:
    sessions = list(ids)
    number = 1
    while len(sessions) < least:
        filler = generated(key, number)
        if filler not in sessions:
            sessions.append(filler)
        number += 1
    return sessions


def of_one_source(plan: Plan, address: str) -> Plan:
    """The same number of requests for a client that is itself the session: all have its own address."""
    return replace(plan, sessions=(address,), requested=1, rounds=plan.rounds * len(plan.sessions))
