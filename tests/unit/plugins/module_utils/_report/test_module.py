# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it: what it writes, keeps, returns, deletes and refuses."""

from __future__ import annotations

import json
import multiprocessing
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
    """Run the module: its result, with C(rc)."""

    def run(*services: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"cluster": "prod", "dir": str(tmp_path / "reports"), "services": list(services)} | options
        with patch_module_args(arguments | {"_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            istio_affinity_report.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found | {"rc": ended.value.code}

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

    def full(path: Path, content: bytes, mode: int = 0o666) -> None:
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
    assert ".salt cannot be read: Is a directory" in report(of("passed"), cluster="other", hash_session_ids=True)["msg"]


def test_two_ports_of_a_service(report: Report):
    found = report(of("passed", port=80), of("failed", port=8080), now=at(12))
    assert [(service["port"], service["status"]) for service in found["services"]] == [(8080, "red"), (80, "green")]
