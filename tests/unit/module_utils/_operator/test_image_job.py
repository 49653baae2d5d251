from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_job import (
    ImageJob,
    check_job,
    describe_failure,
    describe_log,
    failed_container,
    is_running,
    last_failure,
    redact,
)

from tests.unit.module_utils._operator.objects import NOW, ago

SETTINGS = {
    "CLOUD_PROVIDER": "aws",
    "AWS_REGION": "r",
    "AWS_SUBNET_ID": "s",
    "AWS_VPC_ID": "v",
    "AWS_SG_IDS": "g",
}
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
JOB = {"metadata": {"creationTimestamp": ago(minutes=4)}, "status": {"active": 1}}
FAILED_JOB = {
    **JOB,
    "status": {
        "conditions": [
            {"type": "FailureTarget", "status": "True", "message": "limit"},
            {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"},
        ]
    },
}
FAILURE = "The job osc-podvm-image-creation of the operator, which creates the image of the pod VMs, failed: "


def pod(name="p", phase="Running", **status) -> dict:
    return {"metadata": {"name": name, "creationTimestamp": ago(minutes=3)}, "status": {"phase": phase, **status}}


def attempt(name: str, job: str, **since) -> dict:
    """A failed pod of this job."""
    labels = {"batch.kubernetes.io/controller-uid": job}
    return {
        "metadata": {"name": name, "creationTimestamp": ago(**since), "labels": labels},
        "status": {"phase": "Failed"},
    }


def event(reason="PodVMImageJobFailed", message="m", **since) -> dict:
    return {"reason": reason, "message": message, "metadata": {"creationTimestamp": ago(**since or {"minutes": 2})}}


def checked(settings=None, keys=KEYS, job=None, pods=(), events=(), since="") -> ImageJob:
    return check_job({"data": SETTINGS if settings is None else settings}, keys, job, pods, events, since, NOW)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (JOB, True),
        ({"metadata": {}}, True),
        (FAILED_JOB, False),
        ({**JOB, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}, False),
        # The operator deletes the job when the image exists.
        ({**JOB, "metadata": {"deletionTimestamp": ago(minutes=1), "finalizers": ["orphan"]}}, False),
    ],
    ids=["active", "new", "failed", "completed", "deleted"],
)
def test_whether_a_job_creates_an_image(job: dict, expected: bool):
    assert is_running(job) is expected


