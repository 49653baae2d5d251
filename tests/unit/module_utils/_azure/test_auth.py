"""Which source of credentials for Azure takes precedence."""

from __future__ import annotations

from pathlib import Path

import azure.identity
import pytest
from ansible_collections.azure.azcollection.plugins.module_utils.azure_rm_common import (
    AZURE_COMMON_ARGS,
    AZURE_CREDENTIAL_ENV_MAPPING,
)
from ansible_collections.osc.peerpods.plugins.module_utils._azure.auth import (
    AZURE_AUTH_ARGS,
    ENVIRONMENT,
    Cloud,
    Identity,
    LoginError,
    credential,
    described_cloud,
    identity,
    known_cloud,
    metadata_url,
    settings,
)

PRINCIPAL = {"client_id": "app", "secret": "s3cret", "tenant": "contoso"}
EXPORTED = {
    "AZURE_CLIENT_ID": "env-app",
    "AZURE_CLIENT_SECRET": "env-s3cret",
    "AZURE_TENANT_ID": "env-tenant",
    "AZURE_SUBSCRIPTION_ID": "env-subscription",
}
CLOUD = Cloud("https://arm.example", "https://login.example", "https://arm.example/.default")

# Options of azure.azcollection without a counterpart here: logging, and the SDK profiles of Azure Stack.
NOT_OURS = {"api_profile", "log_mode", "log_path"}
# Its options from version 3.17 on.
OIDC = {"oidc_token", "oidc_token_file_path"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".azure").mkdir()
    return tmp_path


@pytest.fixture
def credentials_file(home: Path) -> Path:
    path = home / ".azure" / "credentials"
    path.write_text(
        "[default]\nclient_id=file-app\nsecret=file%s3cret\ntenant=file-tenant\n"
        "[gov]\nclient_id=gov-app\nsecret=x\ntenant=t\ncloud_environment=AzureUSGovernment\nother=1\n"
    )
    return path


def identity_of(params: dict, environ: dict[str, str]) -> Identity:
    return identity(settings(params, environ))


# -- The options are azure.azcollection's ------------------------------------------------------


def test_the_options_of_azure_azcollection_are_supported():
    supported = {name: spec for name, spec in AZURE_COMMON_ARGS.items() if name not in NOT_OURS}
    assert AZURE_AUTH_ARGS.keys() == supported.keys() | OIDC
    for name, spec in supported.items():
        own_spec = AZURE_AUTH_ARGS[name]
        assert own_spec["type"] == spec["type"], name
        assert own_spec.get("no_log", False) == spec.get("no_log", False), name
        assert set(own_spec.get("choices", ())) >= set(spec.get("choices", ())), name


def test_the_variables_of_azure_azcollection_are_supported():
    for option, name in AZURE_CREDENTIAL_ENV_MAPPING.items():
        assert ENVIRONMENT[option][0] == name


# -- The identity -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "environ", "kind", "client_id"),
    [
        (PRINCIPAL, EXPORTED, "client_secret", "app"),
        ({}, EXPORTED, "client_secret", "env-app"),
        ({}, {}, "client_secret", "file-app"),
        ({"profile": "gov"}, EXPORTED, "client_secret", "gov-app"),
        ({}, {**EXPORTED, "AZURE_PROFILE": "gov"}, "client_secret", "gov-app"),
        ({"auth_source": "credential_file"}, EXPORTED, "client_secret", "file-app"),
        (
            {"auth_source": "credential_file"},
            {"AZURE_PROFILE": "gov"},
            "client_secret",
            "gov-app",
        ),
        ({"auth_source": "env"}, EXPORTED, "client_secret", "env-app"),
        ({}, {**EXPORTED, "ANSIBLE_AZURE_AUTH_SOURCE": "msi"}, "msi", "env-app"),
        ({"auth_source": "msi", "client_id": "mine"}, EXPORTED, "msi", "mine"),
        ({"auth_source": "cli"}, EXPORTED, "cli", None),
        (
            {"auth_source": "workload_identity"},
            {**EXPORTED, "AZURE_FEDERATED_TOKEN_FILE": "/token"},
            "workload_identity",
            "env-app",
        ),
        (
            {},
            {"AZURE_CLIENT_ID": "a", "AZURE_TENANT_ID": "t", "AZURE_FEDERATED_TOKEN_FILE": "/t"},
            "workload_identity",
            "a",
        ),
        ({}, {**EXPORTED, "AZURE_FEDERATED_TOKEN_FILE": "/t"}, "client_secret", "env-app"),
        ({"oidc_token_file_path": "/t"}, EXPORTED, "workload_identity", "env-app"),
        ({"oidc_token": "jwt"}, {**EXPORTED, "AZURE_CLIENT_CERTIFICATE_PATH": "/c"}, "workload_identity", "env-app"),
        ({"oidc_token": "jwt", "secret": "x"}, EXPORTED, "client_secret", "env-app"),
        (
            {"client_id": "app", "tenant": "t", "x509_certificate_path": "/cert.pem"},
            EXPORTED,
            "certificate",
            "app",
        ),
        ({"ad_user": "me@contoso", "password": "pw"}, EXPORTED, "user", None),
    ],
)
@pytest.mark.usefixtures("credentials_file")
def test_the_first_source_with_an_identity_takes_precedence(params, environ, kind, client_id):
    used_identity = identity_of(params, environ)
    assert (used_identity.kind, used_identity.values.get("client_id")) == (kind, client_id)


