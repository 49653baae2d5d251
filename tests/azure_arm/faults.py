"""Faults between a client and ARM, for tests.

A fault in `AzureArm.faults` applies to the first request that it matches, and determines the response: `AzureArm.faults
+= [Fault("PUT", "rules/", throttled(2))]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Protocol

from .errors import ArmError
from .errors import authorization_failed as _authorization_failed
from .errors import superseded as _superseded
from .state import precondition_failed as _precondition_failed
from .state import scope_locked as _scope_locked
from .wire import Answer, Request, retry_after


class PassOn(Protocol):
    def __call__(self, operation_error: ArmError | None = None) -> Answer:
        """Pass the request on to ARM; the operation that it starts fails with `operation_error`."""


Act = Callable[[Request, PassOn], Answer | None]


@dataclass(frozen=True)
class Fault:
    """Applies to one request with the method `method` ("*": any) and a path that matches `path`.

    `path` is a regular expression; case is ignored. None as a response closes the connection.
    """

    method: str
    path: str
    act: Act

    def matches(self, request: Request) -> bool:
        return self.method in ("*", request.method) and bool(re.search(self.path, request.path, re.IGNORECASE))


def work(request: Request, pass_on: PassOn) -> Answer:
    """Pass the request on, so that a later request fails."""
    return pass_on()


def first(act_between: Callable[[], object]) -> Act:
    """Another client acts between two requests of a client."""

    def act(request: Request, pass_on: PassOn) -> Answer:
        act_between()
        return pass_on()

    return act


def hang_up(request: Request, pass_on: PassOn) -> None:
    return None


def lose_the_answer(request: Request, pass_on: PassOn) -> None:
    pass_on()


def cut_the_answer(request: Request, pass_on: PassOn) -> Answer:
    answer = pass_on()
    return replace(answer, content=answer.content[: len(answer.content) // 2], length=len(answer.content))


def refuse(
    status: int,
    code: str,
    message: str = "rejected by the test",
    after: float | None = None,
    details: list[dict] | None = None,
) -> Act:
    """Any response, with a Retry-After of `after` seconds if it is given."""
    headers = {} if after is None else retry_after(after)
    return lambda request, pass_on: _error(ArmError(status, code, message, details or [], headers))


def throttled(after: float) -> Act:
    """The 429 of ARM."""
    return refuse(
        429,
        "TooManyRequests",
        "The request is being throttled as the limit has been reached for operation type.",
        after,
    )


def retryable_error(after: float | None = None) -> Act:
    """The error of Microsoft.Network after an internal conflict."""
    return refuse(429, "RetryableError", "A retryable error occurred.", after)


def another_operation_in_progress(after: float | None = None) -> Act:
    """The error of Microsoft.Network while another write to the resource is in progress."""
    return refuse(
        429,
        "AnotherOperationInProgress",
        "Another operation on this or dependent resource is in progress. To retrieve status of "
        "the operation use uri: https://management.azure.com/subscriptions/0/providers/"
        "Microsoft.Network/locations/westeurope/operations/0?api-version=2024-05-01.",
        after,
    )


def authorization_failed(request: Request, pass_on: PassOn) -> Answer:
    verb = {"GET": "read", "DELETE": "delete"}.get(request.method, "write")
    provider = request.path.partition("/providers/")[2].split("/")
    action = "/".join([provider[0], *provider[1::2], verb])
    return _error(_authorization_failed(action, request.path))


def scope_locked(request: Request, pass_on: PassOn) -> Answer:
    """The error of a lock on the resource group. Tests can also PUT a real lock."""
    action = "delete" if request.method == "DELETE" else "write"
    group = "/".join(request.path.split("/")[:5])
    return _error(_scope_locked(request.path, action, [group]))


def precondition_failed(request: Request, pass_on: PassOn) -> Answer:
    if_match = request.headers.get("If-Match", "")
    return _error(_precondition_failed(if_match, 'W/"another"', request.path))


def operation_fails(code: str, message: str = "rejected by the test") -> Act:
    """ARM accepts the request, and the operation that it starts ends with Failed."""
    return lambda request, pass_on: pass_on(ArmError(200, code, message))


def superseded(act_meanwhile: Callable[[], object]) -> Act:
    """ARM accepts the request, but the write of another client replaces the operation, which ends with Canceled."""

    def act(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on(_superseded())
        act_meanwhile()
        return answer

    return act


def every_third(faults: list[Fault], *acts: Act) -> None:
    """Apply one of `acts`, in turn, to every third request, also to those that repeat another."""
    turns, count = cycle(acts), 0

    def act_sometimes(request: Request, pass_on: PassOn) -> Answer | None:
        nonlocal count
        count += 1
        faults.append(fault)
        return pass_on() if count % 3 else next(turns)(request, pass_on)

    fault = Fault("*", "", act_sometimes)
    faults.append(fault)


def _error(error: ArmError) -> Answer:
    return Answer(error.status, error.content, error.headers)
