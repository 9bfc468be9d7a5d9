# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the roles compare Kubernetes objects: as they would replace those that are there, and by digests. Pure.

Each filter is documented in a file of its name. A I(want) is an object as it is defined, a I(live) one as the cluster has it.
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

# What other tools write beside what a definition says.
OTHERS = ("labels", "annotations", "finalizers", "ownerReferences")
# Fields of the spec that the cluster fills in when a definition leaves them out.
FILLED_IN = {
    "Deployment": ("replicas",),
    "Service": ("allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "healthCheckNodePort", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass"),
}
# Their status alone moves their resourceVersion, so a replacement can't insist on it.
UNVERSIONED = ("CronJob", "Deployment", "HorizontalPodAutoscaler")
RESTARTED = "kubectl.kubernetes.io/restartedAt"


def objects_desired(definitions: Any, live: Any) -> list[Object]:
    """Each definition with what the cluster and other tools own in the object that is there; as it is where none is."""
    wanted, there = dicts(definitions, "objects_desired"), dicts(live, "objects_desired")
    if len(wanted) != len(there):
        raise AnsibleFilterError(f"objects_desired needs as many objects as definitions, not {len(there)} for {len(wanted)}; of one that is missing {{}}.")
    return [replacement(want, current) if current else want for want, current in zip(wanted, there, strict=True)]


def objects_digests(objects: Any, waited: bool = False) -> list[list[str]]:
    """For each object [apiVersion, kind, namespace, name, digest of all in it that only its owner may change].

    C(waited) says that the pods of its Deployments were waited for since, so that an older status means nothing.
    """
    there = [live for live in dicts(objects, "objects_digests") if live]
    scaled = {live["spec"]["scaleTargetRef"]["name"] for live in there if live["kind"] == "HorizontalPodAutoscaler"}
    return [[*identity(live), digest([live["metadata"]["uid"], live["metadata"].get("labels", {}), owned(live, scaled, waited)])] for live in there]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"objects_desired": objects_desired, "objects_digests": objects_digests}


# -- as it would replace the object that is there --


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
    """Without it a replacement would be one more rollout."""
    if want["kind"] != "Deployment":
        return want
    restarted = (live["spec"]["template"].get("metadata", {}).get("annotations") or {}).get(RESTARTED)
    return merged(want, {"spec": {"template": {"metadata": {"annotations": {RESTARTED: restarted}}}}}) if restarted else want


def secrets_of_an_account(want: Object, live: Object) -> Object:
    if want["kind"] != "ServiceAccount":
        return want
    return {**{name: value for name, value in live.items() if name in ("secrets", "imagePullSecrets")}, **want}


def what_istiod_writes_into_webhooks(want: Object, live: Object) -> Object:
    """Its certificate, and the policy of those that validate: it is C(Fail) once istiod is up."""
    if "webhooks" not in want:
        return want
    there = {hook["name"]: hook for hook in live.get("webhooks") or []}
    names = ("failurePolicy",) if want["kind"] == "ValidatingWebhookConfiguration" else ()
    return {**want, "webhooks": [webhook(hook, there.get(hook["name"], {}), names) for hook in want["webhooks"]]}


def webhook(hook: Object, live: Object, names: Sequence[str]) -> Object:
    bundle = live.get("clientConfig", {}).get("caBundle")
    certificate = {} if bundle is None else {"clientConfig": {"caBundle": bundle}}
    return merged(certificate, hook, {name: live[name] for name in names if name in live})


KEPT: tuple[Callable[[Object, Object], Object], ...] = (
    metadata_of_others,
    fields_of_the_cluster,
    time_of_a_restart,
    secrets_of_an_account,
    what_istiod_writes_into_webhooks,
)


# -- digests --


def owned(live: Object, scaled: set[str], waited: bool) -> Any:
    """What is in an object that only its owner may change."""
    if live["kind"] == "CustomResourceDefinition":
        # Half a megabyte: the generation stands for what is in it.
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


# -- small words --


def merged(*parts: Object) -> dict[str, Any]:
    """As Ansible's combine with recursive=true: later parts count, and a list is replaced as a whole."""
    result: dict[str, Any] = {}
    for part in parts:
        result = merge_hash(result, dict(part))  # type: ignore[no-untyped-call]  # ansible-core has no types for it
    return result


def plain(value: Any) -> Any:
    """Ansible 2.19 hands over containers that make their items on access, and C(json) written in C does not ask them."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
