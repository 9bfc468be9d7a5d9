# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts, stops or deletes a node of the lab: a process tree in namespaces of its own, with a root file system of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.istio_lab import (
    LabError,
    Layout,
    Step,
    delete_tree,
    end_build,
    make_cgroups,
    node_process,
    remember_process,
    start_time,
    stop_node,
    wait_until,
)

DOCUMENTATION = r"""
module: istio_lab_node
short_description: A node of the embedded lab
options:
  cache: {description: The lab's folder., type: path, required: true}
  name: {description: Name of the node., type: str, required: true}
  state:
    description: What is wanted. A node that is not part of a cluster yet is made anew before it starts.
    type: str
    choices: [started, stopped, absent]
    default: started
  files: {description: Folder of the node's scripts and settings; needed to start., type: path}
  parts: {description: Paths of the parts by name; needed to start., type: dict, default: {}}
  settings: {description: What is filled in for @NAME@ in the node's settings., type: dict, default: {}}
  api_port: {description: The API's port on the loopback address., type: int, default: 26443}
  charts_port: {description: The chart repository's port on the loopback address., type: int, default: 26480}
"""

# Where a file of the role goes in the node, if it is not the top folder of the lab's own.
PLACES = {
    "cni.conflist": "cni/10-istio-lab.conflist",
    "hosts.toml": "registries/_default/hosts.toml",
    "kubelet.conf": "kubelet.conf.d/10-node.conf",
}


def furnish(root: Path, files: Path, settings: dict[str, str]) -> None:
    """Puts the node's own scripts and settings into its root."""
    home = root / "istio-lab"
    shutil.rmtree(home, ignore_errors=True)
    for folder in ("tools", "images"):
        (home / folder).mkdir(parents=True)
    for file in sorted(files.iterdir()):
        target = home / PLACES.get(file.name, file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text()
        for name, value in settings.items():
            text = text.replace(f"@{name}@", str(value))
        target.write_text(text)
        target.chmod(0o755 if file.suffix == ".sh" else 0o644)
    (root / "var/log/istio-lab").mkdir(parents=True, exist_ok=True)
    (root / "etc/hostname").write_text(f"{settings['NODE']}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n10.89.0.{10 + int(settings['INDEX'])} {settings['NODE']}\n")
    # Nobody answers names from outside, and says so at once.
    (root / "etc/resolv.conf").write_text("nameserver 10.89.0.11\n")


def wire(layout: Layout, name: str, index: int, pid: int) -> None:
    """Lays a wire from the first node's bridge into another node's network."""
    first = node_process(layout, "node-1")
    if not first:
        raise LabError(f"{name} can't start before node-1 runs")
    # Not in the first node's process namespace: there the other node's process has no number.
    inside = ["nsenter", "-t", str(int(first["pid"])), "--mount", "--net", "--root", "--wd"]
    port = f"port{index}"
    subprocess.run([*inside, "ip", "link", "delete", port], check=False, stderr=subprocess.DEVNULL)
    for command in (
        ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid)],
        ["link", "set", port, "master", "lab0"],
        ["link", "set", port, "up"],
        ["route", "replace", f"10.244.{index}.0/24", "via", f"10.89.0.{10 + index}"],
    ):
        subprocess.run([*inside, "ip", *command], check=True)


def child_of(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def own_network(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def services_run(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "supervisord"
    except OSError:
        return False


def start(layout: Layout, options: dict[str, Any]) -> None:
    name, files = options["name"], Path(options["files"])
    index = int(name.rpartition("-")[2])
    settings = {**options["settings"], "NODE": name, "INDEX": index}
    step = Step(layout, f"start-{name}")

    if name == "node-1":
        # The other node is wired to this one and can't stay without it.
        stop_node(layout, "node-2")
    stop_node(layout, name)
    root = layout.root(name)
    if not layout.stamp(name).exists():
        step.say(f"copying the root of {name}")
        delete_tree(layout.node(name))
        layout.node(name).mkdir(parents=True)
        step.run(["cp", "--archive", "--reflink=auto", f"{options['parts']['node-root']}/root", str(root)], "Copying the node's root")
    furnish(root, files, settings)

    step.say(f"starting {name}")
    console = layout.node(name) / "console.log"
    launcher = launch(layout, options, index, console)
    try:
        wait_for_services(layout, name, index, launcher)
    except NotStartedError as error:
        step.say(console.read_text(errors="replace"))
        raise step.failure(f"{name} {error}") from error


class NotStartedError(Exception):
    """What a node did not do."""


def launch(layout: Layout, options: dict[str, Any], index: int, console: Path) -> subprocess.Popen[bytes]:
    """Start a node's first process, in its own namespaces and control groups."""
    name, parts, root = options["name"], options["parts"], layout.root(options["name"])
    entries = make_cgroups(name)
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "NODE": name,
        "INDEX": str(index),
        "ROOT": str(root),
        "TOOLS": str(parts["tools"]),
        "IMAGES": str(parts["images"]),
        "API_PORT": str(options["api_port"]),
        "CHARTS_PORT": str(options["charts_port"]),
        "ISTIO_LAB_CACHE": str(layout.cache),
    }
    with console.open("wb") as output:
        # Into its group first, so that whatever goes wrong from here on can be found and ended.
        return subprocess.Popen(
            [
                "sh",
                "-c",
                'until [ "$1" = -- ]; do echo 0 >"$1"; shift; done; shift; exec "$@"',
                "sh",
                *map(str, entries),
                "--",
                *("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", f"{root}/istio-lab/init.sh"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            close_fds=True,
            cwd="/",
        )


def wait_for_services(layout: Layout, name: str, index: int, launcher: subprocess.Popen[bytes]) -> None:
    """Wait until a node runs, has its network and has started its services. Raises NotStartedError."""
    if not wait_until(lambda: launcher.poll() is not None or child_of(launcher.pid) is not None, 10, 0.02):
        raise NotStartedError("does not start")
    pid = child_of(launcher.pid)
    if pid is None or start_time(pid) is None:
        raise NotStartedError("ended at once")
    remember_process(layout.node(name) / "pid", pid)
    if index > 1:
        if not wait_until(lambda: own_network(pid) or launcher.poll() is not None, 20, 0.02):
            raise NotStartedError("has no network of its own")
        wire(layout, name, index, pid)
    if not wait_until(lambda: services_run(pid) or launcher.poll() is not None, 60, 0.05) or launcher.poll() is not None:
        raise NotStartedError("did not start its services")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cache": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped", "absent"], "default": "started"},
            "files": {"type": "path"},
            "parts": {"type": "dict", "default": {}},
            "settings": {"type": "dict", "default": {}},
            "api_port": {"type": "int", "default": 26443},
            "charts_port": {"type": "int", "default": 26480},
        },
        required_if=[("state", "started", ["files"])],
        supports_check_mode=True,
    )
    layout = Layout(Path(module.params["cache"]))
    name, state = module.params["name"], module.params["state"]
    running = node_process(layout, name) is not None
    changed = False
    try:
        if state == "started":
            changed = not running
            if changed and not module.check_mode:
                start(layout, module.params)
        elif module.check_mode:
            changed = running or (state == "absent" and layout.node(name).exists())
        else:
            changed = end_build(layout)
            changed = stop_node(layout, name) or changed
            if state == "absent" and layout.node(name).exists():
                delete_tree(layout.node(name))
                changed = True
    except (LabError, OSError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
