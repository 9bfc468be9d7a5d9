# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTML composed from elements. A plain string is always escaped and cannot become markup. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = ("meta", "path")


class Html(str):
    """Markup generated in this file."""

    __slots__ = ()


# A plain string is escaped, `Html` is not, and None is omitted.
Child: TypeAlias = "str | None"


def tag(element: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element. In names of attributes, a trailing underscore is dropped and others become hyphens. None and False omit an attribute."""
    written = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None and value is not False)
    if element in VOID:
        return Html(f"<{element}{written}/>")
    return Html(f"<{element}{written}>{join(*children)}</{element}>")


def join(*children: Child) -> Html:
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children if child is not None))


def each(children: Iterable[Child]) -> Html:
    return join(*children)


def _attribute(name: str, value: str | int | float | bool) -> str:
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def hidden(text: str) -> Html:
    """Text for screen readers only."""
    return tag("span", text, class_="vh")


def table(caption: Child, head: Iterable[Child], rows: Iterable[Iterable[Child]], class_: str | None = None, shown: bool = True) -> Html:
    """A table whose first column names its rows. It scrolls by itself on narrow screens."""
    header = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = tag("tbody", *(_row(tuple(row)) for row in rows))
    return tag("div", tag("table", tag("caption", caption, class_=None if shown else "vh"), header, body, class_=class_), class_="scroll")


def _row(cells: tuple[Child, ...]) -> Html:
    return tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))
