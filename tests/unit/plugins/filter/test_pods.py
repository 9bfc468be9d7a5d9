# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps pods from being ready. The states are in the form of the API (core/v1, ContainerState), written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.pods import pods_not_ready

BACK_OFF = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image nginx:none"}}
FULL = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}


def _pod(name: str = "web", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


def _container(name: str, ready: bool = False, **state: Any) -> dict[str, Any]:
    return {"name": name, "ready": ready, "state": state}


@pytest.mark.parametrize(
    ("pod", "lines"),
    [
        (_pod(containerStatuses=[_container("nginx", ready=True, running={})], conditions=[{"type": "PodScheduled", "status": "True"}]), []),
        (_pod(conditions=[FULL]), ["web: not scheduled: 0/2 nodes are available: 2 Insufficient cpu."]),
        (_pod(conditions=[{"type": "PodScheduled", "status": "False"}]), ["web: not scheduled"]),
        (_pod(containerStatuses=[_container("nginx", **BACK_OFF)]), ["web, container nginx: ImagePullBackOff Back-off pulling image nginx:none"]),
        (_pod(containerStatuses=[_container("nginx", terminated={"reason": "Error", "exitCode": 1})]), ["web, container nginx: Error"]),
        (_pod(containerStatuses=[_container("nginx", running={})]), ["web, container nginx: not ready"]),
        (
            _pod(initContainerStatuses=[_container("istio-proxy", running={})], containerStatuses=[_container("nginx", waiting={"reason": "PodInitializing"})]),
            ["web, container istio-proxy: not ready", "web, container nginx: PodInitializing"],
        ),
        ({"metadata": {"name": "web"}}, []),
    ],
)
def test_it_says_what_scheduler_and_kubelet_say(pod: dict[str, Any], lines: list[str]):
    assert pods_not_ready([pod]) == lines


def test_all_pods_have_their_say():
    assert [line.split(":")[0] for line in pods_not_ready([_pod("a", conditions=[FULL]), _pod("b"), _pod("c", conditions=[FULL])])] == ["a", "c"]


def test_what_is_no_list_of_pods_is_refused():
    with pytest.raises(AnsibleFilterError, match="pods_not_ready needs lists of dicts"):
        pods_not_ready(_pod())
