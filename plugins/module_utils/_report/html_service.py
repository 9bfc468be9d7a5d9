# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One service on the page: why, where its sessions landed, what was measured, what was found and what to do. Pure.

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

CONTROLS = {"spread": "Different sessions use different pods", "keyless": "Without the key requests spread", "keepalive": "On kept connections too"}
STATES = {"passed": "✓ passed", "failed": "✕ failed", "not_applicable": "— not applicable"}
CONTINUITY = {SAME: "✓", MOVED: "✕"}


def anchor(service: ServiceReport) -> str:
    """Names may hold what no fragment of an address can."""
    plain = re.sub(r"[^a-z0-9]+", "-", service.name.lower()).strip("-")
    return f"{plain}-{hashlib.sha256(service.name.encode('utf-8', 'replace')).hexdigest()[:6]}"


def moved_of(service: ServiceReport) -> str:
    sessions = service.live.sessions if service.live else ()
    return f"{sum(1 for session in sessions if session.moved)} of {len(sessions)}" if sessions else NONE


def section(service: ServiceReport) -> Html:
    """Open where there is something to do."""
    name = tag("h3", service.name)
    verdict = tag("span", service.verdict.replace("_", " "), " (by its rules)" if service.mode == "static" else "", class_="verdict")
    summary = tag("summary", name, badge(service.status), verdict, strip(service.history))
    since = tag("p", "Broken since ", moment(service.since), class_="since") if service.since else None
    why = tag("p", service.why[:1].upper() + service.why[1:], class_="why")
    parts = (since, why, waiver(service), each(finding(found) for found in service.findings), probed(service), looked(service), past(service))
    folded = service.status in (GREEN, NOT_APPLICABLE)
    return tag("article", tag("details", summary, *parts, open=not folded), id=anchor(service), class_=f"panel {service.status}")


def heading(text: str) -> Html:
    return tag("h4", text, class_="soft")


def waiver(service: ServiceReport) -> Html:
    used = service.waiver
    if used is None:
        return Html()
    text = f"{'Waiver that ended' if used.expired else 'Waived'}: {used.match}, by {used.owner}, until {used.until}. {used.reason}"
    return tag("p", text, class_="note bad" if used.expired else "note")


