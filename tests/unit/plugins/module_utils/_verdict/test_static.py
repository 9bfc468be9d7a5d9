# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The static verdict, one thing out of order at a time. Synthetic views; that the lab has the same is tested there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import Declared
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    ClientPod,
    ClusterView,
    HashPolicy,
    Host,
    Key,
    Lane,
    Membership,
    ProxyView,
    RouteView,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._verdict.static import ClientView, static_verdict

KEY = Key("header", "user-session")
TARGET = Target("sample", "nginx-service", 80, "http", "nginx-service")
NAME = "outbound|80||nginx-service.sample.svc.cluster.local"
ADDRESSES = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
MEMBERSHIP = Membership({"slice": 1}, tuple(Backend(f"pod-{number}", "", address, None, None, True) for number, address in enumerate(ADDRESSES)))
HOSTS = tuple(Host(address, True, "healthy", 1, 0, "zone-a", 0) for address in ADDRESSES)
ROUTE = RouteView("80", "nginx-service", ((NAME, 100),), (HashPolicy("header", "user-session"),), None, "1")
CLUSTER = ClusterView(NAME, "EDS", "RING_HASH", "sample/rule", "1")
VIEW = ProxyView("1.31.0", 1.0, ROUTE, CLUSTER, HOSTS)
CLIENT = ClientPod("sample", "test-pod", "uid", None, "zone-a", "curl", True)
OTHER = replace(CLIENT, pod="far-pod", zone="zone-b")


def route(**changes: Any) -> ProxyView:
    return replace(VIEW, route=replace(ROUTE, **changes))


def cluster(**changes: Any) -> ProxyView:
    return replace(VIEW, cluster=replace(CLUSTER, **changes))


def hosts(*changes: dict[str, Any]) -> ProxyView:
    """The hosts, changed one after the other; those without a change are left out."""
    return replace(VIEW, hosts=tuple(replace(host, **change) for host, change in zip(HOSTS, changes, strict=False)))


@pytest.mark.parametrize(
    ("view", "verdict", "words"),
    [
        (VIEW, "sticks", "hashes on header user-session by RING_HASH over 3 ready pods"),
        (cluster(lb_policy="MAGLEV"), "sticks", "by MAGLEV"),
        (route(hash_policies=(HashPolicy("header", "User-Session"),)), "sticks", "RING_HASH"),
        (route(clusters=((NAME, 100), ("other", 0))), "sticks", "RING_HASH"),
        (
            replace(hosts({}, {}), cluster=replace(CLUSTER, name=NAME.replace("||", "|v1|"))),
            "sticks",
            "over 2 ready pods of nginx-service.sample:80 (subset v1)",
        ),
        (route(hash_policies=()), "does_not", "has no hash policy for header user-session"),
        (route(hash_policies=(HashPolicy("cookie", "user-session"),)), "does_not", "hashes on cookie user-session"),
        (route(hash_policies=(), protocol="tcp"), "does_not", "treats the port as TCP and has no hash policy"),
        (
            replace(route(clusters=((NAME, 50), ("outbound|80|v2|a.b.svc.c", 50))), alike=False),
            "does_not",
            "weighted over nginx-service.sample:80 and a.b:80 (subset v2)",
        ),
        (route(headers_removed=("user-session",)), "does_not", "removes the header user-session"),
        (route(headers_set=(("user-session", "x"),)), "does_not", "sets the header user-session"),
        (cluster(lb_policy="LEAST_REQUEST"), "does_not", "by LEAST_REQUEST (DestinationRule sample/rule)"),
        (cluster(lb_policy="LEAST_REQUEST", rule=None), "does_not", "no DestinationRule in force"),
        (replace(VIEW, route=None), "does_not", "so it balances connections, not requests"),
        (replace(VIEW, route=None, cluster=None), "does_not", "neither a route nor a cluster"),
        (hosts({}, {"priority": 1}, {"priority": 1}), "does_not", "prefers 1 of 3 pods, those of its own locality"),
        (replace(VIEW, route=None, virtual_host="vhost"), "unknown", "every route of vhost"),
        (route(hash_policies=(HashPolicy("header", "user-session"), HashPolicy("cookie", "user"))), "unknown", "hashes on more than header user-session: user"),
        (replace(VIEW, cluster=None), "unknown", "which does not exist"),
        (hosts({}, {}), "unknown", "can select 2 of 3 ready pods"),
        (hosts({}, {}, {"address": "10.9.9.9:80"}), "unknown", "1 hosts that are not ready pods of the service (10.9.9.9:80)"),
        (hosts({"healthy": False}, {"healthy": False}, {"healthy": False}), "unknown", "is in panic mode"),
        (replace(hosts({}, {"zone": "zone-b"}, {}), cluster=replace(CLUSTER, by_locality=True)), "unknown", "localities have weights"),
    ],
)
def test_one_client(view: ProxyView, verdict: str, words: str) -> None:
    found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, view)])
    assert (found.verdict, words in found.why) == (verdict, True), found.why


