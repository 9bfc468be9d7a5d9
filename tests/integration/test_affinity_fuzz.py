# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nasty but legal values on the live lab: they arrive as they were given, and nothing in the pod or in the audit log knows them."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from affinity_support import Mesh, audit_lines, curl_pod, hashing, parts_of
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

CLIENT = "trap-client"
# Each would leave a file named canary-… in the pod if a shell, curl's configuration, curl's command line or xargs read it.
TRAPS = [
    "$(touch /tmp/canary-1)",
    "`touch /tmp/canary-2`",
    "'; touch /tmp/canary-3; '",
    '"; touch /tmp/canary-4; "',
    "| touch /tmp/canary-5",
    "&& touch /tmp/canary-6 &",
    "-o /tmp/canary-7",
    "--output=/tmp/canary-8",
    '" -o /tmp/canary-9 "',
    'x"\\noutput = "/tmp/canary-10"\\n#',
    "%output{/tmp/canary-11}",
    "${IFS}touch${IFS}/tmp/canary-12",
    "> /tmp/canary-13",
    "%0aoutput = /tmp/canary-14",
]
ODD = [
    *('"', "'", "\\", '\\"', "\\\\", "a\tb", "a  b", "a;b", "a,b", "a=b", "#", "# next", "next", "-", "--", "-K-", "@/etc/passwd", "<(id)", "%", "%%"),
    *("%{http_code}", "%header{server}", "%00", "*", "?", "~", "!!", "{1..3}", "[1-3]", "$", "$$", "${HOME}", "R|1", "null", "true", "0", "é"),
    *("日本語", "🐢", "\u2028", "\u00a0x", "x" * 6000),
]
# In a URL no space and no control character can stand, and no # either, as it ends what is sent.
PATH = "/%s?a=$(touch${IFS}/tmp/canary-15)&b=`id`;c='d\"&url=http://x/&{1,2}&[1-3]&%%41"


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[dict[str, str]]:
    """A pod in whose every folder a file could be made."""
    mesh.apply(curl_pod(CLIENT))
    mesh.kubectl("-n", mesh.namespace, "wait", "--for=condition=Ready", f"pod/{CLIENT}", "--timeout=90s")
    in_client(mesh, "touch /tmp/writable && rm /tmp/writable")
    yield {"pod": CLIENT}
    mesh.kubectl("-n", mesh.namespace, "delete", "pod", CLIENT, "--wait=false")


def in_client(mesh: Mesh, script: str) -> str:
    return mesh.kubectl("-n", mesh.namespace, "exec", CLIENT, "-c", "curl", "--", "sh", "-c", script).stdout


def canaries(mesh: Mesh) -> str:
    """Files that a value has made, in the client and in the pods of the service."""
    script = "find / -xdev -name 'canary-[0-9]*' -not -path '/proc/*'; find /tmp -name 'canary-[0-9]*'"
    pods = [pod["metadata"]["name"] for pod in mesh.pods()]
    return in_client(mesh, script) + "".join(mesh.kubectl("-n", mesh.namespace, "exec", pod, "-c", "nginx", "--", "sh", "-c", script).stdout for pod in pods)


def received(mesh: Mesh, path: str, number: int) -> Counter[str]:
    """The key's value in each request for a path, as soon as the pods' own logs have so many, in which nginx writes what is not plain as `\\xHH`."""
    found: Counter[str] = Counter()

    def arrived() -> bool:
        nonlocal found
        found = in_logs(mesh, path)
        return found.total() >= number

    mesh.wait_until(f"{number} requests in the logs", arrived)
    return found


def in_logs(mesh: Mesh, path: str) -> Counter[str]:
    log = mesh.kubectl("-n", mesh.namespace, "logs", "-l", "app=nginx", "-c", "nginx", "--since=120s", "--tail=-1").stdout
    found: Counter[str] = Counter()
    for line in log.splitlines():
        if match := re.search(rf' user-session="(.*)" "GET {re.escape(path)}', line):
            plain = re.sub(rb"\\x([0-9A-F]{2})", lambda byte: bytes.fromhex(byte[1].decode()), match[1].encode())
            found[plain.decode()] += 1
    return found


