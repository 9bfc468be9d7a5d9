# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ancestors are watched; that the module ends with the play is tested on the lab."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._probe.watch import ancestors, is_ansible, start_of


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Synthetic, in the format of proc_pid_stat(5): make, ansible-playbook, its worker, a shell, the module."""
    programs = {
        10: (1, "make", "make\0site\0"),
        20: (10, "ansible-playboo", "/venv/bin/python\0/venv/bin/ansible-playbook\0site.yml\0"),
        30: (20, "ansible) playbo", "/venv/bin/ansible-playbook\0site.yml\0"),
        40: (30, "sh", "/bin/sh\0-c\0python /var/tmp/.ansible/ansible-tmp-1/AnsiballZ_x.py\0"),
        50: (40, "python3", "python3\0/var/tmp/.ansible/ansible-tmp-1/AnsiballZ_x.py\0"),
    }
    for pid, (parent, name, line) in programs.items():
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} " + " ".join(["0"] * 17) + f" {pid}00 0 0\n")
        (folder / "cmdline").write_text(line)
    return tmp_path


def test_only_ansibles_own_programs_count(proc: Path) -> None:
    assert list(ancestors(50, proc)) == [40, 30, 20, 10]
    assert [pid for pid in ancestors(50, proc) if is_ansible(pid, proc)] == [30, 20]
    assert start_of(20, proc) == "2000"


def test_what_is_gone_is_nothing(proc: Path) -> None:
    assert start_of(99, proc) is None
    assert not is_ansible(99, proc)
    assert list(ancestors(99, proc)) == []


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 10
    while start_of(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.wait()


def test_this_process_has_its_parent() -> None:
    assert next(iter(ancestors(os.getpid()))) == os.getppid()
    assert start_of(os.getpid()) is not None
