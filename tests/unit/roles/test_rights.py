# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each account may do, from the manifests that are shipped; and how the pods that they make are held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from harness import ROOT

FILES = ROOT / "roles/istio_affinity/files"
ACCOUNT, PROBES = "meshops-istio-verify", "meshops-istio-verify-probes"
PAGE = ROOT / "docs/compliance.md"


def manifests(folder: str) -> dict[str, dict[str, Any]]:
    """The objects of a folder by their kinds and names."""
    objects = [yaml.safe_load(path.read_text()) for path in sorted((FILES / folder).iterdir())]
    return {f"{entry['kind']}/{entry['metadata']['name']}": entry for entry in objects}


def granted(folder: str) -> Iterator[tuple[str, str, str]]:
    """Place, resources and verbs of each rule that a binding in the folder grants."""
    objects = manifests(folder)
    for binding in objects.values():
        if "roleRef" not in binding:
            continue
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT}]
        role = objects[f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}"]
        place = f"`{binding['metadata']['namespace']}`" if binding["kind"] == "RoleBinding" else "all namespaces"
        for rule in role["rules"]:
            names = ", ".join(f"`{name}`" for name in rule.get("resourceNames", []))
            yield place, ", ".join(rule["resources"]) + (f": {names} only" if names else ""), ", ".join(rule["verbs"])


def table() -> str:
    rows = [(folder, *row) for folder in ("rbac", "rbac-probe-pod", "rbac-configmap") for row in granted(folder)]
    lines = ["| folder | in | on | verbs |", "|---|---|---|---|", *(f"| `{folder}` | {' | '.join(row)} |" for folder, *row in rows)]
    return "\n".join(lines)


def test_the_page_lists_what_the_manifests_grant() -> None:
    assert table() in PAGE.read_text(), f"docs/compliance.md needs:\n{table()}"


def test_nothing_that_leads_further_is_granted() -> None:
    """No Secret, no exec but into the probe pods, no right to change rights, no wildcard; pods are created where nothing else is."""
    for folder in ("rbac", "rbac-probe-pod", "rbac-configmap"):
        for entry in manifests(folder).values():
            for rule in entry.get("rules", []):
                assert "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]
                assert not {"secrets", "serviceaccounts", "serviceaccounts/token", "nodes/proxy"} & set(rule["resources"])
                assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"])
                if "pods/exec" in rule["resources"]:
                    assert rule["resourceNames"] == ["meshops-istio-probe", "meshops-istio-probe-0"]
    created = [(place, resource) for folder in ("rbac", "rbac-probe-pod", "rbac-configmap") for place, resource, verbs in granted(folder) if "create" in verbs]
    assert [place for place, resource in created if resource == "pods"] == [f"`{PROBES}`"]


def test_the_namespace_of_the_probe_pods_holds_nothing_else() -> None:
    for folder in ("rbac", "rbac-probe-pod", "rbac-configmap", "probe"):
        here = {name for name, entry in manifests(folder).items() if entry["metadata"].get("namespace") == PROBES}
        assert {name.partition("/")[0] for name in here} <= {"Role", "RoleBinding", "StatefulSet"}
    assert manifests("rbac")[f"Namespace/{ACCOUNT}"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_policy_is_for_the_pod_that_the_role_creates() -> None:
    """The policy names what the defaults of the role name."""
    defaults = yaml.safe_load((ROOT / "roles/istio_affinity/defaults/main.yml").read_text())
    policy = manifests("rbac-probe-pod")["ValidatingAdmissionPolicy/meshops-istio-verify-probe-pod"]["spec"]
    variables = {entry["name"]: entry["expression"].strip("'") for entry in policy["variables"]}
    assert (variables["place"], variables["pod"], variables["image"]) == (
        defaults["istio_affinity_probe_pod_namespace"],
        defaults["istio_affinity_probe_pod_name"],
        defaults["istio_affinity_probe_pod_image"],
    )
    assert policy["failurePolicy"] == "Fail"
    assert manifests("rbac-probe-pod")["ValidatingAdmissionPolicyBinding/meshops-istio-verify-probe-pod"]["spec"]["validationActions"] == ["Deny"]
