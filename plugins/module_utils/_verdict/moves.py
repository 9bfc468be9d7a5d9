# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which sessions moved, and whether a change of the backends explains it. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._membership import PUSH_DELAY, changes, gateway_changes
from ansible_collections.meshops.istio.plugins.module_utils._model import Checkpoint, ClientPod, Membership
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import Trace
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import ClientWindow, SessionFate, Window


@dataclass(frozen=True)
class Changes:
    """How often the membership may have changed for one client: `counts[0]` between the survey and the first checkpoint,
    `counts[n]` in segment n-1, and the last one between the last checkpoint and the end. `times` are those of the checkpoints."""

    counts: tuple[int, ...]
    times: tuple[float, ...] = ()

    def usable(self, first: int, last: int) -> Iterator[int]:
        """The positions of changes that can explain a move between two segments: in them, or within `PUSH_DELAY` before."""
        start = self.times[first] - PUSH_DELAY if first < len(self.times) else -math.inf
        for number in range(min(last + 2, len(self.counts))):
            if number > first or (number < len(self.times) and self.times[number] >= start):
                yield number


def changes_of(before: Membership, checkpoints: Sequence[Checkpoint], after: Membership) -> Changes:
    """From the API server, or from this client's Envoy. A change of the gateway's pods counts too: from then on another
    pod balances, maybe with another configuration."""
    members = [before, *(checkpoint.membership for checkpoint in checkpoints), after]
    counts = [changes(first, second) for first, second in itertools.pairwise(members)]
    for number, (first, second) in enumerate(itertools.pairwise(checkpoints), 1):
        if not counts[number] and first.eligible() and second.eligible():
            counts[number] = int(set(first.eligible()) != set(second.eligible()))
        counts[number] += gateway_changes(first, second)
    return Changes(tuple(counts), tuple(checkpoint.at for checkpoint in checkpoints))


def is_explained(trace: Trace, segments: Sequence[range], changes: Changes) -> bool:
    """Whether each move has a change of its own, in the segments in which the move may have happened or shortly before.

    A session that moves back and forth needs as many changes as moves: while a pod is replaced, the ring can give a
    session to a neighbour and take it back, so moving back alone proves nothing. Without a rule, moves soon outnumber
    changes.
    """
    if trace.overflow:
        return False
    left = list(changes.counts)
    for run, following in itertools.pairwise(trace.runs):
        between = changes.usable(_segment(run.last, segments), _segment(following.first, segments))
        number = next((number for number in between if left[number] > 0), None)
        if number is None:
            return False
        left[number] -= 1
    return True


def _segment(number: int, segments: Sequence[range]) -> int:
    return next((position for position, rounds in enumerate(segments) if number in rounds), len(segments) - 1)


def session_fates(window: Window) -> Iterable[SessionFate]:
    """Every session with its landing pods, over all clients that sent it. If the other side issues the keys, or the client's
    own address is the key, the values differ and each client has its own sessions. Clients are not compared either if the
    gateway ignored the source addresses and each client was one source."""
    changes_by_client = {entry.client: changes_of(window.before, entry.checkpoints, window.after) for entry in window.client_windows}
    apart = window.key.issued or window.key.own
    groups = [(entry,) for entry in window.client_windows] if apart else [window.client_windows]
    compared = not (window.via and one_source_each(window))
    for group in groups:
        prefix = f"{group[0].client.pod}: " if window.key.issued and len(groups) > 1 else ""
        for position, session in enumerate(group[0].plan.sessions):
            yield _fate(f"{prefix}{session}", position, group, changes_by_client, compared)


def _fate(name: str, position: int, group: Sequence[ClientWindow], changes_by_client: dict[ClientPod, Changes], compared: bool) -> SessionFate:
    traces = {entry.client: entry.traces[position] for entry in group}
    pods: dict[str, int] = {}
    for trace in traces.values():
        for pod, count in trace.counts.items():
            pods[pod] = pods.get(pod, 0) + count
    verdicts = [is_explained(trace, entry.segments, changes_by_client[entry.client]) for entry in group if (trace := traces[entry.client]).moves]
    split = _clients_disagree(traces, changes_by_client) if compared else None
    moved = bool(verdicts) or split is not None
    explained = all(verdicts) and split is not False if moved else None
    by_client = {str(client): dict(trace.counts) for client, trace in traces.items()}
    return SessionFate(name, pods, by_client, moved, explained, requested=position < group[0].plan.requested)


def _clients_disagree(traces: dict[ClientPod, Trace], changes_by_client: dict[ClientPod, Changes]) -> bool | None:
    """None if the session last landed on the same pod from all clients, else whether a change of the backends can explain it."""
    lasts = {trace.runs[-1].pod for trace in traces.values() if trace.runs}
    if len(lasts) < 2:
        return None
    return any(any(changed.counts) for changed in changes_by_client.values())


def one_source_each(window: Window) -> bool:
    """Whether each client reached only one pod, whatever source address its requests named."""
    return window.key.type == "source_ip" and not window.key.own and all(len(entry.pods()) == 1 for entry in window.client_windows)
