"""A request to AWS that is rejected or not sent: the module names the cause and what to do.

One module stands for all: they share the client. Requests go through a proxy to moto.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.aws import REGION, Moto
from tests.ec2_proxy import Ec2Proxy, Fault, ec2_proxy, refuse
from tests.playbook_runs import run_playbook
from tests.support import JSON_OUTPUT, ansible_environment, local_play

ACTION = "DescribeSubnets"
ROLE = "arn:aws:iam::123456789012:role/peerpods"
NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
ENCODED = refuse(403, "UnauthorizedOperation", "You are not authorized. Encoded authorization failure message: AbCd")


@pytest.fixture
def proxy(moto: Moto) -> Iterator[Ec2Proxy]:
    with ec2_proxy(moto.endpoint_url) as server:
        yield server


@pytest.fixture
def environment_of(moto: Moto, proxy: Ec2Proxy, tmp_path: Path) -> Callable[[dict[str, str]], dict[str, str]]:
    """The environment with these variables, whose values may name files in a directory with the profiles."""
    (tmp_path / "invalid").write_text("[profile\n")
    (tmp_path / "config").write_text(
        "[profile sso]\nsso_start_url = https://example.com/start\nsso_region = us-east-1\nsso_account_id = "
        f"123456789012\nsso_role_name = admin\n[profile role]\nrole_arn = {ROLE}\nsource_profile = base\n[profile "
        f"command]\ncredential_process = /nonexistent/helper\n[profile loop]\nrole_arn = {ROLE}\nsource_profile = "
        "missing\n[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n"
    )

    # The CA bundle is read before the handshake.
    tls = proxy.url.replace("http:", "https:")

    return lambda env: {
        **moto.environment,
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        **{name: value.replace("DIRECTORY", str(tmp_path)).replace("TLS", tls) for name, value in env.items()},
    }


@pytest.fixture
def run(environment_of, run_module: Callable[..., dict], tmp_path: Path) -> Callable[..., str]:
    """The message of the module, which fails."""

    def run(**env: str) -> str:
        result = run_module("ec2_subnet_usage_info", {"subnet": "subnet-1"}, env=environment_of(env))
        assert result["failed"]
        assert "\n" not in result["msg"]
        return result["msg"].replace(str(tmp_path), "DIRECTORY")

    return run


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {**NO_KEYS, "AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "DIRECTORY/missing"},
            "No such file or directory: 'DIRECTORY/missing'. Correct the path in the environment or in the profile.",
        ),
        (
            {"AWS_ENDPOINT_URL": "TLS", "AWS_CA_BUNDLE": "DIRECTORY/missing", "AWS_MAX_ATTEMPTS": "1"},
            "Check the CA bundle (AWS_CA_BUNDLE or the option aws_ca_bundle)",
        ),
        ({**NO_KEYS, "AWS_PROFILE": "sso"}, "The SSO session of the profile has ended: run aws sso login for it"),
        (
            {**NO_KEYS, "AWS_PROFILE": "command"},
            "No such file or directory: '/nonexistent/helper'. Correct the path in the environment or in the profile.",
        ),
        (
            {**NO_KEYS, "AWS_PROFILE": "loop"},
            'The source_profile "missing" referenced in the profile "loop" does not exist.',
        ),
        (
            {
                "AWS_ENDPOINT_URL": "https://ec2.example.com",
                "HTTPS_PROXY": "http://127.0.0.1:9",
                "AWS_MAX_ATTEMPTS": "1",
            },
            "Check HTTPS_PROXY and NO_PROXY.",
        ),
    ],
    ids=["token-file", "ca-bundle", "sso", "command", "profile", "proxy"],
)
def test_a_request_that_is_not_sent_is_reported_with_its_cause(run, env: dict[str, str], message: str):
    assert message in run(**env)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {**NO_KEYS, "AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "DIRECTORY/missing"},
            "No such file or directory: 'DIRECTORY/missing'. Correct the path in the environment or profile.",
        ),
        ({**NO_KEYS, "AWS_PROFILE": "command"}, "No such file or directory: '/nonexistent/helper'. Correct the path"),
        ({**NO_KEYS, "AWS_SHARED_CREDENTIALS_FILE": "DIRECTORY/missing"}, "Unable to locate credentials"),
        ({**NO_KEYS, "AWS_CONFIG_FILE": "DIRECTORY/invalid"}, "Unable to parse config file: DIRECTORY/invalid"),
        (
            {"AWS_ENDPOINT_URL": "TLS", "AWS_CA_BUNDLE": "DIRECTORY/missing", "AWS_MAX_ATTEMPTS": "1"},
            "SSL validation failed for",
        ),
    ],
    ids=["token-file", "command", "credentials-file", "config-file", "ca-bundle"],
)
def test_a_file_of_the_identity_that_cannot_be_read_is_reported(environment_of, tmp_path: Path, env, message: str):
    """aws_caller_info is amazon.aws's module, and preflight reports its message."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(local_play(tasks=[{"osc.peerpods.aws_caller_info": {"region": REGION}}])))
    environment = ansible_environment({**JSON_OUTPUT, **environment_of(env)})
    completed = run_playbook(["ansible-playbook", str(playbook)], environment)
    (task,) = json.loads(completed.stdout)["plays"][0]["tasks"]
    result = task["hosts"]["localhost"]
    assert result["failed"]
    assert message in result["msg"].replace(str(tmp_path), "DIRECTORY")
    assert "Traceback" not in completed.stdout + completed.stderr