def test_a_route_that_cannot_be_told_is_unknown_and_one_that_envoy_answers_reaches_no_pod() -> None:
    doubt = replace(VIEW, route=None, doubt="a share of 10 in 100 requests cannot be evaluated")
    for view, words in ((doubt, "determined: a share of 10"), (route(clusters=(), answered="a redirect"), "responds to GET / with a redirect")):
        found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, view)])
        assert (found.verdict, words in found.why) == ("unknown", True), found.why


def test_routes_for_other_requests_are_named() -> None:
    """A canary by cookie: the callers who carry it stick, the probe's requests do not (shared case 08)."""
    lane = Lane("header cookie safe_regex .*canary-seat=in.*", ("outbound|80||cart-canary.shop.svc.cluster.local",))
    halves = replace(route(clusters=((NAME, 80), ("outbound|80||b.shop.svc.c", 20))), alike=False, lanes=(lane,))
    found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, halves)])
    assert found.verdict == "does_not"
    assert found.why.endswith("Other requests take a route of their own: header cookie safe_regex .*canary-seat=in.* leads to cart-canary.shop:80")
    keyless = replace(VIEW, keyless=replace(ROUTE, clusters=(("outbound|80||plain.shop.svc.c", 100),)))
    found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, keyless)])
    assert (found.verdict, found.why.endswith("Requests without the key take another route, to plain.shop:80")) == ("sticks", True)


def test_what_is_not_seen_from_here_is_unknown() -> None:
    """An ambient client behind a waypoint that works was `does_not`, and so was a service that exportTo hides."""
    ambient = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(replace(CLIENT, sidecar=False, ambient=True), None)])
    nothing = replace(VIEW, route=None, cluster=None)
    hidden = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, nothing, hidden="Sidecar a/b does not import it")])
    assert (ambient.verdict, hidden.verdict) == ("unknown", "unknown")
    assert "inspect it from a client pod with a sidecar" in ambient.why
    assert hidden.why.endswith("has neither a route nor a cluster for service sample/nginx-service:80: Sidecar a/b does not import it")


def test_a_pod_with_two_addresses_is_reached_by_either() -> None:
    second = tuple(replace(backend, address=f"[fd00::{number}]:80") for number, backend in enumerate(MEMBERSHIP.backends))
    dual = replace(MEMBERSHIP, backends=MEMBERSHIP.backends + second)
    assert static_verdict(KEY, TARGET, Declared(), dual, [ClientView(CLIENT, VIEW)]).verdict == "sticks"
    lacking = static_verdict(KEY, TARGET, Declared(), dual, [ClientView(CLIENT, hosts({}, {}))])
    assert (lacking.verdict, "2 of 3 ready pods" in lacking.why) == ("unknown", True)


def test_a_subset_is_compared_with_its_own_pods() -> None:
    subset = replace(CLUSTER, name=NAME.replace("||", "|v1|"))
    found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, replace(hosts({}, {}, {"healthy": False}), cluster=subset))])
    assert (found.verdict, "2 of 3 ready pods" in found.why) == ("unknown", True)


def test_without_a_key_none_is_made_up() -> None:
    plain = replace(route(hash_policies=()), cluster=replace(CLUSTER, lb_policy="LEAST_REQUEST", rule=None))
    found = static_verdict(None, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, plain)])
    assert (found.verdict, "balances nginx-service.sample:80 by LEAST_REQUEST" in found.why, "user-session" in found.why) == ("does_not", True, False)
    state = static_verdict(None, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, route(hash_policies=(HashPolicy("other", None),)))])
    assert (state.verdict, "hashes on something" in state.why) == ("unknown", True)
    unread = static_verdict(None, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, None, "routes: cut short")])
    assert (unread.verdict, "cut short" in unread.why) == ("unknown", True)


