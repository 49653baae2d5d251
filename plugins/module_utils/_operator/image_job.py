# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The job with which the operator creates the image of the pod VMs (no I/O here).

After a failed job, the operator deletes the job, continues without an image, and resets its condition InProgress, in
which the failure may never be visible; it runs the job again when it next reconciles (controllers/image_generator.go
and enablePeerPods in controllers/peerpods.go of openshift/sandboxed-containers-operator). What remains is an event, and
the pods of the job. Only the ID of an image in peer-pods-cm shows success: for a job that completed without one, the
operator waits for ever.

A job makes two attempts (backoffLimit 1 in config/peerpods/podvm/osc-podvm-create-job.yaml). Where the job creates its
S3 bucket, the first one leaves it if it fails, and the second one then fails because the bucket exists (create_bucket
in ami-helper.sh): the log of the first one has the cause.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import (
    condition_messages,
    elapsed,
    parse_time,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pod_vm_image import pod_vm_image
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

CREATION_JOB = "osc-podvm-image-creation"
JOB_LABEL = "job-name"

# The labels of a pod with the UID of its job: that of Kubernetes, and the one before 1.27.
JOB_UID_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")

# On AWS, a job whose credentials come from the cloud credential operator requests further ones, and waits for them
# without end (extended_credentials in ami-helper.sh). The conditions that show that they are not granted are those of
# pkg/apis/cloudcredential/v1/types_credentialsrequest.go of openshift/cloud-credential-operator.
CREDENTIALS_REQUEST = "openshift-sandboxed-containers-aws-image"
NOT_GRANTED = ("CredentialsProvisionFailure", "InsufficientCloudCreds", "MissingTargetNamespace")

# How long after the end of a job the ID of its image may be missing.
SETTLE_SECONDS = 60

# What ami-helper.sh and S3 report about a bucket that an earlier attempt has left.
BUCKET_LINE = re.compile(r"Create s3 Bucket named (\S+) at")
BUCKET_EXISTS = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")

# What aws-podvm-image-handler.sh prints when it registers an AMI of the snapshot that it has imported, and the AMI's ID
# after that (register_ami). If EC2 rejects the registration, the ID is empty, and the snapshot stays.
REGISTERS_LINE = re.compile(r"Registering AMI with Snapshot (snap-[0-9a-f]+)")
REGISTERED_LINE = re.compile(r"AMI ID: ami-[0-9a-f]+")

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
    job failed, and no other one was begun since. `pod` is the pod of the job with the log that explains this state:
    that of the first failed attempt if the job failed, else the newest. None without one. `last` is the newest.
    """

    image: str = ""
    summary: str = ""
    status: str = ""
    failure: str = ""
    pod: Mapping[str, Any] | None = None
    last: Mapping[str, Any] | None = None
    is_active: bool = False


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
    request: Mapping[str, Any] | None = None,
) -> ImageJob:
    """The state of the job. `events` are those of the job; those up to `since`, and earlier pods, are of an earlier
    run. `request` is the CredentialsRequest of the job, None if it does not exist."""
    image = pod_vm_image(settings)
    if image["id"]:
        return ImageJob(image["id"])
    attempts = _attempts(pods)
    first, newest = _first_failed(attempts), attempts[-1] if attempts else None
    conditions = _conditions(job)
    if "Failed" in conditions:
        reason = conditions["Failed"].get("message") or conditions["Failed"].get("reason") or "no reason is reported"
        return ImageJob(failure=_failure(image["key"], reason.rstrip(".")), pod=first, last=newest)
    ended = parse_time(conditions.get("Complete", {}).get("lastTransitionTime"))
    if ended and (now - ended).total_seconds() > SETTLE_SECONDS:
        return ImageJob(failure=_without_id(image["key"]), pod=newest, last=newest)
    if job:
        began = parse_time(job["metadata"]["creationTimestamp"])
        what = f"job {CREATION_JOB} creates the image of the pod VMs"
        denied = condition_messages(_status(request).get("conditions"), "True", *NOT_GRANTED)
        state = f"the cloud credential operator grants no credentials: {denied}" if denied else _pod_state(newest)
        status = f"{what} ({state})" if state else what
        return ImageJob(
            summary=f"{status}, {elapsed(began, now)}" if began else status,
            status=status,
            pod=newest,
            last=newest,
            is_active=True,
        )
    if last_failure(events) > since:
        reason = "the operator reported PodVMImageJobFailed"
        return ImageJob(failure=_failure(image["key"], reason), pod=first, last=newest)
    missing = missing_keys(settings, secret_keys)
    waits = f"the operator waits for {missing}" if missing else "the operator has not begun to create the image"
    return ImageJob(summary=waits, status=waits, pod=newest, last=newest)


def _attempts(pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The pods of the newest job, in order; those of earlier jobs remain, too."""
    ordered = sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
    return [pod for pod in ordered if _job_uid(pod) == _job_uid(ordered[-1])]


def _job_uid(pod: Mapping[str, Any]) -> str | None:
    labels = pod["metadata"].get("labels") or {}
    return next((labels[key] for key in JOB_UID_LABELS if key in labels), None)


def _first_failed(attempts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    failed = [pod for pod in attempts if _status(pod).get("phase") == "Failed"]
    return next(iter([*failed, *attempts[-1:]]), None)


def failed_container(pod: Mapping[str, Any] | None) -> str:
    """The container whose log explains why the pod failed; empty for the only one that is not an init container."""
    for status in ((pod or {}).get("status") or {}).get("initContainerStatuses") or ():
        if ((status.get("state") or {}).get("terminated") or {}).get("exitCode"):
            return status["name"]
    return ""


def describe_failure(
    failure: str,
    pod: str,
    log: str | None,
    problem: str,
    events: Iterable[Mapping[str, Any]],
    secrets: Collection[str],
    last_log: str = "",
) -> str:
    """The failure with the end of the log of the pod and its last events.

    `log` is None if it cannot be read, for the reason `problem`. `last_log` is that of the last attempt, if it is
    another pod. `secrets` are not shown.
    """
    parts = [failure, *_log_part(pod, log, problem, secrets)]
    last = sorted(events, key=lambda event: event["metadata"]["creationTimestamp"])[-EVENTS:]
    if last:
        lines = "\n".join(f"  {event.get('reason')}: {event.get('message', '').strip()}" for event in last)
        parts.append(f"The last events of the job and the pod:\n{redact(lines, secrets)}\n")
    if bucket := left_bucket(last_log) or left_bucket(log or ""):
        parts.append(left_bucket_problem(bucket))
    snapshots = dict.fromkeys(each for text in (log or "", last_log) for each in left_snapshots(text))
    if snapshots:
        parts.append(left_snapshot_problem([*snapshots]))
    return " ".join(parts).rstrip()


def describe_log(pod: str, log: str | None, problem: str, secrets: Collection[str]) -> str:
    """The end of the log of a job that has not ended; empty without a pod."""
    return " ".join(_log_part(pod, log, problem, secrets)) if pod else ""


def _log_part(pod: str, log: str | None, problem: str, secrets: Collection[str]) -> Iterator[str]:
    if not pod:
        yield "No pod of the job exists any more, so its log cannot be read."
    elif log is None:
        yield f"The log of pod {pod} cannot be read: {problem.rstrip('.')}."
    elif not log.strip():
        yield f"The log of pod {pod} is empty."
    else:
        lines = "\n".join(f"  {line}" for line in log.rstrip().splitlines()[-LOG_LINES:])
        yield f"The end of the log of pod {pod}:\n{redact(lines, secrets)}\n"


def left_bucket(log: str) -> str:
    """The bucket that this attempt could not create because it exists; empty without one."""
    named = BUCKET_LINE.findall(log)
    return named[-1] if named and any(code in log for code in BUCKET_EXISTS) else ""


def left_bucket_problem(bucket: str) -> str:
    return (
        f"The S3 bucket {bucket} exists, for example because an earlier image job has failed, and every image job that "
        "creates its bucket itself fails because of that. If nothing else uses it, delete it first: aws s3 rb "
        f"s3://{bucket} --force. Or set BUCKET_NAME in operator_install_image_config to the name of a new bucket."
    )


def left_snapshots(log: str) -> Iterator[str]:
    """The snapshots that this attempt imported and registered no AMI of."""
    begins = [*REGISTERS_LINE.finditer(log)]
    for number, begin in enumerate(begins, 1):
        end = begins[number].start() if number < len(begins) else len(log)
        if not REGISTERED_LINE.search(log, begin.end(), end):
            yield begin.group(1)


def left_snapshot_problem(snapshots: Sequence[str]) -> str:
    which, them = ("snapshot", "it") if len(snapshots) == 1 else ("snapshots", "them")
    commands = "; ".join(f"aws ec2 delete-snapshot --snapshot-id {each}" for each in snapshots)
    return (
        f"The job imported the {which} {join_names(snapshots)} and registered no AMI of {them}. The next job imports "
        f"another one: if no AMI uses {them}, delete {them}: {commands}."
    )


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


def _without_id(key: str) -> str:
    return (
        f"The job {CREATION_JOB} of the operator has completed, but {key} of peer-pods-cm is empty, and the operator "
        "waits for it without end: no peer pod starts. UPDATE_PEERPODS_CM in aws-podvm-image-cm or "
        "azure-podvm-image-cm must be yes; after correcting it, delete the job."
    )


def is_running(job: Mapping[str, Any]) -> bool:
    """Whether the job has neither completed nor failed, and is not being deleted.

    The operator deletes the job when the image exists, which is often before the job has completed (deleteJob in
    controllers/image_generator.go of the operator). Nothing completes the job then, and it stays until the garbage
    collector has orphaned its pods.
    """
    return not ({"Complete", "Failed"} & _conditions(job).keys() or "deletionTimestamp" in job["metadata"])


def _conditions(job: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {each["type"]: each for each in _status(job).get("conditions") or () if each["status"] == "True"}


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
