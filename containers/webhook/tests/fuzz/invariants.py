"""What holds for the answer to any bytes whatever."""

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
VM = {"limits": {VM_RESOURCE: "1"}, "requests": {VM_RESOURCE: "1"}}

# No sentence that a person is to read is longer, whatever it quotes.
LONGEST_MESSAGE = 2000

# How many digits Python reads, and more than any amount needs.
LONGEST_AMOUNT = 4300

# A quantity that is not negative, by the grammar of Kubernetes' documentation.
_AMOUNT = re.compile(
    r"(\+?([0-9]+\.?[0-9]*|\.[0-9]+)|-(0+\.?0*|\.0+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?",
    re.ASCII,
)


class BrokenPromiseError(AssertionError):
    """The message says which; the review that broke it is the caller's to tell."""


def check(body: bytes) -> str:
    """Hold the webhook to its promises for one request body; returns the answer's outcome.

    Raises BrokenPromiseError.
    """
    reply = _ask(body)
    with _room_for_deep_json():
        if reply.status == 400:
            _check_refusal(body, reply)
        elif reply.status == 200:
            _check_review(body, reply)
        else:
            raise BrokenPromiseError(f"the status is {reply.status}")
    return reply.event["outcome"]


def promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenPromiseError(otherwise)


def _ask(body: bytes) -> Answer:
    try:
        reply = answer(body, POLICY)
        # As the server logs it.
        logged = msgspec.json.encode(reply.event)
    except Exception as error:
        raise BrokenPromiseError(f"it raised {error!r}") from error
    promise(len(logged) < 2 * LONGEST_MESSAGE + len(body), "the log line is longer than the review")
    return reply


def _check_refusal(body: bytes, reply: Answer) -> None:
    text = reply.body.decode()
    promise(text.startswith("The ") and text.endswith("."), f"no sentence: {text[:200]!r}")
    promise(text.isprintable(), f"a message that cannot be printed: {text[:200]!r}")
    promise(len(text) <= LONGEST_MESSAGE, f"a message of {len(text)} characters")
    promise(reply.event == {"outcome": "malformed", "message": text}, f"logged: {reply.event}")
    if SECRET in text:
        # A mutation of bytes may have put it where a kind is expected.
        with contextlib.suppress(ValueError):
            review = _parse(body)
            promise(SECRET not in f"{review.get('kind')}{review.get('apiVersion')}", "")
        raise BrokenPromiseError(f"a message with a value of the environment: {text[:200]!r}")


def _check_review(body: bytes, reply: Answer) -> None:
    try:
        review = _parse(body)
    except ValueError as error:
        raise BrokenPromiseError(f"status 200 for what is no JSON: {error}") from error
    got = json.loads(reply.body)
    request, response = review["request"], got["response"]
    promise(got.keys() == {"apiVersion", "kind", "response"}, f"the answer has {list(got)}")
    promise(got["kind"] == "AdmissionReview", f"the answer is a {got['kind']}")
    promise(got["apiVersion"] == review["apiVersion"], "the answer has another apiVersion")
    promise(response["uid"] == request["uid"], "the answer has another uid")
    pod = request.get("object")
    if not _creates_peer_pod(request):
        unchanged = {"uid": request["uid"], "allowed": True}
        promise(response == unchanged, f"not a new peer pod, and yet {response}")
        promise(reply.event["outcome"] == "unchanged", f"logged: {reply.event}")
    elif wrong := list(_wrong_amounts(pod["spec"])):
        promise(response["allowed"] is False, f"a peer pod with {wrong[0]} was let in")
        message = response["status"]["message"]
        promise(message.startswith("The pod cannot become a peer pod: "), message[:200])
        promise(len(message) <= LONGEST_MESSAGE, f"a message of {len(message)} characters")
        promise(reply.event["outcome"] == "rejected", f"logged: {reply.event}")
    else:
        promise(response["allowed"] is True, f"rejected: {response.get('status')}")
        _check_peer_pod(body, review, response, reply)


def _check_peer_pod(body: bytes, review: dict, response: dict, reply: Answer) -> None:
    """The patch makes a peer pod, changes nothing else, and has nothing left to do afterwards."""
    keys = {"uid", "allowed"} | ({"patchType", "patch"} if "patch" in response else set())
    promise(response.keys() == keys, f"the response has {list(response)}")
    promise(response.get("patchType", "JSONPatch") == "JSONPatch", "no JSONPatch")
    patch = base64.b64decode(response.get("patch", "W10="), validate=True).decode()
    outcome = "mutated" if "patch" in response else "unchanged"
    promise(reply.event["outcome"] == outcome, f"logged: {reply.event}")
    before, after = review["request"]["object"], _parse(body)["request"]["object"]
    try:
        after = jsonpatch.apply_patch(after, patch, in_place=True)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise BrokenPromiseError(f"{patch} does not apply: {error}") from error

    spec = after["spec"]
    promise(not _has_amounts(spec), "spec.resources is still there")
    containers = spec.get("containers") or []
    for index, container in enumerate((*containers, *(spec.get("initContainers") or ()))):
        if index == 0 and containers:
            left = container.get("resources") or {}
            resources = {side: left.get(side) for side in ("limits", "requests")}
            promise(resources == VM, f"the first container has {resources}")
        else:
            promise(not _has_amounts(container), f"container {index} has resources left")

    had, has = _annotations(before), _annotations(after)
    promise(had.items() <= has.items(), "an annotation was changed")
    added = has.keys() - had.keys()
    promise(added <= set(SIZES), f"annotations {added} were added")
    promise(not (added and had.get(MACHINE_TYPE)), f"{added} beside a machine type")
    promise(all(has[key].isdecimal() and has[key][0] != "0" for key in added), f"sizes {has}")
    promise(_rest(before) == _rest(after), "something else was changed")

    review["request"]["object"] = after
    again = _ask(json.dumps(review).encode())
    promise(again.event["outcome"] == "unchanged", f"a second invocation: {again.status} {again.event}")


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
                if len(text) > LONGEST_AMOUNT or not _AMOUNT.fullmatch(text):
                    yield f"{side} of {text!r} {resource}"


def _has_amounts(owner: dict) -> bool:
    resources = owner.get("resources") or {}
    return bool(resources.get("limits") or resources.get("requests"))


def _annotations(pod: dict) -> dict[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _rest(pod: dict) -> dict:
    """The pod without all that the webhook may write; what is empty is as what is absent."""
    spec = {**pod["spec"]}
    spec.pop("resources", None)
    for side in ("containers", "initContainers"):
        spec[side] = [
            container | {"resources": {"claims": (container.get("resources") or {}).get("claims")}}
            for container in spec.get(side) or ()
        ]
    theirs = {key: text for key, text in _annotations(pod).items() if key not in SIZES}
    metadata = (pod.get("metadata") or {}) | {"annotations": theirs}
    return pod | {"metadata": metadata, "spec": spec}


def _parse(body: bytes) -> Any:
    """JSON by another parser, and by the letter: UTF-8, and no number but those of RFC 8259.

    Numbers stay text: none loses a digit, none becomes infinite.
    """
    return json.loads(body.decode(), parse_int=str, parse_float=str, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def _room_for_deep_json() -> Iterator[None]:
    """What the webhook could read, the checks can, though they stand deeper in the stack."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * usual)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)
