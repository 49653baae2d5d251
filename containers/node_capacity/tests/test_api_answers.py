"""Responses that a healthy API server does not return on demand. A scripted server returns them over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from peerpods_node_capacity.agent import Agent
from peerpods_node_capacity.kube import ApiError, Kube, Metadata, OnlyMetadata
from peerpods_node_capacity.mirror import Mirror
from peerpods_node_capacity.settings import Settings
from tests.cluster.pki import CertificateAuthority

VM = "kata.peerpods.io/vm"


class HasMetadata(msgspec.Struct):
    metadata: Metadata


Answer = tuple[int, dict, bytes | Iterator[bytes]]


class ScriptedApi(ThreadingHTTPServer):
    """A server that calls `answer(request)` for each request, which returns (status, headers, body). The body is bytes,
    or an iterator of chunks.

    `requests` has all requests, as `_Handler` describes them, in order.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[dict], Answer]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[dict] = []

    def count(self, **expected: object) -> int:
        return sum(expected.items() <= request.items() for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedApi

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        request = {
            "method": self.command,
            "path": url.path,
            "watch": "watch" in query,
            "version": query.get("resourceVersion"),
            "bookmarks": query.get("allowWatchBookmarks") == "true",
            "continue": query.get("continue"),
            "token": self.headers.get("Authorization"),
            "body": body,
            "at": time.monotonic(),
        }
        self.server.requests.append(request)
        status, headers, body = self.server.answer(request)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        chunks = [body] if isinstance(body, bytes) else body
        if isinstance(body, bytes):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # The agent closes its watches at the end of a test, and those that it gives up.
        with contextlib.suppress(ConnectionError):
            for chunk in chunks:
                self.wfile.write(chunk)

    do_PATCH = do_POST = do_GET  # noqa: N815 (http.server's names)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Start a ScriptedApi with `answer`; KUBECONFIG has its address, and ./token the token."""
    started = []

    def start(answer: Callable[[dict], Answer]) -> ScriptedApi:
        api = ScriptedApi(answer)
        started.append(api)
        threading.Thread(target=api.serve_forever, args=(0.02,), daemon=True).start()
        (tmp_path / "token").write_text("first")
        kubeconfig = {
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}],
            "users": [{"name": "it", "user": {"tokenFile": str(tmp_path / "token")}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        return api

    yield start
    for api in started:
        api.shutdown()
        api.server_close()


def json_answer(body: object, status: int = 200, **headers: str) -> tuple[int, dict, bytes]:
    # The newline ends an event of a watch.
    text = json.dumps(body, ensure_ascii=False) + "\n"
    return status, {"Content-Type": "application/json", **headers}, text.encode()


def page(version: str, *items: dict, continue_token: str = "") -> tuple[int, dict, bytes]:
    return json_answer({"metadata": {"resourceVersion": version, "continue": continue_token}, "items": items})


def bookmark(version: str) -> tuple[int, dict, bytes]:
    """A watch with a bookmark, after a while."""
    time.sleep(0.2)
    # Go's JSON does not escape U+0085, which str.splitlines takes for the end of a line.
    metadata = {"resourceVersion": version, "annotations": {"note": "one\u0085line"}}
    return json_answer({"type": "BOOKMARK", "object": {"metadata": metadata}})


def status(code: int, message: str) -> dict:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}


def worker(name: str, version: str) -> dict:
    labels = {"node.kubernetes.io/worker": ""}
    return {"metadata": {"name": name, "labels": labels, "resourceVersion": version}}


WORKER_STATUS = "/api/v1/nodes/w/status"
ADAPTORS = "/api/v1/namespaces/ns/pods"
CONFIGS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/ns/peerpodconfigs"
CONFIG = {"metadata": {"name": "c", "resourceVersion": "1"}, "spec": {"limit": "3"}}


def run_until(run: Callable[[Kube], Awaitable[None]], done: Callable[[], object]) -> None:
    """Run `run` in this process until `done`; fails after 20 seconds."""

    async def run_in_time() -> None:
        kube = Kube()
        running = asyncio.create_task(run(kube))
        async with asyncio.timeout(20):
            while not done():
                assert not running.done(), running.exception()
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])
        await kube.close()

    asyncio.run(run_in_time())


