# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads JSON into dataclasses by their annotations, whatever its content. Pure.

A report must be written whatever a check returned. A value of a wrong type becomes the empty value of the right type. Keys
without a field are dropped: other parts of a task's result, for example its arguments, never get into a report.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

# Characters that XML 1.0 cannot contain, that move a terminal's cursor, that change the writing direction or that are invisible: no report needs them.
UNPRINTABLE = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u061b\u061d-\u180d\u180f-\u200a\u200c\u200d\u2010-\u2027\u202f-\u205f\u2070-\ud7ff"
    "\ue000-\ufefe\uff00-\ufff8\ufffc\ufffd\U00010000-\U000dffff\U000e0100-\U0010ffff]"
)
# What continuous integration takes for a command if it is in a log: of GitHub and Gitea at the start of a line, of GitHub, Azure and TeamCity anywhere.
COMMAND = re.compile(r"(?m)^([^\S\n]*):(?=:[A-Za-z-]+(?: [^\n]*)?::)|()#(?=#(?:\[|vso\[|teamcity\[))")
# More than any honest text has: a response may be as long as its pod likes.
MOST_OF_A_TEXT, LEFT_OUT = 16_384, "… (the rest was left out)"
# Above this, JSON readers of other languages lose digits.
LARGEST = 2**53


def text(value: str) -> str:
    """The text with a mark in place of every unprintable character and of what would make it a command of a log's reader, and cut if it is very long."""
    cut = value if len(value) <= MOST_OF_A_TEXT else value[: MOST_OF_A_TEXT - len(LEFT_OUT)] + LEFT_OUT
    return COMMAND.sub(lambda match: f"{match[1] or ''}\ufffd", UNPRINTABLE.sub("\ufffd", cut))


def log_line(value: str, most: int) -> str:
    """The text in one printable line of at most so many characters."""
    line = text(" ".join(text(value).split()))
    return line if len(line) <= most else line[: most - 1] + "…"


@cache
def fields_of(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass by name, with what `typing.Annotated` adds."""
    return typing.get_type_hints(kind, include_extras=True)


def read(kind: type[T], value: Any) -> T:
    """A dataclass from a dict. Any other value gives one with all fields empty."""
    given = value if isinstance(value, dict) else {}
    return kind(**{name: convert(hint, given.get(name)) for name, hint in fields_of(typing.cast("Any", kind)).items()})


def convert(hint: Any, value: Any) -> Any:
    """The value in the annotated type, or the empty value of that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return convert(arguments[0], value)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _fitting(arguments[0], value)
    if origin is tuple:
        return tuple(convert(arguments[0], item) for item in value) if isinstance(value, (list, tuple)) else ()
    if origin is dict:
        return {text(str(name)): convert(arguments[1], item) for name, item in value.items()} if isinstance(value, dict) else {}
    if dataclasses.is_dataclass(hint):
        return read(typing.cast("type[Any]", hint), value)
    converted = CONVERTERS[hint](value)
    return hint() if converted is None else converted


def _fitting(hint: Any, value: Any) -> Any:
    """If None is allowed, a value of a wrong type is None."""
    if typing.get_origin(hint) is typing.Annotated:
        return _fitting(typing.get_args(hint)[0], value)
    if hint in CONVERTERS:
        return CONVERTERS[hint](value)
    if dataclasses.is_dataclass(hint) and not isinstance(value, dict):
        return None
    return convert(hint, value)


def _string(value: Any) -> str | None:
    if isinstance(value, str):
        return text(value)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        return None
    return None if math.isnan(value) else float(value)


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


CONVERTERS: dict[Any, Callable[[Any], Any]] = {str: _string, int: _integer, float: _number, bool: _boolean}
