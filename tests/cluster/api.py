"""Requests to an API server, with paths and dicts: those of the stand-ins and of client.py.

A cluster has three programs with it, and Kubernetes' client library takes a fifth of a second of CPU time to import.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import urllib3
import yaml

JSON = "application/json"


class ApiError(RuntimeError):
    """The API server rejected a request, with this HTTP status."""

    def __init__(self, request: str, status: int, body: str):
        super().__init__(f"{request}: {status} {body}")
        self.status = status


class Api:
    """The API server and the user of a kubeconfig with a client certificate, as launcher.py writes it.

    `pool` has options of urllib3's PoolManager.
    """

    def __init__(self, kubeconfig: str, **pool: Any):
        with open(kubeconfig) as file:
            settings = yaml.safe_load(file)
        (cluster,), (user,) = settings["clusters"], settings["users"]
        self.server = cluster["cluster"]["server"]
        self._http = urllib3.PoolManager(
            ca_certs=cluster["cluster"]["certificate-authority"],
            cert_file=user["user"]["client-certificate"],
            key_file=user["user"]["client-key"],
            # A thread for each kind watches its objects.
            maxsize=32,
            **pool,
        )

    def request(
        self, method: str, path: str, body: object = None, content_type: str = JSON, accept: str = JSON
    ) -> dict:
        return json.loads(self._response(method, path, body, content_type, accept).data)

    def stream(self, path: str) -> Iterator[bytes]:
        """The lines of a watch, until the API server ends it."""
        with self._response("GET", path, is_stream=True) as response:
            yield from response

    def _response(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        *,
        is_stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        response = self._http.request(
            method,
            self.server + path,
            body=None if body is None else json.dumps(body),
            headers={**self._http.headers, "Accept": accept, "Content-Type": content_type},
            preload_content=not is_stream,
        )
        if response.status >= 400:
            raise ApiError(f"{method} {path}", response.status, response.data.decode())
        return response

    def list(self, path: str) -> list[dict]:
        return self.request("GET", path)["items"]

    def get(self, path: str) -> dict | None:
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def ensure(self, collection: str, body: dict) -> None:
        """Create the object unless it exists."""
        if self.get(f"{collection}/{body['metadata']['name']}") is None:
            self.request("POST", collection, body)

    def write(self, collection: str, body: dict) -> None:
        """Create the object, or update its data."""
        path = f"{collection}/{body['metadata']['name']}"
        current = self.get(path)
        if current is None:
            self.request("POST", collection, body)
        elif current.get("data") != body["data"]:
            self.merge(path, {"data": body["data"]})

    def merge(self, path: str, body: dict) -> None:
        self.request("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete the object if it exists."""
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise

    def status(self, path: str, current_object: dict, new_status: dict, **other_fields: str) -> None:
        """Set fields of a status if one differs. A condition that stays `True` keeps its time.

        `other_fields` has fields that do not count as a difference.
        """
        current = current_object.get("status") or {}
        if "conditions" in new_status:
            known = {condition["type"]: condition for condition in current.get("conditions", [])}
            new_status = {
                **new_status,
                "conditions": [
                    _condition(known.get(condition["type"], {}), condition) for condition in new_status["conditions"]
                ],
            }
        if any(current.get(key) != value for key, value in new_status.items()):
            self.merge(f"{path}/status", {"status": new_status | other_fields})


def _condition(current: dict, new_condition: dict) -> dict:
    new_condition = {"reason": "", "message": "", **new_condition}
    is_unchanged = new_condition.items() <= current.items()
    return current if is_unchanged else {**new_condition, "lastTransitionTime": now()}


def now() -> str:
    """The time in the format of an object's fields."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
