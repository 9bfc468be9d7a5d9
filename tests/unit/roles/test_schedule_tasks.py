# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of istio_schedule: what root may touch, which directories are refused, and which results nobody may see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from harness import ROOT, run

TASKS = ROOT / "roles/istio_schedule/tasks"
WRITERS = {f"ansible.builtin.{name}" for name in ("assemble", "blockinfile", "copy", "file", "lineinfile", "replace", "template", "unarchive")}


def _tasks(name: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = yaml.safe_load((TASKS / name).read_text())
    return tasks


def _written() -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Each task that writes, by its name, with the module's arguments and all paths."""
    for path in sorted(TASKS.glob("*.yml")):
        for task in _tasks(path.name):
            for module in WRITERS & task.keys():
                arguments = task[module]
                paths = [str(arguments.get(key)) for key in ("dest", "path") if key in arguments]
                paths += [str(item.get(key, "")) for item in task.get("loop", ()) if isinstance(item, dict) for key in ("dest", "path")]
                yield task["name"], arguments, paths


def test_root_writes_nothing_where_the_user_of_the_runs_can_put_a_link():
    """That user owns the data directory, and so could have root give it another directory, or write into one."""
    assert {name for name, _arguments, _paths in _written()} >= {"Create the directories", "Write the settings of the runs"}
    assert [(name, path) for name, _arguments, paths in _written() for path in paths if "__istio_schedule_data }}/" in path] == []


def test_root_follows_no_link_when_it_sets_an_owner():
    followed = [
        name for name, arguments, _paths in _written() if "owner" in arguments and arguments.get("state") == "directory" and arguments.get("follow", True)
    ]
    assert followed == []


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("true", []),
        ("mkdir -m 775 /mnt/etc /mnt/var /mnt/var/lib", []),
        ("mkdir -p /mnt/real/lib && ln -s real /mnt/var", []),
        ("mkdir /mnt/var && chown 1000 /mnt/var", ["/mnt/var can be changed by users other than root"]),
        ("mkdir /mnt/var && chgrp 1000 /mnt/var && chmod g+w /mnt/var", ["/mnt/var can be changed by users other than root"]),
        ("mkdir -m 1777 /mnt/etc", ["/mnt/etc can be changed by users other than root"]),
        # Where the link leads to is root's, but not the link's place.
        ("mkdir -p /mnt/real /mnt/var && ln -s /mnt/real /mnt/var/lib && chown 1000 /mnt/var", ["/mnt/var can be changed by users other than root"]),
        # And the other way round.
        ("mkdir -p /mnt/real/var && chown 1000 /mnt/real && ln -s real/var /mnt/var", ["/mnt/real can be changed by users other than root"]),
        ("mkdir -p /mnt/var/lib && ln -s /etc /mnt/var/lib/name", ["/mnt/var/lib/name is a link"]),
    ],
    ids=[
        "nothing there",
        "root's",
        "root's link",
        "another owner",
        "another group",
        "everybody's",
        "link in another's",
        "link into another's",
        "a link itself",
    ],
)
def test_directories_that_others_can_replace_are_refused(before: str, said: list[str]):
    (task,) = [task for task in _tasks("preflight_host.yml") if task["name"] == "Look for users who could replace a directory of the schedule"]
    prepared = f"mount -t tmpfs -o mode=755 tmpfs /mnt && {before} || exit 9\nexport CONFIG=/mnt/etc/name DATA=/mnt/var/lib/name\n"
    seen = run("unshare", "--mount", "sh", "-c", prepared + task["ansible.builtin.shell"]["cmd"], timeout=30).expect()
    assert sorted(set(seen.stdout.splitlines())) == said
    assert seen.stderr == ""


@pytest.mark.parametrize("name", ["cluster_present.yml", "cluster_absent.yml"])
def test_nobody_sees_the_secret(name: str):
    """The results of tasks on a Secret contain it, base64-encoded."""
    seen = [
        task["name"]
        for task in _tasks(name)
        if "__istio_schedule_secret" in str(task.get("vars", "")) and not task["ansible.builtin.include_role"].get("apply", {}).get("no_log")
    ]
    assert seen == []


def test_the_log_of_a_pod_has_no_session_ids_in_the_clear():
    """On a host, the setting of the inventory holds, which extra variables would override."""
    variables = yaml.safe_load((ROOT / "roles/istio_schedule/vars/main.yml").read_text())["__istio_schedule_run_variables"]
    assert "({'istio_affinity_hash_session_ids': true} if __istio_schedule_inside else {})" in variables


def test_the_runs_of_a_cronjob_name_their_own_cluster_and_no_run_has_a_variable_that_verify_refuses():
    role = ROOT / "roles/istio_schedule"
    (check,) = yaml.safe_load((ROOT / "playbooks/tasks/named.yml").read_text())
    refused = {*check["vars"]["__cluster_environment"], "KUBECONFIG"}
    assert "'istio_cluster_in_cluster': true" in yaml.safe_load((role / "vars/main.yml").read_text())["__istio_schedule_config_map"]["data"]["inventory.json"]
    files = ("vars/main.yml", "defaults/main.yml", "templates/service.j2", "templates/cronjob.yaml.j2", "files/scheduled_run.py")
    assert [(file, name) for file in files for name in refused if name in (role / file).read_text()] == []


def test_the_page_has_every_status_that_a_run_may_end_with():
    """Alerts and notifications show the number."""
    program = (ROOT / "roles/istio_schedule/files/scheduled_run.py").read_text()
    numbers = dict(re.findall(r"^([A-Z_]+) = (\d+)$", program, re.MULTILINE))
    reasons = program.partition("REASONS = {")[2].partition("}")[0]
    statuses = {numbers.get(name, name) for name in re.findall(r"^    (\w+):", reasons, re.MULTILINE)} | {numbers["FAILED"], numbers["BUSY"]}
    rows = re.findall(r"^\| ([\d, ]+) \|", (ROOT / "docs/schedule.md").read_text(), re.MULTILINE)
    assert statuses - set(re.split(r", ", ", ".join(rows))) == set()
