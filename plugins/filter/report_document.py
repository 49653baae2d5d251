# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: report_document
version_added: "0.1.0"
short_description: Build a report from findings and module results
description:
  - >-
    Builds the report that the role P(osc.peerpods.report#role) writes as JSON and as an HTML page. The README.md of
    that role describes its keys.
  - Takes over only the values that the report shows, and replaces characters that HTML and XML do not allow.
author:
  - The osc.peerpods authors (@osc-peerpods)
options:
  _input:
    description:
      - >-
        The findings, each with the keys C(check), C(title), C(status), C(found), C(why) and C(fix), and optionally
        C(cause).
    type: list
    elements: dict
    required: true
  title:
    description:
      - The title of the report.
    type: str
    required: true
  made_at:
    description:
      - The time of the report, in UTC and ISO 8601.
    type: str
    required: true
  made_by:
    description:
      - The author of the report, such as the name of a user or a job.
    type: str
  cluster:
    description:
      - The return of M(osc.peerpods.cluster_info).
    type: dict
  operators:
    description:
      - The return of M(kubernetes.core.k8s_info) for ClusterServiceVersions.
    type: dict
  peer_pods:
    description:
      - The return of M(osc.peerpods.peerpod_info).
    type: dict
  networking:
    description:
      - The return of M(osc.peerpods.security_group_ports) or M(osc.peerpods.nsg_rules).
    type: dict
"""

EXAMPLES = r"""
- name: Build a report
  ansible.builtin.set_fact:
    report: >-
      {{ findings | osc.peerpods.report_document(
           title='Peer pods', made_at=now(utc=true, fmt='%Y-%m-%dT%H:%M:%SZ'), peer_pods=peer_pods) }}
"""

RETURN = r"""
_value:
  description: The report.
  type: dict
"""

from collections.abc import Callable

from ansible_collections.osc.peerpods.plugins.module_utils._report.document import document


class FilterModule:
    def filters(self) -> dict[str, Callable]:
        return {"report_document": document}
