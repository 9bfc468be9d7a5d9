# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options that name the service, the key and the client pods."""

    DOCUMENTATION = r"""
options:
  namespace:
    description: The namespace of the service.
    type: str
    required: true
  service:
    description: The name of the service.
    type: str
    required: true
  port:
    description:
      - The port number of the service.
      - The default is its only port, or the only port that its name or C(appProtocol) declares as HTTP.
    type: int
  client:
    description:
      - The client pods inside the mesh.
      - The module never runs anything in a pod that is neither named nor selected here.
    type: dict
    suboptions:
      pod:
        description:
          - The name of one pod.
          - A pod without a sidecar is accepted, because a missing sidecar is one of the causes that the module reports.
        type: str
      selector:
        description: The label selector of the client pods. The module uses one ready pod for each zone.
        type: str
        default: meshops.istio/probe=true
      container:
        description:
          - The container to run the requests in.
          - The default is the default container of C(kubectl exec), but never C(istio-proxy), whose traffic bypasses the mesh.
        type: str
      namespace:
        description: The namespace of the client pods. The default is that of the service.
        type: str
      max:
        description: The maximum number of client pods, regardless of zone.
        type: int
  key:
    description:
      - The part of the request that identifies a session.
      - The default is the key of the rule in force. Set it if you know it, because a check that takes its key from the
        rule cannot detect a rule with the wrong key.
    type: dict
    suboptions:
      type:
        description: The part of the request that is hashed.
        type: str
        choices: [header, cookie, query, source_ip]
        default: header
      name:
        description: The name of the header, cookie or query parameter.
        type: str
      cookie:
        description:
          - Where the value of the cookie comes from.
          - With V(given), the module sends the session ID as the value.
          - With V(learned), the first request of a session has no cookie. Later requests send the cookie that the first
            response set, whether by Envoy (a rule with C(ttl)) or by the application. The first request counts, which
            is why a cookie that the application issues only after the request has landed does not stick.
          - With V(browser), the module also follows every later C(Set-Cookie) of that name.
        type: str
        choices: [given, learned, browser]
        default: given
"""
