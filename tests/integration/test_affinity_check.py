# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""istio_affinity_check on the live lab: exit code, verdict and message of each thing that can be so."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from affinity_support import CHECK, INFO, KEY, NAMESPACE, Mesh, audit_lines, curl_pod, hashing, parts_of
from inprocess import run_task

if TYPE_CHECKING:
    from conftest import Played

PART = "checked"


@pytest.fixture(scope="module", autouse=True)
def services(mesh: Mesh) -> Iterator[None]:
    """Services over the sample's pods that miss something each, so that no test alters the sample for that."""
    kept = {"labels": {PART: "yes"}}
    pod = mesh.pods()[0]["metadata"]["name"]
    mesh.kubectl("-n", mesh.namespace, "label", "pod", pod, f"{PART}=yes")
    mesh.apply(
        *parts_of("without-rule", **kept),
        *parts_of("without-routes", hashing(), **kept),
        *parts_of("other-header", hashing(httpHeaderName="user_session"), **kept),
        *parts_of("one-replica", hashing(), selector={"app": "nginx", PART: "yes"}, **kept),
    )
    mesh.wait_for("proxy.lb_policy == 'LEAST_REQUEST'", "without-rule")
    mesh.wait_for("proxy.in_sync", "without-routes")
    mesh.wait_for("proxy.hash_policy[0].name == 'user_session'", "other-header")
    mesh.wait_for("proxy.in_sync", "one-replica")
    yield
    mesh.kubectl("-n", mesh.namespace, "label", "pod", pod, f"{PART}-", codes=(0, 1))
    mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules.networking.istio.io", "-l", PART)


def task(mesh: Mesh, **options: Any) -> tuple[bool, dict[str, Any]]:
    """Whether the task of a check fails, and its result; that this fails a play is shown once."""
    return run_task(mesh.kubeconfig, **{"namespace": NAMESPACE, "key": KEY} | options)


def pods_of(result: dict[str, Any], session: str) -> dict[str, int]:
    return next(entry["pods"] for entry in result["sessions"] if entry["id"] == session)


@pytest.fixture(scope="module")
def played(mesh: Mesh) -> Played:
    """One play with what passes and what only looks."""
    here = {"namespace": NAMESPACE, "service": "nginx-service"}
    tasks = [
        {"name": "Check", CHECK: here | {"key": KEY}},
        {"name": "Check by the shortest task", CHECK: here | {"profile": "quick"}},
        {"name": "Look", INFO: here | {"key": KEY}},
    ]
    return mesh.ansible(tasks).expect()


@pytest.fixture(scope="module")
def played_in_vain(mesh: Mesh) -> Played:
    """One play with what fails."""
    tasks = [
        {"name": "Check what is not there", CHECK: {"namespace": NAMESPACE, "service": "no-such", "key": KEY}, "ignore_errors": True},
        {"name": "Stop at the first move", CHECK: {"namespace": NAMESPACE, "service": "without-rule", "key": KEY, "fail_fast": True}, "ignore_errors": True},
        {"name": "Check without a rule", CHECK: {"namespace": NAMESPACE, "service": "without-rule", "key": KEY}},
    ]
    return mesh.ansible(tasks)


def test_a_healthy_mesh_passes(mesh: Mesh, played: Played) -> None:
    result = played.named("Check").result
    assert (played.rc, result["verdict"], result["changed"]) == (0, "passed", False)
    assert result["identified_by"] == "header X-Pod-Name"
    assert result["requests"] == {"planned": 171, "sent": 171, "answered": 171, "identified": 171, "failed": 0, "by_status": {"200": 171}, "by_error": {}}
    assert len(result["sessions"]) == 39
    assert all(len(session["pods"]) == 1 and sum(session["pods"].values()) == 4 for session in result["sessions"])
    assert {backend["pod"] for backend in result["backends"]} == {pod["metadata"]["name"] for pod in mesh.pods()}
    assert all(backend["eligible"] and backend["sessions"] > 0 for backend in result["backends"])
    assert {name: control["state"] for name, control in result["controls"].items()} == {"spread": "passed", "keyless": "passed", "keepalive": "not_applicable"}
    assert result["bounds"]["flip_rate_95"] < 0.02
    assert result["clients"][0]["container"] != "istio-proxy"
    assert result["versions"]["kubernetes"].startswith("v1.")
    assert result["versions"]["curl"]
    assert "39 of 39 sessions stayed on one pod each" in result["msg"]
    assert f"Measured: 171 requests from {NAMESPACE}/test-pod" in result["measured"]


def test_the_shortest_task_takes_key_and_client_by_itself(played: Played) -> None:
    result = played.named("Check by the shortest task").result
    assert (played.rc, result["verdict"]) == (0, "passed")
    assert result["key"] == {"type": "header", "name": "user-session", "origin": "rule"}


def test_given_sessions_are_sent_as_they_are(mesh: Mesh) -> None:
    unusual = ["", "a b", 'a"b', "a\\b", "@/etc/passwd", "%{http_code}", "$(id)", "é", "x" * 2000]
    result = mesh.look(session_ids=unusual)
    assert result["verdict"] == "passed", result["msg"]
    assert [session["id"] for session in result["sessions"]][: len(unusual)] == unusual
    assert len(result["sessions"]) == 20


