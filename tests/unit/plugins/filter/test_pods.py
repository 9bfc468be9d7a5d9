# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps pods from being ready. The states are in the form of the API (core/v1, ContainerState), written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.pods import pods_injected, pods_not_ready
from harness import ROOT

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


# -- why there are no pods, or no address --


def test_an_image_that_no_injector_replaced():
    pod = _pod(containerStatuses=[_container("istio-proxy", **BACK_OFF)])
    pod["metadata"]["namespace"] = "istio-ingress"
    pod["spec"] = {"containers": [{"name": "istio-proxy", "image": "auto"}]}
    assert "image 'auto' was not replaced" in pods_not_ready([pod])[-1]
    assert "namespace istio-ingress" in pods_not_ready([pod])[-1]


def test_pods_that_the_api_server_refuses():
    condition = {"type": "ReplicaFailure", "status": "True", "message": 'pods "web-1" is forbidden: violates PodSecurity "baseline:latest"'}
    deployment = {"kind": "Deployment", "metadata": {"name": "web"}, "status": {"conditions": [condition, {"type": "Available", "status": "False"}]}}
    assert pods_not_ready([deployment]) == ['web: no pods: pods "web-1" is forbidden: violates PodSecurity "baseline:latest"']


def test_a_load_balancer_that_nobody_provides():
    service: dict[str, Any] = {"kind": "Service", "metadata": {"name": "gateway"}, "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}}
    assert pods_not_ready([service])[0].startswith("Service gateway: has no load balancer yet.")
    assert pods_not_ready([service | {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}]) == []
    assert pods_not_ready([service | {"spec": {"type": "ClusterIP"}}]) == []


# -- injection, by the webhooks of Istio's chart on the lab --

INJECTORS = [json.loads((ROOT / "tests/unit/fixtures/control_plane.json").read_text())["objects"]["mutatingwebhookconfiguration"]]


@pytest.mark.parametrize(
    ("namespace", "pod", "injected"),
    [
        ({}, {"sidecar.istio.io/inject": "true"}, True),
        ({"istio-injection": "enabled"}, {}, True),
        ({"istio-injection": "enabled"}, {"sidecar.istio.io/inject": "false"}, False),
        ({"istio-injection": "disabled"}, {"sidecar.istio.io/inject": "true"}, False),
        ({"istio.io/rev": "default"}, {}, True),
        ({"istio.io/rev": "canary"}, {"sidecar.istio.io/inject": "true"}, False),
        ({}, {"sidecar.istio.io/inject": "true", "istio.io/rev": "canary"}, False),
        ({}, {}, False),
    ],
)
def test_whether_an_injector_acts(namespace: dict[str, str], pod: dict[str, str], injected: bool):
    assert pods_injected(INJECTORS, namespace, pod) is injected


def test_without_an_injector_nobody_acts():
    assert not pods_injected([], {"istio-injection": "enabled"}, {})
