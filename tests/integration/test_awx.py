# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-runner, which runs AWX's jobs, runs verify.yml from a checkout as from an AWX project: exit status, events, artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness import BIN, ROOT, Ran, clean_environment, run

if TYPE_CHECKING:
    from affinity_support import Mesh


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder as AWX makes one for a job: the project is a clone, collections come from the image alone."""
    run("git", "-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks", ROOT, tmp_path / "project").expect()
    for folder in ("inventory", "env"):
        (tmp_path / folder).mkdir()
    return tmp_path


def _launch(job: Path, ident: str, kubeconfig: Path, **variables: Any) -> Ran:
    """As AWX launches: the kubeconfig by a credential that sets the environment, extra variables of template and survey."""
    (job / "inventory/hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"staging": {"istio_cluster_from_environment": True}}}}))
    (job / "env/extravars").write_text(json.dumps(variables))
    environment = clean_environment(K8S_AUTH_KUBECONFIG=str(kubeconfig), HOME=str(job), ANSIBLE_HOME=str(job / "home"))
    return run(BIN / "ansible-runner", "run", job, "--playbook=verify.yml", f"--ident={ident}", env=environment, cwd=job)


def _events(job: Path, ident: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (job / f"artifacts/{ident}/job_events").glob("*.json")]


def test_a_job_is_as_red_as_its_services(job: Path, mesh: Mesh, interpreter: str):
    survey = {question["variable"]: question["default"] for question in json.loads((ROOT / "docs/awx-survey.json").read_text())["spec"]}
    service = {"namespace": mesh.namespace, "service": "nginx-service", "key": {"type": "header", "name": "user-session"}}
    template = {"istio_affinity_namespaces": [mesh.namespace], "istio_affinity_services": [service]}
    quick = survey | {"istio_affinity_profile": "quick", "istio_affinity_rate": 200}

    seen = _launch(job, "green", mesh.kubeconfig, **template, **quick).expect(0)
    assert (job / "artifacts/green/rc").read_text() == "0"
    assert (job / "artifacts/green/status").read_text() == "successful"
    assert f"{mesh.namespace}/nginx-service" in seen.stdout
    # What AWX keeps as the job's artifacts.
    (stats,) = [event for event in _events(job, "green") if event["event"] == "playbook_on_stats"]
    kept = json.dumps(stats["event_data"]["artifact_data"])
    assert "staging" in kept
    assert "green" in kept

    # A header that no rule hashes on: the service is red, and so is the job.
    missed = [service | {"key": {"type": "header", "name": "x-mistyped"}}]
    warm = {"ansible_python_interpreter": interpreter} if interpreter else {}
    _launch(job, "red", mesh.kubeconfig, **template | {"istio_affinity_services": missed}, **quick, **warm).expect(2)
    assert (job / "artifacts/red/rc").read_text() == "2"
    assert (job / "artifacts/red/status").read_text() == "failed"
    failed = [event["event_data"] for event in _events(job, "red") if event["event"] == "runner_on_failed" and not event["event_data"].get("ignore_errors")]
    assert f"{mesh.namespace}/nginx-service" in failed[-1]["res"]["msg"]
