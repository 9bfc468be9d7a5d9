# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is uploaded: the right files, and accepted by Galaxy's own importer."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from harness import BIN, ROOT, build, clean_environment, project_files, run

# What someone who installs the collection uses or reads; the lab, the tests and the clone's own files are not among it.
SHIPPED = {"changelogs", "docs", "examples", "meta", "monitoring", "playbooks", "plugins", "roles"} | {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "SECURITY.md",
}
COMPLETE = ("examples", "meta", "monitoring", "playbooks", "plugins", "roles")


def _members(artifact: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(artifact) as opened:
        return opened.getmembers()


def test_artifact_holds_what_is_shipped(artifact: Path):
    members = _members(artifact)
    assert {Path(member.name).parts[0] for member in members} == SHIPPED
    assert all(member.isfile() or member.isdir() for member in members)
    files = {Path(member.name) for member in members if member.isfile()}
    wanted = {name for name in project_files() if name.parts[0] in COMPLETE}
    assert len(wanted) > 20
    assert {name for name in files if name.parts[0] in COMPLETE} == wanted


def test_artifact_leaves_out_what_git_ignores(staged: Path, tmp_path: Path):
    """A build in a lived-in checkout ships none of its leftovers."""
    tree = tmp_path / "tree"
    shutil.copytree(staged, tree, symlinks=True)
    patterns = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line and not line.startswith("#")]
    planted = set()
    for pattern in patterns:
        name = pattern.strip("/").replace("*", "planted")
        path = tree / name / "planted" if pattern.endswith("/") else tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        planted.add(path.relative_to(tree).as_posix())
    assert len(planted) > 5
    assert not planted & {member.name for member in _members(build(tree, tmp_path / "out"))}


@pytest.mark.full
@pytest.mark.slow
def test_galaxy_importer(artifact: Path, tmp_path: Path):
    settings = tmp_path / "importer.cfg"
    settings.write_text("[galaxy-importer]\ncheck_required_tags = True\nrequire_v1_or_greater = True\n")
    # It lints the folder that the artifact lies in, and leaves its report in the folder that it runs in.
    own = tmp_path / artifact.name
    shutil.copy2(artifact, own)
    environment = clean_environment(GALAXY_IMPORTER_CONFIG=str(settings), ANSIBLE_HOME=str(tmp_path / "home"))
    seen = run(BIN / "python", "-m", "galaxy_importer.main", own, cwd=tmp_path, env=environment).expect().output
    assert "ansible-lint run complete" in seen
    assert not re.findall(r"^.*(?:WARNING|ERROR).*$", seen, re.MULTILINE), seen
    report = json.loads((tmp_path / "importer_result.json").read_text())
    found = {(item["content_type"], item["name"]) for item in report["contents"]}
    wanted = {("module", path.stem) for path in (ROOT / "plugins/modules").glob("*.py")} | {("role", path.name) for path in (ROOT / "roles").iterdir()}
    assert len(wanted) > 2
    assert wanted <= found