def audited(lab: Path, *words: str) -> list[str]:
    lines = audit_lines(lab)
    assert any(f"pods/{CLIENT}/exec" in line for line in lines), "the lab keeps an audit log, and an exec is in it"
    return [line for line in lines if any(word in line for word in words)]


def test_nasty_values_arrive_as_given_and_leave_no_trace(mesh: Mesh, lab: Path, client: dict[str, str]) -> None:
    """In IDs, a header's value and the path, with arguments and environments of the pod's processes looked at all the while."""
    secret = f"token{uuid.uuid4().hex}"
    here = uuid.uuid4().hex
    values = [*TRAPS, *ODD, secret, f"$(echo {secret})"]
    look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | sort -u"
    always = f"rm -f /tmp/stop; for n in $(seq 1000); do {look}; [ -e /tmp/stop ] && break; sleep 0.03; done | sort -u"
    with ThreadPoolExecutor() as pool:
        seen = pool.submit(in_client, mesh, always)
        result = mesh.look(
            client=client, session_ids=values, requests=3, rate=60, max_flip_rate=0.1, headers={"X-Note": f"{TRAPS[9]}{secret}"}, path=PATH % here
        )
        in_client(mesh, "touch /tmp/stop")
        processes = seen.result().splitlines()
    assert result["verdict"] == "passed", result["msg"]
    assert [session["id"] for session in result["sessions"]] == values
    # Each landed where the hash of exactly these bytes leads.
    assert result["prediction"]["matched"] == len(values), result["prediction"]
    keyless = result["requests"]["planned"] - 3 * len(values)
    assert keyless > 0
    assert received(mesh, f"/{here}", 3 * len(values) + keyless) == Counter(dict.fromkeys(values, 3)) + Counter({"-": keyless})
    assert {"curl", "-K"} <= set(processes), "the processes of the check were seen"
    assert any(line.startswith("nonce=") for line in processes), "and their environments"
    assert not [line for line in processes if secret in line or "canary-" in line or here in line]
    assert audited(lab, secret, "canary-1", here) == []
    assert canaries(mesh) == ""


# What a header can hold at all: no control characters, and no spaces at the ends, which HTTP takes away.
LEGAL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=40).map(lambda text: text.strip(" "))


# Without shrinking, which would take minutes of the lab's time: what was sent stands in the failure.
@settings(max_examples=3, phases=[Phase.generate])
@given(st.lists(LEGAL, min_size=30, max_size=60, unique=True))
def test_drawn_values_arrive_as_given(mesh: Mesh, values: list[str]) -> None:
    here = uuid.uuid4().hex
    result = mesh.look(session_ids=values, profile="quick", path=f"/{here}")
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["matched"], result["requests"]["failed"]) == (len(values), 0)
    arrived = received(mesh, f"/{here}", result["requests"]["planned"])
    # nginx writes a dash where the header is absent.
    arrived.pop("-")
    rounds = sum(result["sessions"][0]["pods"].values())
    assert rounds > 1
    assert arrived == Counter({value: rounds for value in values if value != "-"})


@pytest.fixture(scope="module")
def named(mesh: Mesh) -> Iterator[dict[str, dict[str, str]]]:
    """Services that hash on a parameter and on a cookie of an odd name: the key of each."""
    keys = {"fuzz-query": {"type": "query", "name": "user[id]"}, "fuzz-cookie": {"type": "cookie", "name": "us.er"}}
    rules = (hashing(httpQueryParameterName="user[id]"), hashing(httpCookie={"name": "us.er"}))
    mesh.apply(*(part for name, rule in zip(keys, rules, strict=True) for part in parts_of(name, rule, labels={"fuzz": name})))
    yield keys
    mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules.networking.istio.io", "-l", "fuzz")


