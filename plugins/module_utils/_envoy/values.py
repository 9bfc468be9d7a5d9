# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Single values as Envoy's admin pages print them. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, HashPolicy, JsonDict, Unread

# The bodies of the pages that were read whole, and why the others were not, by name.
Pages = Mapping[str, "bytes | Unread"]


def page_of(pages: Pages, name: str) -> JsonDict | Unread:
    """A page of JSON. A page that is missing or has another form is not an empty one."""
    body = pages.get(name, Unread("it was not read"))
    if isinstance(body, Unread):
        return body
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return Unread("it is not JSON, or was cut short")
    return parsed if isinstance(parsed, dict) else Unread("it is not a JSON object")


def seconds_of(text: str | None) -> float | None:
    try:
        return float((text or "").rstrip("s"))
    except ValueError:
        return None


def int_of(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch(r"[0-9]{1,19}", text) else default


def istio_rule(meta: JsonDict | None, kind: str) -> str | None:
    """`namespace/name` from the path that Istio writes: /apis/networking.istio.io/v1/namespaces/NS/KIND/NAME."""
    path = ((((meta or {}).get("filter_metadata") or {}).get("istio") or {}).get("config")) or ""
    match = re.search(rf"/namespaces/([^/]+)/{kind}/([^/]+)$", path)
    return f"{match.group(1)}/{match.group(2)}" if match else None


def hash_policies(entries: Iterable[JsonDict]) -> Iterator[HashPolicy]:
    """The entries of a hash_policy of a route or a cluster."""
    for entry in entries:
        if "header" in entry:
            yield HashPolicy("header", entry["header"].get("header_name"))
        elif "cookie" in entry:
            cookie = entry["cookie"]
            yield HashPolicy("cookie", cookie.get("name"), seconds_of(cookie.get("ttl")) if "ttl" in cookie else None)
        elif "query_parameter" in entry:
            yield HashPolicy("query", entry["query_parameter"].get("name"))
        elif "connection_properties" in entry:
            yield HashPolicy("source_ip", None)
        else:
            yield HashPolicy("other", None)


@contextlib.contextmanager
def known_form() -> Iterator[None]:
    """Turn errors of a page that does not have the known format into a `CheckError`: it is never guessed."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckError(
            "strange_envoy",
            f"The admin pages of Envoy do not have the known form ({type(error).__name__}: {error}). "
            "Next: look at /server_info, /config_dump and /clusters on port 15000 of the client pod.",
        ) from error
