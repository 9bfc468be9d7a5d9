# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Service's ports as Istio takes them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._istio.ports import choose_port, is_http, listener_of, protocol, tcp_ports
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict


def service(name: str, *ports: tuple[int, str], namespace: str = "sample", address: str = "10.96.0.9") -> dict[str, Any]:
    spec = {"clusterIP": address, "ports": [{"port": port, "name": label, "protocol": "UDP" if label == "dns" else "TCP"} for port, label in ports]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"name": "http-web"}, "http"),
        ({"name": "web"}, ""),
        ({"name": "tcp-web", "appProtocol": "http"}, "http"),
        ({"name": "https"}, "https"),
        ({}, ""),
        ({"name": "grpc-web-shop"}, "grpc-web"),
        ({"name": "GRPC-shop"}, "grpc"),
        ({"name": "http2foo"}, ""),
        ({"name": "kubernetes.io/h2c"}, ""),
        ({"appProtocol": "kubernetes.io/h2c"}, "http2"),
        ({"appProtocol": "kubernetes.io/ws"}, "http"),
        ({"appProtocol": "kubernetes.io/wss"}, "https"),
        ({"name": "http", "appProtocol": "example.com/own"}, ""),
        ({"name": "db", "port": 3306}, "tcp"),
        ({"name": "http", "port": 3306}, "http"),
    ],
)
def test_a_port_is_taken_for_what_its_name_says(port: JsonDict, expected: str) -> None:
    assert protocol(port) == expected


def test_only_a_port_that_may_not_be_http_has_a_listener_of_its_own() -> None:
    found = service("shop", (80, "http"), (90, "tcp"), (91, ""))
    assert [listener_of(found, port) for port in found["spec"]["ports"]] == [None, "10.96.0.9_90", "10.96.0.9_91"]
    headless = service("shop", (90, "tcp"), address="None")
    assert listener_of(headless, headless["spec"]["ports"][0]) is None


@pytest.mark.parametrize(
    ("port", "http"),
    [({"name": "http-web"}, True), ({"name": "grpc"}, True), ({"appProtocol": "kubernetes.io/ws"}, True), ({"name": "tcp"}, False), ({"name": "web"}, False)],
)
def test_a_port_is_declared_as_http_or_not(port: JsonDict, http: bool) -> None:
    assert is_http(port) is http


def test_the_port_is_chosen_by_the_option_or_where_there_is_no_doubt() -> None:
    several = service("shop", (80, "http"), (90, "tcp"))
    assert choose_port(several, 90)["name"] == "tcp"
    assert choose_port(several, None)["name"] == "http"
    assert choose_port(service("shop", (90, "tcp")), None)["port"] == 90
    with pytest.raises(CheckError, match=r"has no port 81; it has 80 \(http\), 90 \(tcp\)") as caught:
        choose_port(several, 81)
    assert caught.value.code == "no_port"
    with pytest.raises(CheckError, match=r"has several ports .*Next: name one in the option port") as caught:
        choose_port(service("shop", (80, "http-a"), (81, "http-b")), None)
    assert caught.value.code == "no_port"


def test_ports_for_udp_are_left_out() -> None:
    assert [port["port"] for port in tcp_ports(service("shop", (80, "http"), (53, "dns")))] == [80]
