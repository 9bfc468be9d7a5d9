# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-lint and ansible-test sanity, as strict as they come."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path

import pytest

from harness import BIN, LAB_CACHE, PACKAGES, Ran, clean_environment, locked, run


def _ansible_lint(tree: Path) -> Ran:
    # Its own folder for what ansible-compat installs: nothing of the user's collections has a part in it.
    settings = {"ANSIBLE_HOME": str(tree.parent / "home"), "ANSIBLE_COLLECTIONS_PATH": str(tree.parents[2])}
    return run(BIN / "ansible-lint", "--offline", "--profile=production", "--strict", "--nocolor", cwd=tree, env=clean_environment(**settings))


@pytest.mark.slow
def test_ansible_lint(staged: Path):
    seen = _ansible_lint(staged).expect().output
    counted = re.search(r"Passed: 0 failure\(s\), 0 warning\(s\) in (\d+) files processed of (\d+) encountered. Profile 'production' was required", seen)
    assert counted, seen
    assert int(counted.group(1)) > 20


@pytest.mark.slow
def test_ansible_lint_finds(staged: Path, tmp_path: Path):
    tree = tmp_path / "ansible_collections/meshops/istio"
    (tree / "playbooks").mkdir(parents=True)
    for name in (".ansible-lint", ".yamllint", "galaxy.yml", "meta/runtime.yml", "CHANGELOG.md"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy2(staged / name, tree / name)
    (tree / "playbooks/bad.yml").write_text("---\n- name: Bad\n  hosts: all\n  tasks:\n    - shell: echo x\n")
    run("git", "init", "--quiet", "--initial-branch=main", cwd=tree).expect()
    found = _ansible_lint(tree).expect(2).output
    assert "fqcn[action-core]" in found
    assert "no-changed-when" in found


# -- ansible-test --


def _pip_version() -> str:
    """The version of pip whose bootstrap script ansible-test of this ansible-core wants."""
    source = (PACKAGES / "ansible_test/_internal/python_requirements.py").read_text()
    (version,) = re.findall(r"^ +pip='([\d.]+)',$", source, re.MULTILINE)
    return version


@pytest.fixture(scope="session")
def sanity_home() -> Path:
    """A home folder for ansible-test, kept between runs: it builds a virtual environment for each of its tests, once."""
    home = LAB_CACHE / "ansible-test"
    bootstrap = home / f".ansible/test/cache/get_pip_{_pip_version().replace('.', '_')}.py"
    bootstrap.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(__file__).parent / "get_pip.py", bootstrap)
    # ansible-test hands no PIP_ variable on, but pip finds this file under its home. It may hold a password of the index.
    found = [line.split("=", 1) for line in run(BIN / "pip", "config", "list").expect().stdout.splitlines()]
    settings = {name: value for prefix in ("global.", ":env:.") for place, value in found for name in place.split(prefix)[1:]}
    config = home / ".config/pip/pip.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(mode=0o600)
    lines = [f"{name} = {ast.literal_eval(value)}".replace("\n", "\n  ") + "\n" for name, value in settings.items()]
    config.write_text("".join(["[global]\n", *lines]))
    return home


def _sanity(tree: Path, home: Path, *words: str) -> Ran:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = (BIN / "ansible-test", "sanity", "--python", python, "--local", "--requirements", "--color", "no", "-v", *words)
    # One at a time: the environments below that home are made and altered as it runs.
    with locked("ansible-test"):
        return run(*command, cwd=tree, env=clean_environment(HOME=str(home)), timeout=900)


@pytest.mark.slow
def test_ansible_test_sanity(staged: Path, sanity_home: Path):
    assert not list((staged / "tests").glob("sanity/ignore*"))
    seen = _sanity(staged, sanity_home).expect().output
    run_tests = set(re.findall(r"Running sanity test \"([\w-]+)\"", seen))
    assert run_tests >= {"ansible-doc", "compile", "import", "pep8", "pylint", "shellcheck", "validate-modules", "yamllint"}, seen
    assert not re.findall(r"WARNING: .*(?:[Ss]kip|not installed).*", seen)
