from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.settings import operator_settings

IMAGE = {
    "cluster_id": "0f9f3c6e-6d1c",
    "image_id": "",
    "uri": "",
    "config": {},
    "bucket": "",
    "creates_identity": False,
}


def settings(*rows, **options) -> dict:
    defaults = {
        "settings": list(rows),
        "credentials": [{"key": "AWS_KEY", "option": "role_key", "value": "k", "remedy": "Set it."}],
        "credentials_from": "given",
        "token": [],
        "platform": "AWS",
        "facts": None,
        "installed_csv": "",
        "catalogs": None,
        "extra_config": {},
        "tags": {},
        "feature_gates": {},
        "subscription": [],
        "kata_config": [],
        "public_key": "",
        "image": IMAGE,
        "take_over": False,
        "before_networking": False,
        "namespace": "osc",
        "objects": [],
    }
    return operator_settings(defaults | options)


def row(key: str, value: object, **fields) -> dict:
    return {"key": key, "option": f"role_{key.lower()}", "value": value, **fields}


def existing(kind: str, name: str, content: dict | None = None, *, managed: bool = True, **labels: str) -> dict:
    return {
        "kind": kind,
        "name": name,
        "labels": labels,
        "content": content,
        "managed": managed,
        "of_operator": False,
        "is_deleted": False,
    }


LIMIT = row("LIMIT", 10, only_new=True)
STS = {"kataconfiguration.openshift.io/sts": "aws"}
REQUESTED = {"kataconfiguration.openshift.io/credentials-request-based": "true"}


# The job requires the bucket, since the credentials are given.
BUCKETS = {"created": "", "needed": "podvm-image-262093934.0.1", "default": "podvm-image-262093934.0.1"}


def test_the_written_settings():
    written = settings(
        row("SIZES", ["a", "b"]),
        row("PORT", 9000),
        row("IMAGE", ""),
        LIMIT,
        extra_config={"INITDATA": "x", "EMPTY": ""},
        tags={"team": "a", "cost": "b"},
        feature_gates={"confidential": True, "deploymentMode": "DaemonSet"},
    )
    assert written == {
        "config_map": {"SIZES": "a,b", "PORT": "9000", "LIMIT": "10", "INITDATA": "x", "TAGS": "team=a,cost=b"},
        "only_missing": [],
        "secret": {"AWS_KEY": "k"},
        "credentials": {
            "way": "given",
            "reason": "operator_install_credentials is given.",
            "warnings": [],
            "problems": [],
        },
        "feature_gates": {"confidential": "true", "deploymentMode": "DaemonSet"},
        "subscription": {},
        "kata_config": {"enablePeerPods": True},
        "changes_nodes": True,
        "image_settings": {"name": "aws-podvm-image-cm", "data": {}, "is_own": True, "buckets": BUCKETS},
        "takes_over": [],
        "closed": [],
        "problems": [],
    }


@pytest.mark.parametrize(
    ("stored", "entry", "is_closed"),
    [
        # Kept, with groups other than those in the options of the role cloud_networking.
        ({"IDS": "sg-vm"}, {"initial": ["sg-node"], "opened_for": ["sg-node"]}, True),
        ({"IDS": "sg-vm, sg-node"}, {"initial": ["sg-node"], "opened_for": ["sg-node"]}, False),
        ({"IDS": "/Subnets/A"}, {"initial": "/subnets/b", "opened_for": ["/subnets/b", "/subnets/a"]}, False),
        # Set, or missing.
        ({"IDS": "sg-old"}, {"value": ["sg-vm"], "opened_for": ["sg-vm"]}, False),
        ({"IDS": "sg-vm"}, {"value": ["sg-new"], "opened_for": ["sg-vm"]}, True),
        ({}, {"initial": ["sg-node"], "opened_for": ["sg-node"]}, False),
        # A group that is not filtered, and a run without the role cloud_networking.
        ({}, {"initial": "", "opened_for": ["/nsg"]}, False),
        ({"IDS": "sg-vm"}, {"initial": [], "opened_for": []}, False),
    ],
)
def test_vms_for_which_no_ports_were_opened_are_reported(stored: dict, entry: dict, is_closed: bool):
    planned = settings(
        {"key": "IDS", "option": "role_ids", "opened_by": "networking_ids", "remedy": "Set it.", **entry},
        objects=[existing("ConfigMap", "peer-pods-cm", stored)],
    )
    assert len(planned["closed"]) == is_closed
    assert all("Correct networking_ids" in sentence for sentence in planned["closed"])