class TestAJob:
    def test_only_the_id_of_an_image_is_success(self):
        """A job that has completed has written it; what earlier jobs did is not of interest then."""
        image = checked({**SETTINGS, "PODVM_AMI_ID": "ami-0"}, job=FAILED_JOB, events=[event()])
        assert image == ImageJob("ami-0")

    @pytest.mark.parametrize(
        ("pods", "state"),
        [
            ([pod()], ""),
            ([], " (no pod yet)"),
            ([pod(phase="Failed")], " (the last attempt failed)"),
            (
                [pod(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff"}}}])],
                " (pod p: ImagePullBackOff)",
            ),
            (
                [
                    pod(
                        phase="Pending",
                        conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}],
                    )
                ],
                " (pod p: 0/3 nodes are available)",
            ),
        ],
    )
    def test_a_job_in_progress(self, pods: list[dict], state: str):
        image = checked(job=JOB, pods=pods, events=[event()])
        assert image.is_active
        assert not image.failure
        assert image.status == f"job osc-podvm-image-creation creates the image of the pod VMs{state}"
        assert image.summary == f"{image.status}, for 4 min"

    def test_a_job_that_waits_for_credentials(self):
        """It does so without end."""
        conditions = [{"type": "InsufficientCloudCreds", "status": "True", "message": "s3:GetOcbject is not allowed"}]
        request = {"status": {"conditions": conditions}}
        image = check_job({"data": SETTINGS}, KEYS, JOB, [pod()], [], "", NOW, request)
        assert image.is_active
        assert "(the cloud credential operator grants no credentials: s3:GetOcbject is not allowed)" in image.status
        conditions[0]["status"] = "False"
        assert "grants" not in check_job({"data": SETTINGS}, KEYS, JOB, [pod()], [], "", NOW, request).status

    def test_a_failed_job(self):
        image = checked(job=FAILED_JOB, pods=[pod("old"), pod("new")])
        assert image.failure == (
            f"{FAILURE}Job has reached the specified backoff limit. PODVM_AMI_ID of peer-pods-cm is empty, and without "
            "it no peer pod starts."
        )

    def test_the_log_of_the_first_attempt_has_the_cause(self):
        """The retry fails for a consequence of it. The pods of earlier jobs remain, too."""
        pods = [
            attempt("retry", "new", minutes=1),
            attempt("first", "new", minutes=2),
            attempt("earlier", "old", minutes=9),
        ]
        image = checked(job=FAILED_JOB, pods=pods)
        assert (image.pod, image.last) == (pods[1], pods[0])
        assert checked(pods=pods, events=[event()]).pod == pods[1]

    @pytest.mark.parametrize(("seconds", "failed"), [(10, False), (90, True)])
    def test_a_job_that_completed_without_an_id(self, seconds: int, failed: bool):
        """The operator waits for the ID without end, for example with UPDATE_PEERPODS_CM=no."""
        condition = {"type": "Complete", "status": "True", "lastTransitionTime": ago(seconds=seconds)}
        image = checked(job={**JOB, "status": {"conditions": [condition]}}, pods=[pod(phase="Succeeded")])
        assert bool(image.failure) == failed
        assert image.is_active != failed
        if failed:
            assert "has completed, but PODVM_AMI_ID of peer-pods-cm is empty" in image.failure

    def test_a_failed_job_that_the_operator_has_deleted(self):
        image = checked(pods=[pod()], events=[event("PodVMImageJobRunning", minutes=9), event()])
        assert image.failure.startswith(f"{FAILURE}the operator reported PodVMImageJobFailed.")
        assert image.pod == pod()

    def test_the_failure_of_an_earlier_run(self):
        image = checked(events=[event()], since=ago(minutes=2))
        assert (image.failure, image.summary) == ("", "the operator has not begun to create the image")
        assert checked(events=[event()], since=ago(minutes=3)).failure

    @pytest.mark.parametrize(
        ("settings", "keys", "missing"),
        [
            (SETTINGS, (), "the Secret peer-pods-secret"),
            (SETTINGS, ("AWS_ACCESS_KEY_ID",), "AWS_SECRET_ACCESS_KEY of peer-pods-secret"),
            ({**SETTINGS, "AWS_SG_IDS": ""}, KEYS, "AWS_SG_IDS of peer-pods-cm"),
            ({}, KEYS, "CLOUD_PROVIDER of peer-pods-cm"),
            (
                {"CLOUD_PROVIDER": "azure", "AZURE_RESOURCE_GROUP": "g", "AZURE_REGION": "r"},
                ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID"),
                "AZURE_CLIENT_SECRET of peer-pods-secret",
            ),
        ],
    )
    def test_the_operator_does_not_begin_without_its_settings(self, settings: dict, keys: tuple, missing: str):
        assert checked(settings, keys).summary == f"the operator waits for {missing}"

    def test_credentials_for_tokens_are_complete(self):
        image = checked(keys=("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"))
        assert image.summary == "the operator has not begun to create the image"

    def test_the_last_failure(self):
        events = [event(minutes=9), event(minutes=5), event("PodVMImageJobRunning", minutes=1)]
        assert last_failure(events) == ago(minutes=5)
        assert last_failure([]) == ""


