# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the ID of a cluster gives to the images that the operator makes for it (no I/O here).

getClusterID in controllers/utils.go and createImageConfigMapFromFile in controllers/image_generator.go of
openshift/sandboxed-containers-operator.
"""

from __future__ import annotations

# The S3 buckets that the IAM role allows which the collection creates. The image job names its bucket after the AMI,
# podvm-image-VERSION by default.
BUCKET_PREFIX = "podvm-"


def short_id(cluster_id: str) -> str:
    """The part of the ID of a cluster in the names of its images and of its gallery."""
    return cluster_id[:8]


def image_version(cluster_id: str) -> str:
    """The version of the images of a cluster: a number of 31 bits, because Azure accepts no larger one."""
    try:
        return f"{int(short_id(cluster_id), 16) % 2**31}.0.1"
    except ValueError:
        return "0.0.1"
