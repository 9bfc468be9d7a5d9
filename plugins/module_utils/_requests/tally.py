# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Observations folded as they arrive, so that memory grows with sessions and pods and not with requests. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Checkpoint, ClientPod
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD, Observation
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan, Request

# More runs than this in one session need more membership changes than any window has; further runs are only counted.
MOST_RUNS = 64
# An identity header with more values than this identifies requests, not pods.
MOST_IDENTITIES = 2048
# No name or address of a pod is longer.
LONGEST_IDENTITY = 1024
BUCKETS_PER_E = 20


@dataclass
class Run:
    """Rounds `first` to `last`, with the same pod in every round that has a response."""

    first: int
    last: int
    pod: str


@dataclass
class Trace:
    """The pods of one session, as runs in the order of the rounds. Responses may arrive out of order."""

    runs: list[Run] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    overflow: bool = False

    def add(self, number: int, pod: str) -> None:
        self.counts[pod] += 1
        if not self.runs or number > self.runs[-1].last:
            if self.runs and self.runs[-1].pod == pod:
                self.runs[-1].last = number
            elif len(self.runs) < MOST_RUNS:
                self.runs.append(Run(number, number, pod))
            else:
                self.overflow = True
        else:
            self.runs = joined(_inserted(self.runs, Run(number, number, pod)))

    def mapped(self, pods: dict[str, str]) -> Trace:
        """The same trace with other names; runs whose names become equal are joined, unknown names are dropped."""
        runs = [Run(run.first, run.last, pods[run.pod]) for run in self.runs if run.pod in pods]
        counts: Counter[str] = Counter()
        for name, count in self.counts.items():
            if name in pods:
                counts[pods[name]] += count
        return Trace(joined(runs), counts, self.overflow)

    @property
    def moves(self) -> int:
        return max(0, len(self.runs) - 1)


def _inserted(runs: list[Run], new: Run) -> list[Run]:
    """The runs with a late response inserted, which may split a run of another pod."""
    result: list[Run] = []
    placed = False
    for run in runs:
        if not placed and new.first < run.first:
            result.append(new)
            placed = True
        if not placed and run.first <= new.first <= run.last:
            placed = True
            if run.pod == new.pod:
                result.append(run)
                continue
            if run.first < new.first:
                result.append(Run(run.first, new.first - 1, run.pod))
            result.append(new)
            if new.first < run.last:
                result.append(Run(new.first + 1, run.last, run.pod))
            continue
        result.append(run)
    return result if placed else [*result, new]


def joined(runs: Iterable[Run]) -> list[Run]:
    result: list[Run] = []
    for run in runs:
        if result and result[-1].pod == run.pod:
            result[-1] = Run(result[-1].first, run.last, run.pod)
        else:
            result.append(run)
    return result


@dataclass
class Latencies:
    """Seconds in buckets that are 5 % wide, which is the accuracy of the percentiles."""

    buckets: Counter[int] = field(default_factory=Counter)
    highest: float = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[round(math.log(max(seconds, 1e-6)) * BUCKETS_PER_E)] += 1
        self.highest = max(self.highest, seconds)

    def merge(self, other: Latencies) -> None:
        self.buckets.update(other.buckets)
        self.highest = max(self.highest, other.highest)

    def percentile(self, share: float) -> float | None:
        """The seconds within which this share (0 to 1) of the responses arrived; None without responses."""
        left = share * sum(self.buckets.values())
        if not self.buckets:
            return None
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return math.exp(bucket / BUCKETS_PER_E)
        return self.highest


@dataclass
class Tally:
    """The aggregated responses of one client. Identities are raw here: they are mapped to pods at the end, when all pods of
    the window are known."""

    sessions: list[Trace]
    keyless: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    answered: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    # Of these, the error responses that a proxy wrote instead of the application.
    by_proxy: Counter[str] = field(default_factory=Counter)
    # curl's exit codes of the requests without a response, and those of curl itself where it was killed.
    by_exit: Counter[int] = field(default_factory=Counter)
    killed: Counter[int] = field(default_factory=Counter)
    # The pods that sampled responses name, where the responses do not identify the backend.
    samples: list[frozenset[str]] = field(default_factory=list)
    identities: set[str] = field(default_factory=set)
    latencies: Latencies = field(default_factory=Latencies)

    def add(self, request: Request, observation: Observation) -> None:
        if not observation.answered:
            self.by_exit[observation.exit] += 1
            return
        self.answered += 1
        self.by_status[str(observation.status)] += 1
        if observation.by_proxy:
            self.by_proxy[str(observation.status)] += 1
        self.latencies.add(observation.seconds)
        if observation.identity.strip(FIELD) == "" or len(observation.identity) > LONGEST_IDENTITY or not self._known(observation.identity):
            return
        if request.session is None:
            self.keyless[observation.identity] += 1
        else:
            self.sessions[request.session].add(request.round, observation.identity)

    def _known(self, identity: str) -> bool:
        if identity not in self.identities and len(self.identities) < MOST_IDENTITIES:
            self.identities.add(identity)
        return identity in self.identities


@dataclass
class ClientRun:
    """The outcome of one client; `failure` is set if the run was interrupted after it started."""

    client: ClientPod
    curl: str | None
    plan: Plan
    tally: Tally
    method: str = "header"
    checkpoints: list[Checkpoint] = field(default_factory=list)
    segments: list[range] = field(default_factory=list)
    failure: CheckError | None = None
    elapsed: float = 0.0
    # The run ended early because a session had moved (the option fail_fast).
    moved: bool = False
