# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of another network, whose pods this API does not have. Synthetic: the lab is one network."""

from __future__ import annotations

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_of_inspection
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    ClientPod,
    ClusterView,
    Facts,
    HashPolicy,
    Host,
    Key,
    Membership,
    ProxyView,
    RouteView,
    Target,
)

NAME = "outbound|80||shop.sample.svc.cluster.local"
KEY = Key("header", "user-session")


@pytest.mark.parametrize(("port", "reported"), [(15443, True), (80, False)])
def test_the_gateway_of_another_network_is_known_by_its_port(port: int, reported: bool) -> None:
    hosts = tuple(Host(address, True, "healthy", 1, 0, "zone-a", 0) for address in ("10.0.0.1:80", f"203.0.113.7:{port}"))
    route = RouteView("80", "shop:80", ((NAME, 100),), (HashPolicy("header", "user-session"),), None, "1")
    view = ProxyView("1.31.0", 1.0, route, ClusterView(NAME, "EDS", "RING_HASH", None, "1"), hosts)
    client = ClientPod("sample", "client", "u", None, "zone-a", "curl", True)
    pod = {"metadata": {"namespace": "sample", "name": "shop-1"}, "spec": {"containers": []}}
    service = {"metadata": {"namespace": "sample", "name": "shop"}, "spec": {"ports": [{"port": 80, "name": "http"}]}}
    facts = Facts({("sample", "shop"): service}, {}, {}, {("sample", "shop-1"): pod})
    backends = (Backend("shop-1", "u", "10.0.0.1:80", None, None, True),)
    target = Target("sample", "shop", 80, "http", "shop")
    findings = find_causes(situation_of_inspection(target, KEY, facts, [(client, view)], Membership({}, backends), expected=True))
    assert ("C55" in {finding.id for finding in findings}) is reported
