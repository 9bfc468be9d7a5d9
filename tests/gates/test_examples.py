# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples that users copy: they parse with the collection's modules and roles, and their README lists each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import BIN, ROOT, Ran, clean_environment, run

EXAMPLES = ROOT / "examples"


def _syntax_check(staged: Path, *plays: Path) -> Ran:
    environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=str(staged.parents[2]))
    return run(BIN / "ansible-playbook", "--inventory", "localhost,", "--syntax-check", *plays, cwd=staged, env=environment)


def test_syntax(staged: Path):
    plays = sorted((staged / "examples").glob("*.yml"))
    assert len(plays) > 5
    _syntax_check(staged, *plays).expect()


def test_syntax_finds(staged: Path, tmp_path: Path):
    play = tmp_path / "play.yml"
    play.write_text((staged / "examples/check_service.yml").read_text().replace("istio_affinity_check", "istio_affinity_chek"))
    assert "istio_affinity_chek" in _syntax_check(staged, play).expect(4).output


@pytest.mark.parametrize("play", sorted(EXAMPLES.glob("*.yml")), ids=lambda play: play.name)
def test_is_described(play: Path):
    """In the README's table, and at its own beginning, below the licence."""
    assert f"| [{play.name}]({play.name}) |" in (EXAMPLES / "README.md").read_text()
    assert re.match(r"---\n# SPDX-.*\n# SPDX-.*\n# [A-Z]", play.read_text())
