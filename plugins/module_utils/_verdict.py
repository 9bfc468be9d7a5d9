# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what was seen to what may be said. Pure.

The order of the rules is the order of L(judge): a session on two pods without an explanation is C(failed), whatever
else went wrong; then whatever forbids a conclusion is C(inconclusive); then whatever would let sessions stick for
another reason than the key is C(not_proven); what is left is C(passed).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace

from ansible_collections.meshops.istio.plugins.module_utils._identity import Identification
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    CheckError,
    Checkpoint,
    ClientPod,
    Key,
    Membership,
    ObjectVersion,
    ProxyView,
)
from ansible_collections.meshops.istio.plugins.module_utils._plan import Plan
from ansible_collections.meshops.istio.plugins.module_utils._prediction import Prediction, compare, predict
from ansible_collections.meshops.istio.plugins.module_utils._tally import Tally, Trace

PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR = "passed", "failed", "inconclusive", "not_proven", "error"
# Fewer answers than this without the key can all meet one pod by chance (two pods, ten answers: 1 in 512).
KEYLESS_ENOUGH = 10
SURPRISE = 0.001
CONFIDENCE = 0.95
# Seconds within which a change of the endpoints reaches Envoy. A tenth is usual; while pods come and go istiod waits
# for quiet. More than needed excuses nothing by itself, as each move needs a change of its own.
PUSH_DELAY = 5.0
# After so long without another change it has, as a rule; the age of the last change is known to the second only.
USUAL_DELAY = 2.0


@dataclass(frozen=True)
class Evidence:
    """One client's part of the window, with pods in place of raw identities."""

    client: ClientPod
    plan: Plan
    tally: Tally
    traces: tuple[Trace, ...]
    keyless: dict[str, int]
    checkpoints: tuple[Checkpoint, ...]
    segments: tuple[range, ...]
    failure: CheckError | None = None

    @property
    def planned(self) -> int:
        return len(self.plan.sessions) * self.plan.rounds

    @property
    def identified(self) -> int:
        return sum(sum(trace.counts.values()) for trace in self.traces)

    def pods(self) -> set[str]:
        """The pods that any of the sessions met."""
        return {pod for trace in self.traces for pod in trace.counts}

    def views(self) -> list[ProxyView]:
        return [view for checkpoint in self.checkpoints for view in checkpoint.views() if view is not None]

    def last_views(self) -> list[ProxyView]:
        return [view for view in self.checkpoints[-1].views() if view is not None] if self.checkpoints else []


@dataclass(frozen=True)
class Window:
    """Everything between the first look and the last one."""

    key: Key
    before: Membership
    after: Membership
    rules_before: tuple[ObjectVersion, ...]
    rules_after: tuple[ObjectVersion, ...]
    identification: Identification
    evidence: tuple[Evidence, ...]
    max_flip_rate: float
    keepalive: bool = False
    via: str | None = None

    def memberships(self) -> list[Membership]:
        seen = [checkpoint.membership for entry in self.evidence for checkpoint in entry.checkpoints]
        return [self.before, *seen, self.after]


@dataclass(frozen=True)
class SessionFate:
    """One session over all clients. C(explained) is None where it did not move."""

    id: str
    pods: dict[str, int]
    by_client: dict[str, dict[str, int]]
    moved: bool
    explained: bool | None
    asked: bool = True


@dataclass(frozen=True)
class Control:
    """A control's C(state) is passed, failed or not_applicable."""

    state: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """The word, why in sentences for people, and the figures that it rests on."""

    verdict: str
    reasons: tuple[str, ...]
    fates: tuple[SessionFate, ...]
    controls: dict[str, Control]
    changed: bool
    events: tuple[str, ...]
    flip_rate_95: float | None
    false_pass: float | None
    prediction: Prediction
    churn_only: bool = False
    eligible: dict[str, bool | None] = field(default_factory=dict)


