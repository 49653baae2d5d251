# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The roles of cloud-api-adaptor and of its image jobs on Azure, and the actions that they need (private; no I/O here).

`docs/policies` has them as files. Source: openshift/sandboxed-containers-operator (SCO) and
confidential-containers/cloud-api-adaptor.
"""

from __future__ import annotations

# config/peerpods/credentials-requests/ccoctl/credentials_request_azure_wif.yaml of SCO: the built-in roles of
# cloud-api-adaptor, and those of the jobs that create and delete the image.
VM_ROLES = ("Reader", "Virtual Machine Contributor", "Network Contributor")
IMAGE_ROLES = ("Storage Account Contributor", "Compute Gallery Artifacts Publisher")

# What cloud-api-adaptor does: azure/provider.go of confidential-containers/cloud-api-adaptor; with the actions that ARM
# requires for it, as the CredentialsRequest of openshift/machine-api-operator has them for the VMs of nodes
# (install/0000_30_machine-api-operator_00_credentials-request.yaml).
VM_ACTIONS = (
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/galleries/images/versions/read",
    "Microsoft.Compute/locations/vmSizes/read",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/networkInterfaces/write",
)
NSG_ACTIONS = ("Microsoft.Network/networkSecurityGroups/join/action",)
SUBNET_ACTIONS = ("Microsoft.Network/virtualNetworks/subnets/join/action",)
# What the jobs for the image do: config/peerpods/podvm/azure-podvm-image-handler.sh of SCO.
IMAGE_ACTIONS = (
    "Microsoft.Compute/galleries/delete",
    "Microsoft.Compute/galleries/images/delete",
    "Microsoft.Compute/galleries/images/read",
    "Microsoft.Compute/galleries/images/versions/delete",
    "Microsoft.Compute/galleries/images/versions/read",
    "Microsoft.Compute/galleries/images/versions/write",
    "Microsoft.Compute/galleries/images/write",
    "Microsoft.Compute/galleries/read",
    "Microsoft.Compute/galleries/write",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Storage/storageAccounts/delete",
    "Microsoft.Storage/storageAccounts/listKeys/action",
    "Microsoft.Storage/storageAccounts/read",
    "Microsoft.Storage/storageAccounts/write",
)
