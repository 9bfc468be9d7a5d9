# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The access log of a busy client is read once, not again and again from its beginning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._probe import senders
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import Sending, Transfer
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import Observation


def test_each_read_of_the_log_continues_where_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy writes the lines late: the first read has one of two, and the other comes with the second."""
    requests: list[Any] = [SimpleNamespace(index=number) for number in range(2)]
    transfers: list[Transfer] = []
    asked: list[float] = []
    clock = iter(range(100, 200))

    def transfer(_job: Any, requests: Any, transfer: Transfer) -> Any:
        transfers.append(transfer)
        return [(request, Observation(request.index, 200, 0, 0.1, "")) for request in requests]

    def read_log(since: float) -> str:
        asked.append(since)
        return f'"{transfers[0].request_id(len(asked) - 1)}" 10.244.0.{len(asked)}:8080\nother traffic\n'

    monkeypatch.setattr(senders, "_transfer", transfer)
    monkeypatch.setattr(senders, "_hosts", lambda _page: [SimpleNamespace(address=f"10.244.0.{number}:8080") for number in (1, 2)])
    monkeypatch.setattr(senders, "hosts_filter", lambda _target: "")
    monkeypatch.setattr(senders.time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(senders.time, "sleep", lambda _seconds: None)
    job: Any = SimpleNamespace(sending=Sending(), jar=None, session=SimpleNamespace(hosts=lambda _words: b""), target=None, read_log=read_log)
    observed = senders.by_access_log(job, requests)
    assert [observation.identity for _request, observation in observed] == ["10.244.0.1:8080", "10.244.0.2:8080"]
    assert asked == [100.0, 101.0]
