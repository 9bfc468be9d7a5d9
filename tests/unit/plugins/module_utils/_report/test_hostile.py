# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile text wherever a cluster, a pod or a response has a say: it stays text in every format, in file names, in URLs, on a terminal and in a log."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from page_reader import check_page
from report_cases import FINDING, NOON, Earlier, entry, looked, recorded

from ansible_collections.meshops.istio.plugins.filter.sinks import affinity_sink_data, affinity_sink_failure, affinity_sink_request
from ansible_collections.meshops.istio.plugins.module_utils._report.as_html import to_html, to_index
from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import from_json, to_json
from ansible_collections.meshops.istio.plugins.module_utils._report.as_junit import to_junit
from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import to_prometheus
from ansible_collections.meshops.istio.plugins.module_utils._report.as_table import WIDTH, to_table
from ansible_collections.meshops.istio.plugins.module_utils._report.assess import Settings, Waiver, make_report
from ansible_collections.meshops.istio.plugins.module_utils._report.model import LiveResult, Report, StaticResult
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read, text
from ansible_collections.meshops.istio.plugins.module_utils._report.store import Store, brief_of
from ansible_collections.meshops.istio.plugins.modules.istio_affinity_report import BadOptionError, argument_spec, read_settings

FRAGMENTS = (
    # HTML and XML
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onload='x",
        "]]>",
        "&lt;",
        "-->",
        "<!--",
        "</title>",
        "</style>",
        "<?xml?>",
        "&#x3c;b>",
    ),
    *(
        "javascript:alert(1)",
        "data:text/html,x",
        'https://h/" onclick="x',
        "<svg/onload=x>",
        "]]><failure/>",
        "</testcase>",
        "\x00",
        "\x0b",
        "\ufffe",
        "\ud800",
    ),
    # Prometheus and JSON
    *('"} 1\n', "\\", '\\"', "\n# TYPE a gauge\n", 'a="b",', "{", "}", '","x":"', "\u2028", "\u2029", "\x85", "\r\n", "\r"),
    # terminals and logs
    *("\x1b[31m", "\x1b]0;x\x07", "\x9b2J", "\x08\x08", "\u202e", "\u2066", "\u200f", "\u061c", "\ufeff", "\U000e0041", "\u200b", "\t", "\x7f"),
    *(
        "::error::x",
        "\n::set-output name=a::b",
        " ::add-mask::x",
        "\n\u2003::warning file=a::b",
        "##vso[task.setvariable]",
        "##[error]",
        "##teamcity[x]",
        ": ready",
    ),
    # names of files, URLs and templates
    *(
        "../",
        "..",
        "/",
        "/etc/passwd",
        ".",
        "~",
        "%2e%2e%2f",
        "?",
        "#",
        "@",
        "index.html",
        "CON",
        "$(id)",
        "`id`",
        ";",
        "'",
        "{{ 6 * 7 }}",
        "{% raw %}",
        " ",
        "",
    ),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), min_size=1, max_size=5).map("".join)
ORDINARY, MANY = 200, 10_000

CI_COMMAND = re.compile(r"##\[|##vso\[|##teamcity\[")
CI_LINE = re.compile(r"::[A-Za-z-]+( .*)?::")
SAMPLE = re.compile(r'(istio_affinity_\w+)\{((?:\w+="(?:[^"\\\n]|\\[\\n"])*",?)+)\} -?[0-9.e+-]+')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# What a service's entry says by a word of its own: with another word it would be another report.
WORDS = ("verdict", "static_verdict", "severity", "state", "kind")


@cache
def _results() -> tuple[str, str]:
    """A recorded result and inspection, small, because it is rendered thousands of times."""
    live = recorded("failed") | {"findings": [FINDING]}
    live["sessions"], live["backends"] = live["sessions"][:2], live["backends"][:2]
    static = looked("does_not")
    static["backends"] = static["backends"][:2]
    static["sessions"] = [{"id": "a", "predicted": "b"}]
    return json.dumps(live), json.dumps(static)


def _spoilt(value: Any, texts: list[str], place: Any, name: str = "") -> Any:
    """The value with hostile text for every text in it, and for names that are data."""
    if isinstance(value, str):
        return value if name in WORDS else texts[next(place) % len(texts)]
    if isinstance(value, list):
        return [_spoilt(item, texts, place) for item in value]
    if isinstance(value, dict):
        data = name in ("pods", "by_client", "by_status") or "/" in name
        return {(texts[next(place) % len(texts)] if data else key): _spoilt(item, texts, place, key) for key, item in value.items()}
    return value


