# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks with a secret in every input, shown as much as Ansible can: none is in what they print and write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import BIN, ROOT, clean_environment, run

NOWHERE = "127.0.0.1:9"
CANARY = "c4nary-"


def secret(place: str) -> str:
    return f"{CANARY}{place}-5f0c2a"


VARIABLES: dict[str, Any] = {
    "istio_cluster_kubeconfig": {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "shop",
        "clusters": [{"name": "shop", "cluster": {"server": f"https://{NOWHERE}"}}],
        "contexts": [{"name": "shop", "context": {"cluster": "shop", "user": "admin"}}],
        "users": [{"name": "admin", "user": {"token": secret("token"), "username": "admin", "password": secret("password")}}],
    },
    "istio_cluster_context": "shop",
    "istio_affinity_services": [
        {
            "namespace": "shop",
            "service": "cart",
            "client": {"pod": "probe-0"},
            "headers": {"Authorization": f"Bearer {secret('header')}", "Cookie": f"session={secret('cookie')}"},
        }
    ],
    "istio_affinity_sink_http": {"url": f"http://{NOWHERE}/put?signature={secret('query')}", "headers": {"Authorization": f"Bearer {secret('sink')}"}},
    "istio_affinity_sink_pushgateway": {"url": f"http://ops:{secret('pusher')}@{NOWHERE}", "headers": {"Authorization": f"Bearer {secret('push')}"}},
}
OUTCOMES: dict[str, tuple[str, dict[str, str], str]] = {
    "the cluster does not respond": ("verify.yml", {}, "did not return a valid response"),
    "the environment overrides the inventory": ("verify.yml", {"K8S_AUTH_API_KEY": secret("environment")}, "K8S_AUTH_API_KEY"),
    "nothing can be installed": ("site.yml", {}, "did not return a valid response"),
}


@pytest.mark.slow
@pytest.mark.parametrize("outcome", [pytest.param(name, marks=[pytest.mark.full] if number else []) for number, name in enumerate(OUTCOMES)])
def test_no_secret_is_printed_or_written(outcome: str, tmp_path: Path) -> None:
    playbook, environment, words = OUTCOMES[outcome]
    reports, log = tmp_path / "reports", tmp_path / "log"
    variables = VARIABLES | {"istio_affinity_report_dir": str(reports), "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": {"prod": {}}, "vars": variables}}))
    shown = {"ANSIBLE_INJECT_INVOCATION": "true", "ANSIBLE_LOG_PATH": str(log), "ANSIBLE_NOCOLOR": "true"}
    ran = run(
        BIN / "ansible-playbook", "-i", inventory, ROOT / playbook, "-vvv", "--diff", cwd=ROOT, env=clean_environment(**shown, **environment), timeout=300
    ).expect(2)
    assert words in re.sub(r"\s+", " ", ran.output)
    places = {"output": ran.output, **{str(path.relative_to(tmp_path)): path.read_text() for path in (log, *reports.rglob("*")) if path.is_file()}}
    assert {place: sorted(set(re.findall(rf"{CANARY}\w+", text))) for place, text in places.items() if CANARY in text} == {}
    folder = re.search(r"kubeconfig: (\S+)/kubeconfig-[0-9a-f]{32}", ran.output)
    assert folder is None or not Path(folder[1]).exists(), "the file with the kubeconfig is removed"
