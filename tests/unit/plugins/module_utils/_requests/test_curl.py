# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""curl's configuration and curl's lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key, Target
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import (
    CookieJar,
    Sending,
    Transfer,
    check_curl,
    check_sendable,
    curl_version,
    parse_line,
    request_configuration,
    set_cookies,
    url_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD, Observation
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, make_plan, of_one_source

HEADER = Key("header", "user-session")
TARGET = Target("sample", "nginx-service", 80, "http", "nginx-service")


def stanzas(config: bytes) -> list[list[str]]:
    """The options of each transfer."""
    result: list[list[str]] = [[]]
    for line in config.decode().splitlines():
        if line == "next":
            result.append([])
        else:
            result[-1].append(line)
    return result


def unquoted(line: str) -> str:
    """What curl reads from a quoted value of its configuration (man page, option --config)."""
    text = line.split(" = ", 1)[1]
    assert text[0] == text[-1] == '"'
    plain, escape = "", False
    for letter in text[1:-1]:
        if escape:
            plain += {"t": "\t", "n": "\n", "r": "\r", "v": "\v"}.get(letter, letter)
            escape = False
        elif letter == "\\":
            escape = True
        else:
            assert letter != '"'
            plain += letter
    return plain


def test_each_request_is_a_transfer_of_its_own_with_all_its_options() -> None:
    plan = make_plan(HEADER, ["sid-1"], None, 2, PROFILES["default"], 3, 1)
    requests = list(plan.requests(range(2)))
    found = stanzas(request_configuration(plan, requests, TARGET, Transfer(Sending())))
    assert len(found) == len(requests) == plan.total
    for request, options in zip(requests, found, strict=True):
        headers = [unquoted(line) for line in options if line.startswith("header = ")]
        expected = [] if request.session is None else [f"user-session: {plan.sessions[request.session]}"]
        assert [header for header in headers if header.startswith("user-session")] == expected
        assert "Connection: close" in headers
        assert 'noproxy = "*"' in options
        assert "globoff" in options
        assert 'output = "/dev/null"' in options
        assert f'write-out = "R|{request.index}{FIELD}' in "\n".join(options)


def test_keepalive_leaves_the_connection_open() -> None:
    plan = make_plan(HEADER, None, 20, 2, PROFILES["default"], 3, 1)
    assert b"Connection: close" not in request_configuration(plan, plan.requests(range(2)), TARGET, Transfer(Sending(keepalive=True)))


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_a_value_is_refused_or_reaches_curl_as_it_is(value: str) -> None:
    if any((ord(letter) < 32 and letter != "\t") or ord(letter) == 127 for letter in value) or value != value.strip(" \t"):
        with pytest.raises(CheckError, match="Option session_ids"):
            check_sendable(HEADER, [value], TARGET, Sending())
        return
    check_sendable(HEADER, [value], TARGET, Sending())
    plan = make_plan(HEADER, [value], None, 2, PROFILES["default"], 3, 1)
    first = next(request for request in plan.requests(range(1)) if request.session == 0)
    lines = request_configuration(plan, [first], TARGET, Transfer(Sending())).decode().split("\n")
    headers = [unquoted(line) for line in lines if line.startswith("header = ")]
    assert headers[0] == (f"user-session: {value}" if value else "user-session;")


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", " a", "a ", "a\x7f"])
def test_what_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(CheckError, match="session_ids"):
        check_sendable(HEADER, [value], TARGET, Sending())


@pytest.mark.parametrize("value", ["", "a b", 'a"b', "a\\b", "a;b", "@/etc/passwd", "é", "%{http_code}", "$(id)", "`id`", "a\tb"])
def test_unusual_but_legal_header_values_are_sent(value: str) -> None:
    check_sendable(HEADER, [value], TARGET, Sending())


@pytest.mark.parametrize(
    ("key", "sessions", "target", "sending", "option"),
    [
        (Key("header", "user session"), ["a"], TARGET, Sending(), "key.name"),
        (Key("header", "Host"), ["a"], TARGET, Sending(), "key.name"),
        (Key("cookie", "a;b"), ["a"], TARGET, Sending(), "key.name"),
        (Key("cookie", "user"), ["a b"], TARGET, Sending(), "session_ids"),
        (Key("query", ""), ["a"], TARGET, Sending(), "key.name"),
        (HEADER, ["a", "b", "a"], TARGET, Sending(), "session_ids"),
        (HEADER, ["a"], Target("n", "s", 80, None, "s", "no-slash"), Sending(), "path"),
        (HEADER, ["a"], Target("n", "s", 80, None, "s", "/a b"), Sending(), "path"),
        (HEADER, ["a"], TARGET, Sending(headers=(("Connection", "close"),)), "headers"),
        (HEADER, ["a"], TARGET, Sending(headers=(("x", "a\nb"),)), "headers"),
        (HEADER, ["a"], TARGET, Sending(identity_headers=("x y",)), "identify_header"),
    ],
)
def test_bad_input_names_its_option(key: Key, sessions: list[str], target: Target, sending: Sending, option: str) -> None:
    with pytest.raises(CheckError, match=f"Option {option}") as caught:
        check_sendable(key, sessions, target, sending)
    assert caught.value.code == "bad_option"


def test_urls() -> None:
    assert url_of(TARGET, HEADER, "a") == "http://nginx-service/"
    other = Target("n", "s", 8080, None, "s.n", "/p?x=1")
    assert url_of(other, Key("query", "user[id]"), "a&b") == "http://s.n:8080/p?x=1&user[id]=a%26b"
    assert url_of(other, Key("query", "u"), None) == "http://s.n:8080/p?x=1"


def test_a_cookie_goes_as_a_header_so_that_curl_reads_no_file() -> None:
    plan = make_plan(Key("cookie", "user"), ["abc"], None, 2, PROFILES["default"], 3, 1)
    first = next(request for request in plan.requests(range(1)) if request.session == 0)
    assert b'header = "Cookie: user=abc"' in request_configuration(plan, [first], TARGET, Transfer(Sending()))


def test_a_jar_keeps_the_first_cookie_or_follows_the_latest() -> None:
    answers = [['user="abc"; HttpOnly', "other=x"], ["user=def; Path=/"], ["nonsense"]]
    for follow, value in ((False, '"abc"'), (True, "def")):
        jar = CookieJar("user", follow)
        for cookies in answers:
            jar.note(0, cookies)
            jar.note(None, ["user=keyless"])
        assert jar.values == {0: value}


def test_a_session_sends_what_its_jar_holds() -> None:
    plan = make_plan(Key("cookie", "user", cookie="learned"), ["one"], None, 2, PROFILES["default"], 3, 1)
    first = next(request for request in plan.requests(range(1)) if request.session == 0)
    jar = CookieJar("user", False)
    assert b"Cookie" not in request_configuration(plan, [first], TARGET, Transfer(Sending(), jar=jar))
    jar.note(0, ["user=abc"])
    config = request_configuration(plan, [first], TARGET, Transfer(Sending(), jar=jar))
    assert b'header = "Cookie: user=abc"' in config
    assert b"%{header_json}" in config


def test_set_cookies_from_curls_json() -> None:
    assert set_cookies(b'{"server":["nginx"],"set-cookie":["a=b; Path=/", "c=d"]}') == ["a=b; Path=/", "c=d"]
    assert set_cookies(b"{") == []
    assert set_cookies(b"[]") == []


@pytest.mark.parametrize(
    ("line", "version"), [("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1", (7, 88, 1)), ("curl 8.16.0-DEV", (8, 16, 0)), ("", ()), ("busybox", ())]
)
def test_versions(line: str, version: tuple[int, ...]) -> None:
    assert curl_version(line) == version


def test_no_curl_and_an_old_curl_are_told_apart() -> None:
    assert check_curl("curl 8.16.0 (x)", "here") == "8.16.0"
    for line, code in (("", "no_curl"), ("curl 7.76.1 (x)", "old_curl")):
        with pytest.raises(CheckError, match="Next: use a client pod") as caught:
            check_curl(line, "container test of pod sample/test-pod")
        assert caught.value.code == code


def test_a_line_becomes_an_observation() -> None:
    line = FIELD.join(["R|17", "200", "0", "0.002604", "envoy", "3", "nginx-1", "", "", "."]).encode()
    assert parse_line(line) == Observation(17, 200, 0, 0.002604, FIELD.join(["nginx-1", "", ""]), "envoy", True)
    assert parse_line(line).answered
    assert not any(parse_line(line[:length]) for length in range(len(line))), "a name that was cut short may be another pod's"


@given(st.binary(max_size=200))
def test_no_bytes_from_the_pod_break_the_parser(line: bytes) -> None:
    for text in (line, b"R|" + line, b"R|1\x1f200\x1f0\x1f0.1\x1f" + line):
        seen = parse_line(text)
        assert seen is None or isinstance(seen.index, int)


@pytest.mark.parametrize(("key", "named"), [(Key("source_ip", None), True), (Key("source_ip", None, own=True), False)], ids=["sent", "own"])
def test_a_source_address_is_sent_but_the_clients_own(key: Key, named: bool) -> None:
    plan = of_one_source(make_plan(key, None, None, 2, PROFILES["quick"], 3, 1, keyless=False), "10.244.0.7")
    (stanza,) = stanzas(request_configuration(plan, [next(plan.requests([0]))], TARGET, Transfer(Sending())))
    assert ('header = "X-Forwarded-For: 10.244.0.7"' in stanza) == named
