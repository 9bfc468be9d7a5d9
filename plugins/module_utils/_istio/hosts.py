# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How Istio matches host names, and which proxies a rule is for. Pure.

The ways are those of istio/istio pilot/pkg/model/config.go (ResolveShortnameToFQDN) and pkg/config/host/name.go.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import JsonDict


def full_name(host: str, namespace: str, fqdn: str) -> str:
    """Istio adds a namespace to names without a dot only."""
    return host if "." in host or host == "*" else f"{host}.{namespace}.{fqdn.partition('.')[2].partition('.')[2]}"


def covers(host: str, namespace: str, fqdn: str) -> bool:
    name = full_name(host, namespace, fqdn)
    return name in (fqdn, "*") or (name.startswith("*") and fqdn.endswith(name[1:]))


def exported(body: JsonDict, namespace: str) -> bool:
    """Whether a rule is for proxies of a namespace."""
    to = spec_of(body).get("exportTo") or ["*"]
    return "*" in to or namespace in to or ("." in to and body["metadata"].get("namespace") == namespace)


def selects(selector: JsonDict | None, labels: JsonDict) -> bool:
    wanted = (selector or {}).get("matchLabels") or (selector or {}).get("labels") or {}
    return all(labels.get(name) == value for name, value in wanted.items())
