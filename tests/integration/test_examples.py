# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every play of examples/ in check mode on the lab, as a user runs it before the first real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import ROOT

if TYPE_CHECKING:
    from integration.conftest import Ansible, Kubectl, Played

CHECK = "meshops.istio.istio_affinity_check"
# One that installs and one for each module; all others too with ISTIO_TESTS=full.
OFTEN = {"check_service.yml", "inspect_cluster.yml", "install.yml"}
# These predict changes; the others only read.
CHANGES = {"install.yml", "schedule.yml"}


def variables_for(example: str, kubectl: Kubectl, namespace: Callable[..., str]) -> dict[str, Any]:
    """What a user would name on the command line."""
    if example == "inspect_cluster.yml":
        # Not the namespaces of other tests, which come and go.
        return {"namespaces": ["sample"]}
    if example == "before_maintenance.yml":
        return {"node": kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}").stdout}
    if example == "check_gateway.yml":
        # Check mode reads no more of a gateway than its Service, and the lab has none.
        place = namespace(injection=False)
        spec = {"selector": {"app": "gateway"}, "ports": [{"name": "http", "port": 80}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "istio-ingressgateway", "namespace": place}, "spec": spec}
        kubectl("apply", "-f", "-", stdin=json.dumps(service))
        return {"gateway_namespace": place}
    return {}


@pytest.mark.parametrize(
    "example",
    [example if example.name in OFTEN else pytest.param(example, marks=pytest.mark.full) for example in sorted((ROOT / "examples").glob("*.yml"))],
    ids=lambda example: example.name,
)
def test_example_in_check_mode(
    ansible: Ansible, kubectl: Kubectl, namespace: Callable[..., str], sample: Played, installed_collection: Path, example: Path
) -> None:
    shipped = installed_collection / "ansible_collections/meshops/istio/examples" / example.name
    played = ansible(shipped, check=True, extra_vars=variables_for(example.name, kubectl, namespace)).expect()
    assert played.tasks
    assert bool(played.changed) == (example.name in CHANGES), played.changed
    for task in (task for task in played.tasks if task.action == CHECK):
        assert task.result["verdict"] is None
        assert task.result["requests"]["planned"] > 0, task.result["msg"]
