"""Which credentials are written, and what stands in the way of them."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.credentials import (
    CONFLICTS,
    EXPIRES,
    CredentialPlan,
    plan_credentials,
)

REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}
STS = {"kataconfiguration.openshift.io/sts": "aws"}
MADE = {"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}
ARN = "arn:aws:iam::123456789012:role/r"


def row(key: str, value: str = "", initial: str = "", **fields) -> dict:
    return {"key": key, "option": f"role_{key.lower()}", "value": value, "initial": initial, **fields}


def aws(value: dict[str, str] | None = None, initial: dict[str, str] | None = None) -> list[dict]:
    """The rows of an access key, by the end of their names: ID, KEY, TOKEN."""
    value, initial = value or {}, initial or {}
    keys = {"ID": "AWS_ACCESS_KEY_ID", "KEY": "AWS_SECRET_ACCESS_KEY", "TOKEN": "AWS_SESSION_TOKEN"}
    return [
        row(key, value.get(name, ""), initial.get(name, ""), group="key")
        | ({"optional": True} if name == "TOKEN" else {"remedy": "Set it."})
        for name, key in keys.items()
    ]


def azure(value: dict[str, str], initial: dict[str, str]) -> list[dict]:
    keys = ("CLIENT_ID", "CLIENT_SECRET", "TENANT_ID", "SUBSCRIPTION_ID")
    return [
        row(key, value.get(key, ""), initial.get(key, ""), remedy="Set it.")
        | ({"shared": True} if key in keys[2:] else {})
        for key in keys
    ]


def secret(*keys: str, labels: dict[str, str] | None = None, managed: bool = True) -> dict:
    return {"labels": labels or {}, "content": dict.fromkeys(keys), "managed": managed}


def plan(existing: dict | None = None, csv: str = "1.13.0", settings: dict | None = None, **options) -> CredentialPlan:
    defaults = {
        "credentials": aws(),
        "token": [],
        "credentials_from": "given",
        "platform": "AWS",
        "facts": None,
    }
    return plan_credentials(defaults | options, existing, f"sandboxed-containers-operator.v{csv}", settings)


ENVIRONMENT = {"ID": "AKIAENV", "KEY": "e"}
OPTIONS = {"ID": "AKIAOPT", "KEY": "o"}
PAIR = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def as_pair(values: dict[str, str]) -> dict[str, str]:
    return {PAIR[0]: values["ID"], PAIR[1]: values["KEY"]}


@pytest.mark.parametrize(
    ("existing", "options", "written"),
    [
        # A new Secret, and one that is not complete.
        (None, {}, as_pair(ENVIRONMENT)),
        (None, OPTIONS, as_pair(OPTIONS)),
        (secret(PAIR[0]), {}, as_pair(ENVIRONMENT)),
        # The environment does not replace the key of a Secret, whoever created it.
        (secret(*PAIR), {}, {}),
        (secret(*PAIR, managed=False), {}, {}),
        # Options do, which is how a key is rotated.
        (secret(*PAIR), OPTIONS, as_pair(OPTIONS)),
        (secret(*PAIR, managed=False), OPTIONS, as_pair(OPTIONS)),
        (secret(PAIR[0], managed=False), OPTIONS, as_pair(OPTIONS)),
    ],
)
def test_the_environment_fills_only_a_new_secret(existing: dict | None, options: dict, written: dict):
    planned = plan(existing, credentials=aws(options, ENVIRONMENT))
    assert (planned.secret, planned.problems, planned.warnings) == (written, (), ())


IDENTITY = ("CLIENT_ID", "TENANT_ID", "SUBSCRIPTION_ID")


@pytest.mark.parametrize(
    ("existing", "options", "lacking"),
    [
        (secret(PAIR[0], managed=False), {}, "AWS_SECRET_ACCESS_KEY"),
        (secret(managed=False), {}, "AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY"),
        (secret(PAIR[0], managed=False), {"settings": {PAIR[1]: ""}}, "AWS_SECRET_ACCESS_KEY"),
        # Both are the environment of cloud-api-adaptor.
        (secret(PAIR[0], managed=False), {"settings": {PAIR[1]: "x"}}, None),
        # A token that the user has set up.
        (secret("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", managed=False), {}, None),
        (secret(*IDENTITY, managed=False), {"credentials": azure({}, {}), "platform": "Azure"}, "CLIENT_SECRET"),
        (
            secret(*IDENTITY, "AZURE_FEDERATED_TOKEN_FILE", managed=False),
            {"credentials": azure({}, {}), "platform": "Azure"},
            None,
        ),
    ],
)
def test_a_secret_of_another_owner_without_a_required_key_is_reported(existing: dict, options: dict, lacking: str):
    planned = plan(existing, **{"credentials": aws({}, ENVIRONMENT), **options})
    assert planned.secret == {}
    if lacking is None:
        assert planned.problems == ()
    else:
        (problem,) = planned.problems
        assert f"has no {lacking}: cloud-api-adaptor does not start without. Add what is missing, or set " in problem


def test_an_option_changes_its_key_of_a_complete_secret_and_no_other():
    keys = ("CLIENT_ID", "CLIENT_SECRET", "TENANT_ID", "SUBSCRIPTION_ID")
    rows = azure({"CLIENT_SECRET": "new"}, dict.fromkeys(keys, "env"))
    planned = plan(secret(*keys), credentials=rows, platform="Azure")
    assert (planned.secret, planned.problems) == ({"CLIENT_SECRET": "new"}, ())


@pytest.mark.parametrize("managed", [True, False])
def test_the_option_of_the_subscription_takes_no_identity_of_the_environment(managed: bool):
    keys = ("CLIENT_ID", "CLIENT_SECRET", "TENANT_ID", "SUBSCRIPTION_ID")
    rows = azure({"SUBSCRIPTION_ID": "s"}, dict.fromkeys(keys, "env"))
    planned = plan(secret(*keys, managed=managed), credentials=rows, platform="Azure")
    assert (planned.secret, planned.problems) == ({"SUBSCRIPTION_ID": "s"}, ())


@pytest.mark.parametrize("existing", [None, secret(*PAIR)])
@pytest.mark.parametrize("name", ["ID", "KEY", "TOKEN"])
def test_half_a_key_is_rejected(existing: dict | None, name: str):
    planned = plan(existing, credentials=aws({name: "AKIA"}, ENVIRONMENT))
    (problem,) = planned.problems
    assert "must be set together with" in problem


def test_missing_credentials_are_named():
    empty = "{} is empty. Set it.".format
    assert plan().problems == (empty("role_aws_access_key_id"), empty("role_aws_secret_access_key"))
    assert plan(credentials=aws({}, {"ID": "AKIA"})).problems == (empty("role_aws_secret_access_key"),)


TEMPORARY = {"ID": "ASIAX", "KEY": "k", "TOKEN": "t"}
WITH_TOKEN = {**as_pair(TEMPORARY), "AWS_SESSION_TOKEN": "t"}


@pytest.mark.parametrize("of", ["value", "initial"])
def test_a_temporary_key_is_written_with_its_token_and_a_warning(of: str):
    planned = plan(credentials=aws(**{of: TEMPORARY}))
    assert (planned.secret, planned.problems, planned.warnings) == (WITH_TOKEN, (), (EXPIRES,))


@pytest.mark.parametrize(
    ("options", "environment", "csv", "words"),
    [
        ({"ID": "ASIAX", "KEY": "k"}, {}, "1.13.0", "its session token is missing"),
        # The token of the environment belongs to another key.
        ({"ID": "ASIAX", "KEY": "k"}, TEMPORARY, "1.13.0", "its session token is missing"),
        (TEMPORARY, {}, "1.10.3", "cloud-api-adaptor of sandboxed-containers-operator.v1.10.3 reads no session token"),
    ],
)
def test_a_temporary_key_that_cannot_work_is_rejected(options: dict, environment: dict, csv: str, words: str):
    planned = plan(credentials=aws(options, environment), csv=csv)
    (problem,) = planned.problems
    assert words in problem


def test_the_token_of_a_temporary_key_goes_when_a_permanent_one_is_set():
    existing = secret(*PAIR, "AWS_SESSION_TOKEN")
    assert plan(existing).warnings == (EXPIRES,)
    planned = plan(existing, credentials=aws(OPTIONS, TEMPORARY))
    assert planned.secret == {**as_pair(OPTIONS), "AWS_SESSION_TOKEN": None}
    assert (planned.problems, planned.warnings) == ((), ())


def test_the_token_of_the_environment_is_not_written_with_a_permanent_key():
    planned = plan(credentials=aws(OPTIONS, TEMPORARY))
    assert (planned.secret, planned.warnings) == (as_pair(OPTIONS), ())


def token(arn: str = "", **fields) -> list[dict]:
    pattern = {"pattern": "arn:aws:iam::[0-9]{12}:role/.+", "expected": "the ARN of a role", "remedy": "Set it."}
    return [{**row("ROLEARN", arn), "secret_key": "AWS_ROLE_ARN", **pattern, **fields}]


def test_a_role_is_passed_in_the_environment_of_the_operator():
    planned = plan(credentials_from="auto", token=token(ARN))
    assert planned == CredentialPlan("token", "role_rolearn is set.", {}, {"ROLEARN": ARN})


def test_another_role_is_also_written_to_the_secret_which_the_operator_does_not_change():
    planned = plan(secret(*MADE, labels=STS), credentials_from="token", token=token(ARN))
    assert (planned.secret, planned.env, planned.problems) == ({"AWS_ROLE_ARN": ARN}, {"ROLEARN": ARN}, ())


@pytest.mark.parametrize("labels", [STS, REQUESTED])
@pytest.mark.parametrize("requested", ["auto", "token"])
def test_a_token_that_exists_is_kept_without_options(labels: dict, requested: str):
    """That of a user who subscribed to the operator, or applied cco-secret of ccoctl."""
    facts = {"mode": "Manual", "issuer": "https://i", "root": None, "secret": None}
    planned = plan(secret(*MADE, labels=labels), credentials_from=requested, token=token(), facts=facts)
    assert (planned.way, planned.secret, planned.env, planned.problems) == ("token", {}, {}, ())


@pytest.mark.parametrize(
    ("labels", "env", "warns"), [(REQUESTED, [], True), (REQUESTED, ["ROLEARN"], False), (STS, [], False)]
)
def test_a_token_of_cco_secret_is_mounted_only_with_the_environment(labels: dict, env: list[str], warns: bool):
    content = {"config": {"env": [{"name": name, "value": ARN} for name in env]}}
    objects = [{"kind": "Subscription", "content": content}, {"kind": "Namespace", "content": None}]
    planned = plan(secret(*MADE, labels=labels), credentials_from="token", token=token(), objects=objects)
    assert ["ROLEARN is not in spec.config.env" in each for each in planned.warnings] == [True] * warns


@pytest.mark.parametrize(
    ("rows", "existing", "words"),
    [
        (token(), None, "operator_install_credentials is token. role_rolearn is empty. Set it."),
        (token("r"), None, "role_rolearn must be the ARN of a role; got 'r'."),
        (token(ARN), secret(*MADE, labels=REQUESTED), "from cco-secret. Change cco-secret, or leave out role_rolearn."),
    ],
)
def test_half_of_a_token_is_rejected(rows: list[dict], existing: dict | None, words: str):
    (problem,) = plan(existing, credentials_from="token", token=rows).problems
    assert words in problem


SECRETS = {
    "given": secret(*PAIR),
    "credentials_request": secret(*PAIR, labels=REQUESTED),
    "token": secret(*MADE, labels=STS),
}


@pytest.mark.parametrize("source", SECRETS)
@pytest.mark.parametrize("way", SECRETS)
def test_a_secret_of_another_way_is_reported(way: str, source: str):
    planned = plan(SECRETS[source], credentials_from=way, credentials=aws(OPTIONS), token=token(ARN))
    expected = () if way == source else (CONFLICTS[way, source],)
    assert planned.problems == expected


def test_a_credentials_request_needs_no_credentials():
    planned = plan(credentials_from="credentials_request")
    assert (planned.secret, planned.env, planned.problems) == ({}, {}, ())
