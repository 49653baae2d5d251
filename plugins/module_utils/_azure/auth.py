# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The identity for Azure, and the cloud environment (private to this collection).

The options, the environment variables and the credentials file are those of azure.azcollection, in addition to the
variables of Azure's own tools. The code of azure.azcollection is not used, because it requires and imports some sixty
SDK packages; these modules need two.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

try:
    # azure.identity is imported by the one function that needs it.
    from azure.core import AzureClouds
    from azure.core.credentials import TokenCredential
    from azure.mgmt.core.tools import get_arm_endpoints
except ImportError:
    pass  # client.arm_module fails with a message about the missing library.


AZURE_AUTH_ARGS = {
    "auth_source": {
        "type": "str",
        "choices": ["auto", "cli", "credential_file", "env", "msi", "workload_identity"],
    },
    "profile": {"type": "str"},
    "subscription_id": {"type": "str"},
    "client_id": {"type": "str", "no_log": True},
    "secret": {"type": "str", "no_log": True},
    "tenant": {"type": "str", "no_log": True},
    "ad_user": {"type": "str", "no_log": True},
    "password": {"type": "str", "no_log": True},
    "cloud_environment": {"type": "str"},
    "cert_validation_mode": {"type": "str", "choices": ["ignore", "validate"]},
    "adfs_authority_url": {"type": "str"},
    "x509_certificate_path": {"type": "path", "no_log": True},
    "thumbprint": {"type": "str", "no_log": True},
    "oidc_token": {"type": "str", "no_log": True},
    "oidc_token_file_path": {"type": "path", "no_log": True},
    "disable_instance_discovery": {"type": "bool"},
}

# The environment variables of each option: first that of azure.azcollection, then that of Azure's own tools
# (EnvironmentCredential and WorkloadIdentityCredential of azure-identity).
ENVIRONMENT = {
    "profile": ("AZURE_PROFILE",),
    "subscription_id": ("AZURE_SUBSCRIPTION_ID",),
    "client_id": ("AZURE_CLIENT_ID",),
    "secret": ("AZURE_SECRET", "AZURE_CLIENT_SECRET"),
    "tenant": ("AZURE_TENANT", "AZURE_TENANT_ID"),
    "ad_user": ("AZURE_AD_USER", "AZURE_USERNAME"),
    "password": ("AZURE_PASSWORD",),
    "cloud_environment": ("AZURE_CLOUD_ENVIRONMENT",),
    "cert_validation_mode": ("AZURE_CERT_VALIDATION_MODE",),
    "adfs_authority_url": ("AZURE_ADFS_AUTHORITY_URL",),
    "x509_certificate_path": ("AZURE_X509_CERTIFICATE_PATH", "AZURE_CLIENT_CERTIFICATE_PATH"),
    "thumbprint": ("AZURE_THUMBPRINT",),
    "disable_instance_discovery": ("AZURE_DISABLE_INSTANCE_DISCOVERY",),
    "oidc_token": ("AZURE_FEDERATED_TOKEN",),
    "oidc_token_file_path": ("AZURE_FEDERATED_TOKEN_FILE",),
}

# Settings of the connection, not of the identity: each may come from another source.
_REACH = (
    "cloud_environment",
    "cert_validation_mode",
    "disable_instance_discovery",
    "subscription_id",
)

# The ways in which a service principal proves that it is one.
_SECRETS = {"secret", "x509_certificate_path"}
_OIDC = {"oidc_token", "oidc_token_file_path"}

CREDENTIALS_FILE = "~/.azure/credentials"

# The public client of the Azure CLI, for a log-in with user name and password without a client ID.
_AZURE_CLI_CLIENT_ID = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"

# The names of azure.azcollection and the Azure CLI, and those of OpenShift's Infrastructure.
_CLOUDS = {
    "AzureCloud": ("AZURE_PUBLIC_CLOUD", "https://login.microsoftonline.com"),
    "AzurePublicCloud": ("AZURE_PUBLIC_CLOUD", "https://login.microsoftonline.com"),
    "AzureUSGovernment": ("AZURE_US_GOVERNMENT", "https://login.microsoftonline.us"),
    "AzureUSGovernmentCloud": ("AZURE_US_GOVERNMENT", "https://login.microsoftonline.us"),
    "AzureChinaCloud": ("AZURE_CHINA_CLOUD", "https://login.chinacloudapi.cn"),
}

