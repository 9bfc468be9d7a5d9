# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays run on the clusters that the inventory names, on no other, and say why; none of this needs a cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_MAP, AUTH_ARG_SPEC, AUTH_PROXY_HEADERS_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.helm_args_common import HELM_AUTH_ARG_SPEC

from harness import BIN, ROOT, Ran, clean_environment, run

PLAYBOOKS = ROOT / "playbooks"
# Each has a file of the same name at the top of the tree, for clones and AWX.
ALL = ("install", "schedule", "site", "uninstall", "upgrade", "verify")
CHANGING = ("install", "site", "uninstall", "upgrade")
CANARY = "canary-of-a-secret"


def _run(playbook: Path, hosts: dict[str, dict[str, Any]], folder: Path, *words: str, env: dict[str, str] | None = None) -> Ran:
    """On this inventory, without a kubeconfig in the home directory."""
    inventory = folder / "inventory.yml"
    schedulers = {name: hosts[name] for name in hosts if name.startswith("ops")}
    groups = {"schedulers": {"hosts": schedulers}} if schedulers else {}
    inventory.write_text(yaml.safe_dump({"all": {"hosts": {name: hosts[name] for name in hosts if name not in schedulers}, "children": groups}}))
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "HOME": str(folder), "ANSIBLE_HOME": str(folder / "ansible")}
    return run(BIN / "ansible-playbook", "--inventory", inventory, *words, playbook, cwd=folder, env=clean_environment(**settings | (env or {})))


def _plays(playbook: Path) -> list[dict[str, Any]]:
    """Its plays, and those of the playbooks that it imports in their place."""
    plays = []
    for play in yaml.safe_load(playbook.read_text()):
        imported = play.get("ansible.builtin.import_playbook")
        plays += _plays(playbook.parent / imported) if imported else [play]
    return plays


def _failures(ran: Ran) -> dict[str, str]:
    """The message of each failed host: the result is one line of JSON, or with -v several."""
    found = re.finditer(r"^fatal: \[(\w+)\]: FAILED! => (?=\{)", ran.stdout, re.MULTILINE)
    return {match[1]: json.JSONDecoder().raw_decode(ran.stdout, match.end())[0]["msg"] for match in found}


