# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each format of a report, by readers that are always at hand; the real ones are in tests/integration/test_reports.py."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import report_schema
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reader import check_page
from report_cases import FINDING, NOON, SETTINGS, entry, probed, recorded, run_of, seen, waiver

from ansible_collections.meshops.istio.plugins.module_utils._report.as_html import to_html, to_index
from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import from_json, to_json
from ansible_collections.meshops.istio.plugins.module_utils._report.as_junit import to_junit
from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import to_prometheus
from ansible_collections.meshops.istio.plugins.module_utils._report.as_table import WIDTH, to_table
from ansible_collections.meshops.istio.plugins.module_utils._report.model import LiveResult, Report, StaticResult
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read
from ansible_collections.meshops.istio.plugins.module_utils._report.store import brief_of
from harness import ROOT

SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
WAIVERS = replace(SETTINGS, waivers=(waiver("not_proven"),))


def everything() -> Report:
    """A report with every verdict and status in it, and a past."""
    one = recorded("inconclusive")
    one["backends"] = one["backends"][:1]
    entries = (
        probed("passed", "passed", port=8080),
        probed(recorded("failed") | {"findings": [FINDING]}, "failed"),
        probed("not_proven", "not-proven"),
        probed("inconclusive", "inconclusive"),
        probed("error", "error"),
        probed(one, "single", single=True),
        seen("sticks", "sticks"),
        seen("does_not", "does-not"),
        seen("unknown", "unknown"),
        entry("nothing", error="the probe pod did not start"),
    )
    first = run_of(*entries, probed("passed", "gone"), settings=WAIVERS)
    return run_of(*entries, after=first, hours=1, settings=WAIVERS)


# -- JSON --


def test_the_published_schema_is_that_of_the_classes():
    assert (ROOT / "docs/report.schema.json").read_text() == report_schema.published(), "python tests/report_schema.py >docs/report.schema.json"


def test_json_fits_the_schema_and_comes_back():
    report = everything()
    content = to_json(report)
    VALIDATOR.validate(json.loads(content))
    assert from_json(content) == report
    VALIDATOR.validate(json.loads(to_json(run_of(error="refused"))))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 99, "cluster": "a"}', '{"schema_version": 1}', "[" * 100_000])
def test_what_is_no_report_is_none(content: str):
    assert from_json(content) is None


