# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The five requests that the agent makes: list, watch, get, patch, create.

Who we are to the API server (a kubeconfig or the pod's service account, and TLS) lightkube tells.
What we ask is plain paths, and of what comes back only the fields that a msgspec.Struct names are
ever made into objects. aiohttp asks, since it takes an eighth of the time that lightkube's own
HTTP client does for a patch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError
from yarl import URL

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

_METHODS = {"list": "GET", "get": "GET", "watch": "GET", "patch": "PATCH", "create": "POST"}

# What the CRD at hand does not know is left out without a word. Written out, since to put it together takes a
# tenth of the time of a patch.
_WRITING = f"?fieldManager={FIELD_MANAGER}&fieldValidation=Ignore"


class Metadata(msgspec.Struct, rename="camel"):
    """A bookmark has the resourceVersion alone."""

    resource_version: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
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
    """The API server no longer has our resourceVersion: the collection must be listed again."""


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
            user = config.user or User()
            self._token_file = user.token_file and config.abs_file(user.token_file)
            self._headers = {"User-Agent": FIELD_MANAGER, **self._login(user.token)}
            if not ("Authorization" in self._headers or user.client_cert or user.client_cert_data):
                raise ConfigError(f"user {config.context.user} has neither a token nor a client certificate")
            tls = verify_cluster(config.cluster, user, config.abs_file)
        except Exception as error:  # lightkube's, PyYAML's, msgspec's, ssl's: a bad file has many
            # Not the words of a parser, which may quote a line with a secret.
            spoken = isinstance(error, (ConfigError, OSError))
            raise ConfigError(
                f"No cluster to talk to: {error if spoken else repr(error)}. Run in a pod with a "
                "service account, or set KUBECONFIG to a kubeconfig file with a current context."
            ) from error
        self.server = config.cluster.server
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            # An API server sets no cookies, and to look for them takes time.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
        )
        self._not_before = 0.0

    async def close(self) -> None:
        await self._http.close()

    async def list(self, path: str, kind: type[Kind], selectors: Mapping[str, str]) -> tuple[list[Kind], str]:
        """All objects of the collection at `path` that match `selectors` (fieldSelector,
        labelSelector), and the resourceVersion to watch it from."""
        items: list[Kind] = []
        query: dict[str, Any] = {"limit": PAGE_SIZE, **selectors}
        while True:
            response = await self._send("list", path, params=query)
            page = _decode(await _body(response), _Page[kind], response)  # type: ignore[valid-type]
            items += page.items
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    async def watch(
        self, path: str, kind: type[Kind], selectors: Mapping[str, str], version: str
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
                    **selectors,
                },
                timeout=aiohttp.ClientTimeout(sock_connect=REQUEST_TIMEOUT, sock_read=WATCH_SILENCE),
            )
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                raise WatchLostError(str(error), error.status) from error
            raise
        try:
            async for line in _lines(response):
                event = _decode(line, _Event, response)
                if event.type == "ERROR":
                    status = _decode(event.object, _Status, response)
                    raise WatchLostError(
                        f"The watch of {path} from resourceVersion {version} ended with {status.code} {status.message}",
                        status.code,
                    )
                # Of a bookmark nothing else is as the API says: a Pod's has no list of containers.
                whole = OnlyMetadata if event.type == "BOOKMARK" else kind
                yield event.type, _decode(event.object, whole, response)
        finally:
            response.close()

    async def get(self, path: str, kind: type[Kind]) -> Kind:
        """The object at `path`."""
        response = await self._send("get", path)
        return _decode(await _body(response), kind, response)

    async def patch(self, path: str, body: dict, kind: type[Kind] = OnlyMetadata) -> Kind:
        """Apply the JSON merge patch `body` to the object at `path`; returns it as it is then.

        With a metadata.resourceVersion in `body`, 409 where the object is another by now.
        """
        return await self._write("patch", path, body, "application/merge-patch+json", kind)

    async def create(self, path: str, body: dict, kind: type[Kind] = OnlyMetadata) -> Kind:
        """Create the object `body` in the collection at `path`; returns it as it is then."""
        return await self._write("create", path, body, "application/json", kind)

    async def _write(self, verb: str, path: str, body: dict, content_type: str, kind: type[Kind]) -> Kind:
        response = await self._send(
            verb,
            path,
            query=_WRITING,
            data=msgspec.json.encode(body),
            headers={
                "Content-Type": content_type,
                # The object comes back with every answer; mostly, its metadata will do.
                "Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
                if kind is OnlyMetadata
                else "application/json",
            },
        )
        return _decode(await _body(response), kind, response)

    async def _send(
        self,
        verb: str,
        path: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> aiohttp.ClientResponse:
        """The answer, from its headers on, to a request that succeeded."""
        # A Retry-After is meant for all our requests, not for the one that happened to get it.
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        method, url = _METHODS[verb], URL(self.server + path + query, encoded=True)

        async def answer() -> aiohttp.ClientResponse:
            code = "none"
            try:
                response = await self._http.request(
                    method, url, headers={**self._headers, **(headers or {})}, **options
                )
                code = str(response.status)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _unanswered(method, path, error) from error
            finally:
                REQUESTS.labels(verb, code).inc()
            return response

        response = await answer()
        if response.status == HTTPStatus.UNAUTHORIZED and self._token_file:
            # It may have been rotated; where it cannot be read, the old one has to do.
            with contextlib.suppress(OSError):
                self._headers.update(self._login(None))
            response.release()
            response = await answer()
        if response.ok:
            return response
        retry_after = response.headers.get("Retry-After", "")
        if retry_after.isdecimal():
            self._not_before = time.monotonic() + int(retry_after)
        raise ApiError(
            f"{method} {path} was refused by the API server with "
            f"{response.status} {response.reason}: {_message(await _body(response))}",
            response.status,
        )

    def _login(self, token: str | None) -> dict[str, str]:
        """The header that logs us in, with what is in the token file now where there is one."""
        if self._token_file:
            token = Path(self._token_file).read_text().strip()
        return {"Authorization": f"Bearer {token}"} if token else {}


def segment(name: str) -> str:
    """`name` as a part of a path between two slashes."""
    return quote(name, safe="")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _unanswered(response.method, response.url.path, error) from error


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # Not aiohttp's own lines: they may be no longer than a buffer of its.
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _unanswered(response.method, response.url.path, error) from error


def _decode(data: bytes | msgspec.Raw, kind: type[Kind], response: aiohttp.ClientResponse) -> Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ApiError(
            f"{response.method} {response.url.path} was answered with something else than "
            f"what it should return: {error}"
        ) from error


def _message(body: bytes) -> str:
    """The `message` of the Status object in an error's body, or the body itself."""
    try:
        return msgspec.json.decode(body, type=_Status).message
    except msgspec.MsgspecError:
        return body.decode(errors="replace")[:500] or "no body"


def _unanswered(method: str, path: str, error: Exception) -> ApiError:
    # Timeouts come without words of their own.
    return ApiError(f"{method} {path} got no answer from the API server: {str(error) or type(error).__name__}")
