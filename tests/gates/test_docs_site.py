# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation site builds without a warning, and holds every page."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import BIN, ROOT, Ran, run, stage


def _build(tree: Path, out: Path) -> Ran:
    return run(BIN / "python", tree / ".ci/docs_site.py", out)


@pytest.mark.slow
def test_docs_site(tmp_path: Path):
    _build(ROOT, tmp_path / "site").expect()
    built = {path.relative_to(tmp_path / "site").as_posix() for path in tmp_path.rglob("*.html")}
    wanted = {"index.html"} | {f"pages/{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    wanted |= {f"collection/{path.stem}_module.html" for path in (ROOT / "plugins/modules").glob("*.py")}
    wanted |= {f"collection/{path.stem}_filter.html" for path in (ROOT / "plugins/filter").glob("*.yml")}
    wanted |= {f"collection/{path.name}_role.html" for path in (ROOT / "roles").iterdir()}
    wanted |= {f"collection/docsite/{path.stem}.html" for path in (ROOT / "docs/docsite/rst").glob("*.rst")}
    assert not wanted - built


@pytest.mark.slow
def test_docs_site_finds(tmp_path: Path):
    tree = stage(tmp_path)
    with (tree / "docs/verdict.md").open("a") as page:
        page.write("\n[nowhere](compliance.md#no-such-heading)\n")
    assert "no-such-heading" in _build(tree, tmp_path / "site").expect(1).output
