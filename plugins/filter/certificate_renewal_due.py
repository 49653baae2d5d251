# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate_renewal_due
version_added: "0.1.0"
short_description: Decide whether a certificate must be renewed
description:
  - >-
    A certificate is due for renewal when a third of its lifetime or less is left, as the role
    P(osc.peerpods.webhook#role) decides.
author:
  - The osc.peerpods authors (@osc-peerpods)
positional: _input, days
options:
  _input:
    description:
      - The certificate, as the filter P(community.crypto.x509_certificate_info#filter) returns it.
    type: dict
    required: true
  days:
    description:
      - The lifetime of a new certificate, in days.
    type: int
    required: true
  now:
    description:
      - The time to compare with, as V(YYYYMMDDHHMMSSZ). Defaults to the current time.
    type: str
"""

EXAMPLES = r"""
- name: Report whether the certificate is due for renewal
  ansible.builtin.debug:
    msg: "{{ certificate | community.crypto.x509_certificate_info | osc.peerpods.certificate_renewal_due(365) }}"
  vars:
    certificate: "{{ lookup('ansible.builtin.file', 'tls.crt') }}"
"""

RETURN = r"""
_value:
  description: Whether the certificate is due for renewal.
  type: bool
"""

from ansible_collections.osc.peerpods.plugins.module_utils._admission.renewal import certificate_renewal_due


class FilterModule:
    def filters(self) -> dict:
        return {"certificate_renewal_due": certificate_renewal_due}
