# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a run needs more rounds than planned for a verdict, and how many. Pure.

A plan of ours has as many requests as prove the bound if nothing is lost. More rounds are sent, once, for one of three reasons:

* The landing pods cannot be computed, so the first request of each session is no trial. One round more makes up for it. Nothing
  that was measured decides this, apart from a prediction that did not fit, which cannot fit by accident afterwards.
* Responses were lost. The bound that is then to be reached holds at a higher confidence (`SECOND_LOOK`), because a second look
  at the same measurement is a second chance to be wrong.
* Sessions moved, and changes of the backends explain it. Without a rule, moves soon outnumber the changes.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._model import INCONCLUSIVE
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import FIRST_LOOK, MOST_LONGER, MOVING_ROUNDS, SECOND_LOOK, Plan, least_trials
from ansible_collections.meshops.istio.plugins.module_utils._verdict.bounds import trials_of, upper_bound
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Verdict, Window


def further_plans(window: Window, verdict: Verdict, room: int | None = None) -> list[Plan] | None:
    """The plans with the rounds that are still to be sent, for each client; None if more would not change the verdict, or are
    more than `room`."""
    plans = [entry.plan for entry in window.client_windows]
    rounds, confidence = _needed(window, verdict)
    each_round = sum(len(plan.sessions) for plan in plans)
    if room is not None and rounds * each_round > room:
        # Fewer rounds may still show that moves outnumber the changes; fewer than the bound needs show nothing.
        rounds = room // each_round if any(fate.moved for fate in verdict.fates) else 0
    ours = all(plan.rate is not None and not plan.extra for plan in plans)
    unbroken = not any(entry.failure for entry in window.client_windows)
    if verdict.verdict != INCONCLUSIVE or not ours or not unbroken or not rounds:
        return None
    return [replace(plan, extra=rounds, confidence=confidence) for plan in plans]


def _needed(window: Window, verdict: Verdict) -> tuple[int, float]:
    """How many rounds more, and the confidence at which the bound is to be reached."""
    trials, lost = trials_of(window, verdict.prediction.available), sum(entry.planned - entry.identified for entry in window.client_windows)
    each_round = sum(len(entry.plan.sessions) for entry in window.client_windows)
    if any(fate.moved for fate in verdict.fates):
        return max(0, MOVING_ROUNDS - window.client_windows[0].plan.rounds), FIRST_LOOK
    if not all(entry.identified for entry in window.client_windows):
        return 0, FIRST_LOOK
    confidence = SECOND_LOOK if lost else FIRST_LOOK
    most = MOST_LONGER * least_trials(window.max_flip_rate)
    # Lost responses are rarely alone.
    allowed = lost + 1 if lost else 0
    wanted = next((count for count in range(trials, most, each_round) if upper_bound(allowed, count, confidence) <= window.max_flip_rate), trials)
    return (wanted - trials) // each_round, confidence
