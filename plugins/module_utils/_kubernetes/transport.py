# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The connection to the Kubernetes API: requests, retries, and errors as sentences (private to this collection).

kubernetes.core handles the credentials: its options, environment variables and kubeconfig rules. `PersistentClient`
takes the place of its client, for this collection's modules and for those of kubernetes.core that run in the
controller.
"""

from __future__ import annotations

import base64
import functools
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.refusals import advise, is_uncalled_webhook

try:
    from ansible_collections.kubernetes.core.plugins.module_utils import k8sdynamicclient
    from ansible_collections.kubernetes.core.plugins.module_utils.k8sdynamicclient import K8SDynamicClient
    from kubernetes.client.exceptions import ApiException
    from kubernetes.client.rest import RESTClientObject
    from kubernetes.config import ConfigException
    from kubernetes.dynamic.client import ResourceInstance
    from kubernetes.dynamic.exceptions import (
        BadRequestError,
        ConflictError,
        DynamicApiError,
        ForbiddenError,
        MethodNotAllowedError,
        NotFoundError,
    )
    from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError, SSLError
    from urllib3.util.retry import Retry
    from yaml import YAMLError

    KUBERNETES_IMPORT_ERROR = None
except ImportError:
    KUBERNETES_IMPORT_ERROR = traceback.format_exc()
    K8SDynamicClient = object

# The pauses before a request is repeated after a transient failure: a load balancer that changes its backend, an API
# server that restarts or is overloaded. Seconds.
RETRY_PAUSES = (0.25, 0.5, 1.0, 2.0)

# The longest Retry-After of an API server that is waited for. Seconds.
LONGEST_PAUSE = 30.0

# How long to wait for a connection, and for a response. An API server ends a request after 60 s, unless it is a watch.
# Seconds.
CONNECT_TIMEOUT = 20.0
READ_TIMEOUT = 75.0

# The fields of an object's metadata that only the API server writes.
BOOKKEEPING = ("generation", "managedFields", "resourceVersion")

# The maximum length of a server's error text in a message: a proxy may answer with a page of HTML.
MESSAGE_LENGTH = 500

T = TypeVar("T")


class ClusterError(CoreException):
    """A failed request, as a sentence with the request, the response, and what to do.

    `status` is the HTTP status, or None without a response. `transient` is true if the same request may succeed later,
    and `retry_after` is the number of seconds that the API server requests until then. `is_unprocessed` is true if the
    request has certainly changed nothing.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        transient: bool = False,
        retry_after: float = 0.0,
        is_unprocessed: bool = False,
    ):
        super().__init__(message)
        self.status = status
        self.transient = transient
        self.retry_after = retry_after
        self.is_unprocessed = is_unprocessed

    @property
    def outcome_unknown(self) -> bool:
        """Whether a write that failed with this error may have been applied nevertheless."""
        return not self.is_unprocessed and (self.status is None or self.status >= 500)


class LostWriteError(ClusterError):
    """A failed write of which it could not be found out whether it was applied."""


@dataclass(frozen=True)
class Response:
    """A response; kubernetes.core reads `data` and `headers`."""

    content: dict[str, Any]
    data: bytes
    headers: Mapping[str, str]


# What an API server returns for the deletion of an object that is gone afterwards.
_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
DELETED = Response(_SUCCESS, json.dumps(_SUCCESS).encode(), {})


def connect(module: Any) -> Any:
    """kubernetes.core's get_api_client, with a PersistentClient, and with its failures as ClusterErrors."""
    k8sdynamicclient.K8SDynamicClient = PersistentClient
    try:
        return get_api_client(module)
    except ClusterError:
        raise
    except OSError as error:
        raise ClusterError(
            f"A file of the connection to the Kubernetes API cannot be read: {_sentence(error)}. Correct the path in "
            "the kubeconfig, or in ca_cert, client_cert and client_key."
        ) from error
    except (CoreException, ConfigException, YAMLError) as error:
        raise _no_cluster(_sentence(error)) from error
    # The library raises any of these if the file is not a kubeconfig.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_cluster(f"this is not a kubeconfig ({_sentence(error)})") from error


def _result_for_kubernetes_core(error: ClusterError, path: str) -> Any:
    """The error of the library from which kubernetes.core concludes something else than a failure, or None.

    It concludes from a conflict that it has created the object, which is unknown after a lost response.
    """
    if isinstance(error, LostWriteError) or error.status is None:
        return None
    cause = error.__cause__
    if isinstance(cause, (BadRequestError, ConflictError, MethodNotAllowedError, NotFoundError)):
        return cause
    return cause if isinstance(cause, ForbiddenError) and "/project.openshift.io/" in path else None