def test_the_same_session_lands_on_the_same_pod_in_another_run(mesh: Mesh) -> None:
    one, two = (mesh.look(session_ids=["sid-1", "sid-2", "sid-3"], profile="quick") for _run in range(2))
    assert [list(pods_of(one, name)) for name in ("sid-1", "sid-2", "sid-3")] == [list(pods_of(two, name)) for name in ("sid-1", "sid-2", "sid-3")]
    assert one["seed"] != two["seed"]


def test_without_the_rule_it_fails_and_names_a_session_and_its_pods(played_in_vain: Played) -> None:
    task = played_in_vain.named("Check without a rule")
    result = task.result
    assert (played_in_vain.rc, task.status, result["verdict"]) == (2, "failed", "failed")
    moved = [session for session in result["sessions"] if session["moved"]]
    assert len(moved) >= 30
    assert not any(session["explained"] for session in moved)
    named = next(session for session in moved if f"session {session['id']} landed on" in result["msg"])
    assert all(pod in result["msg"] for pod in named["pods"])
    assert "no DestinationRule in force" in result["msg"]
    first = result["findings"][0]
    assert first["severity"] == "error"
    assert f"{first['id']}: {first['title']}" in result["msg"]


def test_it_stops_as_soon_as_a_session_moved(played_in_vain: Played) -> None:
    result = played_in_vain.named("Stop at the first move").result
    assert (result["verdict"], result["error"], result["bounds"]["flip_rate_95"]) == ("failed", None, None), result["msg"]
    assert result["requests"]["planned"] == 171
    assert result["requests"]["sent"] <= 80
    assert " of 171 planned requests" in result["measured"]


def test_without_a_virtual_service_it_passes(mesh: Mesh) -> None:
    failed, result = task(mesh, service="without-routes")
    assert (failed, result["verdict"]) == (False, "passed")


def test_a_rule_on_another_header_fails(mesh: Mesh) -> None:
    failed, result = task(mesh, service="other-header")
    assert (failed, result["verdict"]) == (True, "failed")
    assert "hashes on header user_session, not on header user-session" in result["msg"]


def test_a_named_pod_without_sidecar_fails(mesh: Mesh) -> None:
    pod = curl_pod("plain")
    pod["metadata"]["labels"] = {"sidecar.istio.io/inject": "false"}
    mesh.apply(pod)
    mesh.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/plain", "--timeout=90s")
    failed, result = task(mesh, service="nginx-service", client={"pod": "plain"})
    mesh.kubectl("-n", NAMESPACE, "delete", "pod", "plain", "--wait=false")
    assert (failed, result["verdict"]) == (True, "failed")
    assert f"Pod {NAMESPACE}/plain has no sidecar" in result["msg"]
    assert result["clients"][0]["sidecar"] is False


def test_one_replica_is_inconclusive(mesh: Mesh) -> None:
    failed, result = task(mesh, service="one-replica")
    assert (failed, result["verdict"]) == (True, "inconclusive")
    assert "fewer than two" in result["msg"]
    failed, _result = task(mesh, service="one-replica", fail_on=["failed"])
    assert not failed


