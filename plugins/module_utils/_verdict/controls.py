# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controls that keep a result from being right by accident. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import math

from ansible_collections.meshops.istio.plugins.module_utils._membership import addresses_by_pod
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Control, Window

# Fewer answers than this without the key can all meet one pod by chance (two pods, ten answers: 1 in 512).
KEYLESS_ENOUGH = 10
SURPRISE = 0.001


def eligibility(window: Window) -> dict[str, bool | None]:
    """For each pod that the route's cluster selects from, whether it was eligible, by any of its addresses, in every client's
    Envoy at the last checkpoint; None if no Envoy was read."""
    views = [view for entry in window.client_windows for view in entry.last_views()]
    addresses, pool = addresses_by_pod(window.after), window.pool()
    return {pod: all(addresses[pod] & view.eligible() for view in views) if views else None for pod in addresses if pod in pool}


def spread_control(window: Window, eligible: dict[str, bool | None]) -> Control:
    """Different sessions must use all ready backends, except those that chance leaves out."""
    barred = sorted(pod for pod, can in eligible.items() if can is False)
    if barred:
        pods = f"{barred[0]} and {len(barred) - 1} more" if len(barred) > 1 else barred[0]
        return Control("failed", f"ready backends that are not eligible in a client's Envoy: {pods}; check locality settings, subsets and outlier detection")
    ready = window.pool()
    if len(ready) < 2:
        return Control("not_applicable", f"{len(ready)} ready backends")
    worst = 1.0
    unused: frozenset[str] = frozenset()
    for entry in window.client_windows:
        used = entry.pods()
        sessions = sum(1 for trace in entry.traces if trace.counts)
        chance = unused_chance(len(ready), len(ready - used), sessions)
        if chance < worst:
            worst, unused = chance, ready - used
    if worst < SURPRISE:
        return Control("failed", f"{len(unused)} of {len(ready)} ready backends got no session (chance {worst:.1g}): {', '.join(sorted(unused)[:3])}")
    return Control("passed", f"{len(ready - unused)} of {len(ready)} ready backends got sessions")


def unused_chance(backends: int, unused: int, sessions: int) -> float:
    """An upper bound of the chance that a healthy ring leaves this many backends without a session.

    The smallest share of a backend, relative to an equal share, was measured on rings of 1,024 points. Using it for all
    backends overstates the chance, which errs on the safe side.
    """
    if not unused:
        return 1.0
    smallest = 0.92 if backends <= 4 else 0.85 if backends < 10 else 0.7
    return min(1.0, math.comb(backends, unused) * (1 - unused * smallest / backends) ** sessions)


def keyless_control(window: Window) -> Control:
    """Requests without the key must spread; otherwise something other than the key makes sessions stick."""
    if not window.client_windows[0].plan.keyless:
        return Control("not_applicable", "requests without the key were not sent")
    for entry in window.client_windows:
        identified = sum(entry.keyless.values())
        if len(entry.keyless) > 1:
            continue
        if identified < KEYLESS_ENOUGH:
            return Control("not_applicable", f"{identified} of {entry.plan.keyless} requests without the key from {entry.client} were answered by a known pod")
        return Control("failed", f"all {identified} requests without the key from {entry.client} reached one pod, so something other than the key decides")
    counts = [f"{len(entry.keyless)} pods" for entry in window.client_windows]
    return Control("passed", f"requests without the key reached {', '.join(counts)}")
