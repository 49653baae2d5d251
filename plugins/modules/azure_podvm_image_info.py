#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_podvm_image_info
version_added: "0.1.0"
short_description: Gather whether the VMs of peer pods can be created from an image in Azure
description:
  - >-
    Every peer pod is a VM, created from the image in C(AZURE_IMAGE_ID) of C(peer-pods-cm). Returns the image, and why
    VMs of the given sizes cannot be created from it: it does not exist, it is not in the region or not replicated to
    it, or its architecture or its generation is not that of a size.
  - >-
    Reads versions in compute galleries, definitions (of which the latest version is read) and managed images. An image
    of a community gallery or a gallery of another tenant is not read, and RV(problems) is empty for it.
options:
  image_id:
    description:
      - The ARM ID of the image.
    type: str
    required: true
  location:
    description:
      - The Azure region, such as V(westeurope).
    type: str
    required: true
  sizes:
    description:
      - The sizes of the VMs, such as V(Standard_B2als_v2).
    type: list
    elements: str
    default: []
notes:
  - O(subscription_id) or E(AZURE_SUBSCRIPTION_ID) must be set.
  - Needs the permission to read, as in the role Reader, in the resource group of the image.
extends_documentation_fragment:
  - osc.peerpods.azure
  - osc.peerpods.info_module
seealso:
  - module: osc.peerpods.ec2_podvm_image_info
  - module: osc.peerpods.azure_vcpu_quota_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Gather whether the VMs can be created from the image
  osc.peerpods.azure_podvm_image_info:
    location: westeurope
    image_id: "{{ settings.AZURE_IMAGE_ID }}"
    sizes: [Standard_B2als_v2]
  register: image

- name: Show why not
  ansible.builtin.debug:
    msg: "{{ image.problems }}"
"""

RETURN = r"""
image:
  description: The image, null if it does not exist or is not read.
  returned: success
  type: dict
  contains:
    id:
      description: The ARM ID, of the latest version if O(image_id) is that of a definition.
      type: str
    kind:
      description: V(gallery) or V(managed).
      type: str
    state:
      description: The provisioning state.
      type: str
    generation:
      description: The generation of Hyper-V, V(V1) or V(V2).
      type: str
    architecture:
      description: The architecture of the processor, V(x64) or V(Arm64).
      type: str
    regions:
      description: The regions that have the image.
      type: list
      elements: str
  sample:
    id: /subscriptions/…/galleries/PodVMGallery_0f9f3c6e/images/podvm-image/versions/262093934.0.1
    kind: gallery
    state: Succeeded
    generation: V2
    architecture: x64
    regions: [westeurope]
problems:
  description: Why VMs of O(sizes) cannot be created from the image, each as a sentence with what to do.
  returned: success
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    COMPUTE_API_VERSION,
    COMPUTE_SKUS_API_VERSION,
    GALLERIES_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.image import (
    ImageId,
    image_of,
    image_problems,
    latest_version,
    parse_image_id,
)

WITH_REPLICATION = {"$expand": "ReplicationStatus"}


def read_image(arm: Arm, image_id: str, parsed: ImageId) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The image and its definition, which only an image of a gallery has."""
    if parsed.kind == "managed":
        return arm.get(image_id, COMPUTE_API_VERSION), None
    definition = arm.get(parsed.definition, GALLERIES_API_VERSION)
    if definition is None:
        return None, None
    version = parsed.version
    if not version:
        latest = latest_version(arm.list(f"{parsed.definition}/versions", GALLERIES_API_VERSION))
        version = latest["id"] if latest else ""
    return (arm.get(version, GALLERIES_API_VERSION, **WITH_REPLICATION) if version else None), definition


def main() -> None:
    module = arm_module(
        {
            "image_id": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "sizes": {"type": "list", "elements": "str", "default": []},
        }
    )
    image_id, sizes = module.params["image_id"], module.params["sizes"]
    location = module.params["location"].replace(" ", "").lower()
    parsed = parse_image_id(image_id)
    if parsed.kind == "shared":
        module.exit_json(changed=False, image=None, problems=[])
    described, skus, image = None, [], None
    try:
        arm = Arm(module)
        if not arm.subscription_id:
            module.fail_json(msg="No subscription is set. Set subscription_id or AZURE_SUBSCRIPTION_ID.")
        if parsed.kind:
            image, definition = read_image(arm, image_id, parsed)
            described = image and image_of(image, definition, parsed.kind)
        if image and sizes:
            path = f"/subscriptions/{arm.subscription_id}/providers/Microsoft.Compute/skus"
            skus = list(arm.list(path, COMPUTE_SKUS_API_VERSION, **{"$filter": f"location eq '{location}'"}))
    except ArmError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        image=described,
        problems=image_problems(image_id, parsed.kind, image, described, sizes, skus, location),
    )


if __name__ == "__main__":
    main()
