# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The senders, one for each identity method. Each yields every request with its observation.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ansible_collections.meshops.istio.plugins.module_utils._envoy.clusters import parse_hosts
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import hosts_filter, hosts_page
from ansible_collections.meshops.istio.plugins.module_utils._model import Host, Target
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import (
    END,
    CookieJar,
    Sending,
    Transfer,
    block_configuration,
    parse_line,
    request_configuration,
    set_cookies,
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import (
    ACCESS_LOG,
    BODY,
    BODY_KEPT,
    HEADER,
    UPSTREAM,
    Method,
    addresses_by_counters,
    in_body,
    in_log,
    named_pods,
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import Observation
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan, Request

# Envoy flushes its access log when the buffer is full or a timer fires, by default after a second in Istio.
LOG_WAIT = 15.0
Answers = Iterator[tuple[Request, Observation]]


@dataclass(frozen=True)
class Job:
    """The input of a sender, for one client."""

    session: PodSession
    plan: Plan
    target: Target
    sending: Sending
    method: Method
    read_log: Callable[[float], str]
    jar: CookieJar | None = None


Sender = Callable[[Job, Sequence[Request]], Answers]


def by_header(job: Job, requests: Sequence[Request]) -> Answers:
    """Send all at once; the response headers name the pod."""
    yield from _transfer(job, requests, Transfer(job.sending, jar=job.jar))


def by_body(job: Job, requests: Sequence[Request]) -> Answers:
    """Send one after the other, because bodies that arrive together cannot be told apart; the pattern matches the pod."""
    pattern = job.method.pattern
    for request, observation, body in _with_bodies(job, requests):
        yield request, replace(observation, identity=in_body(pattern, body) if pattern else "")


@dataclass(frozen=True)
class Sample:
    """A request that was sent alone: its observation with the identity headers, the pods that headers and body name, and the
    identity by the sidecar's counters, empty if they were not read."""

    request: Request
    observation: Observation
    names: frozenset[str]
    counted: str


def sample(job: Job, requests: Sequence[Request], counters: bool) -> list[Sample]:
    """Send requests one after the other and read whatever the responses say of the pods behind them."""
    before = _hosts(job.session.hosts(hosts_filter(job.target))) if counters else ()
    sent = list(_with_bodies(job, requests))
    after = _hosts(job.session.hosts(hosts_filter(job.target))) if counters else ()
    answered = sum(1 for _request, observation, _body in sent if observation.answered)
    addresses = iter((counters and addresses_by_counters(before, after, answered)) or [""] * answered)
    return [
        Sample(
            request,
            observation,
            named_pods(f"{observation.identity}\n{body.decode('utf-8', 'replace')}"),
            next(addresses, "") if observation.answered else "",
        )
        for request, observation, body in sent
    ]


def _with_bodies(job: Job, requests: Sequence[Request]) -> Iterator[tuple[Request, Observation, bytes]]:
    """Requests one after the other, each with its body; empty if it may belong to more than one response."""
    mark = f"{job.session.nonce} "
    by_index = {request.index: request for request in requests}
    places = {request.index: place for place, request in enumerate(requests)}
    expected = 0
    body = b""
    for line in job.session.command("P", request_configuration(job.plan, requests, job.target, Transfer(job.sending, mark=mark, bodies=True))):
        if not line.startswith(mark.encode()):
            body = (body + line + b"\n")[:BODY_KEPT]
            continue
        observation = parse_line(line[len(mark) :])
        request = by_index.pop(observation.index, None) if observation else None
        if observation and request:
            # If a line is missing, the body may belong to more than one response.
            in_step = places[observation.index] == expected
            expected = places[observation.index] + 1
            yield request, observation, body if in_step else b""
        body = b""


def by_access_log(job: Job, requests: Sequence[Request]) -> Answers:
    """Send all at once, each with its own request ID, by which the client sidecar's access log names the pod."""
    prefix = str(uuid.uuid4())[:24]
    transfer = Transfer(job.sending, request_ids=prefix, jar=job.jar)
    started = time.time()
    sent = list(_transfer(job, requests, transfer))
    wanted = {transfer.request_id(request.index): request.index for request, observation in sent if observation.answered}
    addresses_by_index: dict[int, str] = {}
    lines: list[str] = []
    deadline = time.monotonic() + LOG_WAIT
    while len(addresses_by_index) < len(wanted):
        addresses = {host.address for host in _hosts(job.session.hosts(hosts_filter(job.target)))}
        # Only what is new: the log of a busy client is large.
        asked, started = started, time.time()
        lines += [line for line in job.read_log(asked).splitlines() if prefix in line]
        addresses_by_index = in_log("\n".join(lines), wanted, addresses)
        if len(addresses_by_index) == len(wanted) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for request, observation in sent:
        yield request, replace(observation, identity=addresses_by_index.get(request.index, ""))


def by_counters(job: Job, requests: Sequence[Request]) -> Answers:
    """Send session after session, and read the sidecar's counters in between, for applications that do not identify the pod.

    The counters tell how many of a session's requests each pod got, but not which. The order with the fewest moves is
    assumed, which never invents a move.
    """
    ordered = sorted(requests, key=lambda request: (request.session is None, request.session or 0))
    blocks = [list(group) for _session, group in itertools.groupby(ordered, key=lambda request: request.session)]
    mark = f"{job.session.nonce} "
    config = block_configuration(job.plan, blocks, job.target, Transfer(job.sending, mark=mark), hosts_page())
    by_index = {request.index: request for request in requests}
    before: Sequence[Host] = ()
    sent: list[tuple[Request, Observation]] = []
    page: list[bytes] = []
    for line in job.session.command("H", config, hosts_filter(job.target)):
        if not line.startswith(mark.encode()):
            page.append(line)
        elif line.endswith(b" page"):
            after = _hosts(b"\n".join(page))
            yield from _counted(before, after, sent)
            before, sent, page = after, [], []
        elif (observation := parse_line(line[len(mark) :])) and (request := by_index.pop(observation.index, None)):
            sent.append((request, observation))
    yield from sent


def _counted(before: Sequence[Host], after: Sequence[Host], sent: Sequence[tuple[Request, Observation]]) -> Answers:
    answered = sum(1 for _request, observation in sent if observation.answered)
    if len({request.session for request, _observation in sent}) > 1:
        # A page between two sessions is missing, so requests cannot be assigned to hosts.
        after = ()
    addresses = iter(addresses_by_counters(before, after, answered) or [""] * answered)
    for request, observation in sent:
        yield request, replace(observation, identity=next(addresses, "") if observation.answered else "")


def _transfer(job: Job, requests: Sequence[Request], transfer: Transfer) -> Answers:
    by_index = {request.index: request for request in requests}
    lines = job.session.command("P", request_configuration(job.plan, requests, job.target, transfer))
    for line, cookies in _with_cookies(lines) if transfer.jar else ((line, []) for line in lines):
        observation = parse_line(line)
        request = by_index.pop(observation.index, None) if observation else None
        if observation is None or request is None:
            continue
        if transfer.jar:
            transfer.jar.note(request.session, cookies)
        yield request, observation


def _with_cookies(lines: Iterator[bytes]) -> Iterator[tuple[bytes, list[str]]]:
    """Each response's line with the cookies it sets: after it, curl prints the headers as JSON, over several lines, the last
    of which is the closing brace."""
    end = END.encode()
    for text in lines:
        line, opening, first = text.partition(end + b"{")
        if not opening:
            yield text, []
            continue
        rest = itertools.takewhile(lambda following: following != b"}", lines)
        yield line + end, set_cookies(b"{" + first + b"".join(rest) + b"}")


def _hosts(text: bytes) -> Sequence[Host]:
    """The hosts of all clusters of the target, one entry for each cluster and address."""
    clusters = parse_hosts(text.decode("utf-8", "replace"))
    return [host for hosts in clusters.values() for host in hosts]


SENDERS: dict[str, Sender] = {
    HEADER: by_header,
    BODY: by_body,
    ACCESS_LOG: by_access_log,
    UPSTREAM: by_counters,
}
