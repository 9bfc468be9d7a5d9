# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it: what it writes, keeps, returns, deletes and refuses."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from report_cases import looked, recorded

from ansible_collections.meshops.istio.plugins.module_utils._report import store
from ansible_collections.meshops.istio.plugins.modules import istio_affinity_report

FILES = {"report.json", "junit.xml", "affinity.prom", "index.html"}
CART = {"namespace": "shop", "service": "cart"}


def of(verdict: str, **more: Any) -> dict[str, Any]:
    return CART | {"live": True, "result": recorded(verdict)} | more


Report = Callable[..., dict[str, Any]]


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    """Run the module: its result, with `rc` and what it warned of."""

    def run(*services: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"cluster": "prod", "dir": str(tmp_path / "reports"), "services": list(services)} | options
        with patch_module_args(arguments | {"_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            istio_affinity_report.main()
        printed = capsys.readouterr()
        found: dict[str, Any] = json.loads(printed.out)
        return found | {"rc": ended.value.code, "warned": " ".join(printed.err.split())}

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "reports/prod"


def runs(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.is_dir() and not path.is_symlink())


def at(hour: int, day: int = 24) -> str:
    return f"2026-11-{day}T{hour:02}:00:00Z"


def test_a_run(report: Report, home: Path):
    found = report(of("failed"), {**CART, "service": "rates", "static": looked("sticks")}, now=at(12))
    assert (found["rc"], found["status"], found["changed"]) == (0, "red", True)
    assert [(service["service"], service["verdict"], service["status"], service["since"]) for service in found["services"]] == [
        ("cart", "failed", "red", at(12)),
        ("rates", "sticks", "green", None),
    ]
    assert {path.name for path in (home / "20261124T120000Z").iterdir()} == FILES
    assert (home / "latest").readlink() == Path("20261124T120000Z")
    assert {name: Path(path).is_file() for name, path in found["paths"].items()} == dict.fromkeys(("json", "junit", "prometheus", "html", "index"), True)
    assert "1 of 1 clusters need attention." in (home.parent / "index.html").read_text()
    assert found["table"][0].startswith("prod: RED")
    assert found["diff"]["before"] == ""


def test_the_next_run_knows_the_last(report: Report, home: Path):
    first = report(of("failed"), now=at(12))
    second = report(of("failed"), now=at(13))
    assert second["services"][0]["since"] == at(12)
    assert second["diff"]["before"].splitlines() == first["table"]
    assert (home / "latest").readlink() == Path("20261124T130000Z")
    again = report(of("passed"), now=at(13))
    assert Path(again["paths"]["json"]).parent.name == "20261124T130000Z-2"
    assert (home / "latest").readlink() == Path("20261124T130000Z-2")
    assert report(of("passed"), now=at(14))["services"][0]["since"] is None


def test_check_mode_writes_nothing(report: Report, home: Path):
    found = report(of("failed"), now=at(12), check=True, hash_session_ids=True)
    assert (found["rc"], found["status"], found["changed"]) == (0, "red", True)
    assert found["diff"]["after"].splitlines() == found["table"]
    assert found["paths"]["json"].endswith("/reports/prod/20261124T120000Z/report.json")
    assert not home.parent.exists()


def test_clusters_share_a_page(report: Report, home: Path):
    report(of("passed"), now=at(12))
    report(now=at(13), cluster="edge", error="connection refused")
    page = (home.parent / "index.html").read_text()
    assert "1 of 2 clusters need attention." in page
    assert 'href="prod/20261124T120000Z/index.html"' in page
    assert "Not everything could be inspected: connection refused" in page


def _of_its_own(folder: str, cluster: str) -> None:
    with patch_module_args({"cluster": cluster, "dir": folder, "services": [of("passed")], "now": at(12)}), pytest.raises(SystemExit):
        istio_affinity_report.main()


def test_clusters_that_report_at_the_same_time(tmp_path: Path):
    """No report and no line of the common page gets lost."""
    names = [f"cluster-{number}" for number in range(6)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_of_its_own, args=(str(tmp_path), name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    page = (tmp_path / "index.html").read_text()
    assert all(f'href="{name}/20261124T120000Z/index.html"' in page for name in names)


# -- session IDs --


def test_hashes_are_the_same_in_the_next_run(report: Report, home: Path):
    for hour in (12, 13):
        found = report(of("passed"), now=at(hour), hash_session_ids=True)
    written = json.loads(Path(found["paths"]["json"]).read_text())
    assert written["services"][0]["continuity"]["state"] == "same"
    assert written["settings"]["hash_session_ids"] is True
    assert not [path for path in home.rglob("*") if path.is_file() and "meshops-check-" in path.read_text()]
    salt = home.parent / ".salt"
    assert (salt.stat().st_mode & 0o777, len(salt.read_bytes())) == (0o600, 64)


def test_arguments_of_the_check_stay_out(report: Report, home: Path):
    """A registered result has the task's arguments in it, tokens included."""
    secret = recorded("passed") | {"invocation": {"module_args": {"api_key": "t0p", "headers": {"authorization": "t0p"}}}, "attempts": 3, "changed": False}
    report(of("passed") | {"result": secret}, now=at(12))
    assert not [path for path in home.rglob("*") if path.is_file() and ("t0p" in path.read_text() or "invocation" in path.read_text())]


# -- what goes wrong while it writes --


@pytest.mark.parametrize("broken", ["publish", "index"])
def test_nothing_half_written_is_seen(report: Report, home: Path, monkeypatch: pytest.MonkeyPatch, broken: str):
    report(of("passed"), now=at(12))
    page = (home.parent / "index.html").read_bytes()
    real, count = store.write, 0

    def full(path: Path, content: bytes, mode: int = 0o660) -> None:
        nonlocal count
        count += 1
        if path.name == ("affinity.prom" if broken == "publish" else "index.html") and (broken == "publish" or path.parent == home.parent):
            raise OSError(28, "No space left on device", str(path))
        real(path, content, mode)

    monkeypatch.setattr(store, "write", full)
    found = report(of("failed"), now=at(13))
    assert count > 1
    assert (found["rc"], found["msg"].split(": ")[0]) == (1, "The report cannot be written")
    assert "No space left on device" in found["msg"]
    assert "option dir" in found["msg"]
    assert (home.parent / "index.html").read_bytes() == page
    assert runs(home) == ["20261124T120000Z"] + (["20261124T130000Z"] if broken == "index" else [])
    assert all({path.name for path in (home / name).iterdir()} == FILES for name in runs(home))
    assert not list(home.glob(".partial-*"))


def test_what_a_killed_run_left_is_swept(report: Report, home: Path):
    left = home / ".partial-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "report.json").write_text("{")
    (left / ".partial-0123456789abcdef").write_text("{")
    link = home / ".partial-0123456789abcdee"
    link.symlink_to("nowhere")
    report(of("passed"), now=at(12))
    assert not left.exists()
    assert not link.is_symlink()


def test_a_report_that_was_spoilt_is_passed_over(report: Report, home: Path):
    report(of("failed"), now=at(12))
    report(of("failed"), now=at(13))
    (home / "20261124T130000Z/report.json").write_text("{ spoilt")
    assert report(of("failed"), now=at(14))["services"][0]["since"] == at(12)


def test_a_service_that_was_away_is_known_again(report: Report):
    report(of("failed"), now=at(12))
    away = report(now=at(13))
    assert [gone["service"] for gone in away["gone"]] == ["cart"]
    assert report(of("failed"), now=at(14))["services"][0]["since"] == at(12)


def test_runs_that_could_not_look_forget_nothing(report: Report):
    report(of("failed"), {**CART, "service": "rates", "static": looked("sticks")}, now=at(1))
    for hour in range(2, 12):
        assert report(now=at(hour), error="connection refused")["gone"] == []
    found = report(of("failed"), now=at(12))
    assert found["services"][0]["since"] == at(1)
    assert [(gone["service"], gone["last_seen"]) for gone in found["gone"]] == [("rates", at(1))]


# -- tidying up --


def test_retention_by_count(report: Report, home: Path):
    for hour in range(10, 16):
        found = report(of("passed"), now=at(hour), keep=3)
    assert runs(home) == ["20261124T130000Z", "20261124T140000Z", "20261124T150000Z"]
    assert found["deleted"] == ["20261124T120000Z"]


def test_retention_by_age(report: Report, home: Path):
    for day in (1, 10, 20):
        report(of("passed"), now=at(12, day), keep_days=90)
    assert report(of("passed"), now=at(12, 21), keep_days=5)["deleted"] == ["20261110T120000Z", "20261101T120000Z"]
    assert runs(home) == ["20261120T120000Z", "20261121T120000Z"]


def test_history_outlives_the_runs(report: Report):
    for hour in range(10, 16):
        found = report(of("failed"), now=at(hour), keep=1)
    assert found["services"][0]["since"] == at(10)


def test_only_reports_are_deleted(report: Report, home: Path, tmp_path: Path):
    report(of("passed"), now=at(10))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "report.json").write_text("{}")
    (home / "20261101T000000Z").mkdir()
    (home / "20261101T000000Z/report.json").write_text("somebody else's")
    (home / "20261102T000000Z").symlink_to(elsewhere)
    (home / "notes").mkdir()
    (home / "20261124T100000Z/notes.txt").write_text("an auditor's")
    report(of("passed"), now=at(11))
    assert report(of("passed"), now=at(12), keep=1)["deleted"] == ["20261124T110000Z"]
    assert runs(home) == ["20261101T000000Z", "20261124T100000Z", "20261124T120000Z", "notes"]
    assert {path.name for path in (home / "20261124T100000Z").iterdir()} == FILES | {"notes.txt"}
    assert (elsewhere / "report.json").exists()


# -- bad input --

WAIVER = {"service": "shop/*", "match": "failed", "owner": "me", "reason": "because", "until": "2026-12-31"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster": "../etc"}, "Option cluster is '../etc', which cannot name a directory"),
        ({"cluster": "a/b"}, "Option cluster is 'a/b'"),
        ({"cluster": ""}, "Option cluster is ''"),
        ({"cluster": "index.html"}, "Option cluster is 'index.html'"),
        ({"keep": 0}, "Option keep is 0; it must be between 1 and 100000."),
        ({"keep_days": 0}, "Option keep_days is 0"),
        ({"max_age": -1}, "Option max_age is -1.0"),
        ({"max_age": "nan"}, "Option max_age is nan"),
        ({"now": "today"}, "Option now is today; it must be a time written as"),
        ({"services": [of("passed"), of("failed")]}, "Option services has shop/cart twice"),
        ({"services": [of("passed", namespace="")]}, "Option services[0] has an empty namespace or service"),
        ({"services": [of("passed", result="no dict")]}, "unable to convert to dict"),
        ({"services": [{"namespace": "shop"}]}, "missing required arguments: service"),
        ({"waivers": [WAIVER | {"until": "31.12.2026"}]}, "Option waivers[0].until is 31.12.2026; it must be a day written as YYYY-MM-DD."),
        ({"waivers": [WAIVER | {"service": "cart"}]}, "Option waivers[0].service is cart; write it as namespace/name"),
        ({"waivers": [WAIVER, WAIVER | {"owner": " "}]}, "Option waivers[1].owner is empty"),
        ({"fail_on": ["passed"]}, "value of fail_on must be one or more of"),
    ],
)
def test_bad_input(report: Report, home: Path, options: dict[str, Any], message: str):
    found = report(**{"services": [of("passed")], **options})
    assert found["rc"] == 1
    assert message in found["msg"]
    assert not home.parent.exists()


def test_folders_that_are_none(report: Report, tmp_path: Path, home: Path):
    (tmp_path / "file").write_text("")
    assert "is not a directory. Next: move it away" in report(of("passed"), dir=str(tmp_path / "file"))["msg"]
    assert "cannot be written" in report(of("passed"), dir=str(tmp_path / "file/below"))["msg"]
    (home / "latest").mkdir(parents=True)
    assert "is not a link of this module" in report(of("passed"))["msg"]
    (tmp_path / "reports/.salt").mkdir()
    assert ".salt cannot be read: not a regular file" in report(of("passed"), cluster="other", hash_session_ids=True)["msg"]


def test_two_ports_of_a_service(report: Report):
    found = report(of("passed", port=80), of("failed", port=8080), now=at(12))
    assert [(service["port"], service["status"]) for service in found["services"]] == [(8080, "red"), (80, "green")]


# -- a wrong clock --


def year(number: int) -> str:
    return f"{number}-11-24T12:00:00Z"


def test_a_run_under_a_clock_that_is_ahead_hides_nothing(report: Report, home: Path):
    """The rule is gone after such a run, and no probe can tell: red, not green by the run of 2030."""
    rates = {**CART, "service": "rates"}
    report(rates | {"static": looked("sticks")}, now=at(10))
    report(rates | {"static": looked("sticks")}, now=year(2030))
    broken = report(rates | {"static": looked("does_not")}, now=at(12))
    assert broken["set_aside"] == ["20301124T120000Z"]
    assert "Reports of prod are dated later than now, so the clock was wrong in one of the runs. They were set aside: 2030" in broken["warned"]
    assert 'istio_affinity_reports_set_aside{cluster="prod"} 1\n' in (home / "latest/affinity.prom").read_text()
    found = report(rates | {"static": looked("unknown")}, now=at(13))
    assert (found["services"][0]["status"], found["services"][0]["since"], found["set_aside"]) == ("red", at(12), [])
    # Its time will come: it is no run any more.
    assert runs(home) == ["20261124T100000Z", "20261124T120000Z", "20261124T130000Z", "20301124T120000Z.ahead"]
    assert report(rates | {"static": looked("unknown")}, now="2030-11-24T12:30:00Z")["services"][0]["status"] == "red"


def test_what_cannot_be_told_ages_from_a_time_that_is_not_ahead(report: Report, home: Path):
    """As written by a release that took any time: the age counts from the last one that is not later than now."""
    report(of("inconclusive"), now=at(12, 20))
    path = home / "20261120T120000Z/report.json"
    spoilt = json.loads(path.read_text())
    spoilt["services"][0] |= {"counting_since": year(2030), "first_seen": year(2030), "conclusive": {"time": year(2030), "verdict": "passed"}}
    spoilt["services"][0]["history"].append({"time": year(2030), "verdict": "passed", "status": "green"})
    path.write_text(json.dumps(spoilt))
    (service,) = report(of("inconclusive"), now=at(13, 21))["services"]
    assert (service["status"], service["why"].split(".")[0]) == ("red", "no conclusive verdict for 25 h (maximum 24 h)")
    (written,) = json.loads((home / "latest/report.json").read_text())["services"]
    assert (written["conclusive"], written["first_seen"], len(written["history"])) == (None, at(12, 20), 2)


def test_a_clock_that_is_behind_loses_no_failure(report: Report, home: Path):
    """Seen from 2020 every report is from the future: none vouches for a service, but what was broken stays red, also when the clock is right again."""
    report(of("failed"), {**CART, "service": "rates", "static": looked("sticks")}, now=at(12))
    unknown = (of("inconclusive"), {**CART, "service": "rates", "static": looked("unknown")})
    behind = report(*unknown, now=year(2020))
    assert {service["service"]: service["status"] for service in behind["services"]} == {"cart": "red", "rates": "green"}
    assert "A report dated later than this run (2026-11-24T12:00:00Z) says failed; one of the two clocks was wrong" in behind["services"][0]["why"]
    assert {service["status"] for service in report(*unknown, now=at(13))["services"]} == {"red"}


def test_clocks_that_differ_by_a_little_are_no_trouble(report: Report):
    report(of("failed"), now="2026-11-24T12:04:00Z")
    found = report(of("inconclusive"), now=at(12))
    assert (found["set_aside"], found["services"][0]["status"], found["warned"]) == ([], "red", "")


def test_a_clock_that_is_ahead_deletes_no_report(report: Report, home: Path):
    for hour in (10, 11):
        report(of("passed"), now=at(hour))
    assert report(of("passed"), now=year(2030))["deleted"] == []
    assert report(of("passed"), now=at(12), keep=1)["deleted"] == ["20261124T110000Z", "20261124T100000Z"]
    # What was set aside is no run, and goes as runs do.
    assert runs(home) == ["20261124T120000Z", "20301124T120000Z.ahead"]
    report(of("passed"), now="2031-01-01T00:00:00Z")
    assert report(of("passed"), now=at(13), keep=1)["deleted"] == ["20261124T120000Z", "20301124T120000Z.ahead"]


# -- a folder that others write, or read --


def test_a_fifo_or_a_deep_file_of_one_cluster_is_only_its_own_trouble(report: Report, home: Path):
    for name in ("fifo", "deep", "link", "large"):
        report(of("passed"), now=at(12), cluster=name)
        (home.parent / name / ".brief.json").unlink()
    os.mkfifo(home.parent / "fifo/.brief.json")
    (home.parent / "deep/.brief.json").write_text("[" * 200_000)
    (home.parent / "link/.brief.json").symlink_to(home.parent / "prod/.brief.json")
    (home.parent / "large/.brief.json").write_bytes(b" " * (store.MOST_BRIEF + 1))
    (home.parent / "elsewhere").symlink_to(home.parent / "link")
    assert report(of("passed"), now=at(13))["rc"] == 0
    page = (home.parent / "index.html").read_text()
    assert "4 of 5 clusters need attention." in page
    assert page.count("the entry of its last run cannot be read") == 4


def test_a_fifo_in_place_of_a_report_is_passed_over(report: Report, home: Path):
    report(of("failed"), now=at(12))
    report(of("failed"), now=at(13))
    (home / "latest/report.json").unlink()
    os.mkfifo(home / "latest/report.json")
    os.mkfifo(home / ".partial-0123456789abcdef")
    assert report(of("failed"), now=at(14))["services"][0]["since"] == at(12)


def test_a_lock_that_is_held_is_told(report: Report, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.2)
    report(of("passed"), now=at(12))
    with (home.parent / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = report(of("passed"), now=at(13))
    assert (found["rc"], found["msg"].partition(".lock")[2]) == (
        1,
        f" for 0.2 s, so the report cannot be written. Next: find it with fuser {home.parent}/.lock.",
    )
    assert runs(home) == ["20261124T120000Z"]


def test_a_volume_without_locks_is_told(report: Report, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = report(of("passed"), now=at(12))
    assert (found["rc"], "cannot be locked: No locks available. Next: mount this file system with locks" in found["msg"]) == (1, True)


def test_a_volume_without_links_has_copies(report: Report, home: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for hour, verdict in ((12, "failed"), (13, "passed")):
        assert report(of(verdict), now=at(hour))["rc"] == 0
        latest = json.loads((home / "latest/report.json").read_text())
        assert (latest["time"], {path.name for path in (home / "latest").iterdir()}) == (at(hour), FILES)
    assert not list(home.glob(".partial-*"))
    # On a volume with links again, after a file of somebody else's is there, nothing is lost.
    (home / "latest/notes.txt").write_text("an auditor's")
    assert "is not a link of this module" in report(of("passed"), now=at(14))["msg"]


@pytest.mark.parametrize("salt", ["", "\n", "a" * 63])
def test_a_salt_that_hides_nothing_is_replaced(report: Report, home: Path, salt: str):
    home.parent.mkdir()
    (home.parent / ".salt").write_text(salt)
    assert report(of("passed"), now=at(12), hash_session_ids=True)["rc"] == 0
    assert len((home.parent / ".salt").read_bytes()) == 64


def test_links_are_not_followed(report: Report, home: Path, tmp_path: Path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").write_text("a" * 64)
    home.parent.mkdir()
    home.symlink_to(tmp_path / "theirs")
    assert "is a link, which is not followed. Next: replace it with a directory" in report(of("passed"))["msg"]
    (home.parent / ".salt").symlink_to(tmp_path / "theirs/file")
    assert ".salt cannot be read" in report(of("passed"), cluster="other", hash_session_ids=True)["msg"]
    (home.parent / ".lock").unlink()
    (home.parent / ".lock").symlink_to(tmp_path / "theirs/file")
    assert "Too many levels of symbolic links" in report(of("passed"), cluster="other")["msg"]
    assert {path.name: path.read_text() for path in (tmp_path / "theirs").iterdir()} == {"file": "a" * 64}


def test_other_users_cannot_read_reports(report: Report, home: Path):
    home.parent.mkdir(mode=0o755)
    (home.parent / ".lock").touch(0o644)
    report(of("passed"), now=at(12), hash_session_ids=True)
    modes = {str(path.relative_to(home.parent)): oct(path.lstat().st_mode & 0o777) for path in home.parent.rglob("*") if not path.is_symlink()}
    run = {"prod/20261124T120000Z": "0o750"} | {f"prod/20261124T120000Z/{name}": "0o640" for name in FILES}
    files = {"index.html": "0o640", ".lock": "0o640", ".salt": "0o600", "prod/.brief.json": "0o640"}
    assert modes == {"prod": "0o750"} | run | files


def test_a_run_that_cannot_be_deleted_does_not_stop_the_report(report: Report, home: Path, monkeypatch: pytest.MonkeyPatch):
    report(of("passed"), now=at(11))
    report(of("passed"), now=at(12))
    real = Path.rmdir

    def refuse(path: Path) -> None:
        if path.name == "20261124T110000Z":
            raise OSError(errno.EACCES, "Permission denied", str(path))
        real(path)

    monkeypatch.setattr(Path, "rmdir", refuse)
    assert report(of("passed"), now=at(13), keep=1)["deleted"] == ["20261124T120000Z"]
    assert 'datetime="2026-11-24T13:00:00Z"' in (home.parent / "index.html").read_text()


def test_a_cluster_that_stopped_reporting_is_no_longer_green(report: Report, home: Path):
    report(of("passed"), now=at(10), cluster="stopped")
    report(of("passed"), now=at(10, 25))
    assert "All 2 clusters are green." in (home.parent / "index.html").read_text()
    report(of("passed"), now=at(10, 27), cluster="ahead")
    report(of("passed"), now=at(12, 25))
    page = (home.parent / "index.html").read_text()
    assert ("2 of 3 clusters need attention." in page, page.count("no recent run"), page.count("whether sessions stick is unknown since")) == (True, 2, 2)
