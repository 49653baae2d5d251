"""The verdict of the demo: it passes only if every condition is met."""

from __future__ import annotations

import pytest

from tests.cluster.clouds import CLOUDS
from tests.demo.__main__ import checks, is_mutated, main
from tests.demo.summary import render

OBSERVED = {
    "cloud": "aws",
    "credentials": "given",
    "credential_keys": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "nodes": 3,
    "limit": 10,
    "advertised_nodes": 3,
    "peer_pods_created": 31,
    "peer_pods_scheduled": 30,
    "peer_pods_pending": 1,
    "pending_reason": "0/4 nodes are available: 3 Insufficient kata.peerpods.io/vm.",
    "peer_pods_mutated": 31,
    "ordinary_pods_unchanged": True,
    "second_run_changed": 0,
    "ports_opened": ["15150/tcp", "9000/tcp", "9000/udp"],
    "raised_limit": 15,
    "peer_pods_scheduled_after_raise": 31,
    "adaptor_restarts": 0,
    "peer_pods_lost": 0,
    "verified": {f"verify-{number}": "ok" for number in range(9)},
    "report_page": "build/demo/aws/peerpods-report/report.html",
}


def test_each_promise_of_the_demo_is_verified():
    assert all(check.passed for check in checks(OBSERVED))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("credentials", "token"),
        ("credential_keys", ["AWS_ACCESS_KEY_ID"]),
        ("nodes", 4),
        ("nodes", 0),
        ("advertised_nodes", 2),
        ("peer_pods_scheduled", 29),
        ("peer_pods_scheduled", 31),
        ("peer_pods_pending", 0),
        ("pending_reason", "0/4 nodes are available: 3 Insufficient cpu."),
        ("peer_pods_mutated", 30),
        ("ordinary_pods_unchanged", False),
        ("second_run_changed", 1),
        ("ports_opened", ["15150/tcp", "9000/tcp"]),
        ("ports_opened", ["15150/tcp", "22/tcp", "9000/tcp", "9000/udp"]),
        ("peer_pods_scheduled_after_raise", 30),
        ("adaptor_restarts", 1),
        ("peer_pods_lost", 1),
        ("verified", {}),
        ("verified", {f"verify-{number}": "unknown" for number in range(9)}),
    ],
)
def test_an_unmet_promise_is_found(key: str, value: object):
    assert not all(check.passed for check in checks({**OBSERVED, key: value}))


@pytest.mark.parametrize(
    ("first", "second", "mutated"),
    [
        ({"requests": {"kata.peerpods.io/vm": "1"}, "limits": {"kata.peerpods.io/vm": "1"}}, {}, True),
        ({"requests": {"kata.peerpods.io/vm": "1"}}, {}, False),
        ({"requests": {"kata.peerpods.io/vm": "1", "cpu": "1"}, "limits": {"kata.peerpods.io/vm": "1"}}, {}, False),
        (
            {"requests": {"kata.peerpods.io/vm": "1"}, "limits": {"kata.peerpods.io/vm": "1"}},
            {"requests": {"cpu": "1"}},
            False,
        ),
        ({}, {}, False),
    ],
)
def test_a_mutated_pod(first: dict, second: dict, mutated: bool):
    pod = {
        "spec": {
            "containers": [{"name": "a", "resources": first}],
            "initContainers": [{"name": "b", "resources": second}],
        }
    }
    assert is_mutated(pod) is mutated


def test_an_unknown_cloud(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("CLOUD", "gcp")
    assert main() == 2
    output = capsys.readouterr().out
    assert output == "CLOUD=gcp does not exist; the demo runs in CLOUD=aws or CLOUD=azure.\n"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_token_is_not_accompanied_by_a_secret(cloud: str):
    identity = {"aws": ["AWS_ROLE_ARN"], "azure": ["AZURE_CLIENT_ID"]}[cloud]
    token = {"aws": ["AWS_WEB_IDENTITY_TOKEN_FILE"], "azure": ["AZURE_FEDERATED_TOKEN_FILE"]}[cloud]
    subscription = {"aws": [], "azure": ["AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID"]}[cloud]
    keys = [*identity, *token, *subscription]
    observed = {**OBSERVED, "cloud": cloud, "credentials": "token", "credential_keys": keys}
    assert all(check.passed for check in checks(observed))
    secret = {"aws": "AWS_SECRET_ACCESS_KEY", "azure": "AZURE_CLIENT_SECRET"}[cloud]
    assert not all(check.passed for check in checks({**observed, "credential_keys": [*keys, secret]}))


@pytest.mark.parametrize(
    ("credentials", "operator", "message"),
    [
        ("password", "1.13", "CREDENTIALS=password is not known; choose CREDENTIALS=given or CREDENTIALS=token.\n"),
        ("token", "1.8", "OPERATOR=1.8 takes no tokens; choose CREDENTIALS=given or OPERATOR=1.13.\n"),
    ],
)
def test_other_credentials(credentials: str, operator: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("CREDENTIALS", credentials)
    monkeypatch.setenv("OPERATOR", operator)
    assert main() == 2
    assert capsys.readouterr().out == message


def test_an_unknown_operator_version(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("OPERATOR", "1.10")
    assert main() == 2
    assert capsys.readouterr().out == ("OPERATOR=1.10 is not known; choose OPERATOR=1.8 or OPERATOR=1.13.\n")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_summary_names_the_cloud(cloud: str):
    webhook = {"of": "the operator", "ready": 2, "runtime": "podman"}
    about = {
        "webhook": webhook,
        "agent": {"ready": 1, "runtime": "podman"},
        "cloud": cloud,
        "seconds": {"total": 60.1},
        "operator": "1.13",
    }
    text = render({**OBSERVED, **about}, checks(OBSERVED))
    with_token = render({**OBSERVED, **about, "credentials": "token"}, checks(OBSERVED))
    assert "with operator 1.13 and tokens instead of keys: 3 worker nodes" in with_token
    name = {"aws": "AWS", "azure": "Azure"}[cloud]
    assert f"osc.peerpods on {name} with operator 1.13: 3 worker nodes, 10 peer pods each" in text
    assert "webhook of the operator: 2 pods in podman" in text
    assert "limits advertised by the agent: 1 pod in podman" in text
    without_agent = render({**OBSERVED, **about, "agent": None}, checks(OBSERVED))
    assert "limits advertised by the operator" in without_agent
    assert text.endswith("All checks passed.\nThe report page: build/demo/aws/peerpods-report/report.html")
