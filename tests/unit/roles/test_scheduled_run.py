# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that istio_schedule has run: alone, within its time, with metrics, and with somebody told. As a program, on small commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import ROOT, Ran, run

PROGRAM = ROOT / "roles/istio_schedule/files/scheduled_run.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    return tmp_path


def _config(folder: Path, *command: str, **more: object) -> Path:
    settings = {
        "name": "verify",
        "command": list(command),
        "environment": {"OWN": "yes"},
        "folder": str(folder),
        "report_dir": str(folder / "reports"),
        "timeout": 60,
        "metrics": "",
        "log": "",
        "print_reports": False,
        "needs_report": False,
        "on_failure_command": [],
        "on_failure_webhook": "",
    }
    path = folder / "config.json"
    path.write_text(json.dumps(settings | more))
    return path


def _run(config: Path, what: str = "run", *words: str, env: dict[str, str] | None = None) -> Ran:
    return run(sys.executable, PROGRAM, what, config, *words, env={**os.environ, **(env or {})}, timeout=60)


def _shell(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)


def _teller(folder: Path) -> dict[str, list[str]]:
    return {"on_failure_command": list(_shell(f'echo "$ISTIO_SCHEDULE_NAME $ISTIO_SCHEDULE_STATUS $ISTIO_SCHEDULE_REASON" >>{folder}/told'))}


def _told(folder: Path) -> str:
    return (folder / "told").read_text() if (folder / "told").exists() else ""


def _has_ended(process: int) -> bool:
    """Whether it's gone or dead, at last: a signal takes a moment, and whose parent has died waits for the machine's first process to look."""
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{process}/stat")
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("status", [0, 2, 4])
def test_exit_status_is_the_runs(folder: Path, status: int):
    seen = _run(_config(folder, *_shell(f'echo "own: $OWN"; exit {status}'), **_teller(folder))).expect(status)
    assert seen.stdout == "own: yes\n"
    assert bool(_told(folder)) is (status != 0)


def test_reason_is_told(folder: Path):
    _run(_config(folder, *_shell("kill -KILL $$"), **_teller(folder))).expect(137)
    assert _told(folder) == "verify 137 it was killed by signal 9\n"


