# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host on which a session must land, by Envoy's ring hash and Maglev. Pure.

The algorithms are those of Envoy's source/extensions/load_balancing_policies/{ring_hash,maglev} and of
source/common/http/hash_policy.cc; xxHash64 is that of https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from ansible_collections.meshops.istio.plugins.module_utils._model import ClusterView

MASK = (1 << 64) - 1
PRIME1, PRIME2, PRIME3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME4, PRIME5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
# Envoy's defaults, in force unless Istio sends others.
RING_SIZE, LARGEST_RING = 1024, 8 * 1024 * 1024
TABLE_SIZE = 65537
Chooser = Callable[[int], str]


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & MASK


def _round(state: int, lane: int) -> int:
    return _rotated((state + lane * PRIME2) & MASK, 31) * PRIME1 & MASK


def xxhash64(data: bytes, seed: int = 0) -> int:
    """The 64-bit xxHash of some bytes."""
    position, length = 0, len(data)
    if length >= 32:
        states = [(seed + PRIME1 + PRIME2) & MASK, (seed + PRIME2) & MASK, seed & MASK, (seed - PRIME1) & MASK]
        while position + 32 <= length:
            for lane in range(4):
                states[lane] = _round(states[lane], int.from_bytes(data[position + 8 * lane : position + 8 * lane + 8], "little"))
            position += 32
        result = sum(_rotated(state, bits) for state, bits in zip(states, (1, 7, 12, 18), strict=True)) & MASK
        for state in states:
            result = ((result ^ _round(0, state)) * PRIME1 + PRIME4) & MASK
    else:
        result = (seed + PRIME5) & MASK
    result = (result + length) & MASK
    while position + 8 <= length:
        result = (_rotated(result ^ _round(0, int.from_bytes(data[position : position + 8], "little")), 27) * PRIME1 + PRIME4) & MASK
        position += 8
    if position + 4 <= length:
        result = (_rotated(result ^ (int.from_bytes(data[position : position + 4], "little") * PRIME1 & MASK), 23) * PRIME2 + PRIME3) & MASK
        position += 4
    for byte in data[position:]:
        result = _rotated(result ^ (byte * PRIME5 & MASK), 11) * PRIME1 & MASK
    result = (result ^ (result >> 33)) * PRIME2 & MASK
    result = (result ^ (result >> 29)) * PRIME3 & MASK
    return result ^ (result >> 32)


def ring_points(hosts: Sequence[str], minimum: int = RING_SIZE) -> list[tuple[int, str]]:
    """The ring for hosts of equal weight, in Envoy's order: each has the same number of points, at least `minimum` together,
    but for what Envoy's sums in floating point add or leave out."""
    counts = _counts(len(hosts), minimum)
    return sorted((point, host) for host, count in zip(hosts, counts, strict=True) for point in _points(host, count))


@lru_cache(maxsize=256)
def _counts(hosts: int, minimum: int) -> tuple[int, ...]:
    """How many points each host gets, by the same sums as in Envoy: for 75 hosts on a ring of 1,024 the first gets one more."""
    weight = 1 / hosts
    scale = min(math.ceil(weight * min(minimum, LARGEST_RING)) / weight, float(LARGEST_RING))
    counts, current, target = [], 0, 0.0
    for _host in range(hosts):
        target += scale * weight
        count = max(0, math.ceil(target - current))
        current += count
        counts.append(count)
    return tuple(counts)


@lru_cache(maxsize=64)
def _points(host: str, number: int) -> tuple[int, ...]:
    """Cached, because most hosts of a ring stay when one is added or removed."""
    return tuple(xxhash64(f"{host}_{position}".encode()) for position in range(number))


def ring_chooser(hosts: Sequence[str], minimum: int = RING_SIZE) -> Chooser:
    """The host of the first point that is not smaller than a request's hash; after the last point comes the first."""
    points = ring_points(hosts, minimum)
    hashes = [point for point, _host in points]
    return lambda value: points[bisect.bisect_left(hashes, value) % len(points)][1]


def maglev_table(hosts: Sequence[str], size: int = TABLE_SIZE, weights: Mapping[str, int] | None = None) -> list[str]:
    """The table: in turn, each host takes the next free place of its own permutation, a host with less weight less often."""
    ordered = sorted(hosts)
    steps = [(xxhash64(host.encode()) % size, xxhash64(host.encode(), 1) % (size - 1) + 1) for host in ordered]
    places = [offset for offset, _skip in steps]
    table: list[str | None] = [None] * size
    turns = _turns([(weights or {}).get(host, 1) for host in ordered])
    for _place in range(size):
        number = next(turns)
        place, skip = places[number], steps[number][1]
        while table[place] is not None:
            place += skip
            if place >= size:
                place -= size
        table[place] = ordered[number]
        places[number] = (place + skip) % size
    return [host for host in table if host is not None]


def _turns(weights: Sequence[int]) -> Iterator[int]:
    """An endless sequence of turns: with equal weights one after the other, else by the same sums as in Envoy (in floating
    point, relative to the total)."""
    if len(set(weights)) == 1:
        while True:
            yield from range(len(weights))
    shares = [weight / sum(weights) for weight in weights]
    most, owed, iteration = max(shares), [0.0] * len(weights), 0
    while True:
        iteration += 1
        for number, share in enumerate(shares):
            if iteration * share >= owed[number]:
                owed[number] += most
                yield number


def maglev_chooser(hosts: Sequence[str], size: int = TABLE_SIZE, weights: Mapping[str, int] | None = None) -> Chooser:
    table = maglev_table(hosts, size, weights)
    return lambda value: table[value % size]


@lru_cache(maxsize=4096)
def request_hash(value: str, policies: int = 1) -> int:
    """The hash of a request whose key has this value; several equal policies (weighted routes) are combined."""
    single = xxhash64(value.encode())
    result = single
    for _policy in range(policies - 1):
        result = _rotated(result, 1) ^ single
    return result


def chooser_of(cluster: ClusterView, hosts: Iterable[str], weights: Mapping[str, int] | None = None) -> Chooser:
    """The balancing of a cluster that hashes, over these hosts in Envoy's order; `weights` count for Maglev only
    (`no_prediction`)."""
    if cluster.lb_policy == "MAGLEV":
        return maglev_chooser(sorted(hosts), cluster.table_size or TABLE_SIZE, weights)
    ordered = list(hosts) if isinstance(hosts, Sequence) else sorted(hosts)
    return ring_chooser(ordered, cluster.minimum_ring_size or RING_SIZE)
