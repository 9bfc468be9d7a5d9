# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan that is as small as its bound grows where, and only where, the verdict needs it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import FIRST_LOOK, SECOND_LOOK, Plan, least_trials
from ansible_collections.meshops.istio.plugins.module_utils._verdict.bounds import upper_bound
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.stages import further_plans
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Window
from simulation import Balancer, Truth, at_random, ring, window

PODS = tuple(f"pod-{number}" for number in range(6))
# Sticky, spread, and another mapping than the ring's.
by_name = Balancer(lambda sessions, hosts, _chance: [hosts[sum(session.encode()) % len(hosts)] for session in sessions])


def plan_of(seen: Window) -> Plan:
    return seen.client_windows[0].plan


def test_a_healthy_mesh_is_proved_by_the_plan() -> None:
    seen = window(Truth())
    assert (plan_of(seen).total, plan_of(seen).extra) == (171, 0)
    found = judge(seen)
    assert (found.verdict, found.prediction.matched) == ("passed", 39)
    # Each of the 156 requests with the key was a trial, at the confidence of a first look.
    assert found.flip_rate_95 == upper_bound(0, 156, FIRST_LOOK) < 0.02


def test_where_no_landing_pod_is_computed_the_first_round_is_no_trial() -> None:
    seen = window(Truth(balancer=by_name))
    found = judge(seen)
    assert (found.verdict, found.prediction.available) == ("passed", False)
    assert (plan_of(seen).rounds, plan_of(seen).extra, plan_of(seen).confidence) == (4, 1, FIRST_LOOK)
    assert found.flip_rate_95 == upper_bound(0, 4 * 39, FIRST_LOOK)


def lossy(lost: int) -> Window:
    """A window in which this many sessions lost their answer in one round."""
    left = [lost]

    def balance(sessions: tuple[str, ...], hosts: tuple[str, ...], chance: object) -> list[str | None]:
        taken, left[0] = left[0], 0
        return [None if number < taken else pod for number, pod in enumerate(ring.keyed(sessions, hosts, chance))]

    return window(Truth(balancer=Balancer(balance)))


@pytest.mark.parametrize(("lost", "extra"), [(0, 0), (1, 8), (3, 13), (4, 15), (5, 0)])
def test_lost_responses_are_made_up_for_at_a_higher_confidence(lost: int, extra: int) -> None:
    seen = lossy(lost)
    plan, found = plan_of(seen), judge(seen)
    assert plan.extra == pytest.approx(extra, abs=1)
    assert found.verdict == ("passed" if lost < 5 else "inconclusive")
    if extra:
        assert plan.confidence == SECOND_LOOK
        assert found.flip_rate_95 == upper_bound(lost, plan.keyed, SECOND_LOOK) <= 0.02


def test_moves_that_a_change_explains_are_followed_until_they_outnumber_the_changes() -> None:
    history = ((0, PODS[:3]), (1, PODS[:4]), (2, PODS[:3]), (3, PODS[:4]))
    assert judge(window(Truth(balancer=at_random, history=history))).verdict == "failed"
    seen = window(Truth(history=history))
    assert (judge(seen).verdict, plan_of(seen).all_rounds) == ("inconclusive", 20)


def test_more_rounds_are_neither_sent_twice_nor_over_the_cap_nor_for_a_plan_of_the_users() -> None:
    first = lossy(6)
    entry = first.client_windows[0]
    short = replace(first, client_windows=(replace(entry, plan=replace(entry.plan, extra=0)),))
    one = window(Truth(balancer=by_name))
    planned = replace(one.client_windows[0].plan, extra=0)
    rounds = tuple(replace(trace, counts=Counter(dict.fromkeys(trace.counts, 4))) for trace in one.client_windows[0].traces)
    cut = replace(one, client_windows=(replace(one.client_windows[0], plan=planned, traces=rounds),))
    found = judge(cut)
    assert [plan.extra for plan in further_plans(cut, found) or ()] == [1]
    assert further_plans(cut, found, room=38) is None
    assert further_plans(one, judge(one)) is None
    users = replace(cut, client_windows=(replace(cut.client_windows[0], plan=replace(planned, rate=None)),))
    assert further_plans(users, judge(users)) is None
    assert further_plans(short, judge(short)) is None


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([0.01, 0.02, 0.05, 0.08, 0.2]))
def test_both_looks_together_are_wrong_in_at_most_one_of_twenty_runs(rate: float) -> None:
    """The chance that a mesh at the edge of the bound passes: nothing left its pod in the first look, or few enough did in a second."""
    first = least_trials(rate)
    chance = (1 - rate) ** first
    for lost in range(1, 6):
        second = next(count for count in range(first, 200 * first) if upper_bound(lost, count, SECOND_LOOK) <= rate)
        term = total = (1 - rate) ** second
        for number in range(1, lost + 1):
            term *= (second - number + 1) / number * rate / (1 - rate)
            total += term
        assert chance + total <= 0.05
