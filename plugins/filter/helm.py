# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Helm's records in the cluster say about releases, compared with what is wanted. Pure."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.yaml import yaml_load

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts, merged

Record = Mapping[str, Any]

# The label of a record whose release the role installed or adopted. Helm 3.13 and later copy it to each new revision.
MARK = "meshops.istio/control-plane"
# The annotation by which earlier versions of the role noted on the record what they had installed.
EARLIER_MARK = "meshops.istio/verified"
# Statuses: https://helm.sh/docs/helm/helm_status/
UNFINISHED = re.compile(r"pending-|uninstalling")
GITOPS = {"argocd.argoproj.io": "Argo CD", "kustomize.toolkit.fluxcd.io": "Flux", "helm.toolkit.fluxcd.io": "Flux"}
SECRET = re.compile(r"passw|secret|token|credential|private|api_?key", re.IGNORECASE)


def helm_plan(records: Any, releases: Any, keep_values: bool = True, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For each release what is installed, whose it is, the values to install, and what would change; see helm_plan.yml."""
    secrets = dicts(records, "helm_plan")
    return [planned(release, [secret for secret in secrets if is_of(secret, release)], keep_values, kinds) for release in dicts(releases, "helm_plan")]


def helm_unlocked(record: Any) -> dict[str, Any]:
    """A patch by which an unfinished revision counts as failed, as Helm records an interruption; Helm then continues from the last deployed revision."""
    [secret] = dicts([record], "helm_unlocked")
    release = decoded(secret)
    release["info"] |= {"status": "failed", "description": "Did not finish; recorded as failed by meshops.istio"}
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    meta = secret["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # If Helm is at work after all, it changes the record, and the API server refuses this version.
        "metadata": {**{name: meta[name] for name in ("name", "namespace", "resourceVersion")}, "labels": {"status": "failed"}},
        "data": {"release": base64.b64encode(packed).decode()},
    }


def gitops_owner(live: Any) -> str:
    """The GitOps tool that manages an object, by its labels and annotations; empty if there is none."""
    metadata = [(item.get("metadata") or {}).get(part) or {} for item in dicts(live, "gitops_owner") for part in ("labels", "annotations")]
    return next((tool for names in metadata for name in names for domain, tool in GITOPS.items() if name.split("/")[0] == domain), "")


def collection_version(name: str) -> str:
    """The version of an installed collection, from its manifest; 0 for one without."""
    manifest = files(f"ansible_collections.{name}") / "MANIFEST.json"
    return str(json.loads(manifest.read_text())["collection_info"]["version"]) if manifest.is_file() else "0"


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"collection_version": collection_version, "gitops_owner": gitops_owner, "helm_plan": helm_plan, "helm_unlocked": helm_unlocked}


# -- plans --


def planned(release: Mapping[str, Any], records: Sequence[Record], keep_values: bool, kinds: Sequence[str]) -> dict[str, Any]:
    history = sorted(records, key=lambda record: int(record["metadata"]["labels"]["version"]))
    if history and status_of(history[-1]) == "uninstalled":
        history = []
    owner = owner_of(history)
    installed = installed_release(history, kinds)
    plan = {**release, "owner": owner, "installed": installed}
    plan["values"] = wanted_values(release, installed.get("values", {}), keep_values and owner in ("adopted", "other"))
    older = release.get("newest") and numbers(release["version"]) < numbers(installed.get("version", ""))
    plan["version"] = installed["version"] if older else release["version"]
    return {**plan, "changes": list(changes(plan)) if installed else ["not installed"]}


def owner_of(history: Sequence[Record]) -> str:
    """`role`, `adopted`, `other`, or nothing if there is no release."""
    marks = [(record["metadata"].get("labels") or {}).get(MARK) for record in history]
    if "adopted" in marks:
        return "adopted"
    earlier = any(EARLIER_MARK in (record["metadata"].get("annotations") or {}) for record in history)
    return "" if not history else "role" if any(marks) or earlier else "other"


def installed_release(history: Sequence[Record], kinds: Sequence[str]) -> dict[str, Any]:
    """The latest revision's state, with chart and values of the last one that was deployed."""
    if not history:
        return {}
    latest = history[-1]
    deployed = [record for record in history if status_of(record) == "deployed"]
    content = decoded((deployed or [latest])[-1])
    chart, info = content["chart"]["metadata"], decoded(latest)["info"]
    return {
        "status": status_of(latest),
        "unfinished": UNFINISHED.match(status_of(latest)) is not None,
        "revision": int(latest["metadata"]["labels"]["version"]),
        "deployed": int(deployed[-1]["metadata"]["labels"]["version"]) if deployed else 0,
        "secret": latest["metadata"]["name"],
        "marked": MARK in latest["metadata"]["labels"],
        "first_deployed": seconds(info["first_deployed"]),
        "changed_at": seconds(info.get("deleted") or info["last_deployed"]),
        "chart": chart["name"],
        "version": chart["version"],
        "values": content.get("config") or {},
        "gitops": next((tool for domain, tool in GITOPS.items() if f" {domain}/" in content["manifest"]), ""),
        "objects": [of_the_release(item, content) for item in objects_of(content["manifest"], kinds)],
    }


def wanted_values(release: Mapping[str, Any], current: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """The layers of values, merged in order: over the role's own, or over those that an adopted release has."""
    own = {**release.get("defaults", {}), **{name: current[name] for name in release.get("kept", ()) if name in current}}
    return merged(current if keep else own, *dicts(release.get("layers", []), "helm_plan"))


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def changes(plan: Mapping[str, Any]) -> Iterator[str]:
    installed = plan["installed"]
    for name, old, new in (
        ("status", installed["status"], "deployed"),
        ("chart", installed["chart"], plan["chart"]),
        ("version", installed["version"], plan["version"] if plan.get("pinned", True) else installed["version"]),
    ):
        if old != new:
            yield f"{name}: {old} -> {new}"
    yield from differences("values", plain(installed["values"]), plain(plan["values"]))


def differences(path: str, old: Any, new: Any) -> Iterator[str]:
    """A line for each value that differs; values with the name of a secret are not shown."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from differences(f"{path}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield f"{path}: {shown(path, old)} -> {shown(path, new)}"


def shown(path: str, value: Any) -> str:
    if value is None:
        return "none"
    if SECRET.search(path) or SECRET.search(json.dumps(value)):
        return "(hidden)"
    return json.dumps(value)


# -- records --


def is_of(record: Record, release: Mapping[str, Any]) -> bool:
    labels = record["metadata"].get("labels") or {}
    return (labels.get("name"), record["metadata"]["namespace"]) == (release["name"], release["namespace"])


def status_of(record: Record) -> str:
    return str(record["metadata"]["labels"]["status"])


def decoded(record: Record) -> dict[str, Any]:
    """Helm's record of a release: JSON, compressed, in Base64, and in Base64 once more as the data of a Secret."""
    try:
        content = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(record["data"]["release"]))))
    except (KeyError, OSError, ValueError) as error:
        raise AnsibleFilterError(f"Secret {record['metadata']['name']} is not a record of Helm 3 or 4: {error}") from error
    return dict(content)


def seconds(time: str) -> int:
    """Helm's times have nanoseconds, and the time zone of the machine that it ran on."""
    zone = time[-6:] if time[-6] in "+-" else "+00:00"
    return int(datetime.strptime(time[:19] + zone, "%Y-%m-%dT%H:%M:%S%z").timestamp())


def objects_of(manifest: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of these kinds. The others are not parsed: the CRDs of Istio alone have almost a megabyte."""
    wanted = re.compile(rf"^kind: [\"']?({'|'.join(map(re.escape, kinds))})[\"']?\s*$", re.MULTILINE)
    return [yaml_load(text) for text in re.split(r"^---", manifest, flags=re.MULTILINE) if kinds and wanted.search(text)]


def of_the_release(item: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the metadata by which Helm knows its own, which Helm adds when it installs."""
    owner = {"meta.helm.sh/release-name": content["name"], "meta.helm.sh/release-namespace": content["namespace"]}
    metadata = {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": owner}
    return merged(item, {"metadata": metadata})


def plain(value: Any) -> Any:
    """Plain containers without nulls, which Helm drops."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
