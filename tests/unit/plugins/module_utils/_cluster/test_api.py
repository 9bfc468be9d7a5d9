# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of the API server: whole, or not read."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import AT_ONCE, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.facts import read_facts, root_of
from ansible_collections.meshops.istio.plugins.module_utils._cluster.services import Lists
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ProxyView, Target


class Api:
    """Stands for the API server: objects of one kind, in pages, of which the second may have expired."""

    def __init__(self, count: int, *, expires: bool = False, served: bool = True, text: str | None = None) -> None:
        self.count, self.expires, self.served, self.text = count, expires, served, text
        self.sizes: list[int] = []

    def request(self, _method: str, _path: str, **words: Any) -> Any:
        if not self.served:
            raise ApiException(status=404)
        start = int(words.get("_continue") or 0)
        if start and self.expires:
            raise ApiException(status=410)
        stop = min(self.count, start + (words.get("limit") or self.count))
        self.sizes.append(stop - start)
        body = {
            "items": [{"metadata": {"name": str(number)}} for number in range(start, stop)],
            "metadata": {"continue": str(stop) if stop < self.count else ""},
        }
        return SimpleNamespace(data=self.text or json.dumps(body), headers={"Date": "now"})


def test_a_list_is_read_in_pages() -> None:
    api = Api(1_234)
    assert [entry["metadata"]["name"] for entry in Cluster(api).listed("services", None)] == [str(number) for number in range(1_234)]
    assert api.sizes == [AT_ONCE, AT_ONCE, 234]


def test_a_list_that_expires_is_read_again_in_one_piece() -> None:
    api = Api(1_234, expires=True)
    assert len(Cluster(api).listed("services", None)) == 1_234
    assert api.sizes == [AT_ONCE, 1_234]


def test_a_kind_that_is_not_served_is_not_an_empty_list() -> None:
    """An older Istio has no networking.istio.io/v1: its rules were lost in silence."""
    cluster = Cluster(Api(0, served=False))
    with pytest.raises(CheckError, match=r"does not serve /apis/networking\.istio\.io/v1/destinationrules") as caught:
        cluster.listed("destinationrules", None)
    assert caught.value.code == "not_served"
    lists = Lists(cluster, None)
    assert lists.items("destinationrules") is None
    assert ["networking.istio.io/v1" in note for note in lists.unread] == [True]
    facts = read_facts(cluster, [Target("shop", "cart", 80, "http", "cart")], [])
    assert (facts.rules["DestinationRule"], "does not serve" in facts.unread["DestinationRule"]) == ((), True)


def test_an_answer_that_is_no_json_is_a_sentence() -> None:
    with pytest.raises(CheckError, match="is not JSON") as caught:
        Cluster(Api(1, text="<html>log in</html>")).listed("services", None)
    assert caught.value.code == "api_error"


class TwoControlPlanes:
    """Stands for the API server of a mesh with two revisions."""

    def service(self, namespace: str, name: str) -> dict[str, Any] | None:
        revision = name.removeprefix("istiod-")
        return {"metadata": {"namespace": namespace, "name": name}, "spec": {"selector": {"istio.io/rev": revision}}} if namespace == "istio-system" else None

    def pods(self, _namespace: str, selector: str) -> list[dict[str, Any]]:
        images = {"istio.io/rev=canary": ["1.31.0"], "app=istiod": ["1.30.2", "1.31.0"]}
        return [
            {"metadata": {"namespace": "istio-system", "name": tag}, "spec": {"containers": [{"image": f"pilot:{tag}"}]}} for tag in images.get(selector, [])
        ]

    def pod(self, *_words: str) -> None:
        return None

    def namespace(self, _name: str) -> None:
        return None

    def listed(self, *_words: Any) -> list[dict[str, Any]]:
        return []


def test_the_version_is_that_of_the_clients_own_control_plane() -> None:
    """It was that of the first pod of any istiod."""
    view = ProxyView("1.31.0", 1.0, None, None, (), control_plane="istiod-canary.istio-system.svc:15012")
    target = Target("shop", "cart", 80, "http", "cart")
    cluster: Any = TwoControlPlanes()
    assert read_facts(cluster, [target], [], [view]).versions == {"istiod": "1.31.0"}
    assert read_facts(cluster, [target], []).versions == {"istiod": None}


@pytest.mark.parametrize(
    ("planes", "root"),
    [
        (["istiod.mesh.svc:15012"], "mesh"),
        (["istiod.istio-system.svc:15012", "istiod-canary.istio-system.svc.cluster.local:15012"], "istio-system"),
        (["istiod.a.svc:15012", "istiod.b.svc:15012"], "istio-system"),
        (["control.example.com:443"], "istio-system"),
        ([], "istio-system"),
    ],
)
def test_the_root_namespace_is_that_of_the_clients_own_control_plane(planes: list[str], root: str) -> None:
    assert root_of(planes) == root
