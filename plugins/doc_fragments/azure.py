# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options for the login to Azure; module_utils/_azure/auth.py resolves them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  auth_source:
    description:
      - The source of the credentials.
      - V(auto) uses the first of O(profile), the options O(client_id) or O(ad_user), the environment, the profile
        C(default) of C(~/.azure/credentials), and the login of the Azure CLI.
      - >-
        V(env) uses the environment only, V(credential_file) the file C(~/.azure/credentials), V(cli) the login of the
        Azure CLI, V(msi) the managed identity of the machine, V(workload_identity) the token of O(oidc_token) or
        O(oidc_token_file_path).
      - Defaults to E(ANSIBLE_AZURE_AUTH_SOURCE), else V(auto).
    type: str
    choices: [auto, cli, credential_file, env, msi, workload_identity]
  profile:
    description:
      - The profile of C(~/.azure/credentials) to use. Defaults to E(AZURE_PROFILE).
    type: str
  subscription_id:
    description:
      - The id of the subscription, if no resource id contains it. Defaults to E(AZURE_SUBSCRIPTION_ID).
    type: str
  client_id:
    description:
      - The client (application) id of the service principal or the managed identity. Defaults to E(AZURE_CLIENT_ID).
    type: str
  secret:
    description:
      - The secret of the service principal. Defaults to E(AZURE_SECRET), else E(AZURE_CLIENT_SECRET).
    type: str
  tenant:
    description:
      - The id of the tenant. Defaults to E(AZURE_TENANT), else E(AZURE_TENANT_ID).
    type: str
  ad_user:
    description:
      - The user name, to log in as a user without multi-factor authentication. Defaults to E(AZURE_AD_USER), else
        E(AZURE_USERNAME).
    type: str
  password:
    description:
      - The password of the user. Defaults to E(AZURE_PASSWORD).
    type: str
  cloud_environment:
    description:
      - >-
        The cloud environment, V(AzureCloud), V(AzureUSGovernment), V(AzureChinaCloud), or the C(https://) URL of
        another Azure Resource Manager, such as that of an Azure Stack, which returns its endpoints.
      - Defaults to E(AZURE_CLOUD_ENVIRONMENT), else V(AzureCloud).
    type: str
  cert_validation_mode:
    description:
      - Whether to verify the certificates of Azure's endpoints.
      - Defaults to E(AZURE_CERT_VALIDATION_MODE), else V(validate). E(REQUESTS_CA_BUNDLE) names a file with further CA
        certificates.
    type: str
    choices: [ignore, validate]
  adfs_authority_url:
    description:
      - >-
        The URL of the authority for the login, instead of that of O(cloud_environment). Defaults to
        E(AZURE_ADFS_AUTHORITY_URL).
    type: str
  x509_certificate_path:
    description:
      - The PEM file with the certificate and private key of the service principal, instead of O(secret). Defaults to
        E(AZURE_X509_CERTIFICATE_PATH), else E(AZURE_CLIENT_CERTIFICATE_PATH).
    type: path
  thumbprint:
    description:
      - Accepted for compatibility with azure.azcollection, and ignored. The thumbprint is read from the certificate.
    type: str
  oidc_token:
    description:
      - The OpenID Connect token (JWT) of the service principal or the managed identity, instead of O(secret). Defaults
        to E(AZURE_FEDERATED_TOKEN).
      - Azure accepts such a token for some minutes. A longer run needs O(oidc_token_file_path), which is read again.
    type: str
  oidc_token_file_path:
    description:
      - The file with such a token, and nothing else. Defaults to E(AZURE_FEDERATED_TOKEN_FILE).
    type: path
  disable_instance_discovery:
    description:
      - >-
        Whether to trust the authority without instance discovery, such as if Microsoft's public endpoints cannot be
        reached.
      - Defaults to E(AZURE_DISABLE_INSTANCE_DISCOVERY), else V(false).
    type: bool
requirements:
  - python >= 3.11
  - azure-identity >= 1.16.0
  - azure-mgmt-core >= 1.5.0
notes:
  - >-
    The options, and the first environment variable of each, are those of M(azure.azcollection.azure_rm_securitygroup).
    The Python packages of that collection are not required.
  - With E(AZURE_FEDERATED_TOKEN_FILE), as the workload identity webhook sets it, O(auth_source=auto) needs no secret.
    A secret in the environment precedes it; it does not precede O(oidc_token) or O(oidc_token_file_path).
"""
