# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clusters and their hosts from Envoy's admin pages. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._envoy.values import hash_policies, int_of, istio_rule
from ansible_collections.meshops.istio.plugins.module_utils._model import ClusterView, HashPolicy, Host, JsonDict

# Fields that Istio never sends in a cluster's ring_hash_lb_config, and their effect.
RING_EXTRAS = {"hash_function": "another hash function", "maximum_ring_size": "a largest ring size"}
PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Envoy prints these for each host; if one is missing, the page is truncated and the host is not used.
NEEDED = ("health_flags", "weight", "priority", "rq_total")


def parse_clusters(dump: JsonDict) -> dict[str, ClusterView]:
    views = {}
    for config in dump.get("configs") or []:
        cluster = config.get("cluster") or {}
        ring = (cluster.get("ring_hash_lb_config") or {}).get("minimum_ring_size")
        table = (cluster.get("maglev_lb_config") or {}).get("table_size")
        view = ClusterView(
            name=cluster.get("name", ""),
            type=cluster.get("type", "STATIC"),
            lb_policy=cluster.get("lb_policy", "ROUND_ROBIN"),
            rule=istio_rule(cluster.get("metadata"), "destination-rule"),
            version=str(config.get("version_info", "")),
            minimum_ring_size=int(ring) if ring is not None else None,
            table_size=int(table) if table is not None else None,
            by_locality="locality_weighted_lb_config" in (cluster.get("common_lb_config") or {}),
            unusual=tuple(_unusual_balancing(cluster)),
            panic=_panic_threshold(cluster),
            updated=config.get("last_updated"),
            hash_policies=tuple(_own_policies(cluster)),
        )
        views[view.name] = view
    return views


def _own_policies(cluster: JsonDict) -> Iterator[HashPolicy]:
    """The hash policies of the cluster itself (Envoy 1.37 and newer)."""
    options = (cluster.get("typed_extension_protocol_options") or {}).get(PROTOCOL_OPTIONS) or {}
    return hash_policies(options.get("hash_policy") or [])


def _panic_threshold(cluster: JsonDict) -> float:
    """In percent. Envoy's default is 50; zero, which Istio sends with outlierDetection, is printed as an empty object."""
    threshold = (cluster.get("common_lb_config") or {}).get("healthy_panic_threshold")
    return 50.0 if threshold is None else float(threshold.get("value", 0))


def _unusual_balancing(cluster: JsonDict) -> Iterator[str]:
    """Settings that change how a cluster selects hosts and can only come from an EnvoyFilter, as text."""
    for name, what in RING_EXTRAS.items():
        if (cluster.get("ring_hash_lb_config") or {}).get(name) not in (None, "XX_HASH"):
            yield what
    if (cluster.get("common_lb_config") or {}).get("consistent_hashing_lb_config"):
        yield "consistent_hashing_lb_config (host names or bounded load)"
    if cluster.get("load_balancing_policy"):
        yield "load_balancing_policy"


def parse_hosts(text: str) -> dict[str, list[Host]]:
    """Hosts by cluster from `/clusters`, a line a value: `cluster::address::name::value`."""
    values: dict[tuple[str, str], dict[str, str]] = {}
    for line in text.splitlines():
        cluster, _sep, rest = line.partition("::")
        match = re.match(r"((?:envoy://[^/]*/)?(?:\[.*?\]:\d+|[^:/]+:\d+))::([a-z_]+)::(.*)$", rest)
        if match:
            values.setdefault((cluster, match.group(1)), {})[match.group(2)] = match.group(3)
    hosts: dict[str, list[Host]] = {}
    for place, ((cluster, address), fields) in enumerate(values.items()):
        if not all(fields.get(name) for name in NEEDED):
            continue
        flags = fields["health_flags"]
        hosts.setdefault(cluster, []).append(
            Host(
                address=address.rpartition("/")[2],
                healthy=flags == "healthy",
                health_flags=flags,
                weight=int_of(fields.get("weight"), 1),
                priority=int_of(fields.get("priority"), 0),
                zone=fields.get("zone", ""),
                rq_total=int_of(fields.get("rq_total"), 0),
                hbone=address.startswith("envoy://"),
                place=place,
            )
        )
    for entries in hosts.values():
        entries.sort(key=lambda host: host.address)
    return hosts
