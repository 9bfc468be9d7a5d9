# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kubeconfig of the inventory becomes a file that nobody else reads."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.filter.kubeconfig import kubeconfig_path

CONFIG = {"users": [{"name": "admin", "user": {"token": "secret", "client-key": "keys/admin.pem"}}], "clusters": []}


def test_a_dictionary_becomes_a_file_for_its_owner_only() -> None:
    path = Path(kubeconfig_path(CONFIG))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    user = json.loads(path.read_text())["users"][0]["user"]
    assert user == {"token": "secret", "client-key": str(Path.cwd() / "keys/admin.pem")}
    assert kubeconfig_path(CONFIG) == str(path)
    assert kubeconfig_path({**CONFIG, "clusters": [{}]}) != str(path)


@pytest.mark.parametrize("value", ["/etc/kubeconfig", "", None, {}, ["/etc/kubeconfig"]])
def test_anything_else_stays_as_it_is(value: Any) -> None:
    assert kubeconfig_path(value) == value
