# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The job with which the operator creates the image of the pod VMs (no I/O here).

After a failed job, the operator deletes the job, continues without an image, and resets its condition InProgress, in
which the failure may never be visible; it runs the job again when it next reconciles (controllers/image_generator.go
and enablePeerPods in controllers/peerpods.go of openshift/sandboxed-containers-operator). What remains is an event, and
the pods of the job. Only the ID of an image in peer-pods-cm shows success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import elapsed, parse_time

CREATION_JOB = "osc-podvm-image-creation"
JOB_LABEL = "job-name"

# The key of peer-pods-cm with the ID of the image, by the value of CLOUD_PROVIDER.
IMAGE_KEYS = {"aws": "PODVM_AMI_ID", "azure": "AZURE_IMAGE_ID"}

# The keys without which the operator does not begin (validatePeerPodsConfigs): of peer-pods-cm, and of peer-pods-secret
# the alternatives, of which newer releases take the second one, for tokens.
REQUIRED = {
    "aws": (
        ("AWS_REGION", "AWS_SUBNET_ID", "AWS_VPC_ID", "AWS_SG_IDS"),
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")),
    ),
    "azure": (
        ("AZURE_RESOURCE_GROUP", "AZURE_REGION"),
        (
            ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_SUBSCRIPTION_ID"),
            ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_FEDERATED_TOKEN_FILE"),
        ),
    ),
}

FAILED = "PodVMImageJobFailed"

# How many lines of a log and how many events a message has.
LOG_LINES = 15
EVENTS = 5

HIDDEN = "(not shown)"

IMAGE_REMEDY = (
    "Fix the cause, then run the playbook again, which makes the operator create the image again. To use an image that "
    "exists, set operator_install_podvm_ami_id or operator_install_azure_image_id."
)


@dataclass(frozen=True)
class ImageJob:
    """What is known about the creation of the image.

    `image` is its ID, empty without one. `summary` and `status` are as in Progress. `failure` is a sentence if the last
    job failed, and no other one was begun since. `pod` is the newest pod of the job, None without one.
    """

    image: str = ""
    summary: str = ""
    status: str = ""
    failure: str = ""
    pod: Mapping[str, Any] | None = None
    is_active: bool = False


def pod_vm_image(settings: Mapping[str, Any] | None) -> dict:
    """The key of peer-pods-cm that holds the ID of the pod VM image, and the ID, empty if there is no image."""
    data = (settings or {}).get("data") or {}
    key = IMAGE_KEYS.get(data.get("CLOUD_PROVIDER", ""), IMAGE_KEYS["aws"])
    return {"key": key, "id": data.get(key, "")}


def last_failure(events: Iterable[Mapping[str, Any]]) -> str:
    """When the operator last reported a failed job, as the API server recorded it; empty if it has not."""
    return max(
        (event["metadata"]["creationTimestamp"] for event in events if event.get("reason") == FAILED), default=""
    )


def check_job(
    settings: Mapping[str, Any] | None,
    secret_keys: Iterable[str],
    job: Mapping[str, Any] | None,
    pods: Iterable[Mapping[str, Any]],
    events: Iterable[Mapping[str, Any]],
    since: str,
    now: datetime,
) -> ImageJob:
    """The state of the job. `events` are those of the job; those up to `since`, and earlier pods, are of an earlier
    run."""
    image = pod_vm_image(settings)
    if image["id"]:
        return ImageJob(image["id"])
    newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
    conditions = {each["type"]: each for each in _status(job).get("conditions") or () if each["status"] == "True"}
    if "Failed" in conditions:
        reason = conditions["Failed"].get("message") or conditions["Failed"].get("reason") or "no reason is reported"
        return ImageJob(failure=_failure(image["key"], reason.rstrip(".")), pod=newest)
    if job:
        began = parse_time(job["metadata"]["creationTimestamp"])
        what = f"job {CREATION_JOB} creates the image of the pod VMs"
        state = _pod_state(newest)
        status = f"{what} ({state})" if state else what
        return ImageJob(
            summary=f"{status}, {elapsed(began, now)}" if began else status, status=status, pod=newest, is_active=True
        )
    if last_failure(events) > since:
        return ImageJob(failure=_failure(image["key"], "the operator reported PodVMImageJobFailed"), pod=newest)
    missing = missing_keys(settings, secret_keys)
    waits = f"the operator waits for {missing}" if missing else "the operator has not begun to create the image"
    return ImageJob(summary=waits, status=waits, pod=newest)


