"""Answers to AdmissionReviews, as bytes."""

from __future__ import annotations

import base64
import json

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import pod, review

from peerpods_webhook.mutate import Policy
from peerpods_webhook.review import Answer, answer

VM = {"limits": {"kata.peerpods.io/vm": "1"}, "requests": {"kata.peerpods.io/vm": "1"}}


def send(admission_review: dict) -> Answer:
    return answer(json.dumps(admission_review).encode(), Policy())


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("dry_run", [False, True, None])
def test_a_peer_pod(version, dry_run):
    status, body, event = send(review(version, dryRun=dry_run))
    assert status == 200
    reply = json.loads(body)
    patch = reply["response"].pop("patch")
    assert reply == {
        "apiVersion": f"admission.k8s.io/{version}",
        "kind": "AdmissionReview",
        "response": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "allowed": True,
            "patchType": "JSONPatch",
        },
    }
    after = jsonpatch.apply_patch(pod(), base64.b64decode(patch, validate=True).decode())
    assert after["spec"]["containers"][0]["resources"] == VM
    assert event == {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "namespace": "team",
        "generateName": "demo-",
        "outcome": "mutated",
        **({"dryRun": True} if dry_run else {}),
    }


UNCHANGED = {
    "another runtime class": {"object": pod(runtime_class="runc")},
    "update": {"operation": "UPDATE", "oldObject": pod()},
    "in-place resize": {"operation": "UPDATE", "subResource": "resize", "oldObject": pod("2")},
    "delete": {"operation": "DELETE", "object": None, "oldObject": pod()},
    "connect": {"operation": "CONNECT", "subResource": "exec", "object": None},
    "binding": {"subResource": "binding", "kind": {"group": "", "kind": "Binding"}},
    "another kind": {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
    "another group's Pod": {"kind": {"group": "example.com", "version": "v1", "kind": "Pod"}},
    "no object": {"object": None},
}


@pytest.mark.parametrize("request_fields", UNCHANGED.values(), ids=UNCHANGED.keys())
def test_reviews_that_are_allowed_without_a_patch(request_fields):
    status, body, event = send(review(**request_fields))
    assert status == 200
    assert json.loads(body)["response"] == {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "allowed": True,
    }
    assert event["outcome"] == "unchanged"


@pytest.mark.parametrize("cpu", ["one", "-1"])
def test_a_peer_pod_with_an_invalid_size_is_rejected(cpu):
    status, body, event = send(review(object=pod(cpu)))
    response = json.loads(body)["response"]
    assert (status, response["allowed"], response["status"]["code"]) == (200, False, 400)
    assert "patch" not in response
    message = response["status"]["message"]
    assert message.startswith('The pod cannot become a peer pod: container "app": ')
    assert f"resources.requests[cpu]: '{cpu}' is" in message
    assert event["outcome"] == "rejected"
    assert event["message"] in message


def test_the_log_event_has_the_name_of_the_pod_but_not_its_environment():
    named = review(name="demo-1", object=pod() | {"metadata": {"name": "demo-1"}})
    assert send(named).event["name"] == "demo-1"
    for admission_review in (review(), review(object=pod("one"))):
        assert "s3cret" not in json.dumps(send(admission_review).event)


MALFORMED = {
    "empty": (b"", "is not JSON"),
    "not JSON": (b"{", "is not JSON"),
    "not UTF-8": (b'{"kind": "\xff"}', "is not JSON"),
    "trailing bytes": (json.dumps(review()).encode() + b"{}", "is not JSON"),
    "too deep": (b'{"x":' * 100_000, "is not JSON"),
    "a list": (b"[]", "is not an AdmissionReview"),
    "another kind": (
        b'{"apiVersion": "v1", "kind": "Pod"}',
        "has kind Pod and apiVersion v1; expected AdmissionReview",
    ),
    "no kind": (b"{}", "has kind '' and apiVersion ''; expected AdmissionReview"),
    "a later version": (json.dumps(review("v2")).encode(), "apiVersion admission.k8s.io/v2; expected AdmissionReview"),
    "no request": (json.dumps({**review(), "request": None}).encode(), "has no request"),
    "no uid": (json.dumps({**review(), "request": {}}).encode(), "missing required field `uid`"),
    "a pod of another shape": (
        json.dumps(review(object={"spec": {"containers": {"app": {}}}})).encode(),
        "$.request.object.spec.containers",
    ),
}


@pytest.mark.parametrize(("body", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_reviews(body, message):
    status, reply, event = answer(body, Policy())
    assert status == 400
    assert message in reply.decode()
    assert event == {"outcome": "malformed", "message": reply.decode()}


@given(st.binary(max_size=4), st.integers(0, 10_000), st.integers(0, 20))
def test_no_bytes_raise(inserted, position, removed):
    valid_body = json.dumps(review()).encode()
    position %= len(valid_body)
    body = valid_body[:position] + inserted + valid_body[position + removed :]
    assert answer(body, Policy()).status in (200, 400)
