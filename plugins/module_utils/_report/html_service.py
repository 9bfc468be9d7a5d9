# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One service on the page: the reason, findings with fixes, landing pods and measurements. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from ansible_collections.meshops.istio.plugins.module_utils._report.drawing import WORDS, badge, in_order, lane, share_bar, strip, strip_in_words
from ansible_collections.meshops.istio.plugins.module_utils._report.markup import Child, Html, each, join, table, tag
from ansible_collections.meshops.istio.plugins.module_utils._report.model import (
    GREEN,
    MOVED,
    NOT_APPLICABLE,
    SAME,
    BackendSeen,
    Continuity,
    FindingSeen,
    LiveResult,
    ServiceReport,
    SessionSeen,
    StaticResult,
)
from ansible_collections.meshops.istio.plugins.module_utils._report.numbers import NONE, chance, count, milliseconds, moment, percent

CONTROLS = {"spread": "Different sessions use different pods", "keyless": "Requests without the key spread", "keepalive": "Also on reused connections"}
STATES = {"passed": "✓ passed", "failed": "✕ failed", "not_applicable": "— not applicable"}
CONTINUITY = {SAME: "✓", MOVED: "✕"}


def anchor(service: ServiceReport) -> str:
    """The ID of a service on the page. Names may contain characters that a URL fragment cannot."""
    plain = re.sub(r"[^a-z0-9]+", "-", service.name.lower()).strip("-")
    return f"{plain}-{hashlib.sha256(service.name.encode('utf-8', 'replace')).hexdigest()[:6]}"


def moved_of(service: ServiceReport) -> str:
    sessions = service.live.sessions if service.live else ()
    return f"{sum(1 for session in sessions if session.moved)} of {len(sessions)}" if sessions else NONE


def section(service: ServiceReport) -> Html:
    """One service, open if there is something to do."""
    name = tag("h3", service.name)
    verdict = tag("span", service.verdict.replace("_", " "), " (static)" if service.mode == "static" else "", class_="verdict")
    summary = tag("summary", name, badge(service.status), verdict, strip(service.history))
    since = tag("p", "Broken since ", moment(service.since), class_="since") if service.since else None
    why = tag("p", service.why[:1].upper() + service.why[1:], class_="why")
    parts = (since, why, waiver(service), each(map(finding, service.findings)), probed(service), inspected(service), past(service))
    folded = service.status in (GREEN, NOT_APPLICABLE)
    return tag("article", tag("details", summary, *parts, open=not folded), id=anchor(service), class_=f"panel {service.status}")


def heading(text: str) -> Html:
    return tag("h4", text, class_="soft")


def waiver(service: ServiceReport) -> Html:
    used = service.waiver
    if used is None:
        return Html()
    text = f"{'Expired waiver' if used.expired else 'Waived'}: {used.match}, by {used.owner}, until {used.until}. {used.reason}"
    return tag("p", text, class_="note bad" if used.expired else "note")


def finding(cause: FindingSeen) -> Html:
    rows = [(item.source, item.field, tag("code", item.value)) for item in cause.evidence]
    evidence = table(f"Evidence for {cause.id}", ("Source", "Field", "Value"), rows, shown=False) if rows else None
    fix = None
    if cause.fix and cause.fix.body:
        words = {"yaml": "Fix, to apply with kubectl:", "command": "Fix, to run in a shell:"}
        body = tag("p", cause.fix.body) if cause.fix.kind == "manual" else tag("pre", cause.fix.body)
        checked = tag("p", f"Checked against: {cause.fix.checked}", class_="soft") if cause.fix.checked else None
        fix = join(tag("p", words.get(cause.fix.kind, "Fix:"), class_="soft"), body, checked)
    return tag(
        "div",
        tag("p", tag("strong", cause.title), " ", tag("span", f"{cause.id}, {cause.severity}", class_="soft")),
        evidence,
        fix,
        reference(cause.reference),
        class_=f"finding {cause.severity}" if cause.severity in ("error", "warning") else "finding",
    )


def reference(text: str | None) -> Html:
    if not text:
        return Html()
    target = tag("a", text, href=text, rel="noreferrer") if re.match(r"https?://", text) else join(text)
    return tag("p", "Reference: ", target, class_="soft")


# -- the probe --


def probed(service: ServiceReport) -> Html:
    live = service.live
    if live is None:
        return Html()
    columns = tag("div", controls(live), figures(live), latency(live), requests(live), class_="columns")
    return join(session_map(live), continuity(service.continuity), columns, events(live), facts(live), sessions_table(live))


def pods_of(live: LiveResult) -> list[str]:
    """The pods that sessions landed on or could land on, in the order of the backends."""
    known = [backend.pod for backend in live.backends]
    former = sorted({pod for session in live.sessions for pod in session.pods} - set(known))
    return [*dict.fromkeys(known), *former]


