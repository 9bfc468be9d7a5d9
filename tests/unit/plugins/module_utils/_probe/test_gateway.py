# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which gateway is selected, which of its pods are read, and how a truncated page is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._model import NOWHERE, CheckError, ProxyView, Target, Unread, Via
from ansible_collections.meshops.istio.plugins.module_utils._probe import gateway
from ansible_collections.meshops.istio.plugins.module_utils._probe.gateway import find_gateway, read_gateways

SERVICE = {"spec": {"ports": [{"port": 80}, {"port": 443}]}}
OPTION = {"namespace": "istio-ingress", "service": "ingress", "host": "shop.example.com", "port": 80}
TARGET = Target("shop", "cart", 8080, "http", "cart", via=Via("ingress.istio-ingress", 80, "shop.example.com", "istio-ingress", "ingress"))
CLUSTER = "outbound|8080||cart.shop.svc.cluster.local"


class Api:
    """Stands for the API server: one Service and its endpoints."""

    def __init__(self, *pods: tuple[str, str, bool]) -> None:
        self.pods = pods

    def service(self, namespace: str, name: str) -> dict[str, Any] | None:
        return SERVICE if (namespace, name) == ("istio-ingress", "ingress") else None

    def endpoint_slices_now(self, namespace: str, service: str) -> tuple[list[dict[str, Any]], None]:
        assert (namespace, service) == ("istio-ingress", "ingress")
        endpoints = [
            {"addresses": [f"10.0.0.{number}"], "targetRef": {"name": pod, "uid": uid}, "conditions": {"ready": ready}}
            for number, (pod, uid, ready) in enumerate(self.pods)
        ]
        return [{"metadata": {"uid": "s", "generation": 1}, "ports": [{"name": "http2", "port": 8080}], "endpoints": endpoints}], None


def api(*pods: tuple[str, str, bool]) -> Cluster:
    return cast(Cluster, Api(*pods))


