# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what is known of a service, and of its past, to green or red. Pure.

A verdict that says nothing (inconclusive, unknown) is no reason for an alarm at once: rollouts happen. So it leaves a
service as it was - red stays red until something shows that it is mended - and turns it red when nothing conclusive
was heard for too long.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Protocol

from ansible_collections.meshops.istio.plugins.module_utils._report.continuity import continuity
from ansible_collections.meshops.istio.plugins.module_utils._report.model import (
    DOES_NOT,
    ERROR,
    FAILED,
    GREEN,
    INCONCLUSIVE,
    NOT_APPLICABLE,
    NOT_PROVEN,
    PASSED,
    RED,
    SCHEMA_VERSION,
    STICKS,
    UNKNOWN,
    WAIVED,
    Conclusion,
    FindingSeen,
    Gone,
    LiveResult,
    Past,
    Report,
    RunPast,
    ServiceReport,
    SettingsUsed,
    StaticResult,
    Summary,
    WaiverUsed,
    time_of,
    time_text,
)

GOOD, BAD = (PASSED, STICKS), (FAILED, DOES_NOT)
# What the option fail_on calls a static verdict.
AS_LIVE = {DOES_NOT: FAILED, UNKNOWN: INCONCLUSIVE}
MOST_HISTORY = 96


class Earlier(Protocol):
    """The earlier reports of the cluster."""

    def last(self) -> Report | None:
        """The newest one."""

    def last_look(self) -> Report | None:
        """The newest one that could look at the cluster, or at a part of it."""

    def of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        """What the newest one that has this service says of it."""


@dataclass(frozen=True)
class Entry:
    """What was handed over for one service."""

    namespace: str
    service: str
    port: int | None
    live: bool
    single: bool
    result: LiveResult | None
    static: StaticResult | None
    error: str | None

    @property
    def identity(self) -> tuple[str, str, int | None]:
        return (self.namespace, self.service, self.port)


@dataclass(frozen=True)
class Waiver:
    """C(match) is a verdict or the ID of a finding; it holds through the day C(until), in UTC."""

    service: str
    match: str
    owner: str
    reason: str
    until: date

    def covers(self, namespace: str, service: str) -> bool:
        return fnmatchcase(f"{namespace}/{service}", self.service)

    def used(self, today: date) -> WaiverUsed:
        return WaiverUsed(self.match, self.owner, self.reason, self.until.isoformat(), today > self.until)


@dataclass(frozen=True)
class Settings:
    """Besides C(failed) and C(does_not), which always are red, C(fail_on) has the verdicts that are."""

    fail_on: tuple[str, ...]
    max_age: float
    hash_session_ids: bool
    waivers: tuple[Waiver, ...]


def make_report(cluster: str, error: str | None, entries: Sequence[Entry], settings: Settings, now: datetime, earlier: Earlier) -> Report:
    """The whole report of one run; services come red first, then by name."""
    services = [assess(entry, earlier.of(entry.identity), settings, now) for entry in entries]
    services.sort(key=lambda service: ((RED, WAIVED, GREEN, NOT_APPLICABLE).index(service.status), service.identity[:2], service.port or 0))
    counts = {status: sum(1 for service in services if service.status == status) for status in (GREEN, RED, WAIVED, NOT_APPLICABLE)}
    status = RED if error is not None or counts[RED] else GREEN
    last = earlier.last()
    return Report(
        schema_version=SCHEMA_VERSION,
        cluster=cluster,
        time=time_text(now),
        status=status,
        error=error,
        settings=SettingsUsed(settings.fail_on, settings.max_age, settings.hash_session_ids),
        summary=Summary(len(services), **counts, live=sum(1 for service in services if service.mode == "live")),
        services=tuple(services),
        gone=gone(entries, earlier.last_look()) if error is None else (),
        history=(*(last.history if last else ()), RunPast(time_text(now), status, counts[RED], len(services)))[-MOST_HISTORY:],
    )


def gone(entries: Sequence[Entry], last: Report | None) -> tuple[Gone, ...]:
    """A rule that was deleted takes its service off the list of what asks for affinity; nobody is to miss that."""
    here = {entry.identity for entry in entries}
    missing = [service for service in last.services if service.identity not in here] if last else []
    return tuple(Gone(service.namespace, service.service, service.port, service.status, service.verdict, last.time if last else "") for service in missing)


def assess(entry: Entry, past: ServiceReport | None, settings: Settings, now: datetime) -> ServiceReport:
    """One service. C(past) is what the newest earlier report says of it."""
    mode, verdict, why = verdict_of(entry)
    moment = time_text(now)
    conclusive = Conclusion(moment, verdict) if verdict in (*GOOD, *BAD) else past.conclusive if past else None
    counting_since = moment if past is None or verdict in (*GOOD, *BAD) else past.counting_since
    found = ServiceReport(
        namespace=entry.namespace,
        service=entry.service,
        port=entry.port,
        mode=mode,
        verdict=verdict,
        status=GREEN,
        why=why,
        since=None,
        waiver=None,
        single=entry.single,
        first_seen=past.first_seen if past else moment,
        counting_since=counting_since,
        conclusive=conclusive,
        history=past.history if past else (),
        continuity=continuity(entry.result, past),
        live=entry.result,
        static=entry.static,
    )
    found = judged(found, settings, now)
    if found.status == RED:
        found = waived(found, settings.waivers, now.date())
    if found.status in (RED, WAIVED):
        broken = past is not None and past.status in (RED, WAIVED)
        found = replace(found, since=(past.since if broken and past else None) or moment)
    return replace(found, history=(*found.history, Past(moment, verdict, found.status))[-MOST_HISTORY:])


