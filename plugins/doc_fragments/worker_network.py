# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options that select the workers' NSGs; module_utils/_azure/worker_network.py reads them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  virtual_machines:
    description:
      - The workers, each as an ARM id or as the C(spec.providerID) of its node (V(azure:///subscriptions/...)).
      - O(nodes), O(virtual_machines) and O(subnets) are mutually exclusive. O(network_security_groups) is required if none of them
        is set.
    type: list
    elements: str
  subnets:
    description:
      - The workers' subnets, by ARM id. NSGs that are attached to network interfaces are then not found.
    type: list
    elements: str
  network_security_groups:
    description:
      - The NSGs, by ARM id, instead of those that are attached to the workers' subnets and network interfaces.
    type: list
    elements: str
"""
