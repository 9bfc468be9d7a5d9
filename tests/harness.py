# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gates and integration tests share: programs run in a clean environment, and copies of the working tree."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix) / "bin"
PACKAGES = Path(sysconfig.get_paths()["purelib"])
LAB_CACHE = Path(os.environ.get("ISTIO_LAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshops-istio-lab")
# What needs the cluster for itself: it compares all of it, or alters Istio or the lab, and so comes last; nothing else runs on the lab meanwhile.
WHOLE_CLUSTER = (
    "tests/integration/test_rbac.py::test_the_shipped_account_is_enough_and_leaves_the_cluster_as_it_was",
    "tests/integration/test_roles.py::test_altered_objects_of_the_sample_are_put_right",
    "tests/integration/test_roles.py::test_drift_of_the_control_plane_is_reported_and_corrected_where_asked",
    "tests/integration/test_roles.py::test_a_release_without_the_mark_is_left_alone_until_it_is_adopted",
    "tests/integration/test_roles.py::test_what_a_killed_helm_left_is_recorded_as_failed_and_helm_continues",
    "tests/integration/test_roles.py::test_a_revision_is_a_release_of_its_own",
    "tests/integration/test_roles.py::test_another_namespace",
    "tests/integration/test_lab_lifecycle.py::test_nothing_remains_of_a_lab_taken_down",
    "tests/integration/test_lab_site",
)
# The property of a test by which it says how long it waited for its turn.
WAITED = "seconds of waiting"
# With several workers (pytest-xdist): a letter or two for names of this one's own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

# Each of these points a tool at another cluster, configuration or package than the one a test is about.
FOREIGN = ("KUBECONFIG", "K8S_AUTH_", "HELM_", "ANSIBLE_", "MOLECULE_", "PYTEST_", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "GIT_")


@dataclass(frozen=True)
class Ran:
    """A program that has ended."""

    command: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def __str__(self) -> str:
        return f"$ {shlex.join(self.command)}\n{self.stdout}{self.stderr}[rc {self.rc}, {self.seconds:.1f} s]"

    def expect(self, *codes: int) -> Ran:
        """Fail the test, showing everything the program printed, unless its exit code is one of these (0 if none is given)."""
        if self.rc not in (codes or (0,)):
            pytest.fail(str(self), pytrace=False)
        return self


@contextlib.contextmanager
def locked(name: str, *, shared: bool = False) -> Iterator[None]:
    """Keep out the other worker, and runs from other checkouts, from something that all of them share, by a file in the lab's cache."""
    LAB_CACHE.mkdir(parents=True, exist_ok=True)
    with (LAB_CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would redirect a tool, with .venv first on PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join((str(BIN), os.environ.get("PATH", os.defpath)))
    return kept | {"PATH": path, "ISTIO_LAB_CACHE": str(LAB_CACHE), "LC_ALL": "C.UTF-8", "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"} | more


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 600, stdin: str = "") -> Ran:
    """Run a program to its end with this and no more on standard input; past the timeout it and what it started are killed and the test fails."""
    words = tuple(str(word) for word in command)
    start = time.monotonic()
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=clean_environment() if env is None else env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except BaseException as stop:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        if not isinstance(stop, subprocess.TimeoutExpired):
            raise
        pytest.fail(f"$ {shlex.join(words)}\n{stdout}{stderr}[not ended after {timeout:.0f} s]", pytrace=False)
    return Ran(words, process.returncode, stdout, stderr, time.monotonic() - start)


@cache
def project_files() -> tuple[Path, ...]:
    """Every file of the working tree that is or could be committed, links included, relative to ROOT."""
    listed = run("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard").expect().stdout
    return tuple(sorted({Path(name) for name in listed.split("\0") if name and ((ROOT / name).is_symlink() or (ROOT / name).is_file())}))


def stage(parent: Path) -> Path:
    """Copy the working tree to where ansible-test, mypy and galaxy-importer look for a collection, kubernetes.core beside it."""
    target = parent / "ansible_collections/meshops/istio"
    for name in project_files():
        if name.parts[0] == "collections":
            continue  # the link by which a clone finds itself: here the tree is where it belongs
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    (parent / "ansible_collections/kubernetes").mkdir()
    (parent / "ansible_collections/kubernetes/core").symlink_to(PACKAGES / "ansible_collections/kubernetes/core")
    # ansible-test and ansible-lint ask git which files there are.
    run("git", "init", "--quiet", "--initial-branch=main", cwd=target).expect()
    run("git", "add", "--all", cwd=target).expect()
    return target


def build(tree: Path, into: Path) -> Path:
    """Build the collection's artifact from a tree."""
    run(BIN / "ansible-galaxy", "collection", "build", "--output-path", into, cwd=tree).expect()
    (artifact,) = into.glob("meshops-istio-*.tar.gz")
    return artifact


def debian_root(*packages: str) -> Path:
    """The files of Debian packages, without what they depend on and not installed; kept in the lab's cache."""
    target = LAB_CACHE / "test-packages" / "-".join(packages)
    with locked("debian-packages"):
        if not target.exists():
            partial = target.with_name("partial")
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "debs").mkdir(parents=True)
            download = ("apt-get", "-o", "APT::Sandbox::User=root", "download", *packages)
            if run(*download, cwd=partial / "debs").rc:
                # A machine that never asked for its lists, or whose lists are old.
                run("apt-get", "-o", "DPkg::Lock::Timeout=300", "update").expect()
                run(*download, cwd=partial / "debs").expect()
            for deb in (partial / "debs").iterdir():
                run("dpkg-deb", "--extract", deb, partial / "root").expect()
            partial.replace(target)
    return target / "root"