class TestTheDescriptionOfAFailure:
    def test_it_has_the_end_of_the_log_and_the_last_events(self):
        log = "".join(f"line {number}\n" for number in range(40))
        events = [event("BackOff", f"event {number}", minutes=30 - number) for number in range(9)]
        text = describe_failure("It failed.", "p", log, "", events, [])
        assert text.startswith("It failed. The end of the log of pod p:\n  line 25\n")
        assert "line 24" not in text
        assert text.endswith(
            "The last events of the job and the pod:\n" + "\n".join(f"  BackOff: event {n}" for n in range(4, 9))
        )

    @pytest.mark.parametrize(
        ("name", "log", "problem", "expected"),
        [
            ("", None, "", "No pod of the job exists any more, so its log cannot be read."),
            ("p", None, "GET … failed: refused.", "The log of pod p cannot be read: GET … failed: refused."),
            ("p", "", "", "The log of pod p is empty."),
        ],
    )
    def test_a_log_that_cannot_be_read(self, name: str, log: str | None, problem: str, expected: str):
        assert describe_failure("F.", name, log, problem, [], []) == f"F. {expected}"

    def test_a_bucket_that_the_first_attempt_left(self):
        """As ami-helper.sh and `aws s3api create-bucket` print it."""
        retry = (
            "Create s3 Bucket named podvm-image-1.0.1 at eu-central-1\n\nAn error occurred (BucketAlreadyOwnedByYou) "
            "when calling the CreateBucket operation: Your previous request to create the named bucket succeeded and "
            "you already own it.\nFailed to create bucket using the helper script\n"
        )
        first = "Create s3 Bucket named podvm-image-1.0.1 at eu-central-1\nFailed to download the container image\n"
        text = describe_failure("F.", "first", first, "", [], [], retry)
        assert "Failed to download the container image" in text
        assert "The S3 bucket podvm-image-1.0.1 exists" in text
        assert "aws s3 rb s3://podvm-image-1.0.1 --force" in text
        assert "The S3 bucket podvm-image-1.0.1 exists" in describe_failure("F.", "first", retry, "", [], [])
        assert "exists" not in describe_failure("F.", "first", first, "", [], [], first)

    @pytest.mark.parametrize(
        ("log", "last_log", "expected"),
        [
            (
                "Registering AMI with Snapshot snap-0a\nUnauthorizedOperation\nAMI name: a\nAMI ID: \n",
                "",
                "another one: if no AMI uses it, delete it: aws ec2 delete-snapshot --snapshot-id snap-0a.",
            ),
            (
                "Registering AMI with Snapshot snap-0a\nAMI ID: \n",
                "Registering AMI with Snapshot snap-0b\n",
                "imported the snapshots snap-0a, snap-0b and registered no AMI of them.",
            ),
            # It belongs to the AMI.
            ("Registering AMI with Snapshot snap-0a\nAMI ID: ami-1\nFailed to get the ami id\n", "", None),
            ("Import Failed, exiting\n", "", None),
        ],
    )
    def test_a_snapshot_that_the_job_left(self, log: str, last_log: str, expected: str | None):
        """As register_ami of aws-podvm-image-handler.sh prints it."""
        text = describe_failure("F.", "p", log, "", [], [], last_log)
        assert (expected or "") in text
        assert ("delete-snapshot" in text) is (expected is not None)

    def test_a_job_that_runs(self):
        assert describe_log("p", "Waiting for secret\n", "", []) == (
            "The end of the log of pod p:\n  Waiting for secret\n"
        )
        assert describe_log("", None, "", []) == ""

    def test_credentials_are_not_shown(self):
        """Scripts of older releases print each command (set -x)."""
        text = describe_failure(
            "F.", "p", "export KEY=abcdefgh\neu-1\n", "", [event(message="abcdefgh")], ["abcdefgh", "eu-1"]
        )
        assert "abcdefgh" not in text
        assert text.count("(not shown)") == 2
        assert "eu-1" in text

    def test_a_value_within_another_one(self):
        assert redact("abcdefghij abcdefgh", ["abcdefgh", "abcdefghij"]) == "(not shown) (not shown)"

    def test_the_container_that_failed(self):
        failed = {"name": "copy", "state": {"terminated": {"exitCode": 1}}}
        assert failed_container(pod(initContainerStatuses=[failed])) == "copy"
        assert (
            failed_container(pod(initContainerStatuses=[{"name": "copy", "state": {"terminated": {"exitCode": 0}}}]))
            == ""
        )
        assert failed_container(None) == ""
