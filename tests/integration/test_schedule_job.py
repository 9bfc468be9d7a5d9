# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CronJob of istio_schedule for real: Kubernetes runs verify inside the lab by the shipped account; red, then mended, then green."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from affinity_support import Mesh
from job_support import job_image
from lab_support import LAB
from machine_support import wait_for
from verify_support import FILES, service_objects

from harness import WORKER

if TYPE_CHECKING:
    from integration.conftest import Ansible, Kubectl

SCHEDULE = "meshops.istio.schedule"
SHIPPED = "meshops-istio-verify"
# Each worker has a namespace and cluster roles of its own, which are the shipped ones but for the name.
PLACE = f"{SHIPPED}{WORKER and '-'}{WORKER}"
PROBES = f"{PLACE}-probes"
NAME = "istio-affinity-verify"
BROKEN = "checkout"
SERVICES = {"basket": "user-session", "catalogue": "user-session", BROKEN: "user-sesion"}
# Nobody listens there, so every failure of a run tries it in vain.
CANARY = "not-for-anybody"
WEBHOOK = f"http://127.0.0.1:9/{CANARY}"
KINDS = "cronjobs,jobs,pods,secrets,configmaps,persistentvolumeclaims"


@dataclass
class Inside:
    """A cluster that verifies itself: the sample with three services that stick, one of them by a mistyped header, and the role's CronJob."""

    mesh: Mesh
    ansible: Ansible
    kubectl: Kubectl
    variables: dict[str, Any]
    volume: Path

    def play(self, *words: str, check: bool = False, **more: Any) -> int:
        """Run the role; how many tasks changed something. No output shows the webhook, not even as the Secret has it."""
        played = self.ansible(SCHEDULE, extra_vars=self.variables | more, arguments=("--diff", *words), check=check).expect()
        config = json.dumps({"on_failure_webhook": WEBHOOK})[1:-1]
        assert not [
            text for text in (CANARY, *(base64.b64encode((" " * shift + config).encode()).decode()[4:-8] for shift in range(3))) if text in played.stdout
        ]
        return played.stats["lab"]["changed"]

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("-n", PLACE, "get", *words, "-o", "json").stdout)

    def ended(self, job: str) -> str:
        """Complete or Failed, once it is."""

        def states() -> list[str]:
            conditions = self.get("job", job)["status"].get("conditions", [])
            return [one["type"] for one in conditions if one["type"] in ("Complete", "Failed") and one["status"] == "True"]

        # kubectl watches until there is a condition at all, which is for minutes; the last one comes a moment later.
        self.kubectl("-n", PLACE, "wait", f"job/{job}", "--for=jsonpath={.status.conditions}", "--timeout=400s", timeout=420)
        wait_for(f"The end of job {job}", lambda: bool(states()), 100)
        return states()[0]

    def log(self, job: str) -> str:
        return self.kubectl("-n", PLACE, "logs", f"job/{job}").stdout

    def report(self) -> dict[str, Any]:
        """The latest one on the volume."""
        found: dict[str, Any] = json.loads((self.volume / "reports/lab/latest/report.json").read_text())
        return found


@pytest.fixture(scope="module")
def place(kubectl: Kubectl) -> Iterator[None]:
    """The shipped namespace, account and probe pod, as docs/compliance.md has them applied."""
    manifests = "---\n".join(
        path.read_text().replace(SHIPPED, PLACE) for folder in ("rbac", "rbac-configmap", "probe") for path in sorted((FILES / folder).iterdir())
    )
    kubectl("delete", "namespace", PLACE, PROBES, "--ignore-not-found", "--timeout=120s")
    kubectl("apply", "-f", "-", stdin=manifests)
    kubectl("-n", PROBES, "rollout", "status", "statefulset/meshops-istio-probe", "--timeout=120s")
    yield
    kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=manifests)


@pytest.fixture(scope="module")
def volume(kubectl: Kubectl) -> Iterator[Path]:
    """A volume on the node for the claim that the role makes, as nothing in the lab provides one; where this machine sees it."""
    folder = LAB / "nodes/node-1/root/var/lib" / PLACE
    folder.mkdir(exist_ok=True)
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": PLACE},
        "spec": {
            "capacity": {"storage": "64Mi"},
            "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": PLACE, "name": "reports"},
            "local": {"path": f"/var/lib/{PLACE}"},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]}]}
            },
        },
    }
    kubectl("delete", "persistentvolume", PLACE, "--ignore-not-found")
    kubectl("apply", "-f", "-", stdin=json.dumps(wanted))
    yield folder
    kubectl("delete", "persistentvolume", PLACE, "--ignore-not-found", "--wait=false")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