def test_nobody_is_told_twice(folder: Path):
    """With systemd the run says nothing, and what comes after it does."""
    config = _config(folder, *_shell("exit 2"), **_teller(folder))
    _run(config, "run", "--no-notify").expect(2)
    assert not _told(folder)
    _run(config, "notify", env={"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "75"}).expect()
    assert not _told(folder)
    for result, code, status, said in (
        ("exit-code", "exited", "2", "verify 2 a service did not pass, or a cluster could not be checked"),
        ("signal", "killed", "KILL", "verify 137 it was killed by signal 9"),
        ("timeout", "killed", "TERM", "verify 143 it was ended by its timeout"),
        ("oom-kill", "killed", "KILL", "verify 137 it was killed because it ran out of memory"),
    ):
        (folder / "told").unlink(missing_ok=True)
        _run(config, "notify", env={"SERVICE_RESULT": result, "EXIT_CODE": code, "EXIT_STATUS": status}).expect()
        assert _told(folder) == f"{said}\n"


def test_a_hook_that_fails_hides_nothing(folder: Path):
    hooks = {"on_failure_command": ["/nonexistent"], "on_failure_webhook": "http://127.0.0.1:9/not-for-anybody"}
    config = _config(folder, *_shell("exit 2"), **hooks)
    seen = _run(config).expect(2)
    assert "istio_schedule_on_failure_command failed" in seen.stderr
    assert "istio_schedule_on_failure_webhook failed" in seen.stderr
    assert "not-for-anybody" not in seen.output
    assert "Traceback" not in seen.output
    _run(config, "notify", env={"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "2"}).expect(1)


def test_no_program(folder: Path):
    seen = _run(_config(folder, "/nonexistent/ansible-playbook", **_teller(folder))).expect(127)
    assert "/nonexistent/ansible-playbook cannot be started" in seen.stderr
    assert "it could not be started" in _told(folder)


def test_time_is_up_for_all_that_was_started(folder: Path):
    """A child that would not hear is ended too."""
    start = time.monotonic()
    script = f'(trap "" TERM; echo $$ >/dev/null; sleep 300) & echo $! >{folder}/child; wait'
    seen = _run(_config(folder, *_shell(script), timeout=1, **_teller(folder))).expect(124)
    assert time.monotonic() - start < 20
    assert "ended after 1 s" in seen.stderr
    assert "it was ended by its timeout" in _told(folder)
    assert _has_ended(int((folder / "child").read_text()))


def test_a_signal_ends_the_run_and_is_told(folder: Path):
    config = _config(folder, *_shell(f"echo $$ >{folder}/started; exec sleep 300"), **_teller(folder))
    with subprocess.Popen([sys.executable, PROGRAM, "run", config]) as program:
        while not (folder / "started").exists() or not (folder / "started").read_text():
            time.sleep(0.05)
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 143
    assert _told(folder) == "verify 143 it was killed by signal 15\n"
    assert _has_ended(int((folder / "started").read_text()))


def test_two_runs_exclude_each_other(folder: Path):
    """Also while only what a killed run had started is left of it."""
    config = _config(folder, *_shell(f"echo $$ >{folder}/started; exec sleep 300"), **_teller(folder))
    with subprocess.Popen([sys.executable, PROGRAM, "run", config]) as program:
        while not (folder / "started").exists() or not (folder / "started").read_text():
            time.sleep(0.05)
        assert "skipped, because another run is active" in _run(config).expect(75).stderr
        program.kill()
        program.wait()
        _run(config).expect(75)
    os.kill(int((folder / "started").read_text()), signal.SIGKILL)
    assert not _told(folder)
    deadline = time.monotonic() + 10
    while _run(_config(folder, "true")).rc == 75 and time.monotonic() < deadline:
        time.sleep(0.1)
    _run(_config(folder, "true")).expect()


def _report(folder: Path, cluster: str, name: str, text: str) -> None:
    path = folder / "reports" / cluster / "20261124T101742Z" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    latest = folder / "reports" / cluster / "latest"
    if not latest.is_symlink():
        latest.symlink_to(path.parent.name)


def test_metrics_of_all_clusters_are_one_file(folder: Path):
    head = "# HELP up Is it.\n# TYPE up gauge\n"
    _report(folder, "a", "affinity.prom", f'{head}up{{cluster="a"}} 1\n# HELP other x\n# TYPE other gauge\nother{{cluster="a"}} 3\n')
    _report(folder, "b", "affinity.prom", f'{head}up{{cluster="b"}} 0\n')
    (folder / "reports/index.html").write_text("")
    metrics = folder / "affinity.prom"
    _run(_config(folder, *_shell("exit 2"), metrics=str(metrics))).expect(2)
    lines = metrics.read_text().splitlines()
    expected = ["# HELP up Is it.", "# TYPE up gauge", 'up{cluster="a"} 1', 'up{cluster="b"} 0', "# HELP other x", "# TYPE other gauge", 'other{cluster="a"} 3']
    assert lines[:7] == expected
    assert 'istio_schedule_last_run_exit_status{schedule="verify"} 2' in lines
    (stamp,) = [line for line in lines if line.startswith("istio_schedule_last_run_timestamp_seconds{")]
    assert abs(float(stamp.split()[1]) - time.time()) < 60
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in folder.glob(".*")] == []


def test_metrics_that_cannot_be_written_are_a_failure(folder: Path):
    seen = _run(_config(folder, "true", metrics=str(folder / "nowhere/affinity.prom"), **_teller(folder))).expect(74)
    assert "cannot be exported" in seen.stderr
    assert "it passed, but its reports could not be exported" in _told(folder)


def test_a_run_without_a_report_has_failed(folder: Path):
    """As with an inventory that has no hosts, which Ansible passes."""
    _report(folder, "old", "report.json", "{}")
    os.utime(folder / "reports/old/latest/report.json", (1, 1))
    seen = _run(_config(folder, "true", needs_report=True, **_teller(folder))).expect(73)
    assert "has no report of this run" in seen.stderr
    assert "it verified no cluster" in _told(folder)
    _run(_config(folder, "touch", str(folder / "reports/old/latest/report.json"), needs_report=True)).expect()
    _run(_config(folder, *_shell("exit 2"), needs_report=True)).expect(2)


def test_only_this_runs_reports_are_printed(folder: Path):
    _report(folder, "old", "report.json", '{"from": "yesterday"}')
    os.utime(folder / "reports/old/latest/report.json", (1, 1))
    (folder / "reports/new/1").mkdir(parents=True)
    (folder / "reports/new/latest").symlink_to("1")
    script = f'echo playing; echo \'{{"verdict":\n "failed"}}\' >{folder}/reports/new/latest/report.json'
    seen = _run(_config(folder, *_shell(script), print_reports=True)).expect()
    assert seen.stdout == 'playing\nreport of new: {"verdict":"failed"}\n'


def test_log_of_the_run_before_is_kept(folder: Path):
    for word in ("first", "second", "third"):
        assert _run(_config(folder, *_shell(f"echo {word}; echo error >&2"), log=str(folder / "run.log"))).expect().output == ""
    assert (folder / "run.log").read_text() == "third\nerror\n"
    assert (folder / "run.log.1").read_text() == "second\nerror\n"


def test_check_runs_nothing(folder: Path):
    assert _run(_config(folder, "echo"), "check").expect().stdout == "--syntax-check\n"
