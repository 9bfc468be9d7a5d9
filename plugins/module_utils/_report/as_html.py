# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as one page that needs nothing but itself, and the page of all clusters. Pure.

There is no script in them, and their content security policy forbids to fetch anything.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._report.drawing import GLYPHS, WORDS, badge, strip
from ansible_collections.meshops.istio.plugins.module_utils._report.html_service import anchor, moved_of, section
from ansible_collections.meshops.istio.plugins.module_utils._report.markup import Html, join, table, tag
from ansible_collections.meshops.istio.plugins.module_utils._report.model import GREEN, RED, WAIVED, Report, ServiceReport, Summary, time_text
from ansible_collections.meshops.istio.plugins.module_utils._report.numbers import NONE, milliseconds, moment, percent
from ansible_collections.meshops.istio.plugins.module_utils._report.store import Brief
from ansible_collections.meshops.istio.plugins.module_utils._report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def to_html(report: Report) -> str:
    return page(f"{report.cluster}: session affinity is {report.status}", top(report), join(trouble(report), glance(report), each_service(report)))


def page(title: str, header: Html, content: Html) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    foot = tag("footer", "Made by meshops.istio. A verdict holds for the clients, ports and paths that were probed, while the backends stay as they are.")
    body = tag("body", skip, header, tag("main", content, id="content", tabindex=-1), foot)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def figures(numbers: Sequence[tuple[str, str | int, str]]) -> Html:
    """Large numbers with what they count and the status that colours them."""
    return tag("ul", *(tag("li", tag("b", str(number)), tag("span", what), class_=status or None) for status, number, what in numbers), class_="figures")


def top(report: Report) -> Html:
    summary = report.summary
    requests = sum(service.live.requests.sent or 0 for service in report.services if service.live)
    sessions = sum(len(service.live.sessions) for service in report.services if service.live)
    numbers = [*by_status(summary), ("", f"{sessions:,}", "sessions probed"), ("", f"{requests:,}", "requests sent")]
    return tag(
        "header",
        tag("p", "Session affinity of cluster", class_="soft"),
        tag("div", tag("h1", report.cluster), badge(report.status), class_="headline"),
        tag("p", in_a_sentence(report), class_="lead"),
        tag("p", "Run of ", moment(report.time), ". ", tag("a", "All clusters", href="../../index.html"), class_="soft"),
        figures(numbers),
        class_="top",
    )


def by_status(summary: Summary) -> list[tuple[str, str | int, str]]:
    """Red always, what else there is none of is left out."""
    counts = [(RED, summary.red, "red"), (GREEN, summary.green, "green"), (WAIVED, summary.waived, "waived")]
    return [entry for entry in (*counts, ("", summary.not_applicable, "not applicable")) if entry[1] or entry[0] in (RED, GREEN)]


def in_a_sentence(report: Report) -> str:
    summary = report.summary
    if report.error is not None:
        return f"Not all of the cluster could be looked at; {summary.red} of {summary.services} services need attention."
    if not summary.services:
        return "No service of this cluster asks for session affinity."
    if summary.red:
        return f"{summary.red} of {summary.services} services need attention."
    rest = [f"{count} {what}" for count, what in ((summary.waived, "waived"), (summary.not_applicable, "not applicable")) if count]
    return f"{summary.green} of {summary.services} services are green" + (f", {' and '.join(rest)}." if rest else ".")


def trouble(report: Report) -> Html:
    """What is to be seen before anything else."""
    parts = []
    if report.error is not None:
        parts.append(tag("p", tag("strong", "Not all could be looked at: "), report.error, class_="note bad"))
    if report.gone:
        names = [tag("li", f"{missing.namespace}/{missing.service}, was {WORDS.get(missing.status, missing.status)}") for missing in report.gone]
        said = "In the last run, and not in this one. If it still is to be sticky, see whether somebody deleted its rule:"
        parts.append(tag("div", said, tag("ul", *names, class_="plain"), class_="note"))
    return tag("section", tag("h2", "To be looked at"), *parts, aria_label="To be looked at") if parts else Html()