def test_what_is_not_there_fails_the_play_as_an_error(played_in_vain: Played) -> None:
    task = played_in_vain.named("Check what is not there")
    assert (task.status, task.result["verdict"], task.result["error"]["code"]) == ("ignored", "error", "no_service")
    assert f"There is no Service {NAMESPACE}/no-such" in task.result["msg"]
    assert "Traceback" not in played_in_vain.ran.output


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"namespace": "no-such"}, "no_service", "There is no Service no-such/nginx-service"),
        ({"client": {"pod": "no-such"}}, "no_client", f"There is no Pod {NAMESPACE}/no-such"),
        ({"client": {"selector": "a=b"}}, "no_client", "has the label a=b"),
        ({"client": {"pod": "test-pod", "container": "istio-proxy"}}, "no_container", "bypass the mesh"),
        ({"client": {"pod": "test-pod", "container": "no-such"}}, "no_container", "has no container no-such"),
        ({"port": 81}, "no_port", "has no port 81; it has 80 (http)"),
        ({"session_ids": ["a\nb"]}, "bad_option", "Option session_ids"),
        ({"sessions": 0}, "bad_option", "Option sessions is 0"),
        ({"requests": 1}, "bad_option", "Option requests is 1"),
        ({"path": "nginx"}, "bad_option", "Option path"),
        ({"key": {"type": "cookie"}}, "bad_option", "Option key.name is missing"),
        ({"kubeconfig": "/no/such/file"}, "api_unreachable", "check the options kubeconfig and context"),
        ({"host": "https://127.0.0.1:1"}, "api_unreachable", "The API server did not respond"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_what_keeps_it_from_running_is_an_error_with_words(mesh: Mesh, options: dict[str, Any], code: str, words: str) -> None:
    before = mesh.requests_seen()
    result = mesh.look(**options)
    assert (result["verdict"], result["error"]["code"]) == ("error", code)
    assert words in result["msg"]
    assert mesh.requests_seen() == before


@pytest.mark.parametrize(
    ("rules", "code", "words"),
    [
        ([], "forbidden", f"No permission to get services in namespace {NAMESPACE}"),
        ([("", ["pods", "services"], ["get", "list"])], "forbidden", "list endpointslices.discovery.k8s.io"),
        (
            [("", ["pods", "services"], ["get", "list"]), ("discovery.k8s.io", ["endpointslices"], ["list"])],
            "exec_forbidden",
            "grant get and create on pods/exec",
        ),
    ],
    ids=["nothing", "no endpointslices", "no exec"],
)
def test_a_missing_permission_is_named(mesh: Mesh, lab: Path, tmp_path: Path, rules: list[tuple[str, list[str], list[str]]], code: str, words: str) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "poor"}}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "poor"},
        "rules": [{"apiGroups": [group], "resources": resources, "verbs": verbs} for group, resources, verbs in rules],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "poor"},
        "subjects": [{"kind": "ServiceAccount", "name": "poor", "namespace": NAMESPACE}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "poor"},
    }
    mesh.apply(account, role, binding)
    token = mesh.kubectl("-n", NAMESPACE, "create", "token", "poor").stdout.strip()
    config = yaml.safe_load(lab.read_text())
    config["users"][0]["user"] = {"token": token}
    poor = tmp_path / "kubeconfig"
    poor.write_text(yaml.safe_dump(config))
    result = mesh.look(kubeconfig=str(poor))
    assert (result["verdict"], result["error"]["code"]) == ("error", code), result["msg"]
    assert words in result["msg"]


def test_a_rollout_during_the_check_is_neither_passed_nor_failed(broken: Mesh) -> None:
    """The rollout begins with the first requests; the check is slowed down by its rate so that it outlasts it."""
    before = {pod["metadata"]["uid"] for pod in broken.pods()}
    sent = broken.requests_seen()
    ended: list[float] = []

    def rollout() -> None:
        broken.wait_until("the first requests", lambda: broken.requests_seen() > sent)
        broken.kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/nginx-deployment")
        broken.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/nginx-deployment", "--timeout=60s")
        ended.append(time.monotonic())

    thread = threading.Thread(target=rollout)
    thread.start()
    failed, result = task(broken, service="nginx-service", rate=25, requests=20)
    checked = time.monotonic()
    thread.join()
    assert ended, "the rollout did not end"
    assert checked > ended[0], "the check must outlast the rollout"
    assert not before & {pod["metadata"]["uid"] for pod in broken.pods() if not pod["metadata"].get("deletionTimestamp")}
    assert (failed, result["verdict"]) == (True, "inconclusive"), result["msg"]
    assert result["membership"]["changed"]
    assert any("came" in event for event in result["membership"]["events"])
    assert all(session["explained"] for session in result["sessions"] if session["moved"])


def test_check_mode_sends_nothing(mesh: Mesh) -> None:
    before = mesh.requests_seen()
    options = {"namespace": NAMESPACE, "service": "nginx-service", "key": KEY}
    played = mesh.ansible([{"name": "Here", CHECK: options}, {"name": "Not yet", CHECK: options | {"namespace": "not-yet"}}], check=True).expect()
    here, not_yet = (played.named(name).result for name in ("Here", "Not yet"))
    assert here["verdict"] is None
    assert here["requests"]["planned"] == 171
    assert "171 requests would go to" in here["msg"]
    assert mesh.requests_seen() == before
    # Before anything exists.
    assert not_yet["verdict"] is None
    assert "nothing to check yet" in not_yet["msg"]


def test_nothing_of_the_users_reaches_the_arguments_in_the_pod(mesh: Mesh, lab: Path) -> None:
    """The API server's audit log keeps an exec's arguments; a session ID may be somebody's token."""
    token, secret = (f"{kind}{uuid.uuid4().hex}" for kind in ("token", "secret"))
    mesh.look(session_ids=[token], headers={"X-Secret": secret}, client={"pod": "test-pod"}, profile="quick")
    lines = audit_lines(lab)
    assert any(f"namespaces/{NAMESPACE}/pods/test-pod/exec" in line for line in lines), "the lab keeps an audit log, and an exec is in it"
    assert not [line for line in lines if token in line or secret in line]


def test_info_shows_both_halves_and_the_hosts(played: Played) -> None:
    (service,) = played.of(INFO).result["services"]
    assert (service["algorithm"], service["rule"]) == ("RING_HASH", f"{NAMESPACE}/nginx-destinationrule")
    (proxy,) = service["proxies"]
    assert proxy["hash_policy"] == [{"type": "header", "name": "user-session"}]
    assert {host["address"] for host in proxy["hosts"]} == {backend["address"] for backend in service["backends"] if backend["ready"]}
    assert (proxy["in_sync"], proxy["missing"]) == (True, None)
