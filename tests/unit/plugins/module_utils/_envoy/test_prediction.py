# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where sessions must land, by what the lab's Envoy printed, against where they did land (`make fixtures` records both)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import Prediction, compare, predict
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import proxy_view
from ansible_collections.meshops.istio.plugins.module_utils._membership import membership_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, CheckError, Key, ProxyView, Target
from harness import ROOT

HEADER, COOKIE, QUERY, SOURCE = Key("header", "user-session"), Key("cookie", "user"), Key("query", "user"), Key("source_ip", None)
TARGET = Target("sample", "nginx-service", 80, "http", "nginx-service")
# By the name of the recording: the key, Envoy's policy, and the size of its ring or table.
HASHED: dict[str, tuple[Key, str, int]] = {
    "ring": (HEADER, "RING_HASH", 1024),
    "ring_64": (HEADER, "RING_HASH", 64),
    "maglev": (HEADER, "MAGLEV", 65537),
    "cookie": (COOKIE, "RING_HASH", 1024),
    "query": (QUERY, "RING_HASH", 1024),
    "source_ip": (SOURCE, "RING_HASH", 1024),
}


@dataclass(frozen=True)
class Recorded:
    """C(landed) has the pod by what the key's value was; of source addresses that is the client's own."""

    pages: dict[str, bytes]
    backends: tuple[Backend, ...]
    landed: dict[str, set[str]]

    @property
    def view(self) -> ProxyView:
        found = proxy_view(TARGET, self.pages)
        assert found is not None
        return found

    def predicted(self, key: Key, *views: ProxyView | None) -> Prediction:
        return predict(key, list(self.landed), views or [self.view], self.backends)


def _recorded(name: str) -> Recorded:
    content: dict[str, Any] = json.loads((ROOT / f"tests/unit/fixtures/{name}.json").read_text())
    pages = {page: body.encode() for page, body in content["pages"].items()}
    landed = {session: {pod} for session, pod in content["landed"].items()}
    if name == "source_ip":
        landed = {content["client_address"]: set(content["landed"].values())}
    return Recorded(pages, membership_of(content["slices"], TARGET).backends, landed)


@pytest.mark.parametrize("name", HASHED)
def test_each_session_landed_where_it_had_to(name: str):
    key, policy, size = HASHED[name]
    recorded = _recorded(name)
    cluster = recorded.view.cluster
    assert cluster is not None
    assert (cluster.lb_policy, cluster.table_size if policy == "MAGLEV" else cluster.minimum_ring_size or 1024) == (policy, size)
    compared = compare(recorded.predicted(key), recorded.landed)
    assert (compared.available, compared.matched, compared.total) == (True, len(recorded.landed), len(recorded.landed)), compared.reason


def test_the_recordings_can_tell_a_right_prediction_from_a_wrong_one():
    """Sessions spread over all pods, and each way of balancing spreads them in another way."""
    landed = {name: json.dumps({session: sorted(pods) for session, pods in _recorded(name).landed.items()}) for name in HASHED if name != "source_ip"}
    assert len(set(landed.values())) > 2
    for name in landed:
        recorded = _recorded(name)
        assert set().union(*recorded.landed.values()) == {backend.pod for backend in recorded.backends}


def test_a_session_that_landed_elsewhere_makes_the_model_doubtful():
    recorded = _recorded("ring")
    prediction = recorded.predicted(HEADER)
    session = next(iter(recorded.landed))
    other = next(backend.pod for backend in recorded.backends if backend.pod != prediction.pods[session])
    compared = compare(prediction, recorded.landed | {session: {other}})
    assert (compared.available, compared.matched) == (False, len(recorded.landed) - 1)
    assert compared.reason == f"1 of {len(recorded.landed)} sessions landed elsewhere than computed"


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("no_rule", HEADER, "the client's Envoy does not hash on the key"),
        ("cookie", HEADER, "the client's Envoy does not hash on the key"),
        ("ring", Key("header", "another"), "the client's Envoy does not hash on the key"),
        ("cookie", replace(COOKIE, cookie="learned"), "the values of the key were issued during the run"),
    ],
)
def test_nothing_is_predicted_by_a_key_that_is_not_hashed_on(name: str, key: Key, reason: str):
    prediction = _recorded(name).predicted(key)
    assert (prediction.available, prediction.reason, prediction.pods) == (False, reason, {})


def test_clients_that_balance_in_different_ways_have_no_common_prediction():
    ring, small = _recorded("ring"), _recorded("ring_64")
    assert not ring.predicted(HEADER, ring.view, small.view).available
    assert ring.predicted(HEADER, ring.view, ring.view).available
    assert not ring.predicted(HEADER, ring.view, None).available


def test_a_host_that_is_no_endpoint_is_not_guessed_at():
    recorded = _recorded("ring")
    prediction = predict(HEADER, list(recorded.landed), [recorded.view], recorded.backends[1:])
    assert (prediction.available, prediction.reason) == (False, f"host {recorded.backends[0].address} is not an endpoint of the service")


@pytest.mark.parametrize(
    ("page", "known", "strange"),
    [("routes", b'"hash_policy": [', b'"hash_policy": ["no object",'), ("clusters", b'"ring_hash_lb_config": {', b'"ring_hash_lb_config": 1, "x": {')],
)
def test_a_page_of_another_form_is_an_error_and_no_verdict(page: str, known: bytes, strange: bytes):
    pages = _recorded("ring_64").pages
    assert known in pages[page]
    with pytest.raises(CheckError):
        proxy_view(TARGET, pages | {page: pages[page].replace(known, strange)})
