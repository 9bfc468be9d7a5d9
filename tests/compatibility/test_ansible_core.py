# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""site and verify on the oldest and the newest ansible-core that they are to run on and on one between, each with nothing that kubernetes.core does not need.

Part of `make test-full`: three environments are downloaded; verify alone runs in the root of the image of scheduled jobs too. It runs on the sample that
site.yml left on the lab.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from job_support import job_root

from harness import LAB_CACHE, ROOT, Ran, clean_environment, run

# Runs a command with a copy-on-write view of a root file system as its root, in which the folders of this machine that follow are seen where they are here.
CHROOT = """
root=$1 over=$2 folders=$3
shift 3
mount -t tmpfs tmpfs "$over"
mkdir "$over/upper" "$over/work" "$over/root"
mount -t overlay -o "lowerdir=$root,upperdir=$over/upper,workdir=$over/work" overlay "$over/root"
cd "$over/root"
mount -t proc proc proc
mount --rbind /dev dev
for folder in $folders; do
  mkdir -p ".$folder"
  mount --bind "$folder" ".$folder"
done
exec chroot . "$@"
"""


@dataclass(frozen=True)
class Release:
    """An ansible-core, ready to run, and the collections path that it brings along."""

    core: str
    command: tuple[str | Path, ...]
    path: str
    collections: tuple[str, ...] = field(default=())

    def __call__(self, program: str, *words: str | Path, collections: Path, cwd: Path) -> Ran:
        places = ":".join((str(collections), *self.collections))
        environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=places, PATH=self.path, HOME=str(cwd), ANSIBLE_HOME=str(cwd / "home"))
        return run(*self.command, program, *words, cwd=cwd, env=environment)


def _pip(core: str, carrier: str, pythons: tuple[str, ...], folder: Path) -> Release:
    """In a virtual environment of the newest of these Pythons, with kubernetes.core as a release of the package `ansible` carries it."""
    python = next(iter(run(ROOT / ".ci/pythons", *pythons).expect().stdout.splitlines()), None)
    if python is None:
        pytest.fail(f"ansible-core {core} needs one of Python {', '.join(pythons)}, on PATH or among pyenv's versions", pytrace=False)
    run(python, "-m", "venv", folder / "venv").expect()
    pip = folder / "venv/bin/pip"
    run(pip, "install", "--quiet", "--no-compile", f"ansible-core=={core}.*", "kubernetes", "PyYAML", "jsonpatch", timeout=900).expect()
    run(pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, f"ansible=={carrier}", timeout=900).expect()
    (wheel,) = folder.glob("ansible-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder / "others", [name for name in opened.namelist() if name.startswith("ansible_collections/kubernetes/core/")])
    return Release(core, (), f"{folder}/venv/bin:/usr/bin:/bin", (str(folder / "others"),))


def _trixie(artifact: Path, folder: Path) -> Release:
    """Debian trixie with its Python 3.13 and a kubernetes.core of that time."""
    (folder / "over").mkdir()
    seen = " ".join(str(place) for place in (folder.parent, ROOT, LAB_CACHE / "lab"))
    chroot = ("unshare", "--mount", "--propagation=private", "sh", "-euc", CHROOT, "sh", job_root(artifact), folder / "over", seen)
    # The working folder is left behind with the old root.
    inside = (*chroot, "sh", "-euc", 'cd "$1"; shift; exec "$@"', "sh", folder)
    return Release("2.21", inside, "/usr/local/bin:/usr/bin:/bin:/usr/sbin", ("/usr/share/ansible/collections",))


RELEASES: dict[str, Callable[[Path, Path], Release]] = {
    "2.16": lambda _artifact, folder: _pip("2.16", "12.3.0", ("3.12", "3.11"), folder),
    "2.19": lambda _artifact, folder: _pip("2.19", "12.3.0", ("3.13", "3.12", "3.11"), folder),
    "2.21": lambda _artifact, folder: _pip("2.21", "14.5.0", ("3.14", "3.13", "3.12"), folder),
    "2.21 of scheduled jobs": _trixie,
}


@pytest.mark.parametrize("name", RELEASES)
def test_site_and_verify(name: str, staged: Path, artifact: Path, tmp_path: Path) -> None:
    """What is healthy is green; the same service asked for by a header that no rule hashes on is red, with its cause."""
    release = RELEASES[name](artifact, tmp_path)
    collections = tmp_path / "collections/ansible_collections/meshops"
    collections.mkdir(parents=True)
    run("cp", "-rL", staged, collections / "istio").expect()
    where: dict[str, Any] = {"collections": collections.parents[1], "cwd": tmp_path}
    assert f"core {release.core}." in release("ansible", "--version", **where).expect().stdout

    service = {"namespace": "sample", "service": "nginx-service", "key": {"type": "header", "name": "user-session"}}
    common = {"istio_affinity_report_dir": str(tmp_path / "reports"), "istio_affinity_profile": "quick", "istio_affinity_namespaces": ["sample"]}
    missed = [service | {"key": {"type": "header", "name": "x-mistyped"}}]
    for services, rc, expected in ((common, 0, ("passed", "green")), (common | {"istio_affinity_services": missed}, 2, ("failed", "red"))):
        words = ("--inventory", ROOT / "inventory/lab.yml", "--extra-vars", json.dumps(services), "meshops.istio.verify")
        ran = release("ansible-playbook", *words, **where).expect(rc)
        report = json.loads((tmp_path / "reports/lab/latest/report.json").read_text())
        assert [(one["service"], one["verdict"], one["status"]) for one in report["services"]] == [("nginx-service", *expected)], ran
    # The image of scheduled jobs has no helm.
    if not release.command:
        ran = release("ansible-playbook", "--inventory", ROOT / "inventory/lab.yml", "meshops.istio.site", **where).expect(0)
        assert "passed: 20 of 20 sessions" in ran.stdout
        assert "changed=0" in ran.stdout
