# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as metrics in Prometheus' text format, for node_exporter's textfile collector or a Pushgateway. Pure.

The metrics contain no session IDs. Services with a given port have the label `port`.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._report.assess import BAD, GOOD
from ansible_collections.meshops.istio.plugins.module_utils._report.model import (
    NOT_APPLICABLE,
    STATUSES,
    VERDICTS,
    Gone,
    LatencySeen,
    LiveResult,
    Report,
    RequestsSeen,
    ServiceReport,
    time_of,
)

Labels = dict[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True)
class Family:
    """All samples of one name, which belong together in the text format."""

    name: str
    type: str
    help: str
    samples: tuple[Sample, ...]

    def lines(self) -> Iterator[str]:
        if not self.samples:
            return
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.type}"
        for labels, value in self.samples:
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{{{inside}}} {value:.10g}"


def to_prometheus(report: Report, set_aside: int = 0) -> str:
    """The metrics of a run. `set_aside` is the number of earlier reports that are dated later than this one."""
    return to_text(families(report, set_aside))


def to_text(shown: Iterable[Family]) -> str:
    return "".join(f"{line}\n" for family in shown for line in family.lines())


def families(report: Report, set_aside: int) -> tuple[Family, ...]:
    cluster = {"cluster": report.cluster}
    every = [({**cluster, **_labels(service)}, service) for service in report.services]
    probed = [(labels, service.live) for labels, service in every if service.live]
    moved = "Session IDs that landed on more than one pod."
    flips = "Maximum share of requests on which sessions move, with 95 % confidence."
    conclusive = "Time of the last verdict that states whether sessions stick."
    aside = "Earlier reports that are dated later than this run, because the clock was wrong in one of the runs."
    return (
        _gauge("verdict", "Whether this is the verdict of the service.", (_is(here, "verdict", word, s.verdict) for here, s in every for word in VERDICTS)),
        _gauge("status", "Whether this is the status of the service.", (_is(here, "status", word, s.status) for here, s in every for word in STATUSES)),
        _gauge("broken", "Whether the last conclusive verdict says that sessions do not stick.", ((here, _broken(s)) for here, s in every)),
        _gauge("undecided", "Whether the last run could not tell whether sessions stick.", ((here, _undecided(s)) for here, s in every)),
        _gauge("gone", "Services of the previous run that are missing in the last one.", ((cluster | _labels(s), 1) for s in report.gone)),
        _gauge("sessions", "Session IDs that were sent.", ((here, len(live.sessions)) for here, live in probed)),
        _gauge("sessions_moved", moved, ((here, sum(1 for session in live.sessions if session.moved)) for here, live in probed)),
        _gauge("requests", "Requests of the last run.", _within(probed, lambda live: _outcomes(live.requests))),
        Family(
            "istio_affinity_latency_seconds",
            "summary",
            "Duration of the requests of the last run.",
            tuple(_within(probed, lambda live: _quantiles(live.latency_ms))),
        ),
        _gauge("flip_rate_upper95", flips, _within(probed, lambda live: [({}, bound)] if (bound := live.bounds.flip_rate_95) is not None else [])),
        _gauge("last_conclusive_timestamp_seconds", conclusive, _times(every, lambda service: service.conclusive.time if service.conclusive else None)),
        _gauge("broken_since_timestamp_seconds", "Time since when the service is red or waived.", _times(every, lambda service: service.since)),
        _gauge("services", "Services of the last run.", ((cluster | {"status": status}, getattr(report.summary, status)) for status in STATUSES)),
        _gauge("cluster_up", "0 if the cluster or a part of it could not be inspected.", [(cluster, report.error is None)]),
        _gauge("last_run_timestamp_seconds", "Time of the last run.", [(cluster, moment.timestamp()) for moment in [time_of(report.time)] if moment]),
        _gauge("reports_set_aside", aside, [(cluster, set_aside)]),
    )


def sink_metrics(cluster: str, sinks: Iterable[tuple[str, bool]]) -> str:
    """Whether each sink has the report. Written after the sinks were tried."""
    samples = (({"cluster": cluster, "sink": name}, sent) for name, sent in sinks)
    return to_text([_gauge("sink_up", "0 if the last report could not be sent to this sink.", samples)])


def _broken(service: ServiceReport) -> bool:
    return service.status != NOT_APPLICABLE and service.conclusive is not None and service.conclusive.verdict in BAD


def _undecided(service: ServiceReport) -> bool:
    return service.status != NOT_APPLICABLE and service.verdict not in (*GOOD, *BAD)


def _gauge(name: str, about: str, samples: Iterable[Sample]) -> Family:
    return Family(f"istio_affinity_{name}", "gauge", about, tuple(samples))


def _labels(service: ServiceReport | Gone) -> Labels:
    port = {"port": str(service.port)} if service.port is not None else {}
    return {"namespace": service.namespace, "service": service.service, **port}


def _outcomes(requests: RequestsSeen) -> Iterator[Sample]:
    for outcome in ("sent", "answered", "identified", "failed"):
        value: int | None = getattr(requests, outcome)
        if value is not None:
            yield {"outcome": outcome}, value


def _quantiles(latency: LatencySeen) -> Iterator[Sample]:
    for quantile, milliseconds in (("0.5", latency.p50), ("0.9", latency.p90), ("0.99", latency.p99), ("1", latency.max)):
        if milliseconds is not None:
            yield {"quantile": quantile}, milliseconds / 1000


def _is(labels: Labels, name: str, word: str, actual: str) -> Sample:
    return labels | {name: word}, word == actual


def _within(probed: Iterable[tuple[Labels, LiveResult]], samples: Callable[[LiveResult], Iterable[Sample]]) -> Iterator[Sample]:
    for labels, live in probed:
        for more, value in samples(live):
            yield labels | more, value


def _times(services: Iterable[tuple[Labels, ServiceReport]], time: Callable[[ServiceReport], str | None]) -> Iterator[Sample]:
    for labels, service in services:
        moment = time_of(time(service))
        if moment:
            yield labels, moment.timestamp()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