def glance(report: Report) -> Html:
    if not report.services:
        return Html()
    tiles = [tag("li", tile(service)) for service in sorted(report.services, key=lambda service: service.name)]
    rows = [overview_row(service) for service in report.services]
    head = ("Service", "Status", "Verdict", "Moved", "Bound", "p99", "Runs", "Since")
    overview = table("All services, red ones first. Bound: the share of requests on which sessions move at most, with 95 % confidence.", head, rows, "overview")
    return tag("section", tag("h2", "At a glance"), tag("ul", *tiles, class_="tiles", aria_label="Services"), tag("div", overview, class_="panel"))


def tile(service: ServiceReport) -> Html:
    words = f"{service.name}: {WORDS[service.status]}, {service.verdict}"
    return tag("a", tag("span", GLYPHS[service.status], aria_hidden="true"), href=f"#{anchor(service)}", class_=service.status, title=words, aria_label=words)


def overview_row(service: ServiceReport) -> tuple[Html | str, ...]:
    live = service.live
    p99 = live.latency_ms.p99 if live else None
    return (
        tag("a", service.name, href=f"#{anchor(service)}"),
        badge(service.status),
        service.verdict.replace("_", " "),
        tag("span", moved_of(service), class_="number"),
        tag("span", percent(live.bounds.flip_rate_95) if live else NONE, class_="number"),
        tag("span", milliseconds(p99), class_="number"),
        strip(service.history),
        tag("span", moment(service.since), class_="nowrap") if service.since else NONE,
    )


def each_service(report: Report) -> Html:
    if not report.services:
        return Html()
    return tag("section", tag("h2", "Service by service"), *(section(service) for service in report.services))


# -- all clusters --


def to_index(briefs: Sequence[Brief], now: datetime) -> str:
    ordered = sorted(briefs, key=lambda brief: (brief.status != RED, brief.cluster))
    red = sum(1 for brief in briefs if brief.status == RED)
    total = sum(brief.summary.services for brief in briefs)
    numbers: list[tuple[str, str | int, str]] = [
        (RED, red, "clusters red"),
        (GREEN, len(briefs) - red, "clusters green"),
        ("", total, "services"),
        (RED if any(brief.summary.red for brief in briefs) else "", sum(brief.summary.red for brief in briefs), "services red"),
    ]
    header = tag(
        "header",
        tag("p", "Session affinity", class_="soft"),
        tag("div", tag("h1", "All clusters"), badge(RED if red else GREEN), class_="headline"),
        tag("p", f"{red} of {len(briefs)} clusters need attention." if red else f"All {len(briefs)} clusters are green.", class_="lead"),
        tag("p", "Written at ", moment(time_text(now)), ".", class_="soft"),
        figures(numbers),
        class_="top",
    )
    head = ("Cluster", "Status", "Red", "Waived", "Services", "Runs", "Last run")
    listed = table("Red ones first. The name leads to the last report.", head, [cluster_row(brief) for brief in ordered], "overview")
    overview = tag("section", tag("h2", "Clusters"), tag("div", listed, class_="panel"))
    return page("Session affinity of all clusters", header, join(overview, red_services(ordered)))


def cluster_row(brief: Brief) -> tuple[Html | str, ...]:
    summary = brief.summary
    link = tag("a", brief.cluster, href=f"{quote(brief.cluster)}/{quote(brief.run)}/index.html")
    numbers = (str(summary.red), str(summary.waived), str(summary.services))
    return (link, badge(brief.status), *numbers, strip(brief.history), tag("span", moment(brief.time), class_="nowrap"))


def red_services(briefs: Sequence[Brief]) -> Html:
    parts = []
    for brief in briefs:
        if brief.error is not None:
            parts.append(tag("article", tag("h3", brief.cluster), tag("p", "Not all could be looked at: ", brief.error, class_="why"), class_="panel red"))
        for service in brief.red:
            since = tag("p", "Broken since ", moment(service.since), class_="since") if service.since else None
            parts.append(tag("article", tag("h3", f"{brief.cluster}: {service.name}"), since, tag("p", service.why, class_="why"), class_="panel red"))
    return tag("section", tag("h2", "What is red"), *parts) if parts else Html()
