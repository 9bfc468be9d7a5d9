# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader of the reports' pages that needs no browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What of a page can be checked without a browser: its nesting, its anchors, what it would fetch, what it runs."""

    VOID = ("meta",)

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("src", "srcset", "background"), name
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


KNOWN_TAGS = {"html", "head", "meta", "title", "style", "body", "a", "header", "main", "section", "article", "footer", "h1", "h2", "h3", "h4", "p"}
KNOWN_TAGS |= {"div", "span", "strong", "b", "i", "ul", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td"}
KNOWN_TAGS |= {"details", "summary", "pre", "code", "time", "svg", "path", "rect"}


def check_page(content: str) -> Page:
    page = Page(content)
    assert page.open == []
    assert page.tags <= KNOWN_TAGS
    assert len(page.ids) == len(set(page.ids))
    fragments = {link[1:] for link in page.links if link.startswith("#")}
    assert fragments <= set(page.ids)
    assert all(re.match(r"#|https?://|\.\./\.\./index\.html$|[^/:]+/[^/:]+/index\.html$", link) for link in page.links)
    return page
