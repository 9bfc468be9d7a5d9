# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every play of examples/ in check mode on the lab, as a user runs it before the first real run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import ROOT

if TYPE_CHECKING:
    from integration.conftest import Ansible, Played

CHECK = "meshops.istio.istio_affinity_check"
# Nothing but their names predicts a change: the others only read.
CHANGES = {"install.yml", "schedule.yml"}


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yml")), ids=lambda example: example.name)
def test_example_in_check_mode(ansible: Ansible, sample: Played, installed_collection: Path, example: Path) -> None:
    shipped = installed_collection / "ansible_collections/meshops/istio/examples" / example.name
    played = ansible(shipped, check=True).expect()
    assert played.tasks
    assert bool(played.changed) == (example.name in CHANGES)
    for task in (task for task in played.tasks if task.action == CHECK):
        assert task.result["verdict"] is None
        # The lab has no gateway: its check has nothing to send through.
        assert task.result["requests"]["planned"] > 0 or example.name == "check_gateway.yml", task.result["msg"]
