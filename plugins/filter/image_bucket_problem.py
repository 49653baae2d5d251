# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: image_bucket_problem
version_added: "0.1.0"
short_description: Report why the job for the image of peer pods' VMs would fail on its S3 bucket
description:
  - >-
    With credentials that are given, the job of the operator requires an S3 bucket and the IAM role C(vmimport).
    Otherwise it creates the bucket, which must not exist.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: reading, region
options:
  _input:
    description:
      - >-
        The buckets of the job, C(image_settings.buckets) of P(osc.peerpods.operator_settings#filter) or
        C(pod_vm_image.buckets) of M(osc.peerpods.operator_info).
    type: dict
    required: true
  reading:
    description:
      - >-
        The result of M(osc.peerpods.ec2_podvm_import) in check mode for a bucket that the job needs, that of
        M(osc.peerpods.ec2_podvm_cleanup) for one that it creates.
    type: dict
    required: true
  region:
    description:
      - The region of the cluster.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Require that the image job does not fail on its bucket
  ansible.builtin.assert:
    that: buckets | osc.peerpods.image_bucket_problem(reading, 'us-east-2') | length == 0
"""

RETURN = r"""
_value:
  description: C(found), what was found, and C(fix), what to do; empty if the job would not fail or if it is not known.
  type: dict
  sample:
    found: The image job creates the S3 bucket podvm-image-262093934.0.1 itself, and fails because it exists.
    fix: "If nothing else uses it, delete it: aws s3 rb s3://podvm-image-262093934.0.1 --force."
"""

from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_bucket import bucket_problem


class FilterModule:
    def filters(self) -> dict:
        return {"image_bucket_problem": bucket_problem}
