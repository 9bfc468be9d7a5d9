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
import contextlib
import multiprocessing
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SERVICE, CONTAINER = "nginx-service", "curl"
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


@dataclass(frozen=True)
class Course:
    """Where all contestants run: from one pod to one service."""

    kubeconfig: Path
    namespace: str
    client_namespace: str
    client: str
    concurrency: int

    @property
    def url(self) -> str:
        return f"http://{SERVICE}.{self.namespace}/"

    def execute(self, *command: str) -> list[str]:
        """The words that run a command in the client."""
        kubectl = [str(self.kubeconfig.parent / "bin/kubectl"), "--kubeconfig", str(self.kubeconfig), "--namespace", self.client_namespace]
        return [*kubectl, "exec", "-i", self.client, "-c", CONTAINER, "--", *command]

    def install(self, hey: Path) -> None:
        subprocess.run(self.execute("sh", "-c", f"cat > {HEY} && chmod +x {HEY}"), input=hey.read_bytes(), check=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("kubeconfig", type=Path)
    options.add_argument("hey", type=Path, help="the hey binary")
    options.add_argument("--namespace", default="bench", help="where the service is")
    options.add_argument("--client", default="bench/test-pod", help="the pod that sends, as namespace/name")
    options.add_argument("--concurrency", type=int, default=50)
    options.add_argument("--shorter", type=int, default=1, metavar="N", help="an Nth of the requests, for a machine that is busy otherwise")
    options.add_argument("--million", action="store_true", help="also a million requests (half an hour)")
    given = options.parse_args()
    course = Course(given.kubeconfig, given.namespace, *given.client.split("/"), given.concurrency)
    course.install(given.hey)

    print(f"{given.concurrency} in flight, from {given.client} to {course.url}", flush=True)
    few, some, many = (number // given.shorter for number in (400, 10_000, 100_000))
    # Before, between and after the others, as a machine is not equally quick all the time; the lap in the middle counts.
    smalls = [ours(course, some)]
    shell = timed("shell loop", lambda: shell_loop(course, some))
    smalls.append(ours(course, some))
    seed = timed("seed, one exec each", lambda: seeds_way(course, few))
    smalls.append(ours(course, some))
    small = sorted(smalls, key=lambda lap: lap.rate)[1]
    hey = timed("hey", lambda: heys_way(course, many))
    large = ours(course, many)
    laps = [seed, shell, small, large, hey]
    rows = [("ours / seed", small.rate / seed.rate, 150), ("ours / shell loop", small.rate / shell.rate, 10), ("ours / hey", large.rate / hey.rate, 0.85)]
    if given.million:
        million = ours(course, 1_000_000)
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
    return told(Lap(name, answered, time.monotonic() - start))


def told(lap: Lap) -> Lap:
    print(f"{lap.name}: {lap.answered} in {lap.seconds:.1f} s", flush=True)
    return lap


def seeds_way(course: Course, requests: int) -> int:
    command = course.execute("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "user-session: sid-1", course.url)
    return sum(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout == b"200" for _request in range(requests))


def shell_loop(course: Course, requests: int) -> int:
    loop = f"i=0; while [ $i -lt {requests} ]; do i=$((i+1)); curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'user-session: sid-1' {course.url}; done"
    return subprocess.run(course.execute("sh", "-c", loop), stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.count(b"200")


def heys_way(course: Course, requests: int) -> int:
    command = course.execute(HEY, "-n", str(requests), "-c", str(course.concurrency), "-disable-keepalive", "-H", "user-session: sid-1", course.url)
    shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.decode()
    return sum(int(line.split()[1]) for line in shown.splitlines() if line.strip().startswith("[200]"))


def ours(course: Course, requests: int) -> Lap:
    """In a process of its own, so that its peak memory is its own."""
    with pod_memory(course) as peak, multiprocessing.get_context("spawn").Pool(1) as pool:
        result, seconds, controller = pool.apply(_ours, (course, requests))
    if result["verdict"] != "passed":
        sys.exit(result["msg"])
    return told(Lap(f"ours, {requests}", result["requests"]["answered"], seconds, controller, max(peak) if peak else None))


def _ours(course: Course, requests: int) -> tuple[dict[str, Any], float, float]:
    # Here and not above, so that the process that is measured is the only one that holds them.
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415 - see above

    init_plugin_loader([str(ROOT / "collections")])
    sys.path.insert(0, str(ROOT / "tests"))
    from inprocess import run_check  # noqa: PLC0415 - see above

    sessions = 100
    key = {"type": "header", "name": "user-session"}
    client = {"namespace": course.client_namespace, "pod": course.client}
    words = {"sessions": sessions, "requests": requests // sessions, "concurrency": course.concurrency, "timeout": 3600}
    start = time.monotonic()
    result = run_check(course.kubeconfig, namespace=course.namespace, service=SERVICE, client=client, key=key, **words)
    seconds = time.monotonic() - start
    return result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What the processes that a check starts in the pod hold, in kilobytes, twice a second. Memory that they share counts for
# each, so the sum is rather too large; this loop's own processes are in it. It ends with its standard input, as the end
# of a connection alone ends nothing in a pod.
WATCH = """
while :; do
  awk '/^Name:/ { ours = $2 ~ /^(curl|sh|cat|timeout|awk|mawk|head)$/ } /^VmRSS:/ && ours { sum += $2 } END { print sum }' /proc/[0-9]*/status 2>/dev/null
  sleep 0.5
done &
cat > /dev/null
kill $!
"""


@contextlib.contextmanager
def pod_memory(course: Course) -> Iterator[list[float]]:
    """Fills the list with what the client's container was seen to hold, in MB, until the context is left."""
    seen: list[float] = []
    with subprocess.Popen(course.execute("sh", "-c", WATCH), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
        reader = threading.Thread(target=lambda: seen.extend(int(line) / 1024 for line in watching.stdout or () if line.strip()))
        reader.start()
        try:
            yield seen
        finally:
            if watching.stdin:
                watching.stdin.close()
            reader.join()


if __name__ == "__main__":
    main()
