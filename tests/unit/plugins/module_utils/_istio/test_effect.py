# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which DestinationRules Istio puts in force, and whom a change of them touches. The rules are synthetic, the order is Istio's."""

from __future__ import annotations

from typing import Any

import pytest
from cart_mesh import FQDN, HASH, RANDOM, RULES, port, rule
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import (
    Caller,
    Destination,
    changed,
    cluster_balancer,
    harm_of,
    hash_in_force,
    in_force,
    merged,
    place_of_balancer,
    route_hash,
    with_rule_in_place,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import named, policy_in
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict

TO = Destination(FQDN, 8000)
BY_ID = HashPolicy("header", "x-cart-id")


def wide(name: str, namespace: str = "shop", host: str = "*.shop.svc.cluster.local", **spec: Any) -> JsonDict:
    return {**rule(name, namespace), "spec": {"host": host, **spec}}


SELECTED = rule("selected", workloadSelector={"matchLabels": {"app": "batch"}})


@pytest.mark.parametrize(
    ("rules", "caller", "expected"),
    [
        ([], Caller("shop"), []),
        ([rule("a")], Caller("till"), ["shop/a"]),
        ([rule("a"), rule("b", "till")], Caller("till"), ["till/b"]),
        ([rule("a"), rule("b", "till")], Caller("shop"), ["shop/a"]),
        ([rule("a", "elsewhere")], Caller("till"), []),
        ([rule("a", "istio-system")], Caller("till"), ["istio-system/a"]),
        ([rule("a", exportTo=["."])], Caller("till"), []),
        ([rule("a", exportTo=["till"])], Caller("till"), ["shop/a"]),
        ([wide("w"), rule("a")], Caller("till"), ["shop/a"]),
        ([wide("w"), wide("x", host="*.svc.cluster.local")], Caller("till"), ["shop/w"]),
        # The first namespace with a rule decides, even where its rule is for other workloads.
        ([rule("a"), {**SELECTED, "metadata": {"name": "s", "namespace": "till"}}], Caller("till"), []),
        ([rule("a"), SELECTED], Caller("shop"), ["shop/a"]),
        ([rule("a"), SELECTED], Caller.of("shop", {"app": "batch"}), ["shop/selected"]),
        ([rule("a"), SELECTED], Caller.of("till", {"app": "batch"}), ["shop/a"]),
        ([rule("b", created="2026-02-01T00:00:00Z"), rule("c")], Caller("shop"), ["shop/c", "shop/b"]),
    ],
)
def test_what_is_in_force(rules: list[JsonDict], caller: Caller, expected: list[str]) -> None:
    assert [named(each) for each in in_force(rules, FQDN, "shop", caller)] == expected


V1 = Destination(FQDN, 8000, "v1")


@pytest.mark.parametrize(
    ("spec", "to", "cluster", "route"),
    [
        ({"trafficPolicy": HASH}, TO, True, True),
        ({"trafficPolicy": RANDOM}, TO, False, False),
        ({"trafficPolicy": {**HASH, "portLevelSettings": [port(8000, {})]}}, TO, False, True),
        ({"trafficPolicy": {"portLevelSettings": [port(8000, HASH)]}}, TO, True, True),
        ({"trafficPolicy": {"portLevelSettings": [port(8000, HASH)]}}, Destination(FQDN, 8000, port_named=False), True, False),
        ({"trafficPolicy": {"portLevelSettings": [port(9000, HASH)]}}, TO, False, False),
        ({"trafficPolicy": HASH, "subsets": [{"name": "v1"}]}, V1, True, True),
        ({"trafficPolicy": HASH, "subsets": [{"name": "v1", "trafficPolicy": RANDOM}]}, V1, False, True),
        ({"subsets": [{"name": "v1", "trafficPolicy": HASH}]}, V1, True, True),
        ({"subsets": [{"name": "v1", "trafficPolicy": HASH}]}, TO, False, False),
        ({"trafficPolicy": HASH, "subsets": [{"name": "v1", "trafficPolicy": {"portLevelSettings": [port(8000, {})]}}]}, V1, False, True),
        ({"trafficPolicy": {**RANDOM, "portLevelSettings": [port(8000, HASH)]}, "subsets": [{"name": "v1", "trafficPolicy": {"tls": {}}}]}, V1, True, True),
    ],
)
def test_both_halves_of_a_destination(spec: JsonDict, to: Destination, cluster: bool, route: bool) -> None:
    known = merged([rule("a", **spec)])
    assert (policy_in(cluster_balancer(known, to)) == BY_ID, route_hash(known, to) == BY_ID) == (cluster, route)
    assert (hash_in_force([rule("a", **spec)], to, Caller("till")) == BY_ID) == (cluster and route)


def test_a_change_is_aimed_at_the_rule_and_the_place() -> None:
    spec: JsonDict = {"subsets": [{"name": "v0"}, {"name": "v1", "trafficPolicy": {"portLevelSettings": [port(8000, {})]}}]}
    rules = [rule("a", trafficPolicy=RANDOM), rule("b", created="2026-02-01T00:00:00Z", **spec)]
    place = place_of_balancer(rules, V1)
    assert place == (rules[1], ("spec", "subsets", 1, "trafficPolicy", "portLevelSettings", 0, "loadBalancer"))
    assert place_of_balancer(rules, Destination(FQDN, 8000, "v0")) == (rules[0], ("spec", "trafficPolicy", "loadBalancer"))
    assert place_of_balancer(rules, Destination(FQDN, 8000, "v2")) is None
    after = with_rule_in_place(rules, changed(place[0], place[1], HASH["loadBalancer"]))
    assert hash_in_force(rules, V1, Caller("till")) is None
    assert hash_in_force(after, V1, Caller("till")) == BY_ID
    assert "loadBalancer" not in rules[1]["spec"]["subsets"][1]["trafficPolicy"]["portLevelSettings"][0]


@pytest.mark.parametrize(
    ("before", "after", "harm"),
    [
        ([rule("a", trafficPolicy=RANDOM)], rule("a", trafficPolicy=HASH), None),
        ([rule("a", trafficPolicy=HASH)], rule("a", trafficPolicy=RANDOM), "lose their hash"),
        ([rule("a", trafficPolicy={**RANDOM, "tls": {"mode": "SIMPLE"}})], rule("a", trafficPolicy=HASH), "other settings"),
        ([rule("a", subsets=[{"name": "v1"}])], rule("a", trafficPolicy=HASH), "subsets"),
        ([wide("w", trafficPolicy=RANDOM)], wide("w", trafficPolicy=HASH), "another.shop.svc.cluster.local"),
        ([wide("w", host="*", trafficPolicy=RANDOM)], wide("w", host="*", trafficPolicy=HASH), "another.example.com"),
        # A new rule that takes the place of a wildcard's, whose settings the callers would lose.
        ([wide("w", trafficPolicy={"tls": {"mode": "SIMPLE"}})], rule("a", trafficPolicy=HASH), "other settings"),
        ([], rule("a", trafficPolicy=HASH), None),
        ([], rule("a", trafficPolicy={**HASH, "tls": {"mode": "SIMPLE"}}), "other settings"),
        # A hash on another key, of another port, and of callers in one other namespace.
        ([rule("a", trafficPolicy={"loadBalancer": {"consistentHash": {"useSourceIp": True}}})], rule("a", trafficPolicy=HASH), "their hash on source_ip"),
        ([rule("a", exportTo=["till"]), rule("b", created="2027")], rule("b", created="2027", trafficPolicy=HASH), "different exportTo"),
        # A host that changes takes the policy from the old one.
        ([wide("a", host="carts.shop.svc.cluster.local", trafficPolicy=HASH)], rule("a", trafficPolicy=HASH), "carts.shop.svc.cluster.local"),
    ],
)
def test_whom_a_change_harms(before: list[JsonDict], after: JsonDict, harm: str | None) -> None:
    found = harm_of(before, with_rule_in_place(before, after), TO, [8000, 9000])
    assert found == harm if harm is None or found is None else harm in found


def test_a_selector_that_goes_is_seen_by_the_callers_without_its_labels() -> None:
    before = [
        rule("plain", trafficPolicy={"loadBalancer": {"consistentHash": {"useSourceIp": True}}}),
        {**SELECTED, "spec": {**SELECTED["spec"], "trafficPolicy": HASH}},
    ]
    plain = changed(before[1], ("spec", "workloadSelector"), None)
    # The older one stays in force, also for those that had the other.
    assert "their hash on x-cart-id" in (harm_of(before, with_rule_in_place(before, plain), TO, [8000]) or "")
    older = changed(plain, ("metadata", "creationTimestamp"), "2025-01-01T00:00:00Z")
    assert "their hash on source_ip" in (harm_of(before, with_rule_in_place(before, older), TO, [8000]) or "")


@settings(max_examples=200)
@given(rules=st.lists(RULES, max_size=4, unique_by=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"])), new=RULES)
def test_a_harmless_change_takes_nothing_from_anybody(rules: list[JsonDict], new: JsonDict) -> None:
    """Said again by another way: for callers of every namespace and label, what a destination hashed on it still does."""
    after = with_rule_in_place(rules, new)
    if harm_of(rules, after, TO, [8000]) is not None:
        return
    for space in ("shop", "till", "istio-system", "other"):
        for labels in ({}, {"app": "x"}):
            caller = Caller.of(space, labels)
            for to in (TO, V1):
                old = hash_in_force(rules, to, caller)
                assert old is None or hash_in_force(after, to, caller) == old
            other = Destination("search.shop.svc.cluster.local", 8000)
            assert merged(in_force(rules, other.host, "shop", caller)) == merged(in_force(after, other.host, "shop", caller))
