# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible finds a filter's documentation by its name alone, so a missing page is noticed by nobody."""

from __future__ import annotations

import importlib
from typing import Any

import yaml

from harness import ROOT

FILTERS = ROOT / "plugins/filter"


def test_every_filter_is_documented():
    modules: list[Any] = [importlib.import_module(f"ansible_collections.meshops.istio.plugins.filter.{path.stem}") for path in FILTERS.glob("*.py")]
    pages = {path.stem: yaml.safe_load(path.read_text()) for path in FILTERS.glob("*.yml")}
    assert pages.keys() == {name for module in modules for name in module.FilterModule().filters()}
    assert all(page["DOCUMENTATION"]["name"] == name for name, page in pages.items())
