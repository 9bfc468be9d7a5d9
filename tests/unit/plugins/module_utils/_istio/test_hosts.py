# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host names as Istio matches them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers, exported, hidden_from, names_service, selects

FQDN = "nginx-service.sample.svc.cluster.local"


@pytest.mark.parametrize(
    ("host", "namespace", "covered"),
    [
        ("nginx-service", "sample", True),
        ("nginx-service", "other", False),
        ("nginx-service.sample", "sample", False),
        ("nginx-service.sample.svc.cluster.local", "other", True),
        ("*.sample.svc.cluster.local", "other", True),
        ("*.other.svc.cluster.local", "other", False),
        ("*", "istio-system", True),
    ],
)
def test_a_host_means_what_istio_takes_it_for(host: str, namespace: str, covered: bool) -> None:
    assert covers(host, namespace, FQDN) is covered


@pytest.mark.parametrize(
    ("host", "namespace", "domains", "named"),
    [
        ("*.svc.cluster.local", "istio-system", (), True),
        ("*.svc.mesh.example.com", "istio-system", (), True),
        ("*", "istio-system", (), True),
        ("*.local", "istio-system", (), True),
        ("*.payments.svc.cluster.local", "istio-system", (), True),
        ("*.other.svc.cluster.local", "istio-system", (), False),
        ("*.example.com", "istio-system", (), False),
        ("*.example.com", "istio-system", ("mesh.example.com",), True),
        ("api.payments.example.com", "payments", (), False),
        ("api.payments.example.com", "payments", ("example.com",), False),
        ("api.payments.svc.cluster.local", "istio-system", (), True),
        ("api.payments.svc.mesh.example.com", "istio-system", (), True),
        ("api.payments.svc.cluster.local", "istio-system", ("cluster.local", "clusterset.local"), True),
        ("api.payments.svc.clusterset.local", "istio-system", ("cluster.local", "clusterset.local"), True),
        ("api.payments.svc.cluster.local", "istio-system", ("mesh.example.com",), False),
        ("api", "payments", (), True),
        ("api", "other", (), False),
        ("api.payments", "other", (), True),
        ("api.payments.svc", "other", (), True),
        ("api.payments.sv", "other", (), False),
        ("other-api.payments.svc.cluster.local", "payments", (), False),
        ("", "payments", (), False),
    ],
)
def test_a_host_names_a_service_by_a_name_of_the_mesh_only(host: str, namespace: str, domains: tuple[str, ...], named: bool) -> None:
    assert names_service(host, namespace, ("payments", "api"), domains) is named


@pytest.mark.parametrize(("to", "seen"), [(None, True), (["*"], True), (["."], False), (["client"], True), (["other"], False)])
def test_a_rule_is_exported_to_a_namespace_or_not(to: Any, seen: bool) -> None:
    assert exported({"metadata": {"namespace": "sample"}, "spec": {"exportTo": to} if to else {}}, "client") is seen


@pytest.mark.parametrize(
    ("selector", "selected"),
    [(None, True), ({}, True), ({"matchLabels": {"app": "shop"}}, True), ({"labels": {"app": "shop"}}, True), ({"labels": {"app": "cart"}}, False)],
)
def test_a_selector_selects_by_all_of_its_labels(selector: Any, selected: bool) -> None:
    assert selects(selector, {"app": "shop", "version": "v1"}) is selected


@pytest.mark.parametrize(
    ("annotation", "namespace", "egress", "why"),
    [
        (None, "till", None, None),
        ("*", "till", None, None),
        (".", "shop", None, None),
        (".", "till", None, "does not name namespace till"),
        ("~", "shop", None, "does not name namespace shop"),
        ("desk, till", "till", None, None),
        # The service's own namespace is where callers are looked for, so what it cannot reach from there is no matter of the look.
        (None, "shop", ["./other"], None),
        (None, "till", ["./*"], "Sidecar till/scope does not import it; inspect it from a client pod in namespace shop"),
        (None, "till", ["shop/*"], None),
        (None, "till", ["*/cart.shop.svc.cluster.local"], None),
        (None, "till", ["*/basket.shop.svc.cluster.local"], "does not import it"),
        (None, "till", ["~/*"], "does not import it"),
    ],
)
def test_where_a_service_is_hidden(annotation: str | None, namespace: str, egress: list[str] | None, why: str | None) -> None:
    service = {"metadata": {"namespace": "shop", "name": "cart", "annotations": {"networking.istio.io/exportTo": annotation} if annotation else None}}
    sidecars = [{"metadata": {"namespace": namespace, "name": "scope"}, "spec": {"egress": [{"hosts": egress}]}}] if egress else []
    found = hidden_from(service, namespace, sidecars)
    assert found is None if why is None else found is not None and why in found


def test_sidecars_that_could_not_be_read_may_hide_it() -> None:
    service = {"metadata": {"namespace": "shop", "name": "cart"}}
    assert "could not be read" in (hidden_from(service, "till", None) or "")
    assert hidden_from(service, "shop", None) is None
