# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The five requests that the agent makes: list, watch, get, patch, create.

lightkube reads the login (a kubeconfig or the pod's service account) and sets up TLS. aiohttp sends the
requests: a patch takes an eighth of the time that it takes with lightkube's own HTTP client. Of a response,
msgspec decodes only the fields that a Struct names.

The login is loaded again whenever one of its files changes: kubelet replaces the token every hour, and the CA
certificates when the cluster rotates its CA.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError
from yarl import URL

from .metrics import REQUESTS

log = logging.getLogger(__name__)

FIELD_MANAGER = "peerpods-node-capacity"

# Objects per page of a list: a page of full Nodes is a few MB.
PAGE_SIZE = 250

# Seconds without a response after which a request fails, and without a connection. Packets to an API server that is
# away may get lost without an answer: a short timeout finds it soon after it is back.
REQUEST_TIMEOUT, CONNECT_TIMEOUT = 30.0, 5.0

# The longest time, in seconds, for which a Retry-After of the API server, or of a proxy before it, is observed.
LONGEST_RETRY_AFTER = 30

# The shortest duration of a watch, in seconds; the API server ends it after this to twice as long.
WATCH_DURATION = 240

# Seconds without an event on a watch after which it counts as lost: the API server sends a bookmark every minute,
# except if the resourceVersion of the watch is in the future, as after a restore of etcd from a backup.
WATCH_SILENCE = 75.0

# Seconds until the files of the login, after they could not be loaded, are loaded again even if they are unchanged: the
# process may have had no file descriptor left.
LOGIN_INTERVAL = 5.0

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
    """A watch that cannot be resumed from its resourceVersion: the collection must be listed again."""


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


class _Version(NamedTuple):
    """What changes of a file when it is written or replaced, also by a symbolic link."""

    inode: int
    modified: int
    size: int


class _Login(NamedTuple):
    """How to log in to the API server, and the version of each file that this was read from, if it existed."""

    server: str
    headers: dict[str, str]
    tls: ssl.SSLContext
    files: dict[str, _Version | None]

    @classmethod
    def load(cls) -> _Login:
        """Load the file that KUBECONFIG names, else the pod's service account. Raises ConfigError if neither is
        usable."""
        files: dict[str, _Version | None] = {}

        def following(path: str | os.PathLike[str]) -> str:
            # The version from before the content: a later change is not missed.
            files[str(path)] = _version(str(path))
            return str(path)

        try:
            path = os.environ.get("KUBECONFIG")
            kubeconfig = KubeConfig.from_file(following(path)) if path else KubeConfig.from_service_account()
            config = kubeconfig.get()
            if config is None:
                raise ConfigError("there is no current context")
            user, cluster = config.user or User(), config.cluster
            for name in (cluster.certificate_auth, user.client_cert, user.client_key):
                if name:
                    following(config.abs_file(name))
            token = user.token
            if user.token_file:
                token = Path(following(config.abs_file(user.token_file))).read_text().strip()
            headers = {"User-Agent": FIELD_MANAGER, **({"Authorization": f"Bearer {token}"} if token else {})}
            if not (token or user.client_cert or user.client_cert_data):
                raise ConfigError(f"user {config.context.user} has neither a token nor a client certificate")
            return cls(cluster.server, headers, verify_cluster(cluster, user, config.abs_file), files)
        except Exception as error:  # of lightkube, PyYAML, msgspec, ssl and others
            # Not the message of a parser, which may quote a line with a secret.
            reason = error if isinstance(error, (ConfigError, OSError)) else repr(error)
            raise ConfigError(
                f"Loading the Kubernetes login failed: {reason}. Run in a pod with a service account, or set "
                "KUBECONFIG to a kubeconfig file with a current context."
            ) from error


class Kube:
    """A connection to one API server. Raises ConfigError if there is no usable login."""

    def __init__(self) -> None:
        self._login = _Login.load()
        # The files of the login as of the last attempt to load it.
        self._files = self._login.files
        # When to load it again although its files are unchanged, and why the last attempt failed.
        self._load_again_at = math.inf
        self._load_failure = ""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            # The API server sets no cookies; looking for them takes time.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
        )
        self._not_before = 0.0

    @property
    def server(self) -> str:
        return self._login.server

    async def close(self) -> None:
        await self._http.close()

    async def pages(
        self, path: str, kind: type[Kind], selectors: Mapping[str, str]
    ) -> AsyncIterator[tuple[list[Kind], str]]:
        """Yield the objects of the collection at `path` that match `selectors` (fieldSelector, labelSelector), page by
        page, each with the resourceVersion to watch the collection from."""
        query: dict[str, Any] = {"limit": PAGE_SIZE, **selectors}
        while True:
            response = await self._send("list", path, params=query)
            page = _decode(await _body(response), _Page[kind], response)  # type: ignore[valid-type]
            yield page.items, page.metadata.resource_version
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def watch(
        self,
        path: str,
        kind: type[Kind],
        selectors: Mapping[str, str],
        version: str,
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[tuple[str, Kind | OnlyMetadata]]:
        """Yield the changes after `version` as (ADDED|MODIFIED|DELETED|BOOKMARK, object), a bookmark with its
        metadata only, until the API server ends the watch. Calls `opened` when the watch has begun.

        Raises WatchLostError if `version` is too old, and if it may be in the future: a broken connection or a watch
        without bookmarks may be that of an etcd that was restored from a backup.
        """
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
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=WATCH_SILENCE),
            )
            opened()
            try:
                async for line in _lines(response):
                    event = _decode(line, _Event, response)
                    if event.type == "ERROR":
                        status = _decode(event.object, _Status, response)
                        raise WatchLostError(
                            f"The watch of {path} from resourceVersion {version} ended with "
                            f"{status.code} {status.message}",
                            status.code,
                        )
                    if event.type == "BOOKMARK":
                        # Its other fields need not be valid: a Pod's has no list of containers.
                        yield event.type, _decode(event.object, OnlyMetadata, response)
                    else:
                        yield event.type, _decode(event.object, kind, response)
            finally:
                response.close()
        except ApiError as error:
            if error.status in (HTTPStatus.GONE, None):
                raise WatchLostError(str(error), error.status) from error
            raise

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
        login = self._current_login()
        method, url = _METHODS[verb], URL(login.server + path + query, encoded=True)
        code = "none"
        try:
            response = await self._http.request(
                method, url, headers={**login.headers, **(headers or {})}, ssl=login.tls, **options
            )
            code = str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_response(method, path, error) from error
        finally:
            REQUESTS.labels(verb, code).inc()
        if response.ok:
            return response
        retry_after = response.headers.get("Retry-After", "")
        if retry_after.isdecimal():
            self._not_before = time.monotonic() + min(int(retry_after), LONGEST_RETRY_AFTER)
        raise ApiError(
            f"{method} {path} failed: the API server returned "
            f"{response.status} {response.reason}: {_message(await _body(response))}",
            response.status,
        )

    def _current_login(self) -> _Login:
        """Return the login, from files as they are now. If they cannot be used, the previous one stays in use."""
        files = {path: _version(path) for path in self._files}
        if files != self._files or time.monotonic() > self._load_again_at:
            self._files = files
            try:
                self._login = _Login.load()
            except ConfigError as error:
                self._load_again_at = time.monotonic() + LOGIN_INTERVAL
                if str(error) != self._load_failure:
                    self._load_failure = str(error)
                    log.warning("%s The previous login stays in use. The files are loaded again soon.", error)
            else:
                self._files = self._login.files
                self._load_again_at, self._load_failure = math.inf, ""
                log.info("Loaded the Kubernetes login again, because its files have changed.")
        return self._login


def _version(path: str) -> _Version | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _Version(status.st_ino, status.st_mtime_ns, status.st_size)


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
    incomplete, last_line_at = b"", time.monotonic()
    try:
        async for chunk in response.content.iter_any():
            *lines, incomplete = (incomplete + chunk).split(b"\n")
            for line in lines:
                yield line
            if lines:
                last_line_at = time.monotonic()
            elif time.monotonic() - last_line_at > WATCH_SILENCE:
                raise TimeoutError(f"no complete event within {WATCH_SILENCE:.0f} seconds")
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
