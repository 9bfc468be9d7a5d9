# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the measurement to the verdict. Pure.

`judge` applies the rules in this order: an unexplained move is `failed`, whatever else went wrong; a service that serves
nobody is an `error`; anything that prevents a conclusion is `inconclusive`; anything that could make sessions stick for a
reason other than the key is `not_proven`; otherwise the verdict is `passed`.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import Prediction, compare, predict
from ansible_collections.meshops.istio.plugins.module_utils._membership import all_backends
from ansible_collections.meshops.istio.plugins.module_utils._model import ERROR, FAILED, INCONCLUSIVE, NOT_PROVEN, PASSED
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import exit_words
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import ACCESS_LOG, UPSTREAM, names_of
from ansible_collections.meshops.istio.plugins.module_utils._verdict.bounds import false_pass_bound, flip_bound
from ansible_collections.meshops.istio.plugins.module_utils._verdict.controls import eligibility, keyless_control, spread_control
from ansible_collections.meshops.istio.plugins.module_utils._verdict.events import configuration_events, gateway_events, membership_events
from ansible_collections.meshops.istio.plugins.module_utils._verdict.moves import one_source_each, session_fates
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import ClientWindow, SessionFate, Verdict, Window

# The status of a command that was killed, as for too much memory.
KILLED = 137


def judge(window: Window) -> Verdict:
    """The verdict on a complete or interrupted window. An error before the first request is not judged here."""
    of_backends, of_gateway = membership_events(window), gateway_events(window)
    events = (*of_backends, *of_gateway)
    rule_events = configuration_events(window)
    fates = tuple(session_fates(window))
    eligible = eligibility(window)
    controls = {"spread": spread_control(window, eligible), "keyless": keyless_control(window)}
    prediction = prediction_of(window, fates)
    bound = flip_bound(window, prediction.available)
    base = Verdict(PASSED, (), fates, controls, bool(events), (*events, *rule_events), bound, false_pass_bound(window), prediction, eligible=eligible)
    if any(fate.moved for fate in fates):
        # How many more could have moved is no bound on anything once some have.
        base = replace(base, flip_rate_95=None)

    unexplained = [fate for fate in fates if fate.explained is False]
    if unexplained:
        return replace(base, verdict=FAILED, reasons=(_moved_reason(unexplained, fates),))
    if unserved := nobody_served(window):
        return replace(base, verdict=ERROR, reasons=(unserved,))
    churn = [*_explained_reason(fates, window.via), *_churn_reasons(window.via, of_backends, of_gateway)]
    other = [*rule_events, *_evidence_reasons(window, eligible), *_bound_reasons(window, bound)]
    if churn or other:
        return replace(base, verdict=INCONCLUSIVE, reasons=(*churn, *other), churn_only=bool(churn) and not other)
    unproven = [] if controls["spread"].state != "failed" else [controls["spread"].detail]
    if controls["keyless"].state != "passed" and not prediction.available:
        unproven.append(f"nothing proves that sessions stick because of the key: {controls['keyless'].detail}")
    unproven.extend(_split_reasons(window))
    if one_source_each(window):
        unproven.append(_one_source(window))
    if window.keepalive:
        unproven.append("connections were reused, and a connection may stay on one pod without any rule")
    if unproven:
        return replace(base, verdict=NOT_PROVEN, reasons=tuple(unproven))
    return base


def _split_reasons(window: Window) -> list[str]:
    """A route with weights sends a share of each session's requests elsewhere, even if none of these was sent there."""
    for entry in window.client_windows:
        view = next(iter(entry.last_views()), None)
        if view is not None and view.route is not None and not view.alike and len(view.route.destinations()) > 1:
            weights = ", ".join(f"{weight} to {name}" for name, weight in view.route.clusters)
            return [f"the route splits requests over clusters with different hosts ({weights}), whatever their session"]
    return []


