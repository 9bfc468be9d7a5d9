# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role's argument specs, defaults and uses agree; the action group holds every module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harness import ROOT

ROLES = sorted(path.parent.parent for path in (ROOT / "roles").glob("*/tasks/main.yml"))


def _load(path: Path) -> dict[str, object]:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def disagreements(role: str, defaults: dict, options: dict, used: set[str]) -> list[str]:
    """Everything that keeps a role's specs from being the whole truth about its variables."""
    found = [f"{name} has a default and no argument spec" for name in defaults if name not in options]
    found += [f"{name} is used and has no argument spec" for name in sorted(used - set(options))]
    for name, option in options.items():
        # As text, because True == 1 in Python.
        agrees = repr(option.get("default")) == repr(defaults[name]) if name in defaults else "default" not in option
        faults = {
            "does not start with the role's name": not name.startswith(f"{role}_"),
            "has no type or no description": not option.get("type") or not option.get("description"),
            "does not say what its list holds": option.get("type") == "list" and not option.get("elements"),
            "has another default than in its argument spec": not agrees,
            "is neither required nor has a default": name not in defaults and not option.get("required"),
            "is used nowhere in the role": name not in used,
        }
        found += [f"{name} {fault}" for fault, present in faults.items() if present]
    return found


def _used(role: Path) -> set[str]:
    """The role's own variables in its tasks, handlers, vars and templates; module and role names have a dot before them or a colon after."""
    word = re.compile(rf"(?<![\w.]){role.name}_\w+\b(?!:)")
    parts = [path for folder in ("tasks", "handlers", "vars", "templates") for path in (role / folder).rglob("*") if path.is_file()]
    return {name for path in parts for name in word.findall(path.read_text())}


def test_there_are_roles():
    assert ROLES


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_specs_equal_defaults(role: Path):
    options = _load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert not disagreements(role.name, _load(role / "defaults/main.yml"), options, _used(role))


def test_disagreements_are_found():
    option = {"type": "str", "description": "x", "default": "a"}
    assert not disagreements("r", {"r_a": "a"}, {"r_a": option}, {"r_a"})
    for defaults, options, used in (
        ({"r_a": "b"}, {"r_a": option}, {"r_a"}),
        ({"r_a": "a", "r_b": 1}, {"r_a": option}, {"r_a"}),
        ({}, {"r_a": option}, {"r_a"}),
        ({"r_a": "a"}, {"r_a": {**option, "type": None}}, {"r_a"}),
        ({"r_a": 1}, {"r_a": {**option, "default": True}}, {"r_a"}),
        ({"a": "a"}, {"a": option}, {"a"}),
        ({"r_a": "a"}, {"r_a": option}, {"r_a", "r_b"}),
        ({"r_a": "a"}, {"r_a": option}, set()),
    ):
        assert disagreements("r", defaults, options, used)


def test_action_group_holds_every_module_that_reaches_a_cluster():
    """And no other, as a module without these options refuses the defaults that plays set for the group."""
    modules = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if "k8s_auth_options" in path.read_text())
    assert modules
    assert _load(ROOT / "meta/runtime.yml")["action_groups"]["istio"] == modules


def test_every_role_has_what_a_role_has():
    wanted = ("README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml")
    assert not [str(role / name) for role in ROLES for name in wanted if not (role / name).is_file()]