def judge(window: Window) -> Verdict:
    """The verdict on a finished (or broken off) window. An error before the first request is not judged here."""
    of_backends, of_gateway = membership_events(window), gateway_events(window)
    events = (*of_backends, *of_gateway)
    rule_events = configuration_events(window)
    fates = tuple(session_fates(window))
    eligible = eligibility(window)
    controls = {"spread": spread_control(window, eligible), "keyless": keyless_control(window)}
    bound = flip_bound(window)
    prediction = prediction_of(window, fates)
    base = Verdict(PASSED, (), fates, controls, bool(events), (*events, *rule_events), bound, false_pass_bound(window), prediction, eligible=eligible)

    unexplained = [fate for fate in fates if fate.explained is False]
    if unexplained:
        return replace(base, verdict=FAILED, reasons=(_moved_reason(unexplained, fates),))
    churn = [*_explained_reason(fates, window.via), *_churn_reasons(window.via, of_backends, of_gateway)]
    other = [*rule_events, *_blind_reasons(window, eligible), *_bound_reasons(window, bound)]
    if churn or other:
        return replace(base, verdict=INCONCLUSIVE, reasons=(*churn, *other), churn_only=bool(churn) and not other)
    unproven = [] if controls["spread"].state != "failed" else [controls["spread"].detail]
    if controls["keyless"].state != "passed" and not prediction.available:
        unproven.append(f"nothing shows that the key is what makes them stick: {controls['keyless'].detail}")
    if _is_one_source_each(window):
        unproven.append(_one_source(window))
    if window.keepalive:
        unproven.append("connections were reused, and one connection may stay on one pod without any rule")
    if unproven:
        return replace(base, verdict=NOT_PROVEN, reasons=tuple(unproven))
    return base


def _is_one_source_each(window: Window) -> bool:
    """Whether each client met one pod, whatever source address its requests named."""
    return window.key.type == "source_ip" and not window.key.own and all(len(entry.pods()) == 1 for entry in window.evidence)


def _one_source(window: Window) -> str:
    """The sources are told apart by X-Forwarded-For, which not every proxy believes."""
    who = f"gateway {window.via}" if window.via else "the clients' Envoys"
    return f"the source addresses were sent as X-Forwarded-For, and {who} may take the connection's own instead (numTrustedProxies), which is the same for all"


def _moved_reason(unexplained: Sequence[SessionFate], fates: Sequence[SessionFate]) -> str:
    worst = max(unexplained, key=lambda fate: (fate.asked, len(fate.pods)))
    pods = ", ".join(f"{pod} ({count})" for pod, count in sorted(worst.pods.items(), key=lambda item: -item[1]))
    return f"{len(unexplained)} of {len(fates)} sessions landed on more than one pod; session {worst.id} landed on {pods}"


def _explained_reason(fates: Sequence[SessionFate], via: str | None) -> list[str]:
    moved = [fate.id for fate in fates if fate.explained]
    if not moved:
        return []
    what = "backends or of the gateway's pods" if via else "backends"
    return [f"{len(moved)} of {len(fates)} sessions moved, each with a change of the {what} ({', '.join(moved[:3])}{', …' if len(moved) > 3 else ''})"]


def _churn_reasons(via: str | None, of_backends: Sequence[str], of_gateway: Sequence[str]) -> list[str]:
    changed = {"backends": of_backends, f"pods of gateway {via}": of_gateway}
    return [f"the set of {what} changed while it was measured" for what, events in changed.items() if events]


def _blind_reasons(window: Window, eligible: dict[str, bool | None]) -> list[str]:
    reasons = [entry.failure.msg for entry in window.evidence if entry.failure]
    ready = {backend.pod for backend in window.after.ready()}
    usable = [pod for pod in ready if eligible.get(pod) is not False]
    if len(usable) < 2:
        reasons.append(f"{len(usable)} of {len(ready)} ready backends can be chosen, and with fewer than two there is nothing to tell apart")
    reasons.extend(conflict for entry in window.evidence if (conflict := witness_conflict(window, entry)))
    if not any(entry.identified for entry in window.evidence):
        answered = sum(entry.tally.answered for entry in window.evidence)
        reasons.append(_unidentified(window, answered))
    return reasons