SETTINGS = Settings(
    namespace="own",
    peerpodconfig_namespace="ns",
    count_peer_pods=False,
    require_ready_adaptor=False,
)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/own/leases"


async def agent(kube: Kube) -> None:
    await Agent(kube, SETTINGS, "me").run()


def default_answer(request: dict) -> tuple[int, dict, bytes]:
    """The response to all other requests: empty collections, and writes that succeed."""
    match request:
        case {"method": "POST", "path": path} if path == LEASES:
            lease_spec = {"holderIdentity": "me", "leaseDurationSeconds": 15}
            return json_answer(
                {"metadata": {"name": SETTINGS.lease_name, "resourceVersion": "5"}, "spec": lease_spec},
                201,
            )
        case {"method": "PATCH", "path": path} if path == f"{CONFIGS}/c/status":
            return json_answer(CONFIG)
        case {"method": "PATCH"}:
            return json_answer({"metadata": {"resourceVersion": "6"}})
        case {"watch": True}:
            return bookmark("5")
        case _:
            return page("5")


EXPIRED_MESSAGE = "too old resource version: 7 (9)"


@pytest.mark.parametrize(
    "expired",
    [
        json_answer(status(410, EXPIRED_MESSAGE), 410),
        json_answer({"type": "ERROR", "object": status(410, EXPIRED_MESSAGE)}),
    ],
    ids=["as a response", "as an event"],
)
def test_an_expired_resource_version_causes_a_new_list(scripted, expired):
    """The second list, of two pages, does not have node old and has nodes new and newer. Then the next watch starts
    from the resourceVersion of a bookmark."""
    lists = iter([page("7", worker("old", "5")), page("9", worker("new", "8"), continue_token="page 2")])

    def answer(request):
        match request:
            case {"continue": "page 2"}:
                return page("9", worker("newer", "9"))
            case {"watch": False}:
                return next(lists)
            case {"version": "7"}:
                return expired
            case {"bookmarks": True}:
                return bookmark("11")

    api = scripted(answer)
    changes = []

    async def mirror(kube: Kube) -> None:
        def changed(name: str, _old: str | None, new: str | None) -> None:
            changes.append((name, new))

        await Mirror(kube, "/api/v1/nodes", HasMetadata, lambda raw, _: "item", changed).run()

    run_until(mirror, lambda: api.count(watch=True, version="11"))
    assert changes == [("old", "item"), ("new", "item"), ("newer", "item"), ("old", None)]
    assert api.count(watch=True, version="7") == 1


def quiet(chunk: bytes = b"") -> Answer:
    """A watch without an event, with a chunk every 50 ms."""

    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield chunk
            time.sleep(0.05)

    return 200, {"Content-Type": "application/json"}, chunks()


@pytest.mark.parametrize("chunk", [b"", b" "], ids=["nothing", "white space"])
def test_a_watch_that_stays_silent_causes_a_new_list(scripted, monkeypatch, chunk):
    """After a restore of etcd, the resourceVersion of a watch is in the future: it has neither events nor bookmarks."""
    monkeypatch.setattr("peerpods_node_capacity.kube.WATCH_SILENCE", 0.3)
    # On a busy machine, the second watch may be silent as long.
    lists = chain([page("1200", worker("lost", "1100"))], repeat(page("1000", worker("kept", "900"))))

    def answer(request):
        match request:
            case {"watch": False}:
                return next(lists)
            case {"version": "1200"}:
                return quiet(chunk)
            case _:
                return bookmark("1001")

    api = scripted(answer)
    items = []

    async def mirror(kube: Kube) -> None:
        await Mirror(
            kube, "/api/v1/nodes", HasMetadata, lambda raw, _: "item", lambda *change: items.append(change)
        ).run()

    run_until(mirror, lambda: api.count(watch=True, version="1001"))
    assert items == [("lost", None, "item"), ("kept", None, "item"), ("lost", "item", None)]


def test_a_watch_whose_connection_breaks_causes_a_new_list(scripted):
    """The API server may have been away while etcd was restored."""
    lists = iter([page("1200"), page("1000")])

    def broken() -> Iterator[bytes]:
        yield b'{"type": "MODIFIED", "object'
        raise ConnectionError

    def answer(request):
        match request:
            case {"watch": False}:
                return next(lists)
            case {"version": "1200"}:
                return 200, {"Content-Length": "1000"}, broken()
            case _:
                return bookmark("1001")

    api = scripted(answer)

    async def mirror(kube: Kube) -> None:
        await Mirror(kube, "/api/v1/nodes", HasMetadata, lambda raw, _: "item", lambda *_: None).run()

    run_until(mirror, lambda: api.count(watch=True, version="1001"))


