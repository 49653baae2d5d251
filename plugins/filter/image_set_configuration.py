# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: image_set_configuration
version_added: "0.1.0"
short_description: Make the ImageSetConfiguration that mirrors the operator
description:
  - Computes the file with which C(oc mirror --v2) mirrors the operator and further images to a registry.
  - Sends no requests.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - The version of OpenShift, such as V(4.18). It chooses the catalog.
    type: str
    required: true
  channel:
    description:
      - The channel of the operator.
    type: str
    default: stable
  version:
    description:
      - >-
        The oldest version of the operator to mirror, such as V(1.13.0) or the name of a ClusterServiceVersion, with all
        newer versions of the channel. If empty, the newest only.
    type: str
    default: ""
  images:
    description:
      - The names of further images.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show the ImageSetConfiguration for OpenShift 4.18
  ansible.builtin.debug:
    msg: "{{ '4.18' | osc.peerpods.image_set_configuration(version='1.13.0') }}"
"""

RETURN = r"""
_value:
  description: The ImageSetConfiguration.
  type: dict
  sample:
    kind: ImageSetConfiguration
    apiVersion: mirror.openshift.io/v2alpha1
    mirror:
      operators:
        - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.18
          packages:
            - name: sandboxed-containers-operator
              channels:
                - {name: stable, minVersion: 1.13.0}
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_set import (
    DEFAULT_CHANNEL,
    ImageSetError,
    image_set_configuration,
)


def as_image_set_configuration(
    openshift: str, channel: str = DEFAULT_CHANNEL, version: str = "", images: list[str] | None = None
) -> dict[str, object]:
    try:
        return image_set_configuration(openshift, channel, version, images or ())
    except ImageSetError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict:
        return {"image_set_configuration": as_image_set_configuration}
