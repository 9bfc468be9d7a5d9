# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where sessions were said to land is where they land, and what a maintenance was said to move is what moves.

Each table size and each kind of key is a service of its own over the same pods, so that scaling them once serves all.
With ISTIO_PREDICTION_SESSIONS=10000 (`make test-full`) twenty times as many sessions are compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from affinity_support import KEY, Mesh, probe_pod
from inprocess import run_info

SESSIONS = int(os.environ.get("ISTIO_PREDICTION_SESSIONS", "500"))
HEADER = {"httpHeaderName": "user-session"}
# Service: what its rule hashes on and how, and the key to send. The default ring is that of nginx-service itself.
SERVICES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "ring-64": (HEADER | {"ringHash": {"minimumRingSize": 64}}, KEY),
    "ring-8192": (HEADER | {"ringHash": {"minimumRingSize": 8192}}, KEY),
    "maglev": (HEADER | {"maglev": {"tableSize": 65537}}, KEY),
    "by-cookie": ({"httpCookie": {"name": "user", "ttl": "60s"}}, {"type": "cookie", "name": "user"}),
    "by-query": ({"httpQueryParameterName": "user"}, {"type": "query", "name": "user"}),
    "by-source": ({"useSourceIp": True}, {"type": "source_ip"}),
}
SIZES = ("ring-64", "nginx-service", "ring-8192", "maglev")
PART = "prediction"


