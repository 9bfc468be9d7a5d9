# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ring hash and Maglev, pinned by what others published; that the lab agrees is tested there."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import MASK, maglev_table, request_hash, ring_chooser, ring_points, xxhash64

# Hosts and figures of Envoy's own tests: test/extensions/load_balancing_policies/{ring_hash/ring_hash_lb,maglev/maglev_lb}_test.cc, Basic
HOSTS = [f"127.0.0.1:{port}" for port in range(90, 96)]


@pytest.mark.parametrize(
    ("data", "seed", "value"),
    [(b"", 0, 0xEF46DB3751D8E999), (b"a", 0, 0xD24EC4F1A98C6E5B), (b"abc", 0, 0x44BC2CF5AD770999), (b"", 1, 0xD5AFBA1336A3BE4B)],
)
def test_xxhash64_equals_its_published_values(data: bytes, seed: int, value: int) -> None:
    assert xxhash64(data, seed) == value


def test_xxhash64_of_long_input_equals_its_published_value() -> None:
    assert xxhash64(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1


def test_the_ring_is_envoys() -> None:
    expected = [
        (833437586790550860, 94),
        (928266305478181108, 92),
        (1033482794131418490, 90),
        (3551244743356806947, 95),
        (3851675632748031481, 93),
        (5583722120771150861, 91),
        (6311230543546372928, 91),
        (7700377290971790572, 93),
        (13144177310400110813, 95),
        (13444792449719432967, 92),
        (15516499411664133160, 94),
        (16117243373044804889, 90),
    ]
    assert ring_points(HOSTS, 12) == [(point, f"127.0.0.1:{port}") for point, port in expected]


@pytest.mark.parametrize(("value", "port"), [(0, 94), (MASK, 94), (3551244743356806947, 95), (3551244743356806948, 93), (16117243373044804880, 90)])
def test_the_first_point_that_is_not_smaller_is_chosen(value: int, port: int) -> None:
    assert ring_chooser(HOSTS, 12)(value) == f"127.0.0.1:{port}"


def test_the_maglev_table_is_envoys() -> None:
    assert maglev_table(HOSTS, 7) == [f"127.0.0.1:{port}" for port in (92, 94, 90, 91, 95, 90, 93)]


def test_a_maglev_table_is_shared_evenly() -> None:
    counts = Counter(maglev_table(HOSTS, 65537))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_maglev_table_with_weights_is_envoys() -> None:
    """The case Weighted of the same test file: two hosts, the second of twice the weight."""
    hosts = ["127.0.0.1:90", "127.0.0.1:91"]
    table = maglev_table(hosts, 17, dict(zip(hosts, (1, 2), strict=True)))
    assert [hosts.index(host) for host in table] == [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]


def test_two_hosts_on_a_ring_of_three_get_two_points_each() -> None:
    """The case UnevenHosts of the same test file."""
    points = ring_points(["127.0.0.1:80", "127.0.0.1:81"], 3)
    assert [(point, host[-2:]) for point, host in points] == [
        (5454692015285649509, "80"),
        (7859399908942313493, "81"),
        (13838424394637650569, "80"),
        (16064866803292627174, "81"),
    ]


def test_equal_policies_are_combined_as_envoy_does() -> None:
    single = request_hash("sid-1")
    assert request_hash("sid-1", 2) == (((single << 1) | (single >> 63)) & MASK) ^ single


def envoys_counts(hosts: int, minimum: int) -> list[int]:
    """The loop of Envoy's ring_hash_lb.cc, point by point."""
    scale = min(math.ceil(1 / hosts * minimum) / (1 / hosts), 8.0 * 1024 * 1024)
    current = target = 0.0
    counts = []
    for _host in range(hosts):
        target += scale * (1 / hosts)
        count = 0
        while current < target:
            count += 1
            current += 1
        counts.append(count)
    return counts


def test_envoys_sums_give_the_first_host_a_point_more_for_some_numbers_of_hosts() -> None:
    """Its order of the hosts then decides which one that is."""
    for number in range(1, 160):
        hosts = [f"10.0.0.{host}:80" for host in range(number, 0, -1)]
        counts = Counter(host for _point, host in ring_points(hosts))
        assert [counts[host] for host in hosts] == envoys_counts(number, 1024)
    for number in (75, 77, 91, 93, 99, 105):
        counts = Counter(host for _point, host in ring_points([f"10.0.1.{host}:80" for host in range(number)]))
        assert counts["10.0.1.0:80"] == counts["10.0.1.1:80"] + 1
