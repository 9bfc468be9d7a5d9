# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which DestinationRules apply to a service, and what they hash on."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import (
    AffinityRules,
    applies_to,
    balancer,
    cluster_parts,
    concerns,
    consulted_namespaces,
    destination_rules,
    keys_of,
    virtual_services,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import Key, Target

HASH = {"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}}
KEY = Key("header", "user-session", "rule")
TARGET = Target("sample", "shop", 80, "http", "shop")
FQDN = "shop.sample.svc.cluster.local"


def service(name: str, *ports: tuple[int, str], namespace: str = "sample", address: str = "10.96.0.9") -> dict[str, Any]:
    spec = {"clusterIP": address, "ports": [{"port": port, "name": label, "protocol": "UDP" if label == "dns" else "TCP"} for port, label in ports]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def rule(host: str, namespace: str = "sample", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"rule-{len(host)}", "namespace": namespace}, "spec": {"host": host, **(spec or {"trafficPolicy": HASH})}}


@pytest.mark.parametrize(
    ("policy", "keys"),
    [
        ({"trafficPolicy": HASH}, [KEY]),
        ({"trafficPolicy": {"portLevelSettings": [{"port": {"number": 80}, **HASH}]}}, [KEY]),
        ({"subsets": [{"name": "v1", "trafficPolicy": HASH}]}, [KEY]),
        ({"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpCookie": {"name": "user"}}}}}, [Key("cookie", "user", "rule")]),
        ({"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpQueryParameterName": "user"}}}}, [Key("query", "user", "rule")]),
        ({"trafficPolicy": {"loadBalancer": {"consistentHash": {"useSourceIp": True}}}}, [Key("source_ip", None, "rule")]),
        ({"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}, []),
        ({"trafficPolicy": None}, []),
    ],
)
def test_a_rule_asks_at_any_of_its_levels(policy: dict[str, Any], keys: list[Key]) -> None:
    assert keys_of(rule("shop", **policy)) == keys


@pytest.mark.parametrize(
    ("host", "namespace", "asks"),
    [
        ("shop", "sample", True),
        ("shop", "other", False),
        ("shop.sample", "other", True),
        ("shop.sample.svc.cluster.local", "istio-system", True),
        ("shop.other.svc.cluster.local", "sample", False),
        ("*.sample.svc.cluster.local", "istio-system", True),
        ("*.other.svc.cluster.local", "istio-system", False),
        ("*.local", "istio-system", True),
        ("*.svc.cluster.local", "istio-system", True),
        ("shop.sample.example.com", "sample", False),
    ],
)
def test_a_rule_names_a_service_as_istio_reads_it(host: str, namespace: str, asks: bool) -> None:
    declared = AffinityRules([rule(host, namespace)]).for_service(service("shop", (80, "http")))
    assert (declared.keys == (KEY,), bool(declared.rules)) == (asks, asks)


def test_a_rule_is_counted_once_and_exact_hosts_come_first() -> None:
    exact, wild = rule("shop"), rule("*", "istio-system")
    declared = AffinityRules([wild, exact, exact]).for_service(service("shop", (80, "http"), address="None"))
    assert (declared.rules, declared.keys, declared.headless) == (("sample/rule-4", "istio-system/rule-1"), (KEY,), True)


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("DestinationRule", {"host": "shop"}, True),
        ("DestinationRule", {"host": "*.svc.cluster.local"}, True),
        ("DestinationRule", {"host": "shop.sample.example.com"}, False),
        ("DestinationRule", {"host": "*.mesh.internal"}, True),
        ("DestinationRule", {"host": "*.other.svc.cluster.local"}, False),
        ("VirtualService", {"hosts": ["shop.example.com"], "http": [{"route": [{"destination": {"host": FQDN}}]}]}, True),
        ("VirtualService", {"hosts": ["shop.example.com"], "tcp": [{"route": [{"destination": {"host": "shop"}}]}]}, True),
        ("VirtualService", {"hosts": ["shop.sample"]}, True),
        ("VirtualService", {"hosts": ["shop.sample.example.com"]}, False),
        ("VirtualService", None, False),
        ("Sidecar", {}, True),
        ("EnvoyFilter", {}, True),
    ],
)
def test_a_rule_concerns_a_target_by_the_hosts_that_it_names(kind: str, spec: dict[str, Any] | None, expected: bool) -> None:
    assert concerns(kind, {"metadata": {"name": "rule", "namespace": "sample"}, "spec": spec}, TARGET) is expected


def test_rules_are_taken_oldest_first() -> None:
    def of(name: str, created: str, **spec: Any) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": "sample", "creationTimestamp": created}, "spec": spec}

    rules = [of("b", "2026-02-01T00:00:00Z", host="shop"), of("c", "2026-01-01T00:00:00Z", host="*"), of("a", "2026-02-01T00:00:00Z", host=FQDN)]
    assert [entry["metadata"]["name"] for entry in destination_rules([*rules, of("d", "", host="cart")], FQDN)] == ["c", "a", "b"]
    routes = [of("new", "2026-02-01T00:00:00Z", hosts=["cart", "shop"]), of("old", "2026-01-01T00:00:00Z", hosts=["*"]), of("no", "", hosts=["cart"])]
    assert [entry["metadata"]["name"] for entry in virtual_services(routes, FQDN)] == ["old", "new"]


@pytest.mark.parametrize(
    ("namespace", "spec", "applies"),
    [
        ("client", {}, True),
        ("sample", {}, True),
        ("istio-system", {}, True),
        ("elsewhere", {}, False),
        ("sample", {"exportTo": ["."]}, False),
        ("sample", {"exportTo": ["client"]}, True),
        ("client", {"workloadSelector": {"matchLabels": {"app": "test"}}}, True),
        ("client", {"workloadSelector": {"matchLabels": {"app": "other"}}}, False),
    ],
)
def test_istio_considers_a_rule_by_its_namespace_export_and_selector(namespace: str, spec: dict[str, Any], applies: bool) -> None:
    considered = rule("shop", namespace, **(spec or {"trafficPolicy": HASH}))
    assert applies_to(considered, "client", "sample", {"app": "test"}) is applies
    assert consulted_namespaces("sample", "sample") == ["sample", "istio-system"]


def test_the_entry_of_a_port_inherits_nothing() -> None:
    policy = {**HASH, "portLevelSettings": [{"port": {"number": 81}, "connectionPool": {}}, {"port": {"number": 82}, "loadBalancer": {"simple": "RANDOM"}}]}
    assert [balancer(policy, port) for port in (80, 81, 82)] == [HASH["loadBalancer"], {}, {"simple": "RANDOM"}]


def test_a_cookie_without_a_name_is_no_key() -> None:
    assert keys_of(rule("shop", trafficPolicy={"loadBalancer": {"consistentHash": {"httpCookie": {"ttl": "0s"}}}})) == []


def test_a_clusters_name_has_port_subset_and_host() -> None:
    assert cluster_parts(f"outbound|80|v1|{FQDN}") == (80, "v1", FQDN)
    assert cluster_parts("PassthroughCluster") is None
