# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on the way, made for real: each its own outcome, none of them sticky, none of them a traceback."""

from __future__ import annotations

import json
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
from affinity_support import KEY, Mesh, hashing, parts_of

from harness import BIN, clean_environment, run

# Slow enough for something to happen to it in the middle, which ends it: 420 requests would take some twenty seconds.
SLOW: dict[str, Any] = {"sessions": 20, "requests": 20, "rate": 20}
# Nothing happens to it, and so it is quick: 120 requests.
SHORT: dict[str, Any] = {"sessions": 20, "requests": 5, "rate": None}
PART = "faulty"


def route(path: str, **more: Any) -> dict[str, Any]:
    return {"match": [{"uri": {"exact": f"/{path}"}}], "route": [{"destination": {"host": PART}}], **more}


def delay(seconds: str, share: int = 100) -> dict[str, Any]:
    return {"fault": {"delay": {"fixedDelay": seconds, "percentage": {"value": share}}}}


def abort(status: int) -> dict[str, Any]:
    return {"fault": {"abort": {"httpStatus": status, "percentage": {"value": 100}}}}


def limit() -> dict[str, Any]:
    """The backends' sidecars answer 429 from the sixth request of a minute on, each for itself, and on port 8081 only."""
    bucket = {"max_tokens": 5, "tokens_per_fill": 5, "fill_interval": "60s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    settings = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "test",
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
    }
    chain = {"destinationPort": 8081, "filter": {"name": "envoy.filters.network.http_connection_manager"}}
    place = {"context": "SIDECAR_INBOUND", "listener": {"filterChain": chain}}
    patch = {"operation": "INSERT_BEFORE", "value": {"name": "envoy.filters.http.local_ratelimit", "typed_config": settings}}
    spec = {"workloadSelector": {"labels": {"app": "nginx"}}, "configPatches": [{"applyTo": "HTTP_FILTER", "match": place, "patch": patch}]}
    return {"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "limit", "labels": {PART: "yes"}}, "spec": spec}


@pytest.fixture(scope="module", autouse=True)
def faulty(mesh: Mesh) -> Iterator[None]:
    """Services over the sample's pods on which a path or a port goes wrong in a way of its own, so that no test alters the sample for that."""
    routes = [
        route("slow", **delay("0.2s")),
        route("slowish", **delay("0.03s")),
        route("late", **delay("7s", 30)),
        *(route(str(status), **abort(status)) for status in (503, 429)),
        {"route": [{"destination": {"host": PART}}]},
    ]
    denial = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "deny", "labels": {PART: "yes"}},
        "spec": {"selector": {"matchLabels": {"app": "nginx"}}, "action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/denied"]}}]}]},
    }
    mesh.apply(
        limit(),
        denial,
        *parts_of("nobody", hashing(), labels={PART: "yes"}, selector={"app": "nobody"}),
        *parts_of("limited", hashing(), labels={PART: "yes"}, port={"targetPort": 8081}),
        *parts_of(PART, hashing(), routes, labels={PART: "yes"}),
    )
    mesh.wait_for("proxy.in_sync", PART)
    yield
    kinds = ("envoyfilters.networking", "destinationrules.networking", "virtualservices.networking", "authorizationpolicies.security")
    mesh.kubectl("-n", mesh.namespace, "delete", ",".join(("services", *(f"{kind}.istio.io" for kind in kinds))), "-l", PART)


@pytest.fixture
def meanwhile(mesh: Mesh) -> Iterator[Callable[..., None]]:
    """Do something to the cluster while the test goes on, as soon as requests arrive at a service; it must have worked."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def later(what: Callable[[], Any], service: str = "nginx-service") -> None:
        before = mesh.requests_seen(service)

        def do() -> None:
            try:
                mesh.wait_until("the first requests", lambda: mesh.requests_seen(service) > before)
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


# Kills the curl that has written out its first block of answers. One that reads Envoy's pages writes as much, but is done in a moment.
KILL_WRITER = """
written() { [ "$(grep wchar $1/io | tr -dc 0-9)" -ge 4096 ]; }
for round in $(seq 600); do
  for process in /proc/[0-9]*; do
    read -r pid comm rest < $process/stat 2>/dev/null
    [ "$comm" = '(curl)' ] && written $process && sleep 1 && written $process && kill -9 $pid && exit 0
  done
  sleep 0.05
done 2>/dev/null
exit 1
"""


# The check's shell in the pod; the brackets keep this from finding itself.
LIST_SHELLS = "for process in /proc/[0-9]*; do grep -q 'no[n]ce deadline' $process/cmdline 2>/dev/null && echo ${process#/proc/}; done; true"


def curls(mesh: Mesh) -> list[str]:
    """The process IDs of curl in the client's container."""
    return in_pod(mesh, LIST_CURLS).split()


def no_more_curls(mesh: Mesh) -> None:
    """Nothing of a check is left in the pod after five seconds, or sooner: neither a curl, nor the shell that would start one."""

    def left() -> list[str]:
        return in_pod(mesh, LIST_SHELLS + LIST_CURLS).split()

    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:
        time.sleep(0.3)
    assert left() == []