def witness_conflict(window: Window, entry: Evidence) -> str | None:
    """The sidecar's counters as a second witness: where nothing else used the service in the window, they must say the
    same as the answers did. With other traffic they say nothing, as whose requests they counted can't be told."""
    views = entry.views()
    if window.via or len(views) < 2 or window.identification.by == "upstream" or len({view.eligible() for view in views}) > 1:
        return None
    names = {backend.address: backend.pod for backend in all_backends(window.memberships())}
    earlier = {host.address: host.rq_total for host in views[0].hosts}
    counted: dict[str, int] = {}
    for host in views[-1].hosts:
        rise = host.rq_total - earlier.get(host.address, 0)
        if rise:
            counted[names.get(host.address, host.address)] = rise
    if not counted and entry.tally.answered:
        return f"the Envoy of {entry.client} counted none of {entry.tally.answered} answered requests, so they went around it"
    said = dict(entry.keyless)
    for trace in entry.traces:
        for pod, count in trace.counts.items():
            said[pod] = said.get(pod, 0) + count
    if sum(said.values()) != entry.tally.sent or sum(counted.values()) != entry.tally.sent or counted == said:
        return None
    pod = next(pod for pod in sorted(said | counted) if said.get(pod) != counted.get(pod))
    return f"two witnesses disagree: {said.get(pod, 0)} answers name pod {pod}, but the Envoy of {entry.client} sent it {counted.get(pod, 0)} requests"


def _unidentified(window: Window, answered: int) -> str:
    if not answered:
        return "no request was answered"
    samples = [value for value in window.identification.unknown if value][:2]
    seen = f" (seen: {', '.join(samples)})" if samples else ""
    return f"{answered} answers, but none says which pod gave it{seen}; see the option identify"


def _bound_reasons(window: Window, bound: float | None) -> list[str]:
    if bound is None or bound <= window.max_flip_rate:
        return []
    planned = sum(entry.planned for entry in window.evidence)
    lost = planned - sum(entry.identified for entry in window.evidence)
    because = f"{lost} of {planned} requests have no answer from a known pod" if lost else f"{planned} requests are too few"
    return [f"sessions could still move on up to {bound:.2%} of the requests (95 %), more than the {window.max_flip_rate:.2%} allowed: {because}"]


# -- moves and what explains them -------------------------------------------------------------------------------------


def changes(before: Membership, after: Membership) -> int:
    """How often the endpoints changed between two reads, at least: each change raises a slice's generation by one."""
    count = 0
    for uid in before.slices.keys() | after.slices.keys():
        if uid in before.slices and uid in after.slices:
            count += abs(after.slices[uid] - before.slices[uid])
        else:
            count += 1
    return count or int(ready_addresses(before) != ready_addresses(after))


def gateway_changes(first: Checkpoint, second: Checkpoint) -> int:
    """How often the endpoints of the gateway on the way changed between two looks."""
    return changes(first.gateway, second.gateway)


def ready_addresses(membership: Membership) -> frozenset[str]:
    return frozenset(backend.address for backend in membership.ready())


def is_settled(look: Checkpoint) -> bool:
    """Whether no change from before this look can still be on its way to Envoy. One that arrives after the first look
    would move sessions without a change in sight. Requests may meet a gateway's pod that was replaced as long."""
    if look.gateway.age is not None and look.gateway.age < PUSH_DELAY:
        return False
    age = look.membership.age
    if age is None or age >= PUSH_DELAY:
        return True
    ready = ready_addresses(look.membership)
    return age >= USUAL_DELAY and all(eligible == ready for eligible in look.eligible())


@dataclass(frozen=True)
class Changes:
    """How often the set of hosts can have changed for one client: C(counts[0]) between the survey and the first look,
    C(counts[n]) in segment n-1, and the last one between the last look and the end. C(looks) says when the looks were."""

    counts: tuple[int, ...]
    looks: tuple[float, ...] = ()

    def usable(self, first: int, last: int) -> Iterator[int]:
        """Where a change can stand that explains a move between two segments: there, or before them within L(PUSH_DELAY)."""
        start = self.looks[first] - PUSH_DELAY if first < len(self.looks) else -math.inf
        for number in range(min(last + 2, len(self.counts))):
            if number > first or (number < len(self.looks) and self.looks[number] >= start):
                yield number


