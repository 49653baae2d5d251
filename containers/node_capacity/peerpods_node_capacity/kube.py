# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The five requests that the agent makes: list, watch, get, patch, create.

lightkube reads the login (a kubeconfig or the pod's service account) and sets up TLS. aiohttp sends the
requests: a patch takes an eighth of the time that it takes with lightkube's own HTTP client. Of a response,
msgspec decodes only the fields that a Struct names.
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

# Seconds without a response after which a request fails.
REQUEST_TIMEOUT = 30.0

# The shortest duration of a watch, in seconds; the API server ends it after this to twice as long.
WATCH_DURATION = 240

# Seconds without data on a watch after which its connection counts as broken: the API server sends a
# bookmark every minute.
WATCH_SILENCE = 90.0

Kind = TypeVar("Kind")

_METHODS = {"list": "GET", "get": "GET", "watch": "GET", "patch": "PATCH", "create": "POST"}

# Fields that the installed CRD does not have are dropped without a warning. A constant, because building the
# query for each request takes a tenth of the time of a patch.
_WRITE_QUERY = f"?fieldManager={FIELD_MANAGER}&fieldValidation=Ignore"

MERGE_PATCH = "application/merge-patch+json"

# Takes a sixth less of the API server's CPU time for a Node. Custom resources do not support it.
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


class Metadata(msgspec.Struct, rename="camel"):
    """Only the resourceVersion is required: a bookmark has nothing else."""

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
    """A request that failed. The message names the request and the reason.

    `status` is the HTTP status, None without a response.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class WatchLostError(ApiError):
    """The resourceVersion is too old for a watch: the collection must be listed again."""


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

    Logs in with the file that KUBECONFIG names, else with the pod's service account. Raises ConfigError if
    neither is usable.
    """

    def __init__(self) -> None:
        try:
            path = os.environ.get("KUBECONFIG")
            kubeconfig = KubeConfig.from_file(path) if path else KubeConfig.from_service_account()
            config = kubeconfig.get()
            if config is None:
                raise ConfigError("there is no current context")
            user = config.user or User()
            self._token_file = user.token_file and config.abs_file(user.token_file)
            self._headers = {"User-Agent": FIELD_MANAGER, **self._login(user.token)}
            if not ("Authorization" in self._headers or user.client_cert or user.client_cert_data):
                raise ConfigError(f"user {config.context.user} has neither a token nor a client certificate")
            tls = verify_cluster(config.cluster, user, config.abs_file)
        except Exception as error:  # of lightkube, PyYAML, msgspec, ssl and others
            # Not the message of a parser, which may quote a line with a secret.
            reason = error if isinstance(error, (ConfigError, OSError)) else repr(error)
            raise ConfigError(
                f"Loading the Kubernetes login failed: {reason}. Run in a pod with a service account, or set "
                "KUBECONFIG to a kubeconfig file with a current context."
            ) from error
        self.server = config.cluster.server
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            # The API server sets no cookies; looking for them takes time.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
        )
        self._not_before = 0.0

    async def close(self) -> None:
        await self._http.close()

    async def list(self, path: str, kind: type[Kind], selectors: Mapping[str, str]) -> tuple[list[Kind], str]:
        """Return all objects of the collection at `path` that match `selectors` (fieldSelector, labelSelector),
        and the resourceVersion to watch it from."""
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
    ) -> AsyncIterator[tuple[str, Kind | OnlyMetadata]]:
        """Yield the changes after `version` as (ADDED|MODIFIED|DELETED|BOOKMARK, object), a bookmark with its
        metadata only, until the API server ends the watch. Raises WatchLostError if `version` is too old."""
        try:
            response = await self._send(
                "watch",
                path,
                params={
                    "watch": "true",
                    "allowWatchBookmarks": "true",
                    "resourceVersion": version,
                    # Random, so that watches that began together do not end together.
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
                if event.type == "BOOKMARK":
                    # Its other fields need not be valid: a Pod's has no list of containers.
                    yield event.type, _decode(event.object, OnlyMetadata, response)
                else:
                    yield event.type, _decode(event.object, kind, response)
        finally:
            response.close()

    async def get(self, path: str, kind: type[Kind]) -> Kind:
        """Return the object at `path`."""
        response = await self._send("get", path)
        return _decode(await _body(response), kind, response)

    async def patch(
        self, path: str, body: Mapping[str, Any], kind: type[Kind], content_type: str = MERGE_PATCH
    ) -> Kind:
        """Apply the patch `body` to the object at `path` and return the result.

        With a metadata.resourceVersion in `body`, the API server returns 409 if the object has changed.
        """
        return await self._write("patch", path, body, content_type, kind)

    async def create(self, path: str, body: Mapping[str, Any], kind: type[Kind]) -> Kind:
        """Create the object `body` in the collection at `path` and return it."""
        return await self._write("create", path, body, "application/json", kind)

    async def _write(self, verb: str, path: str, body: Mapping[str, Any], content_type: str, kind: type[Kind]) -> Kind:
        response = await self._send(
            verb,
            path,
            query=_WRITE_QUERY,
            data=msgspec.json.encode(body),
            headers={
                "Content-Type": content_type,
                # The API server returns the object with every write; mostly, its metadata is enough.
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
        """Return the response, from its headers on, if the request succeeds."""
        # Retry-After applies to all requests of the agent, not only to the one that received it.
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        method, url = _METHODS[verb], URL(self.server + path + query, encoded=True)

        async def request() -> aiohttp.ClientResponse:
            code = "none"
            try:
                response = await self._http.request(
                    method, url, headers={**self._headers, **(headers or {})}, **options
                )
                code = str(response.status)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _no_response(method, path, error) from error
            finally:
                REQUESTS.labels(verb, code).inc()
            return response

        response = await request()
        if response.status == HTTPStatus.UNAUTHORIZED and self._token_file:
            # The token may have been rotated. If it cannot be read, the old one stays in use.
            with contextlib.suppress(OSError):
                self._headers.update(self._login(None))
            response.release()
            response = await request()
        if response.ok:
            return response
        retry_after = response.headers.get("Retry-After", "")
        if retry_after.isdecimal():
            self._not_before = time.monotonic() + int(retry_after)
        raise ApiError(
            f"{method} {path} failed: the API server returned "
            f"{response.status} {response.reason}: {_message(await _body(response))}",
            response.status,
        )

    def _login(self, token: str | None) -> dict[str, str]:
        """Return the Authorization header, with the current content of the token file if there is one."""
        if self._token_file:
            token = Path(self._token_file).read_text().strip()
        return {"Authorization": f"Bearer {token}"} if token else {}


def segment(name: str) -> str:
    """Return `name` as one segment of a path."""
    return quote(name, safe="")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _no_response(response.method, response.url.path, error) from error


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # aiohttp's own lines are limited to the size of its buffer.
    incomplete = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, incomplete = (incomplete + chunk).split(b"\n")
            for line in lines:
                yield line
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _no_response(response.method, response.url.path, error) from error


def _decode(data: bytes | msgspec.Raw, kind: type[Kind], response: aiohttp.ClientResponse) -> Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ApiError(
            f"{response.method} {response.url.path} failed: the API server returned an invalid body: {error}"
        ) from error


def _message(body: bytes) -> str:
    """Return the `message` of the Status object in an error's body, or the body itself."""
    try:
        return msgspec.json.decode(body, type=_Status).message
    except msgspec.MsgspecError:
        return body.decode(errors="replace")[:500] or "no body"


def _no_response(method: str, path: str, error: Exception) -> ApiError:
    # A timeout has no message.
    return ApiError(f"{method} {path} failed: no response from the API server: {str(error) or type(error).__name__}")
