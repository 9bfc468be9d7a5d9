# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a check stops for the service's own sake."""

from __future__ import annotations

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import Brake, StopOn

GENTLE = StopOn(frozenset([429]), 0.02)


def _sent_until(brake: Brake, statuses: list[int]) -> int:
    """How many answers it takes, seen one by one; all of them where nothing stops it."""
    for number, status in enumerate(statuses, start=1):
        try:
            brake.note([status])
        except CheckError:
            return number
    return len(statuses) + 1


@pytest.mark.parametrize(
    ("stop_on", "statuses", "sent"),
    [
        (GENTLE, [200, 200, 429, 200], 3),
        (GENTLE, [200] * 50 + [503, 500, 200], 54),
        # 2 % of 100 are 2, and the third is more.
        (GENTLE, [503, 200, 500, 200, 599, 200], 5),
        # No answer is no server error, and a 4xx is the application's own business.
        (GENTLE, [0] * 20 + [404] * 20, 41),
        (StopOn(frozenset([503]), None), [500] * 30 + [503], 31),
        (StopOn(frozenset(), 0.0), [200, 502], 2),
        (None, [429, 500] * 50, 101),
    ],
)
def test_it_stops_when_it_should(stop_on: StopOn | None, statuses: list[int], sent: int) -> None:
    assert _sent_until(Brake(stop_on, 100), statuses) == sent


def test_what_one_client_saw_stops_the_others() -> None:
    brake = Brake(GENTLE, 100)
    with pytest.raises(CheckError, match=r"status 429"):
        brake.note([200, 429])
    with pytest.raises(CheckError, match=r"status 429"):
        brake.note(())


def test_the_message_has_the_figures() -> None:
    with pytest.raises(CheckError) as stopped:
        Brake(GENTLE, 100).note([503, 503, 503])
    assert stopped.value.code == "stopped"
    assert "3 responses are server errors (5xx), more than 2.00% of the 100 requests planned" in stopped.value.msg
