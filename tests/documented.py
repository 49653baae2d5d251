"""The commands of the product documentation, unchanged.

"Deploying OpenShift sandboxed containers workloads using peer pods", 3.1.1.1 (the limit), 3.1.2.1
(AWS) and 3.1.3.1 (Azure). `oc` is kubectl here, whose `get` and `patch` are the same.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# AWS CLI v1, the version on PyPI. It pins botocore, so it requires its own environment.
AWSCLI = "awscli==1.46.3"

_OC = 'oc() { kubectl "$@"; }\n'
_INSTANCE_ID = r"""
INSTANCE_ID=$(oc get nodes -l 'node-role.kubernetes.io/worker' -o jsonpath='{.items[0].spec.providerID}' | sed 's#[^ ]*/##g')
"""

AWS_FACTS = (
    _OC
    + _INSTANCE_ID
    + r"""
AWS_REGION=$(oc get infrastructure/cluster -o jsonpath='{.status.platformStatus.aws.region}')
"""
)
AWS_PORTS = (
    AWS_FACTS
    + r"""
SG=$(aws ec2 describe-instances --instance-ids ${INSTANCE_ID} \
  --query 'Reservations[*].Instances[*].SecurityGroups[*].GroupId' --output text --region ${AWS_REGION})
aws ec2 authorize-security-group-ingress --group-id ${SG} --protocol tcp --port 15150 --source-group ${SG} --region ${AWS_REGION}
aws ec2 authorize-security-group-ingress --group-id ${SG} --protocol tcp --port 9000 --source-group ${SG} --region ${AWS_REGION}
"""
)

AZURE_FACTS = (
    _OC
    + _INSTANCE_ID
    + r"""
AZURE_RESOURCE_GROUP=$(oc get infrastructure/cluster -o jsonpath='{.status.platformStatus.azure.resourceGroupName}')
"""
)
AZURE_NETWORK = r"""
AZURE_NSG_NAME=$(az network nsg list --resource-group ${AZURE_RESOURCE_GROUP} --query "[].{Name:name}" --output tsv)
AZURE_VNET_NAME=$(az network vnet list --resource-group ${AZURE_RESOURCE_GROUP} --query "[].{Name:name}" --output tsv)
AZURE_SUBNET_NAME=$(az network vnet subnet list --resource-group ${AZURE_RESOURCE_GROUP} --vnet-name ${AZURE_VNET_NAME}  \
  --query "[].{Name:name} | [? contains(Name, 'worker')]" --output tsv)
AZURE_SUBNET_PREFIX=$(az network vnet subnet show --name ${AZURE_SUBNET_NAME} --vnet-name ${AZURE_VNET_NAME} \
  --resource-group ${AZURE_RESOURCE_GROUP} --query "addressPrefix" --output tsv)
"""
AZURE_KATA_AGENT = r"""
az network nsg rule create \
  --resource-group $AZURE_RESOURCE_GROUP \
  --nsg-name $AZURE_NSG_NAME \
  --name Allow-Kata-Agent-Internal \
  --access Allow \
  --protocol Tcp \
  --direction Inbound \
  --priority 112 \
  --source-address-prefixes $AZURE_SUBNET_PREFIX \
  --source-port-range "*" \
  --destination-address-prefixes $AZURE_SUBNET_PREFIX  \
  --destination-port-range 15150
"""
AZURE_VXLAN = r"""
az network nsg rule create \
  --resource-group $AZURE_RESOURCE_GROUP \
  --nsg-name $AZURE_NSG_NAME \
  --name Allow-VXLAN-Internal \
  --access Allow \
  --protocol Tcp \
  --direction Inbound \
  --priority 111 \
  --source-address-prefixes $AZURE_SUBNET_PREFIX \
  --source-port-range "*" \
  --destination-address-prefixes $AZURE_SUBNET_PREFIX  \
  --destination-port-range 9000
"""
# "Configuring outbound connections" of "Deploying OpenShift sandboxed containers" on Azure and on Azure Red Hat OpenShift.
# The region and the subnet are read by commands before, which are left out here.
AZURE_OUTBOUND = (
    AZURE_FACTS
    + r"""
