# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gates run on is what requirements.txt says, and `.ci/venv` takes the newest Python there is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness import BIN, ROOT, Ran, clean_environment, run

LINES = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
REQUIREMENTS = [Requirement(line) for line in LINES if line]
# The Pythons that .ci/venv takes, with the ansible-core that each gets.
CORES = {"3.11": "2.19.14", "3.12": "2.21.5", "3.13": "2.21.5", "3.14": "2.21.5"}
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def _pins(version: str, requirements: list[Requirement] = REQUIREMENTS) -> list[tuple[str, str]]:
    """Name and version of each package for this Python."""
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    chosen = [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]
    return [(canonicalize_name(one.name), str(one.specifier).removeprefix("==")) for one in chosen]


def test_every_installed_package_is_pinned():
    listed = run(BIN / "python", "-m", "pip", "freeze", "--all", "--exclude", "pip").expect().stdout.splitlines()
    installed = {(canonicalize_name(name), version) for name, version in (line.split("==") for line in listed)}
    assert len(installed) > 20
    assert installed == set(_pins(THIS))


@pytest.mark.parametrize("version", CORES)
def test_each_python_gets_one_pinned_version_of_every_package(version: str):
    for one in REQUIREMENTS:
        assert [item.operator for item in one.specifier] == ["=="], f"{one} is not pinned"
        assert "*" not in str(one.specifier), f"{one} is not pinned"
    names = [name for name, _version in _pins(version)]
    assert len(names) == len(set(names))
    assert set(names) == {canonicalize_name(one.name) for one in REQUIREMENTS}
    assert dict(_pins(version))["ansible-core"] == CORES[version]


def test_every_package_is_locked_by_hash():
    """A package that changed on its way is not installed. `make lock` writes the file again."""
    entries = (ROOT / ".ci/requirements.lock").read_text().replace("\\\n", " ").splitlines()
    locked = [entry.split(" --hash=") for entry in entries if entry and not entry.lstrip().startswith("#")]
    assert all(len(parts) > 1 and all(part.strip().startswith("sha256:") for part in parts[1:]) for parts in locked)
    for version in CORES:
        assert sorted(_pins(version, [Requirement(name) for name, *_hashes in locked])) == sorted(_pins(version)), "run `make lock`"


def test_installed_packages_agree():
    run(BIN / "python", "-m", "pip", "check").expect()


# -- .ci/venv --


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that needs no package, so that its environment is made in seconds."""
    (tmp_path / "checkout/.ci").mkdir(parents=True)
    for program in ("venv", "pythons"):
        shutil.copy2(ROOT / ".ci" / program, tmp_path / "checkout/.ci" / program)
    for name in ("requirements.txt", ".ci/requirements.lock"):
        (tmp_path / "checkout" / name).write_text("# nothing\n")
    return tmp_path / "checkout"


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _venv(checkout: Path, *words: str, activated: bool = False) -> Ran:
    """Run it where only these tests' Pythons are, and not as one who may install packages."""
    bin_, pyenv = checkout.parent / "bin", checkout.parent / "pyenv"
    bin_.mkdir(exist_ok=True)
    for tool in ("bash", "cat", "cmp", "dirname", "flock", "mv", "rm", "sort"):
        (bin_ / tool).unlink(missing_ok=True)
        (bin_ / tool).symlink_to(str(shutil.which(tool)))
    path = f"{checkout}/.venv/bin:{bin_}" if activated else str(bin_)
    return run(checkout / ".ci/venv", *words, cwd=checkout, env=clean_environment(PATH=path, PYENV_ROOT=str(pyenv)))


@pytest.mark.slow
def test_a_shim_that_fails_and_an_incomplete_python_are_passed_over(checkout: Path):
    base = Path(sys._base_executable)
    bin_ = checkout.parent / "bin"
    # pyenv's shim of a version that is not active; a Debian's Python without its module venv; a pyenv's version, newest patch first.
    _program(bin_ / "python3.99", 'echo "pyenv: python3.99: command not found" >&2; exit 127')
    _program(bin_ / "python3.98", 'case $* in *ensurepip*) exit 1;; *python%d*) echo python3.98-venv;; *) echo "$0";; esac')
    _program(checkout.parent / f"pyenv/versions/{THIS}.100/bin/python3", f'exec {base} "$@"')
    _program(checkout.parent / f"pyenv/versions/{THIS}.99/bin/python3", "exit 1")
    made = _venv(checkout, ".venv", "3.99", "3.98", THIS).expect().stdout
    assert f"Making .venv from requirements.txt with {base}" in made
    assert (checkout / ".venv/made-from").read_text() == f"{checkout}\nPython {sys.version.split()[0]}\n# nothing\n# nothing\n"
    run(checkout / ".venv/bin/pip", "--version").expect()
    assert _venv(checkout, ".venv", "3.99", "3.98", THIS).expect().output == ""

    # An activated environment is rebuilt with its base Python, and only if the set of packages differs.
    assert _venv(checkout, ".venv", THIS, activated=True).expect().output == ""
    (checkout / "requirements.txt").write_text("# another\n")
    assert f"Making .venv from requirements.txt with {base}" in _venv(checkout, ".venv", THIS, activated=True).expect().stdout
    run(checkout / ".venv/bin/pip", "--version").expect()


def test_without_a_python_it_says_what_to_do(checkout: Path):
    told = _venv(checkout, ".venv-other", "3.99", "3.98").expect(1).stderr
    assert "No Python for .venv-other: one of CPython 3.99 3.98" in told
    assert "apt-get install python3 python3-venv" in told
    _program(checkout.parent / "bin/python3.98", 'case $* in *ensurepip*) exit 1;; *python%d*) echo python3.98-venv;; *) echo "$0";; esac')
    told = _venv(checkout, ".venv-other", "3.99", "3.98").expect(1).stderr
    assert "python3.98 has no module venv: install it (on Debian and Ubuntu: apt-get install python3.98-venv)" in told
    assert not (checkout / ".venv-other").exists()
