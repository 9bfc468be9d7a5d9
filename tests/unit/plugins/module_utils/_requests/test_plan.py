# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: every session in every round, controls dealt out, the same seed the same order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Key
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import BATCH, KEYLESS_REQUESTS, PROFILES, Plan, make_plan, of_one_source

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


@pytest.mark.parametrize(("profile", "backends", "sessions"), [("default", 1, 20), ("default", 3, 36), ("quick", 50, 120), ("deep", 3, 60), ("deep", 8, 96)])
def test_sizes_follow_profile_and_backends(profile: str, backends: int, sessions: int) -> None:
    plan = make_plan(KEY, None, None, None, PROFILES[profile], backends, 1)
    assert len(plan.sessions) == sessions
    assert plan.rounds == PROFILES[profile].requests


def test_few_given_ids_are_filled_up_for_the_spread_without_a_collision() -> None:
    plan = make_plan(KEY, ["meshops-check-2", "a"], None, None, PROFILES["default"], 3, 1)
    assert plan.sessions[:2] == ("meshops-check-2", "a")
    assert plan.requested == 2
    assert len(plan.sessions) == len(set(plan.sessions)) == 20


def test_a_cap_on_the_total() -> None:
    assert make_plan(KEY, None, 100, 10_000, PROFILES["default"], 3, 1).total == 1_000_020
    with pytest.raises(CheckError, match="cap of 1000000") as caught:
        make_plan(KEY, None, 100_000, 1_000, PROFILES["default"], 3, 1)
    assert caught.value.code == "too_many_requests"


def test_a_client_that_is_the_session_sends_as_many_requests_as_all_of_them() -> None:
    plan = make_plan(Key("source_ip", None, own=True), None, None, None, PROFILES["default"], 3, 1, keyless=False)
    own = of_one_source(plan, "10.244.0.7")
    assert (own.sessions, own.requested, own.total) == (("10.244.0.7",), 1, plan.total)
    assert [request.round for request in everything(own)] == list(range(plan.total))
