# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page that was lost or cut short says nothing about what Envoy has."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import wide_pages
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import parse_pages, view_of, view_or_unread
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Target, Unread

NAME = "outbound|80||shop.sample.svc.cluster.local"
TARGET = Target("sample", "shop", 80, "http", "shop")
HOST = {"name": "shop:80", "domains": ["shop", "shop.sample.svc"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": NAME}}]}
PAGES: dict[str, bytes | Unread] = {
    "info": b'{"version": "x"}',
    "routes": json.dumps({"configs": [{"route_config": {"name": "80", "virtual_hosts": [HOST]}}]}).encode(),
    "clusters": json.dumps({"configs": [{"cluster": {"name": NAME, "lb_policy": "RING_HASH"}}]}).encode(),
    "hosts": b"",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_missing_or_cut_short_is_unread(name: str) -> None:
    """It was `{}`: no HTTP route, `does_not`, for a mesh that sticks."""
    lost = {page: body for page, body in PAGES.items() if page != name}
    cut = {**PAGES, name: b'{"configs": [{"route_co' if name != "hosts" else Unread("curl ended with exit code 28")}
    late = {**PAGES, name: Unread("curl ended with exit code 28")}
    for pages, why in ((lost, "was not read"), (cut, "cut short|code 28"), (late, "exit code 28")):
        found = view_or_unread(TARGET, pages)
        assert isinstance(found, Unread)
        assert re.search(rf"could not be read completely \({name}: .*({why})", found.why)


def test_a_page_that_no_answer_rests_on_may_be_missing() -> None:
    """The listeners count only where no virtual host serves the port."""
    lost = {**PAGES, "listeners": Unread("Envoy responded with 431")}
    dump = parse_pages(lost)
    assert dump is not None
    assert view_of(dump, replace(TARGET, listener="10.0.0.1_80")).route is not None
    with pytest.raises(CheckError, match=r"listeners: Envoy responded with 431") as caught:
        view_of(dump, Target("sample", "shop", 90, "tcp", "shop", listener="10.0.0.1_90"))
    assert caught.value.code == "unread_envoy"


def test_a_page_without_entries_is_read_and_says_that_there_are_none() -> None:
    """The lab's Envoy prints `{}` for an expression that nothing matches."""
    view = view_or_unread(TARGET, {**PAGES, "routes": b"{}\n", "clusters": b"{}\n"})
    assert view is not None
    assert not isinstance(view, Unread)
    assert (view.route, view.cluster) == (None, None)


def test_three_thousand_services_are_asked_for_in_urls_that_envoy_accepts() -> None:
    """A URL over 60 KiB is dropped: with 2,500 ports it had 69 KB."""
    listeners = [f"10.{number // 250}.{number % 250}.17_{20_000 + number}" for number in range(3_000)]
    spaces = [f"a-namespace-with-a-rather-long-name-{number}" for number in range(1_000)]
    urls = wide_pages(spaces, range(1, 3_001), listeners)
    assert max(len(url) for url in urls.values()) < 16_000
    batches = [re.compile(unquote(url.partition("name_regex=")[2])) for name, url in urls.items() if name.startswith("listeners")]
    assert len(batches) > 1
    assert all(sum(batch.match(listener) is not None for batch in batches) == 1 for listener in listeners)
    routes, clusters = (re.compile(unquote(urls[name].partition("name_regex=")[2])) for name in ("routes", "clusters"))
    assert routes.match("2999")
    assert routes.match("shop.any.svc.cluster.local:17")
    assert clusters.match(NAME)


def test_the_listeners_of_all_batches_are_read_and_a_lost_batch_leaves_its_own_unknown() -> None:
    """Three thousand services, each with one port that is not HTTP."""
    proxy = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": NAME}
    entries = [
        {"name": f"10.0.{number // 250}.{number % 250}_90", "active_state": {"listener": {"filter_chains": [{"filters": [{"typed_config": proxy}]}]}}}
        for number in range(3_000)
    ]
    batches: dict[str, bytes | Unread] = {f"listeners.{number}": json.dumps({"configs": entries[number::3]}).encode() for number in (1, 2)}
    dump = parse_pages({**PAGES, **batches, "listeners": Unread("curl ended with exit code 28")})
    assert dump is not None
    for number, entry in enumerate(entries[:300]):
        target = Target("sample", f"tcp-{number}", 90, "tcp", f"tcp-{number}", listener=str(entry["name"]))
        if number % 3:
            assert view_of(dump, target).is_tcp()
        else:
            with pytest.raises(CheckError, match="listeners"):
                view_of(dump, target)
