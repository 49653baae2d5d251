# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OCI image of which the operator's job makes the image of the pod VMs (no I/O here).

get_image_type_url_and_path in config/peerpods/podvm/lib.sh of openshift/sandboxed-containers-operator.
"""

from __future__ import annotations

import re

TYPES = ("oci", "bootc")

# TYPE::IMAGE[:TAG][::PATH]: the image has no other colon.
_URI = re.compile(r"(?P<type>[^:]+)::(?P<image>[^:]+)(:(?P<tag>[^:]+))?(::(?P<path>.+))?")


def uri_type(uri: str) -> str:
    """The type of the image; empty if the job cannot read the URI."""
    match = _URI.fullmatch(uri)
    return match["type"] if match and match["type"] in TYPES and not re.search(r"\s", uri) else ""


def uri_problem(uri: str) -> str:
    """Why the job cannot read the URI, as a sentence; empty if it can."""
    if not uri or uri_type(uri):
        return ""
    return (
        f"operator_install_image_uri must be TYPE::IMAGE[:TAG][::PATH] with the type {' or '.join(TYPES)}, such as "
        f"oci::quay.io/example/podvm:1.0::/image/podvm.qcow2, or with a digest in place of the tag; got '{uri}'. The "
        "job splits it at its colons: an image of a registry with a port can have neither tag nor digest."
    )