def test_the_limit_of_an_existing_config_map_is_kept():
    assert settings(LIMIT, objects=[existing("ConfigMap", "peer-pods-cm")])["config_map"] == {}


OF_CLUSTER = {"key": "REGION", "initial": "eu"}


def rows(*, are_set: bool) -> dict:
    """The options of each object, set or with what a new object gets without them."""
    name = "value" if are_set else "initial"
    return {
        "settings": [
            {"key": "VPC", "option": "role_vpc", name: "vpc-0", "remedy": "Set it."},
            {"key": "PORT", "option": "role_port", name: 9000},
            OF_CLUSTER,
            LIMIT,
        ],
        "credentials": [{"key": "AWS_KEY", "option": "role_key", name: "k", "remedy": "Set it."}],
        "subscription": [{"key": "channel", name: "stable"}, {"key": "installPlanApproval", name: "Automatic"}],
        "kata_config": [{"key": "logLevel", name: "info"}],
    }


UNSET, SET = rows(are_set=False), rows(are_set=True)


def subscription(*, managed: bool, **spec: object) -> dict:
    return existing("Subscription", "mine", {"name": "sandboxed-containers-operator", **spec}, managed=managed)


OF_USER = [
    subscription(managed=False, channel="mirror", installPlanApproval="Manual"),
    existing("ConfigMap", "peer-pods-cm", {"VPC": "vpc-1", "PORT": "9001", "REGION": "us"}, managed=False),
    existing("Secret", "peer-pods-secret", {"AWS_KEY": None}, managed=False),
    existing("ConfigMap", "osc-feature-gates", {"confidential": "true"}, managed=False),
    existing("KataConfig", "mine", {"enablePeerPods": True, "logLevel": "debug"}, managed=False),
]
OURS = [{**entry, "managed": True} for entry in OF_USER]


@pytest.mark.parametrize("objects", [OF_USER, OURS])
def test_options_that_are_not_set_keep_what_exists(objects: list[dict]):
    planned = settings(objects=objects, **UNSET)
    assert planned["subscription"] == {"channel": "mirror", "installPlanApproval": "Manual"}
    assert planned["kata_config"] == {"enablePeerPods": True, "logLevel": "debug"}
    # What the operator requires is written only if it is missing.
    assert planned["config_map"] == {"VPC": "vpc-0", "REGION": "eu"}
    assert planned["only_missing"] == ["REGION", "VPC"]
    assert planned["secret"] == {}
    assert (planned["takes_over"], planned["problems"]) == ([], [])


def test_options_that_are_set_change_the_objects_of_the_collection():
    planned = settings(objects=OURS, **SET)
    assert planned["subscription"] == {"channel": "stable", "installPlanApproval": "Automatic"}
    assert planned["kata_config"] == {"enablePeerPods": True, "logLevel": "info"}
    assert planned["config_map"] == {"VPC": "vpc-0", "PORT": "9000", "REGION": "eu"}
    assert planned["only_missing"] == ["REGION"]
    assert (planned["takes_over"], planned["problems"]) == ([], [])


def test_the_changes_of_other_owners_are_listed_and_need_a_choice():
    changed = {"objects": OF_USER, "feature_gates": {"confidential": False}, **SET}
    expected = [
        "Subscription mine: channel from mirror to stable",
        "Subscription mine: installPlanApproval from Manual to Automatic",
        "ConfigMap peer-pods-cm: VPC from vpc-1 to vpc-0",
        "ConfigMap peer-pods-cm: PORT from 9001 to 9000",
        "Secret peer-pods-secret: AWS_KEY from (not shown) to (not shown)",
        "ConfigMap osc-feature-gates: confidential from true to false",
        "KataConfig mine: logLevel from debug to info",
    ]
    refused = settings(**changed)
    assert refused["takes_over"] == expected
    (problem,) = refused["problems"]
    assert "; ".join(expected) in problem
    assert "set operator_install_take_over to true" in problem
    allowed = settings(**changed, take_over=True)
    assert (allowed["takes_over"], allowed["problems"]) == (expected, [])


