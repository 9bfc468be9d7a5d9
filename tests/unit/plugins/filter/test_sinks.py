# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent to a sink, what is said of a failure, and what fits into a ConfigMap."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from report_cases import probed, run_of

from ansible_collections.meshops.istio.plugins.filter.sinks import (
    MOST_DATA,
    affinity_sink_data,
    affinity_sink_failure,
    affinity_sink_metrics,
    affinity_sink_request,
)
from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import to_prometheus

SECRET = "t0pS3cret/+="  # noqa: S105 - made up


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://h", "https://h/prod/report.json"),
        ("https://h/", "https://h/prod/report.json"),
        ("https://h/base//", "https://h/base/prod/report.json"),
        (f"https://h/base?sig={SECRET}&x=1#part", f"https://h/base/prod/report.json?sig={SECRET}&x=1"),
        ("https://user:word@h:8443/", "https://user:word@h:8443/prod/report.json"),
        ("http://[::1]:9091", "http://[::1]:9091/prod/report.json"),
    ],
)
def test_the_path_comes_before_the_query(url: str, sent: str):
    assert affinity_sink_request({"url": url}, "prod", "report.json") == {"url": sent, "headers": {}}


def test_segments_stay_segments():
    assert affinity_sink_request({"url": "http://h"}, "a/../b?c#d e")["url"] == "http://h/a%2F..%2Fb%3Fc%23d%20e"


@pytest.mark.parametrize("url", ["", "h/path", "ftp://h", "https://", "https://h:port", "https://h:99999", "https://[h", "https://h h", f"file:///{SECRET}"])
def test_a_url_that_cannot_be_used_is_refused_unseen(url: str):
    with pytest.raises(AnsibleFilterError, match="Its value is not shown") as refused:
        affinity_sink_request({"url": url})
    assert url in ("", "https://") or url not in str(refused.value)


def test_headers_are_stripped():
    sink = {"url": "http://h", "headers": {"Authorization": f"Bearer {SECRET}\r\n", "X-Number": 7}}
    assert affinity_sink_request(sink)["headers"] == {"Authorization": f"Bearer {SECRET}", "X-Number": "7"}


@pytest.mark.parametrize(
    "header", [{"A": f"{SECRET}\nB: c"}, {"A": f"{SECRET}\x00"}, {"A": f"{SECRET}€"}, {"A b": SECRET}, {"": SECRET}, {f"A\n{'b' * 200}": SECRET}]
)
def test_a_header_that_http_does_not_allow_is_refused_unseen(header: dict[str, str]):
    with pytest.raises(AnsibleFilterError) as refused:
        affinity_sink_request({"url": "http://h", "headers": header})
    assert (SECRET in str(refused.value), "\n" in str(refused.value), len(str(refused.value)) < 250) == (False, False, True)


@pytest.mark.parametrize(
    ("sink", "text", "shown"),
    [
        ({"headers": {"Authorization": f"Bearer {SECRET}\n"}}, f"Invalid header value b'Bearer {SECRET}\\n'", "Invalid header value b'***\\n'"),
        ({"headers": {"Authorization": f"Bearer {SECRET}"}}, f"bad token {SECRET}", "bad token ***"),
        ({"url": f"https://user:{SECRET}@h/a?sig=abc%2Fdef"}, f"https://user:{SECRET}@h/a?sig=abc%2Fdef", "https://***@h/a?***"),
        ({"url": "https://user:word@h/a"}, "no such user: word", "no such user: ***"),
        ({"url": "https://h/a?sig=abc%2Fdef"}, "signature abc/def has ended", "signature *** has ended"),
        ({"headers": {"A": "a\"b'c"}}, json.dumps("a\"b'c"), '"***"'),
        # Ordinary words stay.
        ({"headers": {"Content-Type": "text/plain", "A": "of", "B": ""}, "url": "https://h/a?v=1"}, "404 of text/plain 1", "404 of text/plain 1"),
        ({}, "one\n::error::two\x1b[31m", "one \ufffd:error::two\ufffd[31m"),
        ({}, "::error::two", "\ufffd:error::two"),
    ],
)
def test_a_failure_is_told_without_secrets(sink: dict[str, Any], text: str, shown: str):
    assert affinity_sink_failure(text, sink) == shown


def test_a_long_failure_is_cut():
    assert len(affinity_sink_failure("a" * 70_000, {})) == 1000


def test_metrics_of_sinks():
    lines = affinity_sink_metrics([{"name": "http", "sent": True}, {"name": "configmap", "sent": False}], 'a"b').splitlines()
    assert lines[1:] == [
        "# TYPE istio_affinity_sink_up gauge",
        'istio_affinity_sink_up{cluster="a\\"b",sink="http"} 1',
        'istio_affinity_sink_up{cluster="a\\"b",sink="configmap"} 0',
    ]
    assert affinity_sink_metrics([], "a") == ""


def _estate(services: int, red: int) -> tuple[dict[str, Any], str]:
    (one,) = run_of(probed("passed", "well")).services
    named = [replace(one, service=f"a-service-{number}", status="red" if number < red else "green") for number in range(services)]
    told = [
        {"namespace": "shop", "service": s.service, "status": s.status, "verdict": s.verdict, "why": "36 sessions stayed on one pod each. " * 4} for s in named
    ]
    return {"status": "red", "services": told, "problems": [], "reasons": []}, to_prometheus(replace(run_of(), services=tuple(named)))


@pytest.mark.parametrize(
    ("services", "red", "omitted", "left"),
    [
        (3, 1, None, 3),
        (500, 5, {"services": 0, "metrics": True}, 500),
        (3000, 100, {"services": 2900, "metrics": True}, 100),
        (9000, 9000, {"services": 9000, "metrics": True}, 0),
    ],
)
def test_what_fits_into_a_configmap(services: int, red: int, omitted: dict[str, Any] | None, left: int):
    data = affinity_sink_data(*_estate(services, red))
    outcome = json.loads(data["outcome.json"])
    assert sum(len(value) for value in data.values()) <= MOST_DATA
    assert (outcome["status"], outcome.get("omitted"), len(outcome["services"])) == ("red", omitted, left)
    assert 'istio_affinity_cluster_up{cluster="prod"} 1\n' in data["affinity.prom"]
    assert ('service="a-service-0",verdict="passed"} 1\n' in data["affinity.prom"]) == (services < 9000)


def test_what_never_fits_is_told():
    with pytest.raises(AnsibleFilterError, match=r"The outcome has 2000\d\d\d bytes at least, and a ConfigMap takes 1000000. Next: use another sink"):
        affinity_sink_data({"status": "red", "problems": ["a" * 2_000_000]}, "")
