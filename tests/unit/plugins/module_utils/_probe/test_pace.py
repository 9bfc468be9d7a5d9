# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""No second has more requests than the rate, however many clients share it and however long their requests take."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._probe.pace import Pace


def sent_at(rate: int, clients: int, seconds: float, seed: int, most: float = 3.0) -> list[float]:
    """When requests were sent, each at any moment of its chunk, by clients that take turns on one clock."""
    now, chance, times = 0.0, random.Random(seed), []
    pace = Pace(rate, clock=lambda: now)
    order = itertools.count()
    events: list[tuple[float, int, list[float] | None]] = [(0.0, next(order), None) for _client in range(clients)]
    heapq.heapify(events)
    while events:
        now, _number, under_way = heapq.heappop(events)
        if now > most:
            break
        if under_way is not None:
            under_way[0] = now
            heapq.heappush(events, (now, next(order), None))
            continue
        entry = [float("inf"), float(pace.chunk)]
        if (wait := pace._enter(entry)) > 0:
            heapq.heappush(events, (now + wait, next(order), None))
            continue
        took = chance.uniform(0, seconds)
        times.extend(now + chance.uniform(0, took) for _request in range(pace.chunk))
        heapq.heappush(events, (now + took, next(order), entry))
    return sorted(times)


@settings(max_examples=40, deadline=None)
@given(rate=st.integers(1, 40), clients=st.integers(1, 6), seconds=st.sampled_from([0.0, 0.03, 0.4, 2.0]), seed=st.integers(0, 2**20))
def test_no_second_has_more_than_the_rate(rate: int, clients: int, seconds: float, seed: int) -> None:
    times = sent_at(rate, clients, seconds, seed)
    # The busiest interval of a second begins with a request; it is open at its end.
    busiest = max(sum(1 for other in times[number:] if other < first + 1 - 1e-9) for number, first in enumerate(times))
    assert busiest <= rate


def test_a_rate_below_the_number_of_clients_holds_too() -> None:
    assert len([time for time in sent_at(2, 5, 0.01, 1) if time < 2]) <= 4


@pytest.mark.parametrize(("seconds", "least"), [(0.0, 19.9), (0.04, 18.5)])
def test_the_rate_is_used(seconds: float, least: float) -> None:
    times = sent_at(20, 1, seconds, 1, most=20)
    assert len(times) / times[-1] > least


def test_a_turn_waits_and_is_noted_even_if_it_fails() -> None:
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(1, clock=lambda: now[0], sleep=sleep)
    with pytest.raises(ValueError, match="lost"), pace.turn(1):
        raise ValueError("lost")
    with pace.turn(1):
        pass
    assert sum(slept) == pytest.approx(1.0, abs=0.05)
