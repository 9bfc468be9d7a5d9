# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live lab, and Ansible run on it from the built artifact, never from the working tree."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import re
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from affinity_support import NAMESPACE, Mesh
from warm_python import warm_python

from harness import BIN, LAB_CACHE, ROOT, WAITED, WHOLE_CLUSTER, WORKER, Ran, clean_environment, locked, run

INVENTORY = ROOT / "inventory/lab.yml"
CALLBACKS = Path(__file__).parent / "callback_plugins"

# What every play of the collection sets, for tasks that a test brings along.
PLAY: dict[str, Any] = {
    "hosts": "all",
    "connection": "local",
    "gather_facts": False,
    "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
    "module_defaults": {
        group: {"kubeconfig": "{{ istio_cluster_kubeconfig }}", "context": "{{ istio_cluster_context }}"}
        for group in ("group/kubernetes.core.k8s", "group/kubernetes.core.helm", "group/meshops.istio.istio")
    },
}


@dataclass(frozen=True)
class Task:
    """What became of one task on one host; status is ok, failed, ignored (a failure that was allowed), skipped or unreachable."""

    host: str
    name: str
    action: str
    status: str
    result: dict[str, Any]

    @property
    def changed(self) -> bool:
        return bool(self.result.get("changed"))


@dataclass(frozen=True)
class Played:
    """An ansible-playbook run that has ended."""

    ran: Ran
    tasks: tuple[Task, ...]
    stats: dict[str, dict[str, int]]

    @property
    def rc(self) -> int:
        return self.ran.rc

    @property
    def stdout(self) -> str:
        return self.ran.stdout

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the tasks that changed something."""
        return tuple(task.name for task in self.tasks if task.changed)

    def of(self, action: str) -> Task:
        """The only task of this module (by its full name)."""
        found = [task for task in self.tasks if task.action == action]
        if len(found) != 1:
            pytest.fail(f"{len(found)} tasks of {action}, not one\n{self}", pytrace=False)
        return found[0]

    def named(self, name: str) -> Task:
        """The only task whose name is or ends with this (roles put theirs before it)."""
        found = [task for task in self.tasks if task.name == name or task.name.endswith(f": {name}")]
        if len(found) != 1:
            pytest.fail(f"{len(found)} tasks named {name!r}, not one\n{self}", pytrace=False)
        return found[0]

    def expect(self, *codes: int) -> Played:
        """Fail the test, showing the whole run, unless it ended with one of these codes (0 if none is given)."""
        self.ran.expect(*codes)
        return self

    def __str__(self) -> str:
        return str(self.ran)


Ansible = Callable[..., Played]
Kubectl = Callable[..., Ran]


# -- turns --

# This worker's hold on the lab.
_hold = contextlib.ExitStack()
_held: list[bool] = []


def _alone(item: pytest.Item | None) -> bool | None:
    """Whether it needs the lab for itself; None for what does not need the lab."""
    if item is None or not item.nodeid.startswith("tests/integration/"):
        return None
    return item.nodeid.startswith(WHOLE_CLUSTER)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Tests in namespaces of their own run beside each other; those that alter Istio or the lab run alone.

    A worker keeps its turn until it comes to tests of the other kind: what it made for several tests would not live through another's alteration between
    two of them. It is taken before fixtures of any scope are made, and before the test's timeout begins.
    """
    alone = _alone(item)
    if alone is not None and not _held:
        start = time.monotonic()
        _hold.enter_context(locked("tests", shared=not alone))
        _held.append(alone)
        item.user_properties.append((WAITED, time.monotonic() - start))
    try:
        return (yield)
    finally:
        if _held and _alone(nextitem) != alone:
            _held.clear()
            _hold.close()


# -- nothing is left behind --

LASTING = (
    "namespaces,persistentvolumes,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,customresourcedefinitions"
)
# What site.yml installs, which stays.
OF_SITE = re.compile(
    r"Namespace (istio-system|sample)|Release istio-system/(istio-base|istiod)|(?!Namespace|Release|PersistentVolume )\w+ (istio|\S+\.istio\.io$).*"
)
_before: list[set[str]] = []
_left: list[str] = []


