# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pod gave an answer, by header, body, log and counters."""

from __future__ import annotations

import re

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, Host
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import addresses_by_counters, identify, in_body, in_log, named_pods
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD

HEADERS = ("header X-Pod-Name", "header X-Served-By")


def backend(number: int) -> Backend:
    return Backend(f"pod-{number}", f"uid-{number}", f"10.0.0.{number}:80", None, None, True)


def test_the_header_whose_values_are_backends_is_taken() -> None:
    raw = [FIELD.join(["constant", "10.0.0.1"]), FIELD.join(["constant", "pod-2"]), FIELD.join(["constant", "10.0.0.3:80"])]
    found = identify(raw, HEADERS, [backend(1), backend(2), backend(3)])
    assert found.by == "header X-Served-By"
    assert sorted(found.pods.values()) == ["pod-1", "pod-2", "pod-3"]


def test_a_constant_header_identifies_nobody() -> None:
    found = identify([FIELD.join(["always-me", ""])], HEADERS, [backend(1), backend(2)])
    assert found.by is None
    assert found.pods == {}


def test_an_ip_that_two_backends_share_identifies_neither() -> None:
    twins = [Backend("a", "1", "10.0.0.9:80", None, None, True), Backend("b", "2", "10.0.0.9:81", None, None, True)]
    assert identify([FIELD.join(["10.0.0.9", ""])], HEADERS, twins).pods == {}
    assert identify([FIELD.join(["10.0.0.9:81", ""])], HEADERS, twins).pods == {FIELD.join(["10.0.0.9:81", ""]): "b"}


@pytest.mark.parametrize(
    ("pattern", "body", "found"),
    [
        (r"Server name: (\S+)", b"Server address: 10.0.0.1:80\nServer name: pod-1\n", "pod-1"),
        (r"pod-\d+", b"<h1>pod-7</h1>", "pod-7"),
        (r"(x)?y", b"y", ""),
        (r"pod-\d+", b"\xff\xfe nothing", ""),
    ],
)
def test_the_pod_in_a_body(pattern: str, body: bytes, found: str) -> None:
    assert in_body(re.compile(pattern), body) == found


IDS = {f"0b8c1f8e-6d2c-4c1b-9a54-{number:012x}": number for number in range(3)}
ADDRESSES = ["10.244.0.3:8080", "10.244.0.38:8080"]


def test_the_log_is_joined_by_request_id_in_text_and_in_json() -> None:
    text = f'[2026-11-23T17:00:00Z] "GET / HTTP/1.1" 200 - "-" 0 3 "curl" "{next(iter(IDS))}" "nginx-service" "10.244.0.38:8080" outbound|80||x 10.244.0.9:4312'
    other = '{"request_id":"' + list(IDS)[1] + '","upstream_host":"10.244.0.3:8080","downstream":"10.244.0.9:4312"}'
    foreign = '"GET /" "ffffffff-6d2c-4c1b-9a54-000000000000" "10.244.0.3:8080"'
    assert in_log(f"{text}\n{other}\n{foreign}", IDS, ADDRESSES) == {0: "10.244.0.38:8080", 1: "10.244.0.3:8080"}


def test_a_log_line_with_two_backends_says_nothing() -> None:
    assert in_log(f'"{next(iter(IDS))}" 10.244.0.3:8080 10.244.0.38:8080', IDS, ADDRESSES) == {}


def host(address: str, total: int) -> Host:
    return Host(address, True, "healthy", 1, 0, "", total)


def test_counters_that_add_up_tell_the_addresses() -> None:
    before = [host("a:1", 5), host("b:1", 0)]
    assert addresses_by_counters(before, [host("a:1", 7), host("b:1", 1)], 3) == ["a:1", "a:1", "b:1"]
    assert addresses_by_counters(before, [host("a:1", 5), host("b:1", 0), host("c:1", 2)], 2) is None, "without its line before, c's rise is not known"


@pytest.mark.parametrize("after", [[("a:1", 9), ("b:1", 1)], [("a:1", 6), ("b:1", 0)], [("a:1", 0), ("b:1", 8)], []])
def test_counters_that_do_not_add_up_tell_nothing(after: list[tuple[str, int]]) -> None:
    assert addresses_by_counters([host("a:1", 5), host("b:1", 0)], [host(*entry) for entry in after], 3) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cart of cart-66c4db59bb-nfcmr\n", {"cart-66c4db59bb-nfcmr"}),
        ('{"pod": "a.b-c-7d9f8b6c5d-x2x4z", "id": 1} on shop-7d9f8b6c5d-bbbbb', {"a.b-c-7d9f8b6c5d-x2x4z", "shop-7d9f8b6c5d-bbbbb"}),
        # Neither a UUID, nor words, nor a name that goes on.
        ("123e4567-e89b-12d3-a456-426614174000 session-affinity-check cart-66c4db59bb-nfcmrx web-0", set()),
        ("", set()),
    ],
)
def test_pods_that_a_text_names(text: str, names: set[str]) -> None:
    assert named_pods(text) == names
