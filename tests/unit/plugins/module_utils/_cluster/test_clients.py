# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which client pods are chosen, and in which zone they are."""

from __future__ import annotations

from typing import Any, cast

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.clients import pick_clients, with_zones
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod


class Nodes:
    """Of a cluster, its nodes: by their names their zones, and how often each was read. Nobody may read the one called secret."""

    def __init__(self, **zones: str) -> None:
        self.zones = zones
        self.read: list[str] = []

    def node(self, name: str) -> dict[str, Any] | None:
        self.read.append(name)
        if name == "secret":
            raise CheckError("forbidden", "This account may not get node secret.")
        return {"metadata": {"labels": {"topology.kubernetes.io/zone": self.zones[name]}}} if name in self.zones else None


def client(pod: str, node: str | None, zone: str | None = None) -> ClientPod:
    return ClientPod("sample", pod, f"uid-{pod}", node, zone, "curl", True)


def test_a_client_without_a_zone_is_in_that_of_its_node() -> None:
    nodes = Nodes(second="b", third="c")
    clients = [client("labelled", "first", "a"), client("one", "second"), client("two", "second"), client("beside-a-backend", "first")]
    found = with_zones(cast(Cluster, nodes), [*clients, client("hidden", "secret"), client("gone", "left")], {"first": "a", "third": None, None: None})
    assert [entry.zone for entry in found] == ["a", "b", "b", "a", None, None]
    assert nodes.read == ["second", "secret", "left"]
    assert [entry.pod for entry in pick_clients(found, None)] == ["beside-a-backend", "gone", "one"]
