# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a request plan in the client pods, with checkpoints before, between and after the requests.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._envoy.values import Pages
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import zone_of
from ansible_collections.meshops.istio.plugins.module_utils._membership import PUSH_DELAY, is_settled
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    NOWHERE,
    CheckError,
    Checkpoint,
    ClientPod,
    Membership,
    ProxyView,
    Survey,
    Target,
    Unread,
)
from ansible_collections.meshops.istio.plugins.module_utils._probe.pace import Pace
from ansible_collections.meshops.istio.plugins.module_utils._probe.senders import SENDERS, Job, sample
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import Brake
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import CookieJar, Sending, check_curl
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import ACCESS_LOG, BODY, HEADER, UPSTREAM, Method, identify
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan, Request
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun, Tally, Trace

# Requests without the key that are sent first to learn whether the responses name their pod.
LEARNING = 5
# Sessions whose first response is read whole, where the responses do not identify the backend.
SAMPLED = 2
# Seconds between two checkpoints until the endpoints are settled.
UNSETTLED = 0.2


@dataclass(frozen=True)
class Campaign:
    """The parameters that all clients share: the target, how to send, the identity method, the end (by `time.monotonic`), and
    the readers. `further` says how a run that sent its plan goes on: the plans with more rounds, or None. `has_moved`, if it
    is to stop early, whether a session of the run moved and nothing explains it."""

    target: Target
    sending: Sending
    method: Method
    deadline: float
    pace: Pace | None
    brake: Brake
    configuration: Any
    read_membership: Callable[[], Membership]
    read_log: Callable[[ClientPod, float], str]
    read_gateways: Callable[[], tuple[tuple[ProxyView | Unread | None, ...], Membership]]
    further: Callable[[list[ClientRun]], list[Plan] | None]
    has_moved: Callable[[ClientRun], bool] | None = None

    def checkpoint(self, session: PodSession) -> tuple[Checkpoint, Pages]:
        """A checkpoint with the views of the proxies that balance: the gateway's pods, or without a gateway the client's own."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            membership = pool.submit(self.read_membership)
            view, pages = session.view(self.target)
            views, gateway = self.read_gateways() if self.target.via else ((view,), NOWHERE)
            first, *others = (None if isinstance(each, Unread) else each for each in views)
            unread = tuple(each.why for each in views if isinstance(each, Unread))
            return Checkpoint(first, membership.result(), tuple(others), time.monotonic(), gateway, unread), pages


def read_view(configuration: Any, target: Target, client: ClientPod, timeout: float = 30) -> tuple[ProxyView | Unread | None, str | None]:
    """Read the client's Envoy: its view and the curl line. Sends no request to any service."""
    with PodSession(configuration, client, timeout) as session:
        check_curl(session.curl_line, session.exec.where)
        view, _pages = session.view(target)
        session.end()
        return view, session.curl_line


def probe_all(survey: Survey, plans: dict[ClientPod, Plan], campaign: Campaign) -> list[ClientRun]:
    """Probe from all clients at once, each in a thread with its own connection. Raises `CheckError` if one cannot start; then
    none has sent a request."""
    probes = [Probe(client, plan, survey.membership, campaign) for client, plan in plans.items()]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(max_workers=len(probes)) as pool:
        for probe in probes:
            stack.callback(probe.close)
        _all(pool, Probe.open, probes)
        _all(pool, Probe.send, probes)
        further = campaign.further([probe.run for probe in probes])
        if further is not None:
            for probe, plan in zip(probes, further, strict=True):
                probe.run.plan = plan
            _all(pool, Probe.send_more, probes)
        _all(pool, Probe.end, probes)
    return [probe.run for probe in probes]


def _all(pool: ThreadPoolExecutor, step: Callable[[Probe], None], probes: Iterable[Probe]) -> None:
    """One step of every probe at once. All of them have ended when the first failure is raised."""
    futures = [pool.submit(step, probe) for probe in probes]
    for error in [future.exception() for future in futures]:
        if error is not None:
            raise error


