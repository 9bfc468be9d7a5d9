# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: every session in every round, controls dealt out, the same seed the same order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import (
    BATCH,
    KEYLESS_REQUESTS,
    PROFILES,
    Need,
    Plan,
    least_trials,
    make_plan,
    of_one_source,
)

KEY = Key("header", "user-session")


def everything(plan: Plan) -> list:
    return [request for batches in plan.segments() for rounds in batches for request in plan.requests(rounds)]


@given(st.integers(1, 60), st.integers(2, 40), st.integers(0, 2**31))
def test_every_session_once_in_every_round_and_no_index_twice(sessions: int, rounds: int, seed: int) -> None:
    plan = make_plan(KEY, None, sessions, rounds, PROFILES["default"], 3, seed)
    requests = everything(plan)
    assert [request.index for request in requests] == list(range(plan.total))
    keyed = [(request.session, request.round) for request in requests if request.session is not None]
    assert sorted(keyed) == [(session, number) for session in range(len(plan.sessions)) for number in range(rounds)]
    assert sum(request.session is None for request in requests) == KEYLESS_REQUESTS


def test_rounds_come_one_after_the_other_and_are_shuffled_by_the_seed() -> None:
    one, same, other = (everything(make_plan(KEY, None, 20, 5, PROFILES["default"], 3, seed)) for seed in (1, 1, 2))
    assert one == same
    assert [request.session for request in one] != [request.session for request in other]
    assert [request.round for request in one] == sorted(request.round for request in one)


def test_an_order_does_not_depend_on_the_batches_it_is_read_in() -> None:
    plan = make_plan(KEY, None, 30, 8, PROFILES["default"], 3, 7)
    whole = list(plan.requests(range(8)))
    assert [*plan.requests(range(3)), *plan.requests(range(3, 8))] == whole


def test_no_batch_is_larger_than_curl_can_hold() -> None:
    plan = make_plan(KEY, None, 700, 40, PROFILES["default"], 3, 7)
    sizes = [len(list(plan.requests(rounds))) for batches in plan.segments() for rounds in batches]
    assert max(sizes) <= BATCH
    assert sum(sizes) == plan.total


@pytest.mark.parametrize(
    ("profile", "backends", "sessions", "rounds"),
    [
        ("quick", 3, 36, 2),
        ("quick", 50, 72, 2),
        ("default", 1, 22, 7),
        ("default", 2, 26, 6),
        ("default", 3, 39, 4),
        ("default", 10, 77, 2),
        ("deep", 3, 61, 51),
        ("deep", 8, 97, 32),
    ],
)
def test_sizes_follow_profile_and_backends(profile: str, backends: int, sessions: int, rounds: int) -> None:
    plan = make_plan(KEY, None, None, None, PROFILES[profile], backends, 1)
    assert (len(plan.sessions), plan.rounds) == (sessions, rounds)
    assert plan.keyed >= least_trials(PROFILES[profile].rate)


@pytest.mark.parametrize("backends", range(1, 40))
def test_a_pass_of_the_default_profile_costs_at_most_a_third_more_than_its_bound_needs(backends: int) -> None:
    plan = make_plan(KEY, None, None, None, PROFILES["default"], backends, 1)
    assert least_trials(0.02, 0.95) == 149
    assert plan.total <= 1.3 * 149


@pytest.mark.parametrize(("rate", "confidence", "trials"), [(0.02, 0.95, 149), (0.02, 0.955, 154), (0.08, 0.955, 38), (0.001, 0.955, 3100), (1.0, 0.95, 1)])
def test_the_least_that_a_bound_needs(rate: float, confidence: float, trials: int) -> None:
    assert least_trials(rate, confidence) == trials


@pytest.mark.parametrize(
    ("requests", "need", "sessions", "rounds"),
    [
        # A looser bound allows more losses, but needs no fewer requests; a tighter one needs more.
        (None, Need(max_flip_rate=0.1), 39, 4),
        (None, Need(max_flip_rate=0.001), 37, 86),
        # Where the landing pods cannot be computed, the first round is no trial.
        (None, Need(predictable=False), 39, 5),
        # Each client proves the bound; with less room, all of them together do.
        (None, Need(clients=3, cap=2500), 39, 4),
        (None, Need(clients=3, cap=300), 36, 2),
        # The number of rounds is the user's, whatever the cap.
        (20, Need(cap=100), 36, 20),
    ],
)
def test_what_a_plan_must_show_and_may_cost(requests: int | None, need: Need, sessions: int, rounds: int) -> None:
    plan = make_plan(KEY, None, None, requests, PROFILES["default"], 3, 1, need=need)
    assert (len(plan.sessions), plan.rounds) == (sessions, rounds)
    assert (plan.rate, plan.confidence) == ((None, 0.95) if requests else (min(0.02, need.max_flip_rate or 1), 0.955))


@given(st.sampled_from(sorted(PROFILES)), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5000))
def test_no_plan_of_ours_exceeds_a_cap_that_the_bound_fits(profile: str, backends: int, clients: int, cap: int) -> None:
    plan = make_plan(KEY, None, None, None, PROFILES[profile], backends, 1, need=Need(clients=clients, cap=cap))
    pooled = least_trials(PROFILES[profile].max_flip_rate) / clients
    if plan.total * clients > cap:
        assert cap < clients * (max(2 * 72, 2 * pooled) + KEYLESS_REQUESTS)
    assert plan.keyed * clients >= least_trials(PROFILES[profile].max_flip_rate)


def test_rounds_that_are_added_continue_the_plan() -> None:
    plan = make_plan(KEY, None, None, None, PROFILES["default"], 3, 7)
    longer = replace(plan, extra=3)
    more = [request for batches in longer.extra_segments() for rounds in batches for request in longer.requests(rounds)]
    assert everything(longer) == everything(plan)
    assert [request.index for request in more] == list(range(plan.total, longer.total))
    assert {request.round for request in more} == {4, 5, 6}
    assert all(request.session is not None for request in more)


def test_few_given_ids_are_filled_up_for_the_spread_without_a_collision() -> None:
    plan = make_plan(KEY, ["meshops-check-2", "a"], None, None, PROFILES["default"], 3, 1)
    assert plan.sessions[:2] == ("meshops-check-2", "a")
    assert plan.requested == 2
    assert len(plan.sessions) == len(set(plan.sessions)) == 20


def test_a_cap_on_the_total() -> None:
    assert make_plan(KEY, None, 100, 10_000, PROFILES["default"], 3, 1).total == 1_000_015
    with pytest.raises(CheckError, match="cap of 1000000") as caught:
        make_plan(KEY, None, 100_000, 1_000, PROFILES["default"], 3, 1)
    assert caught.value.code == "too_many_requests"


def test_a_client_that_is_the_session_sends_as_many_requests_as_all_of_them() -> None:
    plan = make_plan(Key("source_ip", None, own=True), None, None, None, PROFILES["default"], 3, 1, keyless=False)
    own = of_one_source(plan, "10.244.0.7")
    assert (own.sessions, own.requested, own.total) == (("10.244.0.7",), 1, plan.total)
    assert [request.round for request in everything(own)] == list(range(plan.total))