def test_the_policies_of_the_cluster_come_before_the_routes() -> None:
    """HttpProtocolOptions.hash_policy of Envoy 1.37 and newer, by an EnvoyFilter; synthetic."""
    own = replace(route(hash_policies=()), cluster=replace(CLUSTER, hash_policies=(HashPolicy("header", "user-session"),)))
    other = cluster(hash_policies=(HashPolicy("cookie", "user"),))
    assert static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, own)]).verdict == "sticks"
    assert static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, other)]).verdict == "does_not"
    foreign = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, cluster(unusual=("load_balancing_policy",)))])
    assert (foreign.verdict, "load_balancing_policy of its own" in foreign.why) == ("unknown", True)


def test_a_client_without_sidecar_does_not_stick_and_one_without_answer_is_unknown() -> None:
    bare = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(replace(CLIENT, sidecar=False), None)])
    silent = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, None)])
    refused = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, None, "No permission")])
    assert (bare.verdict, silent.verdict, refused.verdict) == ("does_not", "unknown", "unknown")
    assert refused.why == "pod sample/test-pod could not be inspected: No permission"


@pytest.mark.parametrize(
    ("far", "verdict", "words"),
    [
        # As it is for a moment while a pod comes or goes.
        (hosts({}, {}), "unknown", "only the first can select one pod (10.0.0.3:80)"),
        (cluster(lb_policy="MAGLEV", rule="far/rule"), "does_not", "RING_HASH of sample/rule and MAGLEV of far/rule"),
        (cluster(minimum_ring_size=64), "does_not", "balance differently"),
    ],
)
def test_clients_that_differ_do_not_stick_but_each_source_address_does(far: ProxyView, verdict: str, words: str) -> None:
    seen = [ClientView(CLIENT, VIEW), ClientView(OTHER, far)]
    found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, seen)
    assert (found.verdict, words in found.why) == (verdict, True), found.why
    source = [replace(entry, view=replace(entry.view, route=replace(ROUTE, hash_policies=(HashPolicy("source_ip", None),)))) for entry in seen if entry.view]
    assert static_verdict(Key("source_ip", None), TARGET, Declared(), MEMBERSHIP, source).verdict != "does_not"


def test_one_broken_client_outweighs_one_that_is_in_doubt() -> None:
    found = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, None, "gone"), ClientView(OTHER, route(hash_policies=()))])
    assert (found.verdict, "far-pod" in found.why) == ("does_not", True)


def test_a_filter_that_cannot_be_read_forbids_to_say_only_where_all_else_is_in_order() -> None:
    filters = ("sample/lua",)
    sound = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, VIEW, filters=filters)])
    broken = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [ClientView(CLIENT, route(hash_policies=()), filters=filters)])
    assert (sound.verdict, broken.verdict) == ("unknown", "does_not")
    assert "EnvoyFilter sample/lua" in sound.why


def test_what_the_objects_alone_can_say() -> None:
    rules = static_verdict(KEY, TARGET, Declared(("sample/rule",)), MEMBERSHIP, [])
    headless = static_verdict(KEY, TARGET, Declared(("sample/rule",), headless=True), MEMBERSHIP, [])
    nothing = static_verdict(KEY, TARGET, Declared(), MEMBERSHIP, [])
    assert (rules.verdict, headless.verdict, nothing.verdict) == ("unknown", "does_not", "unknown")
    assert "DestinationRule sample/rule asks for affinity" in rules.why


def test_endpoints_that_are_not_there_or_may_not_be_read() -> None:
    empty = static_verdict(KEY, TARGET, Declared(), Membership({}, ()), [ClientView(CLIENT, VIEW)])
    unread = static_verdict(KEY, TARGET, Declared(), None, [ClientView(CLIENT, VIEW)])
    assert (empty.verdict, empty.why) == ("unknown", "service sample/nginx-service:80 has no ready pod")
    assert (unread.verdict, "no permission to read the service's endpoints" in unread.why) == ("unknown", True)


def test_one_pod_sticks_in_few_words() -> None:
    one = Membership({}, MEMBERSHIP.backends[:1])
    found = static_verdict(KEY, TARGET, Declared(), one, [ClientView(CLIENT, hosts({}))])
    assert (found.verdict, found.why) == ("sticks", "the Envoy of pod sample/test-pod hashes on header user-session, and there is only one pod")