class PersistentClient(K8SDynamicClient):
    """kubernetes.core's client, which repeats requests, and reads the result of a write whose response was lost."""

    def __init__(self, client: Any, *args: Any, **kwargs: Any):
        self.host = client.configuration.host
        # The writes so far, for the result of a module that fails later: "PATCH /api/v1/…".
        self.writes: list[str] = []
        # The uids of the objects that were read, by path.
        self._uids: dict[str, str] = {}
        # The patches of kubernetes.core whose result is not known, by path, until the object is read again.
        self._lost: dict[str, LostWriteError] = {}
        client.rest_client = _without_retries(client.configuration)
        super().__init__(client, *args, **kwargs)

    def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """What DynamicClient.request returns and raises, for kubernetes.core."""
        serialize = params.pop("serialize", True)
        serializer = params.pop("serializer", ResourceInstance)
        if method.upper() == "GET":
            self._lost.pop(path, None)
        elif path in self._lost:
            # kubernetes.core tries another kind of patch after any failure.
            raise self._lost[path]
        try:
            response = self.send(method.upper(), path, body, **params)
        except ClusterError as error:
            if isinstance(error, LostWriteError) and method.upper() == "PATCH":
                self._lost[path] = error
            result = _result_for_kubernetes_core(error, path)
            if result is None:
                raise
            result.body = str(error)
            raise result from None
        if method.upper() == "GET":
            # kubernetes.core deletes objects that it has listed.
            for item in response.content.get("items") or ():
                self._remember(f"/{path.strip('/')}/{item['metadata'].get('name')}", item)
        return serializer(self, response.content) if serialize else response

    def send(self, method: str, path: str, body: Any = None, **params: Any) -> Response:
        """The response of the API server. Raises ClusterError.

        A request that changes nothing is repeated after a transient failure. So is a write: a name is created only
        once, and an update has the resourceVersion that was read, or is idempotent. If a response was lost, the object
        shows the result. Where no object can show it (the API server generates the name, or the body is a JSON patch),
        a write is repeated only if it was not processed. A deletion applies to the object that was read, and so does a
        repeated update: another client may have created a new one of the same name since.
        """
        path = f"/{path.lstrip('/')}"
        if method == "GET":
            response = _persist(functools.partial(self._attempt, method, path, body, **params))
            self._remember(path, response.content)
            return response
        is_stored = not (_is_dry_run(params) or _stores_nothing(body))
        if method == "DELETE" and is_stored:
            body = self._of_one_object(path, body)
        attempt = functools.partial(self._attempt, method, path, body, **params)
        if not is_stored:
            return _persist(attempt)
        object_path = _object_path(method, path, body)
        settled = None
        if object_path is not None:
            settled = functools.partial(self._settled, method, object_path, body, self._uids.get(object_path))
        try:
            response = _persist_write(attempt, settled)
        except LostWriteError:
            self.writes.append(f"{method} {path} (perhaps)")
            raise
        self.writes.append(f"{method} {path}")
        if object_path is not None:
            self._remember(object_path, response.content)
        return response

    def watch(self, path: str, query: Mapping[str, Any], timeout: float) -> Any:
        """The response to a watch, to be read line by line."""
        attempt = functools.partial(
            self._send_once, "GET", path, None, query_params=list(query.items()), _request_timeout=timeout
        )
        return _persist(attempt)

    def _remember(self, path: str, content: Mapping[str, Any]) -> None:
        if uid := (content.get("metadata") or {}).get("uid"):
            self._uids[path] = uid

    def _of_one_object(self, path: str, options: Any) -> Any:
        """The DeleteOptions for the object that was read, or else for the one that exists now."""
        preconditions = (options or {}).get("preconditions") or {}
        if "uid" in preconditions:
            return options
        if path not in self._uids:
            try:
                self.send("GET", path)
            except ClusterError as error:
                # A user may have the permission to delete an object, but not to read it.
                if error.status != 403:
                    raise
        if path not in self._uids:
            return options
        preconditions = {**preconditions, "uid": self._uids[path]}
        return {"apiVersion": "v1", "kind": "DeleteOptions", **(options or {}), "preconditions": preconditions}

    def text(self, path: str, query: Mapping[str, Any]) -> str:
        """The text at `path`. Not repeated: a 503 may be the answer of a pod."""
        params = {"query_params": list(query.items()), "header_params": {"Accept": "*/*"}}
        response = self._send_once("GET", path, None, _request_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), **params)
        try:
            return response.data.decode(errors="replace")
        # The connection broke in the middle of the response.
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def log(self, path: str, query: Mapping[str, Any]) -> str:
        return _persist(lambda: self.text(path, query))

    def _settled(self, method: str, object_path: str, body: Any, uid: str | None) -> Response | None:
        """The response to a write whose response was lost, from its object; None if the write was not applied.

        `uid` is that of the object that was read before. A new object of the same name is not written to.
        """
        try:
            response = self.send("GET", object_path)
        except ClusterError as error:
            if error.status != 404:
                raise
            return DELETED if method == "DELETE" else None
        if method in ("PATCH", "PUT") and uid not in (None, response.content["metadata"].get("uid")):
            raise ClusterError(f"Another client has created the object at {object_path} again.")
        return response if _is_applied(method, body, response.content) else None

    def _attempt(self, method: str, path: str, body: Any, **params: Any) -> Response:
        params.setdefault("_request_timeout", (CONNECT_TIMEOUT, READ_TIMEOUT))
        response = self._send_once(method, path, body, **params)
        try:
            data = response.data
        # The connection broke in the middle of the response.
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        content = _content(path, data)
        if content is None:
            raise ClusterError(
                f"The response to {method} {path} is not that of a Kubernetes API server: "
                f"{_sentence(data[:MESSAGE_LENGTH].decode(errors='replace')) or 'it is empty'}. Check that "
                f"{self.host} is the API server."
            )
        return Response(content, data, response.headers)

    def _send_once(self, method: str, path: str, body: Any, **params: Any) -> Any:
        try:
            return super().request(method.lower(), path, body=body, serialize=False, **params)
        except (ApiException, DynamicApiError) as error:
            raise self._refused(method, path, error) from error
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def _refused(self, method: str, path: str, error: Any) -> ClusterError:
        if not error.status:  # The library reports a failed TLS handshake in this way.
            return self._unreachable(SSLError(error.reason))
        retry_after = _seconds(error.headers)
        message, is_status = _status_message(error)
        advice = advise(error.status, message, is_of_api_server=is_status)
        if retry_after > LONGEST_PAUSE:
            advice = f"It requests a retry after {retry_after:g} s. Try again then."
        # An API server answers in plain text if it does not serve a path, a proxy with a page.
        is_of_proxy = error.status == 404 and not is_status and message.startswith("<")
        return ClusterError(
            f"{method} {path} was rejected by the API server with {error.status} {error.reason}: "
            f"{message}. {advice}".strip(),
            status=None if is_of_proxy else error.status,
            # A 500 in response to a write is usually that of an admission webhook, and permanent. That of etcd has a
            # Retry-After.
            transient=retry_after <= LONGEST_PAUSE
            and (
                error.status in (429, 502, 503, 504) or (error.status >= 500 and (method == "GET" or retry_after > 0))
            ),
            retry_after=retry_after,
            is_unprocessed=error.status == 429 or is_uncalled_webhook(message),
        )

    def _unreachable(self, error: Exception) -> ClusterError:
        # urllib3 wraps the cause in a description of its own; only the innermost cause is useful.
        cause: Any = getattr(error, "reason", None) or error
        is_proxy = isinstance(cause, ProxyError)
        if is_proxy:
            cause = cause.original_error
        is_tls = isinstance(cause, SSLError)
        if is_proxy:
            advice = "Check the proxy: the option proxy, proxy-url in the kubeconfig, or HTTPS_PROXY and NO_PROXY."
        elif is_tls:
            advice = (
                "Check the certificate of the API server, and the files of ca_cert, client_cert and client_key or of "
                "the kubeconfig."
            )
        else:
            advice = "Check that the kubeconfig names the right cluster and that the cluster is up."
        return ClusterError(
            f"The Kubernetes API server at {self.host} cannot be reached{' through the proxy' if is_proxy else ''}: "
            f"{_sentence(cause)}. {advice}",
            # An invalid certificate does not become valid within seconds.
            transient=not is_tls,
            # Without a connection to the proxy, and with one that the proxy refuses to forward, nothing was sent.
            is_unprocessed=is_proxy or is_tls or isinstance(cause, (ConnectTimeoutError, NewConnectionError)),
        )