def _kubeconfig(path: Path, *contexts: str) -> dict[str, Any]:
    """A kubeconfig whose API server is nobody; also written to the path."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": contexts[0],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": CANARY}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in contexts],
    }
    path.write_text(yaml.safe_dump(content))
    return content


def test_every_playbook_is_at_the_top_and_described():
    assert sorted(path.stem for path in PLAYBOOKS.glob("*.yml")) == sorted(ALL)
    for name in ALL:
        (play,) = yaml.safe_load((ROOT / f"{name}.yml").read_text())
        assert play["ansible.builtin.import_playbook"] == f"playbooks/{name}.yml"
    for page in ("README.md", "docs/inventory.md", "docs/awx.md"):
        text = (ROOT / page).read_text()
        assert not [name for name in ALL if f"{name}.yml" not in text and f"meshops.istio.{name}" not in text], page


@pytest.mark.parametrize("name", CHANGING)
def test_a_changing_playbook_checks_the_inventory_first_and_goes_on_step_by_step(name: str):
    check, change = _plays(PLAYBOOKS / f"{name}.yml")
    assert check["any_errors_fatal"] is True
    assert check["tasks"][0]["ansible.builtin.import_tasks"] == "tasks/named.yml"
    assert change["pre_tasks"][0]["ansible.builtin.import_tasks"] == "tasks/cluster.yml"
    assert {task["tags"] for task in (*check["tasks"], change["pre_tasks"][0])} == {"always"}
    assert check["hosts"] == change["hosts"]
    if name == "uninstall":
        assert (change["serial"], change["max_fail_percentage"]) == (1, 0)
    else:
        assert change["serial"] == "{{ istio_serial | default([1, '25%']) }}"
        assert change["max_fail_percentage"] == "{{ istio_max_fail_percentage | default(0) }}"


# -- which cluster --


@pytest.mark.slow
def test_no_host_falls_back_to_another_cluster(tmp_path: Path):
    """Each playbook refuses a host that names none, whatever the environment names, and leaves the schedulers out."""
    _kubeconfig(tmp_path / "current", "current")
    foreign = {"KUBECONFIG": str(tmp_path / "current"), "K8S_AUTH_KUBECONFIG": str(tmp_path / "current"), "K8S_AUTH_CONTEXT": "current"}
    for name in ALL:
        variables = ("-e", "confirm=bare,ops1", "-e", "istio_schedule_kind=kubernetes")
        said = _failures(_run(PLAYBOOKS / f"{name}.yml", {"bare": {}, "ops1": {}}, tmp_path, *variables, env=foreign).expect(2))
        assert "bare names no cluster" in said["bare"], name
        assert "istio_cluster_kubeconfig: /home/<you>/.kube/config, istio_cluster_context: bare" in said["bare"]
        assert "ops1" not in said, name


@pytest.fixture
def named(tmp_path: Path) -> Path:
    play = {"hosts": "all", "connection": "local", "gather_facts": False, "tasks": [{"ansible.builtin.import_tasks": str(PLAYBOOKS / "tasks/named.yml")}]}
    path = tmp_path / "named.yml"
    path.write_text(yaml.safe_dump([play]))
    return path


OWN: dict[str, dict[str, Any]] = {
    "path": {"istio_cluster_kubeconfig": "/k"},
    "context": {"istio_cluster_context": "c"},
    "both": {"istio_cluster_kubeconfig": "/k", "istio_cluster_context": "c"},
    "mapping": {"istio_cluster_kubeconfig": {"users": [{"user": {"token": CANARY}}]}, "istio_cluster_context": "c"},
    "token": {"istio_cluster_host": "https://127.0.0.1:9", "istio_cluster_api_key": CANARY},
}
REFUSED = {
    "bare": ({}, "bare names no cluster"),
    "empty": ({"istio_cluster_kubeconfig": "", "istio_cluster_context": "", "istio_cluster_in_cluster": "false"}, "empty names no cluster"),
    "two": (OWN["path"] | OWN["token"], "more than one way: istio_cluster_kubeconfig, istio_cluster_host"),
    "text": ({"istio_cluster_kubeconfig": f"users:\n- user: {{token: {CANARY}}}\n"}, "more than one line (its value is not shown)"),
    "tokenless": ({"istio_cluster_host": "https://127.0.0.1:9"}, "without istio_cluster_api_key"),
    "outside": ({"istio_cluster_in_cluster": True}, "Ansible does not run in a pod with a service account"),
    "unset": ({"istio_cluster_from_environment": True}, "has istio_cluster_from_environment, but the environment names no cluster"),
}


def test_each_way_to_name_a_cluster(named: Path, tmp_path: Path):
    ran = _run(named, OWN | {name: variables for name, (variables, _said) in REFUSED.items()}, tmp_path, "-vvv").expect(2)
    said = _failures(ran)
    assert said.keys() == REFUSED.keys(), ran
    for name, (_variables, expected) in REFUSED.items():
        assert expected in said[name]
        assert "Nothing was read or changed. Next: " in said[name]
    assert CANARY not in ran.output
    # As typed.
    assert not _failures(_run(named, {"bare": {}}, tmp_path, "-e", "istio_cluster_kubeconfig=/k").expect(0))


def _read_by_kubernetes_core() -> set[str]:
    """What `_create_auth_spec` and Helm's modules look for in the environment."""
    names = {name for pair in AUTH_ARG_MAP.items() for name in pair} - {"proxy_headers"} | AUTH_ARG_SPEC.keys() - {"proxy_headers"}
    names |= {f"proxy_headers_{name}" for name in AUTH_PROXY_HEADERS_SPEC}
    helm = {name for option in HELM_AUTH_ARG_SPEC.values() if "fallback" in option for name in option["fallback"][1]}
    return {f"K8S_AUTH_{name.upper()}" for name in names} | helm