def _one_source(window: Window) -> str:
    """The sources differ only in X-Forwarded-For, which not every proxy trusts."""
    proxy = f"gateway {window.via}" if window.via else "the clients' Envoys"
    instead = "the connection's address instead (numTrustedProxies), which is the same for all requests"
    return f"the source addresses were sent as X-Forwarded-For, and {proxy} may use {instead}"


def _moved_reason(unexplained: Sequence[SessionFate], fates: Sequence[SessionFate]) -> str:
    worst = max(unexplained, key=lambda fate: (fate.requested, len(fate.pods)))
    pods = ", ".join(f"{pod} ({count})" for pod, count in sorted(worst.pods.items(), key=lambda item: -item[1]))
    return f"{len(unexplained)} of {len(fates)} sessions landed on more than one pod; session {worst.id} landed on {pods}"


def _explained_reason(fates: Sequence[SessionFate], via: str | None) -> list[str]:
    moved = [fate.id for fate in fates if fate.explained]
    if not moved:
        return []
    changed = "backends or of the gateway's pods" if via else "backends"
    return [f"{len(moved)} of {len(fates)} sessions moved, each with a change of the {changed} ({', '.join(moved[:3])}{', …' if len(moved) > 3 else ''})"]


def _churn_reasons(via: str | None, of_backends: Sequence[str], of_gateway: Sequence[str]) -> list[str]:
    changed = {"backends": of_backends, f"pods of gateway {via}": of_gateway}
    return [f"the set of {name} changed during the measurement" for name, events in changed.items() if events]


def _evidence_reasons(window: Window, eligible: dict[str, bool | None]) -> list[str]:
    reasons = [entry.failure.msg for entry in window.client_windows if entry.failure]
    ready = {backend.pod for backend in window.after.ready()}
    usable = [pod for pod in window.pool() if eligible.get(pod) is not False]
    if len(usable) < 2:
        reasons.append(f"{len(usable)} of {len(ready)} ready backends are eligible, and with fewer than two, affinity cannot be distinguished from chance")
    reasons.extend(conflict for entry in window.client_windows if (conflict := witness_conflict(window, entry) or others_named(window, entry)))
    if not any(entry.identified for entry in window.client_windows):
        answered = sum(entry.tally.answered for entry in window.client_windows)
        reasons.append(_unidentified(window, answered))
    return reasons


def witness_conflict(window: Window, entry: ClientWindow) -> str | None:
    """Compare the sidecar's counters with the responses: without other traffic in the window, both must agree. With other
    traffic, the counters prove nothing, because it is unknown whose requests they counted."""
    views = entry.views()
    if window.via or len(views) < 2 or entry.identified_by == UPSTREAM or len({view.eligible() for view in views}) > 1:
        return None
    names = {backend.address: backend.pod for backend in all_backends(window.memberships())}
    earlier = {host.address: host.rq_total for host in views[0].hosts}
    counted: dict[str, int] = {}
    for host in views[-1].hosts:
        rise = host.rq_total - earlier.get(host.address, 0)
        if rise:
            counted[names.get(host.address, host.address)] = rise
    if not counted and entry.tally.answered:
        return f"the Envoy of {entry.client} sent none of {entry.tally.answered} answered requests to the endpoints: {_went_elsewhere(entry)}"
    named = dict(entry.keyless)
    for trace in entry.traces:
        for pod, count in trace.counts.items():
            named[pod] = named.get(pod, 0) + count
    if sum(named.values()) != entry.tally.sent or sum(counted.values()) != entry.tally.sent or counted == named:
        return None
    pod = next(pod for pod in sorted(named | counted) if named.get(pod) != counted.get(pod))
    return f"the evidence conflicts: {named.get(pod, 0)} responses name pod {pod}, but the Envoy of {entry.client} sent it {counted.get(pod, 0)} requests"