def _persist(attempt: Callable[[], T]) -> T:
    """Repeat a request that changes nothing after a transient failure, a limited number of times."""
    for pause in RETRY_PAUSES:
        try:
            return attempt()
        except ClusterError as error:
            if not error.transient:
                raise
            time.sleep(max(pause, error.retry_after))
    return attempt()


def _persist_write(attempt: Callable[[], Response], settled: Callable[[], Response | None] | None) -> Response:
    """Repeat a write after a transient failure, a limited number of times.

    `settled` reads the result of the previous attempts, and returns None if none was applied.
    """
    is_lost = False
    for pause in (*RETRY_PAUSES, None):
        try:
            return attempt()
        except ClusterError as error:
            failure = error
        is_lost = is_lost or failure.outcome_unknown
        if settled is None:
            if is_lost:
                raise _lost(failure)
        # A conflict or an absence may be the result of a previous attempt that arrived after `settled` had read the
        # object.
        elif is_lost and (failure.outcome_unknown or failure.status in (404, 409)):
            try:
                response = settled()
            except ClusterError as error:
                raise _lost(failure) from error
            if response is not None:
                return response
        if pause is None or not failure.transient:
            break
        time.sleep(max(pause, failure.retry_after))
    # The object is not as it was sent: it may be that of another writer, or what the API server made of a previous
    # attempt.
    if is_lost and failure.status in (404, 409):
        raise _lost(failure)
    raise failure


