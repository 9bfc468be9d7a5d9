# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on the way, made for real: each its own outcome, none of them sticky, none of them a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from affinity_support import KEY, Mesh

from harness import BIN, clean_environment

# Slow enough for something to happen to it in the middle: 120 requests in some five seconds.
SLOW: dict[str, Any] = {"sessions": 20, "requests": 5, "rate": 20}


@pytest.fixture
def meanwhile(mesh: Mesh) -> Iterator[Callable[..., None]]:
    """Do something to the cluster some seconds from now, while the test goes on; it must have worked."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def later(seconds: float, what: Callable[[], Any]) -> None:
        def do() -> None:
            time.sleep(seconds)
            try:
                what()
            except BaseException as error:  # noqa: BLE001 - pytest.fail() raises what is no Exception; it is raised again below
                errors.append(error)

        threads.append(threading.Thread(target=do))
        threads[-1].start()

    yield later
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def in_pod(mesh: Mesh, script: str, codes: tuple[int, ...] = (0,)) -> str:
    return mesh.kubectl("-n", mesh.namespace, "exec", "test-pod", "-c", "curl", "--", "sh", "-c", script, codes=codes).stdout


# Zombies are left out: they have ended, and only wait for their parent to notice.
LIST_CURLS = """
for process in /proc/[0-9]*; do
  read -r pid comm state rest < $process/stat 2>/dev/null && [ "$comm" = '(curl)' ] && [ $state != Z ] && echo $pid
done
true
"""
KILL_CURLS = """
for round in 1 2 3 4 5 6 7 8 9; do
  for process in /proc/[0-9]*; do
    case $(cat $process/comm 2>/dev/null) in curl) kill -9 ${process#/proc/} ;; esac
  done
  sleep 0.1
done
true
"""


def curls(mesh: Mesh) -> list[str]:
    """The process IDs of curl in the client's container."""
    return in_pod(mesh, LIST_CURLS).split()


def check(mesh: Mesh, **options: Any) -> dict[str, Any]:
    return mesh.look(**(SLOW | options))


def test_a_client_pod_that_is_deleted(broken: Mesh, lab: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(3, lambda: broken.kubectl("-n", broken.namespace, "delete", "pod", "test-pod", "--grace-period=0", "--force"))
    result = check(broken)
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]
    assert "see whether the pod" in result["msg"]
    assert result["requests"]["answered"] < result["requests"]["planned"]


def test_a_client_container_that_is_restarted(broken: Mesh, lab: Path, meanwhile: Callable[..., None]) -> None:
    meanwhile(3, lambda: in_pod(broken, "kill -TERM 1; kill -KILL 1; sleep 5", codes=(0, 1, 137, 143)))
    result = check(broken)
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]


def test_a_curl_that_is_killed_loses_answers_and_proves_nothing(mesh: Mesh, lab: Path, meanwhile: Callable[..., None]) -> None:
    """With a slow answer curl is there to be killed when we come."""
    delay = {"fault": {"delay": {"fixedDelay": "0.3s", "percentage": {"value": 100}}}, "route": [{"destination": {"host": "nginx-service"}}]}
    mesh.patch("virtualservice", "nginx-virtualservice", {"spec": {"http": [delay]}})
    try:
        meanwhile(4, lambda: in_pod(mesh, KILL_CURLS))
        result = check(mesh, rate=None, concurrency=1)
    finally:
        mesh.converge()
    assert result["requests"]["answered"] < result["requests"]["sent"]
    assert result["verdict"] == "inconclusive", result["msg"]


