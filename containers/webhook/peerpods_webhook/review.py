# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the bytes of an AdmissionReview's request to those of its response, without I/O."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec

from .mutate import InvalidPodError, Pod, Policy, mutate
from .quantity import quoted

API_VERSIONS = frozenset({"admission.k8s.io/v1", "admission.k8s.io/v1beta1"})


class GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    kind: str = ""


class Request(msgspec.Struct, frozen=True):
    """AdmissionRequest; `object` is absent where the operation is DELETE."""

    uid: str
    dryRun: bool | None = None  # noqa: N815
    kind: GroupVersionKind = GroupVersionKind(kind="Pod")
    name: str | None = None
    namespace: str | None = None
    object: Pod | None = None
    operation: str = ""


class AdmissionReview(msgspec.Struct, frozen=True):
    apiVersion: str = ""  # noqa: N815
    kind: str = ""
    request: Request | None = None


class Answer(NamedTuple):
    """What goes back over HTTP, and what there is to say about it in the log.

    `body` is an AdmissionReview where `status` is 200, else a sentence in plain text.
    `event["outcome"]` is one of mutated, refused, unchanged and malformed.
    """

    status: int
    body: bytes
    event: dict[str, Any]


_decoder = msgspec.json.Decoder(AdmissionReview)
_encode = msgspec.json.Encoder().encode


def answer(body: bytes, policy: Policy) -> Answer:
    """Decide about one AdmissionReview. Never raises, whatever the bytes are."""
    try:
        # The decoder looks at no more bytes of the strings that it skips than it must.
        body.decode()
        review = _decoder.decode(body)
    except msgspec.ValidationError as error:
        return _malformed(f"The request body is not an AdmissionReview of a pod: {error}.")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(f"The request body is not JSON: {error}.")
    if review.kind != "AdmissionReview" or review.apiVersion not in API_VERSIONS:
        return _malformed(
            f"The request body is {_shown(review.kind) or 'no kind'}"
            f" of {_shown(review.apiVersion) or 'no version'}"
            f", not AdmissionReview of {' or '.join(sorted(API_VERSIONS))}."
        )
    request = review.request
    if request is None:
        return _malformed("The AdmissionReview has no request.")

    response: dict[str, Any] = {"uid": request.uid, "allowed": True}
    event = _event(request)
    try:
        patch = mutate(request.object, policy) if _creates_pod(request) else []
    except InvalidPodError as error:
        response["allowed"] = False
        response["status"] = {
            "status": "Failure",
            "reason": "BadRequest",
            "code": 400,
            "message": f"The pod cannot become a peer pod: {error}",
        }
        event |= {"outcome": "refused", "message": str(error)}
    else:
        event["outcome"] = "mutated" if patch else "unchanged"
        if patch:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(_encode(patch)).decode()
    reply = {"apiVersion": review.apiVersion, "kind": "AdmissionReview", "response": response}
    return Answer(200, _encode(reply), event)


def _creates_pod(request: Request) -> bool:
    """Only at its creation can a pod be made a peer pod.

    Later the API server refuses changes of resources except through the `resize` subresource,
    which adjusts what the pod asks for in place: a patch could only make an update fail that the
    user is entitled to. What is created at a subresource (Binding, Eviction) is no pod.
    """
    return request.operation == "CREATE" and request.kind == GroupVersionKind(kind="Pod") and request.object is not None


def _event(request: Request) -> dict[str, Any]:
    """Who the review is about. A pod has no uid before it is created: the uid is the review's."""
    metadata = request.object and request.object.metadata
    event: dict[str, Any] = {"uid": request.uid, "namespace": request.namespace}
    if name := request.name or (metadata and metadata.name):
        event["name"] = name
    elif metadata and metadata.generateName:
        event["generateName"] = metadata.generateName
    if request.dryRun:
        event["dryRun"] = True
    return event


def _shown(text: str) -> str:
    return text if text.isprintable() and len(text) < 100 else quoted(text)


def _malformed(message: str) -> Answer:
    return Answer(400, message.encode(), {"outcome": "malformed", "message": message})
