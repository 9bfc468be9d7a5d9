# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of Helm releases, from Helm's own records in the cluster. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

Revision = dict[str, Any]

# Helm's statuses of completed revisions; https://helm.sh/docs/helm/helm_status/ lists all statuses.
DEPLOYED = "deployed"
COMPLETED = (DEPLOYED, "superseded", "uninstalled")


def helm_history(records: Any, releases: Any, note: str = "") -> dict[str, Any]:
    """`revisions` of each release, oldest first; `current`, the deployed revision of each release; `stuck`, revisions that were not completed.

    After a revision that failed or whose Helm died, Helm refuses to continue or treats it as complete.
    """
    secrets = dicts(records, "helm_history")
    revisions = {release["name"]: revisions_of(release, secrets, note) for release in dicts(releases, "helm_history")}
    deployed = {name: [revision for revision in history if revision["status"] == DEPLOYED] for name, history in revisions.items()}
    return {
        "revisions": revisions,
        "current": {name: history[-1] for name, history in deployed.items() if history},
        "stuck": [revision for history in revisions.values() for revision in after_the_last_completed(history)],
    }


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"helm_history": helm_history}


def revisions_of(release: Mapping[str, Any], secrets: Sequence[Mapping[str, Any]], note: str) -> list[Revision]:
    history = [
        {
            "number": int(secret["metadata"]["labels"]["version"]),
            "status": secret["metadata"]["labels"]["status"],
            "secret": secret["metadata"]["name"],
            "namespace": secret["metadata"]["namespace"],
            "release": release["name"],
            "note": parsed_note((secret["metadata"].get("annotations") or {}).get(note)),
        }
        for secret in secrets
        if (secret["metadata"]["labels"]["name"], secret["metadata"]["namespace"]) == (release["name"], release["namespace"])
    ]
    return sorted(history, key=lambda revision: revision["number"])


def after_the_last_completed(revisions: Sequence[Revision]) -> list[Revision]:
    last = max((revision["number"] for revision in revisions if revision["status"] in COMPLETED), default=0)
    return [revision for revision in revisions if revision["number"] > last]


def parsed_note(text: str | None) -> Any:
    """The annotation's JSON; an invalid annotation counts as none."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}
