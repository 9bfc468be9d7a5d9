# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of a service, green or red, from its result and its history. Pure.

A verdict without a statement (inconclusive, unknown) is no reason for an immediate alarm, because rollouts happen. It keeps
the status as it was: a red service stays red until a verdict shows that it is fixed. A service without a conclusive verdict
for too long turns red.

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
    CLOCK_SKEW,
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
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import text

GOOD, BAD = (PASSED, STICKS), (FAILED, DOES_NOT)
# The names of static verdicts in the option fail_on.
AS_LIVE = {DOES_NOT: FAILED, UNKNOWN: INCONCLUSIVE}
MOST_HISTORY = 96


class Earlier(Protocol):
    """The earlier reports of the cluster."""

    def last(self) -> Report | None:
        """The newest report."""

    def last_look(self) -> Report | None:
        """The newest report of a run that could inspect the cluster, or a part of it."""

    def of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        """The entry of a service in the newest report that has one."""

    def ahead_of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        """The same of the reports that are dated later than this run."""


@dataclass(frozen=True)
class Entry:
    """The input for one service."""

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
    """`match` is a verdict or the ID of a finding. The waiver applies through the day `until`, in UTC."""

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
    """`fail_on` has the verdicts that are red, in addition to `failed` and `does_not`, which always are."""

    fail_on: tuple[str, ...]
    max_age: float
    hash_session_ids: bool
    waivers: tuple[Waiver, ...]


def make_report(cluster: str, error: str | None, entries: Sequence[Entry], settings: Settings, now: datetime, earlier: Earlier) -> Report:
    """The complete report of one run. Services are sorted by status, red ones first, then by name."""
    services = [assess(entry, earlier.of(entry.identity), settings, now, earlier.ahead_of(entry.identity)) for entry in entries]
    services.sort(key=lambda service: ((RED, WAIVED, GREEN, NOT_APPLICABLE).index(service.status), service.identity[:2], service.port or 0))
    counts = {status: sum(1 for service in services if service.status == status) for status in (GREEN, RED, WAIVED, NOT_APPLICABLE)}
    status = RED if error is not None or counts[RED] else GREEN
    last = earlier.last()
    runs = [run for run in (last.history if last else ()) if not is_ahead(run.time, now)]
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
        history=(*runs, RunPast(time_text(now), status, counts[RED], len(services)))[-MOST_HISTORY:],
    )


def gone(entries: Sequence[Entry], last: Report | None) -> tuple[Gone, ...]:
    """Services of the last run that are missing now. Without its rule, a service no longer asks for affinity, which must not go unnoticed."""
    here = {entry.identity for entry in entries}
    missing = [service for service in last.services if service.identity not in here] if last else []
    return tuple(Gone(service.namespace, service.service, service.port, service.status, service.verdict, last.time if last else "") for service in missing)


def is_ahead(time: str, now: datetime) -> bool:
    """Whether a time of an earlier report is later than now: one of the two clocks was wrong."""
    moment = time_of(time)
    return moment is not None and moment > now + CLOCK_SKEW


def dated(past: ServiceReport, now: datetime) -> ServiceReport:
    """An earlier entry without times later than now, which would hide the age of a verdict for as long as the clock was ahead."""
    history = tuple(run for run in past.history if not is_ahead(run.time, now))
    proven = [Conclusion(run.time, run.verdict) for run in history if run.verdict in (*GOOD, *BAD)]
    known = history[0].time if history else time_text(now)
    conclusive = past.conclusive
    if conclusive and is_ahead(conclusive.time, now):
        # A broken service stays broken until a verdict shows otherwise; that it was well needs a time.
        conclusive = Conclusion(time_text(now), conclusive.verdict) if conclusive.verdict in BAD else proven[-1] if proven else None
    since = past.since if past.since is None or not is_ahead(past.since, now) else time_text(now)
    counting = past.counting_since
    if is_ahead(counting, now):
        counting = proven[-1].time if proven else known
    first = known if is_ahead(past.first_seen, now) else past.first_seen
    return replace(past, history=history, conclusive=conclusive, since=since, counting_since=counting, first_seen=first)


def carried(past: ServiceReport | None, ahead: ServiceReport | None, now: datetime) -> tuple[Conclusion | None, str]:
    """The last conclusive verdict, and where it is from. One from a report dated later than now counts only if it is bad: it is unknown which came last."""
    if ahead and ahead.conclusive and ahead.conclusive.verdict in BAD:
        source = f". A report dated later than this run ({ahead.conclusive.time}) says {ahead.conclusive.verdict}; one of the two clocks was wrong"
        return Conclusion(time_text(now), ahead.conclusive.verdict), source
    return past.conclusive if past else None, ""


