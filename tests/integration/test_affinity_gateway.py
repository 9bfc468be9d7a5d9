# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through an ingress gateway, as a client outside the mesh does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from affinity_support import Mesh, curl_pod

if TYPE_CHECKING:
    from integration.conftest import Ansible

HOST = "shop.example.com"


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


def test_the_gateway_agrees_with_the_service(mesh: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    inside, outside = (mesh.look(profile="quick", **options) for options in ({}, {"via": gateway, "client": outsider}))
    landed = [{session["id"]: list(session["pods"]) for session in result["sessions"]} for result in (inside, outside)]
    assert landed[0] == landed[1]


def test_without_the_rule_it_fails_through_the_gateway_too(broken: Mesh, gateway: dict[str, Any], outsider: dict[str, str]) -> None:
    broken.delete("destinationrule", "nginx-destinationrule")
    broken.wait_for("proxy.lb_policy == 'LEAST_REQUEST'")
    result = broken.look(via=gateway, client=outsider)
    assert result["verdict"] == "failed"


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
    assert "none says which pod gave it" in result["msg"]


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
