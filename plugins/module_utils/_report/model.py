# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a report says. The published schema (docs/report.schema.json) is these classes, annotations included.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated

from ansible_collections.meshops.istio.plugins.module_utils._model import LIVE_VERDICTS, STATIC_VERDICTS

SCHEMA_VERSION = 1

# Of a live probe ...
PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR = LIVE_VERDICTS
# ... and of a look at rules and Envoys alone.
STICKS, DOES_NOT, UNKNOWN = STATIC_VERDICTS
VERDICTS = (PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR, STICKS, DOES_NOT, UNKNOWN)
GREEN, RED, WAIVED, NOT_APPLICABLE = "green", "red", "waived", "not_applicable"
STATUSES = (RED, WAIVED, GREEN, NOT_APPLICABLE)

UTC = timezone.utc  # noqa: UP017 - its short name came with Python 3.11, and ansible-core 2.16 runs on 3.10
# Of a session's way from run to run.
SAME, MOVED, BACKENDS_CHANGED, NOT_AVAILABLE = "same", "moved", "backends_changed", "not_available"


@dataclass(frozen=True)
class Rule:
    """Beside an annotation: a keyword of the schema with its value."""

    keyword: str
    value: str | int | tuple[str, ...]


Moment = Annotated[str, Rule("pattern", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
VerdictWord = Annotated[str, Rule("enum", VERDICTS)]
StatusWord = Annotated[str, Rule("enum", STATUSES)]
Count = Annotated[int, Rule("minimum", 0)]

TIME = "%Y-%m-%dT%H:%M:%SZ"


def time_text(moment: datetime) -> str:
    return moment.strftime(TIME)


def time_of(text: str | None) -> datetime | None:
    """None for what is no time as a report writes it."""
    try:
        return datetime.strptime(text or "", TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


# -- what istio_affinity_check and istio_affinity_info return, as far as a report keeps it --


@dataclass(frozen=True)
class Fault:
    """Why something could not be done."""

    code: Annotated[str, "A stable word."]
    msg: Annotated[str, "The sentence for people."]


@dataclass(frozen=True)
class KeySeen:
    type: Annotated[str, "header, cookie, query or source_ip."]
    name: str | None
    origin: Annotated[str | None, "option or rule."]


@dataclass(frozen=True)
class SessionSeen:
    id: Annotated[str, "The session ID, hashed where the report was asked to."]
    pods: Annotated[dict[str, int], "Requests by the pod that answered them."]
    by_client: Annotated[dict[str, dict[str, int]], "The same for each client pod."]
    predicted: Annotated[str | None, "The pod that Envoy's algorithm gives for the ID."]
    moved: Annotated[bool, "It landed on more than one pod."]
    explained: Annotated[bool | None, "Every move went with a change of the backends; null where it did not move."]


@dataclass(frozen=True)
class RequestsSeen:
    planned: int | None
    sent: int | None
    answered: int | None
    identified: Annotated[int | None, "Answers of which the pod is known."]
    failed: Annotated[int | None, "Sent and not answered."]
    by_status: Annotated[dict[str, int], "Answers by HTTP status."]


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
    eligible: Annotated[bool | None, "Every client's Envoy can choose it; null where none said."]
    ready: bool | None
    sessions: Annotated[int | None, "How many sessions it got."]


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
    events: Annotated[tuple[str, ...], "What happened to backends, rules and Envoys meanwhile."]


@dataclass(frozen=True)
class BoundsSeen:
    false_pass: Annotated[float | None, "The chance that balancing at random had shown no move either."]
    flip_rate_95: Annotated[float | None, "The share of requests on which sessions move at most, with 95 % confidence."]


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


@dataclass(frozen=True)
class FindingSeen:
    id: Annotated[str, "The catalogue's."]
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
    """An entry of what istio_affinity_info returns as services."""

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
    """One run, as the history keeps it."""

    time: Moment
    verdict: VerdictWord
    status: StatusWord


@dataclass(frozen=True)
class Conclusion:
    time: Moment
    verdict: VerdictWord


@dataclass(frozen=True)
class WaiverUsed:
    match: Annotated[str, "The verdict or the finding that is waived."]
    owner: str
    reason: str
    until: Annotated[str, Rule("pattern", r"^\d{4}-\d\d-\d\d$"), "The last day on which it holds, in UTC."]
    expired: bool


@dataclass(frozen=True)
class Landing:
    """A session that landed elsewhere than in the run compared with."""

    id: str
    before: str
    now: str


@dataclass(frozen=True)
class Continuity:
    state: Annotated[str, Rule("enum", (SAME, MOVED, BACKENDS_CHANGED, NOT_AVAILABLE))]
    detail: str
    compared_with: Annotated[Moment | None, "The time of the run compared with."]
    compared: Annotated[Count, "Sessions that landed on one pod in both runs."]
    kept: Annotated[Count, "Those of them that landed on the same pod."]
    moved: tuple[Landing, ...]


@dataclass(frozen=True)
class ServiceReport:
    namespace: str
    service: str
    port: int | None
    mode: Annotated[str, Rule("enum", ("live", "static")), "live where it was probed, else static."]
    verdict: Annotated[VerdictWord, "passed, failed, inconclusive, not_proven or error of a probe; sticks, does_not or unknown of a look."]
    status: StatusWord
    why: str
    since: Annotated[Moment | None, "Since when it is red or waived."]
    waiver: WaiverUsed | None
    single: Annotated[bool, "It has one replica by intent."]
    first_seen: Moment
    counting_since: Annotated[Moment, "From when on the longest time without a conclusive verdict is counted."]
    conclusive: Annotated[Conclusion | None, "The last verdict that says whether sessions stick."]
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
        """Of the probe, or of the look where there is no probe or it found nothing."""
        return (self.live.findings if self.live else ()) or (self.static.findings if self.static else ())

    @property
    def backends(self) -> tuple[BackendSeen, ...]:
        return (self.live.backends if self.live else ()) or (self.static.backends if self.static else ())


@dataclass(frozen=True)
class Gone:
    """A service of the last run that this one was not told of."""

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
    live: Annotated[Count, "How many were probed."]


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
    schema_version: Annotated[int, Rule("const", SCHEMA_VERSION), "Rises when a reader of the former one could fail."]
    cluster: str
    time: Moment
    status: Annotated[str, Rule("enum", (GREEN, RED)), "red if any service is, or if the cluster or a part of it could not be looked at; else green."]
    error: Annotated[str | None, "Why the cluster or a part of it could not be looked at."]
    settings: SettingsUsed
    summary: Summary
    services: tuple[ServiceReport, ...]
    gone: tuple[Gone, ...]
    history: Annotated[tuple[RunPast, ...], "The last runs of this cluster, this one at the end."] = field(default=())
