# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module's result: the same keys whatever the verdict, null where nothing was computed. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from ansible_collections.meshops.istio.plugins.module_utils._model import (
    ERROR,
    FAILED,
    PASSED,
    Backend,
    CheckError,
    ClientPod,
    Finding,
    JsonDict,
    Key,
    ProxyView,
    Survey,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import exit_words, url_of
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun, Latencies
from ansible_collections.meshops.istio.plugins.module_utils._verdict.static import other_routes
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Control, SessionFate, Verdict, Window

# A longer command would bury the message.
LONG_COMMAND = 200
NOT_RUN = Control("not_applicable", "not run")


def empty_result(seed: int | None = None) -> JsonDict:
    return {
        "verdict": None,
        "error": None,
        "msg": None,
        "reasons": [],
        "measured": None,
        "key": None,
        "sessions": [],
        "requests": {"planned": None, "sent": 0, "answered": 0, "identified": 0, "failed": 0, "by_status": {}, "by_error": {}},
        "controls": {name: _control(NOT_RUN) for name in ("spread", "keyless", "keepalive")},
        "backends": [],
        "clients": [],
        "membership": {"changed": None, "events": []},
        "bounds": {"false_pass": None, "flip_rate_95": None},
        "prediction": {"available": False, "matched": None, "total": None, "reason": "not run"},
        "latency_ms": {"p50": None, "p90": None, "p99": None, "max": None},
        "findings": [],
        "identified_by": None,
        "attempts": [],
        "versions": {"istiod": None, "proxy": None, "kubernetes": None, "curl": None},
        "seed": seed,
        "elapsed": None,
    }


def error_result(error: CheckError, seed: int | None = None) -> JsonDict:
    return {**empty_result(seed), "verdict": ERROR, "error": {"code": error.code, "msg": error.msg}, "msg": f"error: {error.msg}"}


def survey_result(survey: Survey, key: Key, seed: int) -> JsonDict:
    """What is known before the first request."""
    result = empty_result(seed)
    result["key"] = {"type": key.type, "name": key.name, "origin": key.origin}
    result["clients"] = [_client(client) for client in survey.clients]
    result["backends"] = [_backend(backend, None, 0) for backend in survey.membership.ready()]
    result["versions"].update(survey.versions)
    return result


def planned_result(survey: Survey, key: Key, planned: int, seed: int) -> JsonDict:
    """The result of check mode."""
    result = survey_result(survey, key, seed)
    result["requests"]["planned"] = planned
    result["msg"] = f"check mode: {planned} requests would go to {survey.target} from {', '.join(str(client) for client in survey.clients)}."
    return result


def attempt_result(result: JsonDict) -> JsonDict:
    """What the result keeps of one attempt."""
    return {
        "verdict": result["verdict"],
        "msg": result["msg"],
        "events": result["membership"]["events"],
        "elapsed": result["elapsed"],
        "sent": result["requests"]["sent"],
    }


def full_result(
    survey: Survey,
    window: Window,
    runs: Sequence[ClientRun],
    verdict: Verdict,
    seed: int,
    most_sessions: int,
    elapsed: float,
    findings: Sequence[Finding] = (),
) -> JsonDict:
    result = survey_result(survey, window.key, seed)
    failure = next((run.failure for run in runs if run.failure), None)
    if verdict.verdict == ERROR:
        failure = CheckError("not_served", f"{verdict.reasons[0][0].upper()}{verdict.reasons[0][1:]}.")
    result.update(
        verdict=verdict.verdict,
        error={"code": failure.code, "msg": failure.msg} if failure else None,
        msg=message(survey, window, verdict, findings),
        reasons=list(verdict.reasons),
        measured=scope(survey, window, runs, elapsed),
        sessions=[_session(fate, verdict.prediction.pods.get(fate.id)) for fate in returned(verdict.fates, most_sessions)],
        requests=_requests(window, runs),
        controls={name: _control(verdict.controls.get(name, NOT_RUN)) for name in ("spread", "keyless", "keepalive")},
        backends=_backends(window, verdict),
        clients=[_client(run.client) for run in runs],
        membership={"changed": verdict.changed, "events": list(verdict.events)},
        bounds={"false_pass": verdict.false_pass, "flip_rate_95": verdict.flip_rate_95},
        prediction={name: getattr(verdict.prediction, name) for name in ("available", "matched", "total", "reason")},
        latency_ms=_latency(runs),
        findings=[finding_result(finding) for finding in findings],
        identified_by=window.identification.by,
        elapsed=round(elapsed, 3),
    )
    views = [view for entry in window.client_windows for view in entry.views()]
    result["versions"]["proxy"] = views[-1].proxy_version if views else None
    result["versions"]["curl"] = runs[0].curl if runs else None
    return result