@pytest.fixture
def inside(artifact: Path, mesh: Mesh, ansible: Ansible, kubectl: Kubectl, place: None, volume: Path) -> Iterator[Inside]:
    mesh.apply(*(item for name, header in SERVICES.items() for item in service_objects(name, header)))
    for name in SERVICES:
        words = (f"meshops.istio/probe=/job/{name}", "meshops.istio/probe-key=header:user-session")
        kubectl("-n", mesh.namespace, "annotate", "service", name, *words)
    variables = {
        "istio_schedule_kind": "kubernetes",
        "istio_schedule_namespace": PLACE,
        "istio_schedule_service_account": PLACE,
        "istio_schedule_image": job_image(artifact),
        "istio_schedule_cron": "* * * * *",
        "istio_schedule_claim": "reports",
        "istio_schedule_claim_size": "16Mi",
        "istio_schedule_image_pull_secrets": ["none"],
        "istio_schedule_on_failure_webhook": WEBHOOK,
        "istio_schedule_variables": {
            "istio_affinity_namespaces": [mesh.namespace],
            "istio_affinity_client": {"namespace": PROBES, "pod": "meshops-istio-probe-0"},
            "istio_affinity_sink_configmap": {"namespace": PLACE, "name": PLACE},
            "istio_affinity_profile": "quick",
            "istio_affinity_rate": 200,
        },
    }
    yield Inside(mesh, ansible, kubectl, variables, volume)
    kubectl("-n", mesh.namespace, "delete", "services,destinationrules", *SERVICES, "--ignore-not-found")


