#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_namespace_info
short_description: List what would be lost with a namespace
version_added: 1.0.0
description:
  - Lists the objects of a namespace that neither have the labels in O(own) nor are created automatically. The kinds are
    discovered from the API server, custom resources included.
  - The roles of this collection use it before they delete a namespace.
  - Objects count as automatic if Kubernetes or Istio creates them in every namespace (the ServiceAccount C(default) and its
    token, the ConfigMaps C(kube-root-ca.crt) and C(istio-ca-root-cert)), if they only record something (Events, Leases,
    Endpoints of a Service), or if a controller in the namespace manages them (ReplicaSets, Pods, EndpointSlices).
  - Objects that are already being deleted are not listed.
  - Only reads metadata of objects.
requirements:
  - kubernetes >= 24.2.0
  - Permission to get the namespace, and to list every kind of object in it. A kind that cannot be listed is in RV(unread).
options:
  namespace:
    description: The name of the namespace.
    type: str
    required: true
  own:
    description: Labels that mark the objects of the owner. An object with all of them is not listed.
    type: dict
    default:
      app.kubernetes.io/managed-by: meshops.istio
  ignore:
    description: More objects that are not listed.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description: The kind of the objects.
        type: str
        required: true
      name:
        description: The name of the objects, or a pattern with V(*) and V(?).
        type: str
        required: true
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - meshops.istio.attributes
author:
  - meshops.istio contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: List what would be lost with the namespace
  meshops.istio.istio_namespace_info:
    namespace: shop
  register: contents

- name: Stop if the namespace is in use
  ansible.builtin.assert:
    that: (contents.foreign + contents.unread) | length == 0
    fail_msg: "{{ contents.foreign | map(attribute='kind') | unique | join(', ') }}"
"""

RETURN = r"""
uid:
  description: The UID of the namespace. V(null) if it does not exist.
  returned: always
  type: str
foreign:
  description: The objects, by kind and name.
  returned: always
  type: list
  elements: dict
  contains:
    api_version:
      description: The API version of the object.
      type: str
    kind:
      description: The kind of the object.
      type: str
    name:
      description: The name of the object.
      type: str
unread:
  description: The kinds that cannot be listed, one sentence each. Whether the namespace has objects of these kinds is unknown.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect, connection_spec
from ansible_collections.meshops.istio.plugins.module_utils._cluster.contents import foreign, read_contents
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict


def argument_spec() -> JsonDict:
    return {
        **connection_spec(),
        "namespace": {"type": "str", "required": True},
        "own": {"type": "dict", "default": {"app.kubernetes.io/managed-by": "meshops.istio"}},
        "ignore": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"kind": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
        },
    }


def contents_of(params: JsonDict, cluster: Cluster) -> JsonDict:
    live = cluster.namespace(params["namespace"])
    if live is None:
        return {"uid": None, "foreign": [], "unread": []}
    contents = read_contents(cluster, params["namespace"])
    own = {str(name): str(value) for name, value in params["own"].items()}
    items = foreign(contents, own, [(entry["kind"], entry["name"]) for entry in params["ignore"]])
    named = [{"api_version": item.kind.api_version, "kind": item.kind.kind, "name": item.name} for item in items]
    return {"uid": live["metadata"]["uid"], "foreign": named, "unread": list(contents.unread)}


def main() -> None:
    module = AnsibleK8SModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = contents_of(module.params, connect(module).cluster)
    except CheckError as error:
        module.fail_json(msg=error.msg, error={"code": error.code, "msg": error.msg}, foreign=[], unread=[])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