def _lasting() -> set[str]:
    """Everything that outlives a test unless the test removes it, and is not on its way out, by kind and name."""
    kubectl = (LAB_CACHE / "lab/bin/kubectl", "--kubeconfig", LAB_CACHE / "lab/kubeconfig", "get")
    shape = '{range .items[*]}{.kind} {.metadata.name} {.metadata.deletionTimestamp}{"\\n"}{end}'
    names = {line.strip() for line in run(*kubectl, LASTING, f"--output=jsonpath={shape}").stdout.splitlines() if len(line.split()) == 2}
    shape = '{range .items[*]}{.metadata.namespace}/{.metadata.labels.name}{"\\n"}{end}'
    releases = run(*kubectl, "secrets", "--all-namespaces", "--selector=owner=helm", f"--output=jsonpath={shape}").stdout.split()
    return names | {f"Release {release}" for release in releases if f"Namespace {release.split('/')[0]}" in names}


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and not run("python3", ROOT / ".ci/lab_kubeconfig.py", LAB_CACHE / "lab/kubeconfig").rc:
        _before.append(_lasting())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What is on the lab after the tests was there before them, or is of site.yml."""
    if _before and session.testscollected:
        _left[:] = sorted(name for name in _lasting() ^ _before[0] if not OF_SITE.fullmatch(name))
        if _left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left:
        terminalreporter.write_sep("=", "left on the lab, or removed from it", red=True)
        terminalreporter.write_line("\n".join(_left))


@pytest.fixture(scope="session")
def lab() -> Path:
    """The kubeconfig of the lab, which must be up: nothing is skipped without it."""
    kubeconfig = LAB_CACHE / "lab/kubeconfig"
    asked = run("python3", ROOT / ".ci/lab_kubeconfig.py", kubeconfig)
    if asked.rc:
        pytest.fail(f"{asked.stdout.strip()}. `make lab` starts it.", pytrace=False)
    return kubeconfig


@pytest.fixture(scope="session")
def installed_collection(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collections path into which the built artifact was installed; kubernetes.core comes from .venv."""
    target = tmp_path_factory.mktemp("collections")
    install = (BIN / "ansible-galaxy", "collection", "install", "--offline", "--no-deps", "--collections-path", target, artifact)
    run(*install, env=clean_environment(ANSIBLE_COLLECTIONS_PATH=str(target)), cwd=target).expect()
    return target


@pytest.fixture(scope="session")
def interpreter() -> Iterator[str]:
    """What modules run on: a Python that has its imports behind it, or with ISTIO_TESTS=full the plain one, as users have it."""
    if os.environ.get("ISTIO_TESTS") == "full":
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="istio-") as folder, warm_python(folder, env=clean_environment()) as program:
        yield program