@pytest.fixture(scope="module")
def services(mesh: Mesh) -> Iterator[Mesh]:
    """The services, and a second client on another node if there is one; afterwards three pods as before."""
    nodes = [node["metadata"]["name"] for node in json.loads(mesh.kubectl("get", "nodes", "-o", "json").stdout)["items"]]
    here = json.loads(mesh.kubectl("-n", mesh.namespace, "get", "pod", "test-pod", "-o", "json").stdout)["spec"]["nodeName"]
    objects = []
    for name, (consistent, _key) in SERVICES.items():
        meta = {"name": name, "labels": {PART: name}}
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        objects.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": "nginx"}, "ports": ports}})
        rule = {"host": name, "trafficPolicy": {"loadBalancer": {"consistentHash": consistent}}}
        objects.append({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": rule})
    mesh.apply(probe_pod("far-client", next((node for node in nodes if node != here), here)), *objects)
    mesh.kubectl("-n", mesh.namespace, "wait", "--for=condition=Ready", "pod/far-client", "--timeout=90s")
    yield mesh
    mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules.networking.istio.io", "-l", PART)
    mesh.kubectl("-n", mesh.namespace, "delete", "pod", "far-client", "--wait=true")
    mesh.converge()


def info(mesh: Mesh, service: str, **options: Any) -> dict[str, Any]:
    key = SERVICES[service][1] if service in SERVICES else KEY
    (entry,) = run_info(mesh.kubeconfig, namespace=mesh.namespace, service=service, key=key, client={"max": 2}, **options)
    return entry


def settled(mesh: Mesh, pods: int) -> None:
    """Until so many pods are ready and the Envoys of both clients have exactly these, for every service."""

    def seen() -> bool:
        entries = run_info(mesh.kubeconfig, namespace=mesh.namespace, client={"max": 2})
        known = [proxy["in_sync"] and len(proxy["hosts"]) == pods for entry in entries for proxy in entry["proxies"]]
        return len(known) == 2 * (len(SERVICES) + 1) and all(known)

    mesh.wait_until(f"{pods} pods in both clients' Envoys", seen)


def scale(mesh: Mesh, pods: int) -> None:
    mesh.kubectl("-n", mesh.namespace, "scale", "deployment/nginx-deployment", f"--replicas={pods}")
    mesh.kubectl("-n", mesh.namespace, "rollout", "status", "deployment/nginx-deployment", "--timeout=120s")
    mesh.wait_until(f"{pods} pods", lambda: len(mesh.pods()) == pods)
    settled(mesh, pods)


def landed(mesh: Mesh, service: str, count: int = SESSIONS) -> dict[str, str]:
    """The pod of each session by live requests from both clients, after making sure that the check predicted each of them."""
    key = SERVICES[service][1] if service in SERVICES else KEY
    result = mesh.look(service=service, key=key, client={"max": 2}, sessions=count, requests=2, concurrency=20, max_sessions_returned=count)
    assert result["verdict"] == "passed", result["msg"]
    prediction = result["prediction"]
    assert (prediction["available"], prediction["matched"], prediction["total"]) == (True, count, count), prediction
    assert all(set(session["by_client"]) == {f"{mesh.namespace}/far-client", f"{mesh.namespace}/test-pod"} for session in result["sessions"])
    return {session["id"]: next(iter(session["pods"])) for session in result["sessions"]}


def test_each_session_lands_where_the_info_module_says_for_every_size_and_number_of_pods(services: Mesh) -> None:
    """Up and down again, so that what is predicted after scaling is compared too."""
    for pods in (2, 3, 5, 10, 5):
        scale(services, pods)
        for service in SIZES:
            met = landed(services, service)
            said = info(services, service, session_ids=list(met))
            assert {session["id"]: session["predicted"] for session in said["sessions"]} == met, f"{service} with {pods} pods"
            assert len(set(met.values())) == pods


@pytest.mark.parametrize("service", ["by-cookie", "by-query", "by-source"])
def test_each_session_lands_where_it_must_by_every_kind_of_key(services: Mesh, service: str) -> None:
    met = landed(services, service)
    said = info(services, service, session_ids=list(met))
    assert {session["id"]: session["predicted"] for session in said["sessions"]} == met


@pytest.mark.parametrize("service", ["nginx-service", "maglev"])
def test_what_a_scale_down_moves_is_known_by_name(services: Mesh, service: str) -> None:
    """The victims are fixed by their deletion cost, so that nothing takes their place."""
    scale(services, 5)
    before = landed(services, service)
    victims = sorted(set(before.values()))[:2]
    told = info(services, service, session_ids=list(before), what_if={"remove_pods": victims, "replicas": 3})["what_if"]
    services.kubectl("-n", services.namespace, "annotate", "pod", *victims, "controller.kubernetes.io/pod-deletion-cost=-100")
    scale(services, 3)
    assert not {pod["metadata"]["name"] for pod in services.pods()} & set(victims)
    after = landed(services, service)
    moved = [session for session, pod in before.items() if after[session] != pod]
    assert told["must_move"] == [session for session, pod in before.items() if pod in victims]
    assert told["if_not_replaced"] == moved
    assert told["expected_share"] == {"low": round(len(moved) / len(before), 4), "high": round(len(moved) / len(before), 4)}
    assert told["pods"] == {"now": 5, "removed": 2, "then": 3}


def test_what_a_drain_moves_is_within_what_was_said(services: Mesh) -> None:
    """Pods that go are replaced, on another node if there is one. One range in a hundred may miss by chance, so of three
    times two must hold: that fails a sound module once in three thousand runs."""
    scale(services, 3)
    within = 0
    for _time in range(3):
        before = landed(services, "nginx-service")
        pods = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in services.pods()}
        node = pods[min(pods)]
        gone = {name for name, where in pods.items() if where == node}
        told = info(services, "nginx-service", session_ids=list(before), what_if={"drain_node": node})["what_if"]
        drain(services, node, gone)
        after = landed(services, "nginx-service")
        moved = {session for session, pod in before.items() if after[session] != pod}
        assert set(told["must_move"]) == {session for session, pod in before.items() if pod in gone}
        assert set(told["must_move"]) <= moved
        assert len(told["must_move"]) < len(before) or len(gone) == 3
        within += told["expected_share"]["low"] <= round(len(moved) / len(before), 4) <= told["expected_share"]["high"]
    assert within >= 2


def drain(mesh: Mesh, node: str, pods: set[str]) -> None:
    """Evict the pods as kubectl drain does, and nobody else's; where it is the only node, they must be able to come back."""
    nodes = json.loads(mesh.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    if len(nodes) > 1:
        mesh.kubectl("-n", mesh.namespace, "label", "pod", *sorted(pods), "prediction-drain=true")
        try:
            mesh.kubectl("drain", node, "--pod-selector=prediction-drain=true", "--delete-emptydir-data", "--timeout=60s")
            settled(mesh, 3)
        finally:
            mesh.kubectl("uncordon", node)
    else:
        mesh.kubectl("-n", mesh.namespace, "delete", "pod", *sorted(pods))
        settled(mesh, 3)
    mesh.wait_until("three pods", lambda: len(mesh.pods()) == 3)


def test_what_if_compares_ring_hash_with_maglev(services: Mesh) -> None:
    """For three pods and one more, ring hash moves a third, Maglev a quarter, whichever of them is in force."""
    scale(services, 3)
    told = {name: info(services, name, what_if={"replicas": 4})["what_if"] for name in ("nginx-service", "maglev")}
    for answer in told.values():
        assert answer["must_move"] == answer["if_not_replaced"] == []
        assert answer["maglev_share"] == pytest.approx(0.25, abs=0.05)
        assert answer["ring_hash_share"] == pytest.approx(0.34, abs=0.06)
    assert told["maglev"]["expected_share"]["low"] <= told["maglev"]["maglev_share"] <= told["maglev"]["expected_share"]["high"]
    assert told["nginx-service"]["expected_share"]["low"] <= told["nginx-service"]["ring_hash_share"] <= told["nginx-service"]["expected_share"]["high"]