@pytest.mark.parametrize(
    ("answered", "longest"),
    [(json_answer(status(500, "not now"), 500), 30), ((200, {"Content-Length": "1000"}, iter(())), 2)],
    ids=["an error", "no answer"],
)
def test_the_longest_pause(scripted, monkeypatch, answered, longest):
    """An API server that does not answer at all is tried every two seconds: a refused connection costs little."""
    pauses = []

    def backoff(failures: int, longest: float) -> float:
        pauses.append(longest)
        return 0

    monkeypatch.setattr("peerpods_node_capacity.mirror.backoff", backoff)
    scripted(lambda _request: answered)

    async def mirror(kube: Kube) -> None:
        await Mirror(kube, "/api/v1/nodes", HasMetadata, lambda raw, _: "item", lambda *_: None).run()

    run_until(mirror, lambda: len(pauses) > 3)
    assert set(pauses) == {longest}


def test_the_pause_begins_again_when_the_api_server_is_back(scripted, monkeypatch):
    """An API server that was away rejects the first requests, while it reads its roles."""
    failed = []

    def backoff(failures: int, _longest: float) -> float:
        failed.append(failures)
        return 0

    def answer(_request):
        if len(failed) < 5:
            return 200, {"Content-Length": "1000"}, iter(())
        return json_answer(status(403, "not yet"), 403)

    monkeypatch.setattr("peerpods_node_capacity.mirror.backoff", backoff)
    scripted(answer)

    async def mirror(kube: Kube) -> None:
        await Mirror(kube, "/api/v1/nodes", HasMetadata, lambda raw, _: "item", lambda *_: None).run()

    run_until(mirror, lambda: len(failed) > 7)
    assert failed[:8] == [0, 1, 2, 3, 4, 0, 1, 2]


def test_the_lease_is_read_again_after_a_conflict(scripted):
    """After a restore of etcd, the watch of the Lease waits for a resourceVersion that is in the future."""
    lease = {"metadata": {"name": SETTINGS.lease_name, "resourceVersion": "1200"}, "spec": {"holderIdentity": ""}}
    restored = {**lease, "metadata": {**lease["metadata"], "resourceVersion": "1000"}}
    lists = iter([page("1200", lease), page("1001", restored)])

    def answer(request):
        match request:
            case {"path": path, "watch": True} if path == LEASES:
                return quiet()
            case {"path": path, "method": "GET"} if path == LEASES:
                return next(lists)
            case {"method": "PATCH", "path": path, "body": body} if path == f"{LEASES}/{SETTINGS.lease_name}":
                if json.loads(body)["metadata"]["resourceVersion"] != "1000":
                    return json_answer(status(409, "the object has been modified"), 409)
                return json_answer({**restored, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}})
            case {"path": "/api/v1/nodes", "watch": False}:
                return page("5", worker("w", "5"))
            case {"path": path, "watch": False} if path == CONFIGS:
                return page("1", CONFIG)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(method="PATCH", path=WORKER_STATUS))


@pytest.mark.parametrize(
    "conditions",
    [
        None,
        "text",
        {"type": "Ready"},
        [None, 1, "text", ["Ready"], {}],
        [{"type": "Ready", "status": "True"}, {"type": ["Ready"]}, {"type": "InvalidLimit", "status": "False"}],
        [{"type": "Ready", "status": {"a": 1}, "lastTransitionTime": 5}],
    ],
)
def test_conditions_of_other_writers_in_any_form(scripted, conditions):
    """The agent continues, and writes its own conditions."""
    config = {**CONFIG, "status": {"conditions": conditions, "setupCompleted": None}}

    def answer(request):
        match request:
            case {"path": "/api/v1/nodes", "watch": False}:
                return page("5", worker("w", "5") | {"status": {"capacity": {VM: "3"}, "allocatable": {VM: "3"}}})
            case {"path": path, "watch": False} if path == CONFIGS:
                return page("1", config)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(method="PATCH", path=f"{CONFIGS}/c/status"))
    (written,) = (json.loads(r["body"])["status"] for r in api.requests if r["path"] == f"{CONFIGS}/c/status")
    assert written["setupCompleted"] is True
    own = [c for c in written["conditions"] if isinstance(c, dict) and "observedGeneration" in c]
    assert [(c["type"], c["status"]) for c in own][:2] == [("Ready", "True"), ("InvalidLimit", "False")]
    assert all(c["lastTransitionTime"].endswith("Z") for c in own)


