# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever the user asks for: it is refused with the option's name, or curl is told that and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from curl_config import read_config
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key, Target, Via
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import (
    CookieJar,
    Sending,
    Transfer,
    check_sendable,
    request_configuration,
    set_cookies,
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, make_plan

# What means something to a shell, to curl, to HTTP or to Python, and anything else; lone surrogates are bytes that are no UTF-8.
NASTY = st.sampled_from([*"\"'\\`$(){}[]<>|&;:#%@!*?=,-+~^/ \t\n\r\0\x1b\x7f", "\x85", "\u2028", "é", "\udcff", "$(id)", "\nurl = x", '"\noutput = x', "%{"])
TEXT = st.lists(st.one_of(NASTY, st.text(st.characters(), max_size=3)), max_size=8).map("".join)
TAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)


def mostly(legal: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Nastiness in one place in ten, so that not everything is refused for something else."""
    return st.integers(0, 9).flatmap(lambda number: legal if number else TEXT)


NAME = mostly(TAME)
VALUE = mostly(TEXT.map(lambda text: re.sub(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", "", text).strip(" \t")))
PATH = mostly(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=8).map("/".__add__))
COOKIE = st.from_regex(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{0,8}", fullmatch=True)

KEYS = st.one_of(
    st.builds(Key, st.sampled_from(["header", "cookie", "query"]), NAME),
    st.just(Key("source_ip", None)),
)
VALUES = {"header": VALUE, "cookie": mostly(COOKIE), "query": mostly(TEXT), "source_ip": mostly(st.ip_addresses().map(str))}
VIAS = st.one_of(st.none(), st.builds(Via, mostly(st.one_of(TAME, st.ip_addresses().map(str))), st.integers(1, 66_000), mostly(TAME)))
TARGETS = st.builds(
    Target,
    st.just("shop"),
    st.just("cart"),
    st.integers(1, 65_535),
    st.none(),
    st.just("cart.shop"),
    PATH,
    st.sampled_from(["GET", "HEAD", "OPTIONS"]),
    VIAS,
)
SENDINGS = st.builds(
    Sending,
    headers=st.lists(st.tuples(NAME, VALUE), max_size=2).map(tuple),
    keepalive=st.booleans(),
    identity_headers=st.lists(NAME, min_size=1, max_size=2).map(tuple),
)
# Every option that a transfer may have. None of them writes a file of the user's choice, reads one, or starts a program.
ALLOWED = {
    "url", "header", "write-out", "output", "silent", "http1.1", "globoff", "path-as-is", "noproxy", "proto",
    "connect-timeout", "max-time", "user-agent", "head", "request", "parallel", "parallel-immediate", "parallel-max",
}  # fmt: skip


def refusal(key: Key, sessions: Sequence[str], target: Target, sending: Sending) -> CheckError | None:
    """Why it is not sent, if it is not."""
    try:
        check_sendable(key, sessions, target, sending)
    except CheckError as error:
        return error
    return None


def expected_headers(key: Key, value: str | None, target: Target, sending: Sending) -> list[str]:
    """The headers of a request, in curl's own notation: a name with a semicolon has no value."""
    pairs = list(sending.headers)
    if value is not None and key.type != "query":
        name = {"header": key.name or "", "cookie": "Cookie", "source_ip": "X-Forwarded-For"}[key.type]
        pairs.append((name, f"{key.name}={value}" if key.type == "cookie" else value))
    if target.via:
        pairs.append(("Host", target.via.host))
    if not sending.keepalive:
        pairs.append(("Connection", "close"))
    return sorted(f"{name}: {text}" if text else f"{name};" for name, text in pairs)


def agrees(url: str, key: Key, value: str | None, target: Target) -> None:
    """The URL leads to the target and nowhere else, with the path as given and the key's parameter behind it."""
    parts = urlsplit(url)
    host, port = (target.via.address, target.via.port) if target.via else (target.host, target.port)
    assert (parts.scheme, parts.username, parts.fragment) == ("http", None, "")
    assert (parts.hostname, parts.port or 80) == (host.lower(), port)
    shown = url[len("http://") :].partition("/")[2]
    if key.type != "query" or value is None:
        assert f"/{shown}" == target.path
        return
    assert f"/{shown}".startswith(target.path)
    name, _sep, text = f"/{shown}"[len(target.path) + 1 :].partition("=")
    assert (name, unquote(text)) == (key.name, value)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*", text)


@settings(max_examples=300)
@given(KEYS.flatmap(lambda key: st.tuples(st.just(key), st.lists(VALUES[key.type], min_size=1, max_size=2))), TARGETS, SENDINGS)
def test_it_is_refused_or_curl_is_told_that_and_nothing_else(asked: tuple[Key, list[str]], target: Target, sending: Sending) -> None:
    key, values = asked
    plan = make_plan(key, values, None, 2, PROFILES["quick"], 3, 1)
    error = refusal(key, plan.sessions, target, sending)
    if error:
        assert error.code == "bad_option"
        assert re.match(r"Option (key\.name|session_ids|path|headers|identify_header|via\.(address|host|port)), value ", error.msg), error.msg
        assert error.msg.encode(), "it can be printed"
        return
    requests = list(plan.requests(range(2)))
    transfers = read_config(request_configuration(plan, requests, target, Transfer(sending)))
    assert len(transfers) == len(requests)
    for request, options in zip(requests, transfers, strict=True):
        value = None if request.session is None else plan.sessions[request.session]
        assert {name for name, _value in options} <= ALLOWED
        found = {name: text for name, text in options if name != "header"}
        assert len(found) + sum(name == "header" for name, _text in options) == len(options), "an option stands there twice"
        assert sorted(text or "" for name, text in options if name == "header") == expected_headers(key, value, target, sending)
        assert found["output"] == "/dev/null"
        assert (found["write-out"] or "").startswith(f"R|{request.index}{FIELD}%{{http_code}}{FIELD}")
        agrees(found["url"] or "", key, value, target)


@given(st.sampled_from(["header", "cookie", "query"]), st.text(st.characters(codec="utf-8"), max_size=20))
def test_legal_values_are_not_refused(kind: str, value: str) -> None:
    """A check that refuses more than it must is of no use either: what RFC 9110 and RFC 6265 allow goes through."""
    legal = {
        "header": not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value) and value == value.strip(" \t"),
        "cookie": re.fullmatch(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", value) is not None,
        "query": True,
    }[kind]
    error = refusal(Key(kind, "user"), [value], Target("shop", "cart", 80, None, "cart"), Sending())
    assert (error is None) == legal


@given(st.one_of(st.binary(max_size=60), st.lists(TEXT, max_size=3).map(lambda cookies: _json(cookies).encode("utf-8", "surrogateescape"))))
def test_a_cookie_that_the_service_issues_adds_nothing_to_what_curl_is_told(headers: bytes) -> None:
    """The application chooses the value, and curl's JSON could hold any letter."""
    key = Key("cookie", "user", cookie="browser")
    plan = make_plan(key, ["one"], None, 2, PROFILES["quick"], 3, 1)
    jar = CookieJar("user", follow=True)
    jar.note(0, set_cookies(headers))
    first = next(request for request in plan.requests(range(1)) if request.session == 0)
    (options,) = read_config(request_configuration(plan, [first], Target("shop", "cart", 80, None, "cart"), Transfer(Sending(), jar=jar)))
    cookies = [text for name, text in options if name == "header" and (text or "").startswith("Cookie")]
    assert cookies == [f"Cookie: user={value}" for value in jar.values.values()]
    assert {name for name, _text in options} <= ALLOWED


def _json(cookies: list[str]) -> str:
    quoted = ", ".join('"user=' + "".join(f"\\u{ord(letter):04x}" for letter in text if ord(letter) < 0x10000) + '"' for text in cookies)
    return f'{{"set-cookie":[{quoted}]}}'


@given(st.lists(st.tuples(TAME, TEXT), min_size=1, max_size=3), TEXT)
def test_a_parameter_reaches_the_service_as_it_was_given(others: list[tuple[str, str]], value: str) -> None:
    """Read back as a web framework would; a parameter that is there already is refused, as the first one counts."""
    path = "/?" + "&".join(f"{name}=x" for name, _text in others)
    target, key = Target("shop", "cart", 80, None, "cart", path), Key("query", "user")
    plan = make_plan(key, [value], None, 2, PROFILES["quick"], 3, 1)
    refused = "user" in [name for name, _text in others] or re.search(r"[\ud800-\udfff]", value) is not None
    assert (refusal(key, plan.sessions, target, Sending()) is not None) == refused
    if refused:
        return
    first = next(request for request in plan.requests(range(1)) if request.session == 0)
    (options,) = read_config(request_configuration(plan, [first], target, Transfer(Sending())))
    url = next(text for name, text in options if name == "url") or ""
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True)[-1] == ("user", value)