def _report(texts: list[str]) -> Report:
    live, static = (_spoilt(json.loads(content), texts, count()) for content in _results())
    names = {"namespace": text(texts[0]), "service": text(texts[-1])}
    entries = [
        replace(entry("a", live=True, result=read(LiveResult, live), port=1), **names),
        replace(entry("a", static=read(StaticResult, static), port=2), **names),
        replace(entry("a", error=text(texts[0]), port=3), **names),
    ]
    waiver = Waiver("*", "error", text(texts[-1]), text(texts[0]), NOON.date())
    told = Settings(("failed", "error"), 24.0, False, (waiver,))
    first = make_report("prod", None, [*entries, replace(entries[0], port=4)], told, NOON, Earlier(None))
    # With an error, so that there is one, and with a service that is gone, which a report with an error does not list.
    return replace(make_report("prod", None, entries, told, NOON, Earlier(first)), error=text(texts[0]))


def _printable(shown: str) -> None:
    """Nothing in it moves a cursor, turns the direction or is invisible, and no reader of logs takes a line for a command."""
    letters = set(shown)
    assert not [letter for letter in letters if unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") and letter not in "\n\t"]
    assert not [letter for letter in letters if unicodedata.bidirectional(letter) in ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI")]
    assert not letters & set("\u200b\u200e\u200f\u061c\ufeff\U000e0041")
    assert not CI_COMMAND.search(shown)
    assert not [line for line in shown.splitlines() if CI_LINE.match(line.strip())]


def _check_formats(texts: list[str]) -> None:
    report = _report(texts)
    content = to_json(report)
    assert from_json(content) == report
    _printable(content)

    check_page(to_html(report))
    check_page(to_index([brief_of(report, "20261124T120000Z")], NOON, 24))

    root = ET.fromstring(to_junit(report))  # noqa: S314 - we wrote it
    assert [child.tag for child in root.iter()] == ["testsuites", "testsuite", "testcase", "error", *["testcase", "failure"] * 2, "testcase", "skipped"]

    lines = to_prometheus(report).removesuffix("\n").split("\n")
    samples = [sample for line in lines if not line.startswith("# ") if (sample := SAMPLE.fullmatch(line))]
    assert len(samples) == sum(not line.startswith("# ") for line in lines)
    labels = [{name: re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), value) for name, value in LABEL.findall(sample[2])} for sample in samples]
    assert {found["service"] for found in labels if "service" in found} == {text(texts[-1])}
    assert {found["cluster"] for found in labels} == {"prod"}
    # As many, of the same names, as with names that are harmless.
    assert [sample[1] for sample in samples] == [line.partition("{")[0] for line in _plain_metrics() if not line.startswith("# ")]

    table = to_table(report)
    # A title, the error, the head, three services with a reason each, one that is gone.
    assert len(table) == 10
    assert all("\n" not in line and len(line) <= WIDTH for line in table)
    _printable("\n".join(table))


@cache
def _plain_metrics() -> list[str]:
    return to_prometheus(_report(["plain"])).removesuffix("\n").split("\n")


def _check_names(hostile: str, folder: Path) -> None:
    """A cluster's name is refused, or names a directory right in the folder and one segment of a URL."""
    options = {name: option.get("default") for name, option in argument_spec().items()}
    try:
        read_settings(options | {"cluster": hostile})
    except BadOptionError as refused:
        _printable(str(refused))
    else:
        home = Store(folder, hostile).home
        assert (home.parent, home.name) == (folder, hostile)
        assert hostile not in (".", "..", "index.html")
        _printable(hostile)
    url = urlsplit(affinity_sink_request({"url": "https://h/base?q=1"}, hostile.encode("utf-8", "replace").decode(), "report.json")["url"])
    assert (url.scheme, url.netloc, url.query, url.fragment) == ("https", "h", "q=1", "")
    assert [unquote(part) for part in url.path.split("/")] == ["", "base", hostile.encode("utf-8", "replace").decode(), "report.json"]
    line = affinity_sink_failure(hostile, {"url": "https://h?q=1"})
    assert "\n" not in line
    _printable(line)
    data = affinity_sink_data({"status": "red", "services": [{"status": "red", "why": hostile}]}, "")
    assert json.loads(data["outcome.json"])["services"][0]["why"] == hostile


@settings(max_examples=ORDINARY)
@example([f"{'a' * 70_000}::error::b\x1b[31m"])
@example(["\n" * 70_000])
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_hostile_text_stays_text(texts: list[str]):
    _check_formats(texts)


@settings(max_examples=ORDINARY)
@given(TEXTS)
def test_hostile_names_stay_names(hostile: str):
    _check_names(hostile, Path("/nowhere/reports"))


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_hostile_text_10_000_times(record_property: Any):
    tried = count()

    @settings(max_examples=MANY)
    @given(st.lists(TEXTS, min_size=1, max_size=3))
    def search(texts: list[str]) -> None:
        _check_formats(texts)
        _check_names(texts[0], Path("/nowhere/reports"))
        next(tried)

    search()
    record_property("hostile", f"{next(tried)} examples, no break-out")
