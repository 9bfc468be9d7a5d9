# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through an ingress gateway, as a client outside the mesh does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from affinity_support import HASHED_SERVICES, QUICK, Mesh, audit_lines, curl_pod, hashing, parts_of, probe_pod

from harness import WORKER

HOST = "shop.example.com"
# As in test_affinity_prediction.py: twenty times as many with ISTIO_PREDICTION_SESSIONS=10000.
FEW = 500
SESSIONS = int(os.environ.get("ISTIO_PREDICTION_SESSIONS", str(FEW)))
# Namespaces of the gateway, and of clients outside the mesh.
INGRESS, OUTSIDE = (f"{name}{WORKER and '-'}{WORKER}" for name in ("ingress", "outside"))
GATEWAY = "istio-ingressgateway"
PART = "through-gateway"


# Two pods, without what a test has no use for.
VALUES: dict[str, Any] = {
    "service": {"type": "ClusterIP"},
    "autoscaling": {"enabled": False},
    "replicaCount": 2,
    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    "podAnnotations": QUICK["metadata"]["annotations"],
    "terminationGracePeriodSeconds": 5,
}


def bound(name: str, rule: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A service over the sample's pods with a rule and a host of its own at the gateway."""
    objects = parts_of(name, rule, [{"route": [{"destination": {"host": name}}]}], labels={PART: name})
    objects[-1]["spec"] |= {"hosts": [f"{name}.example.com"], "gateways": [PART]}
    return objects


@pytest.fixture(scope="module")
def gateway(mesh: Mesh) -> Iterator[dict[str, Any]]:
    """The role's gateway with two pods, the sample and more services over its pods bound to it, and three clients; the option via."""
    mesh.kubectl("delete", "namespace", INGRESS, OUTSIDE, "--ignore-not-found", "--wait", "--timeout=120s")
    mesh.kubectl("create", "namespace", OUTSIDE)
    role = {"ansible.builtin.include_role": {"name": "meshops.istio.istio_control_plane"}}
    wanted = {"istio_control_plane_gateway": True, "istio_control_plane_gateway_namespace": INGRESS, "istio_control_plane_gateway_values": VALUES}
    mesh.ansible([role], extra_vars=wanted).expect()
    nodes = [node["metadata"]["name"] for node in json.loads(mesh.kubectl("get", "nodes", "-o", "json").stdout)["items"]]
    clients = [curl_pod("outsider"), *(probe_pod(f"outsider-{number}", nodes[number % len(nodes)]) for number in range(2))]
    for pod in clients:
        pod["metadata"]["namespace"] = OUTSIDE
    mesh.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": clients}))
    hosts = [HOST, *(f"via-{name}.example.com" for name in (*HASHED_SERVICES, "ruleless"))]
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": hosts}]
    shop = parts_of("shop", None, [{"route": [{"destination": {"host": "nginx-service"}}]}], labels={PART: "shop"})[-1]
    shop["spec"] |= {"hosts": [HOST], "gateways": [PART]}
    mesh.apply(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": PART, "labels": {PART: "all"}},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": servers},
        },
        *(part for name, (consistent, _key) in HASHED_SERVICES.items() for part in bound(f"via-{name}", hashing(**consistent))),
        *bound("via-ruleless", None),
        shop,
    )
    mesh.kubectl("-n", OUTSIDE, "wait", "--for=condition=Ready", *(f"pod/{pod['metadata']['name']}" for pod in clients), "--timeout=90s")
    # Istio pushes its whole configuration: a gateway that has one of these has all.
    many = f"for n in $(seq 20); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'Host: {HOST}' http://{GATEWAY}.{INGRESS}/; done"
    routed = ("-n", OUTSIDE, "exec", "outsider", "--", "sh", "-c", many)
    mesh.wait_until("the pods of the gateway lead to the sample", lambda: set(mesh.kubectl(*routed).stdout.split()) == {"200"})
    yield {"namespace": INGRESS, "service": GATEWAY, "host": HOST}
    kinds = ",".join(f"{kind}.networking.istio.io" for kind in ("gateways", "virtualservices", "destinationrules"))
    mesh.kubectl("-n", mesh.namespace, "delete", f"services,{kinds}", "-l", PART)
    mesh.kubectl("delete", "namespace", INGRESS, OUTSIDE, "--wait=false")