class Tunnel:
    """A way to the API server that can be cut: every connection ends, and no more are taken."""

    def __init__(self, port: int) -> None:
        self.far = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = [self.listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        # Ends with the OSError of the listener that is cut.
        with suppress(OSError):
            while True:
                near, _address = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.far))
                self.sockets.extend((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def cut(self) -> None:
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_an_api_connection_that_is_lost_in_mid_stream(mesh: Mesh, lab: Path, tmp_path: Path, meanwhile: Callable[..., None]) -> None:
    config = yaml.safe_load(lab.read_text())
    cluster = config["clusters"][0]["cluster"]
    way = Tunnel(int(cluster["server"].rpartition(":")[2]))
    cluster["server"] = f"https://127.0.0.1:{way.port}"
    through = tmp_path / "kubeconfig"
    through.write_text(yaml.safe_dump(config))
    meanwhile(3, way.cut)
    result = check(mesh, kubeconfig=str(through))
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]
    time.sleep(5)
    assert curls(mesh) == []


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_curl_of_ours_is_left_five_seconds_after_the_play_was_ended(
    mesh: Mesh, lab: Path, installed_collection: Path, tmp_path: Path, way: signal.Signals
) -> None:
    arguments = {
        "namespace": mesh.namespace,
        "service": "nginx-service",
        "key": KEY,
        "kubeconfig": str(lab),
        "sessions": 20,
        "requests": 40_000,
        "timeout": 600,
    }
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [{"meshops.istio.istio_affinity_check": arguments}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=str(installed_collection))
    process = subprocess.Popen(
        [BIN / "ansible-playbook", tmp_path / "play.yml"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        mesh.wait_until("curl runs in the pod", lambda: curls(mesh) != [], timeout=60)
        os.killpg(process.pid, way)
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    time.sleep(5)
    assert curls(mesh) == []


@pytest.mark.parametrize(("abort", "status"), [({"httpStatus": 503}, "503"), ({"httpStatus": 429}, "429")])
def test_an_answer_that_envoy_gave_itself_does_not_show_where_a_session_landed(broken: Mesh, lab: Path, abort: dict[str, Any], status: str) -> None:
    route = {"fault": {"abort": {**abort, "percentage": {"value": 100}}}, "route": [{"destination": {"host": "nginx-service"}}]}
    broken.patch("virtualservice", "nginx-virtualservice", {"spec": {"http": [route]}})
    broken.wait_until("Envoy aborts", lambda: status in in_pod(broken, "curl -s -o /dev/null -w '%{http_code}' http://nginx-service/"))
    result = check(broken, rate=None)
    assert result["verdict"] == "inconclusive", result["msg"]
    assert set(result["requests"]["by_status"]) == {status}
    assert result["requests"]["identified"] == 0


def test_a_refusal_by_policy_is_not_sticky(broken: Mesh, lab: Path) -> None:
    denial = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "deny"},
        "spec": {"selector": {"matchLabels": {"app": "nginx"}}, "action": "DENY", "rules": [{}]},
    }
    # All pods get a policy at about the same time, not at the same time.
    many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -s -o /dev/null -w '%{http_code} ' http://nginx-service/; done"
    broken.apply(denial)
    try:
        broken.wait_until("the policy is in force in every pod", lambda: set(in_pod(broken, many).split()) == {"403"})
        result = check(broken, rate=None)
    finally:
        broken.delete("authorizationpolicy", "deny")
        broken.wait_until("the policy is gone from every pod", lambda: set(in_pod(broken, many).split()) == {"200"})
    assert result["verdict"] == "inconclusive", result["msg"]
    assert result["requests"]["by_status"].keys() == {"403"}


def test_an_error_page_of_the_application_does_show_it(broken: Mesh, lab: Path) -> None:
    """The sample has no page that fails, so the path is sent to a method that nginx refuses itself."""
    result = check(broken, rate=None, method="OPTIONS")
    assert result["requests"]["identified"] == result["requests"]["planned"], result["msg"]


def test_a_timeout_is_an_answer_that_is_missing(broken: Mesh, lab: Path) -> None:
    route = {"fault": {"delay": {"fixedDelay": "7s", "percentage": {"value": 10}}}, "route": [{"destination": {"host": "nginx-service"}}]}
    broken.patch("virtualservice", "nginx-virtualservice", {"spec": {"http": [route]}})
    broken.wait_for("proxy.in_sync")
    result = check(broken, rate=None, concurrency=50)
    assert 1 <= result["requests"]["failed"] < result["requests"]["sent"], result["msg"]
    assert result["verdict"] == "inconclusive"


def test_the_deadline_ends_the_run(mesh: Mesh, lab: Path) -> None:
    start = time.monotonic()
    result = check(mesh, rate=1, timeout=5)
    assert time.monotonic() - start < 30
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "timeout"), result["msg"]
