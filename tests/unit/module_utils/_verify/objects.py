"""The evidence about a pod of a verification."""

from __future__ import annotations

NODE = "worker-1"
POD = "peerpods-verify-4f7q2"
INSTANCE = "i-0abc5d1e2f3a4b5c6"


def pod(state: str = "scheduled", **changed: object) -> dict:
    return {
        "name": POD,
        "uid": "3f2b8a0e-6a41-4c1e-9d57-2f3c1b7a9e10",
        "node": None if state == "unscheduled" else NODE,
        "wanted_node": NODE,
        "state": state,
        "slots": "10",
        "node_boot_id": "b00t-of-the-node",
        "requests_slot": True,
        "unscheduled": "",
        "failed": "",
        "waiting": [],
        "ended": [],
        "events": [],
        "instances": [] if state in ("unscheduled", "scheduled") else [INSTANCE],
        "answer": None,
        "answer_error": "",
        "output": {},
        "adaptor": {"pod": "osc-caa-ds-x7k2p", "problem": "", "log": []},
        **changed,
    }


def answered(**tests: dict) -> dict:
    answer = {
        "boot_id": "3f2b8a0e-vm",
        "dns": {"ok": True, "found": ["172.30.0.1"]},
        "service": {"ok": True, "found": "172.30.0.1:443"},
        "egress": {"ok": True, "found": "quay.io:443"},
        **tests,
    }
    return pod("answered", answer=answer)


def sandbox_event(error: str) -> dict:
    """Kubelet's event with the error of the kata shim as CRI-O passes it on (kata-containers/kata-containers#2499)."""
    return event("FailedCreatePodSandBox", f"{SANDBOX}CreateContainer failed: {REMOTE}{error}: unknown")


def event(reason: str, message: str) -> dict:
    return {"type": "Warning", "reason": reason, "message": message}


SANDBOX = "Failed to create pod sandbox: rpc error: code = Unknown desc = "
# src/runtime/virtcontainers/remote.go of kata-containers.
REMOTE = "remote hypervisor call failed: rpc error: code = Unknown desc = "
