# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options that select the service, the key and the client pods."""

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
      - The default is its only port, or the only port that Istio treats as HTTP by its name or C(appProtocol).
    type: int
  client:
    description:
      - The pods inside the mesh that send the requests.
      - The module only runs commands in pods that are named here or carry the label.
    type: dict
    suboptions:
      pod:
        description:
          - The name of one pod.
          - A pod without a sidecar is accepted, because a missing sidecar is a cause for sessions that do not stick.
        type: str
      selector:
        description: The label selector of the client pods. One ready pod in each zone is used.
        type: str
        default: meshops.istio/probe=true
      container:
        description:
          - The container that runs the commands.
          - The default is the container that C(kubectl exec) uses, but never C(istio-proxy), whose traffic bypasses the mesh.
        type: str
      namespace:
        description: The namespace of the client pods. The default is the namespace of the service.
        type: str
      max:
        description: The maximum number of client pods, regardless of zone.
        type: int
  key:
    description:
      - The part of the request that identifies a session.
      - The default is the key of the rule in force. Set it whenever you know it, because a check that takes its key
        from the rule cannot detect a rule with the wrong key.
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
          - Where the values of a cookie come from.
          - With V(given) the session IDs are sent as the value of the cookie.
          - With V(learned) the first request of a session has no cookie. All later requests send the cookie that the
            first response sets, whether Envoy (a rule with C(ttl)) or the application issues it. The first request
            counts, so a cookie that the application issues after the first request has landed does not stick.
          - With V(browser) every later C(Set-Cookie) of that name is followed too.
        type: str
        choices: [given, learned, browser]
        default: given
"""
