# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Kept by the role meshops.istio.istio_schedule
"""One scheduled run: it holds a lock, has a timeout, exports its metrics, logs its outcome, and sends a notification when it fails.

    python3 scheduled_run.py run CONFIG [--no-notify]    called by the CronJob, and by systemd with --no-notify
    python3 scheduled_run.py notify CONFIG               called by systemd after every run
    python3 scheduled_run.py prepare CONFIG              creates the run's directories, and reads inventory and playbook

Needs Linux, Python 3.9 and no packages. CONFIG is a JSON file with the fields of `Config`.

Exit status: that of Ansible, except for those below; 124 after a timeout, 127 if it could not be started, 128 plus the signal if it was killed.
Of runs of verify, 2 means that a service is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import http.client
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

BAD = {"failed", "does_not"}  # verdicts
FAILED = 2
CRASHED = 70
NO_FOLDER = 71
COULD_NOT_TELL = 72
NO_REPORT = 73
NOT_DELIVERED = 74
BUSY = 75
LEFTOVERS = 76
TIMED_OUT = 124
NOT_STARTED = 127
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 30  # seconds between SIGTERM and SIGKILL
HOOK_TIMEOUT = 60  # seconds for the command or the webhook
LARGEST_LOG = 1 << 20  # bytes

REASONS = {
    1: "Ansible itself failed before or while it ran",
    3: "a host of the inventory was unreachable and another failed",
    4: "a host of the inventory was unreachable",
    5: "the playbook or an option is wrong",
    99: "Ansible was interrupted",
    CRASHED: "the program of the schedule failed; its output has the error",
    NO_FOLDER: "its directory is missing, full or not writable",
    COULD_NOT_TELL: "no service is known to be broken, but a service or a cluster could not be judged",
    NO_REPORT: "it left no report of a cluster; the inventory may be empty, or the disk full",
    NOT_DELIVERED: "it passed, but its reports could not be exported or sent",
    LEFTOVERS: "it did not run, because processes of a killed run are still active",
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
    folder: str  # holds the locks and the log; the working directory of the run
    report_dir: str
    timeout: int  # seconds
    metrics: str  # the file for the metrics of all clusters
    print_reports: bool
    needs_report: bool  # whether the run is one of verify, which leaves a report of every cluster
    on_failure_command: list[str]
    on_failure_webhook: str


@dataclass(frozen=True)
class Outcome:
    """What this run reported of one cluster."""

    cluster: str
    outcome: str  # passed, broken or unknown
    red: list[str]  # the services that are red, with their verdicts
    sinks: dict[str, str]  # sent or failed, by the name of the sink
    report: object


class StoppedError(Exception):
    """This program received a signal to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


# -- the run --


def prepare(config: Config) -> None:
    """Create the directories, as the user of the runs: root never creates anything in a directory that this user can change."""
    for path, mode in ((Path(config.report_dir), 0o750), (Path(config.metrics).parent, 0o755)):
        if path != Path() and not path.is_dir():
            path.mkdir()
            path.chmod(mode)
    if config.metrics:
        # So that node_exporter has a file to read before the first run.
        metrics = Path(config.metrics)
        if not metrics.exists():
            metrics.touch()
            metrics.chmod(0o644)


def _lock(path: Path) -> int | None:
    """Lock this file until this program and all that inherit the descriptor end. None if somebody else holds the lock."""
    # The file is never deleted: otherwise two runs could each lock their own file.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the run and all its processes."""
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


def _end_with(parent: int) -> None:
    """Called in the child: if this program is killed, the run ends too."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def execute(config: Config, lock: int) -> int:
    """Run the command until it ends or its timeout. Its processes inherit the lock: while one of them lives, no other run starts."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    parent = os.getpid()
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        process = subprocess.Popen(
            config.command,
            cwd=config.folder,
            env={**os.environ, **config.environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock],
            preexec_fn=lambda: _end_with(parent),  # noqa: PLW1509 - this program has one thread
        )
    except OSError as error:
        say(f"{config.name}: {config.command[0]} cannot be started: {error}")
        return NOT_STARTED
    try:
        status = process.wait(config.timeout)
    except (subprocess.TimeoutExpired, StoppedError) as error:
        _ignore_signals()
        _end(process)
        if isinstance(error, StoppedError):
            return 128 + error.number
        say(f"{config.name}: ended after {config.timeout} s (istio_schedule_timeout)")
        return TIMED_OUT
    finally:
        _ignore_signals()
    return status if status >= 0 else 128 - status


