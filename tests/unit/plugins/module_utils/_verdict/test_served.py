# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who answers: the pods of the Service, pods behind them, Envoy itself, or nobody; and which pods count.

The windows are synthetic: changed copies of the simulation's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._membership import is_settled
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, Checkpoint, ClusterView, Membership
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import Tally
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Window
from simulation import ROUTE, Truth, at_random, window

BEHIND = frozenset({"cart-66c4db59bb-nfcmr"})


def with_tally(seen: Window, by: str = "header", **fields: object) -> Window:
    entry = seen.client_windows[0]
    return replace(seen, client_windows=(replace(entry, tally=replace(entry.tally, **fields), identified_by=by),))


@pytest.mark.parametrize("by", ["upstream", "access_log"])
def test_responses_that_name_pods_of_another_workload_never_pass(by: str) -> None:
    """A Service whose endpoints are a proxy that chooses again: by counters, every session sticks to its proxy pod."""
    found = judge(with_tally(window(Truth()), by, samples=[frozenset(), BEHIND]))
    assert found.verdict == "inconclusive"
    assert found.reasons == (
        "responses name pods that are no endpoints of the Service (cart-66c4db59bb-nfcmr): its endpoints (a, b) forward requests and choose a pod again",
    )


@pytest.mark.parametrize("samples", [[], [frozenset()], [BEHIND | {"a"}]])
def test_responses_that_name_nothing_or_their_own_pod_do_not_matter(samples: list[frozenset[str]]) -> None:
    assert judge(with_tally(window(Truth()), "upstream", samples=samples)).verdict == "passed"


def test_no_bound_is_given_where_sessions_moved() -> None:
    found = judge(window(Truth(balancer=at_random)))
    assert (found.verdict, found.flip_rate_95) == ("failed", None)


def unserved(**fields: object) -> Window:
    """A window in which no response names a pod."""
    seen = window(Truth())
    entry = seen.client_windows[0]
    tally = Tally([], sent=171, **fields)
    traces = tuple(replace(trace, runs=[], counts=Counter()) for trace in entry.traces)
    return replace(seen, client_windows=(replace(entry, tally=tally, traces=traces, keyless={}),))


def test_a_service_that_serves_nobody_is_an_error() -> None:
    statuses: Counter[str] = Counter({"503": 171})
    found = judge(unserved(answered=171, by_status=statuses, by_proxy=statuses))
    assert (found.verdict, found.reasons) == (
        "error",
        ("no session is served: all 171 responses are server errors (171 times 503), and an Envoy wrote all of them itself",),
    )
    assert judge(unserved(answered=171, by_status=Counter({"503": 170, "200": 1}))).verdict == "inconclusive"


def test_why_nothing_was_answered_is_said() -> None:
    found = judge(unserved(by_exit=Counter({6: 171}), killed=Counter({137: 2})))
    assert found.verdict == "inconclusive"
    assert found.reasons[0].startswith(
        "no request was answered (2 times curl ended with status 137 (killed), 171 times the host name could not be resolved (curl 6))"
    )


def changed(seen: Window, change: Callable[[Checkpoint], Checkpoint]) -> Window:
    entry = seen.client_windows[0]
    looks = tuple(change(look) for look in entry.checkpoints)
    return replace(seen, before=looks[0].membership, after=looks[-1].membership, client_windows=(replace(entry, checkpoints=looks),))


def test_a_route_to_a_subset_is_compared_with_the_pods_of_the_subset() -> None:
    """Three pods of the subset, and a canary that the route never reaches."""
    canary = Backend("canary", "uid", "10.9.9.9:8080", None, None, True)

    def to_subset(look: Checkpoint) -> Checkpoint:
        assert look.view is not None
        assert look.view.cluster is not None
        name = look.view.cluster.name.replace("|80||", "|80|stable|")
        cluster: ClusterView = replace(look.view.cluster, name=name)
        membership = replace(look.membership, backends=(*look.membership.backends, canary))
        return replace(look, view=replace(look.view, cluster=cluster, route=replace(ROUTE, clusters=((name, 100),))), membership=membership)

    seen = changed(window(Truth()), to_subset)
    found = judge(seen)
    assert (found.verdict, found.reasons, sorted(found.eligible)) == ("passed", (), ["a", "b", "c"])
    assert is_settled(replace(seen.client_windows[0].checkpoints[0], membership=replace(seen.after, age=3.0)))


def test_a_ready_pod_that_the_services_own_cluster_lacks_is_not_eligible() -> None:
    other = Backend("other", "uid", "10.9.9.9:8080", None, None, True)
    found = judge(changed(window(Truth()), lambda look: replace(look, membership=replace(look.membership, backends=(*look.membership.backends, other)))))
    assert (found.verdict, found.eligible["other"]) == ("not_proven", False)


def dual(membership: Membership) -> Membership:
    """The same pods, each with an IPv6 address too, in a slice of its own."""
    second = tuple(replace(backend, address=f"[fd00::{number}]:8080") for number, backend in enumerate(membership.backends))
    return replace(membership, backends=(*second, *membership.backends))


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_addresses_of_a_pod_envoy_may_use_either(order: int) -> None:
    def both(look: Checkpoint) -> Checkpoint:
        membership = dual(look.membership)
        return replace(look, membership=replace(membership, backends=membership.backends[::order]))

    seen = changed(window(Truth()), both)
    found = judge(seen)
    assert (found.verdict, found.reasons) == ("passed", ())
    assert found.eligible == {"a": True, "b": True, "c": True}
    assert is_settled(replace(seen.client_windows[0].checkpoints[0], membership=replace(seen.after, age=3.0)))


def test_a_route_with_weights_over_different_hosts_never_passes() -> None:
    route = replace(ROUTE, clusters=(("stable", 99), ("canary", 1)))
    found = judge(window(Truth(route=route, alike=False)))
    assert (found.verdict, found.reasons[0]) == (
        "not_proven",
        "the route splits requests over clusters with different hosts (99 to stable, 1 to canary), whatever their session",
    )