def _places(value: Any, inside: str = "") -> list[tuple[Any, Any, bool]]:
    """Every container of a document with each of its keys, and whether the container's keys are data (names of pods, clients, controls, statuses)."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    data = isinstance(value, list) or inside in ("pods", "by_client", "controls", "by_status") or "/" in inside
    return [place for key, inner in items for place in ((value, key, data), *_places(inner, str(key)))]


def test_mutated_reports_are_rejected():
    """A key away, a key too many, a value of another kind: wherever it is, the schema sees it."""
    first = run_of(probed(recorded("inconclusive") | {"findings": [FINDING]}), seen("does_not", "b"), settings=WAIVERS)
    document = json.loads(to_json(run_of(probed("inconclusive"), entry("c", error="refused"), after=first, hours=1)))
    tried = 0
    for container, key, data in random.Random(6).sample(_places(document), 80):
        was = container[key]
        container[key] = [{"else": 1}]
        assert not VALIDATOR.is_valid(document), (key, "changed")
        container[key] = was
        if not data:
            tried += 1
            del container[key]
            assert not VALIDATOR.is_valid(document), (key, "removed")
            container[key] = was
            container["else"] = 1
            assert not VALIDATOR.is_valid(document), (key, "added")
            del container["else"]
    assert tried > 25
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("field", "value"), [("status", "amber"), ("time", "yesterday"), ("schema_version", 2), ("cluster", None), ("services", {}), ("summary", None)]
)
def test_wrong_words_are_rejected(field: str, value: Any):
    assert not VALIDATOR.is_valid(json.loads(to_json(everything())) | {field: value})


# -- JUnit --


def parsed(content: str) -> ET.Element:
    return ET.fromstring(content)  # noqa: S314 - we wrote it


def test_junit_has_a_case_for_each_service():
    report = everything()
    (suite,) = parsed(to_junit(report))
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {
        "passed:8080": ["system-out"],
        "failed": ["failure"],
        "not-proven": ["skipped"],
        "inconclusive": ["system-out"],
        "error": ["error"],
        "single": ["skipped"],
        "sticks": ["system-out"],
        "does-not": ["failure"],
        "unknown": ["system-out"],
        "nothing": ["error"],
    }
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {"tests": "10", "failures": "2", "errors": "2", "skipped": "2"}
    failure = next(case for case in suite if case.get("name") == "failed")[0]
    assert "C13 (error)" in (failure.text or "")


def test_junit_of_a_cluster_that_could_not_be_looked_at():
    (suite,) = parsed(to_junit(run_of(error="connection\nrefused")))
    assert [(case.get("name"), case[0].tag, case[0].get("message")) for case in suite] == [
        ("the whole cluster can be inspected", "error", "connection refused")
    ]


# -- Prometheus --


def test_metrics():
    text = to_prometheus(everything())
    assert 'istio_affinity_verdict{cluster="prod",namespace="shop",service="failed",verdict="failed"} 1\n' in text
    assert 'istio_affinity_verdict{cluster="prod",namespace="shop",service="failed",verdict="passed"} 0\n' in text
    assert 'istio_affinity_status{cluster="prod",namespace="shop",service="not-proven",status="waived"} 1\n' in text
    assert 'istio_affinity_sessions{cluster="prod",namespace="shop",service="passed",port="8080"} 36\n' in text
    assert 'istio_affinity_sessions_moved{cluster="prod",namespace="shop",service="failed"} 36\n' in text
    assert 'istio_affinity_requests{cluster="prod",namespace="shop",service="failed",outcome="answered"} 740\n' in text
    assert 'istio_affinity_last_run_timestamp_seconds{cluster="prod"} 1795525200\n' in text
    assert 'istio_affinity_broken_since_timestamp_seconds{cluster="prod",namespace="shop",service="failed"} 1795521600\n' in text
    assert 'istio_affinity_cluster_up{cluster="prod"} 1\n' in text
    assert "meshops-check-" not in text
    assert 'istio_affinity_cluster_up{cluster="prod"} 0\n' in to_prometheus(run_of(error="refused"))


def test_no_sample_is_there_twice():
    lines = [line.rsplit(" ", 1)[0] for line in to_prometheus(everything()).splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines)) > 150


def test_labels_are_escaped():
    report = replace(run_of(probed("passed")), cluster='a"b\\c\nd')
    assert 'istio_affinity_cluster_up{cluster="a\\"b\\\\c\\nd"} 1\n' in to_prometheus(report)


# -- the table --


def test_table():
    lines = to_table(everything())
    assert lines[0] == "prod: RED at 2026-11-24T13:00:00Z (4 red, 4 green, 1 waived, 1 not applicable)"
    assert max(map(len, lines)) <= WIDTH
    failed = next(number for number, line in enumerate(lines) if line.startswith("red     shop/failed "))
    assert re.fullmatch(r"red +shop/failed +failed +36/36  2026-11-24T12:00:00Z", lines[failed])
    assert lines[failed + 1].startswith("        36 of 36 sessions landed on more than one pod")
    assert lines[-1] == "  gone since 2026-11-24T12:00:00Z: shop/gone (was green)"


def test_table_of_wide_letters_and_lines():
    lines = to_table(run_of(entry("会" * 60, error="first\nsecond " + "é" * 200)))
    assert all(len(line) <= WIDTH and "\n" not in line for line in lines)
    assert to_table(run_of(error="refused"))[1] == "  not everything could be inspected: refused"


# -- HTML --


def test_page():
    report = everything()
    page = check_page(to_html(report))
    for wanted in (
        "4 of 10 services need attention.",
        "Broken since 2026-11-24 12:00 UTC",
        "The route hashes on another header than the one checked",
        "all 36 sessions landed on the same pod",
        "Waived: not_proven, by team shop, until 2026-11-24. being moved",
        "shop/gone, was green",
        "trafficPolicy",
        "p99",
        "0.44%",
    ):
        assert wanted in page.text, wanted
    assert page.text.count("Every session and the pods that it landed on") == 5


def test_page_without_services():
    assert "No service of this cluster asks for session affinity." in check_page(to_html(run_of())).text
    assert "Not everything could be inspected: refused" in check_page(to_html(run_of(error="refused"))).text


def test_index():
    briefs = [brief_of(everything(), "20261124T130000Z"), brief_of(replace(run_of(error="refused"), cluster="edge 1"), "20261124T120000Z")]
    page = check_page(to_index(briefs, NOON, 24))
    assert "2 of 2 clusters need attention." in page.text
    assert "edge%201/20261124T120000Z/index.html" in page.links
    assert "prod: shop/failed" in page.text
    assert "All 0 clusters are green." in check_page(to_index([], NOON, 24)).text


# -- whatever is handed over --

NASTY = st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "]]>&amp;", "\x00\x1b[31m", "\ud800", "a\nb", "", "--><b>", "javascript:alert(1)"]
)
WORDS = NASTY | st.text(max_size=8)
NUMBERS = st.integers() | st.floats() | st.just(10**400)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS


def fitting(kind: Any) -> st.SearchStrategy[Any]:
    """Values in the form of a field's schema, but of any content, and sometimes of any form."""
    if "$ref" in kind:
        kind = SCHEMA["$defs"][kind["$ref"].rsplit("/", 1)[1]]
    options = kind.get("anyOf")
    if options:
        return st.one_of(*map(fitting, options))
    types = kind.get("type", "null")
    if isinstance(types, list):
        return st.one_of(*(fitting({"type": name}) for name in types))
    if types == "object" and "properties" in kind:
        return st.fixed_dictionaries({}, optional={name: fitting(inner) for name, inner in kind["properties"].items()}) | LEAVES
    plain = {
        "string": WORDS,
        "integer": st.integers(-3, 10**20),
        "number": NUMBERS,
        "boolean": st.booleans(),
        "null": st.none(),
        "array": st.lists(st.deferred(lambda: fitting(kind["items"])), max_size=3) if types == "array" else st.none(),
        "object": st.dictionaries(WORDS, st.deferred(lambda: fitting(kind["additionalProperties"])), max_size=3) if types == "object" else st.none(),
    }
    return plain[types] | LEAVES if types != "null" else plain[types]