def test_what_the_networking_finds_is_no_problem_before_it_ran():
    """A preflight of a site knows no value yet, but whether an object of another owner would change."""
    subnet = row(
        "SUBNET", "", initial="", of_networking=True, remedy="Set it.", pattern="subnet-.+", expected="a subnet"
    )
    (missing,) = settings(subnet)["problems"]
    assert missing == "role_subnet is empty. Set it."
    assert settings(subnet, before_networking=True)["problems"] == []
    (invalid,) = settings({**subnet, "value": "vpc-1"}, before_networking=True)["problems"]
    assert "role_subnet must be a subnet; got 'vpc-1'" in invalid
    foreign = existing("ConfigMap", "peer-pods-cm", {"OTHER": "x"}, managed=False)
    (refused,) = settings(subnet, before_networking=True, objects=[foreign])["problems"]
    assert "ConfigMap peer-pods-cm: SUBNET from not set to what the role cloud_networking finds" in refused


@pytest.mark.parametrize(
    ("entry", "options", "line"),
    [
        (
            existing("KataConfig", "mine", {}, managed=False),
            {},
            "KataConfig mine: enablePeerPods from not set to true",
        ),
        # What the operator requires is missing.
        (
            existing("ConfigMap", "peer-pods-cm", {}, managed=False),
            {},
            "ConfigMap peer-pods-cm: VPC from not set to vpc-0",
        ),
        (
            existing("ConfigMap", "peer-pods-cm", {"VPC": "v"}, managed=False),
            {"tags": {"a": "b"}},
            "ConfigMap peer-pods-cm: TAGS from not set to a=b",
        ),
        (
            existing("ConfigMap", "peer-pods-cm", {"VPC": "v"}, managed=False),
            {"extra_config": {"INITDATA": "x"}},
            "ConfigMap peer-pods-cm: INITDATA from not set to x",
        ),
        (
            existing("Secret", "ssh-key-secret", {"id_rsa.pub": None}, managed=False),
            {"public_key": "ssh-ed25519 a"},
            "Secret ssh-key-secret: id_rsa.pub from (not shown) to (not shown)",
        ),
    ],
)
def test_each_change_of_another_owner_is_listed(entry: dict, options: dict, line: str):
    required = {"key": "VPC", "option": "role_vpc", "initial": "vpc-0", "remedy": "Set it."}
    assert settings(required, objects=[entry], **options)["takes_over"] == [line]


@pytest.mark.parametrize("managed", [True, False])
def test_a_setting_that_must_not_be_empty_replaces_an_empty_one(managed: bool):
    """With AZURE_SUBNET_ID="", cloud-api-adaptor does not start."""
    region = {"key": "REGION", "initial": "eu", "never_empty": True}
    subnet = row("SUBNET", "", initial="subnet-1", remedy="Set it.", never_empty=True)
    image = row("IMAGE", "")
    data = {"REGION": "", "SUBNET": "", "IMAGE": ""}
    stored = existing("ConfigMap", "peer-pods-cm", data, managed=managed)
    planned = settings(region, subnet, image, objects=[stored])
    assert (planned["config_map"], planned["only_missing"]) == ({"REGION": "eu", "SUBNET": "subnet-1"}, [])
    lines = [
        f"ConfigMap peer-pods-cm: {key} from not set to {planned['config_map'][key]}" for key in ("REGION", "SUBNET")
    ]
    assert planned["takes_over"] == ([] if managed else lines)
    assert len(planned["problems"]) == (0 if managed else 1)
    unknown = settings({**subnet, "initial": ""}, objects=[stored])
    assert unknown["problems"] == ["role_subnet is empty. Set it."]
    full = existing("ConfigMap", "peer-pods-cm", {"REGION": "us", "SUBNET": "subnet-0"}, managed=managed)
    kept = settings(region, subnet, image, objects=[full])
    assert (kept["only_missing"], kept["takes_over"], kept["problems"]) == (["REGION", "SUBNET"], [], [])