def assess(entry: Entry, past: ServiceReport | None, settings: Settings, now: datetime, ahead: ServiceReport | None = None) -> ServiceReport:
    """The report of one service. `past` is its entry in the newest earlier report, `ahead` the one in a report dated later than now."""
    mode, verdict, why = verdict_of(entry)
    moment = time_text(now)
    past = dated(past, now) if past else None
    proven = verdict in (*GOOD, *BAD)
    conclusive, source = (Conclusion(moment, verdict), "") if proven else carried(past, ahead, now)
    service = ServiceReport(
        namespace=entry.namespace,
        service=entry.service,
        port=entry.port,
        mode=mode,
        verdict=verdict,
        status=GREEN,
        why=why.rstrip(". ") + source if source else why,
        since=None,
        waiver=None,
        single=entry.single,
        first_seen=past.first_seen if past else moment,
        counting_since=moment if past is None or proven else past.counting_since,
        conclusive=conclusive,
        history=past.history if past else (),
        continuity=continuity(entry.result, past),
        live=entry.result,
        static=entry.static,
    )
    service = judged(service, settings, now)
    if service.status == RED:
        service = waived(service, settings.waivers, now.date())
    if service.status in (RED, WAIVED):
        broken = past is not None and past.status in (RED, WAIVED)
        service = replace(service, since=(past.since if broken and past else None) or moment)
    return replace(service, why=text(service.why), history=(*service.history, Past(moment, verdict, service.status))[-MOST_HISTORY:])


def verdict_of(entry: Entry) -> tuple[str, str, str]:
    """Mode, verdict and reason. A missing result of a requested probe is an error; the static verdict never replaces it."""
    mode = "live" if entry.live or entry.result else "static"
    if entry.error:
        return mode, ERROR, entry.error
    if entry.result:
        verdict, why = verdict_of_probe(entry.result)
        if verdict == INCONCLUSIVE and not entry.single and entry.static and entry.static.static_verdict == DOES_NOT:
            # If pods change all the time, a probe may never be conclusive, but rules and Envoys are.
            return mode, DOES_NOT, f"{entry.static.why or 'according to the inspection, sessions do not stick'}; the probe was inconclusive: {why}"
        return mode, verdict, why
    if entry.live or entry.static is None:
        wanted = "it should have been probed" if entry.live else "it should have been inspected"
        return mode, ERROR, f"{wanted}, but there is neither a result nor an error"
    verdict = entry.static.static_verdict if entry.static.static_verdict in (STICKS, DOES_NOT) else UNKNOWN
    return mode, verdict, entry.static.why or "the inspection gives no reason"


def verdict_of_probe(result: LiveResult) -> tuple[str, str]:
    """Verdict and reason. The message of a check starts with the verdict, which a report shows separately."""
    why = re.sub(r"^[a-z_]+: ", "", result.msg or "") or "the check gives no reason"
    if result.verdict is None:
        return UNKNOWN, why
    if result.verdict not in (PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR):
        return ERROR, f"the check returned {result.verdict!r}, which is not a verdict"
    return result.verdict, why


def judged(service: ServiceReport, settings: Settings, now: datetime) -> ServiceReport:
    """The service with its status and with additions to `why`."""
    if is_single(service):
        return replace(service, status=NOT_APPLICABLE, counting_since=time_text(now), why="one replica by intent, no session can move")
    if service.verdict in GOOD:
        return service
    if service.verdict in BAD or AS_LIVE.get(service.verdict, service.verdict) in settings.fail_on:
        return replace(service, status=RED)
    last = service.conclusive
    why = service.why.rstrip(". ")
    if last and last.verdict in BAD:
        return replace(
            service, status=RED, why=f"{why}. The last conclusive verdict was {last.verdict} at {last.time}, and no verdict since shows that it is fixed."
        )
    since = time_of(service.counting_since) or now
    known = f"The last conclusive verdict was {last.verdict} at {last.time}" if last else "There has been no conclusive verdict yet"
    if now - since >= timedelta(hours=settings.max_age):
        hours = (now - since).total_seconds() / 3600
        return replace(service, status=RED, why=f"no conclusive verdict for {hours:.0f} h (maximum {settings.max_age:g} h). {known}. Now: {why}.")
    limit = time_text(since + timedelta(hours=settings.max_age))
    return replace(service, why=f"{why}. {known}; without a new one it turns red at {limit}.")


def is_single(service: ServiceReport) -> bool:
    """With a single backend by intent, no session can move. Any other verdict still counts."""
    if not service.single or service.verdict not in (INCONCLUSIVE, UNKNOWN):
        return False
    return len([backend for backend in service.backends if backend.ready is not False]) == 1


def waived(service: ServiceReport, waivers: Sequence[Waiver], today: date) -> ServiceReport:
    """A red service with the waiver that applies, or with the one that expired last."""
    covering = [waiver for waiver in waivers if waiver.covers(service.namespace, service.service) and matches(waiver, service)]
    holding = [waiver for waiver in covering if today <= waiver.until]
    for waiver in holding:
        if waiver.match == service.verdict or not unwaived_errors(service.findings, holding):
            why = f"waived until {waiver.until.isoformat()} by {waiver.owner} ({waiver.reason}): {service.why}"
            return replace(service, status=WAIVED, waiver=waiver.used(today), why=why)
    expired = max((waiver for waiver in covering if today > waiver.until), key=lambda waiver: waiver.until, default=None)
    if expired is None:
        return service
    why = f"the waiver of {expired.owner} expired on {expired.until.isoformat()} ({expired.reason}): {service.why}"
    return replace(service, waiver=expired.used(today), why=why)


def matches(waiver: Waiver, service: ServiceReport) -> bool:
    return waiver.match == service.verdict or any(finding.id == waiver.match for finding in service.findings)


def unwaived_errors(findings: Sequence[FindingSeen], waivers: Sequence[Waiver]) -> list[str]:
    """Errors without a waiver. A waived cause must not hide another one."""
    names = {waiver.match for waiver in waivers}
    return [finding.id for finding in findings if finding.severity == "error" and finding.id not in names]