def _ignore_signals() -> None:
    """What remains takes seconds, and ends by itself. A handler, because the command for failures would inherit SIG_IGN."""
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)


def run(config: Config) -> int:
    prepare(config)
    own = _lock(Path(config.folder) / "lock")
    if own is None:
        say(f"{config.name}: skipped, because another run is active")
        return BUSY
    inherited = _lock(Path(config.folder) / "lock.run")
    if inherited is None:
        say(f"{config.name}: {REASONS[LEFTOVERS]}. Next: end them (fuser {config.folder}/lock.run)")
        return LEFTOVERS
    started, before = time.monotonic(), _latest(config)
    ended = execute(config, inherited)
    outcomes = read_outcomes(config, before)
    status = judge(config, ended, outcomes)
    if status == NO_REPORT:
        say(f"{config.name}: {REASONS[NO_REPORT]}: {config.report_dir} lacks a report of this run")
    seconds = time.monotonic() - started
    if config.metrics:
        status = export(config, status, seconds, outcomes)
    log(config, status, seconds, outcomes)
    if config.print_reports:
        # For environments that keep only standard output.
        for outcome in outcomes:
            sys.stdout.write(f"report of {outcome.cluster}: {json.dumps(outcome.report, separators=(',', ':'))}\n")
        sys.stdout.flush()
    return status


# -- its reports --


def _latest(config: Config) -> dict[str, str]:
    """What identifies the latest report of each cluster, whatever the clock says: its name and its content."""
    latest = {}
    for path in sorted(Path(config.report_dir).glob("*/latest/report.json")):
        with contextlib.suppress(OSError):
            latest[path.parent.parent.name] = f"{path.parent.resolve()} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return latest


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; empty if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _entries(content: dict[str, Any], key: str, kind: type) -> Any:
    return content[key] if isinstance(content.get(key), kind) else kind()


def _sinks(metrics: Path) -> dict[str, str]:
    """What became of each sink, by the metrics of a cluster."""
    try:
        lines = metrics.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    names = ((SINK.search(line), line) for line in lines if line.startswith("istio_affinity_sink_up{"))
    return {name[1]: "failed" if line.endswith(" 0") else "sent" for name, line in names if name}


def read_outcomes(config: Config, before: dict[str, str]) -> list[Outcome]:
    """The outcome of each cluster of which this run wrote a report."""
    outcomes = []
    for cluster, report_id in _latest(config).items():
        if before.get(cluster) == report_id:
            continue
        home = Path(config.report_dir) / cluster / "latest"
        report = _json(home / "report.json")
        services = [service for service in _entries(report, "services", list) if isinstance(service, dict) and service.get("status") == "red"]
        # A service whose last conclusive verdict is bad stays broken while later runs cannot tell.
        verdicts = {str(of.get("verdict")) for service in services for of in (service, _entries(service, "conclusive", dict))}
        outcome = "broken" if verdicts & BAD else "passed" if report.get("status") == "green" else "unknown"
        red = [f"{service.get('namespace')}/{service.get('service')}: {service.get('verdict')}" for service in services]
        outcomes.append(Outcome(cluster, outcome, red, _sinks(home / "affinity.prom"), report))
    return outcomes


def judge(config: Config, status: int, outcomes: list[Outcome]) -> int:
    """The exit status of a run that ended with `status`. Ansible's own does not tell a broken service from one that could not be judged."""
    if status not in (0, FAILED) or not (config.needs_report or outcomes):
        return status
    states = {outcome.outcome for outcome in outcomes}
    if status == 0:
        # Ansible exits with 0 for an inventory without hosts.
        return 0 if states else NO_REPORT
    if "broken" in states:
        return FAILED
    if "unknown" in states:
        return COULD_NOT_TELL
    return NOT_DELIVERED if any("failed" in outcome.sinks.values() for outcome in outcomes) else NO_REPORT


