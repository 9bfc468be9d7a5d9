# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever comes back from a pod: no traceback but a CheckError with words, and never a wrong count.

Lines get lost, doubled, swapped and cut in the middle, in ways that a lab can't be made to do at will: the streams here
are synthetic, of the form that the recorded ones have.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kubernetes.client import Configuration

from ansible_collections.meshops.istio.plugins.module_utils._envoy.clusters import parse_hosts
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import proxy_view
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, CheckError, Key, Target, Unread
from ansible_collections.meshops.istio.plugins.module_utils._probe import exec as pod_exec
from ansible_collections.meshops.istio.plugins.module_utils._probe.exec import Exec, exit_reason
from ansible_collections.meshops.istio.plugins.module_utils._probe.senders import Job, by_body, by_counters, by_header
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import END, CookieJar, Sending, parse_line, set_cookies
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import Method, identify
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, Plan, Request, make_plan
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import Tally, Trace

NONCE = "0123456789abcdef"
TARGET = Target("shop", "cart", 80, None, "cart")
CLUSTER = "outbound|80||cart.shop.svc.cluster.local"
# One name begins with another, as a cut name must not be taken for a shorter one.
PODS = ("cart-1", "cart-11", "cart-111")
ADDRESSES = {pod: f"10.0.0.{number}:8080" for number, pod in enumerate(PODS)}
BACKENDS = [Backend(pod, pod, address, None, None, True) for pod, address in ADDRESSES.items()]


