# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to the API server, made by kubernetes.core. The only module util that needs that collection.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Access, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict

# The module reports a missing library before any of these is used.
with contextlib.suppress(ImportError):
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError


def connection_spec() -> JsonDict:
    return copy.deepcopy(AUTH_ARG_SPEC)


def connect(module: Any) -> Access:
    """Log in with the connection options of kubernetes.core. Raises `CheckError`."""
    if module.params.get("impersonate_user") or module.params.get("impersonate_groups"):
        # The Python client drops these headers for an exec, which would then run with other permissions.
        raise CheckError(
            "bad_option",
            "Options impersonate_user and impersonate_groups do not apply to an exec. Next: use the kubeconfig of an account that has these rights.",
        )
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
