"""`python clients.py LIBRARY NODES`: mirror the fields of nodes that an agent needs, as in LIBRARY's documentation.

Prints "listed" when all NODES are in the mirror. Runs in an environment that has only the library; KUBECONFIG has the
cluster.
"""

from __future__ import annotations

import asyncio
import sys

KEPT: dict[str, tuple] = {}


def keep(name: str, labels: dict, status: dict) -> None:
    new = name not in KEPT
    KEPT[name] = (dict(labels), *(status.get(kind) for kind in ("capacity", "allocatable")))
    if new and len(KEPT) == int(sys.argv[2]):
        print("listed", flush=True)


async def lightkube() -> None:
    from lightkube import AsyncClient
    from lightkube.resources.core_v1 import Node

    def store(node: Node) -> None:
        status = {"capacity": node.status.capacity, "allocatable": node.status.allocatable}
        keep(node.metadata.name, node.metadata.labels, status)

    client = AsyncClient()
    listed = client.list(Node, chunk_size=500)
    async for node in listed:
        store(node)
    version = listed.resourceVersion
    async for _, node in client.watch(Node, resource_version=version):
        store(node)


async def kubernetes_asyncio() -> None:
    from kubernetes_asyncio import client, config, watch

    def store(node: client.V1Node) -> None:
        keep(node.metadata.name, node.metadata.labels, node.status.to_dict())

    await config.load_kube_config()
    async with client.ApiClient() as api:
        core, page = client.CoreV1Api(api), None
        while page is None or page.metadata._continue:
            following = {"_continue": page.metadata._continue} if page else {}
            page = await core.list_node(limit=500, **following)
            for node in page.items:
                store(node)
        events = watch.Watch().stream(core.list_node, resource_version=page.metadata.resource_version)
        async for event in events:
            store(event["object"])


async def kr8s() -> None:
    from kr8s.asyncio import api

    # Without a resourceVersion, a watch begins with all existing nodes.
    async for _, node in (await api()).async_watch("nodes"):
        keep(node.name, node.labels, node.status)


async def kopf() -> None:
    import kopf

    @kopf.on.event("nodes")
    async def store(name: str, labels: dict, status: dict, **_: object) -> None:
        keep(name, labels, status)

    await kopf.operator(standalone=True, clusterwide=True)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]]())
