# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long istio_affinity_info takes for a hundred services and rules over ten small workloads (`make bench`).

Each time in a process of its own, from its start to its end, as Ansible runs a module; the goal is under 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE, SERVICES, WORKLOADS, TIMES, GOAL = "bench-info", 100, 10, 5, 3.0
IMAGE = "docker.io/curlimages/curl:8.16.0"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("kubeconfig", type=Path)
    given = options.parse_args()
    kubectl = [str(given.kubeconfig.parent / "bin/kubectl"), "--kubeconfig", str(given.kubeconfig), "--namespace", NAMESPACE]
    try:
        make(kubectl)
        seconds = [timed(given.kubeconfig) for _time in range(TIMES)]
    finally:
        subprocess.run([*kubectl, "delete", "namespace", NAMESPACE, "--wait=false"], check=True, capture_output=True)
    print(f"info of {SERVICES} services: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s of {TIMES} (goal {GOAL:.0f})")


def make(kubectl: list[str]) -> None:
    subprocess.run([*kubectl, "create", "namespace", NAMESPACE], check=True, capture_output=True)
    subprocess.run([*kubectl, "label", "namespace", NAMESPACE, "istio-injection=enabled"], check=True, capture_output=True)
    items = [workload(number) for number in range(WORKLOADS)] + [client()] + [part for number in range(SERVICES) for part in service(number)]
    subprocess.run(
        [*kubectl, "apply", "-f", "-"], input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode(), check=True, capture_output=True
    )
    subprocess.run([*kubectl, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=180s"], check=True, capture_output=True)


def container() -> dict[str, Any]:
    return {"terminationGracePeriodSeconds": 0, "containers": [{"name": "curl", "image": IMAGE, "command": ["sleep", "infinity"]}]}


def workload(number: int) -> dict[str, Any]:
    meta = {"name": f"workload-{number}", "labels": {"app": f"workload-{number}", "sidecar.istio.io/inject": "false"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": container()}


def client() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "labels": {"meshops.istio/probe": "true"}}, "spec": container()}


def service(number: int) -> list[dict[str, Any]]:
    name = f"service-{number}"
    spec = {"selector": {"app": f"workload-{number % WORKLOADS}"}, "ports": [{"name": "http", "port": 80}]}
    rule = {"host": name, "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}}}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name}, "spec": rule},
    ]


def timed(kubeconfig: Path) -> float:
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(look, (kubeconfig,))
    seconds = time.monotonic() - start
    if found != SERVICES:
        sys.exit(f"{found} of {SERVICES} services found to stick")
    return seconds


def look(kubeconfig: Path) -> int:
    # Here and not above, as the new process is to pay for it.
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415 - see above

    init_plugin_loader([str(ROOT / "collections")])
    sys.path.insert(0, str(ROOT / "tests"))
    from inprocess import run_info  # noqa: PLC0415 - see above

    return sum(entry["static_verdict"] == "sticks" for entry in run_info(kubeconfig, namespace=NAMESPACE))


if __name__ == "__main__":
    main()