def check(mesh: Mesh, **options: Any) -> dict[str, Any]:
    return mesh.look(**(SLOW | options))


def test_a_client_pod_that_is_deleted(broken: Mesh, meanwhile: Callable[..., None]) -> None:
    meanwhile(lambda: broken.kubectl("-n", broken.namespace, "delete", "pod", "test-pod", "--grace-period=0", "--force"))
    result = check(broken)
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]
    assert "check whether the pod" in result["msg"]
    assert result["requests"]["answered"] < result["requests"]["planned"]


@pytest.mark.full
def test_a_client_container_that_is_restarted(broken: Mesh, meanwhile: Callable[..., None]) -> None:
    meanwhile(lambda: in_pod(broken, "kill -TERM 1; kill -KILL 1; sleep 5", codes=(0, 1, 137, 143)))
    result = check(broken)
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]


def test_a_curl_that_is_killed_loses_answers_and_proves_nothing(mesh: Mesh, meanwhile: Callable[..., None]) -> None:
    """With a slow answer curl is there to be killed when we come."""
    meanwhile(lambda: in_pod(mesh, KILL_CURLS), PART)
    result = check(mesh, service=PART, path="/slow", rate=None, concurrency=1, requests=2)
    assert result["requests"]["answered"] < result["requests"]["sent"]
    assert result["verdict"] == "inconclusive", result["msg"]


def test_a_curl_that_is_killed_in_the_middle_of_a_line_names_no_pod(mesh: Mesh, meanwhile: Callable[..., None]) -> None:
    """curl writes its output out in blocks, so what it leaves behind ends anywhere; the shell that goes on says so at once."""
    start = time.monotonic()
    meanwhile(lambda: in_pod(mesh, KILL_WRITER), PART)
    result = check(mesh, service=PART, path="/slowish", rate=None, concurrency=1, sessions=150, requests=2)
    assert time.monotonic() - start < 60
    assert 0 < result["requests"]["identified"] < result["requests"]["planned"]
    assert (result["verdict"], result["error"]) == ("inconclusive", None), result["msg"]
    assert not [session for session in result["sessions"] if session["moved"]]


def test_a_probe_whose_shell_is_killed_has_ended_early(mesh: Mesh, meanwhile: Callable[..., None]) -> None:
    """Its output is cut short, and with it what would have said that it is complete."""
    meanwhile(lambda: in_pod(mesh, f"kill -9 $({LIST_SHELLS})"))
    result = check(mesh)
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]
    assert "ended early" in result["msg"]
    assert result["requests"]["answered"] < result["requests"]["planned"]
    no_more_curls(mesh)


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
    meanwhile(way.cut)
    result = check(mesh, kubeconfig=str(through))
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "exec_lost"), result["msg"]
    no_more_curls(mesh)


