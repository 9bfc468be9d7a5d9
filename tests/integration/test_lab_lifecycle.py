# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab goes without a trace, and says in words why it can't work. It is up again in the end. That it survives being killed: test_lab_site.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_support import LAB, PLAYBOOK, WITH_LOCK, Seen, changes, environment, init_process, kubectl, lab, look, no_trace, plain

from harness import ROOT, run

OTHER_WAY = "make site INVENTORY=inventory/minikube.yml"


def _bring_up() -> None:
    """A run of the playbook on a lab that is up is a test of its own."""
    if run("python3", ROOT / ".ci/lab_kubeconfig.py", LAB / "kubeconfig").rc:
        lab("present").expect()


@pytest.fixture
def up() -> Iterator[Seen]:
    """The machine with the lab up, which it is again afterwards whatever became of the test."""
    _bring_up()
    yield look()
    _bring_up()


def _seconds_of_programs() -> float:
    """Of processor time, which a busy machine does not lengthen."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_running_lab_is_left_alone():
    before, first = _seconds_of_programs(), init_process()
    assert changes(lab("present").expect()) == 0
    assert _seconds_of_programs() - before < 30
    assert init_process() == first


@pytest.mark.full
def test_nothing_remains_of_a_lab_taken_down(up: Seen):
    assert up.groups
    assert up.mounts
    own = {str(path.readlink()) for pid in up.processes for path in Path(f"/proc/{pid}/ns").iterdir() if path.name in ("net", "mnt", "pid", "uts", "ipc")}
    own -= {str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}
    assert len(own) > 5, "every pod has some of its own"

    assert changes(lab("absent").expect()) > 0
    down = look()
    no_trace(up, down)
    assert not down.groups
    assert down.inotify < up.inotify == 1024, "a limit of the machine that the lab needs higher is put back"
    assert not own & down.namespaces
    assert changes(lab("absent").expect()) == 0
    assert (LAB / "nodes/node-1/joined").exists(), "its data stay"


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody with a cache, and so a lock, of their own."""
    settings = environment(ISTIO_LAB_CACHE=str(tmp_path / "cache"))
    settings.pop("ISTIO_LAB_LOCKED", None)
    return settings


def test_lock_names_its_holder(elsewhere: dict[str, str]):
    assert run(WITH_LOCK, WITH_LOCK, "sh", "-c", "exit 7", env=elsewhere).rc == 7, "it may be taken again by who has it, and passes on how a command ended"

    with subprocess.Popen([WITH_LOCK, "sh", "-c", "echo held; read end"], env=elsewhere, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "held\n"
        refused = run(WITH_LOCK, "echo", "never", env=elsewhere).expect(75)
        assert refused.stdout == ""
        assert f"held by {ROOT}, process {holder.pid}, since " in refused.stderr
        assert "sh -c echo held; read end" in refused.stderr
        unlocked = run(*PLAYBOOK, env=elsewhere).expect(2)
        assert f"The embedded lab is in use (held by {ROOT}, process {holder.pid}" in plain(unlocked)
        holder.stdin.close()
    run(WITH_LOCK, "true", env=elsewhere).expect()


def test_lock_is_not_held_by_what_a_command_leaves_running(elsewhere: dict[str, str]):
    left = int(run(WITH_LOCK, "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!", env=elsewhere).expect().stdout)
    try:
        run(WITH_LOCK, "true", env=elsewhere).expect()
    finally:
        os.kill(left, signal.SIGKILL)


def test_says_that_it_needs_root(elsewhere: dict[str, str]):
    # In a user namespace without a mapping nobody is root, and the files can still be read.
    refused = lab("present", before=("unshare", "--user"), env=elsewhere).expect(2)
    assert "The embedded lab needs root" in plain(refused)
    assert OTHER_WAY in plain(refused)


def test_says_which_system_it_runs_on(elsewhere: dict[str, str], tmp_path: Path):
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nPRETTY_NAME="Fedora Linux 42"\n')
    disguised = ("unshare", "--mount", "sh", "-c", f'mount --bind {release} /etc/os-release && exec "$@"', "sh")
    refused = lab("present", before=disguised, env=elsewhere).expect(2)
    assert "Debian-like Linux on x86_64; this is Fedora Linux 42 on x86_64" in plain(refused)
    assert OTHER_WAY in plain(refused)


def test_says_what_the_machine_lacks(elsewhere: dict[str, str], tmp_path: Path):
    """All at once: a second lab while this one runs, its ports, memory and disk for a build."""
    lacking = {"istio_lab_build_memory_mib": 10**9, "istio_lab_build_disk_mib": 10**9}
    refused = plain(lab("present", env=elsewhere, **lacking).expect(2))
    assert f"Another lab runs on this machine, from the cache {LAB.parent}. Only one can run at a time." in refused
    assert "another process uses port 26443 and port 26480" in refused
    assert "needs 1000000000 MiB of available memory" in refused
    assert f"needs 1000000000 MiB of disk below {tmp_path}/cache" in refused
    assert OTHER_WAY in refused
    assert not (tmp_path / "cache/parts").exists()


def test_leaves_the_lab_of_another_cache_alone(elsewhere: dict[str, str]):
    first = init_process()
    lab("purge", env=elsewhere).expect()
    assert init_process() == first
    assert Path(f"/proc/{first}").exists()
    assert kubectl("get", "--raw=/readyz") == "ok"
