# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Kept by the role meshops.istio.istio_schedule
"""One scheduled run: it holds a lock, has a timeout, exports its metrics, and sends a notification when it fails.

    python3 scheduled_run.py run CONFIG [--no-notify]    called by cron and the CronJob, and by systemd with --no-notify
    python3 scheduled_run.py notify CONFIG               called by systemd after every run
    python3 scheduled_run.py check CONFIG                only reads inventory and playbook

Needs Python 3.9 and no packages. CONFIG is a JSON file with the fields of `Config`.

Exit status: that of the run; 73 if it passed without a report, 74 if it passed but its reports could not be exported, 75 if another run
is active, 124 after a timeout, 127 if it could not be started, 128 plus the signal if it was killed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

NO_REPORT = 73
NOT_EXPORTED = 74
BUSY = 75
TIMED_OUT = 124
NOT_STARTED = 127
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 30  # seconds between SIGTERM and SIGKILL
HOOK_TIMEOUT = 60  # seconds for the command or the webhook

REASONS = {
    1: "Ansible itself failed before or while it ran",
    2: "a service did not pass, or a cluster could not be checked",
    3: "a host of the inventory was unreachable and another failed",
    4: "a host of the inventory was unreachable",
    5: "the playbook or an option is wrong",
    99: "Ansible was interrupted",
    NO_REPORT: "it verified no cluster; the inventory may be empty",
    NOT_EXPORTED: "it passed, but its reports could not be exported",
    TIMED_OUT: "it was ended by its timeout",
    NOT_STARTED: "it could not be started",
    250: "Ansible failed with an unexpected error",
}


@dataclass(frozen=True)
class Config:
    """The settings that the role wrote. Paths are absolute; an empty string or list disables that part."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: str  # holds the lock; the working directory of the run
    report_dir: str
    timeout: int  # seconds
    metrics: str  # the file for the metrics of all clusters
    log: str  # the file for the run's output, instead of standard output
    print_reports: bool
    needs_report: bool  # whether a run without a report fails, regardless of its exit status
    on_failure_command: list[str]
    on_failure_webhook: str


