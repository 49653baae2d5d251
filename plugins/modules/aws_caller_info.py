#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_caller_info
version_added: "0.1.0"
short_description: Run amazon.aws.aws_caller_info in the controller
description:
  - >-
    Runs M(amazon.aws.aws_caller_info) with the same options and the same result, in a fork of the Ansible worker if
    possible, as M(osc.peerpods.k8s) does.
  - The roles of this collection use it.
author:
  - The osc.peerpods authors (@osc-peerpods)
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - osc.peerpods.info_module
seealso:
  - module: amazon.aws.aws_caller_info
  - module: osc.peerpods.k8s
"""

EXAMPLES = r"""
- name: Read the identity of the credentials
  osc.peerpods.aws_caller_info:
    region: us-east-2
  register: caller
"""

RETURN = r"""
account:
  description: The ID of the account.
  returned: success
  type: str
  sample: "123456789012"
account_alias:
  description: The alias of the account; empty if it has none.
  returned: when the caller has the permission iam:ListAccountAliases
  type: str
  sample: acme-production
arn:
  description: The ARN of the identity.
  returned: success
  type: str
  sample: arn:aws:iam::123456789012:user/peerpods
user_id:
  description: The unique ID of the identity.
  returned: success
  type: str
  sample: AIDACKCEVSQ6C2EXAMPLE
"""