HOW_TO_LOG_IN = (
    "Set AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID to those of a service "
    f"principal, name a profile of {CREDENTIALS_FILE} with AZURE_PROFILE or the profile option, or "
    "log in with `az login`."
)


class LoginError(Exception):
    """The reason why the options do not name a valid identity or cloud, as a sentence."""


@dataclass(frozen=True)
class Cloud:
    """The endpoints of a cloud: URLs without a slash at the end."""

    resource_manager: str
    authority: str
    scope: str


@dataclass(frozen=True)
class Identity:
    """The kind of a credential and its values; `values` contains secrets."""

    kind: str
    values: Mapping[str, str]


def known_cloud(name: str) -> Cloud | None:
    """One of Microsoft's own clouds, by name."""
    if name not in _CLOUDS:
        return None
    setting, authority = _CLOUDS[name]
    endpoints = get_arm_endpoints(AzureClouds[setting])
    (scope,) = endpoints["credential_scopes"]
    return Cloud(endpoints["resource_manager"].rstrip("/"), authority, scope)


def metadata_url(cloud_environment: str) -> str:
    """The URL at which an Azure Stack returns its endpoints."""
    if urlsplit(cloud_environment).scheme != "https":
        raise LoginError(
            f"{cloud_environment!r} is not a cloud_environment: it must be one of "
            f"{', '.join(sorted(_CLOUDS))}, or the https:// URL of an Azure Resource Manager."
        )
    return f"{cloud_environment.rstrip('/')}/metadata/endpoints?api-version=2015-01-01"


def described_cloud(cloud_environment: str, metadata: Mapping) -> Cloud:
    """The cloud that the response of metadata_url describes, as Azure Stack returns it."""
    try:
        authentication = metadata["authentication"]
        # Azure Stack with AD FS appends a path that does not belong to the authority.
        authority = authentication["loginEndpoint"].rstrip("/")
        audience = authentication["audiences"][0].rstrip("/")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise LoginError(
            f"{metadata_url(cloud_environment)} returns no login endpoint. "
            "Check that cloud_environment is the URL of an Azure Resource Manager."
        ) from error
    return Cloud(cloud_environment.rstrip("/"), authority, f"{audience}/.default")


