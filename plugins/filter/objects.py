# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the roles compare Kubernetes objects: as replacements of the live objects, and by the fields that a definition sets. Pure.

Each filter is documented in a file of its name. `want` is an object as defined, `live` the object in the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts, merged

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


def objects_drift(definitions: Any, live: Any, ignore: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The definitions whose live object is missing or has other values in fields that the definition sets; see objects_drift.yml.

    Fields that a definition leaves out are not compared: the API server's defaults, and additions of admission controllers.
    """
    existing = {identity(current): current for current in dicts(live, "objects_drift")}
    drift = []
    for want in dicts(definitions, "objects_drift"):
        kept = without(want["kind"], want, ignore)
        current = existing.get(identity(want))
        differences = list(compared(want["kind"], kept, current)) if current else ["missing"]
        if differences:
            drift.append({"object": " ".join(part for part in identity(want) if part), "differences": differences, "definition": kept})
    return drift


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"objects_desired": objects_desired, "objects_drift": objects_drift}


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


# -- drift --

# What tells the elements of a list apart, the first that all of them have. As in strategic merge patches, their order does not count.
KEYS = ("mountPath", "name")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?")
FACTORS = {"m": Decimal("0.001"), "k": Decimal(10) ** 3} | {
    f"{unit}{binary}": Decimal(1024 if binary else 1000) ** power for power, unit in enumerate("KMGTPE", start=1) for binary in ("", "i")
}


def identity(item: Object) -> tuple[str, str]:
    metadata = item["metadata"]
    return item["kind"], f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else metadata["name"]


def compared(path: str, want: Any, live: Any) -> Iterator[str]:
    if isinstance(want, Mapping) and (isinstance(live, Mapping) or not want):
        for name, value in want.items():
            yield from compared(f"{path}.{name}", value, live.get(name))
    elif isinstance(want, list) and isinstance(live, list):
        wanted, existing = elements(want), elements(live)
        if key_of(want) is None and len(want) != len(live):
            yield f"{path}: {len(live)} elements, not {len(want)}"
        for name, value in wanted.items():
            yield from compared(f"{path}.{name}", value, existing.get(name))
    elif not same(want, live):
        yield f"{path}: {live!r}, not {want!r}"


def without(path: str, want: Any, ignore: Sequence[str]) -> Any:
    """The definition without the fields that are left alone."""
    if isinstance(want, Mapping):
        kept = {name: value for name, value in want.items() if not any(fnmatchcase(f"{path}.{name}", pattern) for pattern in ignore)}
        return {name: without(f"{path}.{name}", value, ignore) for name, value in kept.items()}
    return [without(f"{path}.{name}", value, ignore) for name, value in elements(want).items()] if isinstance(want, list) else want


def elements(items: Sequence[Any]) -> dict[str, Any]:
    key = key_of(items)
    return {str(item[key] if key else number): item for number, item in enumerate(items)}


def key_of(items: Sequence[Any]) -> str | None:
    for key in KEYS:
        names = [item.get(key) if isinstance(item, Mapping) else None for item in items]
        if all(names) and len(set(names)) == len(names):
            return key
    return None


def same(want: Any, live: Any) -> bool:
    """The API server drops what is empty, and writes quantities in its own way."""
    if live is None or live == want:
        return live == want or not want
    numbers = [quantity(str(value)) for value in (want, live)]
    return str(want) == str(live) or (numbers[0] is not None and numbers[0] == numbers[1])


def quantity(text: str) -> Decimal | None:
    match = QUANTITY.fullmatch(text)
    return Decimal(match[1]) * FACTORS.get(match[2] or "", Decimal(1)) if match else None
