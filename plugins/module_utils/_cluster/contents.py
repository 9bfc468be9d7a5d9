# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything in a namespace, by discovery of the API, and which objects would be lost with it.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict

# What comes into every namespace by itself: kind -> names.
AUTOMATIC = {
    "ConfigMap": ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert", "istio-ca-crl"),
    "ServiceAccount": ("default",),
}
# Records, which hold nothing of anybody's.
RECORDS = {("", "Event"), ("events.k8s.io", "Event"), ("coordination.k8s.io", "Lease")}
ACCOUNT_ANNOTATION = "kubernetes.io/service-account.name"
# Marks of the controllers that make Endpoints, which have no owner: a label since Kubernetes 1.33, an annotation before.
ENDPOINTS_LABEL = "endpoints.kubernetes.io/managed-by"
ENDPOINTS_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"


@dataclass(frozen=True)
class Kind:
    """A kind that can be listed and deleted in a namespace."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True)
class Item:
    """The metadata of an object."""

    kind: Kind
    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    # Of the owner that controls it: UID, API group, kind.
    controller: tuple[str, str, str] | None = None
    leaving: bool = False


@dataclass(frozen=True)
class Contents:
    """The objects of a namespace, the kinds that were read, and in sentences what was not."""

    items: tuple[Item, ...]
    kinds: frozenset[tuple[str, str]]
    unread: tuple[str, ...]


def read_contents(cluster: Cluster, namespace: str) -> Contents:
    """All objects of a namespace but records. A kind that cannot be read is noted, not skipped: what is in it is unknown."""
    unread: list[str] = []
    kinds, items = tuple(_kinds(cluster, unread)), dict[str, Item]()
    for kind in kinds:
        try:
            listed = cluster.metadata(kind.group, kind.version, kind.plural, namespace)
        except CheckError as error:
            unread.append(error.msg)
            continue
        # An object that two API groups serve is one object.
        items |= {item.uid: item for item in (item_of(kind, entry) for entry in listed) if item.uid not in items}
    return Contents(tuple(items.values()), frozenset((kind.group, kind.kind) for kind in kinds), tuple(unread))


def _kinds(cluster: Cluster, unread: list[str]) -> Iterator[Kind]:
    """Each resource in the first version that serves it: not every kind is served in its group's preferred version."""
    for group, versions in cluster.api_groups():
        served: set[str] = set()
        for version in versions:
            try:
                resources = cluster.api_resources(group, version)
            except CheckError as error:
                unread.append(error.msg)
                continue
            for kind in kinds_of(group, version, resources):
                if kind.plural not in served:
                    served.add(kind.plural)
                    yield kind


def kinds_of(group: str, version: str, resources: Sequence[JsonDict]) -> list[Kind]:
    """What a namespace's deletion would delete, of a discovery document."""
    return [
        Kind(group, version, entry["name"], entry["kind"])
        for entry in resources
        if entry.get("namespaced") and {"list", "delete"} <= set(entry.get("verbs") or ()) and (group, entry["kind"]) not in RECORDS
    ]


def item_of(kind: Kind, entry: JsonDict) -> Item:
    meta = entry["metadata"]
    controllers = [owner for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    return Item(
        kind=kind,
        name=meta["name"],
        uid=meta["uid"],
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
        controller=next(((owner["uid"], owner["apiVersion"].rpartition("/")[0], owner["kind"]) for owner in controllers), None),
        leaving="deletionTimestamp" in meta,
    )


def foreign(contents: Contents, own: Mapping[str, str], ignore: Sequence[tuple[str, str]] = ()) -> list[Item]:
    """The objects that do not come by themselves, are not being deleted and lack the labels of the owner.

    An object with a controller is not listed: either its controller is, or it goes with it, or it is already waiting for the garbage collector.
    `ignore` has more pairs of a kind and a pattern of names.
    """
    uids = {item.uid for item in contents.items}
    found = [
        item
        for item in contents.items
        if not (item.leaving or (own and own.items() <= item.labels.items()) or _is_automatic(item) or _is_controlled(item, uids, contents.kinds))
        and not any(item.kind.kind == kind and fnmatchcase(item.name, pattern) for kind, pattern in ignore)
    ]
    return sorted(found, key=lambda item: (item.kind.kind, item.kind.group, item.name))


def _is_automatic(item: Item) -> bool:
    if item.kind.group:
        return False
    if item.kind.kind == "Secret":
        return item.annotations.get(ACCOUNT_ANNOTATION) == "default"
    if item.kind.kind == "Endpoints":
        return ENDPOINTS_LABEL in item.labels or ENDPOINTS_ANNOTATION in item.annotations
    return item.name in AUTOMATIC.get(item.kind.kind, ())


def _is_controlled(item: Item, uids: set[str], kinds: frozenset[tuple[str, str]]) -> bool:
    if item.controller is None:
        return False
    uid, group, kind = item.controller
    # A controller that is not in the namespace, of a kind that was read, is gone.
    return uid in uids or (group, kind) in kinds
