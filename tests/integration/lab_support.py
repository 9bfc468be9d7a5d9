# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the lab itself share: runs of its playbook, and what of it can be seen on the machine."""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import BIN, LAB_CACHE, ROOT, Ran, clean_environment, run

LAB = LAB_CACHE / "lab"
PORTS = frozenset({26443, 26480})
GROUP = "istio-lab"
WITH_LOCK = ROOT / "lab/with-lock"
PLAYBOOK = (BIN / "ansible-playbook", "-i", "localhost,", "-c", "local", "lab/lab.yml")


def environment(**more: str) -> dict[str, str]:
    """The lab's own, whatever the user has set; the lock that the test run holds counts for what it starts."""
    return clean_environment(**more)


def lab(state: str, *, before: tuple[str | Path, ...] = (), env: dict[str, str] | None = None, **variables: Any) -> Ran:
    """Runs the lab's playbook, under the lock, with a command in front of it if need be."""
    extra = json.dumps({"istio_lab_state": state, **variables})
    return run(WITH_LOCK, *before, *PLAYBOOK, "-e", extra, env=env or environment(), timeout=300)


def changes(ran: Ran) -> int:
    """How many tasks changed something, by Ansible's own count."""
    counted = re.search(r"changed=(\d+)", ran.stdout)
    assert counted, ran
    return int(counted[1])


def plain(ran: Ran) -> str:
    """What a program said, without the line breaks that Ansible's display puts in."""
    return " ".join(ran.output.split())


@dataclass(frozen=True)
class Seen:
    """The machine as it is at one moment, as far as a lab could leave a trace."""

    processes: frozenset[int]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    listeners: frozenset[tuple[str, int]]
    lab_ports: frozenset[int]
    groups: frozenset[str]
    inotify: int
    packages: str = field(repr=False)

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(port for _address, port in self.listeners)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _sockets(processes: set[int]) -> set[str]:
    """The sockets that these hold open."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(str(path.readlink()))
    return {link for link in found if link.startswith("socket:")}


def look() -> Seen:
    """Looks with nothing of the lab's own code: at /proc, /sys and the package database."""
    processes: set[int] = set()
    namespaces: set[str] = set()
    mounts: set[str] = set()
    for folder in Path("/proc").iterdir():
        # One that has ended and waits to be collected by the machine's first process is none any more.
        if not folder.name.isdigit() or _read(folder / "stat").rpartition(")")[2].split()[:1] in ([], ["Z"], ["X"]):
            continue
        if f"/{GROUP}/" in _read(folder / "cgroup"):
            processes.add(int(folder.name))
        for kind in ("net", "mnt", "pid", "uts", "ipc"):
            with contextlib.suppress(OSError):
                namespaces.add(str((folder / "ns" / kind).readlink()))
        # Of every mount namespace, not of this one only.
        mounts.update(line.split()[4] for line in _read(folder / "mountinfo").splitlines() if str(LAB_CACHE) in line or "/kubelet/" in line)
    listeners = set()
    lab_ports = set()
    held = _sockets(processes)
    for name in ("tcp", "tcp6"):
        for line in _read(Path("/proc/net") / name).splitlines()[1:]:
            _slot, address, _remote, state, _queues, _timer, _retries, _user, _timeout, inode, *_rest = line.split()
            if state == "0A":
                listeners.add((address.rpartition(":")[0], int(address.rpartition(":")[2], 16)))
                if f"socket:[{inode}]" in held:
                    lab_ports.add(int(address.rpartition(":")[2], 16))
    return Seen(
        processes=frozenset(processes),
        namespaces=frozenset(namespaces),
        mounts=frozenset(mounts),
        interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        listeners=frozenset(listeners),
        lab_ports=frozenset(lab_ports),
        groups=frozenset(str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{GROUP}")),
        inotify=int(_read(Path("/proc/sys/fs/inotify/max_user_instances"))),
        packages=_read(Path("/var/lib/dpkg/status")),
    )


def no_trace(before: Seen, after: Seen) -> None:
    assert before.processes, "the test looks in the wrong place"
    assert not after.processes
    assert not after.mounts
    assert before.lab_ports == PORTS
    assert not after.ports & PORTS
    # Tests that need no lab run meanwhile; what one of them listens on is gone soon.
    new = after.listeners - before.listeners
    deadline = time.monotonic() + 60
    while new and time.monotonic() < deadline:
        time.sleep(0.5)
        new &= look().listeners
    assert not new
    assert after.interfaces == before.interfaces, "the lab's interfaces are in its own namespaces"
    assert after.packages == before.packages


def wait_for_end(seen: Seen, seconds: float = 60) -> Seen:
    """A killed process tree is gone a moment later, without anybody's help."""
    deadline = time.monotonic() + seconds
    while (now := look()).processes & seen.processes and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


def init_process(node: str = "node-1") -> int:
    return int(json.loads((LAB / "nodes" / node / "pid").read_text())["pid"])


def kubectl(*arguments: str) -> str:
    return run(LAB / "bin/kubectl", "--kubeconfig", LAB / "kubeconfig", *arguments, env=environment()).expect().stdout


def _get(what: str) -> list[dict[str, Any]]:
    """All objects of a kind that nobody has deleted."""
    found: list[dict[str, Any]] = json.loads(kubectl("get", what, "--all-namespaces", "--output=json"))["items"]
    return [entry for entry in found if "deletionTimestamp" not in entry["metadata"]]


def ready_pods() -> frozenset[str]:
    """Namespace and name of every pod that the API calls ready, but for those on their way out, by themselves or with their namespace."""
    namespaces = {namespace["metadata"]["name"] for namespace in _get("namespaces")}
    return frozenset(
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in _get("pods")
        if pod["metadata"]["namespace"] in namespaces
        and any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"].get("conditions", []))
    )
