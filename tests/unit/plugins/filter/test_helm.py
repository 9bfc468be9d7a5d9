# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Helm's records say about releases. Their metadata is the lab's (`make fixtures`); their data is synthetic, packed as Helm packs it."""

from __future__ import annotations

import base64
import copy
import gzip
import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.helm import EARLIER_MARK, MARK, collection_version, gitops_owner, helm_plan, helm_unlocked
from harness import ROOT

RECORDS: list[dict[str, Any]] = json.loads((ROOT / "tests/unit/fixtures/control_plane.json").read_text())["helm"]
ISTIOD = {"name": "istiod", "namespace": "istio-system", "chart": "istiod", "version": "1.31.0", "layers": [{"pilot": {"cni": {}}}]}
MANIFEST = """---
# Source: istiod/templates/serviceaccount.yaml
apiVersion: v1
kind: ServiceAccount
metadata:
  name: istiod
---
# Source: istiod/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: istiod
  namespace: istio-system
  labels: {app: istiod}
"""


def _record(status: str = "deployed", version: int = 1, *, marked: str = "", config: Any = None, chart: str = "1.31.0", **more: Any) -> dict[str, Any]:
    [record] = [copy.deepcopy(record) for record in RECORDS if record["metadata"]["labels"]["name"] == "istiod"]
    record["metadata"] |= {"name": f"sh.helm.release.v1.istiod.v{version}", "annotations": {}}
    record["metadata"]["labels"] |= {"status": status, "version": str(version)} | ({MARK: marked} if marked else {})
    release = {
        "name": "istiod",
        "namespace": "istio-system",
        "version": version,
        "info": {"status": status, "first_deployed": "2026-11-27T22:37:57.743599255Z", "last_deployed": "2026-11-27T23:37:57.7+01:00"},
        "chart": {"metadata": {"name": "istiod", "version": chart}},
        "config": {"pilot": {"cni": {}}} if config is None else config,
        "manifest": MANIFEST,
    } | more
    return record | {"data": {"release": base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()}}


def _plan(*records: dict[str, Any], release: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    [planned] = helm_plan(list(records), [ISTIOD | (release or {})], **more)
    return planned


# -- whose it is --


def test_a_release_of_the_usual_name_is_not_ours_without_the_mark():
    assert _plan(_record())["owner"] == "other"
    assert _plan(_record(marked="installed"))["owner"] == "role"
    assert _plan(_record(marked="adopted"))["owner"] == "adopted"
    assert _plan()["owner"] == ""


def test_earlier_versions_of_the_role_left_another_mark():
    record = _record()
    record["metadata"]["annotations"] = {EARLIER_MARK: '{"inputs": "9ef9", "objects": []}'}
    planned = _plan(record)
    assert planned["owner"] == "role"
    assert planned["installed"]["marked"] is False


def test_a_release_of_that_name_elsewhere_is_another_one():
    assert _plan(_record(), release={"namespace": "elsewhere"})["installed"] == {}


def test_what_helm_uninstalled_and_remembers_is_not_installed():
    planned = _plan(_record("uninstalled", marked="installed"))
    assert (planned["owner"], planned["installed"], planned["changes"]) == ("", {}, ["not installed"])


def test_flux_marks_what_it_installs():
    manifest = MANIFEST.replace("labels: {app: istiod}", "labels:\n    helm.toolkit.fluxcd.io/name: istiod")
    assert _plan(_record(manifest=manifest))["installed"]["gitops"] == "Flux"
    assert _plan(_record())["installed"]["gitops"] == ""


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({"labels": {"argocd.argoproj.io/instance": "mesh"}}, "Argo CD"),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "mesh:apps/Deployment:istio-system/istiod"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "mesh"}}, "Flux"),
        ({"labels": {"app.kubernetes.io/instance": "istiod"}, "annotations": None}, ""),
        ({}, ""),
    ],
)
def test_gitops_tools_are_known_by_their_marks(metadata: dict[str, Any], tool: str):
    assert gitops_owner([{"metadata": {}}, {"metadata": metadata}]) == tool


# -- what would change --


def test_a_converged_release_needs_nothing():
    planned = _plan(_record(marked="installed"))
    assert planned["changes"] == []
    assert planned["installed"] | {"objects": []} == {
        "status": "deployed",
        "unfinished": False,
        "revision": 1,
        "deployed": 1,
        "secret": "sh.helm.release.v1.istiod.v1",
        "marked": True,
        "first_deployed": 1795819077,
        "changed_at": 1795819077,
        "chart": "istiod",
        "version": "1.31.0",
        "values": {"pilot": {"cni": {}}},
        "gitops": "",
        "objects": [],
    }


def test_differences_of_version_and_values_are_shown_and_secrets_are_not():
    record = _record(chart="1.30.2", config={"pilot": {"cni": {}, "replicaCount": 3}, "global": {"jwtToken": "abc", "imagePullSecrets": ["regcred"]}})
    planned = _plan(record, keep_values=False)
    assert planned["changes"] == [
        "version: 1.30.2 -> 1.31.0",
        "values.pilot.replicaCount: 3 -> none",
        "values.global: (hidden) -> none",
    ]
    nested = _plan(record, release={"layers": [{"pilot": {"cni": {}, "replicaCount": 3}, "global": {"jwtToken": "abd", "hub": "x"}}]}, keep_values=False)
    assert "values.global.jwtToken: (hidden) -> (hidden)" in nested["changes"]
    assert 'values.global.hub: none -> "x"' in nested["changes"]


def test_layers_are_merged_in_order_over_the_defaults():
    release = {"defaults": {"revision": "a", "global": {"hub": "one"}}, "layers": [{"global": {"hub": "two", "tag": "t"}}, {"global": {"tag": "u"}}]}
    assert _plan(release=release)["values"] == {"revision": "a", "global": {"hub": "two", "tag": "u"}}


