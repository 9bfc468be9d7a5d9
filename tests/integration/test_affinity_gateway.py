# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through an ingress gateway, as a client outside the mesh does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from affinity_support import HASHED_SERVICES, Mesh, curl_pod, probe_pod
from verify_support import seconds

if TYPE_CHECKING:
    from integration.conftest import Ansible

HOST = "shop.example.com"
# As in test_affinity_prediction.py: twenty times as many with ISTIO_PREDICTION_SESSIONS=10000.
FEW = 500
SESSIONS = int(os.environ.get("ISTIO_PREDICTION_SESSIONS", str(FEW)))


@pytest.fixture(scope="module")
def gateway(mesh: Mesh, ansible: Ansible) -> Iterator[dict[str, Any]]:
    """The gateway chart with two pods, a Gateway for the host, and the sample's VirtualService bound to it; the option via."""
    values = {
        "service": {"type": "ClusterIP"},
        "autoscaling": {"enabled": False},
        "replicaCount": 2,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    role = {"ansible.builtin.include_role": {"name": "meshops.istio.istio_control_plane"}}
    ansible([role], extra_vars={"istio_control_plane_gateway": True, "istio_control_plane_gateway_values": values}).expect()
    mesh.apply(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "shop"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [HOST]}]},
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "shop"},
            "spec": {"hosts": [HOST], "gateways": ["shop"], "http": [{"route": [{"destination": {"host": "nginx-service"}}]}]},
        },
    )
    yield {"namespace": "istio-ingress", "service": "istio-ingressgateway", "host": HOST}
    mesh.delete("gateways.networking.istio.io", "shop")
    mesh.delete("virtualservice", "shop")
    ansible([role], extra_vars={"istio_control_plane_gateway": True, "istio_control_plane_gateway_values": values | {"replicaCount": 1}}).expect()


@pytest.fixture
def outsider(mesh: Mesh, namespace: Callable[..., str]) -> dict[str, str]:
    where = namespace(injection=False)
    mesh.kubectl("-n", where, "apply", "-f", "-", stdin=yaml.safe_dump(curl_pod("outsider")))
    mesh.kubectl("-n", where, "wait", "--for=condition=Ready", "pod/outsider", "--timeout=90s")
    return {"namespace": where, "pod": "outsider"}


def test_sessions_stick_through_every_pod_of_the_gateway(mesh: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    result = mesh.look(via=gateway, client=outsider)
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["available"], result["prediction"]["matched"]) == (True, 36), result["prediction"]
    assert result["clients"][0]["sidecar"] is False


