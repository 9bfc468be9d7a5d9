# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that istio_schedule has run: alone, within its time, with metrics, a log, and with somebody told. As a program, on small commands."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import ROOT, Ran, run

PROGRAM = ROOT / "roles/istio_schedule/files/scheduled_run.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    return tmp_path


def _config(place: Path, /, *command: str, **more: object) -> Path:
    settings = {
        "name": "verify",
        "command": list(command),
        "environment": {"OWN": "yes"},
        "folder": str(place),
        "report_dir": str(place / "reports"),
        "timeout": 60,
        "metrics": "",
        "print_reports": False,
        "needs_report": False,
        "on_failure_command": [],
        "on_failure_webhook": "",
    }
    path = place / "config.json"
    path.write_text(json.dumps(settings | more))
    return path


def _run(config: Path, what: str = "run", *words: str, env: dict[str, str] | None = None) -> Ran:
    return run(sys.executable, "-S", PROGRAM, what, config, *words, env={**os.environ, **(env or {})}, timeout=60)


def _shell(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)


def _teller(folder: Path) -> dict[str, list[str]]:
    return {"on_failure_command": list(_shell(f'echo "$ISTIO_SCHEDULE_NAME $ISTIO_SCHEDULE_STATUS $ISTIO_SCHEDULE_REASON" >>{folder}/told'))}


def _told(folder: Path) -> str:
    return (folder / "told").read_text() if (folder / "told").exists() else ""


