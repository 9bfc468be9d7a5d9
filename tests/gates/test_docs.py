# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that tools can check: plugin docs, the changelog, what code fences and links say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harness import BIN, ROOT, Ran, clean_environment, project_files, run, stage

PAGES = [name for name in project_files() if name.suffix == ".md" and not (ROOT / name).is_symlink()]
FENCE = re.compile(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```[ ]*$", re.MULTILINE | re.DOTALL)


def _docs_lint(tree: Path) -> Ran:
    # References are validated against kubernetes.core beside the tree: reading all collections in .venv takes four minutes.
    environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=str(tree.parents[2]), ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="False")
    return run(BIN / "antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs=all", tree, env=environment)


@pytest.mark.slow
def test_plugin_docs(tmp_path: Path):
    """Of all that there is, only what was planted is found: the run takes a quarter of a minute."""
    tree = stage(tmp_path)
    module = next((tree / "plugins/modules").glob("*.py"))
    planted = module.with_name("planted.py")
    text = re.sub(r"^short_description: ", "short_description: O(no_such_option) ", module.read_text(), count=1, flags=re.MULTILINE)
    planted.write_text(re.sub(rf"^module: {module.stem}$", "module: planted", text, count=1, flags=re.MULTILINE))
    assert "no_such_option" in planted.read_text()
    found = _docs_lint(tree).expect(3).output.splitlines()
    assert any("no_such_option" in line for line in found)
    assert not [line for line in found if "plugins/modules/planted.py" not in line], found


def test_changelog(staged: Path):
    """It is well formed, and has something to say of the version in galaxy.yml."""
    run(BIN / "antsibull-changelog", "lint", cwd=staged).expect()
    version = yaml.safe_load((staged / "galaxy.yml").read_text())["version"]
    record = staged / "changelogs/changelog.yaml"
    assert (record.exists() and version in yaml.safe_load(record.read_text())["releases"]) or list((staged / "changelogs/fragments").glob("*.y*ml"))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page(page: Path):
    """Its YAML parses, and the make targets it names are there."""
    text = (ROOT / page).read_text()
    for language, code in FENCE.findall(text):
        if language in ("yaml", "yml"):
            assert list(yaml.safe_load_all(code))
    prose = FENCE.sub("", text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*(fence[1] for fence in FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", prose)])
    assert not set(re.findall(r"(?:^|[$&|;] ?)make (?:-s )?([a-z][a-z-]*)", code, re.MULTILINE)) - targets


def test_the_page_of_causes_is_current():
    run(BIN / "python", ROOT / ".ci/causes_page.py", "--check").expect()


def test_tables_of_variables_are_current():
    run(BIN / "python", ROOT / ".ci/role_variables.py", "--check").expect()


def test_readme_shows_commands():
    assert "make site" in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
