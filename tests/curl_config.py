# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader of curl's configuration that follows its man page (option --config), to see what curl would make of ours."""

from __future__ import annotations

ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "v": "\v"}
Option = tuple[str, str | None]


def read_config(config: bytes) -> list[list[Option]]:
    """The options of each transfer, in their order. Fails on a line that is not exactly one option."""
    transfers: list[list[Option]] = [[]]
    for line in config.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"):
        if line == "next":
            transfers.append([])
            continue
        name, sep, value = line.partition(" = ")
        assert name.replace("-", "").replace("1.1", "").isalpha(), line
        transfers[-1].append((name, _value(value) if sep else None))
    return transfers


def _value(text: str) -> str:
    if not text.startswith('"'):
        assert text.replace(".", "").isdigit(), text
        return text
    plain, escape = "", False
    for position, letter in enumerate(text[1:], 1):
        if escape:
            plain += ESCAPES.get(letter, letter)
            escape = False
        elif letter == "\\":
            escape = True
        elif letter == '"':
            assert position == len(text) - 1, f"the value ends early: {text}"
            return plain
        else:
            plain += letter
    raise AssertionError(f"the value does not end: {text}")
