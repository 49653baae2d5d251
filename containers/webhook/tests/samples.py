"""A sample pod and the AdmissionReview of its creation."""

from __future__ import annotations


def pod(cpu: str = "1", runtime_class: str = "kata-remote") -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "demo-", "namespace": "team"},
        "spec": {
            "runtimeClassName": runtime_class,
            "containers": [
                {
                    "name": "app",
                    "env": [{"name": "TOKEN", "value": "s3cret"}],
                    "resources": {"requests": {"cpu": cpu}},
                }
            ],
        },
    }


def review(version: str = "v1", **request) -> dict:
    return {
        "apiVersion": f"admission.k8s.io/{version}",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": "team",
            "object": pod(),
            "oldObject": None,
            "dryRun": False,
            **request,
        },
    }
