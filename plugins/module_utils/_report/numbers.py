# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Numbers and times in readable form. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from ansible_collections.meshops.istio.plugins.module_utils._report.markup import Html, join, tag
from ansible_collections.meshops.istio.plugins.module_utils._report.model import time_of

NONE = "—"


def moment(text: str | None) -> Html:
    """A time in UTC, with a machine-readable attribute."""
    time = time_of(text)
    if time is None:
        return join(text or NONE)
    return tag("time", time.strftime("%Y-%m-%d %H:%M UTC"), datetime=text)


def percent(share: float | None) -> str:
    if share is None:
        return NONE
    return f"{share:.2%}" if share >= 0.0001 or share <= 0 else f"{share * 100:.0e} %"


def chance(value: float | None) -> str:
    """A probability, which may be very small."""
    if value is None:
        return NONE
    if value >= 0.0001:
        return f"{value:.2%}"
    return f"1 in {1 / value:,.0f}" if value > 1e-12 else "less than 1 in 1,000,000,000,000"


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def milliseconds(value: float | None) -> str:
    return NONE if value is None else f"{value:g} ms"
