# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of reports: read, written atomically, and cleaned up. With `disk`, the only files of the package that access a disk.

`<directory>/<cluster>/<UTC time>/` holds one run, `latest` next to it links to the newest one, and `<directory>/index.html`
lists all clusters. A run appears by one rename after all its files are written. Clusters may report at the same time: a lock
in the directory serializes them. Only files with the names and the content of a report are ever deleted.

Names are times, so a wrong clock breaks their order. A run dated later than now was written under a clock that was ahead, or
this clock is behind: it is never taken for the last run, and set aside under another name, because its time will come.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import from_json
from ansible_collections.meshops.istio.plugins.module_utils._report.disk import (
    FOLDER_MODE,
    is_folder,
    open_regular,
    partial_name,
    read_regular,
    write,
)
from ansible_collections.meshops.istio.plugins.module_utils._report.model import CLOCK_SKEW, RED, UTC, Report, RunPast, ServiceReport, Summary
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read, text

REPORT, JUNIT, METRICS, PAGE = "report.json", "junit.xml", "affinity.prom", "index.html"
FILES = (REPORT, JUNIT, METRICS, PAGE)
LATEST, INDEX, LOCK, SALT, BRIEF = "latest", "index.html", ".lock", ".salt", ".brief.json"
RUN_NAME = re.compile(r"\d{8}T\d{6}Z(?:-\d+)?")
# A run that was set aside: a file manager shows it beside the others, and nothing takes it for a run.
ASIDE = re.compile(rf"{RUN_NAME.pattern}\.ahead(?:-\d+)?")
PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}")
RUN_TIME = "%Y%m%dT%H%M%SZ"
# The number of earlier reports to search for a service that the last one lacks.
LOOK_BACK = 5
# Bytes. A report of 1,000 services has about 20 MB.
MOST_REPORT, MOST_BRIEF, MOST_SALT = 256 << 20, 16 << 20, 1 << 10
SALT_LENGTH = 64
# Seconds. Each run holds the lock for a second or two.
LOCK_TIMEOUT = 120.0
# What file systems without links say.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


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


def unreadable_brief(cluster: str) -> Brief:
    """The entry of a cluster whose own entry is spoilt: it must not vanish from the page."""
    return Brief(cluster, "", RED, "the entry of its last run cannot be read; the next run of this cluster repairs it", "", Summary(0, 0, 0, 0, 0, 0), (), ())


class Past:
    """The earlier reports of one cluster, newest first, read on demand. What is dated later than `now` is kept apart."""

    def __init__(self, home: Path, now: datetime) -> None:
        runs = sorted(runs_of(home), key=run_order, reverse=True)
        self.ahead = [run for run in runs if is_ahead(run, now)]
        self._reports = self._read([run for run in runs if run not in self.ahead])
        self._loaded: list[Report] = []
        self._from_ahead = [report for run in self.ahead[:LOOK_BACK] if (report := report_of(run))]

    @staticmethod
    def _read(runs: list[Path]) -> Iterator[Report]:
        useful = 0
        for run in runs:
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

    def ahead_of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        """The same of the reports that are dated later than now."""
        return next((service for report in self._from_ahead for service in report.services if service.identity == identity), None)


def is_ahead(run: Path, now: datetime) -> bool:
    return run.name.partition("-")[0] > (now + CLOCK_SKEW).strftime(RUN_TIME)


def run_order(run: Path) -> tuple[str, int]:
    moment, number = run.name.partition("-")[::2]
    return moment, int(number or 0)


def runs_of(home: Path, named: re.Pattern[str] = RUN_NAME) -> list[Path]:
    try:
        return [path for path in home.iterdir() if named.fullmatch(path.name) and is_folder(path)]
    except OSError:
        return []


