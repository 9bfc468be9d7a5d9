# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which pod responded, from the response, the sidecar's access log or the sidecar's counters. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, Host
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD

HEADER, BODY, ACCESS_LOG, UPSTREAM = METHODS = ("header", "body", "access_log", "upstream")
# A body that names its pod does so early; the rest of a large body is dropped.
BODY_KEPT = 64 * 1024
# The letters that Kubernetes generates names from: k8s.io/apimachinery/pkg/util/rand.
_OF_REPLICA_SET = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{6,10}-[bcdfghjklmnpqrstvwxz2456789]{5}(?![a-z0-9-])")
_IN_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
LONGEST_NAME = 240


@dataclass(frozen=True)
class Method:
    """The option `identify` with its parameters: `name` is auto or a method, `pattern` matches the pod in a body."""

    name: str
    headers: tuple[str, ...]
    pattern: re.Pattern[str] | None = None

    def labels(self, chosen: str) -> tuple[str, ...]:
        """Names of a raw identity's fields, for the result."""
        return tuple(f"header {header}" for header in self.headers) if chosen == HEADER else (chosen,)


@dataclass(frozen=True)
class Identification:
    """The method that identified the pods, and the pod of each raw identity; `unknown` values match none."""

    by: str | None
    pods: dict[str, str]
    unknown: tuple[str, ...]


def names_of(backends: Iterable[Backend]) -> dict[str, set[str]]:
    """Every name that a response may use for a backend - its pod's name, its IP, its address - with the matching pods."""
    names: dict[str, set[str]] = {}
    for backend in backends:
        for name in (backend.pod, backend.address, backend.address.rpartition(":")[0].strip("[]")):
            names.setdefault(name.lower(), set()).add(backend.pod)
    return names


def identify(identities: Iterable[str], labels: Sequence[str], backends: Iterable[Backend]) -> Identification:
    """Select the field that matches exactly one backend for most of its values."""
    names = names_of(backends)
    raw = sorted(identities)
    best = Identification(None, {}, tuple(identity.strip(FIELD) for identity in raw))
    for position, label in enumerate(labels):
        pods: dict[str, str] = {}
        unknown = []
        for identity in raw:
            fields = identity.split(FIELD)
            value = fields[position].strip() if position < len(fields) else ""
            owners = names.get(value.lower(), set())
            if len(owners) == 1:
                pods[identity] = next(iter(owners))
            else:
                unknown.append(value)
        if len(pods) > len(best.pods):
            best = Identification(label, pods, tuple(unknown))
    return best


def named_pods(text: str) -> frozenset[str]:
    """The names in a text that only a pod of a ReplicaSet has: its hash and five letters more, both without vowels."""
    names = set()
    for match in _OF_REPLICA_SET.finditer(text):
        start = match.start()
        while start > 0 and text[start - 1] in _IN_NAME and match.start() - start < LONGEST_NAME:
            start -= 1
        if name := text[start : match.end()].lstrip("-."):
            names.add(name)
    return frozenset(names)


def in_body(pattern: re.Pattern[str], body: bytes) -> str:
    """The match of the pattern in a body, or its first group; empty without a match."""
    match = pattern.search(body.decode("utf-8", "replace"))
    if match is None:
        return ""
    return (match.group(1) if pattern.groups else match.group(0)) or ""


def in_log(log: str, request_ids: dict[str, int], addresses: Iterable[str]) -> dict[int, str]:
    """For each request whose ID is in a line of the access log, the one backend address in that line.

    Text and JSON formats both contain %UPSTREAM_HOST%; the line is searched for an address, so the format does not matter.
    """
    known = sorted(addresses, key=len, reverse=True)
    word = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    addresses_by_index: dict[int, str] = {}
    for line in log.splitlines():
        index = next((request_ids[name] for name in word.findall(line) if name in request_ids), None)
        if index is None:
            continue
        hits = {address for address in known if re.search(rf"(?<![\d.]){re.escape(address)}(?!\d)", line)}
        if len(hits) == 1:
            addresses_by_index[index] = next(iter(hits))
    return addresses_by_index


def _totals(hosts: Sequence[Host]) -> Counter[str]:
    """Requests by address; with subsets, one address is in several clusters."""
    totals: Counter[str] = Counter()
    for host in hosts:
        totals[host.address] += host.rq_total
    return totals


def addresses_by_counters(before: Sequence[Host], after: Sequence[Host], answers: int) -> list[str] | None:
    """The addresses of this many responses, each as often as its request counter rose. None if the counters do not add up
    to the responses, because of other traffic, retries or a truncated page, or if hosts were added or removed."""
    earlier, later = _totals(before), _totals(after)
    if earlier.keys() != later.keys():
        return None
    rises = [(address, total - earlier.get(address, 0)) for address, total in later.items()]
    if any(rise < 0 for _address, rise in rises) or sum(rise for _address, rise in rises) != answers:
        return None
    return [address for address, rise in rises for _count in range(rise)]