def settings(params: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """All login settings in effect, by option name; settings without a value are left out.

    The order is that of azure.azcollection for `auth_source: auto`: a profile that the options name; options that name
    an identity; the environment; the default profile.
    """
    from_options = {key: params[key] for key in AZURE_AUTH_ARGS if params.get(key) is not None}
    from_environment = {
        key: value
        for key, names in ENVIRONMENT.items()
        if (value := next((environ[name] for name in names if environ.get(name)), None))
    }
    source = from_options.pop("auth_source", None) or environ.get("ANSIBLE_AZURE_AUTH_SOURCE") or "auto"
    if source == "credential_file" or (source == "auto" and "profile" in from_options):
        identity_settings = _profile(from_options.get("profile") or from_environment.get("profile") or "default")
    elif source == "auto" and ("client_id" in from_options or "ad_user" in from_options):
        identity_settings = {}
    elif "profile" in from_environment and source in ("auto", "env"):
        identity_settings = _profile(from_environment["profile"])
    elif source == "auto" and not {"client_id", "ad_user"}.intersection(from_environment):
        identity_settings = {**from_environment, **_profile("default", missing_ok=True)}
    else:
        identity_settings = from_environment
    if from_options.keys() & _OIDC:
        # The options choose between ways of one identity, too.
        identity_settings = {key: value for key, value in identity_settings.items() if key not in _SECRETS | _OIDC}
    reach = {key: from_environment[key] for key in _REACH if key in from_environment}
    return {**reach, **identity_settings, **from_options, "auth_source": source}


def identity(login: Mapping[str, Any]) -> Identity:
    """The credential that these settings describe."""
    source = login["auth_source"]
    present = login.keys()
    if source == "msi":
        return _identity("msi", login, optional=("client_id",))
    if source == "workload_identity" or (
        source in ("auto", "env") and {"client_id", "tenant"} <= present and _OIDC & present and not _SECRETS & present
    ):
        token = "oidc_token" if "oidc_token" in present else "oidc_token_file_path"
        return _identity("workload_identity", login, "tenant", "client_id", token)
    if source != "cli":
        if {"client_id", "secret", "tenant"} <= present:
            return _identity("client_secret", login, "tenant", "client_id", "secret")
        if {"client_id", "x509_certificate_path", "tenant"} <= present:
            return _identity("certificate", login, "tenant", "client_id", "x509_certificate_path")
        if {"ad_user", "password"} <= present:
            return _identity("user", login, "ad_user", "password", optional=("client_id", "tenant"))
        incomplete = [key for key in ("client_id", "ad_user", "secret", "tenant") if key in present]
        if source != "auto" or {"client_id", "ad_user"} & present:
            raise LoginError(
                "The Azure credentials are incomplete: client_id, secret and tenant are required; set: "
                f"{', '.join(incomplete) or 'none'}. {HOW_TO_LOG_IN}"
            )
    return _identity("cli", login, optional=("tenant",))


def credential(principal: Identity, cloud: Cloud, login: Mapping[str, Any]) -> TokenCredential:
    """The credential object of azure-identity for this principal."""
    # Importing azure.identity takes half a second.
    import azure.identity

    values = principal.values
    options = {
        "authority": login.get("adfs_authority_url", cloud.authority),
        "disable_instance_discovery": _is_on(login.get("disable_instance_discovery")),
        "connection_verify": login.get("cert_validation_mode") != "ignore",
    }
    if principal.kind == "msi":
        return azure.identity.ManagedIdentityCredential(client_id=values.get("client_id"))
    if principal.kind == "cli":
        return azure.identity.AzureCliCredential(tenant_id=values.get("tenant", ""))
    if principal.kind == "workload_identity" and "oidc_token" in values:
        return azure.identity.ClientAssertionCredential(
            values["tenant"], values["client_id"], lambda: values["oidc_token"], **options
        )
    if principal.kind == "workload_identity":
        return azure.identity.WorkloadIdentityCredential(
            tenant_id=values["tenant"],
            client_id=values["client_id"],
            token_file_path=values["oidc_token_file_path"],
            **options,
        )
    if principal.kind == "client_secret":
        return azure.identity.ClientSecretCredential(values["tenant"], values["client_id"], values["secret"], **options)
    if principal.kind == "certificate":
        return azure.identity.CertificateCredential(
            values["tenant"], values["client_id"], values["x509_certificate_path"], **options
        )
    return azure.identity.UsernamePasswordCredential(
        values.get("client_id", _AZURE_CLI_CLIENT_ID),
        values["ad_user"],
        values["password"],
        tenant_id=values.get("tenant", "organizations"),
        **options,
    )


def _is_on(value: Any) -> bool:
    """A boolean that may come from the environment or a file."""
    return str(value).strip().lower() in ("true", "yes", "on", "1")


def _identity(kind: str, login: Mapping[str, Any], *needed: str, optional: tuple[str, ...] = ()) -> Identity:
    missing = [key for key in needed if key not in login]
    if missing:
        names = ", ".join(f"{key} ({ENVIRONMENT[key][-1]})" for key in missing)
        raise LoginError(f"To log in to Azure by {kind}, set {names}.")
    return Identity(kind, {key: login[key] for key in (*needed, *optional) if key in login})


def _profile(name: str, missing_ok: bool = False) -> dict[str, str]:
    path = Path(os.path.expanduser(CREDENTIALS_FILE))
    parser = configparser.RawConfigParser()
    try:
        parser.read(path)
        section = dict(parser[name])
    except configparser.Error as error:
        # Its message may quote a line of the file, and so a secret.
        raise LoginError(f"{path} is not an INI file ({type(error).__name__}).") from None
    except KeyError:
        if missing_ok:
            return {}
        raise LoginError(f"{path} has no profile {name!r}. {HOW_TO_LOG_IN}") from None
    return {key: value for key, value in section.items() if key in ENVIRONMENT and value}
