# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports the properties of the machine and the state of the lab."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.istio_lab import NODES, LabError, Layout, contents, digest, lab_processes, node_process, other_cache

DOCUMENTATION = r"""
module: istio_lab_facts
short_description: The state of the embedded lab and of its machine
options:
  cache: {description: The lab's folder., type: path, required: true}
  source: {description: The directory that contains the inputs of the parts., type: path, required: true}
  parts: {description: The parts of the lab, in the order of their dependencies., type: list, elements: dict, required: true}
  more_parts: {description: Parts that are built only on request and are not used by nodes., type: list, elements: dict, default: []}
  node_inputs: {description: Paths of further content of the nodes., type: list, elements: path, required: true}
  settings: {description: Further settings that distinguish labs., type: dict, required: true}
  ports: {description: Ports that the lab listens on., type: list, elements: int, required: true}
"""

COMMANDS = ("unshare", "nsenter", "mount", "pivot_root", "chroot", "cp", "sh", "apt-get")
CERTIFICATE_DAYS = 330


def machine() -> dict[str, Any]:
    release: dict[str, str] = {}
    for line in Path("/etc/os-release").read_text().splitlines() if Path("/etc/os-release").exists() else []:
        name, _sep, value = line.partition("=")
        release[name] = value.strip("\"'")
    memory = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text()) if Path("/proc/meminfo").exists() else None
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "name": release.get("PRETTY_NAME", platform.system()),
        "debian": release.get("ID") == "debian",
        "release": release.get("VERSION_CODENAME", ""),
        "debian_like": "debian" in [release.get("ID"), *release.get("ID_LIKE", "").split()],
        "root": os.geteuid() == 0,
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "missing_commands": [name for name in COMMANDS if not shutil.which(name)],
    }


def free_disk_mib(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // 2**20


def kernel_gaps(cache: Path) -> list[str]:
    """Kernel features that the nodes need and that do not work here. Each one is tried, because no list of features is reliable."""
    gaps = []
    if subprocess.run(["unshare", "--fork", "--pid", "--net", "--mount", "--uts", "--ipc", "true"], capture_output=True, check=False).returncode:
        return ["namespaces (unshare)"]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".preflight-") as folder:
        for name in ("lower", "upper", "work", "merged"):
            Path(folder, name).mkdir()
        overlay = "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged"
        if subprocess.run(["unshare", "--mount", "sh", "-c", overlay], cwd=folder, capture_output=True, check=False).returncode:
            gaps.append(f"an overlay file system whose upper folder is below {cache}")
    links = "ip link add lab0 type bridge && ip link add probe0 type veth peer name probe1 && ip link set probe0 master lab0"
    if shutil.which("ip") and subprocess.run(["unshare", "--net", "sh", "-c", links], capture_output=True, check=False).returncode:
        gaps.append("bridges and veth pairs")
    return gaps