def log(config: Config, status: int, seconds: float, outcomes: list[Outcome]) -> None:
    """Append a line for each cluster, each sink and the run, as JSON: no text of a cluster can imitate a line."""
    head = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "schedule": config.name, "run": os.urandom(4).hex()}
    entries: list[dict[str, Any]] = []
    for outcome in outcomes:
        entries.append({"cluster": outcome.cluster, "outcome": outcome.outcome, "red": outcome.red})
        entries += [{"cluster": outcome.cluster, "sink": sink, "outcome": state} for sink, state in outcome.sinks.items()]
    entries.append({"status": status, "reason": reason(config, status), "seconds": round(seconds, 1)})
    lines = [json.dumps({**head, **entry}) for entry in entries]
    for line in lines:
        say(line)
    path = Path(config.folder) / "run.log"
    try:
        if path.exists() and path.stat().st_size > LARGEST_LOG:
            path.replace(f"{path}.1")
        with path.open("a", encoding="utf-8") as opened:
            os.fchmod(opened.fileno(), 0o640)
            opened.write("\n".join(lines) + "\n")
    except OSError as error:
        say(f"{config.name}: the log cannot be written: {error}")


# -- its metrics --

SINK = re.compile(r'[{,]sink="(\w+)"')
SAMPLE = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*",?)*\})? (?:[-+.eE0-9]+|[-+]?Inf|NaN)')
HEADER = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*)(?: .*)?")


def families(text: str) -> Iterator[tuple[str, str, str]]:
    """Each line of an exposition with its family and HELP, TYPE or an empty string. Raises ValueError for a line that Prometheus would not read."""
    family = ""
    for line in filter(str.strip, text.split("\n")):
        header = HEADER.fullmatch(line)
        if header:
            family = header[2]
            yield family, header[1], line
        elif SAMPLE.fullmatch(line):
            yield family, "", line
        elif not line.startswith("#") or line.startswith(("# HELP", "# TYPE")):
            raise ValueError(f"this is no line of an exposition: {line[:80]!r}")


def merge(texts: list[list[tuple[str, str, str]]]) -> list[str]:
    """Merge several expositions: the samples of a family must be consecutive, under one header."""
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for family, kind, line in (entry for text in texts for entry in text):
        members = samples.setdefault(family, [])
        if kind:
            heads.setdefault(family, {}).setdefault(kind, line)
        else:
            members.append(line)
    return [line for family, lines in samples.items() for line in (*heads.get(family, {}).values(), *lines)]


def own_metrics(config: Config, status: int, seconds: float, outcomes: list[Outcome]) -> list[str]:
    label = f'schedule="{config.name}"'
    states = [outcome.outcome for outcome in outcomes]
    clusters = [(f'{{{label},outcome="{state}"}}', float(states.count(state))) for state in ("passed", "broken", "unknown")]
    own = {
        "last_run_timestamp_seconds": ("When the last scheduled run ended.", [(f"{{{label}}}", time.time())]),
        "last_run_duration_seconds": ("How long the last scheduled run took.", [(f"{{{label}}}", seconds)]),
        "last_run_exit_status": ("The exit status of the last scheduled run.", [(f"{{{label}}}", float(status))]),
        "last_run_clusters": ("The clusters of which the last scheduled run wrote a report.", clusters),
    }
    lines = []
    for name, (meaning, samples) in own.items():
        full = f"istio_schedule_{name}"
        lines += [f"# HELP {full} {meaning}", f"# TYPE {full} gauge"]
        lines += [f"{full}{labels} {value:.3f}".removesuffix(".000") for labels, value in samples]
    return lines