class Probe:
    """One client's part: a checkpoint, then for each segment its requests and another checkpoint."""

    def __init__(self, client: ClientPod, plan: Plan, membership: Membership, campaign: Campaign) -> None:
        self.run = ClientRun(client, None, plan, Tally([Trace() for _session in plan.sessions]))
        self._membership = membership
        self._campaign = campaign
        self._session: PodSession | None = None
        self._job: Job | None = None
        # Whether a move in this segment was found to be explained.
        self._excused = False

    def close(self) -> None:
        if self._session is not None:
            self._session.__exit__(None, None, None)

    def open(self) -> None:
        """Everything that can fail before the first request."""
        campaign, run = self._campaign, self.run
        client = run.client
        self._session = session = PodSession(campaign.configuration, client, max(1.0, campaign.deadline - time.monotonic()))
        run.curl = check_curl(session.curl_line, session.exec.where)
        checkpoint, pages = _first_checkpoint(campaign, session)
        run.client = replace(client, zone=client.zone or zone_of(pages))
        run.checkpoints.append(checkpoint)
        key = run.plan.key
        jar = CookieJar(key.name or "", key.cookie == "browser") if key.issued else None
        self._job = Job(session, run.plan, campaign.target, campaign.sending, campaign.method, lambda since: campaign.read_log(client, since), jar=jar)

    def send(self) -> None:
        """The planned requests. A failure is kept, as the measurement may still show that sessions move."""
        self._send_segments(self.run.plan.segments())

    def send_more(self) -> None:
        self._send_segments(self.run.plan.extra_segments())

    def end(self) -> None:
        if self._session is not None and self.run.failure is None:
            with contextlib.suppress(CheckError):
                self._session.end()

    def _send_segments(self, segments: Iterable[list[range]]) -> None:
        run, session = self.run, self._session
        if session is None or run.failure is not None:
            return
        started = time.monotonic()
        try:
            for batches in segments:
                run.segments.append(range(batches[0].start, batches[-1].stop))
                self._excused = False
                for rounds in batches:
                    self._send_rounds(list(run.plan.requests(rounds)))
                run.checkpoints.append(self._campaign.checkpoint(session)[0])
                if self._stops():
                    break
        except CheckError as error:
            run.failure = error
        run.elapsed += time.monotonic() - started

    def _send_rounds(self, requests: list[Request]) -> None:
        campaign, run, job = self._campaign, self.run, self._job
        if job is None or campaign.brake.halted:
            return
        size = campaign.pace.chunk if campaign.pace else campaign.sending.concurrency if campaign.brake.watches else None
        if not run.tally.sent:
            requests = self._learn(job, requests, size)
        # A cookie from one round is sent in the next, so with a jar rounds run one after the other.
        rounds = [list(group) for _number, group in itertools.groupby(requests, key=lambda request: request.round)] if job.jar else [requests]
        for chunk in itertools.chain.from_iterable(self._chunks(group, size) for group in rounds):
            self._transfer(job, chunk)
            if self._moved_early() or campaign.brake.halted:
                return

    def _chunks(self, requests: list[Request], size: int | None) -> Iterator[list[Request]]:
        """Chunks of a fixed size, or all at once. To stop early, the first repeats are few, and each chunk has twice as many."""
        if size is None and self._campaign.has_moved is not None:
            return growing(requests, self._campaign.sending.concurrency)
        return _even(requests, size)

    def _transfer(self, job: Job, requests: list[Request]) -> None:
        with self._turn(requests):
            statuses = []
            for request, observation in SENDERS[self.run.method](job, requests):
                self.run.tally.add(request, observation)
                statuses.append(observation.status)
            self.run.tally.killed.update(job.session.killed())
        self._campaign.brake.note(statuses)

    @contextlib.contextmanager
    def _turn(self, requests: list[Request]) -> Iterator[None]:
        """The requests' turn, if there is a rate. Raises `CheckError` at the deadline, or if another client triggered the brake."""
        with self._campaign.pace.turn(len(requests)) if self._campaign.pace else contextlib.nullcontext():
            sent = self.run.tally.sent
            if time.monotonic() > self._campaign.deadline:
                raise CheckError("timeout", f"The timeout was reached after {sent} requests. Next: raise the option timeout, or send fewer requests.")
            self._campaign.brake.note(())
            self.run.tally.sent += len(requests)
            yield

    def _learn(self, job: Job, requests: list[Request], size: int | None) -> list[Request]:
        """Send the first requests alone, and choose the identity method: the option's, or the one that fits their responses,
        which count like all others. Returns the requests that are left."""
        run = self.run
        run.method = HEADER if job.method.name == "auto" else job.method.name
        counters = run.checkpoints[0].view is not None and job.target.via is None
        if job.jar or run.method == BODY or (job.method.name != "auto" and (run.method == HEADER or not counters)):
            return requests
        most = min(LEARNING, size or LEARNING)
        learning = [request for request in requests if request.session is None][:most] or requests[:1]
        self._sample(job, learning, counters)
        if run.method in (UPSTREAM, ACCESS_LOG):
            for request in [request for request in requests if request.session is not None and request not in learning][:SAMPLED]:
                self._sample(job, [request], counters)
                learning = [*learning, request]
        taught = {request.index for request in learning}
        return [request for request in requests if request.index not in taught]

    def _sample(self, job: Job, requests: list[Request], counters: bool) -> None:
        run = self.run
        with self._turn(requests):
            samples = sample(job, requests, counters)
        if job.method.name == "auto" and run.method == HEADER and counters:
            named = identify({entry.observation.identity for entry in samples}, job.method.labels(HEADER), self._membership.backends)
            run.method = HEADER if named.pods else UPSTREAM
        for entry in samples:
            by_header = run.method == HEADER
            run.tally.add(entry.request, entry.observation if by_header else replace(entry.observation, identity=entry.counted))
            if entry.observation.answered:
                run.tally.samples.append(entry.names)
        self._campaign.brake.note([entry.observation.status for entry in samples])

    def _moved_early(self) -> bool:
        """Whether a session moved and nothing explains it, as far as is known now; then no client sends more."""
        run, campaign, session = self.run, self._campaign, self._session
        if campaign.has_moved is None or session is None or self._excused or not any(trace.moves for trace in run.tally.sessions):
            return False
        # A checkpoint ends the segment, so it is kept only if this is the end.
        here = campaign.checkpoint(session)[0]
        if not campaign.has_moved(replace(run, checkpoints=[*run.checkpoints, here])):
            self._excused = True
            return False
        run.moved = campaign.brake.halted = True
        return True

    def _stops(self) -> bool:
        """Whether to stop after a segment."""
        campaign = self._campaign
        if campaign.has_moved is not None and not self.run.moved and any(trace.moves for trace in self.run.tally.sessions):
            self.run.moved = campaign.has_moved(self.run)
            campaign.brake.halted = campaign.brake.halted or self.run.moved
        return campaign.brake.halted


def _first_checkpoint(campaign: Campaign, session: PodSession) -> tuple[Checkpoint, Pages]:
    """A checkpoint after which no earlier change of the endpoints reaches Envoy. If the endpoints do not settle, the last of
    several: any change that is still on its way then happened after the survey and is counted. Each waits longer than the
    one before, because on a large mesh a look is not cheap."""
    latest, pause = time.monotonic() + PUSH_DELAY, UNSETTLED
    while True:
        checkpoint, pages = campaign.checkpoint(session)
        left = latest - time.monotonic()
        if is_settled(checkpoint) or left < 0:
            return checkpoint, pages
        time.sleep(min(pause, left + UNSETTLED))
        pause *= 2


def growing(requests: list[Request], first: int) -> Iterator[list[Request]]:
    """The first round of all sessions at once, as nothing can move in it, then chunks that double."""
    start = sum(1 for request in requests if request.round == 0)
    if start:
        yield requests[:start]
    size = first
    while start < len(requests):
        yield requests[start : start + size]
        start, size = start + size, 2 * size


def _even(requests: list[Request], size: int | None) -> Iterator[list[Request]]:
    step = size or len(requests) or 1
    for start in range(0, len(requests), step):
        yield requests[start : start + step]
