"""Objects of the API that contain limits."""

from __future__ import annotations

import json

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE


def config(name="ours", namespace="operator", **spec) -> dict:
    return {
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": "7"},
        "spec": spec,
    }


def node(name="n1", quantity: str | None = None, **labels) -> dict:
    allocatable = {} if quantity is None else {EXTENDED_RESOURCE: quantity}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "8", **allocatable}},
    }


def pod(node_name="n1", runtime_class=None, *requests) -> dict:
    return {
        "spec": {
            "nodeName": node_name,
            **({"runtimeClassName": runtime_class} if runtime_class else {}),
            "containers": [{"name": str(i), "resources": {"requests": amounts}} for i, amounts in enumerate(requests)]
            or [{"name": "0", "resources": {}}],
        }
    }


NAMESPACES = {"namespace": "operator", "agent_namespace": "agent", "adaptor_selector": {"kata": ""}}


def entry(limit: object, **selector: str) -> str:
    return json.dumps({"limit": limit, **({"nodeSelector": selector} if selector else {})})


def operators_config(limit: str | None) -> dict:
    return config("peerpodconfig-openshift", limit=limit, nodeSelector={"kata": ""})
