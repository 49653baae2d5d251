# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the bytes of an AdmissionReview to the bytes of its response, without I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from .mutate import InvalidPodError, Policy, mutate
from .pod import Pod
from .quantity import printable

API_VERSIONS = frozenset({"admission.k8s.io/v1", "admission.k8s.io/v1beta1"})


class GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    kind: str = ""


POD = GroupVersionKind(kind="Pod")


class Request(msgspec.Struct, frozen=True):
    """AdmissionRequest; `object` is absent if the operation is DELETE."""

    uid: str
    dryRun: bool | None = None  # noqa: N815
    kind: GroupVersionKind = POD
    name: str | None = None
    namespace: str | None = None
    object: Pod | None = None
    operation: str = ""


class AdmissionReview(msgspec.Struct, frozen=True):
    apiVersion: str = ""  # noqa: N815
    kind: str = ""
    request: Request | None = None


class Status(msgspec.Struct, frozen=True):
    """Why the API server is to reject the pod."""

    message: str
    status: str = "Failure"
    reason: str = "BadRequest"
    code: int = 400


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """AdmissionResponse. The encoder writes `patch` as base64, which is how the API defines it."""

    uid: str
    allowed: bool
    status: Status | None = None
    patchType: str | None = None  # noqa: N815
    patch: bytes | None = None


class Reply(msgspec.Struct, frozen=True):
    """AdmissionReview with a response."""

    apiVersion: str  # noqa: N815
    response: Response
    kind: str = "AdmissionReview"


class Answer(NamedTuple):
    """The HTTP response to a review, and the event for the log.

    `body` is an AdmissionReview if `status` is 200, else a sentence in plain text.
    `event["outcome"]` is mutated, unchanged, rejected or malformed.
    """

    status: int
    body: bytes
    event: dict[str, Any]


_decoder = msgspec.json.Decoder(AdmissionReview)
_encode = msgspec.json.Encoder().encode


def answer(body: bytes, policy: Policy) -> Answer:
    """Review one AdmissionReview. Never raises, whatever the bytes are."""
    try:
        # The decoder does not validate the encoding of strings that it skips.
        body.decode()
        review = _decoder.decode(body)
    except msgspec.ValidationError as error:
        return _malformed(f"The request body is not an AdmissionReview of a pod: {error}.")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(f"The request body is not JSON: {error}.")
    if review.kind != "AdmissionReview" or review.apiVersion not in API_VERSIONS:
        return _malformed(
            f"The request body has kind {printable(review.kind)} and apiVersion {printable(review.apiVersion)}; "
            f"expected AdmissionReview and {' or '.join(sorted(API_VERSIONS))}."
        )
    request = review.request
    if request is None:
        return _malformed("The AdmissionReview has no request.")

    event = _event(request)
    try:
        patch = mutate(request.object, policy) if request.object and _creates_pod(request) else b""
    except InvalidPodError as error:
        event |= {"outcome": "rejected", "message": str(error)}
        response = Response(request.uid, False, Status(f"The pod cannot become a peer pod: {error}"))
    else:
        event["outcome"] = "mutated" if patch else "unchanged"
        response = Response(request.uid, True, None, *(("JSONPatch", patch) if patch else ()))
    return Answer(200, _encode(Reply(review.apiVersion, response)), event)


def _creates_pod(request: Request) -> bool:
    """A pod can only become a peer pod when it is created.

    Later the API server rejects changes of resources, except through the `resize` subresource,
    which changes the resources of a running container. A patch could only make such an update
    fail. A subresource that is created (Binding, Eviction) is not a pod.
    """
    return request.operation == "CREATE" and request.kind == POD


def _event(request: Request) -> dict[str, Any]:
    """The pod of the review. A pod has no uid before it is created: this is the uid of the review."""
    metadata = request.object and request.object.metadata
    event: dict[str, Any] = {"uid": request.uid, "namespace": request.namespace}
    if name := request.name or (metadata and metadata.name):
        event["name"] = name
    elif metadata and metadata.generateName:
        event["generateName"] = metadata.generateName
    if request.dryRun:
        event["dryRun"] = True
    return event


def _malformed(message: str) -> Answer:
    return Answer(400, message.encode(), {"outcome": "malformed", "message": message})
