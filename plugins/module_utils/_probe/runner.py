# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a request plan in the client pods, with checkpoints before, between and after the requests.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
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
from ansible_collections.meshops.istio.plugins.module_utils._probe.senders import SENDERS, Job
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import Brake
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import CookieJar, Sending, check_curl
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import HEADER, UPSTREAM, Method, identify
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan, Request
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun, Tally, Trace

# Requests without the key that are sent first to learn whether the responses name their pod.
LEARNING = 5
# Seconds between the first two checkpoints, if the endpoints are not settled.
UNSETTLED = 0.2


@dataclass(frozen=True)
class Campaign:
    """The parameters that all clients share: the target, how to send, the identity method, and the readers."""

    target: Target
    sending: Sending
    method: Method
    timeout: float
    rate: int | None
    brake: Brake
    configuration: Any
    read_membership: Callable[[], Membership]
    read_log: Callable[[ClientPod, float], str]
    read_gateways: Callable[[], tuple[tuple[ProxyView | Unread | None, ...], Membership]]

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
    """Probe from all clients at once, each in a thread with its own connection. Raises `CheckError` if one cannot start."""
    share = replace(campaign, rate=max(1, campaign.rate // len(plans)) if campaign.rate else None)
    with ThreadPoolExecutor(max_workers=len(plans)) as pool:
        futures = [pool.submit(probe, client, plan, survey.membership, share) for client, plan in plans.items()]
        return [future.result() for future in futures]


def probe(client: ClientPod, plan: Plan, membership: Membership, campaign: Campaign) -> ClientRun:
    """Probe from one client: a checkpoint, then for each segment its requests and another checkpoint."""
    started = time.monotonic()
    run = ClientRun(client, None, plan, Tally([Trace() for _session in plan.sessions]))
    with PodSession(campaign.configuration, client, campaign.timeout) as session:
        run.curl = check_curl(session.curl_line, session.exec.where)
        checkpoint, pages = _first_checkpoint(campaign, session)
        run.client = replace(client, zone=client.zone or zone_of(pages))
        run.checkpoints.append(checkpoint)
        jar = CookieJar(plan.key.name or "", plan.key.cookie == "browser") if plan.key.issued else None
        job = Job(
            session, plan, campaign.target, campaign.sending, campaign.method, lambda since: campaign.read_log(client, since), started + campaign.timeout, jar
        )
        try:
            for batches in plan.segments():
                run.segments.append(range(batches[0].start, batches[-1].stop))
                for rounds in batches:
                    _send(job, run, list(plan.requests(rounds)), membership, campaign)
                run.checkpoints.append(campaign.checkpoint(session)[0])
            session.end()
        except CheckError as error:
            run.failure = error
    run.elapsed = time.monotonic() - started
    return run


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


def _send(job: Job, run: ClientRun, requests: list[Request], membership: Membership, campaign: Campaign) -> None:
    size, pause = pace(campaign.sending, campaign.rate, campaign.brake.watches)
    if not run.tally.sent:
        learning = [request for request in requests if request.session is None][: min(LEARNING, size or LEARNING)] or requests[:1]
        run.method = _learn(job, run, learning, membership, campaign.brake)
        time.sleep(pause)
        taught = {request.index for request in learning}
        requests = [request for request in requests if request.index not in taught]
    # A cookie from one round is sent in the next, so with a jar rounds run one after the other.
    rounds = [list(group) for _number, group in itertools.groupby(requests, key=lambda request: request.round)] if job.jar else [requests]
    for chunk in itertools.chain.from_iterable(_chunks(group, size) for group in rounds):
        if time.monotonic() > job.deadline:
            raise CheckError("timeout", f"The timeout was reached after {run.tally.sent} requests. Next: raise the option timeout, or send fewer requests.")
        # Another client may have triggered the brake meanwhile.
        campaign.brake.note(())
        _transfer(job, run, chunk, run.method, campaign.brake)
        time.sleep(pause)


def _transfer(job: Job, run: ClientRun, requests: list[Request], method: str, brake: Brake) -> None:
    run.tally.sent += len(requests)
    statuses = []
    for request, observation in SENDERS[method](job, requests):
        run.tally.add(request, observation)
        statuses.append(observation.status)
    brake.note(statuses)


def _learn(job: Job, run: ClientRun, requests: list[Request], membership: Membership, brake: Brake) -> str:
    """The identity method: the option's, or the one that fits the first responses, which count like all others."""
    first = HEADER if job.method.name == "auto" else job.method.name
    _transfer(job, run, requests, first, brake)
    if job.method.name != "auto":
        return first
    identification = identify(run.tally.identities, job.method.labels(first), membership.backends)
    counters = run.checkpoints[0].view is not None and job.target.via is None and job.jar is None
    if identification.pods or not counters:
        return first
    run.tally.identities.clear()
    return UPSTREAM


def pace(sending: Sending, rate: int | None, stops: bool) -> tuple[int | None, float]:
    """How many requests to send at once (None: all) and the seconds to wait after them, so that no interval of one second
    exceeds the rate: with chunks of c that are at least c/(rate-c) apart, a second contains at most rate/c of them.
    Without a rate, a run with stop conditions sends as many as may be in flight at once, then reads the responses."""
    if rate is None:
        return (sending.concurrency, 0.0) if stops else (None, 0.0)
    size = max(1, rate // 10)
    return size, size / (rate - size) if rate > size else 1.0


def _chunks(requests: list[Request], size: int | None) -> Iterator[list[Request]]:
    step = size or len(requests) or 1
    for start in range(0, len(requests), step):
        yield requests[start : start + step]