RESULTS = fitting({"$ref": "#/$defs/LiveResult"}) | st.dictionaries(WORDS, LEAVES, max_size=3)
LOOKS = fitting({"$ref": "#/$defs/StaticResult"})


@settings(max_examples=60)
@given(st.none() | RESULTS, st.none() | LOOKS, st.booleans(), st.booleans())
def test_whatever_comes_is_reported(result: Any, static: Any, live: bool, single: bool):
    """No shape of a result breaks a report, and none gets markup into it."""
    given_entry = entry(
        "<script>alert(1)</script>",
        live=live,
        single=single,
        result=None if result is None else read(LiveResult, result),
        static=None if static is None else read(StaticResult, static),
    )
    report = run_of(given_entry, after=run_of(given_entry), hours=1)
    content = to_json(report)
    VALIDATOR.validate(json.loads(content))
    assert from_json(content) == report
    parsed(to_junit(report))
    assert all(re.fullmatch(r'# .*|istio_affinity_\w+\{.*"\} -?[0-9.e+-]+', line) for line in to_prometheus(report).removesuffix("\n").split("\n"))
    assert all(len(line) <= WIDTH for line in to_table(report))
    check_page(to_html(report))
    check_page(to_index([brief_of(report, "20261124T130000Z")], NOON, 24))


def test_fixtures_hold_no_path_of_a_machine():
    assert not [path.name for path in Path(__file__).parent.glob("fixtures/*.json") if re.search(r"/(?:home|root|tmp)/", path.read_text())]