def _has_ended(process: int) -> bool:
    """Whether it's gone or dead, at last: a signal takes a moment, and whose parent has died waits for the machine's first process to look."""
    deadline = time.monotonic() + 30
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
    config = _config(folder, *_shell("exit 5"), needs_report=True, **_teller(folder))
    _run(config, "run", "--no-notify").expect(5)
    assert not _told(folder)
    _run(config, "notify", env={"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "75"}).expect()
    assert not _told(folder)
    for result, code, status, said in (
        ("exit-code", "exited", "2", "verify 2 a service is broken: its sessions do not stick"),
        ("exit-code", "exited", "72", "verify 72 no service is known to be broken, but a service or a cluster could not be judged"),
        ("exit-code", "exited", "71", "verify 71 its directory is missing, full or not writable"),
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
    with subprocess.Popen([sys.executable, "-S", PROGRAM, "run", config]) as program:
        while not (folder / "started").exists() or not (folder / "started").read_text():
            time.sleep(0.05)
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 143
    assert _told(folder) == "verify 143 it was killed by signal 15\n"
    assert _has_ended(int((folder / "started").read_text()))


def _started(folder: Path) -> int:
    """The process of the run, once it has started."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (folder / "started").exists() and (folder / "started").read_text().strip():
            return int((folder / "started").read_text())
        time.sleep(0.05)
    pytest.fail("The run did not start.")


def test_two_runs_exclude_each_other(folder: Path):
    config = _config(folder, *_shell(f"echo $$ >{folder}/started; exec sleep 300"), **_teller(folder))
    with subprocess.Popen([sys.executable, "-S", PROGRAM, "run", config]) as program:
        _started(folder)
        assert "skipped, because another run is active" in _run(config).expect(75).stderr
        assert not _told(folder)
        program.terminate()
        assert program.wait(60) == 143
    _run(_config(folder, "true")).expect()


def test_a_killed_program_takes_its_run_along(folder: Path):
    config = _config(folder, *_shell(f"echo $$ >{folder}/started; exec sleep 300"))
    with subprocess.Popen([sys.executable, "-S", PROGRAM, "run", config]) as program:
        child = _started(folder)
        program.kill()
        program.wait()
    assert _has_ended(child)
    _run(_config(folder, "true")).expect()


def test_what_a_killed_run_left_is_told(folder: Path):
    """A process that would not hear keeps other runs out, and that is no silent skip."""
    config = _config(folder, *_shell(f'trap "" TERM; echo $$ >{folder}/started; sleep 300 & wait; wait'), **_teller(folder))
    with subprocess.Popen([sys.executable, "-S", PROGRAM, "run", config]) as program:
        child = _started(folder)
        program.kill()
        program.wait()
    try:
        assert f"fuser {folder}/lock.run" in _run(config).expect(76).stderr
        assert _told(folder) == "verify 76 it did not run, because processes of a killed run are still active\n"
    finally:
        os.killpg(child, signal.SIGKILL)
    assert _has_ended(child)
    _run(_config(folder, "true")).expect()


def _report(folder: Path, cluster: str, name: str, text: str, run: str = "20261124T101742Z") -> None:
    path = folder / "reports" / cluster / run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    latest = folder / "reports" / cluster / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(path.parent.name)


def _service(verdict: str, status: str, name: str = "cart", conclusive: str = "") -> dict[str, object]:
    return {"namespace": "shop", "service": name, "verdict": verdict, "status": status, "conclusive": {"verdict": conclusive} if conclusive else None}


def _reporter(folder: Path, status: int, clusters: dict[str, list[dict[str, object]]], sinks: dict[str, int] | None = None, run: str = "1") -> Path:
    """A stand-in for ansible-playbook: it writes a report of each cluster as verify does, with the state of its sinks in the metrics."""
    new = folder / "new"
    for cluster, services in clusters.items():
        red = any(service["status"] == "red" for service in services)
        _report(new, cluster, "report.json", json.dumps({"status": "red" if red else "green", "services": services}), run)
        samples = [f'istio_affinity_sink_up{{cluster="{cluster}",sink="{sink}"}} {up}\n' for sink, up in (sinks or {}).items()]
        _report(new, cluster, "affinity.prom", "".join(["# TYPE istio_affinity_sink_up gauge\n", *samples]), run)
    program = folder / "ansible-playbook"
    program.write_text(f"#!/bin/sh\ncp -R --remove-destination {new}/reports/. {folder}/reports\nexit {status}")
    program.chmod(0o755)
    return program


def _log(folder: Path) -> list[dict[str, object]]:
    """The lines of the log, without what differs from run to run."""
    lines = [json.loads(line) for line in (folder / "run.log").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("time", "run", "schedule", "seconds")} for line in lines]


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
    (folder / "affinity.prom").mkdir()
    seen = _run(_config(folder, "true", metrics=str(folder / "affinity.prom"), **_teller(folder))).expect(74)
    assert "the metrics cannot be exported" in seen.stderr
    assert "it passed, but its reports could not be exported or sent" in _told(folder)
    assert [path.name for path in folder.glob(".*")] == []


@pytest.mark.parametrize("text", [b"up 1\n\xff", b"# HELP\n", b"# HELP up x\nup{ 1\n", b"up one\n"], ids=["not UTF-8", "no family", "no labels", "no value"])
def test_unreadable_metrics_lose_their_cluster_only(folder: Path, text: bytes):
    _report(folder, "a", "affinity.prom", "")
    (folder / "reports/a/latest/affinity.prom").write_bytes(text)
    _report(folder, "b", "affinity.prom", 'up{cluster="b",why="\\"1\\" } 0"} 0\nshare 1.5e-05\nnever NaN\n')
    metrics = folder / "affinity.prom"
    seen = _run(_config(folder, "true", metrics=str(metrics))).expect(74)
    assert "the metrics of a cannot be exported" in seen.stderr
    assert "Traceback" not in seen.stderr
    assert metrics.read_text().splitlines()[:3] == ['up{cluster="b",why="\\"1\\" } 0"} 0', "share 1.5e-05", "never NaN"]


def test_a_run_without_a_report_has_failed(folder: Path):
    """As with an inventory that has no hosts, which Ansible passes; and as with a full disk, where it fails."""
    _report(folder, "old", "report.json", '{"status": "green"}')
    seen = _run(_config(folder, "true", needs_report=True, **_teller(folder))).expect(73)
    assert "lacks a report of this run" in seen.stderr
    assert "it left no report of a cluster" in _told(folder)
    _run(_config(folder, *_shell("exit 2"), needs_report=True)).expect(73)
    _run(_config(folder, *_shell("exit 5"), needs_report=True)).expect(5)
    _run(_config(folder, *_shell("exit 2"))).expect(2)


@pytest.mark.parametrize("moment", [1, 4e9])
@pytest.mark.parametrize("copied", [False, True], ids=["link", "copy"])
def test_a_report_is_this_runs_whatever_the_clock_says(folder: Path, moment: float, copied: bool):
    """A file server's clock, or this machine's, may be wrong by any time. A volume without links has a copy of the latest report instead."""
    latest = folder / "reports/lab/latest"
    _report(folder, "lab", "report.json", '{"status": "green"}')
    os.utime(latest / "report.json", (time.time() + 1e6,) * 2)
    program = _reporter(folder, 0, {"lab": [_service("passed", "green")]})
    if copied:
        for place in (latest, folder / "new/reports/lab/latest"):
            content = (place / "report.json").read_text()
            place.unlink()
            place.mkdir()
            (place / "report.json").write_text(content)
    program.write_text(program.read_text().replace("exit 0", f"touch -d @{moment:.0f} {latest}/report.json; exit 0"))
    _run(_config(folder, str(program), needs_report=True)).expect(0)
    # The next one leaves none.
    _run(_config(folder, "true", needs_report=True)).expect(73)


PASSED, BROKEN, STATIC, UNKNOWN = (_service(*words) for words in (("passed", "green"), ("failed", "red"), ("does_not", "red"), ("not_proven", "red")))


@pytest.mark.parametrize(
    ("clusters", "sinks", "status"),
    [
        ({"a": [PASSED, BROKEN], "b": [UNKNOWN]}, {}, 2),
        ({"a": [STATIC]}, {"http": 0, "configmap": 1}, 2),
        ({"a": [_service("inconclusive", "red", conclusive="failed")]}, {}, 2),
        ({"a": [PASSED], "b": [UNKNOWN]}, {}, 72),
        ({"a": [PASSED, _service("failed", "waived")], "b": [UNKNOWN]}, {"http": 0, "configmap": 1}, 72),
        ({"a": [PASSED]}, {"http": 0, "configmap": 1}, 74),
        ({"a": [PASSED]}, {"http": 1}, 73),
    ],
    ids=["broken", "broken by configuration", "still broken", "could not tell", "waived", "not sent", "another cluster left no report"],
)
def test_broken_and_could_not_tell_differ(folder: Path, clusters: dict[str, list[dict[str, object]]], sinks: dict[str, int], status: int):
    program = _reporter(folder, 2, clusters, sinks)
    metrics = folder / "affinity.prom"
    _run(_config(folder, str(program), needs_report=True, metrics=str(metrics), **_teller(folder))).expect(status)
    assert _told(folder).startswith(f"verify {status} ")
    states = {line.partition('outcome="')[2] for line in metrics.read_text().splitlines() if line.startswith("istio_schedule_last_run_clusters{")}
    assert f'broken"}} {1 if status == 2 else 0}' in states
    assert len(states) == 3


def test_the_log_has_a_line_for_each_cluster_and_sink(folder: Path):
    hostile = 'x"\n{"status": 0}\u2028\x1b[2J'
    program = _reporter(folder, 2, {"a": [PASSED, _service("failed", "red", hostile)], "b": [PASSED]}, {"configmap": 1, "http": 0})
    seen = _run(_config(folder, str(program), needs_report=True)).expect(2)
    sinks = [{"sink": "configmap", "outcome": "sent"}, {"sink": "http", "outcome": "failed"}]
    assert _log(folder) == [
        {"cluster": "a", "outcome": "broken", "red": [f"shop/{hostile}: failed"]},
        *({"cluster": "a"} | sink for sink in sinks),
        {"cluster": "b", "outcome": "passed", "red": []},
        *({"cluster": "b"} | sink for sink in sinks),
        {"status": 2, "reason": "a service is broken: its sessions do not stick"},
    ]
    assert "\x1b" not in (folder / "run.log").read_text()
    assert (folder / "run.log").read_text() in seen.stderr
    assert (folder / "run.log").stat().st_mode & 0o777 == 0o640


def test_the_log_does_not_grow_forever(folder: Path):
    (folder / "run.log").write_text("x" * ((1 << 20) + 1))
    _run(_config(folder, "true")).expect()
    assert (folder / "run.log.1").stat().st_size > 1 << 20
    assert _log(folder) == [{"status": 0, "reason": "it passed"}]


def test_an_unreadable_report_is_no_verdict(folder: Path):
    for text in ("", "[]", '{"services": 1, "status": []}', '{"services": [1], "status": "red"}', "[" * 100_000):
        program = _reporter(folder, 2, {"a": []})
        (folder / "new/reports/a/latest/report.json").write_text(text)
        (folder / "reports/a/latest").unlink(missing_ok=True)
        seen = _run(_config(folder, str(program), needs_report=True, print_reports=True)).expect(72)
        assert "Traceback" not in seen.stderr


def test_only_this_runs_reports_are_printed(folder: Path):
    _report(folder, "old", "report.json", '{"from": "yesterday"}')
    program = _reporter(folder, 0, {"new": []})
    seen = _run(_config(folder, *_shell(f"echo playing; {program}"), print_reports=True)).expect()
    assert seen.stdout == 'playing\nreport of new: {"status":"green","services":[]}\n'


def test_a_missing_folder_is_told(folder: Path):
    config = _config(folder, "true", folder=str(folder / "none"), report_dir=str(folder / "none/reports"), **_teller(folder))
    seen = _run(config).expect(71)
    assert "Traceback" not in seen.stderr
    assert str(folder / "none") in seen.stderr
    assert _told(folder) == "verify 71 its directory is missing, full or not writable\n"


def test_a_full_disk_is_told(folder: Path):
    """The lock exists, the playbook cannot write its report, and neither can this program its log nor its metrics."""
    full = folder / "full"
    full.mkdir()
    mount = f"mount -t tmpfs -o size=64k tmpfs {full} && mkdir {full}/reports && dd if=/dev/zero of={full}/fill bs=4k status=none;"
    config = _config(
        folder, *_shell("exit 2"), folder=str(full), report_dir=str(full / "reports"), metrics=str(full / "affinity.prom"), needs_report=True, **_teller(folder)
    )
    seen = run("unshare", "--mount", "sh", "-c", f"{mount} exec {sys.executable} {PROGRAM} run {config}", timeout=60)
    assert "Traceback" not in seen.stderr
    assert "No space left on device" in seen.stderr
    assert _told(folder).startswith(f"verify {seen.rc} ")
    assert seen.rc in (71, 73)


def test_a_fault_of_the_program_is_told(folder: Path):
    config = _config(folder, "true", timeout="soon", **_teller(folder))
    assert "TypeError" in _run(config).expect(70).stderr
    assert "verify 70 the program of the schedule failed" in _told(folder)


class Garbage(socketserver.BaseRequestHandler):
    """A webhook that speaks no HTTP."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(self.server.answer)


@pytest.mark.parametrize(
    "answer", [b"garbage\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"", b"HTTP/1.1 500 no\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200]
)
def test_garbage_from_the_webhook_changes_no_status(folder: Path, answer: bytes):
    with socketserver.TCPServer(("127.0.0.1", 0), Garbage) as server:
        server.answer = answer  # type: ignore[attr-defined]  # the handler finds it there
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen = _run(_config(folder, *_shell("exit 4"), on_failure_webhook=f"http://127.0.0.1:{server.server_address[1]}/secret")).expect(4)
        server.shutdown()
    assert "istio_schedule_on_failure_webhook failed" in seen.stderr
    assert "Traceback" not in seen.stderr
    assert "secret" not in seen.output


def test_prepare_creates_the_folders_and_runs_nothing(folder: Path):
    config = _config(folder, "echo", report_dir=str(folder / "own"), metrics=str(folder / "metrics/affinity.prom"))
    assert _run(config, "prepare").expect().stdout == "--syntax-check\n"
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in ("own", "metrics", "metrics/affinity.prom")}
    assert modes == {"own": 0o750, "metrics": 0o755, "metrics/affinity.prom": 0o644}