def test_the_token_of_the_options_replaces_that_of_the_environment():
    exported = {**EXPORTED, "AZURE_FEDERATED_TOKEN": "env-jwt"}
    assert "oidc_token" not in identity_of({"oidc_token_file_path": "/t"}, exported).values
    exported = {key: value for key, value in exported.items() if key != "AZURE_CLIENT_SECRET"}
    assert identity_of({}, exported).values["oidc_token"] == "env-jwt"


def test_the_azure_cli_is_the_last_source():
    assert identity_of({}, {}) == Identity("cli", {})
    assert identity_of({}, {"AZURE_SUBSCRIPTION_ID": "s"}) == Identity("cli", {})


def test_variables_of_azure_azcollection_precede_those_of_azures_tools():
    exported = {**EXPORTED, "AZURE_SECRET": "first", "AZURE_TENANT": "first-tenant"}
    assert identity_of({}, exported).values == {
        "client_id": "env-app",
        "secret": "first",
        "tenant": "first-tenant",
    }


@pytest.mark.parametrize(
    ("params", "environ", "message"),
    [
        (
            {"client_id": "app"},
            {"AZURE_SECRET": "of another identity"},
            "are required; set: client_id. ",
        ),
        ({"auth_source": "env"}, {}, "are required; set: none. "),
        ({}, {"AZURE_CLIENT_ID": "a", "AZURE_SECRET": "b"}, "set: client_id, secret. "),
        ({"auth_source": "workload_identity"}, {}, "AZURE_FEDERATED_TOKEN_FILE"),
        ({"profile": "absent"}, {}, "has no profile 'absent'"),
    ],
)
def test_incomplete_credentials_are_reported_with_advice(params, environ, message):
    with pytest.raises(LoginError, match=message) as raised:
        identity_of(params, environ)
    assert "of another identity" not in str(raised.value)


def test_a_broken_credentials_file_is_not_quoted(credentials_file: Path):
    credentials_file.write_text("secret = s3cret\n")
    with pytest.raises(LoginError, match="is not an INI file") as raised:
        identity_of({"profile": "gov"}, {})
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.usefixtures("credentials_file")
def test_connection_settings_come_from_any_source():
    exported = {"AZURE_CLOUD_ENVIRONMENT": "https://stack.example", "AZURE_SUBSCRIPTION_ID": "s"}
    assert settings(PRINCIPAL, exported)["cloud_environment"] == "https://stack.example"
    assert settings(PRINCIPAL, exported)["subscription_id"] == "s"
    assert settings({"profile": "gov"}, exported)["subscription_id"] == "s"
    assert settings({"profile": "gov"}, EXPORTED)["client_id"] == "gov-app"
    assert settings({"profile": "gov"}, exported)["cloud_environment"] == "AzureUSGovernment"
    params = {**PRINCIPAL, "cloud_environment": "AzureChinaCloud"}
    assert settings(params, exported)["cloud_environment"] == "AzureChinaCloud"
    assert "other" not in settings({"profile": "gov"}, {})


# -- The cloud ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("AzureCloud", "https://management.azure.com"),
        ("AzurePublicCloud", "https://management.azure.com"),
        ("AzureUSGovernment", "https://management.usgovcloudapi.net"),
        ("AzureUSGovernmentCloud", "https://management.usgovcloudapi.net"),
        ("AzureChinaCloud", "https://management.chinacloudapi.cn"),
    ],
)
def test_microsofts_clouds_are_known_by_name(name, host):
    cloud = known_cloud(name)
    assert cloud.resource_manager == host
    assert cloud.scope.endswith("/.default")


def test_another_cloud_provides_its_login_endpoint():
    answer = {
        "authentication": {
            "loginEndpoint": "https://adfs.stack.example/",
            "audiences": ["https://management.stack.example/1f2"],
        }
    }
    assert known_cloud("https://management.stack.example/") is None
    assert metadata_url("https://management.stack.example/") == (
        "https://management.stack.example/metadata/endpoints?api-version=2015-01-01"
    )
    assert described_cloud("https://management.stack.example/", answer) == Cloud(
        "https://management.stack.example",
        "https://adfs.stack.example",
        "https://management.stack.example/1f2/.default",
    )


@pytest.mark.parametrize("answer", [{}, [], {"authentication": {"audiences": []}}])
def test_a_cloud_without_a_login_endpoint_is_rejected(answer):
    with pytest.raises(LoginError, match="returns no login endpoint"):
        described_cloud("https://management.stack.example", answer)


@pytest.mark.parametrize("name", ["AzureGermanCloud", "http://insecure.example", ""])
def test_an_unknown_cloud_name_is_rejected(name):
    with pytest.raises(LoginError, match="is not a cloud_environment: it must be one of AzureChinaCloud, "):
        metadata_url(name)


# -- azure-identity's credentials --------------------------------------------------------------


@pytest.mark.parametrize(
    ("used_identity", "kind"),
    [
        (Identity("client_secret", PRINCIPAL), "ClientSecretCredential"),
        (Identity("cli", {}), "AzureCliCredential"),
        (Identity("msi", {"client_id": "app"}), "ManagedIdentityCredential"),
        (
            Identity("workload_identity", {**PRINCIPAL, "oidc_token_file_path": "/token"}),
            "WorkloadIdentityCredential",
        ),
        (Identity("workload_identity", {**PRINCIPAL, "oidc_token": "jwt"}), "ClientAssertionCredential"),
        (Identity("user", {"ad_user": "me", "password": "pw"}), "UsernamePasswordCredential"),
    ],
)
@pytest.mark.filterwarnings("ignore:UsernamePasswordCredential is deprecated")
def test_the_credential_of_azure_identity_is_created(used_identity, kind):
    created = credential(used_identity, CLOUD, {"disable_instance_discovery": "true"})
    assert type(created) is getattr(azure.identity, kind)