class Script:
    """In the place of a session with a pod: what its next command answers is known."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.nonce = NONCE
        self.lines = lines

    def command(self, _kind: str, _body: bytes, _wanted: str = "") -> Iterator[bytes]:
        return iter(self.lines)


def plan_of(sessions: int, rounds: int, key: Key | None = None) -> Plan:
    plan = make_plan(key or Key("header", "user"), [f"s{number}" for number in range(sessions)], None, rounds, PROFILES["quick"], 3, 1)
    return Plan(plan.key, plan.sessions[:sessions], sessions, rounds, 3, 1)


def job(lines: Sequence[bytes], plan: Plan, jar: CookieJar | None = None) -> Job:
    session: Any = Script(lines)
    return Job(session, plan, TARGET, Sending(), Method("body", ("X-Pod",), re.compile(r"cart-\d+(?=!)")), lambda _since: "", jar)


def pod_of(request: Request) -> str:
    """Where a request went: by its session, or anywhere."""
    return PODS[(request.index if request.session is None else request.session) % len(PODS)]


def answer(request: Request, identity: str, mark: str = "") -> bytes:
    return FIELD.join([f"{mark}R|{request.index}", "200", "0", "0.001234", "", "", identity, "", "."]).encode()


@st.composite
def damaged(draw: st.DrawFn, lines: Sequence[bytes], swap: bool = False) -> list[bytes]:
    """The lines with some lost, some doubled, noise between them, and in the end cut short anywhere."""
    kept: list[bytes] = []
    for line in lines:
        fate = draw(st.integers(0, 12))
        if fate == 0:
            continue
        if fate == 1:
            kept.append(draw(st.binary(max_size=30)).replace(b"\n", b""))
        kept.append(line[: draw(st.integers(0, len(line)))] if fate == 2 else line)
        if fate == 3:
            kept.append(line)
    if swap and kept:
        kept = draw(st.permutations(kept))
    if kept and draw(st.booleans()):
        kept = kept[: draw(st.integers(1, len(kept)))]
        kept[-1] = kept[-1][: draw(st.integers(0, len(kept[-1])))]
    return kept


def seen_by_tally(plan: Plan, answers: Iterator[tuple[Request, Any]]) -> Tally:
    tally = Tally([Trace() for _session in plan.sessions])
    indexes: Counter[int] = Counter()
    for request, seen in answers:
        assert seen.index == request.index
        indexes[request.index] += 1
        tally.add(request, seen)
    assert max(indexes.values(), default=0) <= 1, "an answer counts once"
    assert tally.answered == sum(tally.by_status.values()) <= plan.total
    return tally


def only_the_truth(plan: Plan, tally: Tally) -> None:
    """What is identified is right, so no session moves that did not."""
    found = identify(tally.identities, ("header X-Pod", "other"), BACKENDS)
    for session, trace in enumerate(tally.sessions):
        mapped = trace.mapped(found.pods)
        assert set(mapped.counts) <= {PODS[session % len(PODS)]}
        assert sum(mapped.counts.values()) <= plan.rounds
        assert mapped.moves == 0
    assert sum(tally.keyless.values()) <= plan.keyless


@settings(max_examples=200)
@given(st.data(), st.integers(1, 5), st.integers(2, 4))
def test_lines_that_name_the_pod(data: st.DataObject, sessions: int, rounds: int) -> None:
    plan = plan_of(sessions, rounds)
    requests = list(plan.requests(range(rounds)))
    lines = data.draw(damaged([answer(request, pod_of(request)) for request in requests], swap=True))
    only_the_truth(plan, seen_by_tally(plan, by_header(job(lines, plan), requests)))


def test_undamaged_lines_are_all_counted() -> None:
    plan = plan_of(5, 4)
    requests = list(plan.requests(range(4)))
    tally = seen_by_tally(plan, by_header(job([answer(request, pod_of(request)) for request in requests], plan), requests))
    only_the_truth(plan, tally)
    assert [sum(trace.counts.values()) for trace in tally.sessions] == [4] * 5


@settings(max_examples=200)
@given(st.data(), st.integers(1, 5))
def test_lines_with_the_answers_headers_behind_them(data: st.DataObject, sessions: int) -> None:
    plan = plan_of(sessions, 2, Key("cookie", "user", cookie="browser"))
    requests = list(plan.requests(range(1)))
    whole: list[bytes] = []
    for request in requests:
        whole += [answer(request, pod_of(request)) + b'{"server":["envoy"],', b'"set-cookie":["user=%d; Path=/"]' % request.index, b"}"]
    jar = CookieJar("user", follow=True)
    only_the_truth(plan, seen_by_tally(plan, by_header(job(data.draw(damaged(whole)), plan, jar), requests)))
    assert set(jar.values.values()) <= {str(request.index) for request in requests}


@settings(max_examples=200)
@given(st.data(), st.integers(1, 5))
def test_bodies_that_name_the_pod(data: st.DataObject, sessions: int) -> None:
    """A line that is lost must not give a body to the next request."""
    plan = plan_of(sessions, 2)
    requests = list(plan.requests(range(2)))
    mark = f"{NONCE} "
    whole = [line for request in requests for line in (b"<p>", f"{pod_of(request)}!".encode(), answer(request, "", mark))]
    only_the_truth(plan, seen_by_tally(plan, by_body(job(data.draw(damaged(whole)), plan), requests)))


def hosts_page(totals: Counter[str]) -> list[bytes]:
    values = {"cx_active": "0", "health_flags": "healthy", "weight": "1", "priority": "0"}
    return [
        f"{CLUSTER}::{address}::{name}::{value}".encode()
        for pod, address in ADDRESSES.items()
        for name, value in (values | {"rq_total": str(totals[pod])}).items()
    ]


@settings(max_examples=300)
@given(st.data(), st.integers(1, 5))
def test_counters_that_name_the_pod(data: st.DataObject, sessions: int) -> None:
    """With a page or a line of one lost, nobody is named rather than somebody else."""
    plan = plan_of(sessions, 3)
    requests = list(plan.requests(range(3)))
    totals = Counter({pod: data.draw(st.integers(0, 3)) for pod in PODS})
    page = [b"", f"{NONCE} page".encode()]
    whole = [*hosts_page(totals), *page]
    mark = f"{NONCE} "
    for session in (*range(sessions), None):
        for request in requests:
            if request.session == session:
                totals[pod_of(request)] += 1
                whole += [b"", answer(request, "", mark)]
        whole += [*hosts_page(totals), *page]
    plain = seen_by_tally(plan, by_counters(job(whole, plan), requests))
    assert [sum(trace.counts.values()) for trace in plain.sessions] == [3] * sessions
    tally = seen_by_tally(plan, by_counters(job(data.draw(damaged(whole)), plan), requests))
    for session, trace in enumerate(tally.sessions):
        assert set(trace.counts) <= {ADDRESSES[PODS[session % len(PODS)]]}


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_a_line_of_ours_or_none(line: bytes, more: bytes) -> None:
    for text in (line, b"R|" + line, b"R|1\x1f200\x1f0\x1f" + line, b"R|1\x1f200\x1f0\x1f0.1\x1f" + line + END.encode(), more + END.encode() + line):
        seen = parse_line(text)
        if seen is not None:
            tally = Tally([Trace()])
            tally.add(Request(seen.index, 0, 0), seen)
            assert 0 <= seen.status <= 999
            assert tally.answered == int(seen.answered)
    assert isinstance(set_cookies(line), list)


# -- the frames of an exec --


class Wire:
    """A websocket with these frames, then closed."""

    sock = SimpleNamespace(pending=lambda: 1)

    def __init__(self, frames: Sequence[tuple[int, bytes]]) -> None:
        self.frames = iter([*frames, (0x8, b"")])

    def recv_data_frame(self, _control: bool) -> tuple[int, Any]:
        opcode, data = next(self.frames)
        return opcode, SimpleNamespace(data=data)

    def settimeout(self, _seconds: float) -> None: ...

    def send_binary(self, _data: bytes) -> None: ...

    def close(self, timeout: float) -> None: ...


def running(monkeypatch: pytest.MonkeyPatch, frames: Sequence[tuple[int, bytes]]) -> Exec:
    monkeypatch.setattr(pod_exec, "websocket_call", lambda *_args, **_words: SimpleNamespace(sock=Wire(frames)))
    return Exec(Configuration(), "shop", "probe", "curl", ["sh"], time.monotonic() + 60)


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([0x1, 0x2, 0x2, 0x9, 0xA]),
        st.one_of(st.binary(max_size=30), st.tuples(st.sampled_from([1, 1, 2, 3, 255]), st.binary(max_size=30)).map(lambda part: bytes([part[0]]) + part[1])),
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(FRAMES)
def test_any_frames_are_lines_and_a_reason(monkeypatch: pytest.MonkeyPatch, frames: list[tuple[int, bytes]]) -> None:
    with running(monkeypatch, frames) as found:
        lines = list(found.lines())
    assert not any(b"\n" in line for line in lines)
    assert b"".join(lines) == b"".join(data[1:] for code, data in frames if code in (1, 2) and data[:1] == b"\x01").replace(b"\n", b"")
    assert isinstance(exit_reason(found.status), str)


def session_of(monkeypatch: pytest.MonkeyPatch, output: bytes, cuts: Sequence[int]) -> PodSession:
    """A session whose script has said hello, and then says this, in frames of these sizes."""
    session = PodSession.__new__(PodSession)
    session.nonce = NONCE
    rest, frames = output, []
    for size in cuts:
        frames.append((0x2, b"\x01" + rest[:size]))
        rest = rest[size:]
    session.exec = running(monkeypatch, [*frames, (0x2, b"\x01" + rest)])
    session.lines = session.exec.lines()
    return session


PAGES = {"info": b'{\n "version": "x"\n}\n', "routes": b"{}", "clusters": b"no newline at the end"}
HOSTS = b"outbound|80||cart.shop.svc.cluster.local::10.0.0.1:8080::rq_total::3"
OUTPUT = b"".join(
    [
        *(body + f"\n{NONCE} page {name} 200 0 {len(body)}\n".encode() for name, body in PAGES.items()),
        f"{NONCE} filter\n".encode(),
        b"another|80||cluster.of.the.mesh::10.0.0.2:8080::rq_total::1\n",
        HOSTS + f"\n{NONCE} page hosts 200 0 90\n".encode(),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@example(len(OUTPUT), [], True)
@example(len(OUTPUT), [], False)
@given(st.integers(0, len(OUTPUT)), st.lists(st.integers(1, 40), max_size=8), st.booleans())
def test_admin_pages_are_whole_or_not_there(monkeypatch: pytest.MonkeyPatch, length: int, cuts: list[int], ended: bool) -> None:
    """The output may end anywhere; only with its end marker is a command over."""
    session = session_of(monkeypatch, OUTPUT[:length] + (f"\n{NONCE} end 0\n".encode() if ended else b""), cuts)
    if not ended:
        with pytest.raises(CheckError) as caught:
            session.view(TARGET)
        assert caught.value.code == "exec_lost"
        return
    view, found = session.view(TARGET)
    bodies = {**PAGES, "hosts": HOSTS}
    assert found.keys() == bodies.keys()
    assert all(page == bodies[name] or isinstance(page, Unread) for name, page in found.items())
    if length < len(OUTPUT) - 2:
        assert isinstance(view, Unread)
        assert isinstance(found["hosts"], Unread)


@pytest.mark.parametrize("page", [*PAGES, "hosts"])
@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (b"200", b"28", "curl ended with exit code 28, the time limit of 20 s"),
        (b"200", b"18", "curl ended with exit code 18"),
        (b"431", b"0", "Envoy responded with 431"),
    ],
)
def test_every_page_says_why_it_is_not_whole(monkeypatch: pytest.MonkeyPatch, page: str, status: bytes, code: bytes, why: str) -> None:
    """curl's exit code 28 is for the time limit, which cuts a page short, 18 for a transfer that ended early. Size was all
    that was compared before, and it is that of the part that arrived."""
    output = OUTPUT.replace(f"page {page} 200 0".encode(), b"page %s %s %s" % (page.encode(), status, code))
    assert output != OUTPUT
    session = session_of(monkeypatch, output + f"\n{NONCE} end 0\n".encode(), [])
    found = session.read(dict.fromkeys(PAGES, "http://localhost:15000/"), "|cart.shop.svc.")
    assert found == {**PAGES, "hosts": HOSTS, page: Unread(why)}


def test_without_an_envoy_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"\n{NONCE} page {name} 000 7 0\n" for name in PAGES]
    output = "".join([*lines, f"{NONCE} filter\n", f"\n{NONCE} page hosts 000 7 0\n", f"\n{NONCE} end 0\n"])
    view, found = session_of(monkeypatch, output.encode(), []).view(TARGET)
    assert (view, found) == (None, {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200), st.booleans())
def test_a_line_that_breaks_off_does_not_hide_the_end(monkeypatch: pytest.MonkeyPatch, length: int, ended: bool) -> None:
    """curl was killed in the middle of a line, and the shell went on."""
    plan = plan_of(3, 2)
    requests = list(plan.requests(range(2)))
    said = b"\n".join(answer(request, pod_of(request)) for request in requests)[:length]
    session = session_of(monkeypatch, said + (f"\n{NONCE} end 137\n".encode() if ended else b""), [])
    answers = list(until_lost(by_header(Job(session, plan, TARGET, Sending(), Method("header", ("X-Pod",)), lambda _since: ""), requests), ended))
    only_the_truth(plan, seen_by_tally(plan, iter(answers)))


def until_lost(answers: Iterator[tuple[Request, Any]], ended: bool) -> Iterator[tuple[Request, Any]]:
    """The answers, and that they end as they must."""
    if ended:
        yield from answers
        return
    with pytest.raises(CheckError, match="ended early"):
        yield from answers


# -- Envoy's admin pages --

INFO = {"version": "hash/1.40.0", "uptime_current_epoch": "100s", "node": {"metadata": {"ISTIO_VERSION": "1.31.0"}, "locality": {"zone": "a"}}}
ROUTES = {
    "configs": [
        {
            "version_info": "1",
            "route_config": {
                "name": "80",
                "virtual_hosts": [
                    {
                        "name": "cart:80",
                        "domains": ["cart", "cart.shop.svc"],
                        "routes": [
                            {"match": {"safe_regex": {"regex": r"[a-z]+"}}, "route": {"cluster": "other"}},
                            {
                                "match": {"prefix": "/", "headers": [], "query_parameters": []},
                                "route": {"cluster": CLUSTER, "hash_policy": [{"header": {"header_name": "user"}}, {"cookie": {"name": "c", "ttl": "60s"}}]},
                                "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/cart"}}},
                                "typed_per_filter_config": {},
                            },
                        ],
                    }
                ],
            },
        }
    ]
}
CLUSTERS = {
    "configs": [
        {"version_info": "1", "cluster": {"name": CLUSTER, "type": "EDS", "lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": "1024"}}}
    ]
}
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A document of the known form with anything in the place of some of its parts."""
    if draw(st.integers(0, 14)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        return {name: draw(altered(part)) for name, part in value.items() if draw(st.integers(0, 14))}
    if isinstance(value, list):
        return [draw(altered(part)) for part in value for _copy in range(draw(st.sampled_from([1, 1, 1, 1, 2, 0])))]
    return value


def view_or_error(pages: dict[str, bytes]) -> Any:
    """A view, none, or the words for a page that can't be read; everything else fails the test."""
    try:
        return proxy_view(TARGET, pages)
    except CheckError as error:
        return {"strange_envoy": None, "unread_envoy": error}[error.code]


@settings(max_examples=300)
@given(altered(INFO), altered(ROUTES), altered(CLUSTERS))
def test_admin_pages_of_another_form_are_no_traceback(info: Any, routes: Any, clusters: Any) -> None:
    hosts = b"\n".join(hosts_page(Counter()))
    view_or_error({"info": json.dumps(info).encode(), "routes": json.dumps(routes).encode(), "clusters": json.dumps(clusters).encode(), "hosts": hosts})


def test_the_known_form_is_read() -> None:
    hosts = b"\n".join(hosts_page(Counter()))
    view = view_or_error({"info": json.dumps(INFO).encode(), "routes": json.dumps(ROUTES).encode(), "clusters": json.dumps(CLUSTERS).encode(), "hosts": hosts})
    assert view.balances_by(Key("header", "user"))
    assert view.eligible() == set(ADDRESSES.values())


@given(st.binary(max_size=100))
def test_admin_pages_that_are_no_json_are_no_traceback(page: bytes) -> None:
    for body in (page, b"[" * 100_000, b'{"configs":' + page):
        view_or_error({"info": b'{"version": "x"}', "routes": body, "clusters": body, "hosts": body})
        assert isinstance(view_or_error({"info": body}), CheckError)


@given(st.data(), st.integers(0, 2000))
def test_a_page_of_hosts_that_was_cut_short_makes_no_host_better(data: st.DataObject, length: int) -> None:
    """A host behind a locality split, or an ejected one, does not become one that can be chosen."""
    page = (
        b"\n".join(hosts_page(Counter()))
        .replace(b"1:8080::priority::0", b"1:8080::priority::1")
        .replace(b"2:8080::health_flags::healthy", b"2:8080::health_flags::/x")
    )
    for text in (page[:length], b"\n".join(data.draw(damaged(page.split(b"\n"))))):
        hosts = parse_hosts(text.decode("utf-8", "replace")).get(CLUSTER, [])
        assert [host.address for host in hosts if host.healthy and host.priority == 0] in ([], [ADDRESSES["cart-1"]])