def export(config: Config, status: int, seconds: float, outcomes: list[Outcome]) -> int:
    """Write the metrics of all clusters and of this run to one file, atomically. Returns the status of the run."""
    texts = []
    for path in sorted(Path(config.report_dir).glob("*/latest/affinity.prom")):
        try:
            texts.append(list(families(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            # The metrics of the other clusters are not affected.
            say(f"{config.name}: the metrics of {path.parent.parent.name} cannot be exported: {error}")
            status = status or NOT_DELIVERED
    target = Path(config.metrics)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text("\n".join(merge(texts) + own_metrics(config, status, seconds, outcomes)) + "\n", encoding="utf-8")
        # Readable for node_exporter, which runs as another user. The file contains no sessions or secrets.
        partial.chmod(0o644)
        partial.replace(target)
    except OSError as error:
        say(f"{config.name}: the metrics cannot be exported: {error}")
        status = status or NOT_DELIVERED
        with contextlib.suppress(OSError):
            partial.unlink()
    return status


# -- notification --


def reason(config: Config, status: int) -> str:
    if status == 0:
        return "it passed"
    if status == FAILED:
        return "a service is broken: its sessions do not stick" if config.needs_report else "a task failed, or a service is broken"
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
        except (OSError, ValueError, subprocess.SubprocessError) as error:
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

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("timed out")

    # A server that sends a byte now and then would never exceed the timeout of the socket.
    signal.signal(signal.SIGALRM, expire)
    signal.alarm(HOOK_TIMEOUT)
    try:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(config.on_failure_webhook, json.dumps(body).encode(), head)  # noqa: S310 - the role takes http and https only
        with urllib.request.urlopen(request, timeout=HOOK_TIMEOUT):  # noqa: S310 - the same
            pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The URL may be a secret and must not appear in the message.
        code = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        cause = getattr(error, "reason", "") if isinstance(error, urllib.error.URLError) else ""
        say(f"{config.name}: istio_schedule_on_failure_webhook failed: {code} {cause}".rstrip())
        return False
    finally:
        signal.alarm(0)
    return True


def notify(config: Config) -> int:
    """Run as ExecStopPost of systemd, which passes the result of the run in the environment (`man systemd.exec`)."""
    result = os.environ.get("SERVICE_RESULT", "")
    if result == "success":
        return 0
    ended, value = os.environ.get("EXIT_CODE", ""), os.environ.get("EXIT_STATUS", "")
    status = int(value) if ended == "exited" and value.isdigit() else 128 + getattr(signal, f"SIG{value}", 0)
    why = {"timeout": REASONS[TIMED_OUT], "oom-kill": "it was killed because it ran out of memory"}.get(result, reason(config, status))
    return 0 if send_notification(config, status, why) else 1


def run_and_tell(config: Config, *, tell: bool) -> int:
    """Run the playbook, and notify of any failure."""
    try:
        status = run(config)
    except StoppedError as stopped:
        status = 128 + stopped.number
    except OSError as error:
        say(f"{config.name}: {REASONS[NO_FOLDER]}: {error}")
        status = NO_FOLDER
    except Exception:  # noqa: BLE001 - an uncaught exception would end without a notification
        say(traceback.format_exc())
        status = CRASHED
    if tell and status not in (0, BUSY):
        send_notification(config, status, reason(config, status))
    return status


def check(config: Config) -> int:
    try:
        prepare(config)
    except OSError as error:
        say(f"{config.name}: {REASONS[NO_FOLDER]}: {error}")
        return NO_FOLDER
    command = [*config.command, "--syntax-check"]
    return subprocess.run(command, cwd=config.folder, env={**os.environ, **config.environment}, stdin=subprocess.DEVNULL, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["run", "notify", "prepare"])
    parser.add_argument("config", type=Path)
    parser.add_argument("--no-notify", action="store_true")
    arguments = parser.parse_args()
    os.umask(0o027)
    config = Config(**json.loads(arguments.config.read_text(encoding="utf-8")))
    if arguments.action == "run":
        return run_and_tell(config, tell=not arguments.no_notify)
    return notify(config) if arguments.action == "notify" else check(config)


if __name__ == "__main__":
    sys.exit(main())