@pytest.mark.parametrize(
    ("faults", "env", "message"),
    [
        (
            {
                "AssumeRole": refuse(
                    403, "AccessDenied", f"User: a is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
                )
            },
            {**NO_KEYS, "AWS_PROFILE": "role"},
            (
                f"Getting credentials for EC2 {ACTION} failed: AWS rejected AssumeRole with AccessDenied: User: a is "
                f"not authorized to perform: sts:AssumeRole on resource: {ROLE}. Grant sts:AssumeRole on {ROLE} to "
                "the identity, and name the identity in the trust"
            ),
        ),
        (
            {ACTION: ENCODED, "DecodeAuthorizationMessage": refuse(403, "AccessDenied", "no")},
            {},
            (
                f"EC2 in {REGION} rejected {ACTION} with UnauthorizedOperation: You are not authorized. aws sts "
                "decode-authorization-message --query DecodedMessage --output text --encoded-message AbCd shows the "
                "reason to identities with sts:DecodeAuthorizationMessage. Grant ec2:DescribeSubnets to the identity "
                "of these credentials."
            ),
        ),
        (
            {
                ACTION: ENCODED,
                "DecodeAuthorizationMessage": lambda pass_on: (
                    200,
                    b"<DecodeAuthorizationMessageResponse><DecodeAuthorizationMessageResult><DecodedMessage>"
                    + json.dumps(
                        {"explicitDeny": True, "matchedStatements": {"items": [{"statementId": "Sid1"}]}}
                    ).encode()
                    + b"</DecodedMessage></DecodeAuthorizationMessageResult></DecodeAuthorizationMessageResponse>",
                ),
            },
            {},
            "The identity may not do this on the resource: statement Sid1 denies it.",
        ),
        (
            {ACTION: lambda pass_on: (200, b"<html>Log in here</html>")},
            {},
            f"The answer to EC2 {ACTION} in {REGION} is not that of AWS: it has no Subnets",
        ),
        ({ACTION: lambda pass_on: (200, b"Log in here")}, {}, f"Calling EC2 {ACTION} in {REGION} failed: "),
    ],
    ids=["assume-role", "encoded", "decoded", "html", "text"],
)
def test_a_rejection_is_reported_with_its_cause(
    run, proxy, faults: dict[str, Fault], env: dict[str, str], message: str
):
    for action, fault in faults.items():
        proxy.faults[action] = [fault]
    assert message in run(**env)