def failed_container(pod: Mapping[str, Any] | None) -> str:
    """The container whose log explains why the pod failed; empty for the only one that is not an init container."""
    for status in ((pod or {}).get("status") or {}).get("initContainerStatuses") or ():
        if ((status.get("state") or {}).get("terminated") or {}).get("exitCode"):
            return status["name"]
    return ""


def describe_failure(
    failure: str, pod: str, log: str | None, problem: str, events: Iterable[Mapping[str, Any]], secrets: Iterable[str]
) -> str:
    """The failure with the end of the log of the pod and its last events.

    `log` is None if it cannot be read, for the reason `problem`. `secrets` are not shown.
    """
    parts = [failure]
    if not pod:
        parts.append("No pod of the job exists any more, so its log cannot be read.")
    elif log is None:
        parts.append(f"The log of pod {pod} cannot be read: {problem.rstrip('.')}.")
    elif not log.strip():
        parts.append(f"The log of pod {pod} is empty.")
    else:
        lines = "\n".join(f"  {line}" for line in log.rstrip().splitlines()[-LOG_LINES:])
        parts.append(f"The end of the log of pod {pod}:\n{redact(lines, secrets)}\n")
    last = sorted(events, key=lambda event: event["metadata"]["creationTimestamp"])[-EVENTS:]
    if last:
        lines = "\n".join(f"  {event.get('reason')}: {event.get('message', '').strip()}" for event in last)
        parts.append(f"The last events of the job and the pod:\n{redact(lines, secrets)}\n")
    return " ".join(parts).rstrip()


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without these values. Short ones are words of the log, not secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 8:
            text = text.replace(secret, HIDDEN)
    return text


def _failure(key: str, reason: str) -> str:
    return (
        f"The job {CREATION_JOB} of the operator, which creates the image of the pod VMs, failed: {reason}. {key} of "
        "peer-pods-cm is empty, and without it no peer pod starts."
    )


def _status(job: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return (job or {}).get("status") or {}


def _pod_state(pod: Mapping[str, Any] | None) -> str:
    """Why the pod does not run, or that an attempt failed; empty while it runs."""
    if pod is None:
        return "no pod yet"
    status = pod.get("status") or {}
    waiting = next(
        (
            state["waiting"]
            for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
            if (state := container.get("state") or {}).get("waiting")
        ),
        None,
    )
    if waiting:
        return f"pod {pod['metadata']['name']}: {waiting.get('message') or waiting.get('reason')}"
    unscheduled = next(
        (
            each
            for each in status.get("conditions") or ()
            if each["type"] == "PodScheduled" and each["status"] == "False" and each.get("message")
        ),
        None,
    )
    if unscheduled:
        return f"pod {pod['metadata']['name']}: {unscheduled['message']}"
    return "the last attempt failed" if status.get("phase") == "Failed" else ""


def missing_keys(settings: Mapping[str, Any] | None, secret_keys: Iterable[str]) -> str:
    """The keys of peer-pods-cm and peer-pods-secret that the operator needs for an image job, empty if it has all."""
    data = (settings or {}).get("data") or {}
    required = REQUIRED.get(data.get("CLOUD_PROVIDER", ""))
    if required is None:
        return "CLOUD_PROVIDER of peer-pods-cm" if settings else "the ConfigMap peer-pods-cm"
    of_settings, alternatives = required
    missing = [key for key in of_settings if not data.get(key)]
    if missing:
        return f"{', '.join(missing)} of peer-pods-cm"
    known = {*secret_keys}
    if not known:
        return "the Secret peer-pods-secret"
    if any({*keys} <= known for keys in alternatives):
        return ""
    closest = min(alternatives, key=lambda keys: len({*keys} - known))
    return f"{', '.join(key for key in closest if key not in known)} of peer-pods-secret"
