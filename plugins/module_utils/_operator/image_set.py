# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ImageSetConfiguration with which `oc mirror` mirrors the operator (no I/O here).

The format is that of oc-mirror v2 (docs/disconnected of openshift/sandboxed-containers-operator has one for the newest
release). oc-mirror adds the images of each version: that of the bundle, and its `relatedImages`, among which are those
of cloud-api-adaptor and of the job that builds the image of the pod VMs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import PACKAGE

# The default channel of the package in Red Hat's catalog.
DEFAULT_CHANNEL = "stable"


class ImageSetError(ValueError):
    """A value of which no ImageSetConfiguration can be made, as a sentence."""


def image_set_configuration(
    openshift: str, channel: str, version: str = "", images: Iterable[str] = ()
) -> dict[str, object]:
    """The operator of `channel` in the catalog of the OpenShift release, from `version` to the newest, and `images`.

    `version` is one such as 1.13.0 or the name of a ClusterServiceVersion; empty for the newest only.
    """
    release = re.match(r"(\d+)\.(\d+)(\.|$)", openshift)
    if not release:
        raise ImageSetError(f"'{openshift}' is not a version of OpenShift, such as 4.18 or 4.18.3.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", channel):
        raise ImageSetError(f"'{channel}' is not the name of a channel, such as {DEFAULT_CHANNEL}.")
    first = version.removeprefix(f"{PACKAGE}.v")
    if first and not re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", first):
        raise ImageSetError(f"'{version}' is not a version of the operator, such as 1.13.0 or {PACKAGE}.v1.13.0.")
    package: dict[str, object] = {
        "name": PACKAGE,
        # A catalog without the default channel of a package is invalid, unless another one is named.
        **({"defaultChannel": channel} if channel != DEFAULT_CHANNEL else {}),
        "channels": [{"name": channel, **({"minVersion": first} if first else {})}],
    }
    mirror: dict[str, object] = {
        "operators": [
            {
                "catalog": f"registry.redhat.io/redhat/redhat-operator-index:v{release[1]}.{release[2]}",
                "packages": [package],
            }
        ]
    }
    additional = [{"name": name} for name in dict.fromkeys(images) if name]
    if additional:
        mirror["additionalImages"] = additional
    return {"kind": "ImageSetConfiguration", "apiVersion": "mirror.openshift.io/v2alpha1", "mirror": mirror}
