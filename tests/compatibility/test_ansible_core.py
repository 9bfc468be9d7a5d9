# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""verify on the oldest and the newest ansible-core that is promised, each in an environment of its own with nothing that kubernetes.core does not need.

Part of `make test-full`: the environments are downloaded. It runs on the sample that site.yml left on the lab.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import LAB_CACHE, PACKAGES, ROOT, clean_environment, run


@dataclass(frozen=True)
class Release:
    """An ansible-core, the Python that runs it, and what to install; an `ansible` brings the kubernetes.core of its time along."""

    core: str
    python: str
    package: str


RELEASES = (
    Release("2.16", "python3.11", "ansible-core==2.16.*"),
    Release("2.21", "python3.13", "ansible==14.*"),
)


def _environment(release: Release, folder: Path) -> Path:
    """A virtual environment, and a folder of collections with ours (a copy of the tree) and kubernetes.core; the bin folder."""
    python = shutil.which(release.python)
    if not python:
        pytest.fail(f"{release.python} is needed for ansible-core {release.core}", pytrace=False)
    run(python, "-m", "venv", folder / "venv").expect()
    run(folder / "venv/bin/pip", "install", "--quiet", "--no-compile", release.package, "kubernetes", "PyYAML", "jsonpatch", timeout=900).expect()
    return folder / "venv/bin"


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.core)
def test_verify(release: Release, staged: Path, tmp_path: Path) -> None:
    programs = _environment(release, tmp_path)
    (own,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    bundled = own / "ansible_collections/kubernetes/core"
    collections = tmp_path / "collections/ansible_collections"
    for name, source in {"meshops/istio": staged, "kubernetes/core": bundled if bundled.exists() else PACKAGES / "ansible_collections/kubernetes/core"}.items():
        (collections / name).parent.mkdir(parents=True)
        (collections / name).symlink_to(source)
    environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=str(collections.parent), PATH=f"{programs}:/usr/bin:/bin", ISTIO_LAB_CACHE=str(LAB_CACHE))
    assert f"core {release.core}." in run(programs / "ansible", "--version", env=environment).expect().stdout
    variables = {"istio_affinity_report_dir": str(tmp_path / "reports"), "istio_affinity_profile": "quick", "istio_affinity_namespaces": ["sample"]}
    words = ("--inventory", ROOT / "inventory/lab.yml", "--extra-vars", json.dumps(variables), "meshops.istio.verify")
    run(programs / "ansible-playbook", *words, cwd=tmp_path, env=environment).expect()
    report = json.loads((tmp_path / "reports/lab/latest/report.json").read_text())
    assert [(service["service"], service["verdict"], service["status"]) for service in report["services"]] == [("nginx-service", "passed", "green")]
