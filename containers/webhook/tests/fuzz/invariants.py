"""The invariants of the answer to any bytes."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import jsonpatch
import msgspec

from peerpods_webhook.mutate import Policy
from peerpods_webhook.review import Answer, answer

from .reviews import MACHINE_TYPE, SECRET, SIZES, TARGET, VM_RESOURCE

POLICY = Policy(frozenset({TARGET}), VM_RESOURCE)
VALIDATING_POLICY = Policy(frozenset({TARGET}), VM_RESOURCE, validates_resources=True)
VM = {"limits": {VM_RESOURCE: "1"}, "requests": {VM_RESOURCE: "1"}}

# The maximum length of a message, whatever it quotes.
MAX_MESSAGE = 2000

# The maximum length of an amount, which is that of integers in Python.
MAX_AMOUNT = 4300

# A quantity that is not negative, by the grammar of Kubernetes' documentation.
_AMOUNT = re.compile(
    r"(\+?([0-9]+\.?[0-9]*|\.[0-9]+)|-(0+\.?0*|\.0+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?",
    re.ASCII,
)


class InvariantError(AssertionError):
    """A violated invariant. The caller reports the review that violated it."""


def check(body: bytes) -> str:
    """Check the answer to one request body. Returns its outcome.

    Raises InvariantError.
    """
    reply = _answer(body)
    _check_validation(body, reply)
    with _higher_recursion_limit():
        if reply.status == 400:
            _check_bad_request(body, reply)
        elif reply.status == 200:
            _check_review(body, reply)
        else:
            raise InvariantError(f"the status is {reply.status}")
    return reply.event["outcome"]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvariantError(message)


def _check_validation(body: bytes, reply: Answer) -> None:
    """With VALIDATE_RESOURCES, a peer pod is mutated in the same way, or rejected."""
    validated = _answer(body, VALIDATING_POLICY)
    if validated != reply:
        require(reply.event["outcome"] in ("mutated", "unchanged"), f"validated: {validated}")
        require(validated.event["outcome"] == "rejected", f"validated: {validated}")
        message = json.loads(validated.body)["response"]["status"]["message"]
        require(message.startswith("The pod cannot become a peer pod: "), message[:200])
        require(len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters")
        require(message.isprintable(), f"a message that cannot be printed: {message[:200]!r}")


def _answer(body: bytes, policy: Policy = POLICY) -> Answer:
    try:
        reply = answer(body, policy)
        # As the server logs it.
        logged = msgspec.json.encode(reply.event)
    except Exception as error:
        raise InvariantError(f"it raised {error!r}") from error
    require(len(logged) < 2 * MAX_MESSAGE + len(body), "the log line is longer than the review")
    return reply


def _check_bad_request(body: bytes, reply: Answer) -> None:
    text = reply.body.decode()
    require(text.startswith("The ") and text.endswith("."), f"not a sentence: {text[:200]!r}")
    require(text.isprintable(), f"a message that cannot be printed: {text[:200]!r}")
    require(len(text) <= MAX_MESSAGE, f"a message of {len(text)} characters")
    require(reply.event == {"outcome": "malformed", "message": text}, f"logged: {reply.event}")
    if SECRET in text:
        # A mutation of bytes may have moved the value to the kind.
        with contextlib.suppress(ValueError):
            review = _parse(body)
            if SECRET in f"{review.get('kind')}{review.get('apiVersion')}":
                return
        raise InvariantError(f"a message with a value of the environment: {text[:200]!r}")


def _check_review(body: bytes, reply: Answer) -> None:
    try:
        review = _parse(body)
    except ValueError as error:
        raise InvariantError(f"status 200 for a body that is not JSON: {error}") from error
    reply_review = json.loads(reply.body)
    request, response = review["request"], reply_review["response"]
    require(reply_review.keys() == {"apiVersion", "kind", "response"}, f"the answer has {list(reply_review)}")
    require(reply_review["kind"] == "AdmissionReview", f"the answer is a {reply_review['kind']}")
    require(reply_review["apiVersion"] == review["apiVersion"], "the answer has another apiVersion")
    require(response["uid"] == request["uid"], "the answer has another uid")
    pod = request.get("object")
    if not _creates_peer_pod(request):
        unchanged = {"uid": request["uid"], "allowed": True}
        require(response == unchanged, f"not a new peer pod, but got {response}")
        require(reply.event["outcome"] == "unchanged", f"logged: {reply.event}")
    elif wrong := list(_wrong_amounts(pod["spec"])):
        require(response["allowed"] is False, f"a peer pod with {wrong[0]} was allowed")
        message = response["status"]["message"]
        require(message.startswith("The pod cannot become a peer pod: "), message[:200])
        require(len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters")
        require(reply.event["outcome"] == "rejected", f"logged: {reply.event}")
    else:
        require(response["allowed"] is True, f"rejected: {response.get('status')}")
        _check_peer_pod(body, review, response, reply)


def _check_peer_pod(body: bytes, review: dict, response: dict, reply: Answer) -> None:
    """The patch makes a peer pod and changes no other fields. A second invocation changes nothing."""
    keys = {"uid", "allowed"} | ({"patchType", "patch"} if "patch" in response else set())
    require(response.keys() == keys, f"the response has {list(response)}")
    require(response.get("patchType", "JSONPatch") == "JSONPatch", "no JSONPatch")
    patch = base64.b64decode(response.get("patch", "W10="), validate=True).decode()
    outcome = "mutated" if "patch" in response else "unchanged"
    require(reply.event["outcome"] == outcome, f"logged: {reply.event}")
    before, after = review["request"]["object"], _parse(body)["request"]["object"]
    try:
        after = jsonpatch.apply_patch(after, patch, in_place=True)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise InvariantError(f"{patch} does not apply: {error}") from error

    spec = after["spec"]
    require(not _has_amounts(spec), "spec.resources is still there")
    containers = spec.get("containers") or []
    for index, container in enumerate((*containers, *(spec.get("initContainers") or ()))):
        if index == 0 and containers:
            kept_resources = container.get("resources") or {}
            resources = {side: kept_resources.get(side) for side in ("limits", "requests")}
            require(resources == VM, f"the first container has {resources}")
        else:
            require(not _has_amounts(container), f"container {index} has resources left")

    old_annotations, new_annotations = _annotations(before), _annotations(after)
    require(old_annotations.items() <= new_annotations.items(), "an annotation was changed")
    added = new_annotations.keys() - old_annotations.keys()
    require(added <= set(SIZES), f"annotations {added} were added")
    require(not (added and old_annotations.get(MACHINE_TYPE)), f"{added} in addition to a machine type")
    require(
        all(new_annotations[key].isdecimal() and new_annotations[key][0] != "0" for key in added),
        f"sizes {new_annotations}",
    )
    require(_without_managed_fields(before) == _without_managed_fields(after), "other fields were changed")

    review["request"]["object"] = after
    second_answer = _answer(json.dumps(review).encode())
    require(
        second_answer.event["outcome"] == "unchanged",
        f"a second invocation: {second_answer.status} {second_answer.event}",
    )


def _creates_peer_pod(request: dict) -> bool:
    kind, pod = request.get("kind", {"kind": "Pod"}), request.get("object")
    spec = (pod or {}).get("spec")
    return (
        request.get("operation") == "CREATE"
        and (kind.get("group", ""), kind.get("kind", "")) == ("", "Pod")
        and (spec or {}).get("runtimeClassName") == TARGET
    )


def _wrong_amounts(spec: dict) -> Iterator[str]:
    for owner in (spec, *(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        for side in ("requests", "limits"):
            amounts = (owner.get("resources") or {}).get(side) or {}
            for resource in ("cpu", "memory", "nvidia.com/gpu"):
                text = str(amounts.get(resource, "0"))
                if len(text) > MAX_AMOUNT or not _AMOUNT.fullmatch(text):
                    yield f"{side} of {text!r} {resource}"


def _has_amounts(owner: dict) -> bool:
    resources = owner.get("resources") or {}
    return bool(resources.get("limits") or resources.get("requests"))


def _annotations(pod: dict) -> dict[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _without_managed_fields(pod: dict) -> dict:
    """The pod without the fields that the webhook may change. Empty and absent fields are equal."""
    spec = {**pod["spec"]}
    spec.pop("resources", None)
    for side in ("containers", "initContainers"):
        spec[side] = [
            container | {"resources": {"claims": (container.get("resources") or {}).get("claims")}}
            for container in spec.get(side) or ()
        ]
    annotations = {key: text for key, text in _annotations(pod).items() if key not in SIZES}
    metadata = (pod.get("metadata") or {}) | {"annotations": annotations}
    return pod | {"metadata": metadata, "spec": spec}


def _parse(body: bytes) -> Any:
    """Parse JSON with another parser, and strictly: UTF-8, and only numbers of RFC 8259.

    Numbers stay strings, so that they lose no digits and do not become infinite.
    """
    return json.loads(body.decode(), parse_int=str, parse_float=str, parse_constant=_reject_constant)


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def _higher_recursion_limit() -> Iterator[None]:
    """The checks run deeper in the stack than the webhook, and must parse what it could parse."""
    default_limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * default_limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(default_limit)
