# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options that the modules share, and what they become.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict, Key, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._survey import PROBE_LABEL, ClientChoice

# AnsibleK8SModule reports a missing library before it is used.
with contextlib.suppress(ImportError):
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

DEFAULT_KEY = Key("header", "user-session")


def connection_spec() -> JsonDict:
    return copy.deepcopy(AUTH_ARG_SPEC)


def client_spec() -> JsonDict:
    return {
        "type": "dict",
        "options": {
            "pod": {"type": "str"},
            "selector": {"type": "str", "default": PROBE_LABEL},
            "container": {"type": "str"},
            "namespace": {"type": "str"},
            "max": {"type": "int"},
        },
    }


def key_spec() -> JsonDict:
    # Not a secret key: without this, ansible-test takes it for one by its name.
    return {
        "type": "dict",
        "no_log": False,
        "options": {
            "type": {"type": "str", "default": "header", "choices": ["header", "cookie", "query", "source_ip"]},
            "name": {"type": "str"},
            "cookie": {"type": "str", "default": "given", "choices": ["given", "learned", "browser"]},
        },
    }


class Connection:
    """A dynamic client of kubernetes.core's making and its configuration for execs, so that all its ways to log in work here."""

    def __init__(self, module: Any) -> None:
        if module.params.get("impersonate_user") or module.params.get("impersonate_groups"):
            # The Python client drops these headers when it opens an exec, which would then run with other rights.
            raise CheckError(
                "bad_option",
                "Options impersonate_user and impersonate_groups do not reach an exec. Next: use the kubeconfig of an account with the rights wanted.",
            )
        try:
            found = get_api_client(module)
        except CoreException as error:
            raise CheckError("api_unreachable", f"{error}. Next: check the options kubeconfig and context.") from error
        except HTTPError as error:
            raise CheckError("api_unreachable", f"The API server did not answer: {error}. Next: check kubeconfig, context and network.") from error
        except ApiException as error:
            raise CheckError("unauthorized", f"The API server answered {error.status} {error.reason}. Next: renew the kubeconfig or token.") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckError("api_unreachable", f"The connection options can't be used: {error}. Next: check kubeconfig and context.") from error
        self.configuration = found.configuration
        self.client = found.client


def client_choice(params: JsonDict) -> ClientChoice:
    option = params.get("client") or {}
    most = option.get("max")
    if most is not None and most < 1:
        raise CheckError("bad_option", f"Option client.max is {most}; it must be at least 1.")
    return ClientChoice(
        namespace=option.get("namespace") or params["namespace"],
        pod=option.get("pod"),
        selector=option.get("selector") or PROBE_LABEL,
        container=option.get("container"),
        max=most,
    )


def given_key(params: JsonDict) -> Key | None:
    """The key of the option, or None where the rule in force is to say it."""
    option = params.get("key")
    if not option:
        return None
    if option["type"] == "source_ip":
        if option.get("name"):
            raise CheckError("bad_option", "Option key.name has no meaning with key.type source_ip; leave it out.")
        return Key("source_ip", None)
    if not option.get("name"):
        raise CheckError("bad_option", f"Option key.name is missing; key.type {option['type']} needs the name of the {option['type']}.")
    if option["type"] != "cookie" and option["cookie"] != "given":
        raise CheckError("bad_option", f"Option key.cookie has a meaning with key.type cookie only; leave it out for {option['type']}.")
    return Key(option["type"], option["name"], cookie=option["cookie"])


def key_in_force(view: ProxyView | None) -> Key:
    """The key of the rule that the client's Envoy has, else the sample's."""
    policies = view.route.hash_policies if view and view.route else ()
    for policy in policies:
        if policy.type in ("header", "cookie", "query", "source_ip"):
            return Key(policy.type, policy.name, "rule")
    return DEFAULT_KEY
