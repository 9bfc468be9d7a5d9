# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._survey import age_of

# The form in which the lab's API server gives both.
NOW = "Tue, 24 Nov 2026 23:51:56 GMT"


def written(*times: str) -> dict[str, Any]:
    return {"metadata": {"managedFields": [{"manager": "kube-controller-manager", "time": time} for time in times]}}


@pytest.mark.parametrize(
    ("slices", "now", "age"),
    [
        ([written("2026-11-24T23:51:50Z")], NOW, 6.0),
        ([written("2026-11-24T23:40:09Z", "2026-11-24T23:51:55Z"), written("2026-11-24T23:51:00Z")], NOW, 1.0),
        # Two API servers' clocks.
        ([written("2026-11-24T23:51:57Z")], NOW, -1.0),
        ([written("2026-11-24T23:51:50Z")], None, None),
        ([{"metadata": {}}], NOW, None),
        ([], NOW, None),
    ],
)
def test_the_age_of_the_last_change_is_by_the_api_servers_clock(slices: list[dict[str, Any]], now: str | None, age: float | None) -> None:
    assert age_of(slices, now) == age
