# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of reports: read, written atomically, and cleaned up. The only file of the package that accesses a disk.

`<directory>/<cluster>/<UTC time>/` holds one run, `latest` next to it links to the newest one, and `<directory>/index.html`
lists all clusters. A run appears by one rename after all its files are written. Clusters may report at the same time: a lock
in the directory serializes them. Only files with the names and the content of a report are ever deleted.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import from_json
from ansible_collections.meshops.istio.plugins.module_utils._report.model import RED, UTC, Report, RunPast, ServiceReport, Summary
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read

REPORT, JUNIT, METRICS, PAGE = "report.json", "junit.xml", "affinity.prom", "index.html"
FILES = (REPORT, JUNIT, METRICS, PAGE)
LATEST, INDEX, LOCK, SALT, BRIEF = "latest", "index.html", ".lock", ".salt", ".brief.json"
RUN_NAME = re.compile(r"\d{8}T\d{6}Z(?:-\d+)?")
PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}")
# The number of earlier reports to search for a service that the last one lacks.
LOOK_BACK = 5


class StoreError(Exception):
    """The directory cannot be used; the text says what to do."""


@dataclass(frozen=True)
class RedService:
    name: str
    verdict: str
    why: str
    since: str | None


@dataclass(frozen=True)
class Brief:
    """The entry of a cluster on the index page, stored next to its runs: the index is built without reading them."""

    cluster: str
    time: str
    status: str
    error: str | None
    run: str
    summary: Summary
    red: tuple[RedService, ...]
    history: tuple[RunPast, ...]


def brief_of(report: Report, run: str) -> Brief:
    red = tuple(RedService(service.name, service.verdict, service.why, service.since) for service in report.services if service.status == RED)
    return Brief(report.cluster, report.time, report.status, report.error, run, report.summary, red, report.history)


class Past:
    """The earlier reports of one cluster, newest first, read on demand."""

    def __init__(self, home: Path) -> None:
        self._reports = self._read(home)
        self._loaded: list[Report] = []

    @staticmethod
    def _read(home: Path) -> Iterator[Report]:
        useful = 0
        for run in sorted(runs_of(home), key=run_order, reverse=True):
            report = report_of(run)
            if report:
                yield report
                # Runs that could not inspect the cluster have no services, and do not count.
                useful += report.error is None or bool(report.services)
            if useful >= LOOK_BACK:
                return

    def _each(self) -> Iterator[Report]:
        yield from tuple(self._loaded)
        for report in self._reports:
            self._loaded.append(report)
            yield report

    def last(self) -> Report | None:
        return next(self._each(), None)

    def last_look(self) -> Report | None:
        """The newest report of a run that could inspect the cluster, or a part of it."""
        return next((report for report in self._each() if report.error is None or report.services), None)

    def of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        """The entry of a service in the newest report that has one."""
        return next((service for report in self._each() for service in report.services if service.identity == identity), None)


def run_order(run: Path) -> tuple[str, int]:
    moment, number = run.name.partition("-")[::2]
    return moment, int(number or 0)


def runs_of(home: Path) -> list[Path]:
    try:
        return [path for path in home.iterdir() if RUN_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def report_of(run: Path) -> Report | None:
    """None if there is no readable report."""
    try:
        return from_json((run / REPORT).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


class Store:
    """The directory of reports, for one cluster. Raises StoreError."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self.home, self.cluster = folder, folder / cluster, cluster
        for path, name in ((folder, "Option dir"), (self.home, "The cluster's directory")):
            if path.exists() and not path.is_dir():
                raise StoreError(f"{name}, {path}, is not a directory. Next: move it away, or set another directory in the option dir.")
        if (self.home / LATEST).exists() and not (self.home / LATEST).is_symlink():
            raise StoreError(f"{self.home / LATEST} is not a link of this module. Next: move it away, or set another directory in the option dir.")
        existing = next(path for path in (self.home, folder, *folder.absolute().parents) if path.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StoreError(f"{existing} cannot be written to. Next: change its owner or mode, or set another directory in the option dir.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The exclusive right to write here; other runs wait."""
        with self._explained():
            self.home.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with self._explained():
                yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = error.filename or self.folder
            raise StoreError(
                f"The report cannot be written: {error.strerror} ({place}). Next: check free space and permissions there, or change the option dir."
            ) from error

    def salt(self, keep: bool) -> bytes:
        """The salt for hashes of session IDs, kept to give the same hashes in the next run."""
        path = self.folder / SALT
        with contextlib.suppress(FileNotFoundError), self._explained_but_missing():
            return path.read_bytes()
        made = secrets.token_hex(32).encode()
        if keep:
            with self._explained():
                write(path, made, 0o600)
        return made

    @contextlib.contextmanager
    def _explained_but_missing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}. Next: run as the user that wrote it, or change the option dir.") from error

    def run_for(self, now: datetime) -> Path:
        """A directory for this run that does not exist yet."""
        moment = now.strftime("%Y%m%dT%H%M%SZ")
        number = 1
        while (run := self.home / (moment if number == 1 else f"{moment}-{number}")).exists():
            number += 1
        return run

    def publish(self, run: Path, files: dict[str, str], brief: Brief) -> None:
        """Publish all files of a run at once, then the link. Requires the lock."""
        self._sweep()
        partial = self.home / f".partial-{secrets.token_hex(8)}"
        partial.mkdir()
        try:
            for name, content in files.items():
                write(partial / name, content.encode("utf-8"))
            partial.rename(run)
        except BaseException:
            remove_run(partial)
            raise
        link = self.home / f".partial-{secrets.token_hex(8)}"
        link.symlink_to(run.name)
        link.replace(self.home / LATEST)
        write(self.home / BRIEF, (json.dumps(dataclasses.asdict(brief)) + "\n").encode())

    def _sweep(self) -> None:
        """Remove leftovers of a killed run; the lock guarantees that there is no other writer."""
        for path in self.home.iterdir():
            if PARTIAL.fullmatch(path.name):
                if path.is_symlink() or path.is_file():
                    path.unlink()
                else:
                    remove_run(path)

    def tidy(self, run: Path, keep: int, keep_days: int, now: datetime) -> list[str]:
        """Delete surplus and old runs, but never this run or a directory without a report. Returns the names of deleted runs."""
        oldest = (now - timedelta(days=keep_days)).strftime("%Y%m%dT%H%M%SZ")
        others = sorted((path for path in runs_of(self.home) if path != run), key=run_order, reverse=True)
        doomed = [path for place, path in enumerate(others, start=2) if place > keep or path.name < oldest]
        return [path.name for path in doomed if self._is_ours(path) and remove_run(path)]

    def _is_ours(self, run: Path) -> bool:
        report = report_of(run)
        return report is not None and report.cluster == self.cluster

    def briefs(self) -> list[Brief]:
        """The briefs of all clusters that report into this directory."""
        briefs = []
        for path in sorted(self.folder.glob(f"*/{BRIEF}")):
            with contextlib.suppress(OSError, ValueError):
                brief = read(Brief, json.loads(path.read_text(encoding="utf-8")))
                if brief.cluster == path.parent.name:
                    briefs.append(brief)
        return briefs

    def publish_index(self, page: str) -> None:
        write(self.folder / INDEX, page.encode("utf-8"))


def write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file atomically: if something fails, the old content stays."""
    temporary = path.with_name(f".partial-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_run(run: Path) -> bool:
    """Remove a report's files and directory, if it contains nothing else."""
    if any(path.name not in FILES and not PARTIAL.fullmatch(path.name) for path in run.iterdir()):
        return False
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    return True


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
