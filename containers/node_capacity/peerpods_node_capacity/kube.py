# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The four requests the agent makes: list, watch, patch, create.

Who we are to the API server (kubeconfig or service account, TLS, a token that
rotates) is lightkube's business. What we ask is plain paths, and of what comes
back only the fields that a msgspec.Struct names are ever made into objects.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

import httpx2
import msgspec
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ConfigError

from .metrics import REQUESTS

FIELD_MANAGER = "peerpods-node-capacity"

# Objects per page of a list: a page of full Nodes is a few MB.
PAGE_SIZE = 500

# Seconds without an answer after which a request is given up.
REQUEST_TIMEOUT = 30.0

# Seconds that a watch stands, at least; the API server ends it after up to twice as long.
WATCH_DURATION = 240

# Seconds of silence on a watch after which its connection counts as dead: a living API
# server sends a bookmark a minute.
WATCH_SILENCE = 90.0

Kind = TypeVar("Kind")

_METHODS = {"list": "GET", "watch": "GET", "patch": "PATCH", "create": "POST"}


class Metadata(msgspec.Struct, rename="camel"):
    """A bookmark has the resourceVersion alone."""

    resource_version: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = {}


class OnlyMetadata(msgspec.Struct):
    metadata: Metadata


class ApiError(Exception):
    """A request that failed, as a sentence: what was tried and what came back.

    `status` is the HTTP status, or None where no answer came.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class WatchLostError(ApiError):
    """The API server cannot go on from our resourceVersion: the collection has to be listed again."""


class _ListMetadata(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, Generic[Kind]):
    metadata: _ListMetadata
    items: list[Kind]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    message: str = ""
    code: int | None = None


class Kube:
    """A connection to one API server.

    Created from the file that KUBECONFIG names, else from the pod's service account;
    where neither will do, raises ConfigError with a sentence that says so.
    """

    def __init__(self) -> None:
        try:
            if path := os.environ.get("KUBECONFIG"):
                config = KubeConfig.from_file(path).get()
            else:
                config = KubeConfig.from_service_account().get()
            self._http = AsyncClient(config, ConnectionParams(httpx2.Timeout(REQUEST_TIMEOUT)))
        except Exception as error:  # lightkube's, PyYAML's, msgspec's, ssl's: a bad file has many
            # Not the words of a parser, which may quote a line with a secret.
            spoken = isinstance(error, (ConfigError, OSError))
            raise ConfigError(
                f"No cluster to talk to: {error if spoken else repr(error)}. Run in a pod with a "
                "service account, or set KUBECONFIG to a kubeconfig file with a current context."
            ) from error
        self._http.headers["User-Agent"] = FIELD_MANAGER
        self._not_before = 0.0

    @property
    def server(self) -> str:
        return str(self._http.base_url)

    async def close(self) -> None:
        await self._http.aclose()

    async def list(
        self, path: str, kind: type[Kind], field_selector: str | None
    ) -> tuple[list[Kind], str]:
        """All objects of the collection at `path` that `field_selector` lets through, and the
        resourceVersion to watch it from."""
        items: list[Kind] = []
        query: dict[str, Any] = {"limit": PAGE_SIZE, **_selecting(field_selector)}
        while True:
            response = await self._send("list", path, params=query)
            page = _decode(response.content, _Page[kind], response.request)  # type: ignore[valid-type]
            items += page.items
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    async def watch(
        self, path: str, kind: type[Kind], field_selector: str | None, version: str
    ) -> AsyncIterator[tuple[str, Kind]]:
        """The changes after `version` as (ADDED|MODIFIED|DELETED|BOOKMARK, object), until the API
        server ends the watch; raises WatchLostError where it no longer knows `version`."""
        try:
            response = await self._send(
                "watch",
                path,
                params={
                    "watch": "true",
                    "allowWatchBookmarks": "true",
                    "resourceVersion": version,
                    # Spread, so that watches that began together do not end together for ever.
                    "timeoutSeconds": round(WATCH_DURATION * random.uniform(1, 2)),
                    **_selecting(field_selector),
                },
                timeout=httpx2.Timeout(REQUEST_TIMEOUT, read=WATCH_SILENCE),
            )
        except ApiError as error:
            if error.status == httpx2.codes.GONE:
                raise WatchLostError(str(error), error.status) from error
            raise
        try:
            async for line in _lines(response):
                event = _decode(line, _Event, response.request)
                if event.type == "ERROR":
                    status = _decode(event.object, _Status, response.request)
                    raise WatchLostError(
                        f"The watch of {path} from resourceVersion {version} ended with "
                        f"{status.code} {status.message}",
                        status.code,
                    )
                # Of a bookmark nothing else is as the API says: a Pod's has no list of containers.
                whole = OnlyMetadata if event.type == "BOOKMARK" else kind
                yield event.type, _decode(event.object, whole, response.request)
        except httpx2.HTTPError as error:
            raise _unanswered(response.request, error) from error
        finally:
            await response.aclose()

    async def patch(self, path: str, body: dict, kind: type[Kind] = OnlyMetadata) -> Kind:
        """Apply the JSON merge patch `body` to the object at `path`; returns it as it is then.

        With a metadata.resourceVersion in `body`, 409 where the object is another by now.
        """
        return await self._write("patch", path, body, "application/merge-patch+json", kind)

    async def create(self, path: str, body: dict, kind: type[Kind] = OnlyMetadata) -> Kind:
        """Create the object `body` in the collection at `path`; returns it as it is then."""
        return await self._write("create", path, body, "application/json", kind)

    async def _write(
        self, verb: str, path: str, body: dict, content_type: str, kind: type[Kind]
    ) -> Kind:
        response = await self._send(
            verb,
            path,
            # What the CRD at hand does not know is left out without a word.
            params={"fieldManager": FIELD_MANAGER, "fieldValidation": "Ignore"},
            content=msgspec.json.encode(body),
            headers={
                "Content-Type": content_type,
                # The object comes back with every answer; mostly, its metadata will do.
                "Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
                if kind is OnlyMetadata
                else "application/json",
            },
        )
        return _decode(response.content, kind, response.request)

    async def _send(self, verb: str, path: str, **options: Any) -> httpx2.Response:
        # A Retry-After is meant for all our requests, not for the one that happened to get it.
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        request = self._http.build_request(_METHODS[verb], path, **options)
        code = "none"
        try:
            response = await self._http.send(request, stream=verb == "watch")
            code = str(response.status_code)
            if response.is_success:
                return response
            await response.aread()
            await response.aclose()
        except (httpx2.HTTPError, ConfigError) as error:
            raise _unanswered(request, error) from error
        finally:
            REQUESTS.labels(verb, code).inc()
        retry_after = response.headers.get("Retry-After", "")
        if retry_after.isdecimal():
            self._not_before = time.monotonic() + int(retry_after)
        raise ApiError(
            f"{request.method} {request.url.path} was refused by the API server with "
            f"{response.status_code} {response.reason_phrase}: {_message(response.content)}",
            response.status_code,
        )


def _selecting(field_selector: str | None) -> dict[str, str]:
    return {} if field_selector is None else {"fieldSelector": field_selector}


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    # Not httpx2's aiter_lines: that also splits at characters such as U+0085, which JSON
    # strings (say, an annotation) may hold as they are.
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _decode(data: bytes | msgspec.Raw, kind: type[Kind], request: httpx2.Request) -> Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ApiError(
            f"{request.method} {request.url.path} was answered with something else than "
            f"what it should return: {error}"
        ) from error


def _message(body: bytes) -> str:
    """The `message` of the Status object in an error's body, or the body itself."""
    try:
        return msgspec.json.decode(body, type=_Status).message
    except msgspec.MsgspecError:
        return body.decode(errors="replace")[:500] or "no body"


def _unanswered(request: httpx2.Request, error: Exception) -> ApiError:
    # Timeouts come without words of their own.
    return ApiError(
        f"{request.method} {request.url.path} got no answer from the API server: "
        f"{str(error) or type(error).__name__}"
    )
