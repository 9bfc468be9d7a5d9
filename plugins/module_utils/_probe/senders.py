# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One way of sending for each way to know the answering pod. Each yields every request with what came of it.

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
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import Observation
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan, Request

# An Envoy writes its access log out when the buffer is full or a timer fires, by default after a second in Istio.
LOG_WAIT = 15.0
Answers = Iterator[tuple[Request, Observation]]


@dataclass(frozen=True)
class Job:
    """What a sender works with, for one client."""

    session: PodSession
    plan: Plan
    target: Target
    sending: Sending
    method: Method
    read_log: Callable[[float], str]
    deadline: float
    jar: CookieJar | None = None


Sender = Callable[[Job, Sequence[Request]], Answers]


def by_header(job: Job, requests: Sequence[Request]) -> Answers:
    """All at once; the answers' headers name the pod."""
    yield from _transfer(job, requests, Transfer(job.sending, jar=job.jar))


def by_body(job: Job, requests: Sequence[Request]) -> Answers:
    """One after the other, as bodies that arrive together could not be told apart; the pattern finds the pod."""
    pattern = job.method.pattern
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
            # Where a line is missing, the body may be of more than one answer.
            in_step = places[observation.index] == expected
            expected = places[observation.index] + 1
            yield request, replace(observation, identity=in_body(pattern, body) if pattern and in_step else "")
        body = b""


def by_access_log(job: Job, requests: Sequence[Request]) -> Answers:
    """All at once, each with a request ID of its own, by which the client sidecar's log then tells the pod."""
    prefix = str(uuid.uuid4())[:24]
    transfer = Transfer(job.sending, request_ids=prefix, jar=job.jar)
    started = time.time()
    sent = list(_transfer(job, requests, transfer))
    wanted = {transfer.request_id(request.index): request.index for request, observation in sent if observation.answered}
    addresses_by_index: dict[int, str] = {}
    deadline = time.monotonic() + LOG_WAIT
    while len(addresses_by_index) < len(wanted):
        addresses = {host.address for host in _hosts(job.session.hosts(hosts_filter(job.target)))}
        addresses_by_index = in_log(job.read_log(started), wanted, addresses)
        if len(addresses_by_index) == len(wanted) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for request, observation in sent:
        yield request, replace(observation, identity=addresses_by_index.get(request.index, ""))


def by_counters(job: Job, requests: Sequence[Request]) -> Answers:
    """Session after session, with the sidecar's counters read between: an image that says nothing of itself will do.

    Which of a session's requests met which pod stays unknown, only how many did; the order that needs the fewest moves
    is assumed, which never makes a move out of none.
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
        # A page between two sessions is missing, and whose requests met which host cannot be told.
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
    """Each answer's line with the cookies it sets: curl prints the headers behind it as JSON, over several lines of
    which the last is the closing brace."""
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