def _went_elsewhere(entry: ClientWindow) -> str:
    """Who served requests that no counter of the target's cluster shows."""
    view = entry.last_views()[-1]
    if by_proxy := sum(entry.tally.by_proxy.values()):
        return f"an Envoy wrote {by_proxy} of the responses itself ({_counts(entry.tally.by_proxy)})"
    if view.route is None or view.cluster is None:
        return "it has no route or cluster for the service, and passes such requests through unbalanced"
    return "another cluster served them, or they bypassed the sidecar"


def others_named(window: Window, entry: ClientWindow) -> str | None:
    """Where counters or a log name the endpoint, the responses may still say that pods of another workload served them: then the
    endpoint is a proxy that chooses again, unseen by the client's Envoy."""
    if entry.identified_by not in (UPSTREAM, ACCESS_LOG):
        return None
    known = names_of(all_backends(window.memberships())).keys()
    others = sorted({name for names in entry.tally.samples if not names & known for name in names})
    if not others:
        return None
    pods = ", ".join(sorted(window.pool())[:2])
    return f"responses name pods that are no endpoints of the Service ({', '.join(others[:2])}): its endpoints ({pods}) forward requests and choose a pod again"


def nobody_served(window: Window) -> str | None:
    """Whether no request with or without the key was served: every response is a server error that names no backend."""
    statuses: Counter[str] = Counter()
    by_proxy: Counter[str] = Counter()
    for entry in window.client_windows:
        statuses.update(entry.tally.by_status)
        by_proxy.update(entry.tally.by_proxy)
        if entry.identified or entry.keyless or entry.failure:
            return None
    if not statuses or any(not status.startswith("5") for status in statuses):
        return None
    wrote = sum(by_proxy.values())
    writer = f"an Envoy wrote {'all' if by_proxy == statuses else wrote} of them itself" if wrote else "none of them is an Envoy's own"
    return f"no session is served: all {sum(statuses.values())} responses are server errors ({_counts(statuses)}), and {writer}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} times {name}" for name, count in sorted(counts.items()))


def _unidentified(window: Window, answered: int) -> str:
    if not answered:
        return f"no request was answered{_losses(window)}"
    samples = [value for value in window.identification.unknown if value][:2]
    if samples:
        return f"{answered} responses, but none names its pod (values: {', '.join(samples)}); see the option identify"
    return f"{answered} responses, but nothing in them names a pod{_losses(window)}; see the option identify"


def _losses(window: Window) -> str:
    """Why requests have no response, and which responses are errors."""
    words: Counter[str] = Counter()
    for entry in window.client_windows:
        words.update({exit_words(code): count for code, count in entry.tally.by_exit.items()})
        words.update({f"curl ended with status {status}{' (killed)' if status == KILLED else ''}": count for status, count in entry.tally.killed.items()})
        words.update({f"status {status}": count for status, count in entry.tally.by_status.items() if status >= "400"})
    return f" ({_counts(words)})" if words else ""


def _bound_reasons(window: Window, bound: float | None) -> list[str]:
    if bound is None or bound <= window.max_flip_rate:
        return []
    planned = sum(entry.planned for entry in window.client_windows)
    lost = planned - sum(entry.identified for entry in window.client_windows)
    because = f"{lost} of {planned} requests have no response from a known pod{_losses(window)}" if lost else f"{planned} requests are too few"
    return [f"sessions could still move on up to {bound:.2%} of the requests (95 %), more than the {window.max_flip_rate:.2%} allowed: {because}"]


def prediction_of(window: Window, fates: Sequence[SessionFate]) -> Prediction:
    """The prediction from the clients' Envoys, compared with where the sessions landed."""
    views = [view for entry in window.client_windows for checkpoint in entry.checkpoints for view in checkpoint.views()]
    prediction = predict(window.key, [fate.id for fate in fates], views, all_backends(window.memberships()))
    return compare(prediction, {fate.id: set(fate.pods) for fate in fates})