def returned(fates: Sequence[SessionFate], most: int) -> list[SessionFate]:
    """The sessions to return if there are too many: those that moved come first, otherwise in the order sent."""
    if len(fates) <= most:
        return list(fates)
    return sorted(fates, key=lambda fate: not fate.moved)[:most]


def message(survey: Survey, window: Window, verdict: Verdict, findings: Sequence[Finding] = ()) -> str:
    """The verdict and what was seen, then the cause, then what to do."""
    stuck = sum(1 for fate in verdict.fates if fate.pods and not fate.moved)
    if verdict.verdict == PASSED:
        bound = f"at most {verdict.flip_rate_95:.2%} of requests leave their session's pod (95 %)"
        why = f"{stuck} of {len(verdict.fates)} sessions stayed on one pod each; {bound}"
    else:
        why = "; ".join(verdict.reasons)
    causes = [finding for finding in findings if finding.severity != "info"]
    advice = next_step(survey, window, causes) if verdict.verdict == FAILED else first_cause(causes) if verdict.verdict != PASSED else ""
    return f"{verdict.verdict}: {why}. {advice}{persistence(survey.target, window)}{routes_of_others(window)}".rstrip()


def routes_of_others(window: Window) -> str:
    """A note that requests with other headers, or without the key, take other routes, which the verdict does not cover."""
    notes = [note for entry in window.client_windows for view in entry.last_views() if (note := other_routes(view))]
    return f"{notes[0]}. " if notes else ""


def persistence(target: Target, window: Window) -> str:
    """A note that the verdict does not cover Istio's persistent sessions, if the service asks for them or Envoy has them."""
    filtering = any(view.route and view.route.stateful for entry in window.client_windows for view in entry.views())
    if not target.persistence and not filtering:
        return ""
    labels = f"Service {target.namespace}/{target.service} has the label {', '.join(target.persistence)}" if target.persistence else ""
    if not filtering:
        return f"{labels}, but no Envoy that was read has persistent sessions for it (istiod needs PILOT_ENABLE_PERSISTENT_SESSION_FILTER). "
    subject = f"{labels}, and Envoy" if labels else "Envoy"
    return f"{subject} has persistent sessions on this route; the verdict does not cover them, only the hash of {window.key}. "


def next_step(survey: Survey, window: Window, causes: Sequence[Finding] = ()) -> str:
    """The missing half as the client's Envoy shows it, then the first cause with its fix, or else a general next step."""
    target, key = survey.target, window.key
    advice = first_cause(causes) or f"Next: kubectl -n {target.namespace} get destinationrules,virtualservices -o yaml. "
    for entry in window.client_windows:
        client = entry.client
        if not client.sidecar and not window.via:
            no_sidecar = f"Pod {client} has no sidecar (istio-proxy), so no rule of the mesh applies to its requests. "
            return no_sidecar + (first_cause(causes) or "Next: label its namespace for injection and recreate the pod, or name another client. ")
        views = entry.views()
        if views and not views[-1].balances_by(key):
            proxy = f"Gateway {window.via}" if window.via else f"The Envoy of pod {client}"
            return f"{proxy} {halves(views[-1], key)}. {advice}"
    return advice


def first_cause(findings: Sequence[Finding]) -> str:
    """The first finding in one line: the cause, its evidence and its fix."""
    if not findings:
        return ""
    first = findings[0]
    evidence = "; ".join(f"{item.source}, {item.field}: {item.value}" for item in first.evidence[:2])
    fixes = {
        "yaml": f"apply the {_kind(first.fix.body)} in findings[0].fix",
        "command": first.fix.body if "\n" not in first.fix.body and len(first.fix.body) < LONG_COMMAND else "run the command in findings[0].fix",
        "manual": first.fix.body.rstrip("."),
    }
    return f"Cause {first.id}: {first.title} ({evidence}). Fix: {fixes[first.fix.kind]}. "


def _kind(yaml: str) -> str:
    return next((line.partition(": ")[2] for line in yaml.splitlines() if line.startswith("kind: ")), "yaml")


