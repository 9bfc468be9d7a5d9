# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the roles compare Kubernetes objects: as replacements of the live objects, and by digests. Pure.

Each filter is documented in a file of its name. `want` is an object as defined, `live` the object in the cluster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.utils.vars import merge_hash

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

Object = Mapping[str, Any]

# Metadata that other tools write too.
OTHERS = ("labels", "annotations", "finalizers", "ownerReferences")
# Fields of the spec that the cluster fills in when a definition leaves them out.
FILLED_IN = {
    "Deployment": ("replicas",),
    "Service": ("allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "healthCheckNodePort", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass"),
}
# Kinds whose status changes the resourceVersion all the time, which is why a replacement cannot require it.
UNVERSIONED = ("CronJob", "Deployment", "HorizontalPodAutoscaler")
RESTARTED = "kubectl.kubernetes.io/restartedAt"


def objects_desired(definitions: Any, live: Any) -> list[Object]:
    """Each definition with the fields of the live object that the cluster and other tools own; unchanged if there is no live object."""
    wanted, existing = dicts(definitions, "objects_desired"), dicts(live, "objects_desired")
    if len(wanted) != len(existing):
        raise AnsibleFilterError(f"objects_desired needs one live object for each definition, not {len(existing)} for {len(wanted)}; pass {{}} if missing.")
    return [replacement(want, current) if current else want for want, current in zip(wanted, existing, strict=True)]


def objects_digests(objects: Any, waited: bool = False) -> list[list[str]]:
    """For each object [apiVersion, kind, namespace, name, digest of the fields that only its owner may change].

    `waited`: the caller has waited for the pods of the Deployments since, and their older status is ignored.
    """
    existing = [live for live in dicts(objects, "objects_digests") if live]
    scaled = {live["spec"]["scaleTargetRef"]["name"] for live in existing if live["kind"] == "HorizontalPodAutoscaler"}
    return [[*identity(live), digest([live["metadata"]["uid"], live["metadata"].get("labels", {}), owned(live, scaled, waited)])] for live in existing]


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"objects_desired": objects_desired, "objects_digests": objects_digests}


# -- replacements --


def replacement(want: Object, live: Object) -> Object:
    for keep in KEPT:
        want = keep(want, live)
    return want


def metadata_of_others(want: Object, live: Object) -> Object:
    kept = {name: value for name, value in live["metadata"].items() if name in OTHERS}
    version = {} if want["kind"] in UNVERSIONED else {"resourceVersion": live["metadata"]["resourceVersion"]}
    return {**want, "metadata": merged(kept, version, want["metadata"])}


def fields_of_the_cluster(want: Object, live: Object) -> Object:
    names = FILLED_IN.get(want["kind"], ())
    if not names or "spec" not in want:
        return want
    return {**want, "spec": {name: value for name, value in live["spec"].items() if name in names} | want["spec"]}


def time_of_a_restart(want: Object, live: Object) -> Object:
    """Keep the restart timestamp: without it, the replacement would start another rollout."""
    if want["kind"] != "Deployment":
        return want
    restarted = (live["spec"]["template"].get("metadata", {}).get("annotations") or {}).get(RESTARTED)
    return merged(want, {"spec": {"template": {"metadata": {"annotations": {RESTARTED: restarted}}}}}) if restarted else want


def secrets_of_an_account(want: Object, live: Object) -> Object:
    if want["kind"] != "ServiceAccount":
        return want
    return {**{name: value for name, value in live.items() if name in ("secrets", "imagePullSecrets")}, **want}


def webhook_fields_of_istiod(want: Object, live: Object) -> Object:
    """Keep istiod's certificate and, for validating webhooks, the policy that istiod sets to `Fail` once it is ready."""
    if "webhooks" not in want:
        return want
    hooks = {hook["name"]: hook for hook in live.get("webhooks") or []}
    names = ("failurePolicy",) if want["kind"] == "ValidatingWebhookConfiguration" else ()
    return {**want, "webhooks": [webhook(hook, hooks.get(hook["name"], {}), names) for hook in want["webhooks"]]}


def webhook(hook: Object, live: Object, names: Sequence[str]) -> Object:
    bundle = live.get("clientConfig", {}).get("caBundle")
    certificate = {} if bundle is None else {"clientConfig": {"caBundle": bundle}}
    return merged(certificate, hook, {name: live[name] for name in names if name in live})


KEPT: tuple[Callable[[Object, Object], Object], ...] = (
    metadata_of_others,
    fields_of_the_cluster,
    time_of_a_restart,
    secrets_of_an_account,
    webhook_fields_of_istiod,
)


# -- digests --


def owned(live: Object, scaled: set[str], waited: bool) -> Any:
    """The fields of an object that only its owner may change."""
    if live["kind"] == "CustomResourceDefinition":
        # A CRD has half a megabyte; its generation changes with its content.
        return live["metadata"]["generation"]
    if "webhooks" in live:
        loose = {"failurePolicy": ""} if live["kind"] == "ValidatingWebhookConfiguration" else {}
        return [merged(hook, {"clientConfig": {"caBundle": ""}}, loose) for hook in live["webhooks"]]
    content = {name: value for name, value in live.items() if name not in ("metadata", "status", "secrets", "imagePullSecrets")}
    if live["kind"] != "Deployment":
        return content
    spec: dict[str, Any] = {"template": {"metadata": {"annotations": {RESTARTED: ""}}}}
    if live["metadata"]["name"] in scaled:
        spec["replicas"] = 0
    return merged(content, {"spec": spec, "ready": waited or rolled_out(live)})


def rolled_out(deployment: Object) -> bool:
    status = deployment.get("status", {})
    pods = {status.get(name, 0) for name in ("updatedReplicas", "availableReplicas", "replicas")}
    return status.get("observedGeneration", 0) == deployment["metadata"]["generation"] and pods == {deployment["spec"]["replicas"]}


def identity(live: Object) -> list[str]:
    return [live["apiVersion"], live["kind"], live["metadata"].get("namespace", ""), live["metadata"]["name"]]


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()[:16]


# -- helpers --


def merged(*parts: Object) -> dict[str, Any]:
    """Merge as Ansible's `combine` with recursive=true: later parts win, and lists are replaced as a whole."""
    result: dict[str, Any] = {}
    for part in parts:
        result = merge_hash(result, dict(part))  # type: ignore[no-untyped-call]  # ansible-core has no types for it
    return result


def plain(value: Any) -> Any:
    """Convert to plain containers: those of Ansible 2.19 create items on access, which the C implementation of `json` bypasses."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
