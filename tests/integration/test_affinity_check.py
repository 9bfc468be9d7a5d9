# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""istio_affinity_check on the live lab: exit code, verdict and message of each thing that can be so."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from affinity_support import CHECK, INFO, KEY, NAMESPACE, Mesh, curl_pod

RULE = ("destinationrule", "nginx-destinationrule")


def pods_of(result: dict[str, Any], session: str) -> dict[str, int]:
    return next(entry["pods"] for entry in result["sessions"] if entry["id"] == session)


def test_a_healthy_mesh_passes(mesh: Mesh) -> None:
    played, result = mesh.check()
    assert (played.rc, result["verdict"], result["changed"]) == (0, "passed", False)
    assert result["identified_by"] == "header X-Pod-Name"
    assert result["requests"] == {"planned": 740, "sent": 740, "answered": 740, "identified": 740, "failed": 0, "by_status": {"200": 740}}
    assert len(result["sessions"]) == 36
    assert all(len(session["pods"]) == 1 and sum(session["pods"].values()) == 20 for session in result["sessions"])
    assert {backend["pod"] for backend in result["backends"]} == {pod["metadata"]["name"] for pod in mesh.pods()}
    assert all(backend["eligible"] and backend["sessions"] > 0 for backend in result["backends"])
    assert {name: control["state"] for name, control in result["controls"].items()} == {"spread": "passed", "keyless": "passed", "keepalive": "not_applicable"}
    assert result["bounds"]["flip_rate_95"] < 0.02
    assert result["clients"][0]["container"] != "istio-proxy"
    assert result["versions"]["kubernetes"].startswith("v1.")
    assert result["versions"]["curl"]
    assert "36 of 36 sessions stayed on one pod each" in result["msg"]
    assert f"{NAMESPACE}/test-pod" in result["msg"]


def test_the_shortest_task_takes_key_and_client_by_itself(mesh: Mesh) -> None:
    played, result = mesh.check(key=None, profile="quick")
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


def test_without_the_rule_it_fails_and_names_a_session_and_its_pods(broken: Mesh) -> None:
    broken.delete(*RULE)
    broken.wait_for("proxy.lb_policy == 'LEAST_REQUEST'")
    played, result = broken.check()
    assert (played.rc, result["verdict"]) == (2, "failed")
    moved = [session for session in result["sessions"] if session["moved"]]
    assert len(moved) >= 30
    assert not any(session["explained"] for session in moved)
    named = next(session for session in moved if f"session {session['id']} landed on" in result["msg"])
    assert all(pod in result["msg"] for pod in named["pods"])
    assert "no DestinationRule in force" in result["msg"]
    first = result["findings"][0]
    assert first["severity"] == "error"
    assert f"{first['id']}: {first['title']}" in result["msg"]


def test_without_the_virtual_service_it_passes(broken: Mesh) -> None:
    broken.delete("virtualservice", "nginx-virtualservice")
    broken.wait_for("proxy.in_sync")
    played, result = broken.check()
    assert (played.rc, result["verdict"]) == (0, "passed")


def test_a_rule_on_another_header_fails(broken: Mesh) -> None:
    broken.patch(*RULE, {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "user_session"}}}}})
    broken.wait_for("proxy.hash_policy[0].name == 'user_session'")
    played, result = broken.check()
    assert (played.rc, result["verdict"]) == (2, "failed")
    assert "hashes on header user_session, not on header user-session" in result["msg"]


def test_a_named_pod_without_sidecar_fails(mesh: Mesh, namespace: Any) -> None:
    outside = namespace(injection=False)
    mesh.kubectl("-n", outside, "apply", "-f", "-", stdin=yaml.safe_dump(curl_pod("plain")))
    mesh.kubectl("-n", outside, "wait", "--for=condition=Ready", "pod/plain", "--timeout=90s")
    played, result = mesh.check(client={"namespace": outside, "pod": "plain"})
    assert (played.rc, result["verdict"]) == (2, "failed")
    assert f"Pod {outside}/plain has no sidecar" in result["msg"]
    assert result["clients"][0]["sidecar"] is False


def test_one_replica_is_inconclusive(broken: Mesh) -> None:
    broken.scale(1)
    played, result = broken.check()
    assert (played.rc, result["verdict"]) == (2, "inconclusive")
    assert "fewer than two" in result["msg"]
    allowed, _result = broken.check(fail_on=["failed"])
    assert allowed.rc == 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"service": "no-such"}, "no_service", f"There is no Service {NAMESPACE}/no-such"),
        ({"client": {"pod": "no-such"}}, "no_client", f"There is no Pod {NAMESPACE}/no-such"),
    ],
    ids=["service", "pod"],
)
def test_what_is_not_there_fails_the_play_as_an_error(mesh: Mesh, options: dict[str, Any], code: str, words: str) -> None:
    played, result = mesh.check(**options)
    assert (played.rc, result["verdict"], result["error"]["code"]) == (2, "error", code)
    assert words in result["msg"]
    assert "Traceback" not in played.ran.output


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"namespace": "no-such"}, "no_service", "There is no Service no-such/nginx-service"),
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


