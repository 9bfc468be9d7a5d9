# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Order and workers, what took how long, no skips, and the trees that tests share."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from ansible.plugins.loader import init_plugin_loader
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from harness import ROOT, WAITED, WHOLE_CLUSTER, build, stage

# Unit tests import ansible_collections.meshops.istio from the working tree, by the link that makes a clone find itself.
init_plugin_loader([str(ROOT / "collections")])

# A gate must not depend on luck or on how busy the machine is; wider searches are for runs outside CI.
hypothesis.settings.register_profile("gate", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("gate")

# The files of those that need the whole cluster, as one group, in which those that need it for themselves come last.
LAST = ("tests/integration/test_lab", "tests/integration/test_roles", "tests/integration/test_rbac")
# Cheap before dear, and what tears the lab down last. The longest prefix that fits places a test.
ORDER = ("tests/gates/", "tests/unit/", "tests/integration/", *LAST, *WHOLE_CLUSTER)
# With two workers both begin with the lab's tests, the longest file first; when one is at those that need the whole cluster, the other does what needs none.
LONGEST = tuple(
    f"tests/integration/test_{name}." for name in ("affinity_causes", "affinity_failures", "verify", "schedule", "schedule_job", "affinity_prediction")
)
ORDER_OF_WORKERS = (*LONGEST, "tests/integration/", *LAST, *WHOLE_CLUSTER, "tests/gates/", "tests/unit/")


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Repetitions and matrices, whose behaviour has one live proof that stays, are for `make test-full`: left out before the run, not skipped in it."""
    if os.environ.get("ISTIO_TESTS") != "full":
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_out(config, items)
    order = ORDER_OF_WORKERS if hasattr(config, "workerinput") else ORDER

    def place(item: pytest.Item) -> int:
        return max((len(prefix), number) for number, prefix in enumerate(("", *order)) if item.nodeid.startswith(prefix))[1]

    items.sort(key=place)


# What depends on no other test of its file; soundness at full length is hours, which two workers share.
ALONE = ("tests/gates/", *(("tests/integration/test_affinity_soundness.py",) if "ISTIO_SOUNDNESS_CHECKS" in os.environ else ()))


class Groups(LoadScopeScheduling):
    """What one worker does in one go: a file, or all files with tests that need the whole cluster. A gate is its own group."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(ALONE):
            return nodeid
        return "the whole cluster" if nodeid.startswith(LAST) else nodeid.split("::", maxsplit=1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Not by pytest-xdist's marks (--dist loadgroup), which release 3.8 loses with pytest 9.2."""
    config.option.loadscopereorder = False  # the order above, not the largest group first
    return Groups(config, log)


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

FIXTURE = "seconds of fixture "

_of_test: dict[str, float] = defaultdict(float)
_of_fixture: dict[str, float] = {}
_waited: list[float] = [0.0]
_running: list[pytest.Item] = []
_inner: list[float] = [0.0]
# Figures that tests report by record_property, for whoever writes them down.
_figures: list[tuple[str, object]] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    _running[:] = [item]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Paid by whichever test comes first, a session's fixture is told apart from it; the test's report brings it to the main process."""
    if fixturedef.scope != "session" or not _running:
        return (yield)
    start = time.monotonic()
    _inner.append(0.0)
    try:
        return (yield)
    finally:
        whole = time.monotonic() - start
        _running[0].user_properties.append((FIXTURE + fixturedef.argname, whole - _inner.pop()))
        _inner[-1] += whole


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _of_test[report.nodeid] += report.duration
    if report.when == "call":
        _figures.extend((report.nodeid, value) for name, value in report.user_properties if name != WAITED and not name.startswith(FIXTURE))
    if report.when == "setup":
        for name, seconds in report.user_properties:
            if name == WAITED:
                _waited[0] += seconds
            if name.startswith(FIXTURE):
                _of_fixture[name.removeprefix(FIXTURE)] = max(seconds, _of_fixture.get(name.removeprefix(FIXTURE), 0))
                _of_test[report.nodeid] -= seconds


def _rows() -> list[tuple[str, float]]:
    """Set-up steps, every gate, and the other tests by file, in the order they ran."""
    rows = []
    steps = os.environ.get("ISTIO_STEP_TIMES")
    if steps:
        rows += [(name, float(seconds)) for name, seconds in (line.split("\t") for line in Path(steps).read_text().splitlines())]
    rows += [(f"set-up: fixture {name}", seconds) for name, seconds in _of_fixture.items() if seconds >= 1]
    rows += [("waiting for the other worker", _waited[0])] if _waited[0] >= 1 else []
    groups: dict[str, list[float]] = defaultdict(list)
    for nodeid, seconds in _of_test.items():
        group = nodeid.split("[")[0] if nodeid.startswith("tests/gates/") else "tests/unit" if nodeid.startswith("tests/unit/") else nodeid.split("::")[0]
        groups[group].append(seconds)
    return rows + [(group if len(times) == 1 else f"{group} ({len(times)} tests)", sum(times)) for group, times in groups.items() if group]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _of_test:
        return
    if _figures:
        terminalreporter.write_sep("=", "what was counted")
    for nodeid, value in _figures:
        terminalreporter.write_line(f"{nodeid.rpartition('::')[2]}: {value}")
    terminalreporter.write_sep("=", "what took how long")
    rows = _rows()
    workers = getattr(terminalreporter.config.option, "numprocesses", None) or 1
    for name, seconds in (*rows, (f"all together, on {workers} workers" if workers > 1 else "all together", sum(row[1] for row in rows))):
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