class StoppedError(Exception):
    """This program received a signal to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


# -- the run --


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the run and all its processes."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _log(config: Config) -> BinaryIO | None:
    """The log file of the run, if its output does not go to standard output. Keeps the log of the previous run as `.1`."""
    if not config.log:
        return None
    log = Path(config.log)
    if log.exists():
        log.replace(f"{log}.1")
    return log.open("wb")


def execute(config: Config, lock: int) -> int:
    """Run the command until it ends or its timeout. Its processes inherit the lock: while one of them lives, no other run starts."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        output = _log(config)
        process = subprocess.Popen(
            config.command,
            cwd=config.folder,
            env={**os.environ, **config.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
            pass_fds=[lock],
        )
    except OSError as error:
        say(f"{config.name}: {config.command[0]} cannot be started: {error}")
        return NOT_STARTED
    try:
        status = process.wait(config.timeout)
    except subprocess.TimeoutExpired:
        say(f"{config.name}: ended after {config.timeout} s (istio_schedule_timeout)")
        _end(process)
        return TIMED_OUT
    except StoppedError as stopped:
        _end(process)
        return 128 + stopped.number
    return status if status >= 0 else 128 - status


def run(config: Config, *, notify: bool) -> int:
    # The lock file is never deleted: otherwise two runs could each lock their own file.
    lock = os.open(Path(config.folder) / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{config.name}: skipped, because another run is active")
        return BUSY
    started = time.time()
    status = execute(config, lock)
    if config.needs_report and not status and not _fresh(config, started):
        # Ansible exits with 0 for an inventory without hosts.
        say(f"{config.name}: {REASONS[NO_REPORT]}: {config.report_dir} has no report of this run")
        status = NO_REPORT
    try:
        if config.metrics:
            export(config, started, status)
        if config.print_reports:
            print_reports(config, started)
    except (OSError, ValueError) as error:
        say(f"{config.name}: the reports in {config.report_dir} cannot be exported: {error}")
        status = status or NOT_EXPORTED
    if status and notify:
        send_notification(config, status, reason(status))
    return status


# -- its reports --


def _reports(config: Config, name: str) -> dict[str, Path]:
    """The latest file of this name for each cluster."""
    paths = sorted(Path(config.report_dir).glob(f"*/latest/{name}"))
    return {path.parent.parent.name: path for path in paths}


def _fresh(config: Config, started: float) -> dict[str, Path]:
    """The reports that this run wrote."""
    # File timestamps are coarser than the clock.
    return {cluster: path for cluster, path in _reports(config, "report.json").items() if path.stat().st_mtime >= started - 0.1}


def merge(texts: list[str]) -> list[str]:
    """Merge several expositions: the samples of a family must be consecutive, under one header."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            words = line.split(" ", 3)
            if line.startswith(("# HELP ", "# TYPE ")):
                family = words[2]
                head = heads.setdefault(family, [])
                samples.setdefault(family, [])
                if not any(one.startswith(f"# {words[1]} ") for one in head):
                    head.append(line)
            elif line.strip() and not line.startswith("#"):
                samples.setdefault(family, []).append(line)
    return [line for family, lines in samples.items() for line in (*heads.get(family, []), *lines)]


def export(config: Config, started: float, status: int) -> None:
    """Write the metrics of all clusters and of this run to one file, atomically."""
    own = {
        "last_run_timestamp_seconds": ("When the last scheduled run ended.", time.time()),
        "last_run_duration_seconds": ("How long the last scheduled run took.", time.time() - started),
        "last_run_exit_status": ("The exit status of the last scheduled run.", status),
    }
    label = f'{{schedule="{config.name}"}}'
    lines = merge([path.read_text(encoding="utf-8") for path in _reports(config, "affinity.prom").values()])
    for name, (meaning, value) in own.items():
        full = f"istio_schedule_{name}"
        lines += [f"# HELP {full} {meaning}", f"# TYPE {full} gauge", f"{full}{label} {value:.3f}".removesuffix(".000")]
    target = Path(config.metrics)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Readable for node_exporter, which runs as another user. The file contains no sessions or secrets.
    partial.chmod(0o644)
    partial.replace(target)


def print_reports(config: Config, started: float) -> None:
    """Print this run's reports, one line each, for environments that keep only standard output."""
    for cluster, path in _fresh(config, started).items():
        report = json.loads(path.read_text(encoding="utf-8"))
        sys.stdout.write(f"report of {cluster}: {json.dumps(report, separators=(',', ':'))}\n")
    sys.stdout.flush()


# -- notification --


def reason(status: int) -> str:
    if status > 128 and status not in REASONS:
        return f"it was killed by signal {status - 128}"
    return REASONS.get(status, f"it ended with status {status}")


def send_notification(config: Config, status: int, why: str) -> bool:
    """Run the command and call the webhook. Returns whether both worked; a failing hook does not change the run's exit status."""
    done = True
    if config.on_failure_command:
        variables = {"NAME": config.name, "STATUS": str(status), "REASON": why, "REPORT_DIR": config.report_dir}
        environment = {**os.environ, **{f"ISTIO_SCHEDULE_{name}": value for name, value in variables.items()}}
        try:
            subprocess.run(config.on_failure_command, env=environment, stdin=subprocess.DEVNULL, timeout=HOOK_TIMEOUT, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            say(f"{config.name}: istio_schedule_on_failure_command failed: {error}")
            done = False
    if config.on_failure_webhook:
        done = _post(config, status, why) and done
    return done


def _post(config: Config, status: int, why: str) -> bool:
    host = platform.node()
    body = {
        "schedule": config.name,
        "host": host,
        "status": status,
        "reason": why,
        "report_dir": config.report_dir,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        # The field that chat services show.
        "text": f"Session affinity: the scheduled run {config.name} on {host} failed: {why}. Reports: {config.report_dir}",
    }
    try:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(config.on_failure_webhook, json.dumps(body).encode(), head)  # noqa: S310 - the role takes http and https only
        with urllib.request.urlopen(request, timeout=HOOK_TIMEOUT) as response:  # noqa: S310 - the same
            response.read()
    except (OSError, ValueError) as error:
        # The URL may be a secret and must not appear in the message.
        code = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        cause = getattr(error, "reason", "") if isinstance(error, urllib.error.URLError) else ""
        say(f"{config.name}: istio_schedule_on_failure_webhook failed: {code} {cause}".rstrip())
        return False
    return True


def notify(config: Config) -> int:
    """Run as ExecStopPost of systemd, which passes the result of the run in the environment (`man systemd.exec`)."""
    result = os.environ.get("SERVICE_RESULT", "")
    if result == "success":
        return 0
    ended, value = os.environ.get("EXIT_CODE", ""), os.environ.get("EXIT_STATUS", "")
    status = int(value) if ended == "exited" and value.isdigit() else 128 + getattr(signal, f"SIG{value}", 0)
    why = {"timeout": REASONS[TIMED_OUT], "oom-kill": "it was killed because it ran out of memory"}.get(result, reason(status))
    return 0 if send_notification(config, status, why) else 1


def check(config: Config) -> int:
    command = [*config.command, "--syntax-check"]
    return subprocess.run(command, cwd=config.folder, env={**os.environ, **config.environment}, stdin=subprocess.DEVNULL, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["run", "notify", "check"])
    parser.add_argument("config", type=Path)
    parser.add_argument("--no-notify", action="store_true")
    arguments = parser.parse_args()
    config = Config(**json.loads(arguments.config.read_text(encoding="utf-8")))
    if arguments.action == "run":
        return run(config, notify=not arguments.no_notify)
    return notify(config) if arguments.action == "notify" else check(config)


if __name__ == "__main__":
    sys.exit(main())
