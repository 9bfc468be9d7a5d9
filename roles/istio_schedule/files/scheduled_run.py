# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Kept by the role meshops.istio.istio_schedule
"""One scheduled run: alone, within its time, with its metrics exported, and somebody told when it failed.

    python3 scheduled_run.py run CONFIG [--no-notify]    as cron and the CronJob do, and systemd with --no-notify
    python3 scheduled_run.py notify CONFIG               as systemd does after a run, whatever became of it
    python3 scheduled_run.py check CONFIG                reads inventory and playbook, and runs nothing

Needs Python 3.9 and nothing else. CONFIG is JSON, its fields are those of Config.

Exit status: that of the run; 74 when it passed and its reports could not be handed on, 75 when another run is under way, 124 when its time was up,
127 when it could not be started, 128 and the signal when it was killed.
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

NOT_HANDED_ON = 74
BUSY = 75
TIMED_OUT = 124
NOT_STARTED = 127
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 30  # seconds between asking a run to end and killing it
HOOK_TIMEOUT = 60  # seconds for the command or the webhook

REASONS = {
    1: "Ansible itself failed before or while it ran",
    2: "a service did not pass, or a cluster could not be checked",
    3: "a host of the inventory was unreachable and another failed",
    4: "a host of the inventory was unreachable",
    5: "the playbook or an option is wrong",
    99: "Ansible was interrupted",
    NOT_HANDED_ON: "it passed, and its reports could not be handed on",
    TIMED_OUT: "it was ended as its time was up",
    NOT_STARTED: "it could not be started",
    250: "Ansible met an error it did not expect",
}


@dataclass(frozen=True)
class Config:
    """What the role wrote. Paths are absolute; an empty string or list leaves that part out."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: str  # holds the lock, and is where the run takes place
    report_dir: str
    timeout: int  # seconds
    metrics: str  # the file that the clusters' metrics are gathered in
    log: str  # the file that the run prints to instead of standard output
    print_reports: bool
    on_failure_command: list[str]
    on_failure_webhook: str


class StoppedError(Exception):
    """A signal asked this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


# -- the run --


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the run and whatever it started."""
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
    """Where the run prints to, if not to our own standard output; the log of the run before stays beside it."""
    if not config.log:
        return None
    log = Path(config.log)
    if log.exists():
        log.replace(f"{log}.1")
    return log.open("wb")


def execute(config: Config, lock: int) -> int:
    """Run the command to its end or its time; what it started holds the lock too, so that nothing outlives it unnoticed."""

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
        say(f"{config.name}: {config.command[0]} can't be started: {error}")
        return NOT_STARTED
    try:
        status = process.wait(config.timeout)
    except subprocess.TimeoutExpired:
        say(f"{config.name}: ended after {config.timeout} s, as told by istio_schedule_timeout")
        _end(process)
        return TIMED_OUT
    except StoppedError as stopped:
        _end(process)
        return 128 + stopped.number
    return status if status >= 0 else 128 - status


def run(config: Config, *, notify: bool) -> int:
    # The lock's file stays: deleting it would let two runs each hold a lock of their own.
    lock = os.open(Path(config.folder) / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{config.name}: another run is under way, so this one is left out")
        return BUSY
    started = time.time()
    status = execute(config, lock)
    try:
        if config.metrics:
            export(config, started, status)
        if config.print_reports:
            print_reports(config, started)
    except (OSError, ValueError) as error:
        say(f"{config.name}: its reports in {config.report_dir} can't be handed on: {error}")
        status = status or NOT_HANDED_ON
    if status and notify:
        tell(config, status, reason(status))
    return status


# -- its reports --


def _reports(config: Config, name: str) -> dict[str, Path]:
    """The latest file of this name of each cluster."""
    found = sorted(Path(config.report_dir).glob(f"*/latest/{name}"))
    return {path.parent.parent.name: path for path in found}


def merge(texts: list[str]) -> list[str]:
    """Several expositions as one: a family's samples must stand together, under one head."""
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
    """Gather what the clusters' reports say, and how this run went, in one file that is never seen half written."""
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
    # For node_exporter, which is another user. No session and no secret is in it.
    partial.chmod(0o644)
    partial.replace(target)


def print_reports(config: Config, started: float) -> None:
    """Print this run's reports, a line each, for where standard output is all that is kept."""
    for cluster, path in _reports(config, "report.json").items():
        if path.stat().st_mtime >= started:
            report = json.loads(path.read_text(encoding="utf-8"))
            sys.stdout.write(f"report of {cluster}: {json.dumps(report, separators=(',', ':'))}\n")
    sys.stdout.flush()


# -- who is told --


def reason(status: int) -> str:
    if status > 128 and status not in REASONS:
        return f"it was killed by signal {status - 128}"
    return REASONS.get(status, f"it ended with status {status}")


def tell(config: Config, status: int, why: str) -> bool:
    """Run the command and call the webhook; whether all that was asked for worked. A hook that fails doesn't hide how the run went."""
    done = True
    if config.on_failure_command:
        told = {"NAME": config.name, "STATUS": str(status), "REASON": why, "REPORT_DIR": config.report_dir}
        environment = {**os.environ, **{f"ISTIO_SCHEDULE_{name}": value for name, value in told.items()}}
        try:
            subprocess.run(config.on_failure_command, env=environment, stdin=subprocess.DEVNULL, timeout=HOOK_TIMEOUT, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            say(f"{config.name}: istio_schedule_on_failure_command did not work: {error}")
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
        # What chat services show.
        "text": f"Session affinity: the scheduled run {config.name} on {host} failed: {why}. Reports: {config.report_dir}",
    }
    try:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(config.on_failure_webhook, json.dumps(body).encode(), head)  # noqa: S310 - the role takes http and https only
        with urllib.request.urlopen(request, timeout=HOOK_TIMEOUT) as answer:  # noqa: S310 - the same
            answer.read()
    except (OSError, ValueError) as error:
        # Its address may be a secret, and a text of ours never has it.
        code = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        cause = getattr(error, "reason", "") if isinstance(error, urllib.error.URLError) else ""
        say(f"{config.name}: istio_schedule_on_failure_webhook did not work: {code} {cause}".rstrip())
        return False
    return True


def notify(config: Config) -> int:
    """As ExecStopPost of systemd, which says in the environment what became of the run: `man systemd.exec`."""
    result = os.environ.get("SERVICE_RESULT", "")
    if result == "success":
        return 0
    ended, value = os.environ.get("EXIT_CODE", ""), os.environ.get("EXIT_STATUS", "")
    status = int(value) if ended == "exited" and value.isdigit() else 128 + getattr(signal, f"SIG{value}", 0)
    why = {"timeout": REASONS[TIMED_OUT], "oom-kill": "it was killed for want of memory"}.get(result, reason(status))
    return 0 if tell(config, status, why) else 1


def check(config: Config) -> int:
    command = [*config.command, "--syntax-check"]
    return subprocess.run(command, cwd=config.folder, env={**os.environ, **config.environment}, stdin=subprocess.DEVNULL, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "notify", "check"])
    parser.add_argument("config", type=Path)
    parser.add_argument("--no-notify", action="store_true")
    words = parser.parse_args()
    config = Config(**json.loads(words.config.read_text(encoding="utf-8")))
    if words.what == "run":
        return run(config, notify=not words.no_notify)
    return notify(config) if words.what == "notify" else check(config)


if __name__ == "__main__":
    sys.exit(main())
