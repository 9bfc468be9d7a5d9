# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frames of an exec: however the API server cuts them, the same lines come out, and every end is told apart."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes.client import Configuration

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError
from ansible_collections.meshops.istio.plugins.module_utils._probe import exec as pod_exec
from ansible_collections.meshops.istio.plugins.module_utils._probe.exec import STATUS, STDERR, STDOUT, Exec, exit_reason

BINARY, CLOSING = 0x2, 0x8
CONFIGURATION = Configuration(host="https://api.example.com", api_key={"authorization": "Bearer secret"})


class Wire:
    """A websocket whose frames are known, then closed, or broken off, or silent."""

    def __init__(self, frames: list[tuple[int, bytes]], end: str = "close") -> None:
        # poll() wants a real descriptor; one with something to read is always ready, an empty one never is.
        self.sock, self._peer = socket.socketpair()
        if end != "silence" or frames:
            self._peer.send(b"x")
        self.sent = b""
        self.closed = False
        self._frames = self._all(frames, end)

    def _all(self, frames: list[tuple[int, bytes]], end: str) -> Iterator[tuple[int, Any]]:
        for channel, data in frames:
            yield BINARY, SimpleNamespace(data=bytes([channel]) + data)
        if end == "break":
            raise ConnectionResetError("reset by peer")
        yield CLOSING, SimpleNamespace(data=b"")

    def recv_data_frame(self, _control: bool) -> tuple[int, Any]:
        return next(self._frames)

    def send_binary(self, data: bytes) -> None:
        self.sent += data[1:]

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def close(self, timeout: float) -> None:
        assert timeout
        self.closed = True
        self.sock.close()
        self._peer.close()


def running(monkeypatch: pytest.MonkeyPatch, wire: Wire, seconds: float = 5) -> Exec:
    monkeypatch.setattr(pod_exec, "websocket_call", lambda *_args, **_words: SimpleNamespace(sock=wire))
    return Exec(CONFIGURATION, "sample", "test-pod", "curl", ["sh"], time.monotonic() + seconds)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_do_not_depend_on_how_frames_are_cut(monkeypatch: pytest.MonkeyPatch, lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    frames: list[tuple[int, bytes]] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        frames.append((STDOUT, stream[:size]))
        stream = stream[size:]
        if data.draw(st.booleans()):
            frames.append((STDERR, b"noise\n"))
    with running(monkeypatch, Wire(frames)) as found:
        assert list(found.lines()) == lines


def test_an_unfinished_last_line_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, Wire([(STDOUT, b"a\nb")])) as found:
        assert list(found.lines()) == [b"a", b"b"]


def test_the_status_and_the_errors_are_kept_apart_from_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {"status": "Failure", "message": "command terminated with exit code 92"}
    wire = Wire([(STDERR, b"x" * 10_000), (STDOUT, b"a\n"), (STATUS, json.dumps(status).encode())])
    with running(monkeypatch, wire) as found:
        assert list(found.lines()) == [b"a"]
        assert exit_reason(found.status) == "command terminated with exit code 92"
        assert len(found.stderr) == pod_exec.STDERR_KEPT
    assert wire.closed


def test_a_status_that_is_no_json_is_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, Wire([(STATUS, b"pod was deleted")])) as found:
        assert list(found.lines()) == []
        assert exit_reason(found.status) == "pod was deleted"


def test_a_connection_that_breaks_is_lost_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, Wire([(STDOUT, b"a\n")], end="break")) as found, pytest.raises(CheckError, match="sample/test-pod was lost: reset") as caught:
        list(found.lines())
    assert caught.value.code == "exec_lost"


def test_silence_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, Wire([], end="silence"), seconds=0.05) as found, pytest.raises(CheckError, match="option timeout") as caught:
        list(found.lines())
    assert caught.value.code == "timeout"


def test_a_pod_that_keeps_writing_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, Wire([(STDOUT, b"x\n")] * 10**6), seconds=0.05) as found, pytest.raises(CheckError, match="option timeout") as caught:
        list(found.lines())
    assert caught.value.code == "timeout"


@pytest.mark.parametrize(
    ("cap", "frames", "words"),
    [
        ("MOST_LINE", [b"x" * 600, b"x" * 600], "a line has more than"),
        ("MOST_LINE", [b"\n" + b"x" * 600, b"x" * 600 + b"\n"], "a line has more than"),
        ("MOST_PAGE", [b"x\n" * 300, b"x\n" * 300], "the output of one command has more than"),
        ("MOST_TOTAL", [b"x\n" * 300, b"x\n" * 300], "the whole output has more than"),
    ],
)
def test_what_a_pod_may_write_is_capped(monkeypatch: pytest.MonkeyPatch, cap: str, frames: list[bytes], words: str) -> None:
    monkeypatch.setattr(pod_exec, cap, 1024)
    with running(monkeypatch, Wire([(STDOUT, data) for data in frames])) as found, pytest.raises(CheckError, match=words) as caught:
        list(found.lines())
    assert caught.value.code == "exec_flooded"


def test_each_command_has_its_own_page_and_a_line_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_exec, "MOST_PAGE", 1024)
    monkeypatch.setattr(pod_exec, "MOST_LINE", 1024)
    with running(monkeypatch, Wire([(STDOUT, b"x" * 600 + b"\n"), (STDOUT, b"y" * 600 + b"\n")])) as found:
        lines = found.lines()
        assert next(lines) == b"x" * 600
        found.send(b"another command")
        assert next(lines) == b"y" * 600


def test_a_long_line_in_small_frames_takes_no_longer_than_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with running(monkeypatch, Wire([(STDOUT, b"x" * 64)] * 100_000), seconds=60) as found:
        assert sum(map(len, found.lines())) == 6_400_000
    assert time.monotonic() - started < 10


def test_what_is_sent_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire([])
    with running(monkeypatch, wire) as found:
        found.send(b"y" * 100_000)
    assert wire.sent == b"y" * 100_000


def test_the_call_logs_in_and_a_name_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, ...]] = []

    def websocket_call(_configuration: Any, method: str, url: str, **words: Any) -> Any:
        called.append((method, url, words["query_params"], words["headers"]))
        return SimpleNamespace(sock=Wire([]))

    monkeypatch.setattr(pod_exec, "websocket_call", websocket_call)
    Exec(CONFIGURATION, "sample", "a/../b?c", "curl", ["sh", "-c", "true"], time.monotonic() + 5, stdin=False)
    query = [("container", "curl"), ("stdin", "false"), ("stdout", "true"), ("stderr", "true"), ("command", ["sh", "-c", "true"])]
    url = "https://api.example.com/api/v1/namespaces/sample/pods/a%2F..%2Fb%3Fc/exec"
    assert called == [("GET", url, query, {"authorization": "Bearer secret"})]