OUTSIDER = {"namespace": OUTSIDE, "pod": "outsider"}
# On two nodes if there are.
OUTSIDERS = {"namespace": OUTSIDE, "max": 2}


def test_sessions_stick_through_every_pod_of_the_gateway(mesh: Mesh, gateway: dict[str, Any]) -> None:
    result = mesh.look(via=gateway, client=OUTSIDER)
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["available"], result["prediction"]["matched"]) == (True, 39), result["prediction"]
    assert result["clients"][0]["sidecar"] is False


def test_many_sessions_land_where_they_must_through_the_gateway(mesh: Mesh, gateway: dict[str, Any]) -> None:
    result = mesh.look(via=gateway, client=OUTSIDER, sessions=SESSIONS, requests=2, concurrency=20, max_sessions_returned=SESSIONS)
    assert result["verdict"] == "passed", result["msg"]
    prediction = result["prediction"]
    assert (prediction["available"], prediction["matched"], prediction["total"]) == (True, SESSIONS, SESSIONS), prediction
    assert all(session["pods"] == {session["predicted"]: 2} for session in result["sessions"])


def landed_through(mesh: Mesh, gateway: dict[str, Any], name: str) -> None:
    """Every session of both clients on the pod that was computed for it."""
    via = gateway | {"host": f"via-{name}.example.com"}
    options: dict[str, Any] = {"service": f"via-{name}", "key": HASHED_SERVICES[name][1], "via": via, "client": OUTSIDERS}
    result = mesh.look(**options, sessions=SESSIONS, requests=2, concurrency=20, max_sessions_returned=SESSIONS)
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["matched"], result["prediction"]["total"]) == (SESSIONS, SESSIONS), result["prediction"]
    assert all(session["pods"] == {session["predicted"]: 4} for session in result["sessions"])
    assert {(entry["sidecar"], entry["namespace"]) for entry in result["clients"]} == {(False, OUTSIDE)}


@pytest.mark.parametrize(
    "name",
    ["by-cookie", *(pytest.param(name, marks=pytest.mark.full) for name in ("ring-64", "ring-8192", "maglev", "by-query"))],
)
def test_sessions_of_two_clients_land_where_they_must_by_every_size_and_key(mesh: Mesh, gateway: dict[str, Any], name: str) -> None:
    landed_through(mesh, gateway, name)


def test_two_clients_whose_addresses_are_not_believed_have_not_moved(mesh: Mesh, gateway: dict[str, Any]) -> None:
    """Each is one source, whatever it says, and the two may land on two pods."""
    options: dict[str, Any] = {"service": "via-by-source", "key": {"type": "source_ip"}, "via": gateway | {"host": "via-by-source.example.com"}}
    result = mesh.look(**options, client=OUTSIDERS, requests=3, max_flip_rate=0.1)
    assert result["verdict"] == "not_proven", result["msg"]
    assert "numTrustedProxies" in result["msg"]


def test_a_gateway_does_not_believe_what_a_client_says_of_its_address(mesh: Mesh, gateway: dict[str, Any]) -> None:
    """One client is one source then, so nothing shows whether sources stick, and the message says why."""
    via = gateway | {"host": "via-by-source.example.com"}
    result = mesh.look(service="via-by-source", via=via, client=OUTSIDER, key={"type": "source_ip"}, requests=3, max_flip_rate=0.1)
    assert result["verdict"] == "not_proven", result["msg"]
    assert "the source addresses were sent as X-Forwarded-For, and gateway" in result["msg"]
    assert "numTrustedProxies" in result["msg"]


