# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What GitHub reads: CI runs what developers run, actions are pinned, and the forms ask for what a report of a bug needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import ROOT

GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def _form(name: str) -> dict[str, Any]:
    return yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / name).read_text())


def test_workflow_runs_what_developers_run():
    workflow = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["make quick", ".ci/run"]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", action) for action in used)
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())


def test_bug_form_asks_for_what_is_needed():
    required = {field.get("id") for field in _form("bug.yml")["body"] if field.get("validations", {}).get("required")}
    assert required >= {"verdict", "msg", "versions"}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form(form: Path):
    """By GitHub's rules: names, and fields of known types with labels, each id once."""
    content = _form(form.name)
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert fields
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
