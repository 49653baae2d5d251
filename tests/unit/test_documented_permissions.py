"""The policies and roles in the guides grant the calls that the code makes, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import yaml
from ansible_collections.osc.peerpods.plugins.module_utils._azure.permissions import granted
from ansible_collections.osc.peerpods.plugins.module_utils._azure.policies import IMAGE_ROLES

from tests.support import GUIDES, ROOT, json_blocks

SERVICES = {"ec2": "ec2", "service-quotas": "servicequotas"}


def sources(*directories: str) -> Iterator[Path]:
    for directory in directories:
        yield from (path for path in (ROOT / directory).rglob("*") if path.suffix in (".py", ".yml"))


def aws_actions(policy: dict) -> list[str]:
    return sorted(action for statement in policy["Statement"] for action in statement["Action"])


def aws_calls(services: dict[str, str], *files: str) -> list[str]:
    """The operations of these services that the code names, as actions of IAM."""
    directory = ROOT / "plugins/module_utils/_aws"
    strings = {
        node.value
        for path in ([directory / file for file in files] or directory.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    session = botocore.session.get_session()
    return [
        f"{prefix}:{operation}"
        for service, prefix in services.items()
        for operation in session.get_service_model(service).operation_names
        if operation in strings
    ]


def test_the_aws_policy_has_the_calls_of_the_client_and_of_the_roles():
    calls = aws_calls(SERVICES)
    if any("osc.peerpods.aws_caller_info" in path.read_text() for path in sources("roles", "playbooks")):
        calls.append("sts:GetCallerIdentity")
    # Rules and snapshots get tags, by two statements.
    assert [*dict.fromkeys(aws_actions(json_blocks("guide_aws.rst")[0]))] == sorted(calls)


def test_the_aws_policy_for_the_role_has_the_calls_of_the_client():
    # CreateRole with tags needs it. A simulation is for roles that are given.
    calls = {*aws_calls({"iam": "iam"}, "iam.py", "api.py"), "iam:TagRole"} - {"iam:SimulatePrincipalPolicy"}
    assert aws_actions(json_blocks("guide_aws.rst")[1]) == sorted(calls)


def test_the_guide_names_what_the_operator_requests():
    variables = yaml.safe_load((ROOT / "roles/operator_install/vars/main/aws.yml").read_text())
    (entry,) = variables["operator_install_aws_provider_spec"]["statementEntries"]
    (action,) = entry["action"]
    assert f"requests ``{action}`` from the cloud credential operator" in (GUIDES / "guide_aws.rst").read_text()


# The actions of operations that have another name.
S3_ACTIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:DeleteObjects": "s3:DeleteObjectVersion",
}


def test_the_aws_policy_for_the_image_has_the_calls_of_its_client():
    # CreateRole and CreateBucket with tags need one more action each.
    calls = {S3_ACTIONS.get(call, call) for call in aws_calls({"iam": "iam", "s3": "s3"}, "import_client.py", "api.py")}
    assert aws_actions(json_blocks("guide_aws.rst")[2]) == sorted({*calls, "iam:TagRole", "s3:TagResource"})


def azure_actions() -> set[str]:
    """The actions that the code names, and the reading of each type that it requests; without those of
    cloud-api-adaptor."""
    named = set()
    of_adaptor = ROOT / "plugins/module_utils/_azure/policies.py"
    for path in (path for path in sources("plugins", "roles") if path != of_adaptor):
        text = path.read_text().replace('" "', "").replace("C(.../", "C(Microsoft.Network/networkSecurityGroups/")
        named |= set(re.findall(r"\bMicrosoft\.[A-Za-z]+(?:/[A-Za-z]+)+/(?:read|write|delete|action)\b", text))
        if "_azure" in path.parts:
            types = re.findall(r"\bMicrosoft\.[A-Za-z]+/[A-Za-z]+(?![\w/])", text)
            named |= {f"{name}/read" for name in types if not name.endswith("/virtualMachines")}
    return named


# Of these actions, only those are needed that the modules for managed identities name.
OF_IDENTITIES = (
    "Microsoft.ManagedIdentity/",
    "Microsoft.Authorization/role",
    "Microsoft.Authorization/denyAssignments/",
    "Microsoft.Resources/subscriptions/resources/",
)


def test_the_azure_role_has_the_actions_of_the_code():
    role, _identity = json_blocks("guide_azure.rst")
    permissions = [{"actions": role["Actions"], "notActions": role["NotActions"]}]
    needed = {action for action in azure_actions() if not action.startswith(OF_IDENTITIES)}
    assert len(needed) >= 8
    assert {action for action in needed if not granted(action, permissions)} == set()


def test_the_azure_role_for_the_identity_has_the_actions_of_the_code():
    _role, identity = json_blocks("guide_azure.rst")
    needed = {action for action in azure_actions() if action.startswith(OF_IDENTITIES)}
    assert identity["Actions"] == sorted(needed)


def test_the_azure_roles_of_the_operator_are_what_it_requests():
    variables = yaml.safe_load((ROOT / "roles/operator_install/vars/main/azure.yml").read_text())
    roles = re.findall(r"for role in (.*?); do", (GUIDES / "guide_azure.rst").read_text(), re.DOTALL)[0]
    requested = variables["operator_install_azure_provider_spec"]["roleBindings"]
    # And those of the jobs for the image.
    assert re.findall(r'"(.*?)"', roles) == [*(binding["role"] for binding in requested), *IMAGE_ROLES]