def test_a_pod_without_curl_is_an_error(mesh: Mesh, namespace: Any) -> None:
    where = namespace()
    pod = curl_pod("no-curl", image="docker.io/library/debian:bookworm-slim")
    mesh.kubectl("-n", where, "apply", "-f", "-", stdin=yaml.safe_dump(pod))
    mesh.kubectl("-n", where, "wait", "--for=condition=Ready", "pod/no-curl", "--timeout=90s")
    result = mesh.look(client={"namespace": where, "pod": "no-curl"})
    assert result["error"]["code"] == "no_curl"
    assert f"There is no curl in container curl of pod {where}/no-curl" in result["msg"]


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
    """The check is slowed down by its rate so that it outlasts the rollout, and the rollout begins after it has."""
    start = {
        "name": "Restart while the check runs",
        "ansible.builtin.shell": (
            "sleep 4; kubectl=$ISTIO_LAB_CACHE/lab/bin/kubectl; export KUBECONFIG=$ISTIO_LAB_CACHE/lab/kubeconfig; "
            f"$kubectl -n {NAMESPACE} rollout restart deployment/nginx-deployment && "
            f"$kubectl -n {NAMESPACE} rollout status deployment/nginx-deployment --timeout=60s && date +%s.%N"
        ),
        "async": 120,
        "poll": 0,
        "register": "rollout",
    }
    before = {pod["metadata"]["uid"] for pod in broken.pods()}
    tasks = [
        start,
        {"name": "Check", CHECK: {"namespace": NAMESPACE, "service": "nginx-service", "key": KEY, "rate": 20}, "register": "check", "ignore_errors": True},
        {"name": "When the check ended", "ansible.builtin.command": "date +%s.%N", "register": "ended"},
        {
            "name": "When the rollout ended",
            "ansible.builtin.async_status": {"jid": "{{ rollout.ansible_job_id }}"},
            "register": "job",
            "until": "job.finished",
            "retries": 60,
            "delay": 1,
        },
    ]
    played = broken.ansible(tasks).expect()
    result = played.of(CHECK).result
    rollout_ended = float(played.named("When the rollout ended").result["stdout_lines"][-1])
    assert float(played.named("When the check ended").result["stdout"]) > rollout_ended, "the check must outlast the rollout"
    assert not before & {pod["metadata"]["uid"] for pod in broken.pods() if not pod["metadata"].get("deletionTimestamp")}
    assert result["verdict"] == "inconclusive", result["msg"]
    assert result["membership"]["changed"]
    assert any("came" in event for event in result["membership"]["events"])
    assert all(session["explained"] for session in result["sessions"] if session["moved"])


def test_check_mode_sends_nothing(mesh: Mesh) -> None:
    before = mesh.requests_seen()
    played, result = mesh.check(check=True)
    assert (played.rc, result["verdict"]) == (0, None)
    assert result["requests"]["planned"] == 740
    assert "740 requests would go to" in result["msg"]
    assert mesh.requests_seen() == before


def test_check_mode_before_anything_exists(mesh: Mesh) -> None:
    played, result = mesh.check(check=True, namespace="not-yet")
    assert (played.rc, result["verdict"]) == (0, None)
    assert "nothing to check yet" in result["msg"]


def test_nothing_of_the_users_reaches_the_arguments_in_the_pod(mesh: Mesh, lab: Path) -> None:
    """The API server's audit log keeps an exec's arguments; a session ID may be somebody's token."""
    token, secret = (f"{kind}{uuid.uuid4().hex}" for kind in ("token", "secret"))
    mesh.check(session_ids=[token], headers={"X-Secret": secret})
    lines = [line for log in (lab.parent / "nodes").rglob("audit*.log") for line in log.read_text().splitlines()]
    assert any("pods/test-pod/exec" in line for line in lines), "the lab keeps an audit log, and an exec is in it"
    assert not [line for line in lines if token in line or secret in line]


def test_info_shows_both_halves_and_the_hosts(mesh: Mesh) -> None:
    played = mesh.ansible([{"name": "Info", INFO: {"namespace": NAMESPACE, "service": "nginx-service", "key": KEY}}]).expect()
    (service,) = played.of(INFO).result["services"]
    assert (service["algorithm"], service["rule"]) == ("RING_HASH", f"{NAMESPACE}/nginx-destinationrule")
    (proxy,) = service["proxies"]
    assert proxy["hash_policy"] == [{"type": "header", "name": "user-session"}]
    assert {host["address"] for host in proxy["hosts"]} == {backend["address"] for backend in service["backends"] if backend["ready"]}
    assert (proxy["in_sync"], proxy["missing"]) == (True, None)
