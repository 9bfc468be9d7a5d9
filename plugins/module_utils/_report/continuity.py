# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a session landed on the same pod as in the last run. Pure.

Consistent hashing gives a session the same pod as long as the backends do not change, across runs as within one. A session
on another pod with the same backends deserves attention (for example, the rule hashed differently in between). It does not
affect the status: only measurements within a run do.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from ansible_collections.meshops.istio.plugins.module_utils._report.model import (
    BACKENDS_CHANGED,
    MOVED,
    NOT_AVAILABLE,
    SAME,
    BackendSeen,
    Continuity,
    Landing,
    LiveResult,
    ServiceReport,
)


def continuity(result: LiveResult | None, past: ServiceReport | None) -> Continuity | None:
    """None if nothing was probed."""
    if result is None or not result.sessions:
        return None
    if values_change(result):
        return _unknown("the values of this key are new in each run")
    if past is None or past.live is None or not past.live.sessions:
        return _unknown("the last run has nothing to compare with")
    return compared(result, past.live, past.history[-1].time if past.history else None)


def compared(result: LiveResult, last: LiveResult, when: str | None) -> Continuity:
    before, now = landings(last), landings(result)
    both = [name for name in now if name in before]
    if not both:
        return _unknown("no session of the last run was sent again")
    moved = tuple(Landing(name, before[name], now[name]) for name in both if before[name] != now[name])
    kept = len(both) - len(moved)
    old, new = pods(last.backends), pods(result.backends)
    if old != new:
        detail = f"the backends changed ({len(old - new)} removed, {len(new - old)} added); {kept} of {len(both)} sessions kept their pod"
        return Continuity(BACKENDS_CHANGED, detail, when, len(both), kept, ())
    if moved:
        detail = f"the backends are the same, but {len(moved)} of {len(both)} sessions landed on another pod"
        return Continuity(MOVED, detail, when, len(both), kept, moved)
    return Continuity(SAME, f"the backends are the same, and all {len(both)} sessions landed on the same pod", when, len(both), kept, ())


def values_change(result: LiveResult) -> bool:
    """Whether the values of the key differ between runs: source addresses do, and cookies may if there was no prediction."""
    return result.key is not None and (result.key.type == "source_ip" or (result.key.type == "cookie" and not result.prediction.available))


def landings(result: LiveResult) -> dict[str, str]:
    """The pod of each session that stayed on one."""
    return {session.id: next(iter(session.pods)) for session in result.sessions if len(session.pods) == 1 and not session.moved}


def pods(backends: tuple[BackendSeen, ...]) -> set[str]:
    return {backend.uid or backend.pod for backend in backends}


def _unknown(why: str) -> Continuity:
    return Continuity(NOT_AVAILABLE, why, None, 0, 0, ())
