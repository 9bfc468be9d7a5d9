# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""verify.yml on a fleet (`make bench`): each host of the inventory is a namespace of the lab with a sample of its own, and two are dead.

All at once by forks against one by one, and the memory of ansible-playbook and its forks with few hosts and with all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
FEW, INTERVAL = 5, 0.5


@dataclass(frozen=True)
class Lap:
    """One run of verify: how many hosts were green, seconds, and the most memory in MB of ansible-playbook itself and of it
    with all its forks, what they share counted once."""

    name: str
    green: int
    hosts: int
    seconds: float
    own: float
    all: float


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("kubeconfig", type=Path)
    options.add_argument("--hosts", type=int, default=20, help="two of them are dead")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hosts = fleet(given.kubeconfig, given.hosts, Path(folder))
        alive = {name: variables for name, variables in hosts.items() if not name.startswith("dead")}
        try:
            samples(Path(folder), alive, "present")
            few = verified("few", Path(folder), dict(list(alive.items())[:FEW]), given.hosts)
            forks = verified("forks", Path(folder), hosts, given.hosts)
            one = verified("one by one", Path(folder), hosts, 1)
        finally:
            samples(Path(folder), alive, "absent")
    print(f"{'':12}{'green':>8}{'hosts':>8}{'s':>9}{'own MB':>9}{'all MB':>9}")
    for lap in (few, forks, one):
        print(f"{lap.name:12}{lap.green:>8}{lap.hosts:>8}{lap.seconds:>9.1f}{lap.own:>9.0f}{lap.all:>9.0f}")
    print(f"one by one / forks: {one.seconds / forks.seconds:.2f} (on {os.cpu_count()} cores)")
    print(f"memory of ansible-playbook itself, {forks.hosts} hosts / {few.hosts} hosts: {forks.own / few.own:.2f}")
    if forks.green != len(alive) or one.green != len(alive):
        sys.exit(f"{forks.green} and {one.green} hosts are green, not {len(alive)}")


def fleet(kubeconfig: Path, number: int, folder: Path) -> dict[str, dict[str, Any]]:
    """The hosts and their variables; of the dead ones one has an API server that nobody is at, and one no kubeconfig."""
    server_gone = folder / "dead.kubeconfig"
    lines = kubeconfig.read_text().splitlines(keepends=True)
    server_gone.write_text("".join("    server: https://127.0.0.1:9\n" if "server:" in line else line for line in lines))
    hosts = {f"cluster-{place:02}": host(kubeconfig, f"bench-fleet-{place:02}") for place in range(1, number - 1)}
    return hosts | {"dead-1": host(server_gone, "bench-fleet-01"), "dead-2": host(folder / "no.kubeconfig", "bench-fleet-01")}


def host(kubeconfig: Path, namespace: str) -> dict[str, Any]:
    service = {"namespace": namespace, "service": "nginx-service", "key": {"type": "header", "name": "user-session"}}
    return {
        "istio_cluster_kubeconfig": str(kubeconfig),
        "fleet_namespace": namespace,
        "istio_affinity_namespaces": [namespace],
        "istio_affinity_services": [service],
        # Time is to be that of the work, not that of the pauses between requests.
        "istio_affinity_rate": 2000,
    }


def samples(folder: Path, hosts: dict[str, dict[str, Any]], state: str) -> None:
    """Make or remove the samples, four at a time."""
    played = subprocess.run(
        words(folder, hosts, "benchmarks/fleet.yml", 4, {"fleet_state": state}), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if played.returncode:
        sys.exit(f"The samples are not {state}:\n{played.stdout}{played.stderr}")


def environment() -> dict[str, str]:
    """The collection is this checkout's, whatever folder a playbook is in."""
    return os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}


def words(folder: Path, hosts: dict[str, dict[str, Any]], playbook: str, forks: int, more: dict[str, Any]) -> list[str]:
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    return [str(PLAYBOOK), "--inventory", str(inventory), "--forks", str(forks), "--extra-vars", json.dumps(more), playbook]


def verified(name: str, folder: Path, hosts: dict[str, dict[str, Any]], forks: int) -> Lap:
    reports = folder / name.replace(" ", "-")
    command = words(folder, hosts, "verify.yml", forks, {"istio_affinity_report_dir": str(reports)})
    start = time.monotonic()
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log) as process:
        own, everybody = watched(process)
    seconds = time.monotonic() - start
    told = [json.loads((reports / entry / "latest/report.json").read_text())["status"] for entry in hosts]
    print(f"{name}: {dict(Counter(told))} in {seconds:.1f} s", flush=True)
    return Lap(name, told.count("green"), len(hosts), seconds, own, everybody)


def watched(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """The most memory that the process, and it with all that it started, was seen to hold, in MB, until it ends."""
    own = everybody = 0.0
    over = threading.Event()

    def look() -> None:
        nonlocal own, everybody
        while not over.wait(INTERVAL):
            family = descendants(process.pid)
            own = max(own, memory(process.pid, "status", "VmRSS:"))
            everybody = max(everybody, sum(memory(member, "smaps_rollup", "Pss:") for member in family))

    thread = threading.Thread(target=look)
    thread.start()
    process.wait()
    over.set()
    thread.join()
    return own, everybody


def descendants(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {root}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def memory(process: int, file: str, field: str) -> float:
    """A field of kilobytes, in MB; nothing for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    main()
