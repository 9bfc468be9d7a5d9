# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The endpoints of a service at this moment. Reads only.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._membership import age_of, membership_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Membership, Target


def read_membership(cluster: Cluster, target: Target) -> Membership:
    slices, now = cluster.endpoint_slices_now(target.namespace, target.service)
    return replace(membership_of(slices, target), age=age_of(slices, now))