def finding(found: FindingSeen) -> Html:
    rows = [(item.source, item.field, tag("code", item.value)) for item in found.evidence]
    evidence = table(f"Evidence for {found.id}", ("Source", "Field", "Value"), rows, shown=False) if rows else None
    fix = None
    if found.fix and found.fix.body:
        words = {"yaml": "Fix, to be applied as it stands:", "command": "Fix, for a shell:"}
        body = tag("p", found.fix.body) if found.fix.kind == "manual" else tag("pre", found.fix.body)
        fix = join(tag("p", words.get(found.fix.kind, "Fix:"), class_="soft"), body)
    return tag(
        "div",
        tag("p", tag("strong", found.title), " ", tag("span", f"{found.id}, {found.severity}", class_="soft")),
        evidence,
        fix,
        reference(found.reference),
        class_=f"finding {found.severity}" if found.severity in ("error", "warning") else "finding",
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
    """The pods that anything landed on or could have, in the order of the backends."""
    known = [backend.pod for backend in live.backends]
    seen = sorted({pod for session in live.sessions for pod in session.pods} - set(known))
    return [*dict.fromkeys(known), *seen]


def shortened(pods: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What the names of pods have in common, and the rest of each."""
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
    caption = join(f"{len(live.sessions)} sessions, a column each; the rows are the pods", f" {common}…" if common else "")
    head = ("Pod", "Sessions", "Share", "Where", "Where each session landed")
    return join(heading("Sessions by pod"), table(caption, head, rows, "map"), map_keys(live))


def percent_of(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else NONE


def place(backend: BackendSeen | None) -> str:
    """Where a pod is, and what is wrong with it."""
    if backend is None:
        return "no longer a backend"
    barred = "not chosen by every Envoy" if backend.eligible is False else None
    return ", ".join(filter(None, (backend.zone, backend.node, barred)))


def map_keys(live: LiveResult) -> Html:
    """What the marks mean, of those that are there."""
    moved = [session for session in live.sessions if session.moved]
    keys = [("", "stayed on one pod")] if len(moved) < len(live.sessions) else []
    if any(not session.explained for session in moved):
        keys.append(("moved", "landed on more than one pod (the stronger, the more of its requests)"))
    if any(session.explained for session in moved):
        keys.append(("explained", "moved with a change of the backends"))
    if any(session.predicted and session.pods and session.predicted not in session.pods for session in live.sessions):
        keys.append(("off", "where Envoy's algorithm would have it"))
    return tag("ul", *(tag("li", tag("i", class_=kind or None, aria_hidden="true"), text) for kind, text in keys), class_="keys")


def continuity(found: Continuity | None) -> Html:
    if found is None:
        return Html()
    compared = join(" Compared with ", moment(found.compared_with), ".") if found.compared_with else None
    mark = tag("span", CONTINUITY.get(found.state, "—"), aria_hidden="true")
    text = tag("p", mark, " ", found.detail[:1].upper() + found.detail[1:], ".", compared)
    rows = [(tag("code", item.id), item.before, item.now) for item in found.moved[:50]]
    listed = table("Sessions on another pod than the last time", ("Session", "Then", "Now"), rows) if rows else None
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
    """What is known of it, or nothing at all."""
    known = [each((tag("dt", name), tag("dd", value))) for name, value in pairs if value not in (NONE, "", None)]
    return tag("div", heading(title), tag("dl", *known)) if known else Html()


def figures(live: LiveResult) -> Html:
    prediction = live.prediction
    matched = f"{count(prediction.matched)} of {count(prediction.total)} sessions" if prediction.total is not None else NONE
    pairs: list[tuple[str, Child]] = [
        ("May still move, at most (95 %)", percent(live.bounds.flip_rate_95)),
        ("Looks so by chance", chance(live.bounds.false_pass)),
        ("Landed as computed", matched),
        ("Not computed, as", (prediction.reason or "") if live.sessions else ""),
    ]
    return definitions("How sure this is", pairs)


def latency(live: LiveResult) -> Html:
    values = [("p50", live.latency_ms.p50), ("p90", live.latency_ms.p90), ("p99", live.latency_ms.p99), ("max", live.latency_ms.max)]
    known = [(name, value) for name, value in values if value is not None]
    if not known:
        return Html()
    most = max(0.001, *(value for _name, value in known))
    rows = [(name, tag("span", milliseconds(value), class_="number"), share_bar(value / most)) for name, value in known]
    return tag("div", heading("Latency"), table("Percentiles of the time that requests took", ("Percentile", "Time", "Compared"), rows, shown=False))


def requests(live: LiveResult) -> Html:
    seen = live.requests
    pairs: list[tuple[str, Child]] = [
        ("Planned", count(seen.planned)),
        ("Sent", count(seen.sent)),
        ("Answered", count(seen.answered)),
        ("By a known pod", count(seen.identified)),
        ("Not answered", count(seen.failed)),
        ("By status", ", ".join(f"{status}: {count(number)}" for status, number in seen.by_status.items())),
    ]
    return definitions("Requests", pairs) if seen.sent else Html()


def events(live: LiveResult) -> Html:
    attempts = [f"Attempt {number}: {attempt.verdict}. {attempt.msg or ''}" for number, attempt in enumerate(live.attempts, start=1)]
    parts = []
    if live.membership.events:
        parts += [heading("Meanwhile"), tag("ul", *(tag("li", event) for event in live.membership.events), class_="plain")]
    if len(attempts) > 1:
        parts += [heading("Attempts"), tag("ul", *(tag("li", attempt) for attempt in attempts), class_="plain")]
    return join(*parts)


def facts(live: LiveResult) -> Html:
    key = live.key
    versions = live.versions
    pairs: list[tuple[str, Child]] = [
        ("Key", f"{key.type} {key.name or ''} ({'from the rule in force' if key.origin == 'rule' else 'as asked for'})" if key else ""),
        ("Probed from", ", ".join(f"{client.namespace or ''}/{client.pod}" + (f" ({client.zone})" if client.zone else "") for client in live.clients)),
        ("Pods known by", live.identified_by),
        ("Versions", ", ".join(f"{name} {value}" for name, value in vars(versions).items() if value)),
        ("Took", f"{live.elapsed:g} s" if live.elapsed is not None else ""),
        ("Seed", str(live.seed) if live.seed is not None else ""),
    ]
    return definitions("How it was measured", pairs)


def sessions_table(live: LiveResult) -> Html:
    """The map in words, for those who can't see it or want to copy it."""
    if not live.sessions:
        return Html()
    rows = [session_row(session) for session in live.sessions]
    listed = table("Every session and the pods that answered it", ("Session", "Pods (requests)", "Predicted", "Moved"), rows, shown=False)
    return tag("details", tag("summary", f"The {len(rows)} sessions as a table"), listed, class_="data")


def session_row(session: SessionSeen) -> tuple[Child, ...]:
    pods = ", ".join(f"{pod} ({count(number)})" for pod, number in session.pods.items())
    moved = ("yes, with a change of the backends" if session.explained else "yes") if session.moved else "no"
    return (tag("code", session.id), pods or NONE, session.predicted or NONE, moved)


# -- the look, and the past --


def looked(service: ServiceReport) -> Html:
    static = service.static
    if static is None:
        return Html()
    key = static.key
    pairs: list[tuple[str, Child]] = [
        ("By its rules", f"{static.static_verdict or 'unknown'}: {static.why or 'no reason given'}" if service.live else ""),
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
    told = join("Last conclusive verdict: ", last.verdict, ", ", moment(last.time), ". ") if last else join("There has been no conclusive verdict yet. ")
    first = join("Known since ", moment(service.first_seen), ".")
    changes = [run for before, run in zip((None, *service.history), service.history, strict=False) if before is None or before.status != run.status]
    rows = [(moment(run.time), WORDS.get(run.status, run.status), run.verdict) for run in reversed(changes[-12:])]
    listed = tag(
        "details", tag("summary", "When its status changed"), table("Changes of status, newest first", ("Run", "Status", "Verdict"), rows), class_="data"
    )
    return join(heading("History"), tag("p", f"{strip_in_words(service.history)}. ", told, first), listed)