def test_the_gateway_agrees_with_the_service_and_every_ready_pod_of_it_is_read(mesh: Mesh, lab: Path, gateway: dict[str, Any]) -> None:
    """The Envoys of its pods may differ, so the API server's log must know an exec into each for every look."""
    pods = mesh.kubectl("-n", INGRESS, "get", "pods", "-l", "istio=ingressgateway", "-o", "name").stdout.split()
    assert len(pods) == 2

    def reads() -> list[int]:
        lines = audit_lines(lab)
        return [sum(f"{pod.replace('pod/', 'pods/')}/exec" in line for line in lines) for pod in pods]

    before = reads()
    outside = mesh.look(via=gateway, client=OUTSIDER, profile="quick")
    assert outside["verdict"] == "passed", outside["msg"]
    assert all(after - earlier >= 2 * 4 for earlier, after in zip(before, reads(), strict=True)), "four pages, before and after"
    inside = mesh.look(profile="quick")
    landed = [{session["id"]: list(session["pods"]) for session in result["sessions"]} for result in (inside, outside)]
    assert landed[0] == landed[1]


def test_without_the_rule_it_fails_through_the_gateway_too(mesh: Mesh, gateway: dict[str, Any]) -> None:
    result = mesh.look(service="via-ruleless", via=gateway | {"host": "via-ruleless.example.com"}, client=OUTSIDER, profile="quick")
    assert result["verdict"] == "failed"
    # The outsider has no sidecar and needs none.
    assert f"Gateway {GATEWAY}.{INGRESS} balances by LEAST_REQUEST" in result["msg"]
    assert "sidecar" not in result["msg"]


def test_a_host_that_the_gateway_does_not_know_is_no_proof(mesh: Mesh, gateway: dict[str, Any]) -> None:
    """The 404 is the gateway's own."""
    result = mesh.look(via=gateway | {"host": "other.example.com"}, client=OUTSIDER, profile="quick")
    assert result["verdict"] == "inconclusive", result["msg"]
    assert result["requests"]["by_status"].keys() == {"404"}
    assert "nothing in them names a pod" in result["msg"]


@pytest.mark.parametrize(
    ("change", "code"),
    [({"service": "no-such"}, "no_gateway"), ({"port": 81}, "no_gateway"), ({"address": "10.0.0.1"}, "bad_option")],
    ids=["service", "port", "both"],
)
def test_a_gateway_that_is_not_there_is_an_error(mesh: Mesh, gateway: dict[str, Any], change: dict[str, Any], code: str) -> None:
    result = mesh.look(via=gateway | change)
    assert (result["error"]["code"],) == (code,)


# It takes the gateway's pods anew, twice.
if SESSIONS > FEW:

    def test_source_addresses_land_where_they_must_through_a_gateway_that_believes_them(mesh: Mesh, gateway: dict[str, Any]) -> None:
        def believe(proxies: int | None) -> None:
            config = json.loads(QUICK["metadata"]["annotations"]["proxy.istio.io/config"])
            if proxies:
                config["gatewayTopology"] = {"numTrustedProxies": proxies}
            template = {"spec": {"template": {"metadata": {"annotations": {"proxy.istio.io/config": json.dumps(config)}}}}}
            mesh.kubectl("-n", INGRESS, "patch", "deployment", GATEWAY, "--type=merge", "-p", json.dumps(template))
            mesh.kubectl("-n", INGRESS, "rollout", "status", f"deployment/{GATEWAY}", "--timeout=120s")

        believe(1)
        try:
            landed_through(mesh, gateway, "by-source")
        finally:
            believe(None)


# The last one, as the check waits for a gateway whose pods are new.
def test_a_pod_of_the_gateway_that_goes_meanwhile_is_seen(mesh: Mesh, gateway: dict[str, Any]) -> None:
    gone = mesh.kubectl("-n", INGRESS, "get", "pods", "-l", "istio=ingressgateway", "-o", "jsonpath={.items[0].metadata.name}").stdout

    def arrived() -> bool:
        return "/meanwhile" in mesh.kubectl("-n", mesh.namespace, "logs", "-l", "app=nginx", "-c", "nginx", "--tail=20").stdout

    def delete() -> None:
        mesh.wait_until("the first requests", arrived)
        mesh.kubectl("-n", INGRESS, "delete", "pod", gone, "--wait=false")

    thread = threading.Thread(target=delete)
    thread.start()
    # Some twelve seconds.
    result = mesh.look(via=gateway, client=OUTSIDER, path="/meanwhile", rate=50, requests=16)
    thread.join()
    assert result["verdict"] == "inconclusive", result["msg"]
    assert f"pod {gone} of gateway {GATEWAY}.{INGRESS} was removed" in result["membership"]["events"], result["membership"]
