# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/architecture.md and docs/developing.md name rooms, files and tests that exist."""

from __future__ import annotations

import re

import pytest

from harness import BIN, ROOT, run

UTILS = ROOT / "plugins/module_utils"
ROW = re.compile(r"^\| `(_\w+(?:/|\.py))` \|", re.MULTILINE)
# `_room/file.py`, `tests/...`, `roles/...`: a path of the tree, from its root or from plugins/module_utils.
PATH = re.compile(r"`((?:\.ci|\.github|_\w+|changelogs|docs|examples|plugins|roles|tests)/[\w./-]*|_\w+\.py|galaxy\.yml|CHANGELOG\.md)`")


def test_every_room_is_described():
    rooms = {f"{path.name}/" for path in UTILS.iterdir() if (path / "__init__.py").exists()} | {path.name for path in UTILS.glob("_[!_]*.py")}
    assert sorted(ROW.findall((ROOT / "docs/architecture.md").read_text())) == sorted(rooms)


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/developing.md"])
def test_paths_exist(page: str):
    named = set(PATH.findall((ROOT / page).read_text()))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (ROOT / name).exists() and not (UTILS / name).exists()]


@pytest.mark.slow
def test_commands_select_tests():
    """Each call of pytest in docs/developing.md, but for the one with the ID of the example."""
    calls = re.findall(r"^\.venv/bin/pytest (.*?) *(?:#.*)?$", (ROOT / "docs/developing.md").read_text(), re.MULTILINE)
    assert len(calls) > 5
    folders = [ROOT / "tests" / name for name in ("gates", "unit", "integration")]
    collected = run(BIN / "pytest", "--collect-only", "-q", *folders).expect().stdout.splitlines()
    for call in calls:
        places, _option, word = call.replace("-k C99", "").partition("-k ")
        assert all(any(name.startswith(place) and word in name for name in collected) for place in places.split()), call
