# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cause neither claims that an object is absent whose kind could not be read, nor prints a fix that rests on this."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cart_mesh import HASH, RANDOM, SERVICE, envoy, route, rule, situation, to

from ansible_collections.meshops.istio.plugins.module_utils._causes import Situation, find_causes
from ansible_collections.meshops.istio.plugins.module_utils._model import JsonDict, Via

HASHING = [rule("cart", trafficPolicy=HASH)]
NOT_HASHING = [rule("cart", trafficPolicy=RANDOM)]
IN_SUBSET = [rule("cart", subsets=[{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": HASH}])]
WHY = "No permission to list them in istio-system."


def service(labels: JsonDict | None = None, **spec: object) -> JsonDict:
    return {**SERVICE, "metadata": {**SERVICE["metadata"], "labels": labels or {}}, "spec": {**SERVICE["spec"], **spec}}


def by_address() -> Situation:
    state = situation(envoy(HASHING), HASHING, service=service(clusterIPs=["10.96.7.7"]))
    return replace(state, target=replace(state.target, via=Via("10.96.7.7", 8000, "cart.example.com")))


def hidden_subset() -> Situation:
    by = route(to(subset="v1"))
    rules = [rule("cart-pool", "till", trafficPolicy=RANDOM)]
    return situation(replace(envoy(rules, "till", "v1", by), cluster=None, hosts=()), rules, [by], "till")


def elsewhere(host: str = "legacy.example.com") -> Situation:
    by = route(to(host))
    return situation(envoy([], host=host, by=by), [], [by])


def behind_a_waypoint() -> Situation:
    state = situation(envoy(HASHING), HASHING, service=service({"istio.io/use-waypoint": "waypoint"}))
    return replace(state, facts=replace(state.facts, versions={"istiod": "1.30.3"}))


def not_delivered() -> Situation:
    view, old = envoy([]), "2025-12-31T00:00:00Z"
    assert view.route is not None
    assert view.cluster is not None
    return situation(replace(view, route=replace(view.route, updated=old), cluster=replace(view.cluster, updated=old)), HASHING)


def missing_pods() -> Situation:
    view = envoy(HASHING)
    return situation(replace(view, hosts=view.hosts[1:]), HASHING, age=600.0)


def hidden_by_the_root_namespace() -> Situation:
    scope = {"metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"egress": [{"hosts": ["istio-system/*"]}]}}
    return situation(replace(envoy([]), route=None, cluster=None, hosts=()), sidecars=[scope])


@pytest.mark.parametrize(
    ("kind", "state", "complete", "partial"),
    [
        ("DestinationRule", situation(envoy([])), ["C10 yaml"], ["C10 manual"]),
        ("DestinationRule", situation(envoy([]), service=service(sessionAffinity="ClientIP")), ["C66 yaml"], ["C10 manual"]),
        ("DestinationRule", situation(envoy(NOT_HASHING), NOT_HASHING), ["C18 command"], ["C18 manual"]),
        ("DestinationRule", situation(None, service=service(clusterIP="None")), ["C32 yaml"], ["C32 manual"]),
        ("DestinationRule", hidden_subset(), ["C69 manual"], []),
        ("DestinationRule", elsewhere("old.shop.svc.cluster.local"), ["C24 yaml"], ["C24 manual"]),
        ("DestinationRule", not_delivered(), ["C17 manual"], []),
        ("DestinationRule", missing_pods(), ["C64 manual"], []),
        ("VirtualService", by_address(), ["C04 yaml"], []),
        ("VirtualService", situation(envoy(NOT_HASHING, by=route(to())), NOT_HASHING), ["C18 command"], ["C18 manual"]),
        ("VirtualService", situation(envoy(IN_SUBSET), IN_SUBSET, [route(to(subset="v1"), gateways=["shop/in"])]), ["C25 command"], ["C25 manual"]),
        ("VirtualService", behind_a_waypoint(), ["A2 manual"], []),
        ("Sidecar", hidden_by_the_root_namespace(), ["C05 manual"], []),
        ("EnvoyFilter", not_delivered(), ["C17 manual"], []),
        ("ServiceEntry", by_address(), ["C04 yaml"], ["C04 manual"]),
        ("ServiceEntry", elsewhere(), ["C24 yaml"], ["C24 manual"]),
    ],
)
def test_what_was_not_read_is_not_absent(kind: str, state: Situation, complete: list[str], partial: list[str]) -> None:
    assert [f"{found.id} {found.fix.kind}" for found in find_causes(state)][: len(complete)] == complete
    unread = find_causes(replace(state, facts=replace(state.facts, unread={kind: WHY})))
    assert [f"{found.id} {found.fix.kind}" for found in unread][: max(len(partial), 1)] == partial


def test_a_fix_that_is_not_printed_says_what_was_not_read() -> None:
    state = situation(envoy([]))
    (found,) = find_causes(replace(state, facts=replace(state.facts, unread={"DestinationRule": WHY})))
    assert found.fix.body.endswith("because not every DestinationRule could be read (No permission to list them in istio-system).")


def test_a_virtual_service_that_was_not_read_is_named_by_envoy() -> None:
    view = envoy(HASHING, by=route(to()))
    assert view.route is not None
    state = situation(replace(view, route=replace(view.route, headers_removed=("x-cart-id",))), HASHING)
    (found,) = find_causes(state)
    assert (found.id, "VirtualService shop/cart, which could not be read" in found.fix.body) == ("C42", True)


def test_a_namespace_that_was_not_read_may_have_a_waypoint() -> None:
    pod = {"metadata": {"name": "client", "namespace": "till", "labels": {"istio.io/dataplane-mode": "ambient"}}, "spec": {}}
    state = situation(None, namespace="till", pod=pod, sidecar=False)
    space: JsonDict = {"metadata": {"name": "shop"}}
    known = replace(state, facts=replace(state.facts, namespaces={**state.facts.namespaces, "shop": space}))
    assert ([found.id for found in find_causes(known)], find_causes(state)) == (["C06"], [])


@pytest.mark.parametrize(("address", "expected"), [("10.96.7.7", ["C03", "C72"]), ("None", []), (None, [])])
def test_without_an_address_nobody_knows_what_is_redirected(address: str | None, expected: list[str]) -> None:
    """A headless Service, or one that could not be read: ranges of addresses say nothing about it."""
    spec = {"containers": [{"name": "tools"}], "initContainers": [{"name": "istio-init", "args": ["istio-iptables", "-i", "10.244.0.0/16"]}]}
    annotations = {"traffic.sidecar.istio.io/includeOutboundIPRanges": "10.244.0.0/16"}
    pod = {"metadata": {"name": "client", "namespace": "shop", "labels": {}, "annotations": annotations}, "spec": spec}
    found = find_causes(situation(envoy(HASHING), HASHING, pod=pod, service=service(clusterIP=address)))
    assert [each.id for each in found if each.id in ("C03", "C72")] == expected