def _lost(failure: ClusterError) -> LostWriteError:
    message = f"{failure} It is not known whether the change was made: run the task again."
    lost = LostWriteError(message, failure.status)
    lost.__cause__ = failure.__cause__
    return lost


def _without_retries(configuration: Any) -> Any:
    """The REST client without urllib3's retries.

    urllib3 would repeat a PUT or DELETE whose response was lost, so that it is unknown which request made the change,
    would not repeat a POST or PATCH, and would wait for as long as Retry-After requests.
    """
    rest_client = RESTClientObject(configuration)
    rest_client.pool_manager.connection_pool_kw["retries"] = Retry(
        connect=0, read=0, status=0, other=0, respect_retry_after_header=False
    )
    return rest_client


def _is_dry_run(params: Mapping[str, Any]) -> bool:
    return bool(params.get("dry_run")) or any(name == "dryRun" for name, _value in params.get("query_params", ()))


def _stores_nothing(body: Any) -> bool:
    """Whether a POST is a question: SelfSubjectAccessReview, TokenReview…"""
    return isinstance(body, dict) and body.get("kind", "").endswith("Review")


def _object_path(method: str, path: str, body: Any) -> str | None:
    """The path of the object that shows the result of a write, or None."""
    if method == "DELETE":
        return path
    if not isinstance(body, dict):
        return None
    if method != "POST":
        return path
    name = (body.get("metadata") or {}).get("name")
    return f"{path}/{name}" if name else None


def _is_applied(method: str, body: Any, current: dict) -> bool:
    """Whether `current` is the object that a write of `body` results in."""
    if method == "DELETE":
        uid = ((body or {}).get("preconditions") or {}).get("uid")
        return "deletionTimestamp" in current["metadata"] or uid not in (None, current["metadata"]["uid"])
    metadata = body.get("metadata", {})
    own_metadata = {key: value for key, value in metadata.items() if key not in BOOKKEEPING}
    content = {key: value for key, value in body.items() if key not in ("metadata", "stringData")}
    if body.get("stringData"):
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in body["stringData"].items()}
        content["data"] = {**(content.get("data") or {}), **encoded}
    return _contains(current, {**content, "metadata": own_metadata} if own_metadata else content)


def _contains(current: Any, sent: Any) -> bool:
    """Whether `current` has all values of `sent`; a None or an empty value must be absent or empty."""
    if sent is None or sent in ({}, []):
        return not current
    if isinstance(sent, dict):
        return isinstance(current, dict) and all(_contains(current.get(key), value) for key, value in sent.items())
    if isinstance(sent, list):
        return isinstance(current, list) and len(current) == len(sent) and all(map(_contains, current, sent))
    return current == sent


def _content(path: str, data: bytes) -> dict[str, Any] | None:
    """The content of a response, or None if it is not that of an API server."""
    try:
        content = json.loads(data)
    except ValueError:
        return None
    mark = "gitVersion" if path == "/version" else "kind"
    return content if isinstance(content, dict) and mark in content else None


def _seconds(headers: Any) -> float:
    """The value of Retry-After in seconds, as API servers send it; 0 for other forms."""
    text = (headers or {}).get("Retry-After") or ""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _no_cluster(why: str) -> ClusterError:
    return ClusterError(
        f"No cluster is configured: {why}. Set kubeconfig (or host and api_key), or set "
        "K8S_AUTH_KUBECONFIG or KUBECONFIG."
    )


def _sentence(error: object) -> str:
    """An error's text on one line, shortened to MESSAGE_LENGTH, for use in a sentence."""
    line = " ".join(str(error).split()).rstrip(".")
    return line if len(line) <= MESSAGE_LENGTH else f"{line[:MESSAGE_LENGTH]}…"


def _status_message(error: Any) -> tuple[str, bool]:
    """The `message` of the Status object in an error's body, else the body; and whether it is a Status object."""
    try:
        status = json.loads(error.body)
        return _sentence(status["message"]), status.get("kind") == "Status"
    except (TypeError, ValueError, KeyError):
        return _sentence(error.body or "no body"), False