def report_of(run: Path) -> Report | None:
    """None if there is no readable report."""
    try:
        return from_json(read_regular(run / REPORT, MOST_REPORT).decode("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


class Store:
    """The directory of reports, for one cluster. Raises StoreError."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self.home, self.cluster = folder, folder / cluster, cluster
        with self._explained():
            self._validate()

    def _validate(self) -> None:
        for path, name in ((self.folder, "Option dir"), (self.home, "The cluster's directory")):
            if path.exists() and not path.is_dir():
                raise StoreError(f"{name}, {path}, is not a directory. Next: move it away, or set another directory in the option dir.")
        latest = self.home / LATEST
        if self.home.is_symlink():
            raise StoreError(f"{self.home} is a link, which is not followed. Next: replace it with a directory, or set another directory in the option dir.")
        if latest.exists() and not latest.is_symlink() and not self._is_copy(latest):
            raise StoreError(f"{latest} is not a link of this module. Next: move it away, or set another directory in the option dir.")
        existing = next(path for path in (self.home, self.folder, *self.folder.absolute().parents) if path.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StoreError(f"{existing} cannot be written to. Next: change its owner or mode, or set another directory in the option dir.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The exclusive right to write here; other runs wait."""
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            self.home.mkdir(exist_ok=True, mode=FOLDER_MODE)
            descriptor = open_regular(self.folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            self._take(descriptor)
            with self._explained():
                yield
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        lock, end = self.folder / LOCK, time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise StoreError(
                        f"Another process has held the lock {lock} for {LOCK_TIMEOUT:g} s, so the report cannot be written. Next: find it with fuser {lock}."
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                raise StoreError(
                    f"{lock} cannot be locked: {error.strerror}. Next: mount this file system with locks (NFS: local_lock=flock), or change the option dir."
                ) from error
            else:
                return

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
        """The salt for hashes of session IDs, kept to give the same hashes in the next run. An empty or short one is replaced: it hides nothing."""
        path = self.folder / SALT
        try:
            salt = read_regular(path, MOST_SALT)
        except FileNotFoundError:
            salt = b""
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}. Next: run as the user that wrote it, or change the option dir.") from error
        if len(salt.strip()) >= SALT_LENGTH:
            return salt
        made = secrets.token_hex(SALT_LENGTH // 2).encode()
        if keep:
            with self._explained():
                write(path, made, 0o600)
        return made

    def run_for(self, now: datetime) -> Path:
        """A directory for this run that does not exist yet."""
        moment = now.strftime(RUN_TIME)
        number = 1
        while (run := self.home / (moment if number == 1 else f"{moment}-{number}")).exists():
            number += 1
        return run

    def publish(self, run: Path, files: dict[str, str], brief: Brief) -> None:
        """Publish all files of a run at once, then the link. Requires the lock."""
        self._sweep()
        contents = {name: content.encode("utf-8") for name, content in files.items()}
        self._fill(contents).rename(run)
        link = self.home / partial_name()
        try:
            link.symlink_to(run.name)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # A volume without links, such as SMB: the files twice, in a directory.
            link = self._fill(contents)
            if is_folder(self.home / LATEST):
                (self.home / LATEST).rename(self.home / partial_name())
        link.replace(self.home / LATEST)
        self._sweep()
        write(self.home / BRIEF, (json.dumps(dataclasses.asdict(brief)) + "\n").encode())

    def _fill(self, contents: dict[str, bytes]) -> Path:
        """A new directory with these files, under a name that no reader takes for a run."""
        partial = self.home / partial_name()
        partial.mkdir(mode=FOLDER_MODE)
        try:
            for name, content in contents.items():
                write(partial / name, content)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_run(partial)
            raise
        return partial

    def _sweep(self) -> None:
        """Remove leftovers of a killed run; the lock guarantees that there is no other writer."""
        for path in self.home.iterdir():
            if PARTIAL.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    if is_folder(path):
                        remove_run(path)
                    else:
                        path.unlink()

    def set_aside(self, runs: list[Path]) -> None:
        """Give runs that are dated later than now a name that is never read again as a run. Requires the lock."""
        for run in runs:
            number = 1
            while (aside := run.with_name(f"{run.name}.ahead" + (f"-{number}" if number > 1 else ""))).exists():
                number += 1
            run.rename(aside)

    def tidy(self, run: Path, keep: int, keep_days: int, now: datetime) -> list[str]:
        """Delete surplus and old runs, but never this run or a directory without a report. Returns the names of deleted runs."""
        others = sorted((path for path in runs_of(self.home) if path != run), key=run_order, reverse=True)
        oldest = (trusted_now(others, now) - timedelta(days=keep_days)).strftime(RUN_TIME)
        aside = sorted(runs_of(self.home, ASIDE), key=lambda path: path.name, reverse=True)
        ranked = [*enumerate(others, start=2), *enumerate(aside, start=1)]
        doomed = [path for place, path in ranked if place > keep or path.name < oldest]
        return [path.name for path in doomed if self._is_ours(path) and removed(path)]

    def _is_ours(self, run: Path) -> bool:
        report = report_of(run)
        return report is not None and report.cluster == self.cluster

    def _is_copy(self, latest: Path) -> bool:
        """Whether `latest` is the directory of a volume without links."""
        return is_folder(latest) and self._is_ours(latest) and all(path.name in FILES for path in latest.iterdir())

    def briefs(self) -> list[Brief]:
        """The briefs of all clusters that report into this directory."""
        return [brief_in(home) for home in sorted(self.folder.iterdir()) if is_folder(home) and os.path.lexists(home / BRIEF)]

    def publish_index(self, page: str) -> None:
        write(self.folder / INDEX, page.encode("utf-8"))


def brief_in(home: Path) -> Brief:
    try:
        brief = read(Brief, json.loads(read_regular(home / BRIEF, MOST_BRIEF)))
    except (OSError, ValueError, RecursionError):
        return unreadable_brief(text(home.name))
    return brief if brief.cluster == home.name else unreadable_brief(text(home.name))


def trusted_now(others: list[Path], now: datetime) -> datetime:
    """The time for deleting by age: a single run under a clock that is ahead by years must not delete all others."""
    for newest in others:
        with contextlib.suppress(ValueError):
            return min(now, datetime.strptime(newest.name[:16], RUN_TIME).replace(tzinfo=UTC) + timedelta(days=1))
    return now


def remove_run(run: Path) -> bool:
    """Remove a report's files and directory, if it contains nothing else. Raises OSError."""
    paths = list(run.iterdir())
    if any((path.name not in FILES and not PARTIAL.fullmatch(path.name)) or is_folder(path) for path in paths):
        return False
    for path in paths:
        path.unlink()
    run.rmdir()
    return True


def removed(run: Path) -> bool:
    """A run that cannot be removed, for example another user's, stays: the new report is written, and that matters more."""
    try:
        return remove_run(run)
    except OSError:
        return False


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
