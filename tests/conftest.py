# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Order, what took how long, no skips, and the trees that tests share."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from ansible.plugins.loader import init_plugin_loader

from harness import ROOT, build, stage

# Unit tests import ansible_collections.meshops.istio from the working tree, by the link that makes a clone find itself.
init_plugin_loader([str(ROOT / "collections")])

# A gate must not depend on luck or on how busy the machine is; wider searches are for runs outside CI.
hypothesis.settings.register_profile("gate", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("gate")

# Cheap before dear, and what tears the lab down last. The longest prefix that fits places a test.
ORDER = ("tests/gates/", "tests/unit/", "tests/integration/test_affinity", "tests/integration/test_roles", "tests/integration/", "tests/integration/test_lab")


def _place(item: pytest.Item) -> int:
    return max((len(prefix), place) for place, prefix in enumerate(("", *ORDER)) if item.nodeid.startswith(prefix))[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


# -- nothing is skipped: a gate that can't run is a failure --


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{reason}\nNothing is skipped in this project: what can't run here has failed."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


# -- what took how long --

_running = ""
_of_test: dict[str, float] = defaultdict(float)
_of_fixture: dict[str, float] = {}


def pytest_runtest_logstart(nodeid: str) -> None:
    global _running  # noqa: PLW0603 - the hooks below have no other common place
    _running = nodeid


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    start = time.monotonic()
    try:
        return (yield)
    finally:
        if fixturedef.scope == "session":
            # Paid by whichever test comes first, so it is told apart from that test.
            _of_fixture[fixturedef.argname] = time.monotonic() - start
            _of_test[_running] -= _of_fixture[fixturedef.argname]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _of_test[report.nodeid] += report.duration


def _rows() -> list[tuple[str, float]]:
    """Set-up steps, every gate, and the other tests by file, in the order they ran."""
    rows = []
    steps = os.environ.get("ISTIO_STEP_TIMES")
    if steps:
        rows += [(name, float(seconds)) for name, seconds in (line.split("\t") for line in Path(steps).read_text().splitlines())]
    rows += [(f"set-up: fixture {name}", seconds) for name, seconds in _of_fixture.items() if seconds >= 1]
    groups: dict[str, list[float]] = defaultdict(list)
    for nodeid, seconds in _of_test.items():
        group = nodeid.split("[")[0] if nodeid.startswith("tests/gates/") else "tests/unit" if nodeid.startswith("tests/unit/") else nodeid.split("::")[0]
        groups[group].append(seconds)
    return rows + [(group if len(times) == 1 else f"{group} ({len(times)} tests)", sum(times)) for group, times in groups.items() if group]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _of_test:
        return
    terminalreporter.write_sep("=", "what took how long")
    rows = _rows()
    for name, seconds in (*rows, ("all together", sum(row[1] for row in rows))):
        terminalreporter.write_line(f"{max(seconds, 0):8.1f} s  {name}")
    slowest = sorted(((seconds, nodeid) for nodeid, seconds in _of_test.items() if not nodeid.startswith("tests/gates/")), reverse=True)[:10]
    if slowest:
        terminalreporter.write_sep("=", "the slowest tests that are not gates")
    for seconds, nodeid in slowest:
        terminalreporter.write_line(f"{max(seconds, 0):8.1f} s  {nodeid}")


# -- trees --


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree as ansible_collections/meshops/istio."""
    return stage(tmp_path_factory.mktemp("staged"))


@pytest.fixture(scope="session")
def artifact(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's artifact, as it would be uploaded."""
    return build(staged, tmp_path_factory.mktemp("artifact"))
