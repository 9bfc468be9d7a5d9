# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options that say which service is meant, by which key, and from where it is looked at."""

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
      - The port of the service, by its number.
      - The default is its only port, or the only one that Istio takes for HTTP by its name or C(appProtocol).
    type: int
  client:
    description:
      - The pods inside the mesh from which the service is seen.
      - The module never runs anything in a pod that is neither named here nor carries the label.
    type: dict
    suboptions:
      pod:
        description:
          - The name of one pod.
          - A pod without sidecar is accepted here, as that is a cause for sessions that do not stick.
        type: str
      selector:
        description: The label selector of the client pods. One ready pod for each zone is taken.
        type: str
        default: meshops.istio/probe=true
      container:
        description:
          - The container to run in.
          - The default is the one that C(kubectl exec) takes, but never C(istio-proxy), whose traffic bypasses the mesh.
        type: str
      namespace:
        description: The namespace of the client pods, by default that of the service.
        type: str
      max:
        description: Take up to so many ready pods of the selector, whatever their zones.
        type: int
  key:
    description:
      - What tells one session from another.
      - The default is the key of the rule in force. Give it wherever you know it, because a check that takes its key
        from the rule can't find a rule with the wrong key.
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
          - With V(given) the session IDs are sent as the cookie's value.
          - With V(learned) the first request of a session has no cookie, and the one that its answer sets is sent from
            then on, whoever set it, Envoy (a rule with C(ttl)) or the application. The first request counts, so a cookie
            that the application issues after the request has landed somewhere is found not to stick.
          - With V(browser) every later C(Set-Cookie) of that name is followed too.
        type: str
        choices: [given, learned, browser]
        default: given
"""