@pytest.fixture(scope="session")
def ansible(lab: Path, installed_collection: Path, interpreter: str, tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """Run tasks, or a playbook by path or full name, on the lab inventory with the installed collection.

    ansible([{"meshops.istio.istio_affinity_check": {...}}], check=True)
    ansible("meshops.istio.site", extra_vars={"istio_sample_replicas": 1})
    ansible([{"ansible.builtin.include_role": {"name": "meshops.istio.istio_sample"}}])

    More words for ansible-playbook go into `arguments`, environment variables into `env`, another inventory into `inventory`.
    Modules run on the warm Python, unless the run is to be `plain`; what is set in the environment for kubernetes' client counts on the plain one only.
    """
    folder = tmp_path_factory.mktemp("plays")
    number = itertools.count(1)

    def play(
        what: str | Path | list[dict[str, Any]],
        *,
        extra_vars: dict[str, Any] | None = None,
        check: bool = False,
        arguments: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        inventory: str | Path = INVENTORY,
        plain: bool = False,
        timeout: float = 600,
    ) -> Played:
        here = folder / str(next(number))
        here.mkdir()
        if isinstance(what, list):
            playbook = here / "play.yml"
            playbook.write_text(yaml.safe_dump([PLAY | {"name": "Test", "tasks": what}], sort_keys=False))
            what = playbook
        words: list[str | Path] = ["--inventory", inventory, *arguments]
        if interpreter and not plain and all(name.startswith("ANSIBLE_") for name in env or {}):
            words += ["--extra-vars", f"ansible_python_interpreter={interpreter}"]
        if what == "meshops.istio.uninstall":
            extra_vars = {"confirm": "lab"} | (extra_vars or {})
        if extra_vars:
            (here / "vars.yml").write_text(yaml.safe_dump(extra_vars))
            words += ["--extra-vars", f"@{here / 'vars.yml'}"]
        if check:
            words.append("--check")
        record = here / "record"
        record.touch()
        settings = {
            "ANSIBLE_COLLECTIONS_PATH": str(installed_collection),
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "recorder",
            "ANSIBLE_HOME": str(folder / "home"),
            # As in the checkout's ansible.cfg.
            "ANSIBLE_PIPELINING": "1",
            "ISTIO_RECORD": str(record),
        }
        # Away from the checkout, so that neither its ansible.cfg nor its collections folder has a part in it.
        ran = run(BIN / "ansible-playbook", *words, what, cwd=here, env=clean_environment(**settings | (env or {})), timeout=timeout)
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        tasks = tuple(Task(line["host"], line["task"], line["action"], line["status"], line["result"]) for line in lines if "task" in line)
        stats: dict[str, dict[str, int]] = next((line["stats"] for line in lines if "stats" in line), {})
        return Played(ran, tasks, stats)

    return play


@pytest.fixture(scope="session")
def kubectl(lab: Path) -> Kubectl:
    """Run the lab's kubectl; fails the test if the exit code is not 0, or not among `codes` if given."""

    def call(*words: str, codes: tuple[int, ...] = (), timeout: float = 180, stdin: str = "") -> Ran:
        return run(LAB_CACHE / "lab/bin/kubectl", "--kubeconfig", lab, *words, timeout=timeout, stdin=stdin).expect(*codes)

    return call


@pytest.fixture(scope="session")
def sample(ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The run of site.yml that converged Istio and the sample, by whichever worker came first; a test that alters them puts them right again."""
    folder = tmp_path_factory.getbasetemp()
    kept = (folder.parent if "PYTEST_XDIST_TESTRUNUID" in os.environ else folder) / "site"
    with locked("tests-site"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(ansible("meshops.istio.site", timeout=900).expect()))
        played: Played = pickle.loads(kept.read_bytes())  # noqa: S301 - this run's own
    return played


@pytest.fixture(scope="session")
def mesh(ansible: Ansible, kubectl: Kubectl, lab: Path, sample: Played) -> Iterator[Mesh]:
    """A sample in a namespace of its own, for tests to look at; those that alter it ask for `broken`."""
    found = Mesh(NAMESPACE, ansible, kubectl, lab)
    found.make()
    yield found
    # At the end of this worker's tests the other one may have the lab for itself, and have taken it down.
    with contextlib.nullcontext() if _held else locked("tests", shared=True):
        kubectl("delete", "namespace", found.namespace, "--wait=false")


@pytest.fixture
def broken(mesh: Mesh) -> Iterator[Mesh]:
    """The same for tests that alter it: put right afterwards."""
    yield mesh
    mesh.converge()


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[Callable[..., str]]:
    """Make throw-away namespaces, deleted with all that is in them after the test: namespace(injection=False) is outside the mesh."""
    made: list[str] = []

    def make(*, injection: bool = True) -> str:
        name = f"test-{WORKER}{next(_namespaces)}"
        # Of a run that was killed, perhaps.
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s")
        kubectl("create", "namespace", name)
        made.append(name)
        if injection:
            kubectl("label", "namespace", name, "istio-injection=enabled")
        return name

    yield make
    for name in made:
        kubectl("delete", "namespace", name, "--wait=false")


_namespaces = itertools.count(1)
