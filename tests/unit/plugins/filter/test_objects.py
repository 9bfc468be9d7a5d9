# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replacement keeps, and what a digest notices, on objects of the lab's control plane (`make fixtures` records them)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.objects import objects_desired, objects_digests
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


# -- digests --


def _digest(live: dict[str, Any], *others: dict[str, Any], **more: Any) -> str:
    return objects_digests([live, *others], **more)[0][4]


def test_a_digest_stands_beside_what_it_is_of():
    [[*identity, digest]] = objects_digests([_live("deployment"), {}])
    assert identity == ["apps/v1", "Deployment", "istio-system", "istiod"]
    assert len(digest) == 16
    assert objects_digests([_live("validatingwebhookconfiguration")])[0][2] == ""


def _set(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def alter(live: dict[str, Any]) -> None:
        place: Any = live
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(step, str) else place[step]
        place[path[-1]] = value

    return alter


@pytest.mark.parametrize(
    ("kind", "alter"),
    [
        ("service", _set("spec", "sessionAffinity", value="ClientIP")),
        ("service", _set("metadata", "labels", "app", value="altered")),
        ("service", _set("metadata", "uid", value="made-anew")),
        ("deployment", _set("spec", "template", "spec", "containers", 0, "image", value="another")),
        ("deployment", _set("spec", "replicas", value=0)),
        ("deployment", _set("status", "availableReplicas", value=0)),
        ("deployment", _set("status", "observedGeneration", value=0)),
        ("customresourcedefinition", _set("metadata", "generation", value=99)),
        ("mutatingwebhookconfiguration", _set("webhooks", 0, "failurePolicy", value="Ignore")),
        ("validatingwebhookconfiguration", _set("webhooks", 0, "timeoutSeconds", value=1)),
    ],
)
def test_a_digest_notices_what_only_the_owner_may_change(kind: str, alter: Callable[[dict[str, Any]], None]):
    live = _live(kind)
    alter(live)
    assert live != OBJECTS[kind]
    assert _digest(live) != _digest(_live(kind))


@pytest.mark.parametrize(
    ("kind", "alter"),
    [
        ("service", _set("status", value={"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})),
        ("service", _set("metadata", "resourceVersion", value="99")),
        ("service", _set("metadata", "annotations", "note", value="theirs")),
        ("serviceaccount", _set("secrets", value=[{"name": "token"}])),
        ("deployment", _set("spec", "template", "metadata", "annotations", RESTARTED, value="2026-11-27T00:00:00Z")),
        ("deployment", _set("status", "conditions", value=[])),
        ("mutatingwebhookconfiguration", _set("webhooks", 0, "clientConfig", "caBundle", value="YW5vdGhlcg==")),
        ("validatingwebhookconfiguration", _set("webhooks", 0, "failurePolicy", value="Ignore")),
    ],
)
def test_a_digest_does_not_depend_on_what_the_cluster_changes(kind: str, alter: Callable[[dict[str, Any]], None]):
    live = _live(kind)
    alter(live)
    assert live != OBJECTS[kind]
    assert _digest(live) == _digest(_live(kind))


def test_replicas_are_an_autoscaler_s_where_there_is_one():
    scaled = _live("deployment")
    scaled["spec"]["replicas"] = 3
    scaled["status"] |= {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}
    autoscaler = _live("horizontalpodautoscaler")
    assert _digest(scaled, autoscaler) == _digest(_live("deployment"), autoscaler)
    assert _digest(scaled) != _digest(_live("deployment"))


def test_pods_that_were_waited_for_are_ready():
    """The object was read before, so that its status is of before, too."""
    early = _live("deployment")
    early["status"] = {}
    assert _digest(early, waited=True) == _digest(_live("deployment"))
    assert _digest(early) != _digest(_live("deployment"))
