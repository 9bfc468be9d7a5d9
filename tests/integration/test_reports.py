# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of real checks, read by those they are for: promtool, Jenkins' schema, junitparser, and a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import junitparser
import pytest
from lxml import etree
from reader_support import axe, chromium, jenkins_schema, promtool
from report_cases import FINDING, RECORDED

from harness import ROOT, run

if TYPE_CHECKING:
    from integration.conftest import Ansible, Played
    from reader_support import Browser

CHECK, REPORT = "meshops.istio.istio_affinity_check", "meshops.istio.istio_affinity_report"
SAMPLE = {"namespace": "sample", "service": "nginx-service", "profile": "quick"}
WAIVER = {"service": "sample/not_proven", "match": "not_proven", "owner": "tests", "reason": "to be seen", "until": "2099-12-31"}


@pytest.fixture(scope="module")
def reported(ansible: Ansible, sample: Played, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One play on the lab's sample: a check for each verdict, and two runs of the report of them all."""
    folder = tmp_path_factory.mktemp("reports")
    checks: list[dict[str, Any]] = [
        {"name": f"Check {verdict}", CHECK: SAMPLE | options, "register": f"found_{verdict}", "ignore_errors": True} for verdict, options in RECORDED.items()
    ]
    services: list[dict[str, Any]] = [{"namespace": "sample", "service": verdict, "live": True, "result": f"{{{{ found_{verdict} }}}}"} for verdict in RECORDED]
    services[1]["result"] = f"{{{{ found_failed | combine({{'findings': {json.dumps([FINDING])}}}) }}}}"
    options = {"cluster": "lab", "dir": str(folder), "services": services, "waivers": [WAIVER], "hash_session_ids": True}
    first = {"name": "Report", REPORT: options | {"services": [*services, {"namespace": "sample", "service": "gone", "static": {"static_verdict": "sticks"}}]}}
    again = {"name": "Report again", REPORT: options, "register": "report"}
    without = {"name": "In check mode", REPORT: options | {"services": services[:-1]}, "check_mode": True, "diff": True}
    played = ansible([*checks, first, again, without])
    played.expect()
    result = played.named("Report again").result
    statuses = {service["service"]: service["status"] for service in result["services"]}
    assert statuses == {"passed": "green", "failed": "red", "inconclusive": "green", "not_proven": "waived", "error": "red"}
    assert "\n+++ after: this run\n" in played.stdout
    assert re.search(r"\n\+  gone since \S+: sample/error \(was red\)\n", played.stdout)
    runs = [path for path in (folder / "lab").iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(runs) == 2
    return folder


def test_json_by_the_published_schema(reported: Path):
    report = json.loads((reported / "lab/latest/report.json").read_text())
    jsonschema.Draft202012Validator(json.loads((ROOT / "docs/report.schema.json").read_text())).validate(report)
    passed = next(service for service in report["services"] if service["service"] == "passed")
    assert passed["continuity"]["state"] == "same"
    assert all(session["id"].startswith("#") for session in passed["live"]["sessions"])
    assert [gone["service"] for gone in report["gone"]] == ["gone"]


def test_metrics_by_promtool(reported: Path):
    metrics = (reported / "lab/latest/affinity.prom").read_text()
    checked = run(promtool(), "check", "metrics", stdin=metrics)
    assert (checked.rc, checked.output) == (0, "")
    assert run(promtool(), "check", "metrics", stdin=metrics.replace("# TYPE", "# TIPE").replace('"} ', '" ')).rc != 0


def test_junit_by_jenkins_and_junitparser(reported: Path):
    path = reported / "lab/latest/junit.xml"
    schema = etree.XMLSchema(etree.parse(jenkins_schema()))
    schema.assertValid(etree.parse(path))
    assert not schema.validate(etree.fromstring(path.read_text().replace("<testcase ", "<testcase else='1' ").encode()))
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (5, 1, 1, 1)
    cases = {case.name: [type(result).__name__ for result in case.result] for case in suite}
    assert cases == {"failed": ["Failure"], "error": ["Error"], "not_proven": ["Skipped"], "passed": [], "inconclusive": []}


SIZES = {"phone": (390, 844, "screen"), "laptop": (1366, 900, "screen"), "paper": (688, 972, "print")}
VIOLATIONS = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(one =>
  one.id + ': ' + one.nodes.map(node => node.html.slice(0, 200) + node.failureSummary).join('; ')))"""


@pytest.mark.slow
def test_pages_in_a_browser(reported: Path):
    """At every size, in light and dark: nothing in the console, nothing fetched, no violation by axe-core, nothing wider than the window."""
    with chromium() as browser:
        for page in (reported / "lab/latest/index.html", reported / "index.html"):
            browser.open(page.resolve())
            assert browser.complaints() == []
            browser.evaluate(axe())
            for size, (width, height, media) in SIZES.items():
                for scheme in ("light", "dark"):
                    browser.show(width, height, scheme, media)
                    assert browser.evaluate("document.documentElement.scrollWidth") <= width, (page, size)
                    assert browser.evaluate(VIOLATIONS) == [], (page, size, scheme)
            _by_the_scheme(browser)
        browser.show(1366, 900, "light")
        browser.open((reported / "lab/latest/index.html").resolve())
        _by_keyboard(browser)


def _by_the_scheme(browser: Browser) -> None:
    """Dark on a dark screen, never on paper; and paper shows what is folded on the screen."""
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        browser.show(1366, 900, scheme, media)
        seen.add((scheme, media, browser.evaluate(colour)))
    assert seen == {("light", "screen", "rgb(244, 246, 249)"), ("dark", "screen", "rgb(14, 19, 25)"), ("dark", "print", "rgb(255, 255, 255)")}
    folded = "[...document.querySelectorAll('article.green .why')].every(one => one.checkVisibility({contentVisibilityAuto: true}))"
    assert browser.evaluate(folded) is True


def _by_keyboard(browser: Browser) -> None:
    """The first stop skips to the content; a folded service is opened by its summary."""
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    browser.evaluate("document.querySelector('article.green summary').focus()")
    assert browser.evaluate("document.querySelector('article.green details').open") is False
    browser.press("Enter")
    assert browser.evaluate("document.querySelector('article.green details').open") is True