def test_parameters_and_cookies_arrive_as_given(mesh: Mesh, client: dict[str, str], named: dict[str, dict[str, str]]) -> None:
    cookies = [
        f"{number}{letters}"
        for number, letters in enumerate(["$(touch", "`id`", "'", "|&", "-o", "--", "@/etc/passwd", "%0a", "a=b==", "<>", "[1-3]", "{1-2}", "~!*?"])
    ]
    parameters = [value for value in (*TRAPS, *ODD, "\0", "\n", "\r\nX-Injected: 1") if len(value) < 100]
    for (name, key), values in zip(named.items(), (parameters, cookies), strict=True):
        mesh.wait_for("proxy.in_sync", name, key, **client)
        result = mesh.look(service=name, client=client, key=key, session_ids=values, profile="quick")
        assert result["verdict"] == "passed", result["msg"]
        assert result["prediction"]["matched"] == len(result["sessions"]) >= len(values), result["prediction"]
    assert canaries(mesh) == ""


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("session_ids", {"session_ids": ["a\nurl = http://x/"]}),
    ("session_ids", {"session_ids": ["a\r\nX-Injected: 1"]}),
    ("session_ids", {"session_ids": ["a\0"]}),
    ("session_ids", {"session_ids": [" a"]}),
    ("session_ids", {"session_ids": ["\udcff"]}),
    ("session_ids", {"session_ids": ["x" * 60_000]}),
    ("session_ids", {"session_ids": ["a", "a"]}),
    ("session_ids", {"session_ids": ["a b"], "key": {"type": "cookie", "name": "user"}}),
    ("session_ids", {"session_ids": ["a;b"], "key": {"type": "cookie", "name": "user"}}),
    ("session_ids", {"session_ids": ["fe80::1%eth0"], "key": {"type": "source_ip"}}),
    ("session_ids", {"session_ids": ["\udcff"], "key": {"type": "query", "name": "user"}}),
    ("key.name", {"key": {"type": "header", "name": "user session"}}),
    ("key.name", {"key": {"type": "header", "name": "x: y\nz"}}),
    ("key.name", {"key": {"type": "header", "name": "Host"}}),
    ("key.name", {"key": {"type": "cookie", "name": "a;b"}}),
    ("key.name", {"key": {"type": "query", "name": "a&b"}}),
    ("headers", {"headers": {"X-A": "1\noutput = /tmp/canary-20"}}),
    ("headers", {"headers": {"X A": "1"}}),
    ("headers", {"headers": {"X-A": "\udcff"}}),
    ("headers", {"headers": {"User-Session": "always"}}),
    ("headers", {"headers": {"Cookie": "a=1; user=2"}, "key": {"type": "cookie", "name": "user"}}),
    ("headers", {"headers": {"X-Forwarded-For": "10.0.0.1"}, "key": {"type": "source_ip"}}),
    ("path", {"path": "/a\noutput = /tmp/canary-21"}),
    ("path", {"path": "/é"}),
    ("path", {"path": "/#a"}),
    ("path", {"path": "/?user=1", "key": {"type": "query", "name": "user"}}),
    ("identify_header", {"identify_header": ["X-Pod}%output{/tmp/canary-22"]}),
    ("via.address", {"via": {"address": 'x/"\noutput = "/tmp/canary-23', "host": "shop"}}),
    ("via.address", {"via": {"address": "user@x", "host": "shop"}}),
    ("via.host", {"via": {"address": "10.0.0.1", "host": 'shop\noutput = "/tmp/canary-24'}}),
    ("via.port", {"via": {"address": "10.0.0.1", "host": "shop", "port": 70_000}}),
]


def test_what_cannot_be_sent_is_refused_before_anything_runs(mesh: Mesh, lab: Path, client: dict[str, str]) -> None:
    sent = mesh.requests_seen()
    execs = len(audited(lab, f"pods/{CLIENT}/exec"))
    for option, options in REFUSED:
        result = mesh.look(client=client, **options)
        assert (result["verdict"], (result["error"] or {}).get("code")) == ("error", "bad_option"), (option, options, result["msg"])
        assert result["msg"].startswith(f"error: Option {option}, value "), result["msg"]
        assert json.dumps(result, ensure_ascii=False).encode(), "it can be printed"
    assert len(audited(lab, f"pods/{CLIENT}/exec")) == execs, "nothing was run in the pod"
    assert mesh.requests_seen() == sent
    assert canaries(mesh) == ""
