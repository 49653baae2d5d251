# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ID of the image of the pod VMs in peer-pods-cm, and its gallery on Azure (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The key of peer-pods-cm with the ID of the image, by the value of CLOUD_PROVIDER.
IMAGE_KEYS = {"aws": "PODVM_AMI_ID", "azure": "AZURE_IMAGE_ID"}

# The annotation of peer-pods-cm with the ID of the image that a job has made, by that key (aws-podvm-image-handler.sh
# and azure-podvm-image-handler.sh in config/peerpods/podvm of openshift/sandboxed-containers-operator). Only the
# scripts write it.
MADE_BY_JOB = {"PODVM_AMI_ID": "LATEST_AMI_ID", "AZURE_IMAGE_ID": "LATEST_IMAGE_ID"}

# The annotation of peer-pods-cm with the ID that a teardown has taken out of it, so that the operator does not delete
# the image. The next run restores it.
KEPT_IMAGE = "osc.peerpods/pod-vm-image"

# The annotation of peer-pods-cm with the name of the gallery that a job has created, which the operator deletes
# together with the image (azure-podvm-image-handler.sh). A teardown that keeps the gallery moves the name to the other
# annotation.
JOB_GALLERY = "IMAGE_GALLERY_NAME"
KEPT_GALLERY = "osc.peerpods/image-gallery"


def names_cloud(settings: Mapping[str, Any] | None) -> bool:
    """Whether peer-pods-cm exists and names the cloud."""
    return bool(((settings or {}).get("data") or {}).get("CLOUD_PROVIDER"))


def pod_vm_image(settings: Mapping[str, Any] | None, platform: str | None = None) -> dict:
    """The key of peer-pods-cm that holds the ID of the pod VM image, the ID, empty if there is no image, whether an
    image job has made it, the ID that an interrupted teardown has not restored, and the gallery that the operator
    deletes. `platform` is that of the cluster, which counts if the settings do not name the cloud.

    Which case an ID of Azure has is of no meaning. A teardown's ID is outdated if a user has set another one since.
    """
    data = (settings or {}).get("data") or {}
    annotations = ((settings or {}).get("metadata") or {}).get("annotations") or {}
    provider = data.get("CLOUD_PROVIDER") or (platform or "").lower()
    key = IMAGE_KEYS.get(provider, IMAGE_KEYS["aws"])
    image = data.get(key, "")
    of_job = bool(image) and image.lower() == annotations.get(MADE_BY_JOB[key], "").lower()
    kept = annotations.get(KEPT_IMAGE, "") if of_job or not image else ""
    return {"key": key, "id": image, "of_job": of_job, "kept": kept, "gallery": annotations.get(JOB_GALLERY, "")}


def kept_data(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """What restores the ID in peer-pods-cm that an interrupted teardown has taken out of it."""
    image = pod_vm_image(settings)
    return {image["key"]: image["kept"]} if image["kept"] else {}


def kept_annotations(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """What restores the annotation for the gallery, unless a job has created another gallery since."""
    annotations = ((settings or {}).get("metadata") or {}).get("annotations") or {}
    kept = annotations.get(KEPT_GALLERY)
    return {JOB_GALLERY: annotations.get(JOB_GALLERY) or kept} if kept else {}
