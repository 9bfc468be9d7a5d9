# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as lines for a terminal. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import unicodedata

from ansible_collections.meshops.istio.plugins.module_utils._report.model import NOT_APPLICABLE, Report, ServiceReport

WIDTH = 100
STATUS = {NOT_APPLICABLE: "n/a"}


def to_table(report: Report) -> list[str]:
    """One line for each service, with the reason below if it is red or waived."""
    summary = report.summary
    counts = f"{summary.red} red, {summary.green} green, {summary.waived} waived, {summary.not_applicable} not applicable"
    lines = [f"{report.cluster}: {report.status.upper()} at {report.time} ({counts})"]
    if report.error is not None:
        lines.append(f"  not everything could be inspected: {report.error}")
    if report.services:
        width = min(46, max(len("SERVICE"), *(_width(service.name) for service in report.services)))
        lines.append(f"{'STATUS':7} {_padded('SERVICE', width)} {'VERDICT':13} {'MOVED':>7}  BROKEN SINCE")
        for service in report.services:
            lines.extend(_lines(service, width))
    lines.extend(f"  gone since {missing.last_seen}: {missing.namespace}/{missing.service} (was {missing.status})" for missing in report.gone)
    return [_clipped(line, WIDTH) for line in lines]


def _lines(service: ServiceReport, width: int) -> list[str]:
    sessions = service.live.sessions if service.live else ()
    moved = f"{sum(1 for session in sessions if session.moved)}/{len(sessions)}" if sessions else "-"
    name = _padded(_clipped(service.name, width), width)
    first = f"{STATUS.get(service.status, service.status):7} {name} {service.verdict:13} {moved:>7}  {service.since or ''}".rstrip()
    return [first, f"        {service.why}"] if service.since else [first]


def _width(text: str) -> int:
    """The width in columns of a terminal: combining marks take none, wide letters two."""
    return sum(0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _clipped(text: str, width: int) -> str:
    line = text.replace("\n", " ").replace("\t", " ")
    if _width(line) <= width:
        return line
    kept = ""
    for letter in line:
        if _width(kept + letter) > width - 1:
            break
        kept += letter
    return kept + "…"
