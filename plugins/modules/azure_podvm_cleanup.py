#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: azure_podvm_cleanup
version_added: "0.1.0"
short_description: Remove the images of peer pods' VMs that the operator made for a cluster from their gallery
description:
  - >-
    Deletes the image versions that jobs of the operator have created for a cluster. If the name of the gallery ends
    with the ID of the cluster, the definition is deleted as well if it has no other version, and the gallery if it
    contains nothing else.
  - >-
    Another gallery may have images of other owners with any name and version. In it, only a version with the number
    that the operator computes from the ID of the cluster is deleted, and no definition.
  - >-
    The operator itself deletes the image that C(peer-pods-cm) names when the KataConfig is deleted. An image is left if
    that failed, or if C(peer-pods-cm) named another image.
options:
  gallery:
    description:
      - The ARM ID of the gallery, C(IMAGE_GALLERY_NAME) of C(azure-podvm-image-cm) in the resource group of the VMs.
    type: str
    required: true
  version:
    description:
      - The version of the images of the cluster, C(IMAGE_VERSION) of C(azure-podvm-image-cm).
    type: str
    required: true
  definition:
    description:
      - >-
        The name of the definition of the images, C(IMAGE_DEFINITION_NAME) of C(azure-podvm-image-cm). Other definitions
        stay.
    type: str
    default: podvm-image
  storage_account:
    description:
      - >-
        The name of the storage account, in the resource group of the gallery, to which the jobs of the cluster upload
        their disk. The module returns its ID if it exists, and does not remove it: a job leaves the account, and its
        private endpoint C(NAME-pe), if it fails.
    type: str
  cluster_id:
    description:
      - The ID of the cluster, as M(osc.peerpods.cluster_info) returns it.
    type: str
    required: true
  wait_timeout:
    description:
      - How many seconds to wait until Azure completes a deletion.
    type: int
    default: 600
extends_documentation_fragment:
  - osc.peerpods.azure
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
notes:
  - >-
    The identity needs C(Microsoft.Compute/galleries/read), C(Microsoft.Compute/galleries/images/read) and
    C(Microsoft.Compute/galleries/images/versions/read), and to remove images C(Microsoft.Compute/galleries/delete),
    C(Microsoft.Compute/galleries/images/delete) and C(Microsoft.Compute/galleries/images/versions/delete). With
    O(storage_account), it needs C(Microsoft.Storage/storageAccounts/read); without it, the account counts as missing.
seealso:
  - module: osc.peerpods.ec2_podvm_cleanup
  - module: osc.peerpods.azure_podvm_image_info
author:
  - The osc.peerpods authors (@osc-peerpods)
"""

EXAMPLES = r"""
- name: Remove the images of the cluster
  osc.peerpods.azure_podvm_cleanup:
    gallery: "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/demo-rg/providers/Microsoft.Compute\
      /galleries/PodVMGallery_0f9f3c6e"
    version: 262093934.0.1
    cluster_id: 0f9f3c6e-6d1c-4b6a-9d5b-2f1f3e0a7c11
"""

RETURN = r"""
removed:
  description: The ARM IDs of what is removed, in order.
  returned: success, or failure after the gallery was read
  type: list
  elements: str
left:
  description: The ARM IDs of what was not removed.
  returned: failure after the gallery was read
  type: list
  elements: str
  sample: []
kept:
  description: The ARM IDs of other definitions and versions in the gallery, which stay.
  returned: success
  type: list
  elements: str
  sample: []
storage_account:
  description: The ARM ID of O(storage_account) if it exists, else null.
  returned: success
  type: str
  sample: null
"""

from ansible_collections.osc.peerpods.plugins.module_utils._azure.client import (
    GALLERIES_API_VERSION,
    STORAGE_API_VERSION,
    Arm,
    ArmError,
    arm_module,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.image import plan_gallery_removal
from ansible_collections.osc.peerpods.plugins.module_utils._text import failed_after


def read_definitions(arm: Arm, gallery: str) -> dict[str, list[str]] | None:
    """The IDs of the versions by the ID of their definition; None if the gallery does not exist."""
    if arm.get(gallery, GALLERIES_API_VERSION) is None:
        return None
    return {
        definition["id"]: [version["id"] for version in arm.list(f"{definition['id']}/versions", GALLERIES_API_VERSION)]
        for definition in arm.list(f"{gallery}/images", GALLERIES_API_VERSION)
    }


def read_storage_account(arm: Arm, gallery: str, name: str | None) -> str | None:
    """The ID of the account; None if it does not exist, or may not be read."""
    if not name:
        return None
    group = "/".join(gallery.split("/")[:5])
    try:
        account = arm.get(f"{group}/providers/Microsoft.Storage/storageAccounts/{name}", STORAGE_API_VERSION)
    except ArmError as error:
        if error.status != 403:
            raise
        return None
    return account["id"] if account else None


def main() -> None:
    module = arm_module(
        {
            "gallery": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "definition": {"type": "str", "default": "podvm-image"},
            "storage_account": {"type": "str"},
            "cluster_id": {"type": "str", "required": True},
            "wait_timeout": {"type": "int", "default": 600},
        }
    )
    params = module.params
    gallery = params["gallery"].rstrip("/")
    removed: list[str] = []
    planned: list[str] | None = None
    try:
        arm = Arm(module)
        storage_account = read_storage_account(arm, gallery, params["storage_account"])
        definitions = read_definitions(arm, gallery)
        planned, kept = (
            ([], [])
            if definitions is None
            else plan_gallery_removal(
                gallery, params["cluster_id"], params["version"], params["definition"], definitions
            )
        )
        for each in planned:
            if not module.check_mode:
                arm.delete(each, GALLERIES_API_VERSION, None, params["wait_timeout"])
            removed.append(each)
    except ArmError as error:
        known = {} if planned is None else {"removed": removed, "left": planned[len(removed) :]}
        module.fail_json(**failed_after(error, removed, "removed"), **known)
    module.exit_json(
        changed=bool(removed),
        removed=removed,
        kept=kept,
        storage_account=storage_account,
        diff={"prepared": "".join(f"delete {each}\n" for each in removed)},
    )


if __name__ == "__main__":
    main()