PEERPOD_NAT_GW=peerpod-nat-gw
PEERPOD_NAT_GW_IP=peerpod-nat-gw-ip
az network public-ip create -g "${AZURE_RESOURCE_GROUP}" -n "${PEERPOD_NAT_GW_IP}" -l "${AZURE_REGION}" --sku Standard
az network nat gateway create -g "${AZURE_RESOURCE_GROUP}" -l "${AZURE_REGION}" \
  --public-ip-addresses "${PEERPOD_NAT_GW_IP}" -n "${PEERPOD_NAT_GW}"
az network vnet subnet update --nat-gateway "${PEERPOD_NAT_GW}" --ids "${AZURE_SUBNET_ID}"
"""
)
AZURE_PORTS = AZURE_FACTS + AZURE_NETWORK + AZURE_KATA_AGENT + AZURE_VXLAN

# docs/credentials-handling.md of openshift/sandboxed-containers-operator, "Tokenized Authentication". The managed policy
# of AWS, which moto does not have, is left out. az role assignment create --assignee asks Microsoft Graph for the
# principal, which is not emulated: the two options for its ID and type are in its place.
AWS_TOKEN = (
    _OC
    + r"""
AWS_ACCOUNT_ID=$(aws sts get-caller-identity --query "Account" --output text)
OIDC_PROVIDER=$(oc get authentication cluster -o jsonpath='{.spec.serviceAccountIssuer}' | sed -e "s/^https:\/\///")
ROLE_NAME=openshift-sandboxed-containers-role
aws iam create-role --role-name $ROLE_NAME --assume-role-policy-document file://<(cat <<EOF
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {
        "Federated": "arn:aws:iam::${AWS_ACCOUNT_ID}:oidc-provider/${OIDC_PROVIDER}"
      },
      "Action": "sts:AssumeRoleWithWebIdentity",
      "Condition": {
        "StringEquals": {
          "${OIDC_PROVIDER}:sub": "system:serviceaccount:openshift-sandboxed-containers-operator:default",
          "${OIDC_PROVIDER}:aud": "openshift"
        }
      }
    }
  ]
}
EOF
)
"""
)
AZURE_TOKEN = (
    AZURE_FACTS
    + r"""
IDENTITY_NAME=documented
RESOURCE_GROUP=$AZURE_RESOURCE_GROUP
LOCATION=westeurope
az identity create --name $IDENTITY_NAME --resource-group $RESOURCE_GROUP --location $LOCATION
PRINCIPAL_ID=$(az identity show  --name $IDENTITY_NAME --resource-group $RESOURCE_GROUP --query principalId -o tsv)
SUBSCRIPTION_ID=$(az account show --query id -o tsv)
ROLES=("Reader" "Virtual Machine Contributor" "Network Contributor" "Storage Account Contributor" \
  "Compute Gallery Artifacts Publisher")
for r in "${ROLES[@]}"; do az role assignment create --assignee-object-id "$PRINCIPAL_ID" \
  --assignee-principal-type ServicePrincipal --role "$r" --scope "/subscriptions/$SUBSCRIPTION_ID"; done
ISSUER=$(oc get authentication.config.openshift.io cluster -o jsonpath='{.spec.serviceAccountIssuer}')
az identity federated-credential create  --name $IDENTITY_NAME-federation  --identity-name $IDENTITY_NAME \
  --issuer $ISSUER --subject system:serviceaccount:openshift-sandboxed-containers-operator:default \
  -g $RESOURCE_GROUP --audiences openshift
"""
)


def limit(value: str) -> str:
    return (
        _OC
        + r"""
oc get peerpodconfig peerpodconfig-openshift -n openshift-sandboxed-containers-operator \
-o jsonpath='{.spec.limit}{"\n"}'
oc patch peerpodconfig peerpodconfig-openshift -n openshift-sandboxed-containers-operator \
--type merge --patch '{"spec":{"limit":"<value>"}}'
""".replace("<value>", value)
    )


def typed(script: str, environment: dict[str, str], *programs: Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a shell with the directories `programs` at the beginning of the PATH.

    As at a prompt, the script continues after a command that fails.
    """
    path = os.pathsep.join([*map(str, programs), environment["PATH"]])
    return subprocess.run(
        ["bash", "-c", script],
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
