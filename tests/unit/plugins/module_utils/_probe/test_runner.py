# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first look waits until changes of the endpoints have reached Envoy, but not for ever."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._model import Checkpoint
from ansible_collections.meshops.istio.plugins.module_utils._probe import runner
from simulation import Truth, window


def looks_of_age(*ages: float) -> list[Checkpoint]:
    first = window(Truth()).client_windows[0].checkpoints[0]
    return [replace(first, membership=replace(first.membership, age=age), at=float(number)) for number, age in enumerate(ages)]


def first_look(monkeypatch: pytest.MonkeyPatch, ages: list[float]) -> Checkpoint:
    """The look that counts, where looks are a second apart."""
    clock = iter(range(1000))
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=lambda _seconds: None))
    looks = iter(looks_of_age(*ages))
    campaign = SimpleNamespace(checkpoint=lambda _session: (next(looks), {}))
    return runner._first_checkpoint(cast(Any, campaign), cast(Any, None))[0]


def test_a_settled_cluster_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_look(monkeypatch, [100.0]).at == 0


def test_a_recent_change_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_look(monkeypatch, [0.0, 1.0, 2.0, 3.0]).at == 2


def test_constant_churn_is_not_waited_for_longer_than_a_change_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_look(monkeypatch, [0.0] * 100).at == pytest.approx(5, abs=1)


def test_looks_at_a_large_mesh_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """In five seconds of churn there were 25 looks, each at everything."""
    now = [0.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)))
    looks = iter(looks_of_age(*[0.0] * 100))
    seen: list[float] = []

    def look(_session: object) -> tuple[Checkpoint, dict[str, bytes]]:
        seen.append(now[0])
        return next(looks), {}

    runner._first_checkpoint(cast(Any, SimpleNamespace(checkpoint=look)), cast(Any, None))
    assert (len(seen) <= 7, seen[-1] > 5) == (True, True), seen
