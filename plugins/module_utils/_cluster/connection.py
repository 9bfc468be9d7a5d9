# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to the API server, made by kubernetes.core. The only module util that needs that collection.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Access, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict
from ansible_collections.meshops.istio.plugins.module_utils._secrets import secrets_of, shown

# The module reports a missing library before any of these is used.
with contextlib.suppress(ImportError):
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError


def connection_spec() -> JsonDict:
    """The connection options of kubernetes.core. With `no_log`, the system log does not get a kubeconfig that is a dictionary; `MaskedModule`
    hides secrets in results."""
    spec = copy.deepcopy(AUTH_ARG_SPEC)
    return {**spec, "kubeconfig": {**spec["kubeconfig"], "no_log": True}}


class MaskedModule(AnsibleModule):
    """A module that hides its secrets in results, and nothing else."""

    def _load_params(self) -> None:
        """Refuse a number or an empty text for a dictionary: ansible-core does not name the option, or ends with a traceback."""
        super()._load_params()  # type: ignore[no-untyped-call]  # ansible-core has no types for it
        for name, option in self.argument_spec.items():
            value = self.params.get(name)
            text = isinstance(value, str) and value.strip()
            if "options" in option and option["type"] == "dict" and not text and not isinstance(value, (Mapping, NoneType)):
                self.fail_json(msg=f"Option {name} is {value!r}; it must be a dictionary. Next: correct it, or leave it out.")

    def exit_json(self, **result: Any) -> NoReturn:
        self.no_log_values = secrets_of(self.params, os.environ)
        super().exit_json(**result, invocation={"module_args": shown(self.params)})

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        self.no_log_values = secrets_of(self.params, os.environ)
        super().fail_json(msg, **result, invocation={"module_args": shown(self.params)})


def make_module(spec: JsonDict, **more: Any) -> Any:
    return AnsibleK8SModule(module_class=MaskedModule, argument_spec=spec, supports_check_mode=True, **more)


@contextlib.contextmanager
def failing_in_words(module: Any) -> Iterator[None]:
    """End the module with a message if an error was not foreseen: Ansible prints a traceback without hiding secrets in it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, a user must be able to read it
        module.fail_json(msg=f"Unexpected {type(error).__name__}: {error}. Next: report it to the maintainers of meshops.istio.")


def connect(module: Any) -> Access:
    """Log in with the connection options of kubernetes.core. Raises `CheckError`."""
    if module.params.get("impersonate_user") or module.params.get("impersonate_groups"):
        # The Python client drops these headers for an exec, which would then run with other permissions.
        raise CheckError(
            "bad_option",
            "Options impersonate_user and impersonate_groups do not apply to an exec. Next: use the kubeconfig of an account that has these rights.",
        )
    kubeconfig = module.params.get("kubeconfig")
    if kubeconfig is not None and (not isinstance(kubeconfig, (str, dict)) or "\n" in kubeconfig):
        raise CheckError("bad_option", "Option kubeconfig must be the path of a file or a dictionary. Next: convert text with the filter from_yaml.")
    try:
        api = get_api_client(module)
    except CoreException as error:
        raise CheckError("api_unreachable", f"{error}. Next: check the options kubeconfig and context.") from error
    except HTTPError as error:
        raise CheckError("api_unreachable", f"The API server did not respond: {error}. Next: check kubeconfig, context and network.") from error
    except ApiException as error:
        raise CheckError("unauthorized", f"The API server responded with {error.status} {error.reason}. Next: renew the kubeconfig or token.") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckError("api_unreachable", f"The connection options cannot be used: {error}. Next: check kubeconfig and context.") from error
    return Access(Cluster(api.client), api.configuration)
