# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What helm's records say, on those of the lab (`make fixtures` records them)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.helm import helm_history
from harness import ROOT

RECORDS: list[dict[str, Any]] = json.loads((ROOT / "tests/unit/fixtures/control_plane.json").read_text())["helm"]
NOTE = "meshops.istio/verified"
ISTIOD = {"name": "istiod", "namespace": "istio-system"}
RELEASES = [{"name": "istio-base", "namespace": "istio-system"}, ISTIOD]


def _revisions(*statuses: str) -> list[dict[str, Any]]:
    """Records of istiod with these statuses, the newest first, as the API server may give them."""
    [record] = [record for record in RECORDS if record["metadata"]["labels"]["name"] == "istiod"]
    found = []
    for number, status in enumerate(statuses, start=1):
        revision = copy.deepcopy(record)
        revision["metadata"]["labels"] |= {"version": str(number), "status": status}
        revision["metadata"]["name"] = f"sh.helm.release.v1.istiod.v{number}"
        found.append(revision)
    return found[::-1]


def test_what_the_lab_s_helm_left():
    history = helm_history(RECORDS, RELEASES, NOTE)
    assert {name: [revision["number"] for revision in found] for name, found in history["revisions"].items()} == {"istio-base": [1], "istiod": [1]}
    assert history["current"]["istiod"]["secret"] == "sh.helm.release.v1.istiod.v1"  # noqa: S105 - the name of a Secret
    assert ["apps/v1", "Deployment", "istio-system", "istiod"] in [entry[:4] for entry in history["current"]["istiod"]["note"]["objects"]]
    assert history["stuck"] == []


@pytest.mark.parametrize(
    ("statuses", "current", "stuck"),
    [
        ((), None, []),
        (("deployed",), 1, []),
        (("superseded", "deployed"), 2, []),
        (("superseded", "deployed", "failed"), 2, [3]),
        (("superseded", "deployed", "failed", "pending-upgrade"), 2, [3, 4]),
        (("failed", "deployed"), 2, []),
        (("pending-install",), None, [1]),
        (("uninstalled",), None, []),
        (("deployed", "uninstalling"), 1, [2]),
    ],
)
def test_what_is_in_force_and_what_is_stuck(statuses: tuple[str, ...], current: int | None, stuck: list[int]):
    history = helm_history(_revisions(*statuses), [ISTIOD])
    assert [revision["number"] for revision in history["revisions"]["istiod"]] == [*range(1, len(statuses) + 1)]
    assert history["current"].get("istiod", {}).get("number") == current
    assert [revision["number"] for revision in history["stuck"]] == stuck


def test_numbers_are_no_words():
    """Revision 10 is newer than 9."""
    history = helm_history(_revisions(*["superseded"] * 9, "deployed"), [ISTIOD])
    assert history["current"]["istiod"]["number"] == 10


def test_a_release_of_that_name_elsewhere_is_another_one():
    history = helm_history(RECORDS, [ISTIOD | {"namespace": "elsewhere"}])
    assert history == {"revisions": {"istiod": []}, "current": {}, "stuck": []}


def test_without_the_note_there_is_none():
    assert helm_history(RECORDS, [ISTIOD])["current"]["istiod"]["note"] == {}
    [record] = _revisions("deployed")
    record["metadata"]["annotations"][NOTE] = "{broken"
    assert helm_history([record], [ISTIOD], NOTE)["current"]["istiod"]["note"] == {}


@pytest.mark.parametrize("value", ["istiod", {"name": "istiod"}, None, [1]])
def test_what_is_no_list_is_refused(value: Any):
    with pytest.raises(AnsibleFilterError, match="helm_history needs lists"):
        helm_history(value, RELEASES)
    with pytest.raises(AnsibleFilterError, match="helm_history needs lists"):
        helm_history(RECORDS, value)
