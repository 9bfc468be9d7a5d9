# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drawings of the page, as SVG without text. The page shows the same in words or in a table next to them. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.meshops.istio.plugins.module_utils._report.markup import Html, each, join, tag
from ansible_collections.meshops.istio.plugins.module_utils._report.model import GREEN, NOT_APPLICABLE, RED, WAIVED, Past, RunPast, SessionSeen
from ansible_collections.meshops.istio.plugins.module_utils._report.style import HUES

# The height of a run in the strip, which shows the status without its colour too.
HEIGHTS = {RED: 1.0, WAIVED: 0.75, GREEN: 0.45, NOT_APPLICABLE: 0.15}
WORDS = {RED: "red", WAIVED: "waived", GREEN: "green", NOT_APPLICABLE: "not applicable"}
GLYPHS = {RED: "✕", WAIVED: "!", GREEN: "✓", NOT_APPLICABLE: "—"}
MOST_RUNS = 48


def badge(status: str, word: str | None = None) -> Html:
    return tag("span", tag("span", GLYPHS.get(status, "?"), aria_hidden="true"), " ", word or WORDS.get(status, status), class_=f"badge {status}")


def strip(history: Sequence[Past | RunPast]) -> Html:
    """The last runs from left to right: high is red."""
    runs = history[-MOST_RUNS:]
    squares: dict[str, str] = {}
    for place, run in enumerate(runs, start=MOST_RUNS - len(runs)):
        height = HEIGHTS.get(run.status, 0.1)
        squares[run.status] = squares.get(run.status, "") + f"M{place} {1 - height:g}h.8v{height:g}h-.8z"
    paths = [tag("path", d=path, class_=status) for status, path in squares.items()]
    return tag("svg", *paths, class_="strip", viewBox=f"0 0 {MOST_RUNS} 1", preserveAspectRatio="none", role="img", aria_label=strip_in_words(runs))


def strip_in_words(runs: Sequence[Past | RunPast]) -> str:
    counts = {status: sum(1 for run in runs if run.status == status) for status in HEIGHTS}
    words = ", ".join(f"{count} {WORDS[status]}" for status, count in counts.items() if count)
    return f"The last {len(runs)} runs: {words}" if len(runs) != 1 else f"One run: {words}"


def in_order(sessions: Sequence[SessionSeen], pods: Sequence[str]) -> list[SessionSeen]:
    """Sessions by pod, moved ones last: sessions that stick form stairs."""
    place = {pod: number for number, pod in enumerate(pods)}

    def rank(session: SessionSeen) -> tuple[bool, int, str]:
        most = max(session.pods, key=lambda pod: session.pods[pod], default="")
        return session.moved or len(session.pods) > 1, place.get(most, len(place)), session.id

    return sorted(sessions, key=rank)


def lane(pod: str, number: int, sessions: Sequence[SessionSeen]) -> Html:
    """One pod's row of the map: a column for each session, filled where the session landed on the pod."""
    steady = ""
    cells: list[Html] = []
    for place, session in enumerate(sessions):
        count = session.pods.get(pod, 0)
        if count > 0:
            if session.moved or len(session.pods) > 1:
                cells.append(_moved(place, count, session))
            else:
                steady += f"M{place} 0h.86v1h-.86z"
        if session.predicted == pod and session.pods and count <= 0:
            cells.append(tag("rect", x=place + 0.1, y=0.08, width=0.66, height=0.84, class_="off"))
    fill = tag("path", d=steady, class_=f"p{number % HUES}") if steady else None
    return tag("svg", join(fill, each(cells)), class_="lane", viewBox=f"0 0 {max(1, len(sessions))} 1", preserveAspectRatio="none", aria_hidden="true")


def _moved(place: int, count: int, session: SessionSeen) -> Html:
    """A cell of a session that moved: the more of its requests, the stronger."""
    share = count / max(1, sum(session.pods.values()))
    kind = "explained" if session.explained else "moved"
    title = tag("title", f"{session.id}: {count} requests")
    return tag("rect", title, x=place, y=0, width=0.86, height=1, class_=kind, fill_opacity=f"{0.3 + 0.7 * share:.2f}")


def share_bar(share: float) -> Html:
    """A share of the whole width, 0 to 1."""
    return tag("span", tag("span", class_="bar", style=f"width:{min(1.0, max(0.0, share)):.1%}"), class_="track", aria_hidden="true")
