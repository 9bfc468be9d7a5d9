# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folding answers: the runs are those of the whole sequence, in whatever order the answers come."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD, Observation
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Request
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import MOST_RUNS, Latencies, Tally, Trace


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=MOST_RUNS).flatmap(lambda pods: st.tuples(st.just(pods), st.permutations(range(len(pods))))))
def test_the_order_of_arrival_does_not_matter(case: tuple[list[str], list[int]]) -> None:
    pods, order = case
    trace = Trace()
    for number in order:
        trace.add(number, pods[number])
    assert [run.pod for run in trace.runs] == [pod for pod, _group in itertools.groupby(pods)]
    assert sum(trace.counts.values()) == len(pods)


def test_runs_are_capped_and_the_cap_is_known() -> None:
    trace = Trace()
    for number in range(MOST_RUNS * 2):
        trace.add(number, "ab"[number % 2])
    assert len(trace.runs) == MOST_RUNS
    assert trace.overflow
    assert sum(trace.counts.values()) == MOST_RUNS * 2


def answer(index: int, identity: str, status: int = 200) -> Observation:
    return Observation(index, status, 0, 0.01, identity)


def test_an_answer_without_identity_counts_as_answered_and_not_as_landed() -> None:
    tally = Tally([Trace()])
    tally.add(Request(0, 0, 0), answer(0, FIELD.join(["pod-1", ""])))
    tally.add(Request(1, 0, 1), answer(1, FIELD.join(["", ""]), 503))
    tally.add(Request(2, 0, 2), Observation(2, 0, 28, 5.0, ""))
    tally.add(Request(3, None, 2), answer(3, FIELD.join(["pod-2", ""])))
    assert (tally.answered, tally.by_status) == (3, {"200": 2, "503": 1})
    assert dict(tally.sessions[0].counts) == {FIELD.join(["pod-1", ""]): 1}
    assert dict(tally.keyless) == {FIELD.join(["pod-2", ""]): 1}


@given(st.lists(st.floats(0.0001, 10), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentiles_are_right_to_five_percent(seconds: list[float], share: float) -> None:
    latencies = Latencies()
    for value in seconds:
        latencies.add(value)
    rank = max(0, -int(-share * len(seconds) // 1) - 1)
    assert abs(latencies.percentile(share) / sorted(seconds)[rank] - 1) < 0.06
    assert latencies.highest == max(seconds)
