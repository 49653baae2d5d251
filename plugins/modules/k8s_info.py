#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_info
version_added: "0.1.0"
short_description: Run kubernetes.core.k8s_info in the controller
description:
  - >-
    Runs M(kubernetes.core.k8s_info) with the same options and the same result, in a fork of the Ansible worker if
    possible, as M(osc.peerpods.k8s) does.
  - The roles of this collection use it.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - kubernetes.core.k8s_wait_options
  - osc.peerpods.info_module
options:
  api_version:
    description:
      - The API version of the objects.
    type: str
    default: v1
    aliases: [api, version]
  kind:
    description:
      - The kind of the objects.
    type: str
    required: true
  name:
    description:
      - The name of the object. If not set, all objects that the selectors match are returned.
    type: str
  namespace:
    description:
      - The namespace of the objects. If not set, the objects of all namespaces are returned.
    type: str
  label_selectors:
    description:
      - The label selectors of the objects.
    type: list
    elements: str
    default: []
  field_selectors:
    description:
      - The field selectors of the objects.
    type: list
    elements: str
    default: []
  hidden_fields:
    description:
      - Fields that are left out of the result.
    type: list
    elements: str
requirements:
  - python >= 3.11
  - kubernetes >= 24.2.0
seealso:
  - module: kubernetes.core.k8s_info
  - module: osc.peerpods.k8s
"""

EXAMPLES = r"""
- name: Read the settings of cloud-api-adaptor
  osc.peerpods.k8s_info:
    kind: ConfigMap
    namespace: openshift-sandboxed-containers-operator
    name: peer-pods-cm
  register: settings
"""

RETURN = r"""
resources:
  description:
    - The objects, as M(kubernetes.core.k8s_info) returns them.
  returned: success
  type: list
  elements: dict
  sample:
    - {apiVersion: v1, kind: ConfigMap, metadata: {name: peer-pods-cm}}
"""