def test_a_status_that_cannot_be_written_does_not_keep_other_pools_from_being_reported(scripted):
    other = {"metadata": {"name": "d", "resourceVersion": "1", "generation": 2}, "spec": {"limit": "many"}}

    def answer(request):
        match request:
            case {"path": path, "watch": False, "method": "GET"} if path == CONFIGS:
                return page("1", CONFIG, other)
            case {"method": "PATCH", "path": path} if path == f"{CONFIGS}/c/status":
                return json_answer(status(422, "status.conditions: Invalid value"), 422)
            case {"method": "POST", "path": "/api/v1/namespaces/ns/events"}:
                return json_answer({"metadata": {"resourceVersion": "7"}}, 201)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(method="POST", path="/api/v1/namespaces/ns/events"))
    (event, *_rest) = (json.loads(r["body"]) for r in api.requests if r["path"].endswith("/events"))
    assert (event["involvedObject"]["name"], event["reason"]) == ("d", "InvalidLimit")


def test_a_problem_has_an_event_although_the_status_cannot_be_written(scripted, caplog):
    invalid = {"metadata": {"name": "c", "resourceVersion": "1", "uid": "1"}, "spec": {"limit": "many"}}

    def answer(request):
        match request:
            case {"path": path, "watch": False, "method": "GET"} if path == CONFIGS:
                return page("1", invalid)
            case {"method": "PATCH", "path": path} if path == f"{CONFIGS}/c/status":
                return json_answer(status(403, "peerpodconfigs/status is forbidden"), 403)
            case {"method": "POST", "path": "/api/v1/namespaces/ns/events"}:
                return json_answer({"metadata": {"resourceVersion": "7"}}, 201)
            case _:
                return default_answer(request)

    api = scripted(answer)
    # The status is tried again.
    run_until(agent, lambda: api.count(method="PATCH", path=f"{CONFIGS}/c/status") > 1)
    (event,) = (json.loads(r["body"]) for r in api.requests if r["path"].endswith("/events"))
    assert (event["involvedObject"]["name"], event["reason"]) == ("c", "InvalidLimit")
    # It is announced once, while it is tried again.
    assert caplog.text.count("spec.limit must be a whole number") == 1


def test_a_status_is_written_although_an_event_cannot_be_created(scripted):
    invalid = {"metadata": {"name": "c", "resourceVersion": "1", "uid": "1"}, "spec": {"limit": "many"}}

    def answer(request):
        match request:
            case {"path": path, "watch": False, "method": "GET"} if path == CONFIGS:
                return page("1", invalid)
            case {"method": "POST", "path": "/api/v1/namespaces/ns/events"}:
                return json_answer(status(403, "exceeded quota: no-events"), 403)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(method="PATCH", path=f"{CONFIGS}/c/status"))
    run_until(agent, lambda: api.count(method="POST", path="/api/v1/namespaces/ns/events") > 1)


def test_a_collection_that_is_no_longer_served_is_empty(scripted):
    """Its objects are removed from the mirror without an event, and the mirror stays synced."""
    served = True

    def answer(request):
        nonlocal served
        match request:
            case _ if not served:
                return json_answer(status(404, "page not found"), 404)
            case {"watch": False}:
                return page("7", worker("c", "5"))
            case _:
                served = False
                return bookmark("8")

    scripted(answer)
    changes = []

    async def mirror(kube: Kube) -> None:
        following = Mirror(
            kube,
            CONFIGS,
            HasMetadata,
            lambda raw, _: "item",
            lambda name, _old, new: changes.append((name, new, following.synced.is_set())),
            may_be_absent=True,
        )
        await following.run()

    run_until(mirror, lambda: len(changes) == 2)
    assert changes == [("c", "item", False), ("c", None, True)]