def verdict_of(entry: Entry) -> tuple[str, str, str]:
    """Mode, verdict and the sentence for people. A probe that was wanted and is not there is an error, never the static verdict."""
    mode = "live" if entry.live or entry.result else "static"
    if entry.error:
        return mode, ERROR, entry.error
    if entry.result:
        verdict, why = verdict_of_probe(entry.result)
        if verdict == INCONCLUSIVE and not entry.single and entry.static and entry.static.static_verdict == DOES_NOT:
            # Where pods come and go all the time a probe may never tell, but the rules and Envoys do.
            return mode, DOES_NOT, f"{entry.static.why or 'by its rules sessions do not stick'}; the probe could not tell: {why}"
        return mode, verdict, why
    if entry.live or entry.static is None:
        wanted = "it was to be probed" if entry.live else "it was to be looked at"
        return mode, ERROR, f"{wanted}, but neither a result nor an error was handed over"
    verdict = entry.static.static_verdict if entry.static.static_verdict in (STICKS, DOES_NOT) else UNKNOWN
    return mode, verdict, entry.static.why or "the look at rules and Envoys gives no reason"


def verdict_of_probe(result: LiveResult) -> tuple[str, str]:
    """The message of a check begins with its verdict, which a report shows beside it."""
    why = re.sub(r"^[a-z_]+: ", "", result.msg or "") or "the check gives no reason"
    if result.verdict is None:
        return UNKNOWN, why
    if result.verdict not in (PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR):
        return ERROR, f"the check's verdict is {result.verdict!r}, which no check returns"
    return result.verdict, why


def judged(found: ServiceReport, settings: Settings, now: datetime) -> ServiceReport:
    """With its status, and what else is to be known added to C(why)."""
    if is_single(found):
        return replace(found, status=NOT_APPLICABLE, counting_since=time_text(now), why="one replica by intent, so there is nothing to tell apart")
    if found.verdict in GOOD:
        return found
    if found.verdict in BAD or AS_LIVE.get(found.verdict, found.verdict) in settings.fail_on:
        return replace(found, status=RED)
    last = found.conclusive
    why = found.why.rstrip(". ")
    if last and last.verdict in BAD:
        return replace(found, status=RED, why=f"{why}. Its last conclusive verdict is {last.verdict}, of {last.time}, and nothing shows that it is mended.")
    since = time_of(found.counting_since) or now
    known = f"Its last conclusive verdict is {last.verdict}, of {last.time}" if last else "There has been no conclusive verdict yet"
    if now - since >= timedelta(hours=settings.max_age):
        hours = (now - since).total_seconds() / 3600
        return replace(found, status=RED, why=f"no conclusive verdict for {hours:.0f} h, allowed are {settings.max_age:g} h. {known}. Now: {why}.")
    limit = time_text(since + timedelta(hours=settings.max_age))
    return replace(found, why=f"{why}. {known}; without a new one it turns red at {limit}.")


def is_single(found: ServiceReport) -> bool:
    """With one backend, and that by intent, nothing can move; where a verdict came out nevertheless, it counts."""
    if not found.single or found.verdict not in (INCONCLUSIVE, UNKNOWN):
        return False
    return len([backend for backend in found.backends if backend.ready is not False]) == 1


def waived(found: ServiceReport, waivers: Sequence[Waiver], today: date) -> ServiceReport:
    """A red service with the waiver that holds for it, or with the one that held until its day."""
    covering = [waiver for waiver in waivers if waiver.covers(found.namespace, found.service) and matches(waiver, found)]
    holding = [waiver for waiver in covering if today <= waiver.until]
    for waiver in holding:
        if waiver.match == found.verdict or not unwaived_errors(found.findings, holding):
            text = f"waived until {waiver.until.isoformat()} by {waiver.owner} ({waiver.reason}): {found.why}"
            return replace(found, status=WAIVED, waiver=waiver.used(today), why=text)
    expired = max((waiver for waiver in covering if today > waiver.until), key=lambda waiver: waiver.until, default=None)
    if expired is None:
        return found
    text = f"the waiver of {expired.owner} ended on {expired.until.isoformat()} ({expired.reason}): {found.why}"
    return replace(found, waiver=expired.used(today), why=text)


def matches(waiver: Waiver, found: ServiceReport) -> bool:
    return waiver.match == found.verdict or any(finding.id == waiver.match for finding in found.findings)


def unwaived_errors(findings: Sequence[FindingSeen], waivers: Sequence[Waiver]) -> list[str]:
    """A waived cause must not hide another one."""
    names = {waiver.match for waiver in waivers}
    return [finding.id for finding in findings if finding.severity == "error" and finding.id not in names]
