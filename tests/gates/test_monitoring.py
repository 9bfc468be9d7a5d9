# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The alert rules, by Prometheus' own promtool: they parse, and fire and clear when they should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harness import ROOT, Ran, debian_root, run

RULES = ROOT / "monitoring/prometheus-rules.yml"
TESTS = Path(__file__).parent / "prometheus_rules_test.yml"


@pytest.fixture(scope="session")
def promtool() -> Path:
    return debian_root("prometheus", "prometheus-node-exporter") / "usr/bin/promtool"


def _alerts() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _test(promtool: Path, folder: Path, rules: str) -> Ran:
    """The rules of another version that differ from today's, by the tests of these: all the others would take long and say nothing."""
    changed = [rule for rule, before in zip(yaml.safe_load(rules)["groups"][0]["rules"], _alerts(), strict=True) if rule != before]
    names = {rule["alert"] for rule in changed}
    assert names
    tests = []
    # All as text: 0x20 is no number here, but twenty times 0.
    for test in yaml.load(TESTS.read_text(), yaml.BaseLoader)["tests"]:  # noqa: S506 - it makes nothing but text
        cases = [case for case in test["alert_rule_test"] if case["alertname"] in names]
        tests += [test | {"alert_rule_test": cases}] if cases else []
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "changed", "rules": changed}]}))
    told = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yml").write_text(yaml.safe_dump(told))
    return run(promtool, "test", "rules", folder / "tests.yml")


def test_rules_are_well_formed(promtool: Path):
    assert f"SUCCESS: {len(_alerts())} rules found" in run(promtool, "check", "rules", RULES).expect().output


def test_alerts_fire_and_clear(promtool: Path):
    run(promtool, "test", "rules", TESTS).expect()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("was", "now"),
    [
        (
            'verdict=~"failed|does_not"} == 1 or istio_affinity_broken == 1)\n        labels:\n          severity: critical',
            'verdict=~"failed"} == 1 or istio_affinity_broken == 1)\n        labels:\n          severity: critical',
        ),
        (
            " or istio_affinity_broken == 1)\n        labels:\n          severity: critical",
            ")\n        labels:\n          severity: critical",
        ),
        ("25 * 3600", "26 * 3600"),
        ("3 * 3600", "4 * 3600"),
        ("not_applicable|waived", "not_applicable"),
        ("cluster_up == 0", "cluster_up < 0"),
        (" != 0 and ", " != 0 or "),
        ("timestamp_seconds[7d]", "timestamp_seconds[1d]"),
        ("gone[1d]", "gone[1h]"),
        ('prom"}[7d])', 'prom"}[1m])'),
        ("> 300", "> 200000"),
        ("> 300", "> 200"),
        ("or max by (cluster) (istio_affinity_reports_set_aside) > 0", ""),
        ("sink_up == 0", "sink_up < 0"),
        ("unless on (cluster, namespace, service, port) istio_affinity_status\n", ""),
        ("absent(istio_affinity_last_run_timestamp_seconds)", "absent(up)"),
    ],
)
def test_a_wrong_rule_is_found(promtool: Path, tmp_path: Path, was: str, now: str):
    text = RULES.read_text()
    assert was in text
    assert "FAILED" in _test(promtool, tmp_path, text.replace(was, now)).expect(1).output


def test_every_alert_is_tested_and_explained():
    names = {str(rule["alert"]) for rule in _alerts()}
    tested: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    # Each is seen both firing and silent.
    assert tested == {name: {True, False} for name in names}
    assert set(re.findall(r"IstioAffinity\w+", (ROOT / "docs/schedule.md").read_text())) == names
