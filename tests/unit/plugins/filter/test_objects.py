# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replacement keeps, and what counts as drift, on objects of the lab's control plane (`make fixtures` records them)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.objects import objects_desired, objects_drift
from harness import ROOT

OBJECTS: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/unit/fixtures/control_plane.json").read_text())["objects"]
RESTARTED = "kubectl.kubernetes.io/restartedAt"


def _live(kind: str) -> dict[str, Any]:
    return copy.deepcopy(OBJECTS[kind])


def _defined(kind: str) -> dict[str, Any]:
    """As a chart has it: without what the API server adds."""
    live = _live(kind)
    live.pop("status", None)
    live["metadata"] = {name: value for name, value in live["metadata"].items() if name in ("name", "namespace", "labels")}
    return live


def _desired(want: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    [found] = objects_desired([want], [live])
    return dict(found)


# -- replacements --


def test_what_is_not_there_is_taken_as_defined():
    want = _defined("service")
    assert _desired(want, {}) == want


def test_what_others_wrote_into_metadata_stays_and_the_definition_counts():
    want, live = _defined("service"), _live("service")
    live["metadata"] |= {"labels": {"app": "altered", "team": "mesh"}, "annotations": {"note": "theirs"}, "finalizers": ["theirs/finalizer"]}
    meta = _desired(want, live)["metadata"]
    assert meta["labels"] == {"team": "mesh"} | want["metadata"]["labels"]
    assert (meta["annotations"], meta["finalizers"]) == ({"note": "theirs"}, ["theirs/finalizer"])
    assert meta["resourceVersion"] == live["metadata"]["resourceVersion"]
    assert "uid" not in meta


@pytest.mark.parametrize("kind", ["deployment", "horizontalpodautoscaler"])
def test_a_status_that_moves_does_not_stand_in_the_way(kind: str):
    assert "resourceVersion" not in _desired(_defined(kind), _live(kind))["metadata"]


def test_a_service_keeps_its_addresses_and_loses_what_was_added():
    want, live = _defined("service"), _live("service")
    for name in ("clusterIP", "clusterIPs"):
        del want["spec"][name]
    live["spec"]["sessionAffinity"] = "ClientIP"
    spec = _desired(want, live)["spec"]
    assert (spec["clusterIP"], spec["clusterIPs"]) == (live["spec"]["clusterIP"], live["spec"]["clusterIPs"])
    assert spec["sessionAffinity"] == want["spec"]["sessionAffinity"]


def test_replicas_are_the_cluster_s_only_where_the_definition_leaves_them_out():
    want, live = _defined("deployment"), _live("deployment")
    live["spec"]["replicas"] = 7
    assert _desired(want, live)["spec"]["replicas"] == want["spec"]["replicas"]
    del want["spec"]["replicas"]
    assert _desired(want, live)["spec"]["replicas"] == 7


def test_a_rollout_restart_is_not_taken_back():
    want, live = _defined("deployment"), _live("deployment")
    before = copy.deepcopy(want)
    live["spec"]["template"]["metadata"].setdefault("annotations", {})[RESTARTED] = "2026-11-27T00:00:00Z"
    assert _desired(want, live)["spec"]["template"]["metadata"]["annotations"][RESTARTED] == "2026-11-27T00:00:00Z"
    assert want == before


def test_an_account_keeps_its_secrets():
    want, live = _defined("serviceaccount"), _live("serviceaccount")
    want.pop("imagePullSecrets", None)
    assert _desired(want, live | {"imagePullSecrets": [{"name": "registry"}]})["imagePullSecrets"] == [{"name": "registry"}]
    assert _desired(want | {"imagePullSecrets": []}, live | {"imagePullSecrets": [{"name": "registry"}]})["imagePullSecrets"] == []


@pytest.mark.parametrize(("kind", "kept"), [("mutatingwebhookconfiguration", False), ("validatingwebhookconfiguration", True)])
def test_webhooks_keep_what_istiod_writes_into_them(kind: str, kept: bool):
    want, live = _defined(kind), _live(kind)
    for hook in want["webhooks"]:
        del hook["clientConfig"]["caBundle"]
        hook["failurePolicy"] = "Ignore"
    for hook in live["webhooks"]:
        hook["failurePolicy"] = "Fail"
        hook["timeoutSeconds"] = 1
    hooks = _desired(want, live)["webhooks"]
    assert {hook["clientConfig"]["caBundle"] for hook in hooks} == {"Y2VydGlmaWNhdGU="}
    assert {hook["failurePolicy"] for hook in hooks} == {"Fail" if kept else "Ignore"}
    assert {hook["timeoutSeconds"] for hook in hooks} != {1}


def test_a_webhook_that_is_new_is_taken_as_defined():
    want, live = _defined("validatingwebhookconfiguration"), _live("validatingwebhookconfiguration")
    new = {"name": "new.istio.io", "clientConfig": {"url": "https://example.com"}, "failurePolicy": "Ignore"}
    assert new in _desired(want | {"webhooks": [*want["webhooks"], new]}, live)["webhooks"]


@pytest.mark.parametrize("live", [[], [{}, {}], "nonsense", {}, [1]])
def test_objects_that_do_not_belong_to_the_definitions_are_refused(live: Any):
    with pytest.raises(AnsibleFilterError, match="objects_desired needs"):
        objects_desired([_defined("service")], live)


# -- drift --


def _drift(want: dict[str, Any], *live: dict[str, Any], ignore: tuple[str, ...] = ()) -> list[str]:
    return [line for item in objects_drift([want], list(live), ignore) for line in item["differences"]]


def _set(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def alter(live: dict[str, Any]) -> None:
        place: Any = live
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(step, str) else place[step]
        place[path[-1]] = value

    return alter


CONTAINER = ("spec", "template", "spec", "containers", 0)


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_what_the_chart_installed_is_no_drift(kind: str):
    assert _drift(_defined(kind), _live(kind)) == []


@pytest.mark.parametrize(
    ("kind", "alter", "line"),
    [
        ("service", _set("spec", "ports", 0, "port", value=1), "Service.spec.ports.grpc-xds.port: 1, not 15010"),
        ("deployment", _set(*CONTAINER, "image", value="another"), "Deployment.spec.template.spec.containers.discovery.image: 'another', not "),
        ("deployment", _set(*CONTAINER, "args", value=["discovery"]), "Deployment.spec.template.spec.containers.discovery.args: 1 elements, not "),
        ("deployment", _set(*CONTAINER, "env", value=[]), "Deployment.spec.template.spec.containers.discovery.env.REVISION: None, not "),
        ("deployment", _set("metadata", "labels", "app", value="x"), "Deployment.metadata.labels.app: 'x', not 'istiod'"),
        ("mutatingwebhookconfiguration", _set("webhooks", 0, "failurePolicy", value="Ignore"), "MutatingWebhookConfiguration.webhooks."),
    ],
)
def test_what_the_chart_set_and_somebody_changed_is_drift(kind: str, alter: Callable[[dict[str, Any]], None], line: str):
    live = _live(kind)
    alter(live)
    assert any(found.startswith(line) for found in _drift(_defined(kind), live)), _drift(_defined(kind), live)


@pytest.mark.parametrize(
    ("kind", "alter"),
    [
        ("service", _set("status", value={"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})),
        ("deployment", _set("metadata", "annotations", "reloader.stakater.com/auto", value="true")),
        ("deployment", _set("spec", "template", "metadata", "annotations", RESTARTED, value="2026-11-27T00:00:00Z")),
        ("deployment", _set("spec", "template", "spec", "tolerations", value=[{"key": "added", "operator": "Exists"}])),
        ("mutatingwebhookconfiguration", _set("webhooks", 0, "timeoutSeconds", value=None)),
    ],
)
def test_what_admission_controllers_add_is_no_drift(kind: str, alter: Callable[[dict[str, Any]], None]):
    want, live = _defined(kind), _live(kind)
    want["spec"] = {name: value for name, value in want.get("spec", {}).items() if name != "template"}
    for hook in want.get("webhooks", []):
        hook.pop("timeoutSeconds", None)
    alter(live)
    assert _drift(want, live) == []


def test_containers_and_variables_that_were_added_are_no_drift():
    want, live = _defined("deployment"), _live("deployment")
    live["spec"]["template"]["spec"]["containers"].insert(0, {"name": "agent", "image": "agent"})
    live["spec"]["template"]["spec"]["containers"][1]["env"].insert(0, {"name": "DD_AGENT_HOST", "value": "x"})
    assert _drift(want, live) == []


@pytest.mark.parametrize(
    ("want", "live"), [("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1k", 1000), (8080, "8080"), ("", None), (False, None), ({}, None)]
)
def test_the_api_server_writes_the_same_in_its_own_way(want: Any, live: Any):
    def made(value: Any) -> dict[str, Any]:
        return {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"value": value} if value is not None else {}}

    assert _drift(made(want), made(live)) == []
    assert _drift(made("2Gi"), made(live)) != []


def test_what_is_missing_is_drift_and_a_namesake_elsewhere_is_another():
    live = _live("service")
    live["metadata"]["namespace"] = "elsewhere"
    assert _drift(_defined("service"), live) == ["missing"]


def test_fields_that_are_left_alone_are_neither_compared_nor_put_right():
    live = _live("deployment")
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "another"
    ignore = ("Deployment.spec.template.spec.containers.*.image",)
    assert _drift(_defined("deployment"), live, ignore=ignore) == []
    live["metadata"]["labels"]["app"] = "x"
    [item] = objects_drift([_defined("deployment")], [live], ignore)
    assert item["object"] == "Deployment istio-system/istiod"
    assert "image" not in item["definition"]["spec"]["template"]["spec"]["containers"][0]
    assert _drift(_defined("deployment"), live, ignore=("Service.*",)) != []
