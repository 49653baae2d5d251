# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options for the login to Azure; module_utils/_azure/auth.py resolves them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  auth_source:
    description:
      - Where the credentials come from.
      - V(auto) takes the first of O(profile), the options O(client_id) or O(ad_user), the environment, the profile
        C(default) of C(~/.azure/credentials), and the log-in of the Azure CLI.
      - V(env) reads the environment only, V(credential_file) the file C(~/.azure/credentials), V(cli) asks the Azure
        CLI, V(msi) takes the managed identity of the machine, V(workload_identity) the federated token in
        E(AZURE_FEDERATED_TOKEN_FILE).
      - The default is E(ANSIBLE_AZURE_AUTH_SOURCE), else V(auto).
    type: str
    choices: [auto, cli, credential_file, env, msi, workload_identity]
  profile:
    description:
      - The profile of C(~/.azure/credentials) to use. The default is E(AZURE_PROFILE).
    type: str
  subscription_id:
    description:
      - The subscription, where no resource id says it. The default is E(AZURE_SUBSCRIPTION_ID).
    type: str
  client_id:
    description:
      - The service principal's or the managed identity's client (application) id. The default is E(AZURE_CLIENT_ID).
    type: str
  secret:
    description:
      - The service principal's secret. The default is E(AZURE_SECRET), else E(AZURE_CLIENT_SECRET).
    type: str
  tenant:
    description:
      - The tenant. The default is E(AZURE_TENANT), else E(AZURE_TENANT_ID).
    type: str
  ad_user:
    description:
      - The user name, to log in as a user without multi-factor authentication. The default is E(AZURE_AD_USER), else
        E(AZURE_USERNAME).
    type: str
  password:
    description:
      - The user's password. The default is E(AZURE_PASSWORD).
    type: str
  cloud_environment:
    description:
      - Which Azure it is, V(AzureCloud), V(AzureUSGovernment), V(AzureChinaCloud), or the C(https://) URL of the
        Azure Resource Manager of another one, such as an Azure Stack, which is asked for its endpoints.
      - The default is E(AZURE_CLOUD_ENVIRONMENT), else V(AzureCloud).
    type: str
  cert_validation_mode:
    description:
      - Whether to check the certificates of Azure's endpoints.
      - The default is E(AZURE_CERT_VALIDATION_MODE), else V(validate). E(REQUESTS_CA_BUNDLE) names a file of further
        authorities.
    type: str
    choices: [ignore, validate]
  adfs_authority_url:
    description:
      - Where to log in, instead of the authority of O(cloud_environment). The default is E(AZURE_ADFS_AUTHORITY_URL).
    type: str
  x509_certificate_path:
    description:
      - The PEM file with the service principal's certificate and private key, instead of O(secret). The default is
        E(AZURE_X509_CERTIFICATE_PATH), else E(AZURE_CLIENT_CERTIFICATE_PATH).
    type: path
  thumbprint:
    description:
      - Accepted for the sake of azure.azcollection's users. The thumbprint is read from the certificate.
    type: str
  disable_instance_discovery:
    description:
      - Whether to trust the authority without asking Microsoft about it, where that cannot be reached.
      - The default is E(AZURE_DISABLE_INSTANCE_DISCOVERY), else V(false).
    type: bool
requirements:
  - python >= 3.11
  - azure-identity >= 1.16.0
  - azure-mgmt-core >= 1.5.0
notes:
  - The options, and the variables named first, are those of M(azure.azcollection.azure_rm_securitygroup). The
    Python packages of that collection are not required.
  - For E(AZURE_FEDERATED_TOKEN_FILE), set as the workload identity webhook does, V(auto) needs no secret.
"""