@pytest.mark.parametrize(
    ("secret", "data", "kept", "is_refused"),
    [
        (["AWS_KEY", "AWS_SESSION_TOKEN"], {}, "", True),
        (["AWS_KEY"], {}, "", False),
        (["AWS_KEY", "AWS_SESSION_TOKEN"], {"PODVM_AMI_ID": "ami-1"}, "", False),
        # The image of another cloud.
        (["AWS_KEY", "AWS_SESSION_TOKEN"], {"AZURE_IMAGE_ID": "/images/1"}, "", True),
        # An interrupted teardown has kept an image, which is restored.
        (["AWS_KEY", "AWS_SESSION_TOKEN"], {}, "ami-1", False),
    ],
)
def test_a_bootc_image_of_a_user_needs_a_permanent_key(secret: list[str], data: dict, kept: str, is_refused: bool):
    objects = [
        existing("Secret", "peer-pods-secret", dict.fromkeys(secret), managed=False),
        existing("ConfigMap", "aws-podvm-image-cm", {"PODVM_IMAGE_URI": "bootc::quay.io/a"}, managed=False),
        existing("ConfigMap", "peer-pods-cm", data, managed=False),
    ]
    unset = [{"key": "AWS_KEY", "option": "role_key", "value": "", "remedy": "Set it."}]
    problems = settings(objects=objects, credentials=unset, image={**IMAGE, "kept": kept})["problems"]
    assert ["temporary access key" in problem for problem in problems] == [True] * is_refused


def test_a_field_that_is_set_to_its_default_is_no_change():
    mine = {"name": "sandboxed-containers-operator", "channel": "stable"}
    planned = settings(objects=[existing("Subscription", "mine", mine, managed=False)], **SET)
    assert planned["takes_over"] == []


ROLE = [{"key": "ROLEARN", "secret_key": "AWS_ROLE_ARN", "option": "role_arn", "value": "arn:new"}]


@pytest.mark.parametrize("before", ["", "arn:old", "arn:new"])
def test_other_variables_in_the_subscription_are_kept_in_their_order(before: str):
    """A merge patch replaces a list, and another order would be a change."""
    env = [{"name": "ROLEARN", "value": before}, {"name": "HTTP_PROXY", "valueFrom": {"fieldRef": {}}}]
    found = subscription(managed=True, config={"env": env if before else env[1:], "resources": {}})
    planned = settings(objects=[found], credentials_from="token", token=ROLE)["subscription"]["config"]["env"]
    assert sorted(planned, key=str) == sorted([{"name": "ROLEARN", "value": "arn:new"}, env[1]], key=str)
    assert (planned == env) is (before == "arn:new")


def test_a_role_in_the_subscription_of_another_owner_needs_a_choice():
    found = [subscription(managed=False), existing("Secret", "peer-pods-secret", {}, managed=False, **STS)]
    planned = settings(objects=found, credentials_from="token", token=ROLE)
    # The Secret is that of the operator.
    assert planned["secret"] == {"AWS_ROLE_ARN": "arn:new"}
    (line,) = planned["takes_over"]
    assert line.startswith("Subscription mine: config from not set to {'env': [{'name': 'ROLEARN'")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"installed_csv": "sandboxed-containers-operator.v1.12.1"}, True),
        # The installed version counts, not the one that the channel offers.
        ({"installed_csv": "sandboxed-containers-operator.v1.13.0", "head": "1.12.1"}, False),
        ({"head": "1.12.1"}, True),
        ({"head": "1.13.1"}, False),
        ({"head": "1.12.1", "namespace": "other"}, False),
        ({"head": "1.13.1", "startingCSV": "sandboxed-containers-operator.v1.12.1"}, True),
        ({"head": "1.13.1", "startingCSV": "sandboxed-containers-operator.v1.12.1", "approval": "Automatic"}, False),
    ],
)
def test_the_release_that_takes_no_tokens(options: dict, problem: bool):
    head = f"sandboxed-containers-operator.v{options.get('head', '1.13.1')}"
    channels = [{"name": "stable", "head": head}, {"name": "old", "head": "x.v1.8.1"}]
    spec = {"channel": "stable", "source": "redhat", "sourceNamespace": "marketplace"}
    spec |= {"installPlanApproval": options.get("approval", "Manual"), "startingCSV": options.get("startingCSV", "")}
    planned = settings(
        credentials_from="token",
        token=ROLE,
        subscription=[{"key": key, "value": value} for key, value in spec.items()],
        catalogs=[{"name": "redhat", "namespace": options.get("namespace", "marketplace"), "channels": channels}],
        installed_csv=options.get("installed_csv", ""),
    )
    assert bool(planned["problems"]) is problem