def changes_of(before: Membership, checkpoints: Sequence[Checkpoint], after: Membership) -> Changes:
    """By the API server, or by this client's Envoy. A change of the gateway's pods is one too: another pod, maybe with
    another configuration, chooses from then on."""
    members = [before, *(checkpoint.membership for checkpoint in checkpoints), after]
    counts = [changes(first, second) for first, second in itertools.pairwise(members)]
    for number, (first, second) in enumerate(itertools.pairwise(checkpoints), 1):
        if not counts[number] and first.eligible() and second.eligible():
            counts[number] = int(set(first.eligible()) != set(second.eligible()))
        counts[number] += gateway_changes(first, second)
    return Changes(tuple(counts), tuple(checkpoint.at for checkpoint in checkpoints))


def is_explained(trace: Trace, segments: Sequence[range], found: Changes) -> bool:
    """Each move needs a change of its own, in the segments that the move can have happened in or shortly before.

    A session that goes back and forth needs as many changes as it has moves: when a pod is replaced, a ring of other
    size can hand a session to a neighbour and take it back, so the way back alone proves nothing, while without a rule
    moves soon outnumber changes.
    """
    if trace.overflow:
        return False
    left = list(found.counts)
    for run, following in itertools.pairwise(trace.runs):
        between = found.usable(_segment(run.last, segments), _segment(following.first, segments))
        number = next((number for number in between if left[number] > 0), None)
        if number is None:
            return False
        left[number] -= 1
    return True


def _segment(number: int, segments: Sequence[range]) -> int:
    return next((position for position, rounds in enumerate(segments) if number in rounds), len(segments) - 1)


def session_fates(window: Window) -> Iterable[SessionFate]:
    """Every session with the pods it met, over all clients that asked for it. Where the other side issues the keys, or
    the client's own address is the key, each client's session is one of its own, as the values differ. Nor are clients
    compared by source addresses that the gateway did not believe, where each client was one source."""
    found = {entry.client: changes_of(window.before, entry.checkpoints, window.after) for entry in window.evidence}
    apart = window.key.issued or window.key.own
    groups = [(entry,) for entry in window.evidence] if apart else [window.evidence]
    compared = not (window.via and _is_one_source_each(window))
    for group in groups:
        prefix = f"{group[0].client.pod}: " if window.key.issued and len(groups) > 1 else ""
        for position, session in enumerate(group[0].plan.sessions):
            yield _fate(f"{prefix}{session}", position, group, found, compared)


def _fate(name: str, position: int, group: Sequence[Evidence], found: dict[ClientPod, Changes], compared: bool) -> SessionFate:
    traces = {entry.client: entry.traces[position] for entry in group}
    pods: dict[str, int] = {}
    for trace in traces.values():
        for pod, count in trace.counts.items():
            pods[pod] = pods.get(pod, 0) + count
    verdicts = [is_explained(trace, entry.segments, found[entry.client]) for entry in group if (trace := traces[entry.client]).moves]
    split = _clients_disagree(traces, found) if compared else None
    moved = bool(verdicts) or split is not None
    explained = all(verdicts) and split is not False if moved else None
    by_client = {str(client): dict(trace.counts) for client, trace in traces.items()}
    return SessionFate(name, pods, by_client, moved, explained, asked=position < group[0].plan.asked)


def _clients_disagree(traces: dict[ClientPod, Trace], found: dict[ClientPod, Changes]) -> bool | None:
    """None where all clients met the same pod at last, else whether a change of the backends can explain it."""
    lasts = {trace.runs[-1].pod for trace in traces.values() if trace.runs}
    if len(lasts) < 2:
        return None
    return any(any(changed.counts) for changed in found.values())


def membership_events(window: Window) -> list[str]:
    """What happened to the endpoints, in words: pods that came, went or changed readiness, and unseen flaps."""
    events: list[str] = []
    for before, after in itertools.pairwise(window.memberships()):
        old, new = ({b.pod: b for b in m.backends} for m in (before, after))
        events.extend(came_and_went(old.keys(), new.keys()))
        both = sorted(old.keys() & new.keys())
        events.extend(f"pod {pod} became {'ready' if new[pod].ready else 'not ready'}" for pod in both if old[pod].ready != new[pod].ready)
    if not events and changes(window.before, window.after):
        events.append("endpoints changed and changed back")
    for entry in window.evidence:
        eligible = {frozenset(checkpoint.eligible()) for checkpoint in entry.checkpoints if checkpoint.eligible()}
        if len(eligible) > 1 and not events:
            events.append(f"the hosts that {proxies_of(window, entry)} can choose changed")
    return list(dict.fromkeys(events))


