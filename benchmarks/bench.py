# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ratios of our probe to three other ways of sending the same requests, measured side by side on one lab (`make bench`).

  seed   one `kubectl exec … curl` for each request, as the seed's README types it
  shell  a shell loop in one exec
  hey    the load generator hey, in the same pod, keep-alive off, as many in flight

The probe is the one of istio_affinity_check, with everything that it does to each answer. Every contestant sends from the
same pod to the same service, new connections only. What each sends stays inside the lab.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE, POD, CONTAINER, URL = "bench", "bench-client", "curl", "http://nginx-service/"
HEY = "/tmp/hey"  # noqa: S108 - the folder of that pod alone


@dataclass(frozen=True)
class Lap:
    """One contestant's run: requests that were answered, in how many seconds; peak memory in MB where it was looked at."""

    name: str
    answered: int
    seconds: float
    controller_mb: float | None = None
    pod_mb: float | None = None

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("kubeconfig", type=Path)
    options.add_argument("hey", type=Path, help="the hey binary")
    options.add_argument("--concurrency", type=int, default=50)
    options.add_argument("--million", action="store_true", help="also a million requests (half an hour)")
    given = options.parse_args()
    kubectl = [str(given.kubeconfig.parent / "bin/kubectl"), "--kubeconfig", str(given.kubeconfig), "--namespace", NAMESPACE]
    execute = [*kubectl, "exec", "-i", POD, "-c", CONTAINER, "--"]
    install(execute, given.hey)

    print(f"{given.concurrency} in flight, from {NAMESPACE}/{POD}")
    seed = timed("seed, one exec each", lambda: seeds_way(execute, 400))
    shell = timed("shell loop", lambda: shell_loop(execute, 10_000))
    small = ours(given.kubeconfig, 10_000, given.concurrency)
    large = ours(given.kubeconfig, 100_000, given.concurrency)
    hey = timed("hey", lambda: heys_way(execute, 100_000, given.concurrency))
    laps = [seed, shell, small, large, hey]
    rows = [("ours / seed", small.rate / seed.rate, 150), ("ours / shell loop", small.rate / shell.rate, 10), ("ours / hey", large.rate / hey.rate, 0.85)]
    if given.million:
        million = ours(given.kubeconfig, 1_000_000, given.concurrency)
        laps.append(million)
        rows.append(("a million / ten thousand", million.rate / small.rate, 0.8))
    print(f"\n{'':24}{'answered':>10}{'s':>9}{'per s':>9}{'controller MB':>15}{'pod MB':>9}")
    for lap in laps:
        print(f"{lap.name:24}{lap.answered:>10}{lap.seconds:>9.1f}{lap.rate:>9.0f}{_mb(lap.controller_mb):>15}{_mb(lap.pod_mb):>9}")
    print(f"\n{'ratio':24}{'measured':>10}{'goal':>9}")
    for name, ratio, goal in rows:
        print(f"{name:24}{ratio:>10.2f}{goal:>9}")


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def timed(name: str, contestant: Callable[[], int]) -> Lap:
    start = time.monotonic()
    answered = contestant()
    return Lap(name, answered, time.monotonic() - start)


def install(execute: list[str], hey: Path) -> None:
    subprocess.run([*execute, "sh", "-c", f"cat > {HEY} && chmod +x {HEY}"], input=hey.read_bytes(), check=True)


def seeds_way(execute: list[str], requests: int) -> int:
    command = [*execute, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "user-session: sid-1", URL]
    return sum(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout == b"200" for _request in range(requests))


def shell_loop(execute: list[str], requests: int) -> int:
    loop = f"i=0; while [ $i -lt {requests} ]; do i=$((i+1)); curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'user-session: sid-1' {URL}; done"
    return subprocess.run([*execute, "sh", "-c", loop], stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.count(b"200")


def heys_way(execute: list[str], requests: int, concurrency: int) -> int:
    command = [*execute, HEY, "-n", str(requests), "-c", str(concurrency), "-disable-keepalive", "-H", "user-session: sid-1", URL]
    shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.decode()
    return sum(int(line.split()[1]) for line in shown.splitlines() if line.strip().startswith("[200]"))


def ours(kubeconfig: Path, requests: int, concurrency: int) -> Lap:
    """In a process of its own, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result, seconds, controller = pool.apply(_ours, (kubeconfig, requests, concurrency))
    if result["verdict"] != "passed":
        sys.exit(result["msg"])
    return Lap(f"ours, {requests}", result["requests"]["answered"], seconds, controller, pod_memory(kubeconfig))


def _ours(kubeconfig: Path, requests: int, concurrency: int) -> tuple[dict[str, Any], float, float]:
    # Here and not above, so that the process that is measured is the only one that holds them.
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415 - see above

    init_plugin_loader([str(ROOT / "collections")])
    sys.path.insert(0, str(ROOT / "tests"))
    from inprocess import run_check  # noqa: PLC0415 - see above

    sessions = 100
    key = {"type": "header", "name": "user-session"}
    words = {"sessions": sessions, "requests": requests // sessions, "concurrency": concurrency, "timeout": 3600}
    start = time.monotonic()
    result = run_check(kubeconfig, namespace=NAMESPACE, service="nginx-service", client={"pod": POD}, key=key, **words)
    seconds = time.monotonic() - start
    return result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pod_memory(kubeconfig: Path) -> float | None:
    """The most memory that the client's container ever had, page cache included; None where its cgroup does not say."""
    execute = [str(kubeconfig.parent / "bin/kubectl"), "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE, "exec", POD, "-c", CONTAINER, "--"]
    for path in ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"):
        found = subprocess.run([*execute, "cat", path], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if found.returncode == 0:
            return int(found.stdout) / 1e6
    return None


if __name__ == "__main__":
    main()
