# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a report says. The published schema (docs/report.schema.json) is these classes, annotations included.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Annotated

from ansible_collections.meshops.istio.plugins.module_utils._model import LIVE_VERDICTS, STATIC_VERDICTS

SCHEMA_VERSION = 1

# The verdicts of a probe ...
PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR = LIVE_VERDICTS
# ... and of an inspection of rules and Envoys alone.
STICKS, DOES_NOT, UNKNOWN = STATIC_VERDICTS
VERDICTS = (PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR, STICKS, DOES_NOT, UNKNOWN)
GREEN, RED, WAIVED, NOT_APPLICABLE = "green", "red", "waived", "not_applicable"
STATUSES = (RED, WAIVED, GREEN, NOT_APPLICABLE)

UTC = timezone.utc  # noqa: UP017 - its short name came with Python 3.11, and ansible-core 2.16 runs on 3.10
# How the landing pod of a session compares with the last run.
SAME, MOVED, BACKENDS_CHANGED, NOT_AVAILABLE = "same", "moved", "backends_changed", "not_available"


@dataclass(frozen=True)
class Rule:
    """An annotation that adds a keyword with its value to the schema."""

    keyword: str
    value: str | int | tuple[str, ...]


Moment = Annotated[str, Rule("pattern", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
VerdictWord = Annotated[str, Rule("enum", VERDICTS)]
StatusWord = Annotated[str, Rule("enum", STATUSES)]
Count = Annotated[int, Rule("minimum", 0)]

TIME = "%Y-%m-%dT%H:%M:%SZ"
# How far clocks that are right may be apart: what is dated later than this from now was written under a wrong one, or this one is wrong.
CLOCK_SKEW = timedelta(minutes=5)


def time_text(moment: datetime) -> str:
    return moment.strftime(TIME)


def time_of(text: str | None) -> datetime | None:
    """None for a text that is not a time in the format of a report."""
    try:
        return datetime.strptime(text or "", TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


# -- the part of the results of istio_affinity_check and istio_affinity_info that a report keeps --


@dataclass(frozen=True)
class Fault:
    """Why the check could not run."""

    code: Annotated[str, "A stable identifier."]
    msg: Annotated[str, "The explanation, in a sentence."]


@dataclass(frozen=True)
class KeySeen:
    type: Annotated[str, "header, cookie, query or source_ip."]
    name: str | None
    origin: Annotated[str | None, "option or rule."]


@dataclass(frozen=True)
class SessionSeen:
    id: Annotated[str, "The session ID, or its hash with hash_session_ids."]
    pods: Annotated[dict[str, int], "The number of requests by responding pod."]
    by_client: Annotated[dict[str, dict[str, int]], "The same for each client pod."]
    predicted: Annotated[str | None, "The landing pod computed from the state of the client's Envoy."]
    moved: Annotated[bool, "Whether the session landed on more than one pod."]
    explained: Annotated[bool | None, "Whether a change of the backends explains every move; null if the session did not move."]


@dataclass(frozen=True)
class RequestsSeen:
    planned: int | None
    sent: int | None
    answered: int | None
    identified: Annotated[int | None, "Responses from a known pod."]
    failed: Annotated[int | None, "Requests without a response."]
    by_status: Annotated[dict[str, int], "Responses by HTTP status code."]


@dataclass(frozen=True)
class ControlSeen:
    state: Annotated[str, "passed, failed or not_applicable."]
    detail: str


@dataclass(frozen=True)
class BackendSeen:
    pod: str
    uid: str | None
    address: str | None
    node: str | None
    zone: str | None
    eligible: Annotated[bool | None, "Whether every client's Envoy can select it; null if unknown."]
    ready: bool | None
    sessions: Annotated[int | None, "The number of sessions that landed on it."]


@dataclass(frozen=True)
class ClientSeen:
    pod: str
    namespace: str | None
    node: str | None
    zone: str | None
    container: str | None
    sidecar: bool | None


@dataclass(frozen=True)
class MembershipSeen:
    changed: bool | None
    events: Annotated[tuple[str, ...], "Events of backends, rules and Envoys during the measurement."]


@dataclass(frozen=True)
class BoundsSeen:
    false_pass: Annotated[float | None, "The probability that random balancing would have shown no move either."]
    flip_rate_95: Annotated[float | None, "The maximum share of requests on which sessions move, with 95 % confidence."]


@dataclass(frozen=True)
class PredictionSeen:
    available: bool
    matched: int | None
    total: int | None
    reason: str | None


@dataclass(frozen=True)
class LatencySeen:
    """Milliseconds."""

    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True)
class EvidenceSeen:
    source: str
    field: str
    value: str


@dataclass(frozen=True)
class FixSeen:
    kind: Annotated[str, "yaml, command or manual."]
    body: str
    checked: Annotated[str | None, "What a fix to apply or run was checked against before it was printed; null for a manual one."]


@dataclass(frozen=True)
class FindingSeen:
    id: Annotated[str, "The ID of the cause in the catalogue."]
    severity: Annotated[str, "error, warning or info."]
    title: str
    evidence: tuple[EvidenceSeen, ...]
    fix: FixSeen | None
    reference: str | None


@dataclass(frozen=True)
class AttemptSeen:
    verdict: str | None
    msg: str | None
    events: tuple[str, ...]
    sent: int | None
    elapsed: float | None


@dataclass(frozen=True)
class VersionsSeen:
    istiod: str | None
    proxy: str | None
    kubernetes: str | None
    curl: str | None


@dataclass(frozen=True)
class LiveResult:
    """The result of istio_affinity_check."""

    verdict: str | None
    error: Fault | None
    msg: str | None
    key: KeySeen | None
    sessions: tuple[SessionSeen, ...]
    requests: RequestsSeen
    controls: dict[str, ControlSeen]
    backends: tuple[BackendSeen, ...]
    clients: tuple[ClientSeen, ...]
    membership: MembershipSeen
    bounds: BoundsSeen
    prediction: PredictionSeen
    latency_ms: LatencySeen
    findings: tuple[FindingSeen, ...]
    identified_by: str | None
    attempts: tuple[AttemptSeen, ...]
    versions: VersionsSeen
    seed: int | None
    elapsed: Annotated[float | None, "Seconds."]


@dataclass(frozen=True)
class PredictedSession:
    id: str
    predicted: str | None


@dataclass(frozen=True)
class ProxySeen:
    client: str
    lb_policy: str | None
    in_sync: bool | None
    missing: str | None


@dataclass(frozen=True)
class StaticResult:
    """An entry of the services that istio_affinity_info returns."""

    static_verdict: Annotated[str | None, "sticks, does_not or unknown."]
    why: str | None
    key: KeySeen | None
    algorithm: str | None
    rule: Annotated[str | None, "The DestinationRule in force, as namespace/name."]
    findings: tuple[FindingSeen, ...]
    backends: tuple[BackendSeen, ...]
    sessions: tuple[PredictedSession, ...]
    proxies: tuple[ProxySeen, ...]


# -- what a report adds --


@dataclass(frozen=True)
class Past:
    """One run in the history of a service."""

    time: Moment
    verdict: VerdictWord
    status: StatusWord


@dataclass(frozen=True)
class Conclusion:
    time: Moment
    verdict: VerdictWord


@dataclass(frozen=True)
class WaiverUsed:
    match: Annotated[str, "The waived verdict or finding."]
    owner: str
    reason: str
    until: Annotated[str, Rule("pattern", r"^\d{4}-\d\d-\d\d$"), "The last day of the waiver, in UTC."]
    expired: bool


@dataclass(frozen=True)
class Landing:
    """A session that landed on another pod than in the compared run."""

    id: str
    before: str
    now: str


@dataclass(frozen=True)
class Continuity:
    state: Annotated[str, Rule("enum", (SAME, MOVED, BACKENDS_CHANGED, NOT_AVAILABLE))]
    detail: str
    compared_with: Annotated[Moment | None, "The time of the compared run."]
    compared: Annotated[Count, "Sessions that landed on one pod in both runs."]
    kept: Annotated[Count, "Sessions that landed on the same pod in both runs."]
    moved: tuple[Landing, ...]


@dataclass(frozen=True)
class ServiceReport:
    namespace: str
    service: str
    port: int | None
    mode: Annotated[str, Rule("enum", ("live", "static")), "live if it was or should have been probed, else static."]
    verdict: Annotated[VerdictWord, "passed, failed, inconclusive, not_proven or error of a probe; sticks, does_not or unknown of an inspection."]
    status: StatusWord
    why: str
    since: Annotated[Moment | None, "The time since when it is red or waived."]
    waiver: WaiverUsed | None
    single: Annotated[bool, "Whether it has one replica by intent."]
    first_seen: Moment
    counting_since: Annotated[Moment, "The start of the time without a conclusive verdict, which max_age limits."]
    conclusive: Annotated[Conclusion | None, "The last verdict that states whether sessions stick."]
    history: tuple[Past, ...]
    continuity: Continuity | None
    live: LiveResult | None
    static: StaticResult | None

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.service}" + (f":{self.port}" if self.port is not None else "")

    @property
    def identity(self) -> tuple[str, str, int | None]:
        return (self.namespace, self.service, self.port)

    @property
    def findings(self) -> tuple[FindingSeen, ...]:
        """The findings of the probe, or of the inspection if there is no probe or it has none."""
        return (self.live.findings if self.live else ()) or (self.static.findings if self.static else ())

    @property
    def backends(self) -> tuple[BackendSeen, ...]:
        return (self.live.backends if self.live else ()) or (self.static.backends if self.static else ())


@dataclass(frozen=True)
class Gone:
    """A service of the last run that is missing in this run."""

    namespace: str
    service: str
    port: int | None
    status: StatusWord
    verdict: VerdictWord
    last_seen: Moment


@dataclass(frozen=True)
class Summary:
    services: Count
    green: Count
    red: Count
    waived: Count
    not_applicable: Count
    live: Annotated[Count, "The number of probed services."]


@dataclass(frozen=True)
class RunPast:
    """One run of a cluster."""

    time: Moment
    status: Annotated[str, Rule("enum", (GREEN, RED))]
    red: Count
    services: Count


@dataclass(frozen=True)
class SettingsUsed:
    fail_on: tuple[str, ...]
    max_age: Annotated[float, "Hours."]
    hash_session_ids: bool


@dataclass(frozen=True)
class Report:
    schema_version: Annotated[int, Rule("const", SCHEMA_VERSION), "Increases when a reader of the previous version could fail."]
    cluster: str
    time: Moment
    status: Annotated[str, Rule("enum", (GREEN, RED)), "red if any service is red, or if the cluster or a part of it could not be inspected; else green."]
    error: Annotated[str | None, "Why the cluster or a part of it could not be inspected."]
    settings: SettingsUsed
    summary: Summary
    services: tuple[ServiceReport, ...]
    gone: tuple[Gone, ...]
    history: Annotated[tuple[RunPast, ...], "The last runs of this cluster, this one at the end."] = field(default=())
