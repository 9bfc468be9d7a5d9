# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which pod gave an answer, by what the answer, the sidecar's log or the sidecar's counters say. Pure.

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
# A body that names its pod does so early; the rest of a large one is not kept.
BODY_KEPT = 64 * 1024


@dataclass(frozen=True)
class Method:
    """The option `identify` with what it needs: `name` is auto or a method, `pattern` finds the pod in a body."""

    name: str
    headers: tuple[str, ...]
    pattern: re.Pattern[str] | None = None

    def labels(self, chosen: str) -> tuple[str, ...]:
        """What the fields of a raw identity are, for the result."""
        return tuple(f"header {header}" for header in self.headers) if chosen == HEADER else (chosen,)


@dataclass(frozen=True)
class Identification:
    """How the pods were known, and which pod each raw identity means; `unknown` values mean none."""

    by: str | None
    pods: dict[str, str]
    unknown: tuple[str, ...]


def names_of(backends: Iterable[Backend]) -> dict[str, set[str]]:
    """Every name by which an answer may call a backend - its pod's name, its IP, its address - and the pods it means."""
    names: dict[str, set[str]] = {}
    for backend in backends:
        for name in (backend.pod, backend.address, backend.address.rpartition(":")[0].strip("[]")):
            names.setdefault(name.lower(), set()).add(backend.pod)
    return names


def identify(identities: Iterable[str], labels: Sequence[str], backends: Iterable[Backend]) -> Identification:
    """Take the field most of whose values mean exactly one backend."""
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


def in_body(pattern: re.Pattern[str], body: bytes) -> str:
    """What the pattern finds in a body - its first group, or all of the match - or nothing."""
    match = pattern.search(body.decode("utf-8", "replace"))
    if match is None:
        return ""
    return (match.group(1) if pattern.groups else match.group(0)) or ""


def in_log(log: str, request_ids: dict[str, int], addresses: Iterable[str]) -> dict[int, str]:
    """For each request whose ID stands in a line of the access log the one backend address in that line.

    Text and JSON formats alike hold %UPSTREAM_HOST%; the line is searched for it, so no format needs to be known.
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
    """Requests by address; one address stands in several clusters where the service has subsets."""
    totals: Counter[str] = Counter()
    for host in hosts:
        totals[host.address] += host.rq_total
    return totals


def addresses_by_counters(before: Sequence[Host], after: Sequence[Host], answers: int) -> list[str] | None:
    """The addresses that gave so many answers, each as often as its counter of requests rose; None where the counters
    do not add up to the answers, because of other traffic, retries or a part of a page that is missing, or where hosts
    came or went."""
    earlier, later = _totals(before), _totals(after)
    if earlier.keys() != later.keys():
        return None
    rises = [(address, total - earlier.get(address, 0)) for address, total in later.items()]
    if any(rise < 0 for _address, rise in rises) or sum(rise for _address, rise in rises) != answers:
        return None
    return [address for address, rise in rises for _count in range(rise)]
