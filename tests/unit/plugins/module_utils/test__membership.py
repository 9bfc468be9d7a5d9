# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoints as EndpointSlices show them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._membership import age_of, changes, is_settled, membership_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Checkpoint, Host, ProxyView, Target

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


def endpoints(uid: str, generation: int, *entries: dict[str, Any], name: str = "http") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "generation": generation}, "ports": [{"name": name, "port": 8080}], "endpoints": list(entries)}


TARGET = Target("sample", "shop", 80, "http", "shop")
ONE = {"addresses": ["10.0.0.1"], "targetRef": {"name": "shop-1", "uid": "u1"}, "nodeName": "n1", "zone": "a", "conditions": {"ready": True}}


def test_endpoints_of_the_targets_port_become_backends() -> None:
    by_hand = {"addresses": ["fd00::2"]}
    leaving = {**ONE, "addresses": ["10.0.0.3"], "targetRef": {"name": "shop-3", "uid": "u3"}, "conditions": {"ready": False}}
    read = membership_of([endpoints("a", 3, ONE, by_hand, leaving), endpoints("b", 1, ONE, name="metrics")], TARGET)
    assert read.slices == {"a": 3, "b": 1}
    assert [(backend.pod, backend.address, backend.ready) for backend in read.backends] == [
        ("shop-1", "10.0.0.1:8080", True),
        ("shop-3", "10.0.0.3:8080", False),
        ("fd00::2", "[fd00::2]:8080", True),
    ]


def test_changes_are_counted_by_generation_even_if_nothing_is_left_of_them() -> None:
    before, after = membership_of([endpoints("a", 3, ONE)], TARGET), membership_of([endpoints("a", 5, ONE)], TARGET)
    assert (changes(before, before), changes(before, after)) == (0, 2)
    assert changes(before, membership_of([endpoints("b", 1, ONE)], TARGET)) == 2


def test_a_pod_with_two_addresses_is_settled_by_one_of_them() -> None:
    """Envoy uses the first address of a dual-stack pod, and never had all of the EndpointSlices' addresses."""
    four, six = ONE, {**ONE, "addresses": ["fd00::1"]}
    dual = replace(membership_of([endpoints("v4", 1, four), endpoints("v6", 1, six)], TARGET), age=3.0)
    host = Host("10.0.0.1:8080", True, "healthy", 1, 0, "a", 0)
    view = ProxyView("1.31.0", 1.0, None, None, (host,))
    assert is_settled(Checkpoint(view, dual))
    assert not is_settled(Checkpoint(replace(view, hosts=()), dual))
    assert not is_settled(Checkpoint(replace(view, hosts=(host, replace(host, address="10.9.9.9:8080"))), dual))
    assert not is_settled(Checkpoint(None, dual, unread=("curl ended with exit code 28",)))
