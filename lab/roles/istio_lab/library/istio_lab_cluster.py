# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Joins the lab's running nodes to a cluster, and waits until everything on it runs."""

from __future__ import annotations

import calendar
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.istio_lab import NODES, LabError, Layout, Step, node_process, wait_until

DOCUMENTATION = r"""
module: istio_lab_cluster
short_description: The embedded lab's cluster
options:
  cache: {description: The lab's folder., type: path, required: true}
  nodes: {description: Names of the nodes to join., type: list, elements: str, required: true}
  tools: {description: Path of the part with the programs., type: path, required: true}
  helm: {description: Path of the part with Helm 4., type: path, required: true}
  content: {description: Hash of the content of the nodes., type: str, required: true}
  api_port: {description: The API's port on the loopback address., type: int, required: true}
  settle: {description: Whether to wait for the pods of all namespaces too., type: bool, required: true}
  timeout: {description: Seconds to wait for the API to answer., type: int, default: 120}
"""

POD_SECONDS = 120


class DoesNotComeBackError(LabError):
    """The cluster exists and does not run: recreating it may help."""


class Cluster:
    def __init__(self, layout: Layout, tools: Path, step: Step) -> None:
        self.layout, self.step, self.kubectl = layout, step, tools / "bin" / "kubectl"
        # Ignore the user's own kubectl settings.
        self.environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(layout.lab), "KUBECONFIG": str(layout.kubeconfig)}

    def call(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [str(self.kubectl), "--kubeconfig", str(self.layout.kubeconfig), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and check:
            self.step.say(done.stderr)
            raise self.step.failure(f"kubectl {arguments[0]} failed")
        return done.stdout if not done.returncode else ""

    def items(self, kind: str) -> list[dict[str, Any]] | None:
        """All objects of a kind; None while the API does not respond."""
        answer = self.call("get", kind, "--all-namespaces", "--output=json", "--request-timeout=5s", check=False)
        return json.loads(answer)["items"] if answer else None

    def ready(self) -> bool:
        return self.call("get", "--raw=/readyz", "--request-timeout=5s", check=False) == "ok"

    def inside(self, node: str, command: list[str], what: str) -> None:
        process = node_process(self.layout, node)
        if not process:
            raise LabError(f"{node} does not run")
        entry = ["nsenter", "-t", str(int(process["pid"])), "--all", "--root", "--wd"]
        clean = ["/usr/bin/env", "-i", "PATH=/istio-lab/tools/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        self.step.run([*entry, *clean, *command], what)

    def write_kubeconfig(self, port: int) -> None:
        admin = (self.layout.root("node-1") / "etc/kubernetes/admin.conf").read_text()
        admin = admin.replace("kubernetes-admin@istio-lab", "istio-lab").replace("10.89.0.11:6443", f"127.0.0.1:{port}")
        partial = self.layout.kubeconfig.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(admin)
        partial.rename(self.layout.kubeconfig)


def seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def condition(thing: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((item for item in thing["status"].get("conditions", []) if item["type"] == kind), {})


def pod_is_back(pod: dict[str, Any], started: float) -> bool:
    """Whether a pod became ready after its node started: the API also returns the status from before that."""
    statuses = pod["status"].get("containerStatuses", [])
    runs = [status["state"]["running"]["startedAt"] for status in statuses if "running" in status["state"]]
    fresh = len(runs) == len(pod["spec"]["containers"]) and all(seconds(at) >= int(started) for at in runs)
    return fresh and condition(pod, "Ready").get("status") == "True"


def missing(cluster: Cluster, nodes: list[str], everything: bool) -> list[str] | None:
    """The nodes and pods that do not run yet; None while the API does not respond."""
    started = {name: (node_process(cluster.layout, name) or {"at": time.time()})["at"] for name in nodes}
    members, pods = cluster.items("nodes"), cluster.items("pods")
    if members is None or pods is None:
        return None
    waiting = []
    for name in nodes:
        member = next((item for item in members if item["metadata"]["name"] == name), None)
        state = condition(member, "Ready") if member else {}
        if state.get("status") != "True" or seconds(state["lastHeartbeatTime"]) < int(started[name]):
            waiting.append(f"node {name}")
    if not any(pod["metadata"]["labels"].get("k8s-app") == "kube-dns" for pod in pods if "labels" in pod["metadata"]):
        waiting.append("cluster DNS")
    for pod in pods:
        meta = pod["metadata"]
        node = pod["spec"].get("nodeName")
        counts = everything or meta["namespace"] == "kube-system"
        if not counts or "deletionTimestamp" in meta or pod["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        if node not in started or not pod_is_back(pod, started[node]):
            waiting.append(f"pod {meta['namespace']}/{meta['name']}")
    return waiting


def wait_for(cluster: Cluster, nodes: list[str], everything: bool, timeout: float) -> list[str]:
    """Waits for nodes and pods; returns the pods outside kube-system that did not come back in time."""
    last: list[str] | None = ["the API server"]

    def nothing_missing() -> bool:
        nonlocal last
        now = missing(cluster, nodes, everything)
        if now is not None and now != last:
            last = now
            more = f" and {len(now) - 4} more" if len(now) > 4 else ""
            cluster.step.say(f"waiting for {', '.join(now[:4])}{more}" if now else "everything runs")
        return now == []

    if wait_until(nothing_missing, timeout, 0.5):
        return []
    late = last or []
    if everything and all(item.startswith("pod ") and not item.startswith("pod kube-system/") for item in late):
        return late
    raise DoesNotComeBackError(str(cluster.step.failure(f"After {timeout:.0f} s these do not run: {', '.join(late)}")))


def remove_members(cluster: Cluster, surplus: list[str]) -> None:
    for name in surplus:
        cluster.step.say(f"taking {name} out of the cluster")
        if node_process(cluster.layout, name) and cluster.layout.stamp(name).exists():
            cluster.call("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--disable-eviction", "--timeout=60s", check=False)
        cluster.call("delete", "node", name, "--ignore-not-found")
        for pod in cluster.items("pods") or []:
            if pod["spec"].get("nodeName") == name:
                meta = pod["metadata"]
                cluster.call("delete", "pod", meta["name"], "-n", meta["namespace"], "--force", "--grace-period=0", "--ignore-not-found")


def join(cluster: Cluster, name: str) -> None:
    # Through a file in the node, not through the log.
    cluster.inside("node-1", ["sh", "-c", "umask 077; kubeadm token create --ttl 10m >/istio-lab/token"], "Making a token")
    secret = cluster.layout.root("node-1") / "istio-lab/token"
    token = secret.read_text().strip()
    secret.unlink()
    settings = cluster.layout.root(name) / "istio-lab/kubeadm-join.conf"
    settings.write_text(settings.read_text().replace("@TOKEN@", token))
    cluster.inside(name, ["kubeadm", "join", "--config", "/istio-lab/kubeadm-join.conf", "--skip-phases=preflight"], f"Joining {name}")


def write_stamp(layout: Layout, name: str, content: str) -> None:
    stamp = layout.stamp(name)
    partial = stamp.with_suffix(".partial")
    partial.write_text(json.dumps({"content": content, "at": time.time()}))
    partial.rename(stamp)


def converge(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    layout = Layout(Path(options["cache"]))
    nodes: list[str] = options["nodes"]
    fresh = [name for name in nodes if not layout.stamp(name).exists()]
    step = Step(layout, "cluster")
    cluster = Cluster(layout, Path(options["tools"]), step)
    changed = False

    if "node-1" in fresh:
        cluster.inside("node-1", ["/istio-lab/kubeadm-init.sh"], "Making the cluster")
    before = layout.kubeconfig.read_text() if layout.kubeconfig.exists() else None
    cluster.write_kubeconfig(options["api_port"])
    for link, target in ((layout.lab / "bin", Path(options["tools"], "bin")), (layout.lab / "helm4", Path(options["helm"], "bin"))):
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            changed = True
    changed = changed or layout.kubeconfig.read_text() != before
    step.say("waiting for the API server")
    if not wait_until(cluster.ready, options["timeout"], 0.2):
        raise DoesNotComeBackError(str(step.failure(f"The API server does not respond to /readyz after {options['timeout']} s")))
    if "node-1" in fresh:
        write_stamp(layout, "node-1", options["content"])

    members = [item["metadata"]["name"] for item in cluster.items("nodes") or []]
    surplus = [name for name in members if name not in nodes]
    remove_members(cluster, surplus)
    for name in nodes:
        if name in fresh and name != "node-1":
            if name in members:
                remove_members(cluster, [name])
            join(cluster, name)
            write_stamp(layout, name, options["content"])

    late = wait_for(cluster, nodes, options["settle"], POD_SECONDS)
    return {"changed": bool(changed or fresh or surplus), "late": late}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cache": {"type": "path", "required": True},
            "nodes": {"type": "list", "elements": "str", "required": True, "choices": list(NODES)},
            "tools": {"type": "path", "required": True},
            "helm": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "api_port": {"type": "int", "required": True},
            "settle": {"type": "bool", "required": True},
            "timeout": {"type": "int", "default": 120},
        }
    )
    try:
        result = converge(module)
    except (LabError, OSError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=str(error), does_not_come_back=isinstance(error, DoesNotComeBackError))
    for item in result["late"]:
        module.warn(f"{item} did not come back within {POD_SECONDS} s")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
