# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A check during which an Envoy could not be read whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Window
from simulation import Truth, at_random, window

WHY = "The admin pages of Envoy could not be read completely (routes: curl ended with exit code 28)"


def unread_at(seen: Window, *places: int) -> Window:
    """The same window, where the pages of these checkpoints were cut short."""
    (entry,) = seen.client_windows
    checkpoints = tuple(
        replace(checkpoint, view=None, unread=(WHY,)) if number in places else checkpoint for number, checkpoint in enumerate(entry.checkpoints)
    )
    return replace(seen, client_windows=(replace(entry, checkpoints=checkpoints),))


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1, 2, 3, 4)])
def test_a_page_that_was_cut_short_is_neither_a_pass_nor_a_change_of_the_route(places: tuple[int, ...]) -> None:
    """It read "route or cluster changed"."""
    found = judge(unread_at(window(Truth()), *places))
    assert found.verdict == "inconclusive"
    assert any(WHY in reason and "was not read at every checkpoint" in reason for reason in found.reasons), found.reasons
    assert not any("changed" in reason or "did not always respond" in reason for reason in found.reasons), found.reasons


def test_moves_that_were_seen_are_failed_all_the_same() -> None:
    assert judge(unread_at(window(Truth(balancer=at_random)), 1)).verdict == "failed"