def test_a_bookmark_of_pods_is_not_a_pod(scripted, caplog):
    """The list of containers in its object is null."""
    empty = {"metadata": {"resourceVersion": "11"}, "spec": {"containers": None}, "status": {}}

    def answer(request):
        match request:
            case {"version": "5", "path": "/api/v1/pods"}:
                return json_answer({"type": "BOOKMARK", "object": empty})
            case {"path": path, "watch": False} if path == CONFIGS:
                return page("1", CONFIG)
            case _:
                return default_answer(request)

    api = scripted(answer)
    counting = replace(SETTINGS, count_peer_pods=True)

    async def counting_agent(kube: Kube) -> None:
        await Agent(kube, counting, "me").run()

    run_until(counting_agent, lambda: api.count(path="/api/v1/pods", version="11"))
    assert caplog.messages == []


def test_nothing_is_removed_before_the_peerpodconfigs_are_listed(scripted):
    """A node that has slots keeps them while the PeerPodConfigs cannot be read."""
    advertising = worker("w", "5") | {"status": {"capacity": {VM: "3"}, "allocatable": {VM: "3"}}}

    def answer(request):
        match request:
            case {"path": "/api/v1/nodes", "watch": False}:
                return page("5", advertising)
            case {"path": path} if path == CONFIGS:
                return json_answer(status(403, "peerpodconfigs is forbidden"), 403)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(path=CONFIGS) >= 3)
    assert api.count(method="PATCH") == 0


def test_every_request_observes_retry_after(scripted):
    times = []

    def answer(request):
        times.append(request["at"])
        if len(times) == 1:
            return json_answer(status(429, "too many requests"), 429, **{"Retry-After": "1"})
        return default_answer(request)

    scripted(answer)

    async def patches() -> None:
        kube = Kube()
        with pytest.raises(ApiError, match=r"429 .*: too many requests"):
            await kube.patch("/api/v1/nodes/a/status", {}, OnlyMetadata)
        await asyncio.gather(*(kube.patch(f"/api/v1/nodes/{n}/status", {}, OnlyMetadata) for n in "bcd"))
        await kube.close()

    asyncio.run(patches())
    assert len(times) == 4
    assert all(time - times[0] >= 1 for time in times[1:])


def test_a_failed_patch_is_retried(scripted):
    refusals = iter([500, 503, 403])

    def answer(request):
        match request:
            case {"method": "PATCH", "path": "/api/v1/nodes/w/status"}:
                code = next(refusals, None)
                return json_answer(status(code, "not now"), code) if code else default_answer(request)
            case {"path": "/api/v1/nodes", "watch": False}:
                return page("5", worker("w", "5"))
            case {"path": path, "watch": False} if path == CONFIGS:
                return page("1", CONFIG)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(method="PATCH", path="/api/v1/nodes/w/status") == 4)


def test_a_node_that_changes_during_its_patch_is_patched_again_afterwards(scripted):
    """Two patches at the same time could arrive in either order."""
    first_sent, change_read = threading.Event(), threading.Event()
    in_progress: list[bytes] = []
    most_in_progress = []
    changed = worker("w", "6") | {"status": {"capacity": {VM: "1"}}}

    def answer(request):
        match request:
            case {"method": "PATCH", "path": path, "body": body} if path == WORKER_STATUS:
                in_progress.append(body)
                most_in_progress.append(len(in_progress))
                if not first_sent.is_set():
                    first_sent.set()
                    assert change_read.wait(10)
                in_progress.remove(body)
                return default_answer(request)
            case {"path": "/api/v1/nodes", "watch": False}:
                return page("5", worker("w", "5"))
            case {"path": "/api/v1/nodes", "version": "5"}:
                assert first_sent.wait(10)
                return json_answer({"type": "MODIFIED", "object": changed})
            case {"path": "/api/v1/nodes", "watch": True, "version": version}:
                # The agent has read the change, and a bookmark after it: it would have sent a second patch by now.
                if version == "7":
                    change_read.set()
                return bookmark("7")
            case {"path": path, "watch": False} if path == CONFIGS:
                return page("1", CONFIG)
            case _:
                return default_answer(request)

    api = scripted(answer)
    run_until(agent, lambda: api.count(method="PATCH", path=WORKER_STATUS) == 2)
    assert most_in_progress == [1, 1]