def _statuses(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {service["service"]: (service["verdict"], service["status"]) for service in report["services"]}


def test_a_broken_service_fails_its_job_and_the_mend_is_green(inside: Inside) -> None:
    """Three services ask for affinity and opted in. The schedule's own run finds the broken one; its report has the fix; the next run is green."""
    predicted = inside.play(check=True)
    inside.kubectl("-n", PLACE, "get", "cronjob", NAME, codes=(1,))
    assert inside.play("-vvv") == predicted > 0
    inside.kubectl("-n", PLACE, "wait", f"cronjob/{NAME}", "--for=jsonpath={.status.lastScheduleTime}", "--timeout=150s")
    # One is enough; the next is started by hand. What somebody changed meanwhile is put right, and nothing else is touched.
    inside.kubectl("-n", PLACE, "patch", "secret", NAME, "--type=merge", '--patch={"data": {"more": "e30="}}')
    inside.kubectl("-n", PLACE, "patch", "cronjob", NAME, "--type=merge", '--patch={"spec": {"concurrencyPolicy": "Allow"}}')
    assert inside.play(istio_schedule_suspend=True) == 2
    (first,) = [job["metadata"]["name"] for job in inside.get("jobs")["items"]]
    assert inside.ended(first) == "Failed", inside.log(first)
    _is_as_promised(inside, first)

    report = inside.report()
    good = ("passed", "green")
    others = {"basket": good, "catalogue": good, "nginx-service": ("sticks", "green")}
    assert _statuses(report) == others | {BROKEN: ("failed", "red")}
    log = inside.log(first).strip().splitlines()
    (printed,) = [line for line in log if line.startswith("report of lab: ")]
    assert json.loads(printed.removeprefix("report of lab: ")) == report
    # Session IDs are hashed there, because more people can read logs than volumes.
    assert report["settings"]["hash_session_ids"]
    outcomes = [json.loads(line) for line in (inside.volume / "run.log").read_text().splitlines()]
    of_run = [(line.get("cluster"), line.get("outcome"), line.get("status")) for line in outcomes if "sink" not in line]
    assert of_run == [("lab", "broken", None), (None, None, 2)]
    assert [(line["sink"], line["outcome"]) for line in outcomes if "sink" in line] == [("configmap", "sent")]
    assert _kept(inside)["status"] == "red"

    (service,) = [one for one in report["services"] if one["service"] == BROKEN]
    inside.mesh.cure(service["live"]["findings"][0]["fix"])
    inside.mesh.wait_for("proxy.in_sync")
    inside.kubectl("-n", PLACE, "create", "job", "by-hand", f"--from=cronjob/{NAME}")
    assert inside.ended("by-hand") == "Complete", inside.log("by-hand")
    assert _statuses(inside.report()) == others | {BROKEN: good}
    assert _kept(inside)["status"] == "green"
    assert len(list((inside.volume / "reports/lab").glob("*/report.json"))) >= 2

    # Gone with all that it made; the reports stay until they are told to go too.
    inside.play("-vvv", istio_schedule_state="absent")
    assert _left(inside) == {"persistentvolumeclaim/reports"}
    assert inside.report()["services"]
    inside.play(istio_schedule_state="absent", istio_schedule_purge=True)
    assert _left(inside) == set()


def _is_as_promised(inside: Inside, job: str) -> None:
    """What the documentation says of CronJob, Job and Pod."""
    spec = inside.get("cronjob", NAME)["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert (spec["startingDeadlineSeconds"], spec["successfulJobsHistoryLimit"], spec["failedJobsHistoryLimit"]) == (600, 3, 10)
    made = inside.get("job", job)
    assert (made["spec"]["backoffLimit"], made["spec"]["activeDeadlineSeconds"]) == (0, 3180)
    (pod,) = inside.get("pods", "-l", f"job-name={job}")["items"]
    assert [container["name"] for container in pod["spec"]["containers"]] == ["verify"]
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 2, inside.log(job)
    assert pod["spec"]["serviceAccountName"] == PLACE
    # The API server takes this Pod, and would not take one that asks for more.
    more = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "by-hand", "namespace": PLACE}, "spec": spec["jobTemplate"]["spec"]["template"]["spec"]}
    more["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = inside.kubectl("apply", "--dry-run=server", "--filename=-", stdin=json.dumps(more), codes=(1,))
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_needs_an_account_and_a_claim(ansible: Ansible, kubectl: Kubectl, place: None) -> None:
    variables = {"istio_schedule_kind": "kubernetes", "istio_schedule_namespace": PLACE, "istio_schedule_image": "x", "istio_schedule_claim": "none"}
    stopped = ansible(SCHEDULE, extra_vars=variables | {"istio_schedule_service_account": "nobody"}).expect(2)
    said = stopped.named("Stop if the CronJob's namespace, service account or claim is missing").result["msg"]
    assert f"there is no ServiceAccount {PLACE}/nobody and no PersistentVolumeClaim {PLACE}/none (set istio_schedule_claim_size to create it)" in said
    assert stopped.stats["lab"]["changed"] == 0
    assert not kubectl("-n", PLACE, "get", "cronjobs", "--output=name").stdout


@pytest.mark.full
def test_needs_an_image_and_its_kind(ansible: Ansible, kubectl: Kubectl, place: None) -> None:
    variables = {"istio_schedule_kind": "kubernetes", "istio_schedule_namespace": PLACE, "istio_schedule_image": ""}
    stopped = ansible(SCHEDULE, extra_vars=variables).expect(2)
    assert "istio_schedule_image is empty" in re.sub(r"\s+", " ", stopped.stdout)
    # Nowhere else, and by nothing but that kind.
    assert ansible(SCHEDULE).expect().stats.get("lab", {}).get("changed", 0) == 0
    assert not kubectl("-n", PLACE, "get", "cronjobs", "--output=name").stdout


def _kept(inside: Inside) -> dict[str, Any]:
    """What the ConfigMap says of the latest run."""
    kept: dict[str, Any] = json.loads(inside.get("configmap", PLACE)["data"]["outcome.json"])
    return kept


def _left(inside: Inside) -> set[str]:
    """What is in the namespace besides what the role has no part in: verify's own ConfigMap, and what Kubernetes and Istio put everywhere."""
    others = {f"configmap/{PLACE}", "configmap/kube-root-ca.crt"}

    def names() -> set[str]:
        found = inside.kubectl("-n", PLACE, "get", KINDS, "-o", "name").stdout.split()
        return {name for name in found if name not in others and not name.startswith("configmap/istio-ca-")}

    # Jobs and pods go after the CronJob that owns them.
    wait_for("The end of jobs and pods", lambda: not [name for name in names() if name.startswith(("job", "pod"))])
    return names()
