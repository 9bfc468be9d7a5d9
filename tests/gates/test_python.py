# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ruff and mypy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import BIN, ROOT, clean_environment, project_files, run


@pytest.mark.parametrize("mode", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(mode: tuple[str, ...]):
    files = [name for name in project_files() if name.suffix == ".py" and not (ROOT / name).is_symlink()]
    assert files
    run(BIN / "ruff", *mode, "--no-cache", "--force-exclude", *files).expect()


def test_ruff_finds(tmp_path: Path):
    (tmp_path / "bad.py").write_text("import os\nassert  1\n")
    for mode in (("check",), ("format", "--check")):
        run(BIN / "ruff", *mode, "--no-cache", "--config", ROOT / "pyproject.toml", tmp_path / "bad.py").expect(1)


def _mypy(*words: str | Path, cwd: Path, path: str = "") -> str:
    command = (BIN / "mypy", "--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache", *words)
    return run(*command, cwd=cwd, env=clean_environment(MYPYPATH=path)).expect(0, 1).stdout


def _modules_checked(verdict: str) -> int:
    counted = re.search(r"Success: no issues found in (\d+) source file", verdict)
    assert counted, verdict
    return int(counted.group(1))


def test_mypy_on_plugins(staged: Path):
    modules = [name for name in project_files() if name.parts[0] == "plugins" and name.suffix == ".py"]
    assert modules
    assert _modules_checked(_mypy("-p", "ansible_collections.meshops.istio.plugins", cwd=staged.parents[2])) >= len(modules)


def test_mypy_on_the_harness(staged: Path):
    integration = ROOT / "tests/integration"
    shared = [*(ROOT / ".ci").glob("*.py"), ROOT / "tests/harness.py", *(path for path in integration.rglob("*.py") if not path.name.startswith("test_"))]
    assert len(shared) > 3
    assert _modules_checked(_mypy(*shared, cwd=integration, path=f"{ROOT / 'tests'}:{staged.parents[2]}")) >= len(shared)


def test_mypy_finds(staged: Path, tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text("from ansible.module_utils.basic import AnsibleModule\nvalue: int = AnsibleModule\ndef untyped(x): return x\n")
    assert "Found 2 errors" in _mypy(bad, cwd=staged.parents[2])
