# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bounds on what the measurement may have missed. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import math

from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import CONFIDENCE
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Window


def flip_bound(window: Window, predicted: bool) -> float:
    """The upper bound of the share of requests on which a session leaves its pod, at the window's confidence; each request
    without an identified response counts as one that did.

    Where the landing pod of every session was computed from Envoy's state, and every session landed there, each request
    was a trial. Otherwise the first request of a session only shows which pod is its own.
    """
    trials = trials_of(window, predicted)
    lost = sum(entry.planned - entry.identified for entry in window.client_windows)
    return upper_bound(min(lost, trials), trials, window.confidence) if trials > 0 else 1.0


def trials_of(window: Window, predicted: bool) -> int:
    return sum(len(entry.plan.sessions) * (entry.plan.all_rounds - (0 if predicted else 1)) for entry in window.client_windows)


def upper_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided upper bound: the rate at which this many events or fewer have chance 1-confidence."""
    if events >= trials:
        return 1.0
    if not events:
        return 1.0 - math.pow(1.0 - confidence, 1.0 / trials)
    ways = math.lgamma(trials + 1) - math.lgamma(events + 1) - math.lgamma(trials - events + 1)
    low, high = events / trials, 1.0
    for _step in range(40):
        middle = (low + high) / 2
        if _at_most(events, trials, middle, ways) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(events: int, trials: int, rate: float, ways: float) -> float:
    """The binomial chance of at most this many events, summed downwards from the largest term, for rate >= events/trials;
    `ways` is the logarithm of the number of ways to choose the events."""
    total = term = math.exp(ways + events * math.log(rate) + (trials - events) * math.log1p(-rate))
    for number in range(events, 0, -1):
        term *= number / (trials - number + 1) * (1 - rate) / rate
        total += term
        if term < total * 1e-12:
            break
    return total


def false_pass_bound(window: Window) -> float | None:
    """The chance that random balancing over the ready backends would have shown no move either."""
    backends = len(window.pool())
    repeats = sum(max(0, sum(trace.counts.values()) - 1) for entry in window.client_windows for trace in entry.traces)
    return math.pow(backends, -repeats) if backends > 1 and repeats * math.log10(backends) < 300 else (0.0 if backends > 1 else None)
