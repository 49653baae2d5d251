"""azure_vcpu_quota_info as a user runs it, with each way to log in to Azure."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.azure_arm import AzureArm
from tests.azure_arm.az import Az
from tests.azure_arm.faults import Fault, PassOn
from tests.azure_arm.wire import Answer, Request, answered
from tests.support import ansible_environment

SIZE = "Standard_B2als_v2"
ARGS = {"location": "West Europe", "sizes": [SIZE]}
NOT_OFFERED = "NotAvailableForSubscription"
# How to reach the emulator, without an identity.
REACH = (
    "AZURE_CLOUD_ENVIRONMENT",
    "AZURE_SUBSCRIPTION_ID",
    "AZURE_DISABLE_INSTANCE_DISCOVERY",
    "REQUESTS_CA_BUNDLE",
)


@pytest.fixture
def reach(arm: AzureArm, tmp_path: Path) -> dict[str, str]:
    return {key: arm.environment[key] for key in REACH} | {"HOME": str(tmp_path)}


@pytest.fixture
def run(arm: AzureArm, reach, run_module: Callable[..., dict]) -> Iterator[Callable[..., dict]]:
    """Run the module; `env` is added to the variables of the emulator."""

    def run(args: dict | None = None, env: dict[str, str] | None = None) -> dict:
        return run_module("azure_vcpu_quota_info", {**ARGS, **(args or {})}, env={**reach, **(env or {})})

    arm.take_requests()
    yield run
    arm.faults.clear()


# -- The result --------------------------------------------------------------------------------


def test_returns_the_number_of_vms_that_fit(arm, run, monkeypatch):
    monkeypatch.setitem(arm.limits, "cores", 30)
    monkeypatch.setitem(arm.limits, "standardBasv2Family", 21)
    group = f"/subscriptions/{arm.subscription_id}/resourceGroups/quota-rg"
    before = arm.snapshot()
    arm.put(group, {"location": "westeurope"})
    for name, size in (("a", SIZE), ("b", "Standard_D8s_v5")):
        machine = {"location": "westeurope", "properties": {"hardwareProfile": {"vmSize": size}}}
        arm.put(f"{group}/providers/Microsoft.Compute/virtualMachines/{name}", machine)
    arm.faults += [Fault("GET", "/skus$", restricted("Standard_D2s_v5"))]
    sizes = [SIZE.lower(), "Standard_D2as_v5", "Standard_D2s_v5", "Standard_No"]
    result = run({"sizes": sizes}, principal(arm))
    arm.restore(before)

    compute = f"/subscriptions/{arm.subscription_id}/providers/Microsoft.Compute"
    assert arm.take_requests() == [
        ("GET", f"{compute}/skus"),
        ("GET", f"{compute}/locations/westeurope/usages"),
    ]
    assert not result["changed"]
    assert result["sizes"][0] == {
        "name": SIZE,
        "family": "standardBasv2Family",
        "vcpus": 2,
        "family_limit": 21,
        "family_used": 2,
        "regional_limit": 30,
        "regional_used": 10,
        "instances": 9,
        "available": True,
        "reason": None,
    }
    assert [(size["instances"], size["reason"]) for size in result["sizes"][1:]] == [
        (10, None),
        (0, f"This subscription may not have Standard_D2s_v5 in westeurope ({NOT_OFFERED})."),
        (0, "Azure has no VM size Standard_No in westeurope."),
    ]


def restricted(name: str) -> Callable[[Request, PassOn], Answer]:
    """Answer with the list of sizes of a subscription in which one size is restricted."""

    def act(request: Request, pass_on: PassOn) -> Answer:
        assert request.query["$filter"] == "location eq 'westeurope'"
        body = json.loads(pass_on().content)
        for sku in body["value"]:
            if sku["name"] == name:
                why = {"type": "Location", "reasonCode": NOT_OFFERED}
                sku["restrictions"] = [why]
        return answered(body)

    return act


# -- The identity -----------------------------------------------------------------------------


def principal(arm: AzureArm) -> dict[str, str]:
    return {
        "AZURE_CLIENT_ID": arm.client_id,
        "AZURE_CLIENT_SECRET": arm.client_secret,
        "AZURE_TENANT_ID": arm.tenant_id,
    }


def by_azcollections_variables(arm, home):
    names = {"AZURE_CLIENT_ID": arm.client_id, "AZURE_SECRET": arm.client_secret}
    return {}, {**names, "AZURE_TENANT": arm.tenant_id}


def by_azures_variables(arm, home):
    return {}, principal(arm)


def by_options(arm, home):
    options = {"client_id": arm.client_id, "secret": arm.client_secret, "tenant": arm.tenant_id}
    return options, {"AZURE_CLIENT_SECRET": "of another identity"}


def by_a_profile(arm, home):
    (home / ".azure").mkdir()
    (home / ".azure" / "credentials").write_text(
        f"[here]\nclient_id={arm.client_id}\nsecret={arm.client_secret}\ntenant={arm.tenant_id}\n"
    )
    return {"profile": "here"}, {}


def by_a_federated_token(arm, home):
    token = home / "token"
    token.write_text(arm.federated_token)
    identity = {"AZURE_CLIENT_ID": arm.client_id, "AZURE_TENANT_ID": arm.tenant_id}
    return {}, {**identity, "AZURE_FEDERATED_TOKEN_FILE": str(token)}


def by_a_token_in_the_options(arm, home):
    identity = {"client_id": arm.client_id, "tenant": arm.tenant_id}
    return {**identity, "oidc_token": arm.federated_token}, {"AZURE_CLIENT_SECRET": "of another identity"}


def by_the_machines_identity(arm, home):
    return {"auth_source": "msi"}, {"AZURE_POD_IDENTITY_AUTHORITY_HOST": arm.endpoint_url}


def without_checking_certificates(arm, home):
    return {"cert_validation_mode": "ignore"}, {**principal(arm), "REQUESTS_CA_BUNDLE": ""}


@pytest.mark.parametrize(
    "way",
    [
        by_azcollections_variables,
        by_azures_variables,
        by_options,
        by_a_profile,
        by_a_federated_token,
        by_a_token_in_the_options,
        by_the_machines_identity,
        without_checking_certificates,
    ],
)
def test_logs_in(arm, run, tmp_path, way):
    result = run(*way(arm, tmp_path))
    assert not result.get("failed"), result["msg"]
    assert result["sizes"][0]["available"]


class SignedBy:
    """Equal to any assertion that the key of this certificate has signed."""

    def __init__(self, certificate: x509.Certificate, audience: str):
        self.certificate = certificate
        self.audience = audience

    def __eq__(self, assertion: object) -> bool:
        key = self.certificate.public_key()
        jwt.decode(assertion, key, algorithms=["PS256", "RS256"], audience=self.audience)
        return True

    __hash__ = None


def test_logs_in_by_a_certificate(arm, run, tmp_path, monkeypatch):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peerpods")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "principal.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    authority = f"{arm.endpoint_url}/{arm.tenant_id}/oauth2/v2.0/token"
    monkeypatch.setattr(arm, "federated_token", SignedBy(certificate, authority))
    identity = {"client_id": arm.client_id, "tenant": arm.tenant_id}
    result = run({**identity, "x509_certificate_path": str(pem)})
    assert not result.get("failed"), result["msg"]
    assert result["sizes"][0]["available"]


def test_logs_in_with_the_azure_cli(arm, run, tmp_path):
    cli = Az(arm, tmp_path / "az").environment
    environment = {key: cli[key] for key in ("AZURE_CONFIG_DIR", "AZURE_CORE_INSTANCE_DISCOVERY")}
    # The environment of the CLI has its own Python, which must not replace that of Ansible.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "az").symlink_to(Path(cli["PATH"].split(os.pathsep)[0]) / "az")
    path = ansible_environment()["PATH"]
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{path}"
    result = run(env=environment)
    assert not result.get("failed"), result["msg"]
    assert result["sizes"][0]["available"]


# -- Rejected log-ins -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "env", "message", "advice"),
    [
        (
            {"client_id": "app"},
            {},
            "The Azure credentials are incomplete: client_id, secret and tenant are required; set: client_id.",
            "Set AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID to ",
        ),
        (
            {"auth_source": "cli"},
            {},
            "Authenticating to Azure failed: ",
            "or log in with `az login`.",
        ),
        (
            {"cloud_environment": "AzureGermanCloud"},
            {},
            "'AzureGermanCloud' is not a cloud_environment: it must be one of AzureChinaCloud, ",
            "https:// URL of an Azure Resource Manager.",
        ),
        (
            {"cloud_environment": "https://127.0.0.1:9"},
            {},
            "Sending GET https://127.0.0.1:9/metadata/",
            "Check cloud_environment, and that this machine reaches Azure ",
        ),
        (
            {},
            {"REQUESTS_CA_BUNDLE": ""},
            "Sending GET https://127.0.0.1:",
            "(DNS, proxy, certificates).",
        ),
        (
            {},
            {"AZURE_SUBSCRIPTION_ID": ""},
            "No subscription is set. ",
            "Set subscription_id or AZURE_SUBSCRIPTION_ID.",
        ),
        (
            {"subscription_id": "0"},
            {},
            "Azure rejected GET /subscriptions/0/providers/Microsoft.Compute/skus with Subscription",
            "Check the subscription id, and that these credentials may see it.",
        ),
    ],
    ids=[
        "half",
        "no az login",
        "no such cloud",
        "unreachable",
        "untrusted",
        "no subscription",
        "another's subscription",
    ],
)
def test_a_missing_or_wrong_setting_is_reported_with_advice(arm, run, args, env, message, advice):
    identity = {} if "auth_source" in args else principal(arm)
    result = run(args, {**identity, **env})
    assert result["failed"]
    assert result["msg"].startswith(message)
    assert advice in result["msg"]
    assert "\n" not in result["msg"]


def test_secrets_are_never_printed(arm, reach):
    """A wrong secret appears neither in the output of ansible nor in the list of processes."""
    outputs = []

    def list_processes(request: Request, pass_on: PassOn) -> Answer:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                outputs.append((process / "cmdline").read_text(errors="replace"))
            except OSError:  # The process has ended.
                continue
        return pass_on()

    def run(args: dict, env: dict[str, str]) -> str:
        completed = subprocess.run(
            [
                "ansible",
                "localhost",
                "-vvvv",
                "-m",
                "osc.peerpods.azure_vcpu_quota_info",
                "-a",
                json.dumps({**ARGS, **args}),
            ],
            env=ansible_environment({**reach, **env}),
            capture_output=True,
            text=True,
            check=False,
        )
        return completed.stdout + completed.stderr

    wrong_secret = "8Q~must-not-be-shown"
    options = {"client_id": arm.client_id, "tenant": arm.tenant_id, "secret": wrong_secret}
    printed = run(options, principal(arm))
    assert "Authenticating to Azure failed: " in printed
    assert "AADSTS7000215: Invalid client secret provided." in printed
    assert wrong_secret not in printed
    assert arm.client_secret not in printed

    arm.faults += [Fault("GET", "/skus$", list_processes)]
    printed = run({}, principal(arm))
    assert '"available": true' in printed
    assert arm.client_secret not in printed
    assert any("osc.peerpods.azure_vcpu_quota_info" in line for line in outputs)
    assert not any(arm.client_secret in line for line in outputs)