def test_an_adopted_release_keeps_its_values_on_every_run():
    theirs = {"meshConfig": {"accessLogFile": "/dev/stdout"}, "pilot": {"replicaCount": 3}}
    release = {"defaults": {"revision": "x"}, "layers": [{"pilot": {"replicaCount": 4}}]}
    adopting = _plan(_record(config=theirs), release=release)
    assert adopting["values"] == {"meshConfig": {"accessLogFile": "/dev/stdout"}, "pilot": {"replicaCount": 4}}
    again = _plan(_record(marked="adopted", config=adopting["values"]), release=release)
    assert again["changes"] == []
    exactly = _plan(_record(marked="adopted", config=theirs), release=release, keep_values=False)
    assert exactly["values"] == {"revision": "x", "pilot": {"replicaCount": 4}}
    ours = _plan(_record(marked="installed", config=theirs), release=release)
    assert ours["values"] == exactly["values"]


def test_nulls_are_no_difference():
    """Helm drops them from what it records."""
    assert _plan(_record(marked="installed"), release={"layers": [{"pilot": {"cni": {}, "env": None}}]})["changes"] == []


def test_crds_are_not_taken_back_for_an_older_revision():
    newer = _record(marked="installed", chart="1.32.1")
    assert _plan(newer, release={"newest": True})["version"] == "1.32.1"
    assert _plan(newer, release={"newest": True})["changes"] == []
    assert _plan(newer)["changes"] == ["version: 1.32.1 -> 1.31.0"]
    assert _plan(_record(marked="installed", chart="1.9.0"), release={"newest": True})["version"] == "1.31.0"


def test_another_revision_leaves_the_default_one_alone():
    release = {"defaults": {"defaultRevision": "canary"}, "kept": ["defaultRevision"], "layers": []}
    assert _plan(_record(marked="installed", config={"defaultRevision": "default"}), release=release)["values"] == {"defaultRevision": "default"}
    assert _plan(release=release)["values"] == {"defaultRevision": "canary"}


def test_a_chart_in_a_folder_has_the_version_that_it_has():
    assert _plan(_record(marked="installed", chart="1.0.0"), release={"pinned": False})["changes"] == []


# -- revisions --


@pytest.mark.parametrize(
    ("statuses", "deployed", "unfinished"),
    [
        (("deployed",), 1, False),
        (("deployed", "failed"), 1, False),
        (("failed", "deployed"), 2, False),
        (("deployed", "failed", "pending-upgrade"), 1, True),
        (("pending-install",), 0, True),
        (("uninstalling",), 0, True),
    ],
)
def test_what_is_deployed_and_what_is_unfinished(statuses: tuple[str, ...], deployed: int, unfinished: bool):
    records = [_record(status, number, chart=f"1.31.{number}") for number, status in enumerate(statuses, start=1)]
    planned = _plan(*records[::-1], release={"version": f"1.31.{deployed or len(statuses)}"})
    installed = planned["installed"]
    assert (installed["revision"], installed["deployed"], installed["unfinished"]) == (len(statuses), deployed, unfinished)
    assert planned["changes"] == ([] if statuses[-1] == "deployed" else [f"status: {statuses[-1]} -> deployed"])


def test_numbers_are_no_words():
    """Revision 10 is newer than 9."""
    assert _plan(_record("failed", 9), _record("deployed", 10))["installed"]["secret"].endswith(".v10")


def test_an_unfinished_revision_becomes_a_failed_one_and_keeps_the_rest():
    record = _record("pending-upgrade", 2, marked="installed")
    patch = helm_unlocked(record)
    assert patch["metadata"]["resourceVersion"] == record["metadata"]["resourceVersion"]
    patched = record | {"data": patch["data"], "metadata": record["metadata"] | {"labels": record["metadata"]["labels"] | patch["metadata"]["labels"]}}
    before, after = _plan(record)["installed"], _plan(patched)["installed"]
    assert (after["status"], after["unfinished"]) == ("failed", False)
    assert before | {"status": "", "unfinished": None} == after | {"status": "", "unfinished": None}
    assert base64.b64decode(base64.b64decode(patch["data"]["release"]))[:3] == b"\x1f\x8b\x08"


# -- objects --


def test_only_the_kinds_that_are_asked_for_are_returned_as_helm_made_them():
    [deployment] = _plan(_record(), kinds=["Deployment", "DaemonSet"])["installed"]["objects"]
    assert deployment["metadata"]["labels"] == {"app": "istiod", "app.kubernetes.io/managed-by": "Helm"}
    assert deployment["metadata"]["annotations"] == {"meta.helm.sh/release-name": "istiod", "meta.helm.sh/release-namespace": "istio-system"}
    assert _plan(_record())["installed"]["objects"] == []


# -- what is no record --


def test_a_record_that_is_none_is_named():
    with pytest.raises(AnsibleFilterError, match=r"Secret sh\.helm\.release\.v1\.istiod\.v1 is not a record"):
        _plan(_record() | {"data": {"release": "bm9uZQ=="}})


@pytest.mark.parametrize("value", ["istiod", {"name": "istiod"}, None, [1]])
def test_what_is_no_list_is_refused(value: Any):
    with pytest.raises(AnsibleFilterError, match="helm_plan needs lists"):
        helm_plan(value, [ISTIOD])
    with pytest.raises(AnsibleFilterError, match="helm_plan needs lists"):
        helm_plan(RECORDS, value)


def test_the_version_of_kubernetes_core():
    assert int(collection_version("kubernetes.core").partition(".")[0]) >= 6
    assert collection_version("meshops.istio") == "0" or collection_version("meshops.istio")[0].isdigit()
