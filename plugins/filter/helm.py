# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What helm's own records in the cluster say of releases. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

Revision = dict[str, Any]

# helm's words for revisions that came to an end; https://helm.sh/docs/helm/helm_status/ lists all of them.
DEPLOYED = "deployed"
ENDED = (DEPLOYED, "superseded", "uninstalled")


def helm_history(records: Any, releases: Any, note: str = "") -> dict[str, Any]:
    """C(revisions) of each release, oldest first; C(current), the one in force of each that has one; C(stuck), all that did not come to an end.

    helm refuses to go on after an attempt that failed or whose helm died, or takes it for done.
    """
    secrets, asked = dicts(records, "helm_history"), dicts(releases, "helm_history")
    revisions = {release["name"]: revisions_of(release, secrets, note) for release in asked}
    deployed = {name: [revision for revision in found if revision["status"] == DEPLOYED] for name, found in revisions.items()}
    return {
        "revisions": revisions,
        "current": {name: found[-1] for name, found in deployed.items() if found},
        "stuck": [revision for found in revisions.values() for revision in after_the_last_that_ended(found)],
    }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"helm_history": helm_history}


def revisions_of(release: Mapping[str, Any], secrets: Sequence[Mapping[str, Any]], note: str) -> list[Revision]:
    found = [
        {
            "number": int(secret["metadata"]["labels"]["version"]),
            "status": secret["metadata"]["labels"]["status"],
            "secret": secret["metadata"]["name"],
            "namespace": secret["metadata"]["namespace"],
            "release": release["name"],
            "note": noted((secret["metadata"].get("annotations") or {}).get(note)),
        }
        for secret in secrets
        if (secret["metadata"]["labels"]["name"], secret["metadata"]["namespace"]) == (release["name"], release["namespace"])
    ]
    return sorted(found, key=lambda revision: revision["number"])


def after_the_last_that_ended(revisions: Sequence[Revision]) -> list[Revision]:
    last = max((revision["number"] for revision in revisions if revision["status"] in ENDED), default=0)
    return [revision for revision in revisions if revision["number"] > last]


def noted(text: str | None) -> Any:
    """An annotation that somebody broke is as good as none."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}
