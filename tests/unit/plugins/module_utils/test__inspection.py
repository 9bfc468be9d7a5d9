# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services ask for affinity, which ports are shown, and what is done without rights."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._cluster.services import Lists, Objects
from ansible_collections.meshops.istio.plugins.module_utils._inspection import find
from ansible_collections.meshops.istio.plugins.module_utils._istio.ports import listener_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import Rules, keys_of
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key, Scope

HASH = {"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}}
KEY = Key("header", "user-session", "rule")


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
    ],
)
def test_a_rule_names_a_service_as_istio_reads_it(host: str, namespace: str, asks: bool) -> None:
    asked = Rules([rule(host, namespace)]).of(service("shop", (80, "http")))
    assert (asked.keys == (KEY,), bool(asked.rules)) == (asks, asks)


def shown(scope: Scope, *services: dict[str, Any], rules: tuple[dict[str, Any], ...] = ()) -> list[tuple[str, int]]:
    objects = Objects(services, {}, rules, (), {}, ())
    return [(found.target.service, found.target.port) for found in find(scope, objects, {})]


def test_without_a_name_only_services_that_ask_are_shown() -> None:
    several = service("several", (80, "http-a"), (81, "http-b"), (53, "dns"), (90, "tcp"))
    services = (service("shop", (80, "http")), service("quiet", (80, "http")), several)
    assert shown(Scope(("sample",)), *services, rules=(rule("shop"), rule("several"))) == [("several", 80), ("several", 81), ("shop", 80)]
    assert shown(Scope(("sample",), port=81), *services, rules=(rule("shop"), rule("several"))) == [("several", 81)]


def test_a_named_service_is_shown_whether_it_asks_or_not() -> None:
    assert shown(Scope(("sample",), "quiet"), service("quiet", (90, "tcp"))) == [("quiet", 90)]
    with pytest.raises(CheckError, match="has no port 81"):
        shown(Scope(("sample",), "quiet", 81), service("quiet", (90, "tcp")))


def test_only_a_port_that_may_not_be_http_has_a_listener_of_its_own() -> None:
    found = service("shop", (80, "http"), (90, "tcp"), (91, ""))
    assert [listener_of(found, port) for port in found["spec"]["ports"]] == [None, "10.96.0.9_90", "10.96.0.9_91"]
    headless = service("shop", (90, "tcp"), address="None")
    assert listener_of(headless, headless["spec"]["ports"][0]) is None


class Account:
    """The list calls of an account: what each namespace may read (None: the whole cluster). Stands for the API server."""

    def __init__(self, allowed: dict[str | None, list[str]], namespaces: tuple[str, ...] | None) -> None:
        self.allowed = allowed
        self.known = namespaces

    def listed(self, plural: str, namespace: str | None, _selector: str = "") -> list[dict[str, Any]]:
        if plural not in self.allowed.get(namespace, []):
            raise CheckError("forbidden", f"No permission to list {plural} in {namespace}.")
        return [service("shop", namespace=namespace or "all")]

    def namespaces(self) -> tuple[str, ...]:
        if self.known is None:
            raise CheckError("forbidden", "No permission to list namespaces.")
        return self.known


def lists(account: Account, namespaces: tuple[str, ...] | None) -> Lists:
    return Lists(account, namespaces)  # type: ignore[arg-type] # the two calls that it makes


def test_an_account_without_the_whole_cluster_reads_namespace_by_namespace() -> None:
    found = lists(Account({"a": ["services"]}, ("a", "b")), None)
    assert [item["metadata"]["namespace"] for item in found.items("services") or []] == ["a"]
    assert found.unread == ["No permission to list services in b."]


def test_nothing_readable_is_told_from_nothing_there() -> None:
    assert lists(Account({}, ("a",)), ("a",)).items("endpointslices") is None


def test_an_account_that_may_not_even_list_namespaces_is_told_what_to_do() -> None:
    with pytest.raises(CheckError, match="name those to look at in the option namespace"):
        lists(Account({}, None), None).items("services")