WAYS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def test_no_curl_of_ours_is_left_five_seconds_after_the_play_was_ended(mesh: Mesh, lab: Path, installed_collection: Path, tmp_path: Path) -> None:
    """Three plays at once, each ended in another way."""
    arguments = {
        "namespace": mesh.namespace,
        "service": "nginx-service",
        "key": KEY,
        "kubeconfig": str(lab),
        "sessions": 20,
        "requests": 40_000,
        "timeout": 600,
        "concurrency": 1,
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
    processes = [
        subprocess.Popen(
            [BIN / "ansible-playbook", tmp_path / "play.yml"],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _way in WAYS
    ]
    try:
        mesh.wait_until("the curls of all three run in the pod", lambda: len(curls(mesh)) == len(WAYS))
        for process, way in zip(processes, WAYS, strict=True):
            os.killpg(process.pid, way)
        for process in processes:
            process.wait(timeout=60)
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    no_more_curls(mesh)


@pytest.mark.parametrize("status", ["503", "429"])
def test_an_answer_that_envoy_gave_itself_does_not_show_where_a_session_landed(mesh: Mesh, status: str) -> None:
    result = check(mesh, **SHORT, service=PART, path=f"/{status}")
    # A session that nobody serves is no affinity; a limit says nothing of it.
    assert result["verdict"] == ("error" if status == "503" else "inconclusive"), result["msg"]
    assert set(result["requests"]["by_status"]) == {status}
    assert result["requests"]["identified"] == 0


def every_pod_denies(mesh: Mesh) -> bool:
    """On every connection too: one from before the policy keeps to what was until Envoy has drained it."""
    many = f"for n in $(seq 12); do curl -s -o /dev/null -w '%{{http_code}} ' http://{PART}/denied; done"
    draining = "stats?filter=^listener_manager.total_filter_chains_draining$"
    return set(in_pod(mesh, many).split()) == {"403"} and all(mesh.envoy(draining, pod["metadata"]["name"]).split()[-1] == "0" for pod in mesh.pods())


@pytest.mark.full
def test_a_refusal_by_policy_is_not_sticky(mesh: Mesh) -> None:
    mesh.wait_until("the policy is in force in every pod", lambda: every_pod_denies(mesh))
    result = check(mesh, **SHORT, service=PART, path="/denied")
    assert result["verdict"] == "inconclusive", result["msg"]
    assert result["requests"]["by_status"].keys() == {"403"}


def test_what_the_application_does_wrong_is_its_own(mesh: Mesh) -> None:
    """Its error page proves where a session landed. A connection that it drops is an error page of Envoy's, which does
    not. And a body that looks like the check's own notes is only a body."""
    refused = check(mesh, **SHORT, path="/fail")
    assert refused["requests"]["by_status"] == {"500": refused["requests"]["identified"]} == {"500": refused["requests"]["planned"]}, refused["msg"]
    assert not [session for session in refused["sessions"] if session["moved"]]
    dropped = check(mesh, **SHORT, path="/drop", identify="header")
    assert (dropped["error"]["code"], dropped["requests"]["identified"]) == ("not_served", 0), dropped["msg"]
    assert set(dropped["requests"]["by_status"]) <= {"502", "503"}
    for options in ({}, {"identify": "body", "identify_pattern": r"nothing-like-that"}):
        forged = check(mesh, **SHORT, path="/forge", **options)
        assert forged["requests"]["answered"] == forged["requests"]["planned"], forged["msg"]
        assert forged["requests"]["identified"] == (0 if options else forged["requests"]["planned"])
        assert not [session for session in forged["sessions"] if session["moved"]]


def test_a_service_without_endpoints_serves_nobody(mesh: Mesh) -> None:
    result = check(mesh, **SHORT, service="nobody")
    assert (result["verdict"], result["error"]["code"]) == ("error", "not_served"), result["msg"]
    assert result["requests"]["by_status"] == {"503": result["requests"]["planned"]}
    assert "ready endpoints: none" in result["msg"]


def test_a_rate_limit_takes_answers_and_is_not_sticky(mesh: Mesh) -> None:
    many = "for n in $(seq 30); do curl -s -o /dev/null -w '%{http_code} ' http://limited/; done"
    mesh.wait_until("the limit is in force in every pod", lambda: set(in_pod(mesh, many).split()) == {"429"})
    result = check(mesh, **SHORT, service="limited")
    assert result["verdict"] == "inconclusive", result["msg"]
    assert result["requests"]["by_status"]["429"] > result["requests"]["planned"] - 20
    assert not [session for session in result["sessions"] if session["moved"]]


@pytest.mark.full
def test_packets_that_are_dropped_are_answers_that_are_missing(mesh: Mesh, lab: Path) -> None:
    """In the node's own network: what the client sends to one backend, where at least one session lands, does not arrive."""
    client = json.loads(mesh.kubectl("-n", mesh.namespace, "get", "pod", "test-pod", "-o", "json").stdout)
    landing = in_pod(mesh, "curl -s -H user-session:meshops-check-1 http://nginx-service/").strip()
    backend = next(pod for pod in mesh.pods() if pod["metadata"]["name"] == landing)
    init = json.loads((lab.parent / "nodes" / client["spec"]["nodeName"] / "pid").read_text())["pid"]
    between = ("-s", client["status"]["podIP"], "-d", backend["status"]["podIP"], "-j", "DROP")

    def firewall(*words: str) -> None:
        run("nsenter", "-t", str(init), "--all", "--root", "--wd", "iptables", *words, *between).expect()

    many = "for n in $(seq 20); do curl -s -m 2 -o /dev/null -w '%{http_code} ' -H user-session:$n http://nginx-service/; done"
    firewall("-I", "FORWARD", "1")
    try:
        result = check(mesh, rate=None, requests=2, concurrency=80)
    finally:
        firewall("-D", "FORWARD")
        mesh.wait_until("all is well again", lambda: set(in_pod(mesh, f"{many}; true").split()) == {"200"})
    assert result["verdict"] == "inconclusive", result["msg"]
    assert 0 < result["requests"]["failed"] == result["requests"]["sent"] - result["requests"]["identified"]
    assert backend["metadata"]["name"] not in {pod for session in result["sessions"] for pod in session["pods"]}
    assert {len(session["pods"]) for session in result["sessions"]} == {0, 1}, "some have no answer at all, none has moved"


def test_a_timeout_is_an_answer_that_is_missing(mesh: Mesh) -> None:
    """That none of 60 is late has a chance of five in ten thousand million."""
    result = check(mesh, **SHORT | {"requests": 2}, service=PART, path="/late", concurrency=80)
    assert 1 <= result["requests"]["failed"] < result["requests"]["sent"], result["msg"]
    assert result["verdict"] == "inconclusive"


def test_the_deadline_ends_the_run(mesh: Mesh, lab: Path) -> None:
    start = time.monotonic()
    result = check(mesh, rate=1, timeout=5)
    assert time.monotonic() - start < 30
    assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "timeout"), result["msg"]