PODS = "/api/v1/pods"
PEER_POD = {
    "metadata": {"name": "p", "namespace": "default", "resourceVersion": "5"},
    "spec": {"nodeName": "w", "containers": [{"resources": {"requests": {VM: "1"}}}]},
}


class Contested:
    """An API server with the node w, which another program keeps resetting, its cloud-api-adaptor and one peer pod.

    A test sends the events of the watches, by path; `slots` has the values of the agent's patches. The API server
    rejects the patches of which `rejected` has the index.
    """

    def __init__(self, caplog: pytest.LogCaptureFixture, rejected: Collection[int] = ()) -> None:
        caplog.set_level("INFO", "peerpods_node_capacity.agent")
        self._log = caplog
        self._events: dict[str, list[dict]] = {"/api/v1/nodes": [], ADAPTORS: [], PODS: []}
        # The paths of which the first event has been sent.
        self._sent: set[str] = set()
        self._rejected = rejected
        self.slots: list[str] = []

    def node(self, slots: str) -> None:
        quantities = {"capacity": {VM: slots}, "allocatable": {VM: slots}}
        self._send("/api/v1/nodes", worker("w", "5") | {"status": quantities})

    def adaptor(self, ready: str) -> None:
        self._send(ADAPTORS, self._adaptor(ready))

    def end_pod(self) -> None:
        self._send(PODS, PEER_POD, "DELETED")

    def _adaptor(self, ready: str) -> dict:
        return {
            "metadata": {"name": "caa", "resourceVersion": "5"},
            "spec": {"nodeName": "w"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }

    def _send(self, path: str, changed: dict, event: str = "MODIFIED") -> None:
        self._events[path].append({"type": event, "object": changed})

    def __call__(self, request: dict) -> tuple[int, dict, bytes]:
        match request:
            case {"method": "PATCH", "path": path, "body": body} if path == WORKER_STATUS:
                self.slots.append(json.loads(body)["status"]["capacity"][VM])
                if len(self.slots) - 1 in self._rejected:
                    return json_answer(status(500, "not now"), 500)
                return default_answer(request)
            case {"path": "/api/v1/nodes", "watch": False}:
                return page("5", worker("w", "5"))
            case {"path": path, "watch": False} if path == ADAPTORS:
                return page("5", self._adaptor("True"))
            case {"path": path, "watch": False} if path == PODS:
                return page("5", PEER_POD)
            case {"path": path, "watch": False} if path == CONFIGS:
                return page("1", CONFIG)
            case {"path": path, "watch": True} if path in self._events:
                events = self._events[path]
                if path in self._sent:
                    # The agent watches again after it has read an event.
                    self._sent.remove(path)
                    del events[0]
                if not events:
                    return default_answer(request)
                self._sent.add(path)
                return json_answer(events[0])
            case _:
                return default_answer(request)

    async def read(self) -> None:
        """Wait until the agent has read all events."""
        while any(self._events.values()):
            await asyncio.sleep(0.02)

    async def patched(self, *slots: str) -> None:
        """Wait until the agent has sent these patches, and no others, and has read the responses."""
        while len(re.findall(r"Node w: changed|Retrying: PATCH \S+/nodes/w/", self._log.text)) < len(slots):
            assert self.slots == list(slots)[: len(self.slots)]
            await asyncio.sleep(0.02)
        assert self.slots == list(slots)

    def run(self, play: Callable[[], Awaitable[None]]) -> None:
        """Run an agent until `play` ends."""

        async def run_in_time() -> None:
            kube = Kube()
            running = Agent(kube, replace(SETTINGS, require_ready_adaptor=True, count_peer_pods=True), "me")
            task = asyncio.create_task(running.run())
            async with asyncio.timeout(20):
                await play()
            task.cancel()
            await asyncio.wait([task])
            await kube.close()

        asyncio.run(run_in_time())


@pytest.mark.parametrize("pod_first", [False, True])
def test_lowering_a_node_ignores_backoff(scripted, monkeypatch, caplog, pod_first):
    """If cloud-api-adaptor stops while another program keeps writing the node, the free slots are removed."""
    monkeypatch.setattr("peerpods_node_capacity.agent.backoff", lambda _failures: 60)
    monkeypatch.setattr("peerpods_node_capacity.mirror.backoff", lambda *_: 0)
    monkeypatch.setattr("peerpods_node_capacity.agent.RESETS_BEFORE_BACKOFF", 0)
    contested = Contested(caplog)
    patched = contested.patched
    scripted(contested)

    async def play() -> None:
        await patched("3")
        contested.node("3")
        contested.node("1")
        await patched("3", "3")
        # From here on the node is in backoff. The order of the two watches is not defined.
        if pod_first:
            contested.adaptor("False")
            await contested.read()
        contested.node("3")
        await contested.read()
        if not pod_first:
            contested.adaptor("False")
        await patched("3", "3", "1")
        # Backoff applies if another program raises the node again, and when the adaptor is ready again.
        contested.node("1")
        contested.node("9")
        await contested.read()
        contested.node("1")
        contested.adaptor("True")
        await contested.read()
        assert contested.slots == ["3", "3", "1"]
        # When the adaptor stops again, the node is lowered, and once more when the peer pod ends.
        contested.node("9")
        await contested.read()
        contested.adaptor("False")
        await patched("3", "3", "1", "1")
        contested.node("1")
        await contested.read()
        contested.end_pod()
        await patched("3", "3", "1", "1", "0")

    contested.run(play)


def test_a_rejected_patch_that_lowers_a_node_restarts_its_backoff(scripted, monkeypatch, caplog):
    """If the timer of the patch before went on, the rejected one would be repeated too early."""
    # Longer than the test, and different from all other delays.
    waits = [61, 62]
    timers: list[asyncio.TimerHandle] = []
    monkeypatch.setattr("peerpods_node_capacity.agent.backoff", lambda _failures: waits[len(timers)])
    monkeypatch.setattr("peerpods_node_capacity.mirror.backoff", lambda *_: 0)
    monkeypatch.setattr("peerpods_node_capacity.agent.RESETS_BEFORE_BACKOFF", 0)
    contested = Contested(caplog, rejected=[2])
    scripted(contested)

    async def play() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def record(delay: float, *arguments: object) -> asyncio.TimerHandle:
            timer = call_later(delay, *arguments)
            if delay in waits:
                timers.append(timer)
            return timer

        monkeypatch.setattr(loop, "call_later", record)
        await contested.patched("3")
        contested.node("3")
        contested.node("1")
        await contested.patched("3", "3")
        contested.node("3")
        contested.adaptor("False")
        await contested.patched("3", "3", "1")
        assert [timer.cancelled() for timer in timers] == [True, False]

    contested.run(play)


def test_a_rotated_token_is_read_again(scripted, tmp_path):
    valid = "Bearer first"

    def answer(request):
        if request["token"] == valid:
            return default_answer(request)
        return json_answer(status(401, "Unauthorized"), 401)

    scripted(answer)

    async def patch_around_a_rotation() -> None:
        nonlocal valid
        kube = Kube()
        await kube.patch("/api/v1/nodes/a/status", {}, OnlyMetadata)
        valid = "Bearer second"
        (tmp_path / "token").write_text("second")
        await kube.patch("/api/v1/nodes/a/status", {}, OnlyMetadata)
        await kube.close()

    asyncio.run(patch_around_a_rotation())


def test_a_token_that_was_rotated_while_no_file_descriptor_was_left_is_read_again(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr("peerpods_node_capacity.kube.LOGIN_INTERVAL", 0.0)
    scripted(
        lambda request: (
            default_answer(request)
            if request["token"] == "Bearer second"
            else json_answer(status(401, "Unauthorized"), 401)
        )
    )

    async def patch_around_a_shortage() -> None:
        kube = Kube()
        (tmp_path / "token").write_text("second")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(ApiError, match="no response"):
                await kube.patch("/api/v1/nodes/a/status", {}, OnlyMetadata)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await kube.patch("/api/v1/nodes/a/status", {}, OnlyMetadata)
        await kube.close()

    asyncio.run(patch_around_a_shortage())


def test_a_rotated_ca_is_read_again(scripted, tmp_path, caplog):
    """kubelet replaces ca.crt before the API server presents a certificate of the new CA. The CAs have the same name,
    as in OpenShift."""
    old, new = CertificateAuthority("kube-apiserver-signer"), CertificateAuthority("kube-apiserver-signer")
    presented = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def present(authority: CertificateAuthority) -> None:
        pair = authority.server("kube-apiserver", "127.0.0.1")
        (tmp_path / "tls.pem").write_bytes(pair.certificate + pair.key)
        presented.load_cert_chain(tmp_path / "tls.pem")

    api = scripted(default_answer)
    present(old)
    api.socket = presented.wrap_socket(api.socket, server_side=True)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(old.pair.certificate)
    kubeconfig = json.loads((tmp_path / "kubeconfig").read_text())
    kubeconfig["clusters"][0]["cluster"] = {
        "server": f"https://127.0.0.1:{api.server_port}",
        # Relative to the kubeconfig.
        "certificate-authority": "ca.crt",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))

    async def follow_a_rotation() -> None:
        kube = Kube()

        async def request() -> None:
            await anext(kube.pages("/api/v1/nodes", HasMetadata, {}))

        await request()
        ca.write_text("not written completely")
        await request()
        assert "The previous login stays in use." in caplog.text
        ca.write_bytes(old.pair.certificate + new.pair.certificate)
        await request()
        present(new)
        await request()
        # A CA that is withdrawn is no longer trusted.
        ca.write_bytes(old.pair.certificate)
        with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
            await request()
        await kube.close()

    asyncio.run(follow_a_rotation())


def play(scenario: Callable[[Agent], Awaitable[None]]) -> None:
    """Run an agent in this process during the scenario, which may take 20 seconds."""

    async def run_in_time() -> None:
        kube = Kube()
        running = Agent(kube, SETTINGS, "me")
        task = asyncio.create_task(running.run())
        async with asyncio.timeout(20):
            await scenario(running)
        task.cancel()
        await asyncio.wait([task])
        await kube.close()

    asyncio.run(run_in_time())


async def becomes(probe: Callable[[], tuple[bool, str]], expected: bool) -> str:
    while probe()[0] is not expected:
        await asyncio.sleep(0.02)
    return probe()[1]


@pytest.mark.parametrize("lost", ["/api/v1/nodes", CONFIGS, LEASES])
def test_an_agent_that_cannot_follow_a_collection_is_not_ready(scripted, monkeypatch, lost):
    monkeypatch.setattr("peerpods_node_capacity.mirror.LOST_AFTER", 0.3)
    is_served = True

    def answer(request):
        if request["path"] == lost and request["method"] == "GET" and not is_served:
            return json_answer(status(403, "no longer permitted"), 403)
        return default_answer(request)

    scripted(answer)

    async def scenario(agent: Agent) -> None:
        nonlocal is_served
        await becomes(agent.is_ready, True)
        is_served = False
        reason = await becomes(agent.is_ready, False)
        assert reason.startswith(f"not following {lost} for ")
        assert reason.endswith(f"GET {lost} failed: the API server returned 403 Forbidden: no longer permitted")
        # A restart would lose the last valid limits, and would not help.
        assert agent.is_live() == (True, "ok")
        is_served = True
        await becomes(agent.is_ready, True)

    play(scenario)


def test_an_agent_that_cannot_acquire_the_lease_is_not_ready(scripted, monkeypatch):
    short = replace(SETTINGS, lease_duration_seconds=1)
    monkeypatch.setattr(f"{__name__}.SETTINGS", short)
    may_write = False

    def answer(request):
        if request["method"] == "POST" and not may_write:
            return json_answer(status(403, "leases is forbidden"), 403)
        return default_answer(request)

    scripted(answer)

    async def scenario(agent: Agent) -> None:
        nonlocal may_write
        reason = await becomes(agent.is_ready, True)
        reason = await becomes(agent.is_ready, False)
        assert re.match(r"no replica leads for \d+ seconds: POST ", reason)
        may_write = True
        await becomes(agent.is_ready, True)

    play(scenario)


def test_an_agent_that_no_longer_tries_to_follow_a_collection_is_not_live(scripted, monkeypatch):
    monkeypatch.setattr("peerpods_node_capacity.mirror.STUCK_AFTER", 1)
    scripted(default_answer)

    async def scenario(agent: Agent) -> None:
        await becomes(agent.is_ready, True)
        (following,) = (task for task in asyncio.all_tasks() if task.get_name() == "/api/v1/nodes")
        following.cancel()
        # On a busy machine, another one may be late as well.
        while "/api/v1/nodes" not in await becomes(agent.is_live, False):
            await asyncio.sleep(0.02)

    play(scenario)
