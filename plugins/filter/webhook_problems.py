# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: webhook_problems
version_added: "0.1.0"
short_description: Report why the webhook cannot be deployed with these options
description:
  - Validates options of the role P(osc.peerpods.webhook#role) together, before anything is changed.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - >-
        A dictionary with the options without their prefix, C(certificate), C(cert_manager_issuer), C(port),
        C(health_port), C(replicas), C(target_runtime_classes), C(extra_excluded_namespaces), C(client_ca) and
        C(tls_cipher_suites); with C(tls_min_version), V(VersionTLS12) or V(VersionTLS13), null if it is not known; and
        with C(serves_cert_manager) and C(has_service_ca), which are whether the API server serves C(cert-manager.io),
        and whether the cluster has the service CA operator, null if that is not known.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Validate the options of the webhook
  ansible.builtin.assert:
    that: options | osc.peerpods.webhook_problems | length == 0
"""

RETURN = r"""
_value:
  description: The problems, each as a sentence with what to do.
  type: list
  elements: str
  sample: [webhook_port and webhook_health_port are both 9443. Set one of them to another port.]
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._admission.webhook_role import webhook_problems


def problems(options: Mapping[str, Any]) -> list[str]:
    # What community.crypto needs, whose filters run in the same Python.
    return webhook_problems({**options, "has_cryptography": find_spec("cryptography") is not None})


class FilterModule:
    def filters(self) -> dict:
        return {"webhook_problems": problems}