@pytest.mark.parametrize(
    ("option", "client", "expected"),
    [
        (OPTION, "shop", Via("ingress.istio-ingress", 80, "shop.example.com", "istio-ingress", "ingress")),
        (OPTION, "istio-ingress", Via("ingress", 80, "shop.example.com", "istio-ingress", "ingress")),
        ({**OPTION, "port": 443}, "shop", Via("ingress.istio-ingress", 443, "shop.example.com", "istio-ingress", "ingress")),
        ({"address": "203.0.113.1", "host": "shop.example.com"}, "shop", Via("203.0.113.1", 80, "shop.example.com")),
    ],
)
def test_a_gateway_is_a_service_or_an_address(option: dict[str, Any], client: str, expected: Via) -> None:
    assert find_gateway(api(), option, client) == expected


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ({"host": "x"}, "bad_option", "needs either service or address"),
        ({**OPTION, "address": "203.0.113.1"}, "bad_option", "needs either service or address"),
        ({**OPTION, "service": "other"}, "no_gateway", "There is no Service istio-ingress/other"),
        ({"service": "ingress", "host": "x"}, "no_gateway", "There is no Service istio-system/ingress"),
        ({**OPTION, "port": 81}, "no_gateway", "has no port 81; it has [80, 443]. Next: correct the option via.port."),
    ],
)
def test_a_gateway_that_is_not_there_is_refused(option: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(CheckError) as caught:
        find_gateway(api(), option, "shop")
    assert (caught.value.code, message in caught.value.msg) == (code, True)


class Envoy:
    """Stands for the exec into a gateway's pod: pilot-agent's answers by the page's name."""

    cut: str | None = None
    elsewhere = False

    def __init__(self, _configuration: Any, namespace: str, pod: str, container: str, command: list[str], _deadline: float, *, stdin: bool) -> None:
        assert (namespace, container, command[:3], stdin) == ("istio-ingress", "istio-proxy", ["pilot-agent", "request", "GET"], False)
        self.pod = pod
        self.page = unquote(command[3])
        self.status = {"status": "Failure" if self.cut and self.cut in self.page else "Success"}

    def __enter__(self) -> Envoy:
        return self

    def __exit__(self, *_details: object) -> None:
        pass

    def lines(self) -> Iterator[bytes]:
        name = CLUSTER.replace("cart", "basket") if self.elsewhere else CLUSTER
        route = {"match": {"prefix": "/"}, "route": {"cluster": name, "hash_policy": [{"header": {"header_name": "user"}}]}}
        config = {"route_config": {"name": "http.8080", "virtual_hosts": [{"name": "v", "domains": ["shop.example.com"], "routes": [route]}]}}
        if self.page == "server_info":
            yield json.dumps({"node": {"metadata": {"ISTIO_VERSION": self.pod}}}).encode()
        elif "dynamic_route_configs" in self.page:
            yield json.dumps({"configs": [config]}).encode()
        elif "dynamic_active_clusters" in self.page:
            service = "basket" if self.elsewhere else "cart"
            yield json.dumps({"configs": [{"cluster": {"name": name, "lb_policy": "RING_HASH"}}] if service in self.page else []}).encode()
        else:
            for field in ("health_flags::healthy", "weight::1", "priority::0", "rq_total::3"):
                yield f"{name}::10.0.0.9:80::{field}".encode()
            yield b"outbound|80||other.shop.svc.cluster.local::10.0.0.8:80::weight::1"


def test_every_ready_pod_of_the_gateway_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "Exec", Envoy)
    pods = api(("b", "u2", True), ("a", "u1", True), ("starting", "u3", False), ("10.0.0.3", "", True))
    views, endpoints = read_gateways(pods, None, TARGET)
    assert [view.proxy_version for view in views if isinstance(view, ProxyView)] == ["a", "b"]
    assert len(endpoints.backends) == 4
    first = views[0]
    assert isinstance(first, ProxyView)
    assert first.cluster is not None
    assert (first.cluster.name, first.cluster.lb_policy) == (CLUSTER, "RING_HASH")
    assert [(host.address, host.rq_total) for host in first.hosts] == [("10.0.0.9:80", 3)]


def test_a_route_that_leads_elsewhere_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "Exec", Envoy)
    monkeypatch.setattr(Envoy, "elsewhere", True)
    (view,), _endpoints = read_gateways(api(("a", "u1", True)), None, TARGET)
    assert isinstance(view, ProxyView)
    assert view.cluster is not None
    assert view.cluster.name == CLUSTER.replace("cart", "basket")
    assert [host.address for host in view.hosts] == ["10.0.0.9:80"]


@pytest.mark.parametrize("page", ["server_info", "dynamic_route_configs", "dynamic_active_clusters", "clusters?"])
def test_a_page_that_was_cut_short_is_unread(monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """It was taken for an Envoy that has no such route, cluster or host."""
    monkeypatch.setattr(gateway, "Exec", Envoy)
    monkeypatch.setattr(Envoy, "cut", page)
    (view,), endpoints = read_gateways(api(("a", "u1", True)), None, TARGET)
    assert isinstance(view, Unread)
    assert "pilot-agent in pod istio-ingress/a ended with Failure" in view.why
    assert len(endpoints.backends) == 1


def test_a_gateway_without_a_ready_pod_is_no_gateway() -> None:
    with pytest.raises(CheckError, match=r"Service istio-ingress/ingress has no ready pod\. Next: kubectl -n istio-ingress get pods\.") as caught:
        read_gateways(api(("a", "u1", False)), None, TARGET)
    assert caught.value.code == "no_gateway"


def test_of_an_address_nothing_is_known() -> None:
    target = Target("shop", "cart", 8080, "http", "cart", via=Via("203.0.113.1", 80, "shop.example.com"))
    assert read_gateways(api(), None, target) == ((None,), NOWHERE)
