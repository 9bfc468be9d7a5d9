# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that ask for affinity over the pods that are there, inventories of several clusters, and all that is on a cluster."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from affinity_support import KEY, Mesh

from harness import ROOT

if TYPE_CHECKING:
    from conftest import Ansible, Kubectl, Played

VERIFY = "meshops.istio.verify"
LAB = yaml.safe_load((ROOT / "inventory/lab.yml").read_text())["all"]["hosts"]["lab"]
FILES = ROOT / "roles/istio_affinity/files"
# No pause that the tests don't ask for; what is not said here is verify's default.
QUICKLY = {"istio_affinity_rate": 2000, "istio_affinity_profile": "quick"}

# What changes all the time by itself, and says nothing of who did something to the cluster: by kind, and by annotation.
EXCLUDED_KINDS = {
    "Event": "told by everybody about everything",
    "Lease": "heartbeats",
    "Node": "the kubelet's heartbeats",
    "PodMetrics": "measurements",
    "NodeMetrics": "measurements",
}
EXCLUDED_ANNOTATIONS = {
    "control-plane.alpha.kubernetes.io/leader": "istiod's heartbeat",
    "endpoints.kubernetes.io/last-change-trigger-time": "when a pod was last ready",
}


# The content of what was deleted and is still there.
ON_ITS_WAY_OUT = "on its way out"


def service_objects(name: str, header: str) -> list[dict[str, Any]]:
    """A Service over the sample's pods and the rule that makes it stick by this header."""
    consistent = {"consistentHash": {"httpHeaderName": header}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": "nginx"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": name},
            "spec": {"host": name, "trafficPolicy": {"loadBalancer": consistent}},
        },
    ]


def entry(mesh: Mesh, service: str, **more: Any) -> dict[str, Any]:
    """An item of istio_affinity_services, with a path that tells in nginx's log who sent it."""
    return {"namespace": mesh.namespace, "service": service, "key": KEY, "path": f"/verify/{service}"} | more


@dataclass
class Estate:
    """Runs of verify on clusters that all are the lab."""

    ansible: Ansible
    folder: Path

    def verify(self, hosts: dict[str, dict[str, Any]], *, check: bool = False, env: dict[str, str] | None = None, **variables: Any) -> Played:
        """One run; reports of all runs are in C(folder)."""
        everywhere = (
            QUICKLY | {"istio_affinity_services": [], "istio_affinity_report_dir": str(self.folder / "reports"), "istio_affinity_settle": 3} | variables
        )
        inventory = self.folder / "inventory.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {name: LAB | everywhere | more for name, more in hosts.items()}}}))
        return self.ansible(VERIFY, inventory=inventory, check=check, arguments=("--forks", "6"), env=env)

    def report(self, cluster: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "reports" / cluster / "latest/report.json").read_text())
        return found


def outcome(played: Played, host: str) -> dict[str, Any]:
    """What the role ended with on one host."""
    found = [task.result["ansible_facts"] for task in played.tasks if task.host == host and task.name.endswith("Collect the outcome")]
    assert len(found) == 1, f"{len(found)} outcomes of {host}\n{played}"
    result: dict[str, Any] = found[0]["istio_affinity_outcome"]
    return result


def judged(result: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Verdict and status by service."""
    return {service["service"]: (service["verdict"], service["status"]) for service in result["services"]}


def seconds(mesh: Mesh, path: str) -> list[int]:
    """How many requests each second had, by the application's own log, of those to paths that begin so."""
    found: dict[str, int] = {}
    for pod in mesh.pods():
        log = mesh.kubectl("-n", mesh.namespace, "logs", pod["metadata"]["name"], "-c", "nginx").stdout
        for line in log.splitlines():
            if f'"GET {path}' in line:
                found[line.split()[0]] = found.get(line.split()[0], 0) + 1
    return list(found.values())


def snapshot(kubectl: Kubectl, *namespaces: str) -> dict[str, Any]:
    """Labels, annotations, finalizers, owners, spec and data of all objects that have no namespace or are in one of
    these, but for what is excluded above."""
    kinds = [name for name in kubectl("api-resources", "--verbs=list", "--output=name").stdout.split() if not name.startswith(("events", "leases"))]
    listed = json.loads(kubectl("get", ",".join(kinds), "--all-namespaces", "--output=json").stdout)["items"]
    found = {}
    for item in listed:
        meta = item["metadata"]
        place = meta["name"] if item["kind"] == "Namespace" else meta.get("namespace", "")
        if item["kind"] == "IPAddress":
            place = item["spec"]["parentRef"].get("namespace", "")
        if item["kind"] in EXCLUDED_KINDS or (place and place not in namespaces):
            continue
        content = {name: value for name, value in item.items() if name not in ("metadata", "status")}
        kept = {name: meta.get(name) for name in ("labels", "finalizers", "ownerReferences")}
        annotations = {name: value for name, value in (meta.get("annotations") or {}).items() if name not in EXCLUDED_ANNOTATIONS}
        whole = content | kept | {"annotations": annotations}
        found[f"{item['kind']} {meta.get('namespace', '')}/{meta['name']}"] = ON_ITS_WAY_OUT if "deletionTimestamp" in meta else whole
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, but for the end of what was on its way out before."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [name for name in names if not (before.get(name) == ON_ITS_WAY_OUT and name not in after)]


def token_kubeconfig(kubectl: Kubectl, admin: Path, folder: Path, namespace: str, account: str) -> Path:
    """A kubeconfig with a service account's token and nothing else to log in with."""
    config = yaml.safe_load(admin.read_text())
    token = kubectl("-n", namespace, "create", "token", account, "--duration=1h").stdout.strip()
    for user in config["users"]:
        user["user"] = {"token": token}
    path = folder / f"{namespace}-{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