def shortened(pods: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The common start of the pod names, and the rest of each."""
    common = common_start(pods) if len(pods) > 1 else ""
    common = common[: common.rfind("-") + 1]
    return common, {pod: f"…{pod[len(common) :]}" if common else pod for pod in pods}


def common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))]


def session_map(live: LiveResult) -> Html:
    """Distribution and map in one table: a row for each pod, a column of the drawing for each session."""
    pods = pods_of(live)
    if not live.sessions or not pods:
        return Html()
    ordered = in_order(live.sessions, pods)
    common, short = shortened(pods)
    held = {pod: sum(1 for session in live.sessions if pod in session.pods) for pod in pods}
    backends = {backend.pod: backend for backend in live.backends}
    rows = [
        (
            tag("span", short[pod], title=pod, class_="mono"),
            count(held[pod]),
            percent_of(held[pod], len(live.sessions)),
            tag("span", place(backends.get(pod)), class_="soft"),
            lane(pod, number, ordered),
        )
        for number, pod in enumerate(pods)
    ]
    caption = join(f"{len(live.sessions)} sessions, one column each; one row for each pod", f" {common}…" if common else "")
    head = ("Pod", "Sessions", "Share", "Location", "Where each session landed")
    return join(heading("Sessions by pod"), table(caption, head, rows, "map"), map_keys(live))


def percent_of(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else NONE


def place(backend: BackendSeen | None) -> str:
    """The location of a pod, and whether it is not eligible."""
    if backend is None:
        return "no longer a backend"
    barred = "not eligible in every Envoy" if backend.eligible is False else None
    return ", ".join(filter(None, (backend.zone, backend.node, barred)))


def map_keys(live: LiveResult) -> Html:
    """The legend, for the marks that occur."""
    moved = [session for session in live.sessions if session.moved]
    keys = [("", "stayed on one pod")] if len(moved) < len(live.sessions) else []
    if any(not session.explained for session in moved):
        keys.append(("moved", "landed on more than one pod (the stronger, the more requests)"))
    if any(session.explained for session in moved):
        keys.append(("explained", "moved, explained by a change of the backends"))
    if any(session.predicted and session.pods and session.predicted not in session.pods for session in live.sessions):
        keys.append(("off", "predicted by Envoy's algorithm"))
    return tag("ul", *(tag("li", tag("i", class_=kind or None, aria_hidden="true"), text) for kind, text in keys), class_="keys")


def continuity(comparison: Continuity | None) -> Html:
    if comparison is None:
        return Html()
    compared = join(" Compared with ", moment(comparison.compared_with), ".") if comparison.compared_with else None
    mark = tag("span", CONTINUITY.get(comparison.state, "—"), aria_hidden="true")
    text = tag("p", mark, " ", comparison.detail[:1].upper() + comparison.detail[1:], ".", compared)
    rows = [(tag("code", item.id), item.before, item.now) for item in comparison.moved[:50]]
    listed = table("Sessions on another pod than in the last run", ("Session", "Then", "Now"), rows) if rows else None
    return join(heading("From run to run"), text, listed)


def controls(live: LiveResult) -> Html:
    rows = [
        (CONTROLS.get(name, name), tag("span", STATES.get(control.state, control.state), class_=f"nowrap state-{control.state.split(' ')[0]}"), control.detail)
        for name, control in live.controls.items()
        if control.detail != "not run"
    ]
    return (
        tag("div", heading("Controls"), table("What keeps the result from being right by accident", ("Control", "Result", "Detail"), rows, shown=False))
        if rows
        else Html()
    )


def definitions(title: str, pairs: Sequence[tuple[str, Child]]) -> Html:
    """The known values with a title, or nothing if none is known."""
    known = [each((tag("dt", name), tag("dd", value))) for name, value in pairs if value not in (NONE, "", None)]
    return tag("div", heading(title), tag("dl", *known)) if known else Html()


def figures(live: LiveResult) -> Html:
    prediction = live.prediction
    matched = f"{count(prediction.matched)} of {count(prediction.total)} sessions" if prediction.total is not None else NONE
    pairs: list[tuple[str, Child]] = [
        ("Share of moves, at most (95 %)", percent(live.bounds.flip_rate_95)),
        ("Chance of a false pass", chance(live.bounds.false_pass)),
        ("Landed as predicted", matched),
        ("No prediction because", (prediction.reason or "") if live.sessions else ""),
    ]
    return definitions("Confidence", pairs)


def latency(live: LiveResult) -> Html:
    values = [("p50", live.latency_ms.p50), ("p90", live.latency_ms.p90), ("p99", live.latency_ms.p99), ("max", live.latency_ms.max)]
    known = [(name, value) for name, value in values if value is not None]
    if not known:
        return Html()
    most = max(0.001, *(value for _name, value in known))
    rows = [(name, tag("span", milliseconds(value), class_="number"), share_bar(value / most)) for name, value in known]
    return tag("div", heading("Latency"), table("Percentiles of the request duration", ("Percentile", "Time", "Compared"), rows, shown=False))


def requests(live: LiveResult) -> Html:
    counts = live.requests
    pairs: list[tuple[str, Child]] = [
        ("Planned", count(counts.planned)),
        ("Sent", count(counts.sent)),
        ("Answered", count(counts.answered)),
        ("By a known pod", count(counts.identified)),
        ("No response", count(counts.failed)),
        ("By status", ", ".join(f"{status}: {count(number)}" for status, number in counts.by_status.items())),
    ]
    return definitions("Requests", pairs) if counts.sent else Html()


def events(live: LiveResult) -> Html:
    attempts = [f"Attempt {number}: {attempt.verdict}. {attempt.msg or ''}" for number, attempt in enumerate(live.attempts, start=1)]
    parts = []
    if live.membership.events:
        parts += [heading("Events"), tag("ul", *(tag("li", event) for event in live.membership.events), class_="plain")]
    if len(attempts) > 1:
        parts += [heading("Attempts"), tag("ul", *(tag("li", attempt) for attempt in attempts), class_="plain")]
    return join(*parts)


def facts(live: LiveResult) -> Html:
    key = live.key
    versions = live.versions
    pairs: list[tuple[str, Child]] = [
        ("Key", f"{key.type} {key.name or ''} ({'from the rule in force' if key.origin == 'rule' else 'from the option'})" if key else ""),
        ("Probed from", ", ".join(f"{client.namespace or ''}/{client.pod}" + (f" ({client.zone})" if client.zone else "") for client in live.clients)),
        ("Pods identified by", live.identified_by),
        ("Versions", ", ".join(f"{name} {value}" for name, value in vars(versions).items() if value)),
        ("Duration", f"{live.elapsed:g} s" if live.elapsed is not None else ""),
        ("Seed", str(live.seed) if live.seed is not None else ""),
    ]
    return definitions("Measurement", pairs)


def sessions_table(live: LiveResult) -> Html:
    """The map as a table, for screen readers and for copying."""
    if not live.sessions:
        return Html()
    rows = [session_row(session) for session in live.sessions]
    listed = table("Every session and the pods that it landed on", ("Session", "Pods (requests)", "Predicted", "Moved"), rows, shown=False)
    return tag("details", tag("summary", f"The {len(rows)} sessions as a table"), listed, class_="data")


def session_row(session: SessionSeen) -> tuple[Child, ...]:
    pods = ", ".join(f"{pod} ({count(number)})" for pod, number in session.pods.items())
    moved = ("yes, explained by a change of the backends" if session.explained else "yes") if session.moved else "no"
    return (tag("code", session.id), pods or NONE, session.predicted or NONE, moved)


# -- the inspection, and the history --


def inspected(service: ServiceReport) -> Html:
    static = service.static
    if static is None:
        return Html()
    key = static.key
    pairs: list[tuple[str, Child]] = [
        ("Static verdict", f"{static.static_verdict or 'unknown'}: {static.why or 'no reason given'}" if service.live else ""),
        ("Rule in force", static.rule or ""),
        ("Hash", " ".join(filter(None, (static.algorithm, "on", key.type, key.name))) if key else static.algorithm or ""),
        ("Backends", ", ".join(backend.pod for backend in static.backends) if service.live is None else ""),
        ("Envoys", ", ".join(f"{proxy.client}: {'in sync' if proxy.in_sync else proxy.missing or 'not in sync'}" for proxy in static.proxies)),
    ]
    return join(definitions("Rules and Envoys", pairs), predicted_table(static) if service.live is None else None)


def predicted_table(static: StaticResult) -> Html:
    rows = [(tag("code", session.id), session.predicted or NONE) for session in static.sessions]
    if not rows:
        return Html()
    listed = table("Where each session would land", ("Session", "Pod"), rows, shown=False)
    return tag("details", tag("summary", f"Where {len(rows)} sessions would land"), listed, class_="data")


def past(service: ServiceReport) -> Html:
    last = service.conclusive
    conclusive = join("Last conclusive verdict: ", last.verdict, ", ", moment(last.time), ". ") if last else join("There has been no conclusive verdict yet. ")
    first = join("Known since ", moment(service.first_seen), ".")
    changes = [run for before, run in zip((None, *service.history), service.history, strict=False) if before is None or before.status != run.status]
    rows = [(moment(run.time), WORDS.get(run.status, run.status), run.verdict) for run in reversed(changes[-12:])]
    listed = tag(
        "details", tag("summary", "When the status changed"), table("Changes of status, newest first", ("Run", "Status", "Verdict"), rows), class_="data"
    )
    return join(heading("History"), tag("p", f"{strip_in_words(service.history)}. ", conclusive, first), listed)
