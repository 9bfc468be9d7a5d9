# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports of which services are inspected."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._cluster.services import Objects
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import AdminDump
from ansible_collections.meshops.istio.plugins.module_utils._inspection import Reading, inspect_ports
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, ClusterView, Key, Scope

HASH = {"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}}
KEY = Key("header", "user-session", "rule")


def service(name: str, *ports: tuple[int, str], namespace: str = "sample", address: str = "10.96.0.9") -> dict[str, Any]:
    spec = {"clusterIP": address, "ports": [{"port": port, "name": label, "protocol": "UDP" if label == "dns" else "TCP"} for port, label in ports]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def rule(host: str, namespace: str = "sample", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"rule-{len(host)}", "namespace": namespace}, "spec": {"host": host, **(spec or {"trafficPolicy": HASH})}}


def shown(scope: Scope, *services: dict[str, Any], rules: tuple[dict[str, Any], ...] = ()) -> list[tuple[str, int]]:
    objects = Objects(services, {}, rules, (), {}, ())
    return [(entry.target.service, entry.target.port) for entry in inspect_ports(scope, objects, {})]


def test_without_a_name_only_services_that_ask_are_shown() -> None:
    several = service("several", (80, "http-a"), (81, "http-b"), (53, "dns"), (90, "tcp"))
    services = (service("shop", (80, "http")), service("quiet", (80, "http")), several)
    assert shown(Scope(("sample",)), *services, rules=(rule("shop"), rule("several"))) == [("several", 80), ("several", 81), ("shop", 80)]
    assert shown(Scope(("sample",), port=81), *services, rules=(rule("shop"), rule("several"))) == [("several", 81)]


def test_a_named_service_is_shown_whether_it_asks_or_not() -> None:
    assert shown(Scope(("sample",), "quiet"), service("quiet", (90, "tcp"))) == [("quiet", 90)]
    with pytest.raises(CheckError, match="has no port 81"):
        shown(Scope(("sample",), "quiet", 81), service("quiet", (90, "tcp")))


def test_a_rule_for_all_services_of_the_mesh_is_no_reason_to_be_silent() -> None:
    """A service was never listed for such a rule, so a run over the whole estate was green."""
    everywhere = rule("*.svc.cluster.local", "istio-system")
    assert shown(Scope(("sample",)), service("shop", (80, "http")), rules=(everywhere,)) == [("shop", 80)]


def test_a_rule_for_an_external_host_lists_no_service_of_the_same_name() -> None:
    external = rule("api.payments.example.com", "payments")
    assert shown(Scope(None), service("api", (80, "http"), namespace="payments"), rules=(external,)) == []


@pytest.mark.parametrize(("domain", "listed"), [("cluster.local", []), ("mesh.internal", [("shop", 80)])])
def test_the_domain_of_the_mesh_is_read_from_envoys_clusters(domain: str, listed: list[tuple[str, int]]) -> None:
    client = ClientPod("sample", "test-pod", "uid", None, None, "curl", True)
    name = f"outbound|80||other.sample.svc.{domain}"
    dump = AdminDump({}, {name: ClusterView(name, "EDS", "ROUND_ROBIN", None, "1")}, {})
    objects = Objects((service("shop", (80, "http")),), {}, (rule("shop.sample.svc.mesh.internal"),), (client,), {}, ())
    entries = inspect_ports(Scope(("sample",)), objects, {client: Reading(dump)})
    assert [(entry.target.service, entry.target.port) for entry in entries] == listed


@pytest.mark.parametrize("trusted", [False, True])
def test_a_client_speaks_for_its_own_namespace(trusted: bool) -> None:
    """A labelled pod of a tenant vouched for every namespace without a client. A client that the options name speaks for all."""
    ours, theirs = ClientPod("sample", "b", "uid", None, None, "curl", True), ClientPod("tenant", "a", "uid", None, None, "curl", True)
    services = (service("shop", (80, "http")), service("cart", (80, "http"), namespace="orphan"))
    objects = Objects(services, {}, (rule("shop"), rule("cart", "orphan")), (theirs, ours), {}, (), trusted=trusted)
    entries = inspect_ports(Scope(None), objects, {ours: Reading(None), theirs: Reading(None)})
    spoke = {entry.target.namespace: [view.client for view in entry.client_views] for entry in entries}
    assert spoke == {"sample": [ours], "orphan": [ours] if trusted else []}