def test_the_subscriptions_of_other_operators_are_not_changed():
    other = existing("Subscription", "other", {"name": "other-operator", "channel": "x"}, managed=False)
    planned = settings(objects=[other], **SET)
    assert planned["subscription"] == {"channel": "stable", "installPlanApproval": "Automatic"}
    assert planned["takes_over"] == []


@pytest.mark.parametrize(
    ("content", "is_changed"),
    [
        (None, True),
        ({}, True),
        ({"enablePeerPods": False, "logLevel": "info"}, True),
        ({"enablePeerPods": True, "logLevel": "debug"}, True),
        ({"enablePeerPods": True, "logLevel": "info"}, False),
        ({"enablePeerPods": True, "logLevel": "info", "checkNodeEligibility": True}, False),
    ],
)
def test_a_kata_config_that_is_created_or_changed_changes_nodes(content: dict | None, is_changed: bool):
    objects = [] if content is None else [existing("KataConfig", "k", content)]
    log_level = [{"key": "logLevel", "value": "info"}]
    assert settings(objects=objects, kata_config=log_level)["changes_nodes"] is is_changed


def test_a_new_object_gets_the_values_of_options_that_are_not_set():
    planned = settings(**UNSET)
    assert planned["config_map"] == {"VPC": "vpc-0", "PORT": "9000", "REGION": "eu", "LIMIT": "10"}
    assert planned["subscription"] == {"channel": "stable", "installPlanApproval": "Automatic"}
    assert planned["kata_config"] == {"enablePeerPods": True, "logLevel": "info"}
    assert (planned["secret"], planned["problems"]) == ({"AWS_KEY": "k"}, [])


def test_false_is_a_value():
    eligibility = [{"key": "checkNodeEligibility", "value": False}]
    kata = existing("KataConfig", "k", {"enablePeerPods": True, "checkNodeEligibility": True})
    planned = settings(objects=[kata], kata_config=eligibility)
    assert planned["kata_config"] == {"enablePeerPods": True, "checkNodeEligibility": False}


@pytest.mark.parametrize(
    ("selector", "patch"),
    [
        ({"matchLabels": {"pool": "a"}}, {"matchLabels": {"pool": "b"}}),
        ({"matchLabels": {"zone": "1"}}, {"matchLabels": {"pool": "b", "zone": None}}),
        (
            {"matchExpressions": [{"key": "pool", "operator": "Exists"}]},
            {"matchLabels": {"pool": "b"}, "matchExpressions": None},
        ),
        (None, {"matchLabels": {"pool": "b"}}),
    ],
)
def test_another_selector_replaces_the_one_before(selector: dict | None, patch: dict):
    """A merge patch keeps what it does not name: no node would have the labels of both."""
    options = [{"key": "kataConfigPoolSelector", "value": {"matchLabels": {"pool": "b"}}}]
    content = {"enablePeerPods": True, **({"kataConfigPoolSelector": selector} if selector else {})}
    planned = settings(objects=[existing("KataConfig", "k", content, managed=False)], kata_config=options)
    assert planned["kata_config"] == {"enablePeerPods": True, "kataConfigPoolSelector": patch}
    assert planned["takes_over"] == [
        f"KataConfig k: kataConfigPoolSelector from {selector or 'not set'} to {{'matchLabels': {{'pool': 'b'}}}}"
    ]


