"""The modules iam_token_role and iam_token_role_info against moto: IAM roles, identity providers, and simulations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import openshift
from tests.cluster.aws import REGION, Moto
from tests.cluster.launcher import Cluster
from tests.cluster.pod_vms import Aws, RejectedError
from tests.ec2_proxy import ec2_proxy, refuse
from tests.integration.site import succeed
from tests.playbook_runs import run_playbook
from tests.support import ROOT, ansible_environment, local_play, service_account_token

ISSUER = "https://demo-oidc.s3.eu-central-1.amazonaws.com"
CLUSTER = {"cluster_name": "demo-7x2kq", "cluster_id": "uuid", "issuer": ISSUER, "region": REGION}
NAME = "demo-7x2kq-peer-pods"
ARN = f"arn:aws:iam::123456789012:role/{NAME}"
FACTS = {"platform": "AWS", "region": REGION, "infrastructure_name": "demo-7x2kq", "cluster_id": "uuid"}
PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER.removeprefix('https://')}"


@pytest.fixture(scope="module")
def iam(moto: Moto) -> Any:
    return moto.client("iam")


@pytest.fixture
def run(run_module: Callable[..., dict], moto: Moto) -> Callable[..., dict]:
    def run(args: dict, module: str = "iam_token_role", env: dict[str, str] | None = None, **modes: bool) -> dict:
        defaults = CLUSTER if module == "iam_token_role" else {"issuer": ISSUER, "region": REGION}
        return run_module(module, {**defaults, **args}, env={**moto.environment, **(env or {})}, **modes)

    return run


@pytest.fixture
def info(run: Callable[..., dict]) -> Callable[..., dict]:
    def info(**args: Any) -> dict:
        return run({"role_arn": ARN, **args}, "iam_token_role_info")

    return info


def policies(iam: Any) -> set[str]:
    return set(iam.list_role_policies(RoleName=NAME)["PolicyNames"])


def state_with(*arns: str) -> dict:
    """The state of the operator with a Subscription that names each role."""
    return {
        "objects": [
            {"kind": "Subscription", "content": {"config": {"env": [{"name": "ROLEARN", "value": arn}]}}}
            for arn in arns
        ]
    }


def exists(iam: Any) -> bool:
    return NAME in {role["RoleName"] for role in iam.list_roles()["Roles"]}


def test_without_an_identity_provider_nothing_is_changed(run, info, iam):
    message = f"Account 123456789012 has no identity provider {PROVIDER}"
    failed = run({})
    assert message in failed["msg"]
    assert not failed["changed"]
    assert not exists(iam)
    (problem,) = info()["problems"]
    assert message in problem


def test_a_role_is_created_once_with_the_permissions_for_an_image(run, info, iam):
    iam.create_open_id_connect_provider(Url=ISSUER, ClientIDList=["openshift", "sts.amazonaws.com"], ThumbprintList=[])
    assert info()["problems"] == [f"The role {ARN} does not exist. Check operator_install_aws_role_arn."]
    changes = ["create role", "put policy peer-pod-vms", "put policy peer-pod-image"]
    predicted = run({"image": True}, check=True, diff=True)
    assert (predicted["changed"], predicted["changes"]) == (True, changes)
    assert predicted["role"] == {"name": NAME, "arn": ARN, "owned": True}
    assert "ec2:RunInstances" in predicted["diff"][0]["after"]
    assert not exists(iam)

    created = run({"image": True})
    assert created["changes"] == changes
    assert created["role"] == predicted["role"]
    role = iam.get_role(RoleName=NAME)["Role"]
    assert role["Tags"] == [
        {"Key": "osc.peerpods/managed", "Value": "true"},
        {"Key": "osc.peerpods/cluster/uuid", "Value": "demo-7x2kq"},
    ]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Federated": PROVIDER}
    assert policies(iam) == {"peer-pod-vms", "peer-pod-image"}
    again = run({"image": True})
    assert (again["changed"], again["changes"]) == (False, [])
    # What the module writes is what the check requires.
    checked = info(image=True)
    assert (checked["problems"], checked["denied"], checked["unknown"]) == ([], [], "")


def test_the_stand_in_assumes_the_role_with_the_token_that_it_trusts(moto: Moto):
    secret = {"AWS_ROLE_ARN": ARN, "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"}

    def start(token: str) -> None:
        Aws(moto.endpoint_url, lambda: token).start({"AWS_REGION": REGION}, secret)

    start(service_account_token(ISSUER))
    for token in (
        service_account_token("https://kubernetes.default.svc"),
        service_account_token(ISSUER, account="other"),
        service_account_token(ISSUER, audience="other"),
    ):
        with pytest.raises(RejectedError, match="Not authorized to perform sts:AssumeRoleWithWebIdentity"):
            start(token)


def test_a_dry_run_simulates_the_permissions_of_the_caller(run, iam, moto: Moto):
    """The caller has a session of a role, whose ARN lacks the path of the role."""
    iam.create_role(RoleName="caller", Path="/team/", AssumeRolePolicyDocument=json.dumps({"Statement": []}))
    allow = {"Effect": "Allow", "Action": ["iam:Get*", "iam:Put*", "iam:Tag*"], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_role_policy(RoleName="caller", PolicyName="p", PolicyDocument=document)
    arn = "arn:aws:iam::123456789012:role/team/caller"
    session = moto.client("sts").assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    caller = {
        "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
        "AWS_SESSION_TOKEN": session["SessionToken"],
    }
    planned = run({"name": "new", "dry_run": True}, env=caller)
    assert (planned["changed"], planned["changes"][0]) == (False, "create role")
    assert (planned["denied"], planned["unknown"]) == (["iam:CreateRole"], "")
    assert "new" not in {role["RoleName"] for role in iam.list_roles()["Roles"]}
    checked = run({"role_arn": None, "bucket": "podvm-b"}, "iam_token_role_info", env=caller)
    assert (checked["problems"], checked["unknown"]) == ([], "")
    assert {"ec2:RunInstances", "ec2:ImportSnapshot", "s3:PutObject"} < {*checked["denied"]}
    # The bucket exists.
    assert "s3:CreateBucket" not in checked["denied"]
    own, foreign = (
        run({"role_arn": None, "account": account}, "iam_token_role_info", env=caller)
        for account in ("123456789012", "210987654321")
    )
    assert "The credentials are of account 123456789012, and the cluster is in account 2109" in foreign["unknown"]
    assert (own["unknown"], own["denied"]) == ("", foreign["denied"])
    # moto's own user cannot be simulated.
    unknown = run({"name": "new", "dry_run": True}, check=True)
    assert (unknown["changed"], unknown["denied"]) == (True, None)
    assert "SimulatePrincipalPolicy" in unknown["unknown"]
    iam.delete_role_policy(RoleName="caller", PolicyName="p")
    iam.delete_role(RoleName="caller")


def test_the_permissions_for_an_image_are_removed(run, info, iam):
    assert run({})["changes"] == ["delete policy peer-pod-image"]
    assert policies(iam) == {"peer-pod-vms"}
    assert info()["denied"] == []
    denied = info(image=True)["denied"]
    assert {"ec2:ImportSnapshot", "s3:PutObject", "iam:PassRole"} < {*denied}


@pytest.mark.parametrize("arn", ["", "my-role"])
def test_a_malformed_arn_is_a_problem(info, arn: str):
    (problem,) = info(role_arn=arn)["problems"]
    assert problem.endswith(f"must be the ARN of an IAM role, arn:aws:iam::…:role/…; got '{arn}'.")


def test_without_an_issuer_no_provider_is_looked_for(run, moto: Moto):
    """Its ARN would end with a slash, which IAM rejects as invalid."""
    with ec2_proxy(moto.endpoint_url) as proxy:
        failed = run({"issuer": ""}, env={"AWS_ENDPOINT_URL_IAM": proxy.url})
        assert "have no public issuer" in failed["msg"]
        assert "GetOpenIDConnectProvider" not in proxy.take_calls()


def test_a_role_that_was_given_is_checked(info, iam):
    """Another service account may assume it, and a policy denies what it allows elsewhere."""
    arn = iam.create_role(RoleName="given", AssumeRolePolicyDocument=json.dumps({"Statement": []}))["Role"]["Arn"]
    (problem,) = info(role_arn=arn)["problems"]
    assert problem.startswith(f"cloud-api-adaptor cannot assume the role {arn}. Its trust policy does not allow tokens")
    trust = iam.get_role(RoleName=NAME)["Role"]["AssumeRolePolicyDocument"]
    iam.update_assume_role_policy(RoleName="given", PolicyDocument=json.dumps(trust))
    allow = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}
    deny = {"Effect": "Deny", "Action": ["ec2:RunInstances"], "Resource": "*"}
    for name, statements in (("all", [allow]), ("but", [deny])):
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_role_policy(RoleName="given", PolicyName=name, PolicyDocument=document)
    checked = info(role_arn=arn)
    assert (checked["problems"], checked["denied"]) == ([], ["ec2:RunInstances"])
    other = info(role_arn=arn.replace("123456789012", "210987654321"))
    assert (other["problems"], other["denied"]) == ([], None)
    assert "is not of account 123456789012" in other["unknown"]
    (problem,) = info(role_arn=arn, namespace="other")["problems"]
    assert "the service account system:serviceaccount:other:default" in problem


def test_a_role_of_another_owner_is_neither_changed_nor_removed(run, iam):
    before = iam.get_role(RoleName="given")["Role"]
    failed = run({"name": "given"})
    assert "The role given exists, and this collection did not create it for this cluster" in failed["msg"]
    assert run({"name": "given", "state": "absent"})["changes"] == []
    assert run({"cluster_id": "another", "state": "absent"})["changes"] == []
    assert iam.get_role(RoleName="given")["Role"] == before


def test_a_renewal_of_the_image_gets_the_permissions_for_it(run, iam, moto: Moto, cluster: Cluster, tmp_path: Path):
    """A role of another owner is reported, and does not stop it."""

    def tasks(arn: str, *, image: bool) -> dict:
        return {
            "ansible.builtin.include_role": {
                "name": "osc.peerpods.operator_install",
                "tasks_from": "existing_identity",
            },
            "vars": {
                "operator_install_state": state_with(arn),
                "operator_install_identity_makes_image": image,
            },
        }

    given = iam.get_role(RoleName="given")["Role"]["Arn"]
    missing = ARN.replace(NAME, "missing")
    playbook = tmp_path / "play.yml"

    def play(*of_play: dict) -> str:
        playbook.write_text(json.dumps(local_play({"cluster_prerequisites_cluster": FACTS}, tasks=list(of_play))))
        environment = ansible_environment({**moto.environment, "K8S_AUTH_KUBECONFIG": str(cluster.kubeconfig)})
        return succeed(lambda: run_playbook(["ansible-playbook", str(playbook)], environment, ROOT))

    # After a failed image job, the RuntimeClass exists, and the image does not.
    facts = {**FACTS, "pod_vms": {"images": []}, "details": {"credentials": {"issuer": ISSUER}, "runtime_class": {}}}
    check = {
        "ansible.builtin.include_role": {"name": "osc.peerpods.cluster_prerequisites", "tasks_from": "aws_identity"},
        "vars": {
            "cluster_prerequisites_cluster": facts,
            "operator_install_aws_role_arn": ARN,
            "operator_install_azure_image_id": "",
            "operator_install_create_identity": False,
            "operator_install_namespace": "openshift-sandboxed-containers-operator",
            "operator_install_podvm_ami_id": "",
        },
    }
    # Keys that are set, next to a profile of the environment.
    (tmp_path / "config").write_text("[profile other]\n")
    check_keys = {
        "environment": {"AWS_PROFILE": "other", "AWS_CONFIG_FILE": str(tmp_path / "config")},
        "block": [
            {
                "ansible.builtin.include_role": {
                    "name": "osc.peerpods.cluster_prerequisites",
                    "tasks_from": "aws_given",
                },
                "vars": {
                    **check["vars"],
                    "cluster_prerequisites_check_cloud_resources": True,
                    "operator_install_aws_access_key_id": moto.environment["AWS_ACCESS_KEY_ID"],
                    "operator_install_aws_secret_access_key": moto.environment["AWS_SECRET_ACCESS_KEY"],
                    "operator_install_plan": {"image_settings": {"buckets": {"needed": "b"}}},
                },
            }
        ],
    }
    found = play(
        check,
        {"ansible.builtin.debug": {"var": "cluster_prerequisites_given_identity.denied"}},
        check_keys,
        {"ansible.builtin.debug": {"msg": "KEYS {{ cluster_prerequisites_given_principal.unknown }}"}},
    )
    assert "ec2:ImportSnapshot" in found
    # moto does not simulate the policies of its own user.
    assert "KEYS IAM in" in found
    assert "SimulatePrincipalPolicy" in found.partition("KEYS IAM in")[2]
    openshift.use_tokens(cluster, ISSUER)
    play(tasks(ARN, image=True))
    assert policies(iam) == {"peer-pod-vms", "peer-pod-image"}
    output = play(tasks(ARN, image=False), tasks(given, image=True), tasks(missing, image=True))
    openshift.use_root_credential(cluster)
    assert policies(iam) == {"peer-pod-vms"}
    assert f"The permissions of {given} were not changed" in output
    assert f"This collection did not create {missing} for this cluster, and does not change its permissions." in output
    assert "missing" not in {role["RoleName"] for role in iam.list_roles()["Roles"]}


@pytest.fixture
def teardown(moto: Moto, tmp_path: Path) -> Callable[..., str]:
    """The tasks of a teardown, and what it reports; by default after an interruption that has left no Subscription."""

    def teardown(*arns: str, fails: bool = False, env: dict[str, str] | None = None, **options: str) -> str:
        variables = {"cluster_prerequisites_cluster": FACTS, "operator_install_state": state_with(*arns), **options}
        role = {"name": "osc.peerpods.operator_install", "tasks_from": "remove_identity_aws", "public": True}
        (of_playbook,) = yaml.safe_load((ROOT / "playbooks" / "teardown.yml").read_text())
        variables |= {name: value for name, value in of_playbook["vars"].items() if name.startswith("teardown_")}
        *_before, publish, fail = of_playbook["post_tasks"]
        (stats,) = publish["ansible.builtin.set_stats"]["data"].values()
        identities = stats.partition("'identities':")[2].rpartition("}} }}")[0]
        show = {"ansible.builtin.debug": {"msg": "{{ 'Stays: ' ~ (" + identities + ") }}"}, "vars": publish["vars"]}
        playbook = tmp_path / "play.yml"
        tasks = [{"ansible.builtin.include_role": role}, show, fail]
        playbook.write_text(json.dumps(local_play(variables, tasks=tasks)))
        environment = ansible_environment({**moto.environment, **(env or {})})
        completed = run_playbook(["ansible-playbook", str(playbook)], environment, ROOT)
        assert (completed.returncode != 0) == fails, completed.stdout
        # Warnings have line breaks.
        return completed.stdout + " ".join(completed.stderr.split())

    return teardown


def test_a_role_with_a_policy_of_another_owner_stays_as_it_is(run, iam, teardown):
    run({"name": "custom"})
    policy = json.dumps(iam.get_role_policy(RoleName="custom", PolicyName="peer-pod-vms")["PolicyDocument"])
    iam.put_role_policy(RoleName="custom", PolicyName="theirs", PolicyDocument=policy)
    assert "The role custom has the inline policy theirs, which this collection" in run({"state": "absent"})["msg"]
    # Another service account than that of this operator uses the first one.
    output = teardown(operator_install_namespace="elsewhere")
    assert (
        "An IAM role that this collection may have created for this cluster was not removed. The trust poli" in output
    )
    assert "system:serviceaccount:openshift-sandboxed-containers-operator:default" in output
    custom = iam.get_role(RoleName="custom")["Role"]["Arn"]
    stays = output.partition("Stays: ")[2].splitlines()[0]
    assert custom in stays
    assert ARN in stays
    assert set(iam.list_role_policies(RoleName="custom")["PolicyNames"]) == {"peer-pod-vms", "theirs"}
    assert exists(iam)
    iam.delete_role_policy(RoleName="custom", PolicyName="theirs")


def test_the_roles_of_a_cluster_are_found_by_their_tags(moto, run, iam, teardown):
    removal = ["delete policy peer-pod-vms", "delete role"]
    assert run({"state": "absent", "cluster_id": "another"})["role"] is None
    assert run({"state": "absent"}, check=True)["changes"] == [*removal, *removal]
    given, custom = (iam.get_role(RoleName=name)["Role"]["Arn"] for name in ("given", "custom"))
    with ec2_proxy(moto.endpoint_url) as proxy:
        through = {"AWS_ENDPOINT_URL_IAM": proxy.url}
        denied = refuse(403, "AccessDenied")
        # A role of another cluster may not be read, nor one that was given.
        proxy.faults["GetRole"] = [lambda pass_on: pass_on(), denied]
        result = run({"state": "absent", "name": NAME, "others": True}, env=through, check=True)
        assert result["removed"] == [ARN]
        assert result["unread"][0].startswith("Whether the role custom is of the cluster is unknown: IAM in")
        proxy.faults["GetRole"] = [denied]
        result = run({"state": "absent", "name": "given", "others": True}, env=through, check=True)
        assert (result["role"]["owned"], {*result["removed"]}, result["unread"]) == (False, {ARN, custom}, [])
        proxy.faults["DeleteRole"] = [denied]
        output = teardown(ARN, fails=True, env=through)
        assert f"Stays: ['{ARN}', '{custom}']" in output
        assert "The identity of cloud-api-adaptor could not be removed: IAM in " in output
        proxy.faults["ListRoles"] = [denied]
        output = teardown(ARN, env=through)
    assert f"Other roles of the cluster than {NAME} were not looked for: IAM in" in output
    assert "Stays: None" in output
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == {"given", "custom"}
    # A later run has replaced the role of this collection in the Subscription.
    output = teardown(given)
    assert f"The IAM role {given} stays. This collection did not create it for this cluster." in output
    assert f"Stays: ['{given}']" in output
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == {"given"}
    output = teardown()
    assert ("may have created" in output, "Stays: []" in output) == (False, True)
    assert not run({"state": "absent", "name": NAME, "issuer": ""})["changed"]