def test_many_sessions_land_where_they_must_through_the_gateway(mesh: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    result = mesh.look(via=gateway, client=outsider, sessions=SESSIONS, requests=2, concurrency=20, max_sessions_returned=SESSIONS)
    assert result["verdict"] == "passed", result["msg"]
    prediction = result["prediction"]
    assert (prediction["available"], prediction["matched"], prediction["total"]) == (True, SESSIONS, SESSIONS), prediction
    assert all(session["pods"] == {session["predicted"]: 2} for session in result["sessions"])


PART = "through-gateway"


@pytest.fixture(scope="module")
def others(mesh: Mesh, gateway: dict[str, Any]) -> Iterator[None]:
    """More services over the same pods, each with a rule of its own and a host at the gateway."""
    hosts = {name: f"{name}.example.com" for name in HASHED_SERVICES}
    objects: list[dict[str, Any]] = []
    for name, (consistent, _key) in HASHED_SERVICES.items():
        istio, meta = "networking.istio.io/v1", {"name": f"via-{name}", "labels": {PART: name}}
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        route = {"hosts": [hosts[name]], "gateways": [PART], "http": [{"route": [{"destination": {"host": f"via-{name}"}}]}]}
        balanced = {"host": f"via-{name}", "trafficPolicy": {"loadBalancer": {"consistentHash": consistent}}}
        objects.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": "nginx"}, "ports": ports}})
        objects.append({"apiVersion": istio, "kind": "DestinationRule", "metadata": meta, "spec": balanced})
        objects.append({"apiVersion": istio, "kind": "VirtualService", "metadata": meta, "spec": route})
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": list(hosts.values())}
    spec = {"selector": {"istio": "ingressgateway"}, "servers": [server]}
    mesh.apply({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": PART, "labels": {PART: "all"}}, "spec": spec}, *objects)
    yield
    kinds = ",".join(f"{kind}.networking.istio.io" for kind in ("gateways", "virtualservices", "destinationrules"))
    mesh.kubectl("-n", mesh.namespace, "delete", f"services,{kinds}", "-l", PART)


@pytest.fixture
def outsiders(mesh: Mesh, namespace: Callable[..., str]) -> dict[str, Any]:
    """Two clients outside the mesh, on two nodes if there are."""
    where = namespace(injection=False)
    nodes = [node["metadata"]["name"] for node in json.loads(mesh.kubectl("get", "nodes", "-o", "json").stdout)["items"]]
    pods = [probe_pod(f"outsider-{number}", nodes[number % len(nodes)]) for number in range(2)]
    mesh.kubectl("-n", where, "apply", "-f", "-", stdin=yaml.safe_dump_all(pods))
    mesh.kubectl("-n", where, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
    return {"namespace": where, "max": 2}


def landed_through(mesh: Mesh, gateway: dict[str, Any], client: dict[str, Any], name: str) -> None:
    """Every session of both clients on the pod that was computed for it."""
    via = gateway | {"host": f"{name}.example.com"}
    options: dict[str, Any] = {"service": f"via-{name}", "key": HASHED_SERVICES[name][1], "via": via, "client": client}
    mesh.wait_until(f"the gateway knows {name}", lambda: mesh.look(**options, profile="quick")["verdict"] == "passed")
    result = mesh.look(**options, sessions=SESSIONS, requests=2, concurrency=20, max_sessions_returned=SESSIONS)
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["matched"], result["prediction"]["total"]) == (SESSIONS, SESSIONS), result["prediction"]
    assert all(session["pods"] == {session["predicted"]: 4} for session in result["sessions"])
    assert {(entry["sidecar"], entry["namespace"]) for entry in result["clients"]} == {(False, client["namespace"])}


@pytest.mark.usefixtures("others")
def test_sessions_of_two_clients_land_where_they_must_by_every_size_and_key(mesh: Mesh, gateway: dict[str, Any], outsiders: dict[str, Any]) -> None:
    for name in HASHED_SERVICES:
        if name != "by-source":
            landed_through(mesh, gateway, outsiders, name)


@pytest.mark.usefixtures("others")
def test_two_clients_whose_addresses_are_not_believed_have_not_moved(mesh: Mesh, gateway: dict[str, Any], outsiders: dict[str, Any]) -> None:
    """Each is one source, whatever it says, and the two may land on two pods."""
    options: dict[str, Any] = {"service": "via-by-source", "key": {"type": "source_ip"}, "via": gateway | {"host": "by-source.example.com"}}
    mesh.wait_until("the gateway knows it", lambda: mesh.look(**options, client=outsiders, profile="quick")["verdict"] != "inconclusive")
    result = mesh.look(**options, client=outsiders, requests=3, max_flip_rate=0.1)
    assert result["verdict"] == "not_proven", result["msg"]
    assert "numTrustedProxies" in result["msg"]


# It takes the gateway's pods anew, twice.
if SESSIONS > FEW:

    @pytest.mark.usefixtures("others")
    def test_source_addresses_land_where_they_must_through_a_gateway_that_believes_them(mesh: Mesh, gateway: dict[str, Any], outsiders: dict[str, Any]) -> None:
        def believe(proxies: int | None) -> None:
            config = json.dumps({"gatewayTopology": {"numTrustedProxies": proxies}}) if proxies else None
            template = {"spec": {"template": {"metadata": {"annotations": {"proxy.istio.io/config": config}}}}}
            where = ("-n", gateway["namespace"])
            mesh.kubectl(*where, "patch", "deployment", "istio-ingressgateway", "--type=merge", "-p", json.dumps(template))
            mesh.kubectl(*where, "rollout", "status", "deployment/istio-ingressgateway", "--timeout=120s")

        believe(1)
        try:
            landed_through(mesh, gateway, outsiders, "by-source")
        finally:
            believe(None)


def test_the_gateway_agrees_with_the_service(mesh: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    inside, outside = (mesh.look(profile="quick", **options) for options in ({}, {"via": gateway, "client": outsider}))
    landed = [{session["id"]: list(session["pods"]) for session in result["sessions"]} for result in (inside, outside)]
    assert landed[0] == landed[1]


def test_without_the_rule_it_fails_through_the_gateway_too(broken: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    broken.delete("destinationrule", "nginx-destinationrule")
    broken.wait_for("proxy.lb_policy == 'LEAST_REQUEST'")
    result = broken.look(via=gateway, client=outsider)
    assert result["verdict"] == "failed"
    # The outsider has no sidecar and needs none.
    assert "Gateway istio-ingressgateway.istio-ingress balances by LEAST_REQUEST" in result["msg"]
    assert "sidecar" not in result["msg"]


def test_a_pod_of_the_gateway_that_goes_meanwhile_is_seen(mesh: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    place = ("-n", gateway["namespace"])
    gone = mesh.kubectl(*place, "get", "pods", "-l", "istio=ingressgateway", "-o", "jsonpath={.items[0].metadata.name}").stdout

    def delete() -> None:
        mesh.wait_until("the first requests", lambda: bool(seconds(mesh, "/meanwhile")))
        mesh.kubectl(*place, "delete", "pod", gone, "--wait=false")

    thread = threading.Thread(target=delete)
    thread.start()
    # Some fifteen seconds.
    result = mesh.look(via=gateway, client=outsider, path="/meanwhile", rate=50)
    thread.join()
    mesh.kubectl(*place, "rollout", "status", "deployment/istio-ingressgateway", "--timeout=120s")
    assert result["verdict"] == "inconclusive", result["msg"]
    assert f"pod {gone} of gateway istio-ingressgateway.istio-ingress was removed" in result["membership"]["events"], result["membership"]


def test_every_ready_pod_of_the_gateway_is_read(mesh: Mesh, lab: Path, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    """Their Envoys may differ, so the API server's log must know an exec into each for every look."""
    pods = mesh.kubectl("-n", gateway["namespace"], "get", "pods", "-l", "istio=ingressgateway", "-o", "name").stdout.split()
    assert len(pods) == 2

    def reads() -> list[int]:
        lines = [line for log in (lab.parent / "nodes").rglob("audit*.log") for line in log.read_text().splitlines()]
        return [sum(f"{pod.replace('pod/', 'pods/')}/exec" in line for line in lines) for pod in pods]

    before = reads()
    result = mesh.look(via=gateway, client=outsider, profile="quick")
    assert result["verdict"] == "passed", result["msg"]
    assert all(after - earlier >= 2 * 4 for earlier, after in zip(before, reads(), strict=True)), "four pages, before and after"


def test_a_host_that_the_gateway_does_not_know_is_no_proof(mesh: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    """The 404 is the gateway's own."""
    result = mesh.look(via=gateway | {"host": "other.example.com"}, client=outsider, profile="quick")
    assert result["verdict"] == "inconclusive", result["msg"]
    assert result["requests"]["by_status"].keys() == {"404"}
    assert "none names its pod" in result["msg"]


def test_a_gateway_does_not_believe_what_a_client_says_of_its_address(broken: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    """One client is one source then, so nothing shows whether sources stick, and the message says why."""
    rule = {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": None, "useSourceIp": True}}}}}
    broken.patch("destinationrule", "nginx-destinationrule", rule)
    broken.wait_for("proxy.hash_policy[0].type == 'source_ip'")
    result = broken.look(via=gateway, client=outsider, key={"type": "source_ip"}, requests=3, max_flip_rate=0.1)
    assert result["verdict"] == "not_proven", result["msg"]
    assert "the source addresses were sent as X-Forwarded-For, and gateway" in result["msg"]
    assert "numTrustedProxies" in result["msg"]


@pytest.mark.parametrize(
    ("change", "code"),
    [({"service": "no-such"}, "no_gateway"), ({"port": 81}, "no_gateway"), ({"address": "10.0.0.1"}, "bad_option")],
    ids=["service", "port", "both"],
)
def test_a_gateway_that_is_not_there_is_an_error(mesh: Mesh, gateway: dict[str, Any], change: dict[str, Any], code: str) -> None:
    result = mesh.look(via=gateway | change)
    assert (result["error"]["code"],) == (code,)
