# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""No session ID in the clear where hashes were asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_cases import FINDING, SETTINGS, only, probed, recorded, run_of, seen

from ansible_collections.meshops.istio.plugins.module_utils._report.as_html import to_html
from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import to_json
from ansible_collections.meshops.istio.plugins.module_utils._report.as_junit import to_junit
from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import to_prometheus
from ansible_collections.meshops.istio.plugins.module_utils._report.as_table import to_table
from ansible_collections.meshops.istio.plugins.module_utils._report.assess import Entry
from ansible_collections.meshops.istio.plugins.module_utils._report.hiding import hasher, hide

HASHED = hasher(b"salt")
FORMATS = (to_json, to_html, to_junit, to_prometheus, lambda report: "\n".join(to_table(report)))


def everything(entry: Entry) -> str:
    report = run_of(hide(entry, HASHED), settings=replace(SETTINGS, hash_session_ids=True))
    return "\n".join(render(report) for render in FORMATS)


def with_tokens(verdict: str) -> dict:
    """A recorded result with IDs that look like tokens, wherever it has them."""
    found = recorded(verdict)
    for number, session in enumerate(found["sessions"]):
        token = f"tok3n.{number}-s3cret"
        found["msg"] = found["msg"].replace(f"session {session['id']} landed", f"session {token} landed")
        session["id"] = token
    return found


@pytest.mark.parametrize("verdict", ["passed", "failed", "not_proven", "inconclusive"])
def test_none_in_any_format(verdict: str):
    found = with_tokens(verdict)
    found["attempts"] = [{"verdict": verdict, "msg": found["msg"], "events": ["session tok3n.1-s3cret moved"], "elapsed": 1.0}]
    found["findings"] = [FINDING | {"evidence": [{"source": "probe", "field": "session", "value": "tok3n.2-s3cret"}]}]
    text = everything(probed(found))
    assert "s3cret" not in text
    assert HASHED("tok3n.1-s3cret") in text


def test_sessions_that_a_check_names_and_does_not_list():
    failed = with_tokens("failed") | {"sessions": []}
    assert "s3cret" not in everything(probed(failed))
    moved = recorded("inconclusive") | {
        "sessions": [],
        "msg": "inconclusive: 4 of 36 sessions moved, each with a change of the backends (tok3n.1-s3cret, tok3n.2-s3cret, tok3n.3-s3cret, …). Measured",
    }
    text = everything(probed(moved))
    assert "s3cret" not in text
    assert HASHED("tok3n.3-s3cret") in text


def test_what_only_contains_an_id_stays():
    found = recorded("passed")
    found["sessions"][0]["id"] = "1"
    hidden = hide(probed(found), HASHED).result
    assert hidden
    assert [backend.pod for backend in hidden.backends] == [backend["pod"] for backend in found["backends"]]
    assert hidden.versions.kubernetes == found["versions"]["kubernetes"]


def test_a_look_and_an_error_too():
    entry = seen("sticks", error="session sid-9 landed on nothing")
    assert entry.static
    text = everything(replace(entry, static=replace(entry.static, why="session sid-8 landed on a", sessions=())))
    assert "sid-8" not in text
    assert "sid-9" not in text


def test_the_hash_is_stable_and_salted():
    assert HASHED("a") == hasher(b"salt")("a") != hasher(b"pepper")("a")
    first = run_of(hide(probed("passed"), HASHED))
    found = only(run_of(hide(probed("passed"), HASHED), after=first, hours=1)).continuity
    assert found
    assert found.state == "same"