def package_sources(apt: Path) -> list[tuple[str, str]]:
    """Address and suite of each source of binary packages with a component main, in both of apt's formats."""
    folder = apt / "sources.list.d"
    found: list[tuple[str, str]] = []
    for file in [apt / "sources.list", *sorted(folder.glob("*.list"))]:
        for line in file.read_text().splitlines() if file.is_file() else []:
            match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
            if match and "main" in match[3].split():
                found.append((match[1], match[2]))
    for file in sorted(folder.glob("*.sources")):
        for paragraph in re.split(r"\n\s*\n", "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))):
            fields = {name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", paragraph)}
            wanted = "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split()
            if wanted and fields.get("enabled", "yes").lower() != "no":
                found.extend((uri, suite) for uri in fields.get("uris", "").split() for suite in fields.get("suites", "").split())
    return found


def debian_mirror(release: str, apt: Path = Path("/etc/apt")) -> str | None:
    """The Debian archive in the machine's package sources for its own release."""
    for uri, suite in package_sources(apt):
        # Skip the updates, the security archive and packages of other vendors.
        if suite not in (release, "stable", "testing", "unstable", "sid") or "security" in uri:
            continue
        listed = Path(uri.removeprefix("mirror+file:"))
        address = listed.read_text().split()[0] if uri.startswith("mirror+file:") and listed.is_file() else uri
        if re.match(r"https?://|file:/", address):
            return address
    return None


def find_go(source: Path, cache: Path) -> dict[str, Any]:
    """A Go that is recent enough for the tools; the machine's own takes precedence over the one in the cache."""
    line = next(line for line in (source / "tools/go.mod").read_text().splitlines() if line.startswith("go "))
    major, minor, *_rest = line.removeprefix("go ").split(".")
    need = (int(major), int(minor))
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", cache / "go/go/bin/go"):
        if not candidate or not Path(candidate).exists():
            continue
        said = subprocess.run([str(candidate), "version"], capture_output=True, text=True, check=False, env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
        version = re.search(r"go(\d+)\.(\d+)", said)
        if version and (int(version[1]), int(version[2])) >= need:
            return {"path": str(candidate), "needed": f"{need[0]}.{need[1]}"}
    return {"path": None, "needed": f"{need[0]}.{need[1]}"}


def parts_with_paths(layout: Layout, source: Path, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known: dict[str, str] = {}
    planned = []
    for part in parts:
        needs = part.get("needs", {})
        pieces = [contents(source / part["script"]), *(contents(source / path) for path in part.get("inputs", []))]
        pieces.append(json.dumps(part.get("environment", {}), sort_keys=True).encode())
        pieces.append(json.dumps({name: known[need] for name, need in needs.items()}, sort_keys=True).encode())
        known[part["name"]] = digest(*pieces)
        path = layout.parts / f"{part['name']}-{known[part['name']]}"
        planned.append({**part, "path": str(path), "present": path.exists()})
    return planned


def lock_holder(layout: Layout) -> str | None:
    """The holder of the lab's lock, unless it is the command that started this."""
    if os.environ.get("ISTIO_LAB_LOCKED") == os.path.abspath(layout.cache):  # noqa: PTH100 - as lab/with-lock writes it
        return None
    try:
        with (layout.cache / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return (layout.cache / "lock").read_text().strip() or "an unknown holder"
    except OSError:
        return None


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def node_state(layout: Layout, name: str) -> dict[str, Any]:
    process = node_process(layout, name)
    try:
        stamp = json.loads(layout.stamp(name).read_text())
        age = (time.time() - float(stamp["at"])) / 86400
        content = stamp["content"] if age < CERTIFICATE_DAYS else "certificates too old"
    except (OSError, ValueError, KeyError, TypeError):
        content = None
    return {"running": process is not None, "pid": int(process["pid"]) if process else None, "content": content, "exists": layout.node(name).exists()}


def argument_spec() -> dict[str, Any]:
    return {
        "cache": {"type": "path", "required": True},
        "source": {"type": "path", "required": True},
        "parts": {"type": "list", "elements": "dict", "required": True},
        "more_parts": {"type": "list", "elements": "dict", "default": []},
        "node_inputs": {"type": "list", "elements": "path", "required": True},
        "settings": {"type": "dict", "required": True},
        "ports": {"type": "list", "elements": "int", "required": True},
    }


def content_of(parts: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """What the nodes are made of, in one word: another word means that they must be made again."""
    return digest(
        *(part["path"].rpartition("-")[2].encode() for part in parts),
        *(contents(Path(path)) for path in options["node_inputs"]),
        json.dumps(options["settings"], sort_keys=True).encode(),
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
    )
    options = module.params
    layout, source = Layout(Path(options["cache"])), Path(options["source"])
    try:
        planned = parts_with_paths(layout, source, [*options["parts"], *options["more_parts"]])
        parts, more_parts = planned[: len(options["parts"])], planned[len(options["parts"]) :]
        content = content_of(parts, options)
    except (LabError, OSError) as error:
        module.fail_json(msg=str(error))
    here = machine()
    usable = here["root"] and here["system"] == "Linux" and not here["missing_commands"]
    nodes = {name: node_state(layout, name) for name in NODES}
    owner = layout.lab / "owner"
    foreign = other_cache(layout)
    module.exit_json(
        changed=False,
        machine=here,
        disk_mib=free_disk_mib(layout.cache),
        kernel_gaps=kernel_gaps(layout.cache) if usable and not nodes["node-1"]["running"] else [],
        # The archive of another distribution does not contain the nodes' Debian release.
        mirror=debian_mirror(here["release"]) if here["debian"] else None,
        go=find_go(source, layout.cache) if not all(part["present"] for part in planned) else None,
        pip=find_spec("pip") is not None,
        python=sys.executable,
        parts=parts,
        more_parts=more_parts,
        content=content,
        nodes=nodes,
        busy_ports=[] if nodes["node-1"]["running"] else [port for port in options["ports"] if not is_free(port)],
        foreign=foreign,
        leftovers=not foreign and bool(lab_processes()) and not any(node["running"] for node in nodes.values()),
        lock_holder=lock_holder(layout),
        owner=owner.read_text().strip() if owner.exists() else None,
        checkout=str(source.resolve().parent),
    )


if __name__ == "__main__":
    main()
