# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One exec into a container: standard input, lines of output, a deadline, and no silent loss.

The kubernetes client opens the websocket, with every login method that it supports; directly, because importing the API
class for an exec takes a second (release 37). Its frames are read here: the client's own loop keeps all output in one
growing buffer, and releases before August 2026 could leave the last frames of an exec unread
(kubernetes-client/python pull requests 2646 and 2651).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError

# The module reports a missing library before these are used.
with contextlib.suppress(ImportError):
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream.ws_client import websocket_call
    from websocket import WebSocketException, WebSocketTimeoutException

# https://kubernetes.io/docs/reference/using-api/api-concepts/: the remotecommand subprotocols v4 and v5
STDIN, STDOUT, STDERR, STATUS, CLOSE = 0, 1, 2, 3, 255
CHUNK = 32 * 1024
STDERR_KEPT = 4096
# A pod that keeps writing must not fill this host's memory: the longest line, the most that one command may print before the
# next is sent, and the most of an exec.
MOST_LINE = 16 * 2**20
MOST_PAGE = 256 * 2**20
MOST_TOTAL = 4 * 2**30


class Exec:
    """A running command. Use it as a context manager; leaving it always closes the connection.

    Iterate over `lines()` for the command's standard output; `send()` writes to its standard input.
    Raises `CheckError` with the codes `exec_forbidden`, `exec_refused`, `exec_lost`, `exec_flooded` and `timeout`.
    """

    def __init__(self, configuration: Any, namespace: str, pod: str, container: str, command: list[str], deadline: float, stdin: bool = True) -> None:
        self.where = f"container {container} of pod {namespace}/{pod}"
        self.deadline = deadline
        self.stderr = b""
        self.status: dict[str, Any] | None = None
        self._partial: list[bytes] = []
        self._line = self._page = self._total = 0
        self._socket = self._open(configuration, namespace, pod, container, command, stdin)

    def __enter__(self) -> Exec:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        # The descriptor is closed even if the peer closed the connection first.
        with contextlib.suppress(OSError, WebSocketException):
            self._socket.close(timeout=1)

    def _open(self, configuration: Any, namespace: str, pod: str, container: str, command: list[str], stdin: bool) -> Any:
        url = f"{configuration.host}/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/exec"
        query = [("container", container), ("stdin", str(stdin).lower()), ("stdout", "true"), ("stderr", "true"), ("command", command)]
        headers = {setting["key"]: setting["value"] for setting in configuration.auth_settings().values() if setting["in"] == "header"}
        try:
            response = websocket_call(
                configuration,
                "GET",
                url,
                query_params=query,
                headers=headers,
                _preload_content=False,
                _request_timeout=max(1.0, self.deadline - time.monotonic()),
            )
        except ApiException as error:
            raise self._refused(error) from error
        except (OSError, WebSocketException) as error:
            raise CheckError("exec_refused", f"No exec into {self.where}: {error}. Next: try kubectl exec by hand.") from error
        return response.sock

    def _refused(self, error: Any) -> CheckError:
        # The client wraps the failed handshake in an ApiException of status 0; the status is in the text.
        reason = " ".join(str(error.reason or error).split())[:300]
        if error.status == 403 or "403" in reason[:60]:
            return CheckError(
                "exec_forbidden",
                f"No permission to exec into {self.where}. "
                "Next: grant get and create on pods/exec for that pod to the account of this run, or name another client.",
            )
        return CheckError("exec_refused", f"No exec into {self.where}: {reason}. Next: check that the pod runs, and try kubectl exec by hand.")

    def send(self, data: bytes) -> None:
        """Write to the command's standard input, in frames that are small enough for every proxy on the path."""
        self._page = 0
        try:
            for start in range(0, len(data), CHUNK):
                self._limit()
                self._socket.send_binary(bytes([STDIN]) + data[start : start + CHUNK])
        except WebSocketTimeoutException as error:
            raise self._late() from error
        except (OSError, WebSocketException) as error:
            raise self._lost(error) from error

    def lines(self) -> Iterator[bytes]:
        """Complete lines of standard output, without their newline, until the command or the connection ends."""
        while True:
            channel, data = self._frame()
            if channel is None:
                if any(self._partial):
                    yield b"".join(self._partial)
                    self._partial = []
                return
            self._measure(channel, data)
            if channel == STDOUT:
                first, *complete = data.split(b"\n")
                self._partial.append(first)
                for following in complete:
                    line, self._partial = b"".join(self._partial), [following]
                    yield line
            elif channel == STDERR:
                self.stderr = (self.stderr + data)[:STDERR_KEPT]
            elif channel == STATUS:
                self.status = _status(data)

    def _measure(self, channel: int, data: bytes) -> None:
        """Raises `CheckError` with `exec_flooded` if the pod writes more than any command of ours makes it write."""
        self._page += len(data)
        self._total += len(data)
        if channel == STDOUT:
            newline = data.rfind(b"\n")
            # A line that ends in this frame is as long as what was there before, at most, and the frame.
            longest = self._line + len(data)
            self._line = longest if newline < 0 else len(data) - newline - 1
        else:
            longest = 0
        sizes = {"a line": (longest, MOST_LINE), "the output of one command": (self._page, MOST_PAGE), "the whole output": (self._total, MOST_TOTAL)}
        for name, (size, most) in sizes.items():
            if size > most:
                raise CheckError(
                    "exec_flooded",
                    f"{self.where} wrote too much: {name} has more than {most // 2**20} MiB. Next: use another client pod, or a path with a smaller response.",
                )

    def _frame(self) -> tuple[int | None, bytes]:
        while True:
            # The deadline holds for each frame: a pod that keeps writing never lets a wait run out.
            if time.monotonic() > self.deadline:
                raise self._late()
            self._wait()
            self._limit()
            try:
                opcode, frame = self._socket.recv_data_frame(True)
            except WebSocketTimeoutException as error:
                raise self._late() from error
            except (OSError, WebSocketException) as error:
                raise self._lost(error) from error
            if opcode == 0x8:
                return None, b""
            if opcode in (0x1, 0x2) and frame.data and frame.data[0] != CLOSE:
                return frame.data[0], frame.data[1:]

    def _wait(self) -> None:
        """Block until a frame can be read. Bytes that TLS has already decrypted are invisible to poll()."""
        raw = self._socket.sock
        if raw is None:
            raise self._lost("it is closed")
        if getattr(raw, "pending", lambda: 0)():
            return
        poll = select.poll()
        poll.register(raw, select.POLLIN)
        if not poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000):
            raise self._late()

    def _limit(self) -> None:
        """Limit waits to the deadline, also if the connection stalls in the middle of a frame."""
        self._socket.settimeout(max(0.1, self.deadline - time.monotonic()))

    def _late(self) -> CheckError:
        return CheckError("timeout", f"{self.where} did not respond completely before the timeout. Next: raise the option timeout, or send fewer requests.")

    def _lost(self, error: object) -> CheckError:
        return CheckError(
            "exec_lost",
            f"The connection to {self.where} was lost: {str(error) or type(error).__name__}. "
            "Next: check whether the pod was deleted or restarted (kubectl get pod), then run the check again.",
        )


def _status(data: bytes) -> dict[str, Any]:
    try:
        status = json.loads(data)
    except (ValueError, RecursionError):
        return {"status": "Failure", "message": data.decode("utf-8", "replace")}
    return status if isinstance(status, dict) else {"status": "Failure", "message": str(status)}


def exit_reason(status: dict[str, Any] | None) -> str:
    """How the command ended, from the Status object in the exec's last frame."""
    if status is None:
        return "no exit status"
    return str(status.get("message") or status.get("status") or "no exit status")