def came_and_went(old: Set[str], new: Set[str], whose: str = "") -> list[str]:
    return [*(f"pod {pod}{whose} came" for pod in sorted(new - old)), *(f"pod {pod}{whose} went" for pod in sorted(old - new))]


def gateway_events(window: Window) -> list[str]:
    """What happened to the pods of the gateway on the way, in words."""
    events: list[str] = []
    for entry in window.evidence:
        for first, second in itertools.pairwise(entry.checkpoints):
            if not gateway_changes(first, second):
                continue
            old, new = ({backend.pod for backend in look.gateway.ready()} for look in (first, second))
            events.extend(came_and_went(old, new, f" of gateway {window.via}") or [f"the endpoints of gateway {window.via} changed and changed back"])
    return list(dict.fromkeys(events))


def configuration_events(window: Window) -> list[str]:
    """Changes of rules, by the API server, and of Envoy's own configuration or life, by the clients."""
    before = {(rule.kind, rule.namespace, rule.name): rule for rule in window.rules_before}
    after = {(rule.kind, rule.namespace, rule.name): rule for rule in window.rules_after}
    events = [f"{before.get(name) or after[name]} changed" for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    for entry in window.evidence:
        who = proxies_of(window, entry)
        looks = [checkpoint.views() for checkpoint in entry.checkpoints]
        # Which view is whose is only known as long as a gateway's pods are the same.
        replaced = any(gateway_changes(first, second) for first, second in itertools.pairwise(entry.checkpoints))
        for views in () if replaced else itertools.zip_longest(*looks):
            uptimes = [view.uptime for view in views if view is not None and view.uptime is not None]
            if any(second < first for first, second in itertools.pairwise(uptimes)):
                events.append(f"{who} was restarted")
            if any(view is None for view in views) and any(view is not None for view in views):
                events.append(f"{who} did not always answer")
        if len({_configuration(view) for view in entry.views()}) > 1:
            events.append(f"route or cluster in {who} changed" if not window.via else f"route or cluster in {who} changed, or is not the same in all its pods")
    return events


def proxies_of(window: Window, entry: Evidence) -> str:
    return f"gateway {window.via}" if window.via else f"the Envoy of {entry.client}"


def _configuration(view: ProxyView) -> tuple[object, object]:
    """Route and cluster without their versions: Istio raises those with every push, whatever it was for."""
    return (view.route and replace(view.route, version=""), view.cluster and replace(view.cluster, version=""))


def prediction_of(window: Window, fates: Sequence[SessionFate]) -> Prediction:
    """What the clients' Envoys dictate, compared with where the sessions landed."""
    views = [view for entry in window.evidence for checkpoint in entry.checkpoints for view in checkpoint.views()]
    prediction = predict(window.key, [fate.id for fate in fates], views, all_backends(window.memberships()))
    return compare(prediction, {fate.id: set(fate.pods) for fate in fates})


# -- bounds -----------------------------------------------------------------------------------------------------------


def flip_bound(window: Window) -> float | None:
    """The 95 % upper bound of the share of requests on which a session leaves its pod, each request without an
    identified answer counted as one that did."""
    opportunities = sum(len(entry.plan.sessions) * (entry.plan.rounds - 1) for entry in window.evidence)
    lost = sum(entry.planned - entry.identified for entry in window.evidence)
    if opportunities < 1:
        return 1.0
    return upper_bound(min(lost, opportunities), opportunities)


def upper_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided upper bound: the rate at which so few events or fewer have chance 1-confidence."""
    if events >= trials:
        return 1.0
    if not events:
        return 1.0 - math.pow(1.0 - confidence, 1.0 / trials)
    ways = math.lgamma(trials + 1) - math.lgamma(events + 1) - math.lgamma(trials - events + 1)
    low, high = events / trials, 1.0
    for _step in range(40):
        middle = (low + high) / 2
        if _at_most(events, trials, middle, ways) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(events: int, trials: int, rate: float, ways: float) -> float:
    """The binomial chance of at most so many events, summed downwards from the largest term, for rate >= events/trials;
    C(ways) is the logarithm of the number of ways to choose the events."""
    total = term = math.exp(ways + events * math.log(rate) + (trials - events) * math.log1p(-rate))
    for number in range(events, 0, -1):
        term *= number / (trials - number + 1) * (1 - rate) / rate
        total += term
        if term < total * 1e-12:
            break
    return total


def false_pass_bound(window: Window) -> float | None:
    """The chance that balancing at random among the ready backends had shown no move either."""
    backends = len(window.after.ready())
    repeats = sum(max(0, sum(trace.counts.values()) - 1) for entry in window.evidence for trace in entry.traces)
    return math.pow(backends, -repeats) if backends > 1 and repeats * math.log10(backends) < 300 else (0.0 if backends > 1 else None)


# -- controls ---------------------------------------------------------------------------------------------------------


def eligibility(window: Window) -> dict[str, bool | None]:
    """For each ready backend whether every client's Envoy could choose it at the last look; None where none said."""
    views = [view for entry in window.evidence for view in entry.last_views()]
    return {backend.pod: all(backend.address in view.eligible() for view in views) if views else None for backend in window.after.ready()}


def spread_control(window: Window, eligible: dict[str, bool | None]) -> Control:
    """Different sessions must use all the pods that they could, but for what chance leaves out."""
    barred = sorted(pod for pod, can in eligible.items() if can is False)
    if barred:
        who = f"{barred[0]} and {len(barred) - 1} more" if len(barred) > 1 else barred[0]
        return Control("failed", f"ready backends that a client's Envoy does not choose from: {who}; look for locality settings, subsets or outlier detection")
    ready = {backend.pod for backend in window.after.ready()}
    if len(ready) < 2:
        return Control("not_applicable", f"{len(ready)} ready backends")
    worst = 1.0
    unused: set[str] = set()
    for entry in window.evidence:
        used = entry.pods()
        sessions = sum(1 for trace in entry.traces if trace.counts)
        chance = unused_chance(len(ready), len(ready - used), sessions)
        if chance < worst:
            worst, unused = chance, ready - used
    if worst < SURPRISE:
        return Control("failed", f"{len(unused)} of {len(ready)} ready backends got no session (chance {worst:.1g}): {', '.join(sorted(unused)[:3])}")
    return Control("passed", f"{len(ready - unused)} of {len(ready)} ready backends got sessions")


def unused_chance(backends: int, unused: int, sessions: int) -> float:
    """An upper bound of the chance that a healthy ring leaves so many backends without a session.

    The smallest share of a backend, as a part of the equal one, was measured on rings of 1,024 points; to take the
    smallest for all makes the chance larger, so that a surprise is one.
    """
    if not unused:
        return 1.0
    smallest = 0.92 if backends <= 4 else 0.85 if backends < 10 else 0.7
    return min(1.0, math.comb(backends, unused) * (1 - unused * smallest / backends) ** sessions)


def keyless_control(window: Window) -> Control:
    """Requests without the key must spread, or something else than the key holds the sessions."""
    if not window.evidence[0].plan.keyless:
        return Control("not_applicable", "requests without the key were not sent")
    for entry in window.evidence:
        identified = sum(entry.keyless.values())
        if len(entry.keyless) > 1:
            continue
        if identified < KEYLESS_ENOUGH:
            return Control("not_applicable", f"{identified} of {entry.plan.keyless} requests without the key from {entry.client} were answered by a known pod")
        return Control("failed", f"all {identified} requests without the key from {entry.client} met one pod, so something else than the key decides")
    counts = [f"{len(entry.keyless)} pods" for entry in window.evidence]
    return Control("passed", f"requests without the key met {', '.join(counts)}")


def all_backends(memberships: Iterable[Membership]) -> list[Backend]:
    """Every endpoint of the window, the latest word on each."""
    latest = {backend.address: backend for membership in memberships for backend in membership.backends}
    return list(latest.values())