def test_environment_that_redirects(named: Path, tmp_path: Path):
    names = {*_read_by_kubernetes_core(), *(f"HELM_KUBE{name}" for name in ("APISERVER", "ASUSER", "CAFILE", "CONTEXT", "TOKEN"))}
    every = dict.fromkeys(names, CANARY)
    said_so = {name: variables | {"istio_cluster_from_environment": "true"} for name, variables in OWN.items()}
    ran = _run(named, OWN, tmp_path, "-vvv", env=every).expect(2)
    assert CANARY not in ran.output
    # What the inventory sets takes precedence over the environment.
    sets = {
        "path": {"K8S_AUTH_KUBECONFIG"},
        "context": {"K8S_AUTH_CONTEXT", "HELM_KUBECONTEXT"},
        "token": {"K8S_AUTH_HOST", "K8S_AUTH_API_KEY", "HELM_KUBEAPISERVER", "HELM_KUBETOKEN"},
    }
    sets |= dict.fromkeys(("both", "mapping"), sets["path"] | sets["context"])
    for host, message in _failures(ran).items():
        assert set(re.findall(r"\b(?:K8S_AUTH|HELM_KUBE)\w+", message)) == names - sets[host], host
        assert "istio_cluster_from_environment" in message
    assert _failures(ran).keys() == OWN.keys()
    assert not _failures(_run(named, said_so | {"awx": {"istio_cluster_from_environment": True}}, tmp_path, env=every).expect(0))
    # KUBECONFIG names the file of the context that the inventory names.
    assert not _failures(_run(named, OWN, tmp_path, env={"KUBECONFIG": "/elsewhere"}).expect(0))


def test_what_the_environment_must_name(named: Path, tmp_path: Path):
    """Where kubernetes.core would look at the current context, or at the cluster that AWX's own pod is in."""
    host = {"awx": {"istio_cluster_from_environment": True}}
    for names, rc in ((("K8S_AUTH_HOST", "KUBECONFIG"), 2), (("K8S_AUTH_HOST", "K8S_AUTH_API_KEY"), 0)):
        ran = _run(named, host, tmp_path, env=dict.fromkeys(names, CANARY) | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).expect(rc)
        assert CANARY not in ran.output


def test_the_current_context_of_several_is_no_choice(tmp_path: Path):
    one, two = _kubeconfig(tmp_path / "one", "a"), _kubeconfig(tmp_path / "two", "a", "b")
    hosts = {
        "one": {"istio_cluster_kubeconfig": str(tmp_path / "one")},
        "two": {"istio_cluster_kubeconfig": str(tmp_path / "two")},
        "mapping": {"istio_cluster_kubeconfig": two},
        "chosen": {"istio_cluster_kubeconfig": one | {"contexts": two["contexts"]}, "istio_cluster_context": "a"},
    }
    variables = ("-e", "istio_serial=100%", "-e", "istio_max_fail_percentage=100")
    ran = _run(PLAYBOOKS / "install.yml", hosts, tmp_path, *variables).expect(2)
    said = _failures(ran)
    assert "has several contexts, and two names none of them" in said["two"]
    assert "It has: a, b." in said["mapping"]
    for name in ("one", "chosen"):
        assert "The API server https://127.0.0.1:9 did not return a valid response: " in said[name]
        assert "Connection refused" in said[name]
    assert CANARY not in ran.output


# -- removal --


@pytest.mark.slow
def test_removal_is_confirmed_by_name(tmp_path: Path):
    hosts = dict.fromkeys(("one", "two"), OWN["token"])
    uninstall = PLAYBOOKS / "uninstall.yml"
    for words in ((), ("-e", "confirm=two,ones")):
        ran = _run(uninstall, hosts, tmp_path, *words).expect(2)
        refused = {"one"} if words else {"one", "two"}
        assert _failures(ran).keys() == refused, ran
        assert "-e confirm=one" in _failures(ran)["one"]
        assert "Determine the cluster" not in ran.stdout
        assert "PLAY [Remove" not in ran.stdout
    # Confirmed, or in check mode: one cluster after the other, none after the first that fails.
    for words in (("-e", "confirm=one,two"), ("--check",)):
        said = _failures(_run(uninstall, hosts, tmp_path, *words).expect(2))
        assert said.keys() == {"one"}
        assert "The API server https://127.0.0.1:9 did not return a valid response" in said["one"]