def test_a_missing_option_is_no_problem_if_the_config_map_has_its_value():
    missing = row("VPC", "", remedy="Set it.")
    assert settings(missing)["problems"] == ["role_vpc is empty. Set it."]
    assert settings(missing, objects=[existing("ConfigMap", "peer-pods-cm", {"VPC": "v"})])["problems"] == []


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([row("VPC", "", remedy="Set it.")], {}, "role_vpc is empty. Set it."),
        ([row("IDS", [], remedy="Set them.")], {}, "role_ids is empty. Set them."),
        (
            [row("IDS", ["sg-1", "x"], pattern="sg-[0-9]+", expected="IDs of security groups")],
            {},
            "role_ids must be IDs of security groups; got 'x'.",
        ),
        ([row("PORT", 70000, pattern="[0-9]{1,4}", expected="a port")], {}, "role_port must be a port; got '70000'."),
        ([], {"credentials": [row("KEY", "", remedy="Set it.")]}, "role_key is empty. Set it."),
        ([], {"feature_gates": {"confidential": "yes"}}, "must be one of true, false; got 'yes'"),
        ([], {"feature_gates": {"caaUpdateStrategy": "ondelete"}}, "must be one of RollingUpdate, OnDelete"),
        ([], {"feature_gates": {"no-gate": True}}, "'no-gate' in operator_install_feature_gates is not the name"),
        ([], {"tags": {"team": "a,b"}}, "The tag 'team' in operator_install_tags has a comma"),
        ([], {"tags": {"a=b": "c"}}, "The tag 'a=b' in operator_install_tags has a comma"),
        ([], {"extra_config": {"tags": "x"}}, "tags in operator_install_extra_config is not a key of peer-pods-cm"),
        ([row("PORT", 9000)], {"extra_config": {"PORT": 1}}, "PORT in operator_install_extra_config is set by another"),
        ([], {"extra_config": {"AWS_KEY": "x"}}, "AWS_KEY in operator_install_extra_config is a credential"),
        ([], {"extra_config": {"A": {"b": 1}}}, "A in operator_install_extra_config is not a single value"),
        ([], {"extra_config": {"A": None}}, "A in operator_install_extra_config is not a single value"),
        (
            [],
            {"extra_config": {"DISABLECVM": True}, "feature_gates": {"confidential": True}},
            "contradicts the feature gate confidential",
        ),
        (
            [],
            {"objects": [existing("OperatorGroup", "a"), existing("OperatorGroup", "b")]},
            "Namespace osc has the OperatorGroups a, b.",
        ),
        (
            [],
            {"objects": [{**existing("KataConfig", "k"), "is_deleted": True}]},
            "The KataConfig k is being deleted",
        ),
        ([], {"feature_gates": {"layeredImageDeployment": True}}, "needs the ConfigMap layered-image-deploy-cm"),
        (
            [],
            {"objects": [existing("ConfigMap", "peerpods-kataconfig")]},
            "A renewal of the pod VM image was interrupted after it deleted the KataConfig",
        ),
    ],
)
def test_invalid_settings_have_a_problem(rows: list[dict], options: dict, expected: str):
    (problem,) = settings(*rows, **options)["problems"]
    assert expected in problem


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([row("IMAGE", "", pattern="ami-.*", expected="an AMI")], {}),
        ([row("BOOT", "")], {"extra_config": {"BOOT": "true"}}),
        ([], {"extra_config": {"DISABLECVM": False}, "feature_gates": {"confidential": True}}),
        ([], {"feature_gates": {"newerGate": "x"}}),
        ([], {"objects": [existing("OperatorGroup", "a"), existing("Secret", "peer-pods-secret")]}),
        (
            [],
            {
                "objects": [existing("Secret", "peer-pods-secret", **REQUESTED)],
                "credentials_from": "credentials_request",
            },
        ),
        ([], {"feature_gates": {"layeredImageDeployment": True}, "objects": [existing("KataConfig", "k")]}),
        ([], {"objects": [existing("ConfigMap", "peerpods-kataconfig"), existing("KataConfig", "k")]}),
        ([], {"objects": [existing("ConfigMap", "peerpods-kataconfig", managed=False)]}),
        (
            [],
            {
                "feature_gates": {"layeredImageDeployment": True},
                "objects": [existing("ConfigMap", "layered-image-deploy-cm")],
            },
        ),
    ],
)
def test_valid_settings_have_no_problem(rows: list[dict], options: dict):
    assert settings(*rows, **options)["problems"] == []