def finding_result(finding: Finding) -> JsonDict:
    return asdict(finding) | {"evidence": [asdict(item) for item in finding.evidence]}


def halves(view: ProxyView, key: Key) -> str:
    """Both halves of affinity in one client's Envoy, as text."""
    if view.doubt:
        return f"has several routes that a request may take: {view.doubt}"
    if view.cluster is None:
        return "has no cluster for this service"
    rule = f"DestinationRule {view.cluster.rule}" if view.cluster.rule else "no DestinationRule in force"
    policies = [" ".join(filter(None, (policy.type, policy.name))) for policy in view.policies()]
    hashes = f"hashes on {', '.join(policies)}, not on {key}" if policies else f"has no hash policy for {key} on its route"
    if any(policy.matches(key) for policy in view.policies()):
        hashes = f"ignores the hash policy of its route for {key}"
    return f"balances by {view.cluster.lb_policy} and {hashes} ({rule})"


def scope(survey: Survey, window: Window, runs: Sequence[ClientRun], elapsed: float) -> str:
    clients = ", ".join(str(run.client) + (f" (zone {run.client.zone})" if run.client.zone else "") for run in runs)
    sent = sum(run.tally.sent for run in runs)
    planned = f" of {sum(run.plan.total for run in runs)} planned" if any(run.moved for run in runs) else ""
    url = url_of(survey.target, Key("header", None), None)
    return f"Measured: {sent}{planned} requests from {clients} to {url} (port {survey.target.port}), {len(window.ready())} ready backends, {elapsed:.1f} s."


def _control(control: Control) -> JsonDict:
    return {"state": control.state, "detail": control.detail}


def _client(client: ClientPod) -> JsonDict:
    return {
        "pod": client.pod,
        "namespace": client.namespace,
        "node": client.node,
        "zone": client.zone,
        "container": client.container,
        "sidecar": client.sidecar,
    }


def _backend(backend: Backend, eligible: bool | None, sessions: int) -> JsonDict:
    return {
        "pod": backend.pod,
        "uid": backend.uid,
        "address": backend.address,
        "node": backend.node,
        "zone": backend.zone,
        "eligible": eligible,
        "sessions": sessions,
    }


def _backends(window: Window, verdict: Verdict) -> list[JsonDict]:
    """One entry for each ready pod. Of two addresses, the one that Envoy has comes first."""
    sessions = Counter(pod for fate in verdict.fates for pod in fate.pods)
    hosts = {host.address for entry in window.client_windows for view in entry.last_views() for host in view.hosts}
    ready = sorted(window.after.ready(), key=lambda backend: backend.address not in hosts)
    by_pod = {backend.pod: backend for backend in reversed(ready)}
    listed = sorted(by_pod.values(), key=lambda backend: backend.address)
    return [_backend(backend, verdict.eligible.get(backend.pod), sessions[backend.pod]) for backend in listed]


def _session(fate: SessionFate, predicted: str | None) -> JsonDict:
    return {
        "id": fate.id,
        "pods": fate.pods,
        "by_client": fate.by_client,
        "predicted": predicted,
        "moved": fate.moved,
        "explained": fate.explained,
    }


def _requests(window: Window, runs: Sequence[ClientRun]) -> JsonDict:
    by_status: Counter[str] = Counter()
    by_error: Counter[str] = Counter()
    for run in runs:
        by_status.update(run.tally.by_status)
        by_error.update({exit_words(code): count for code, count in run.tally.by_exit.items()})
    sent = sum(run.tally.sent for run in runs)
    answered = sum(run.tally.answered for run in runs)
    return {
        "planned": sum(run.plan.total for run in runs),
        "sent": sent,
        "answered": answered,
        "identified": sum(entry.identified + sum(entry.keyless.values()) for entry in window.client_windows),
        "failed": sent - answered,
        "by_status": dict(sorted(by_status.items())),
        "by_error": dict(sorted(by_error.items())),
    }


def _latency(runs: Sequence[ClientRun]) -> JsonDict:
    total = Latencies()
    for run in runs:
        total.merge(run.tally.latencies)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    percentiles = {name: total.percentile(share) for name, share in shares.items()}
    percentiles["max"] = total.highest or None
    return {name: round(value * 1000, 2) if value is not None else None for name, value in percentiles.items()}
