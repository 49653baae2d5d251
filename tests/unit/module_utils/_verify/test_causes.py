"""Why a peer pod does not run, by messages as the real programs write them.

The chain of an error of EC2: provider.go of cloud-api-adaptor (`creating instance NAME (<nil>): %w`), the SDK for Go
(`operation error EC2: RunInstances, https response error StatusCode: 403, …`, quoted in
DataDog/stratus-red-team#387), cloud.go (`creating an instance : %w`), remote.go of kata, CRI-O, kubelet. That of Azure:
azure/provider.go (`Creating instance (<nil>): %s`), the SDK's ResponseError (quoted in cloud-barista/cb-spider#1558).
"""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._verify.causes import KINDS, RULES, diagnose, lines_of

from .objects import INSTANCE, POD, REMOTE, SANDBOX, event, pod, sandbox_event

VM = "podvm-peerpods-verify-4f7q2-1f0c8a6b"
RULE = "-" * 80


def ec2(code: str, message: str, status: int = 400) -> str:
    return (
        f"creating an instance : creating instance {VM} (<nil>): operation error EC2: RunInstances, https response "
        f"error "
        f"StatusCode: {status}, RequestID: 993a3d41-5543-43ff-850e-dd3a79685bd5, api error {code}: {message}"
    )


def arm(status: str, code: str, message: str) -> str:
    group = "https://management.azure.com/subscriptions/0/resourceGroups/g"
    url = f"{group}/providers/Microsoft.Compute/virtualMachines/{VM}"
    body = f'{{\n  "error": {{\n    "code": "{code}",\n    "message": "{message}"\n  }}\n}}'
    return (
        f"creating an instance : Creating instance (<nil>): beginning VM creation or update: PUT {url}\n{RULE}\n"
        f"RESPONSE {status}\nERROR CODE: {code}\n{RULE}\n{body}\n{RULE}\n"
    )


# By kind: what cloud-api-adaptor returns, with the public source of the cloud's message.
CREATING = [
    # docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html; also moto's ec2/exceptions.py.
    ("image", ec2("InvalidAMIID.NotFound", "The image id '[ami-0123456789abcdef0]' does not exist")),
    # Orange-Cyberdefense/GOAD#304.
    ("image", ec2("AuthFailure", "Not authorized for images: [ami-03a5b89a2fbe7dd3d]")),
    (
        "image",
        ec2(
            "InvalidParameterValue",
            "The architecture 'x86_64' of the specified instance type does not match the architecture 'arm64' of the "
            "specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
        ),
    ),
    # sky333999 in aws/amazon-cloudwatch-agent-test#256.
    (
        "quota",
        ec2(
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of 32 allows for the instance bucket "
            "that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to "
            "request an adjustment to this limit.",
        ),
    ),
    # commonwarexyz/monorepo#2859.
    (
        "capacity",
        ec2(
            "InsufficientInstanceCapacity",
            "We currently do not have sufficient t4g.xlarge capacity in the Availability Zone you requested "
            "(eu-north-1a). Our system will be working on provisioning additional capacity.",
            500,
        ),
    ),
    (
        "capacity",
        ec2(
            "Unsupported",
            "Your requested instance type (m6a.large) is not supported in your requested Availability Zone "
            "(us-east-1e). Please retry your request by not specifying an Availability Zone or choosing us-east-1a.",
        ),
    ),
    (
        "capacity",
        ec2(
            "InsufficientFreeAddressesInSubnet",
            "There are not enough free addresses in subnet 'subnet-0f3a5b1c2d4e6f708' to satisfy the requested number "
            "of instances.",
        ),
    ),
    # DataDog/stratus-red-team#387.
    (
        "permissions",
        ec2(
            "UnauthorizedOperation",
            "You are not authorized to perform this operation. Encoded authorization failure message: qoYeuy5DNQMk_k7",
            403,
        ),
    ),
    ("permissions", ec2("AuthFailure", "AWS was not able to validate the provided access credentials", 401)),
    ("permissions", ec2("RequestExpired", "Request has expired.")),
    ("settings", ec2("InvalidSubnetID.NotFound", "The subnet ID 'subnet-0' does not exist")),
    ("settings", ec2("InvalidGroup.NotFound", "The security group 'sg-0' does not exist in VPC 'vpc-0'")),
    # src/cloud-providers/util.go of cloud-api-adaptor.
    (
        "settings",
        "creating an instance : failed to verify instance type: requested instance type not part of supported",
    ),
    # cloud-barista/cb-spider#1558.
    (
        "quota",
        arm(
            "409: 409 Conflict",
            "OperationNotAllowed",
            "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. "
            "Additional "
            "details - Deployment Model: Resource Manager, Location: KoreaSouth, Current Limit: 50, Current Usage: 50, "
            "Additional Required: 2, (Minimum) New Limit Required: 52.",
        ),
    ),
    # Azure-Samples/azuresandbox#70.
    (
        "capacity",
        arm(
            "409: 409 Conflict",
            "SkuNotAvailable",
            "The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: Standard_B2s' "
            "is "
            "currently not available in location 'eastus'. Please try another size or deploy to a different location "
            "or different zone. See https://aka.ms/azureskunotavailable for details.",
        ),
    ),
    # learn.microsoft.com/troubleshoot/azure/virtual-machines/allocation-failure.
    (
        "capacity",
        arm(
            "200: 200 OK", "AllocationFailed", "Allocation failed. We do not have sufficient capacity for the requested"
        ),
    ),
    # confidential-containers/cloud-api-adaptor#1453, with another action.
    (
        "permissions",
        arm(
            "403: 403 Forbidden",
            "AuthorizationFailed",
            "The client 'c' with object id 'o' does not have authorization to perform action "
            "'Microsoft.Compute/virtualMachines/write' over scope '/subscriptions/s' or the scope is invalid. If "
            "access "
            "was recently granted, please refresh your credentials.",
        ),
    ),
    (
        "permissions",
        (
            "creating an instance : Creating instance (<nil>): beginning VM creation or update: "
            "ClientSecretCredential authentication failed. POST https://login.microsoftonline.com/t/oauth2/v2.0/token "
            "RESPONSE 401 Unauthorized: AADSTS7000215: Invalid client secret provided."
        ),
    ),
    (
        "image",
        arm(
            "404: 404 Not Found",
            "GalleryImageNotFound",
            "The gallery image "
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/PodVMGallery/images/"
            "podvm/versions/1.0.0 is not available in westeurope region. Please contact image owner to replicate to "
            "this "
            "region, or change your requested region.",
        ),
    ),
    (
        "image",
        arm(
            "404: 404 Not Found",
            "ResourceNotFound",
            "The Resource 'Microsoft.Compute/galleries/PodVMGallery/images/podvm/versions/1.0.0' under resource group "
            "'g' "
            "was not found.",
        ),
    ),
    (
        "capacity",
        arm("400: 400 Bad Request", "SubnetIsFull", "Subnet s does not have enough capacity for 1 IP addresses."),
    ),
    (
        "settings",
        arm("404: 404 Not Found", "ResourceGroupNotFound", "Resource group 'g' could not be found."),
    ),
]


@pytest.mark.parametrize(("kind", "error"), CREATING)
def test_a_rejected_creation(kind: str, error: str):
    cause = diagnose(pod(events=[sandbox_event(error)]))
    assert (cause.kind, cause.source, cause.is_final) == (kind, "event FailedCreatePodSandBox", True)
    # The quote has the code of the cloud.
    assert "api error" not in error or error.partition("api error ")[2].partition(":")[0] in cause.quote


@pytest.mark.parametrize(("kind", "error"), CREATING)
def test_the_log_has_the_cause_if_kubelet_reports_a_timeout_only(kind: str, error: str):
    """Kubelet gives up before the shim (kata-containers/kata-containers#1679)."""
    line = f"2026/11/30 08:32:54 [adaptor/cloud] error starting instance: {error}".replace("\n", " ")
    deadline = event("FailedCreatePodSandBox", "Failed to create pod sandbox: context deadline exceeded")
    adaptor = {"pod": "osc-caa-ds-x7k2p", "problem": "", "log": [line]}
    cause = diagnose(pod(events=[deadline], adaptor=adaptor))
    assert (cause.kind, cause.source) == (kind, "the log of osc-caa-ds-x7k2p")


# pkg/adaptor/proxy/proxy.go.
FAILED = (
    "error connecting to agent: failed to establish agent proxy connection to 10.0.1.5:15150: context deadline exceeded"
)
RETRY = "2026/11/30 08:33:04 [adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.1.5:15150: {}"
DROPPED, REFUSED = RETRY.format("i/o timeout"), RETRY.format("connect: connection refused")
UNTRUSTED = (
    "2026/11/30 08:33:04 [adaptor/proxy] Retrying failed agent proxy connection: tls: failed to verify certificate"
)


@pytest.mark.parametrize("events", [[], [sandbox_event(FAILED)]])
@pytest.mark.parametrize(
    ("kind", "log"),
    [
        ("port", [DROPPED]),
        ("port", [REFUSED, DROPPED]),
        # A VM drops packets until its system runs, and refuses connections until the forwarder listens.
        ("agent", [DROPPED, DROPPED, REFUSED]),
        ("agent", [DROPPED, UNTRUSTED]),
    ],
)
def test_the_last_connection_decides_between_port_and_agent(kind: str, log: list[str], events: list[dict]):
    cause = diagnose(pod("booting", events=events, adaptor={"pod": "caa", "problem": "", "log": log}))
    assert (cause.kind, cause.source) == (kind, "the log of caa")


def test_without_the_log_an_unreachable_vm_is_reported_as_unreachable():
    assert diagnose(pod("booting", events=[sandbox_event(FAILED)])).kind == "port"
    assert diagnose(pod("booting")).kind == "port"


@pytest.mark.parametrize(
    "console",
    [
        "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        'You are in emergency mode. After logging in, type "journalctl -xb" to view system logs',
        "dracut-initqueue[389]: Warning: dracut-initqueue: timeout, still waiting for following initqueue hooks:",
        'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0): Not Found',
        "[FAILED] Failed to start agent-protocol-forwarder.service - Agent Protocol Forwarder.",
        "systemd[1]: kata-agent.service: Main process exited, code=exited, status=1/FAILURE",
    ],
)
def test_a_console_of_a_failed_boot_explains_a_vm_that_does_not_answer(console: str):
    """The port may be closed as well, but only the image can be fixed first."""
    instances = [{"id": INSTANCE, "state": "running", "console": f"[    0.0] Linux version 5.14\n{console}\nend"}]
    adaptor = {"pod": "caa", "problem": "", "log": [DROPPED]}
    cause = diagnose(pod("booting", adaptor=adaptor), instances)
    assert (cause.kind, cause.quote, cause.source) == ("agent", console, f"the console of {INSTANCE}")


def test_a_console_does_not_explain_a_failed_pull():
    instances = [{"id": INSTANCE, "state": "running", "console": "Kernel panic - not syncing"}]
    assert diagnose(pod("pulling", events=[event("Failed", PULL.format(DNS))]), instances).kind == "egress"


# The kata agent's error, quoted in kata-containers' tests and in confidential-containers/cloud-api-adaptor#2516.
PULL = (
    'Error: CreateContainer failed: rpc status: Status {{ code: INTERNAL, message: "[CDH] [ERROR]: Image Pull error: '
    "Failed "
    "to pull image quay.io/a/b:1 from all mirror/mapping locations or original location: image: quay.io/a/b:1, error: "
    'Errors happened when pulling image: failed to pull image manifest: {}", details: [] }}: unknown'
)
# oci-client's and reqwest's errors (confidential-containers/guest-components#749, #1033).
DNS = "error sending request for url (https://quay.io/v2/): client error (Connect): dns error: failed to lookup address"


@pytest.mark.parametrize(
    ("kind", "reason", "message"),
    [
        ("egress", "Failed", PULL.format(DNS)),
        ("egress", "Failed", PULL.format("error sending request for url (https://quay.io/v2/a/b/manifests/1)")),
        (
            "egress",
            "Failed",
            PULL.format("client error (Connect): tcp connect error: Connection timed out (os error 110)"),
        ),
        ("pull", "Failed", PULL.format("Not authorized: url https://quay.io/v2/a/b/manifests/1")),
        ("pull", "Failed", PULL.format("Registry error: url https://quay.io/v2, envelope: manifest unknown")),
        # Of the node, which pulls as well: cri-o/cri-o#7471.
        (
            "pull",
            "Failed",
            (
                'Failed to pull image "quay.io/a/b:1": initializing source docker://quay.io/a/b:1: reading manifest 1 '
                "in "
                "quay.io/a/b: unauthorized: access to the requested resource is not authorized"
            ),
        ),
        (
            "egress",
            "Failed",
            (
                'Failed to pull image "quay.io/a/b:1": pinging container registry quay.io: Get "https://quay.io/v2/": '
                "dial tcp: "
                "lookup quay.io on 10.0.0.2:53: no such host"
            ),
        ),
        # openshift/sandboxed-containers-operator#426.
        ("pull", "Failed", "Pulling image separately not support on main. It is required to use the nydus-snapshotter"),
    ],
)
def test_a_failed_pull(kind: str, reason: str, message: str):
    cause = diagnose(pod("pulling", events=[event(reason, message)]))
    assert (cause.kind, cause.is_final) == (kind, True)


def test_a_pull_that_only_the_status_of_the_container_reports():
    waiting = [{"reason": "CreateContainerError", "message": PULL.format(DNS)}]
    assert diagnose(pod("pulling", waiting=waiting)).source == "the status of the container"


@pytest.mark.parametrize(
    "message",
    [
        (
            f"{SANDBOX}CreateContainer failed: dial unix /run/peerpod/hypervisor.sock: connect: connection refused: "
            f"unknown"
        ),
        f"{SANDBOX}CreateContainer failed: dial unix /run/peerpod/hypervisor.sock: connect: no such file or directory",
        # confidential-containers/cloud-api-adaptor#933.
        (
            "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime "
            "for "
            '"kata-remote" is configured'
        ),
    ],
)
def test_cloud_api_adaptor_may_start_later(message: str):
    cause = diagnose(pod(events=[event("FailedCreatePodSandBox", message)]))
    assert (cause.kind, cause.is_final) == ("adaptor", False)


def test_a_pod_without_events_on_a_node_without_cloud_api_adaptor():
    problem = "No cloud-api-adaptor pod is on worker-1."
    cause = diagnose(pod(adaptor={"pod": None, "problem": problem, "log": []}))
    assert (cause.kind, cause.quote, cause.is_final) == ("adaptor", problem, False)


def test_a_pod_without_a_slot():
    message = "0/3 nodes are available: 1 Insufficient kata.peerpods.io/vm, 2 node(s) didn't match Pod's node affinity."
    cause = diagnose(pod("unscheduled", unscheduled=message))
    assert (cause.kind, cause.quote, cause.is_final) == ("slot", message, False)


# What the API server returns for a pod that its proxy does not reach.
UNREACHED = (
    "GET /…/proxy/ was rejected by the API server with 503 …: error trying to reach service: dial tcp 10.1.2.3:8080: {}"
)


@pytest.mark.parametrize(("kind", "error"), [("tunnel", "i/o timeout"), ("program", "connect: connection refused")])
def test_a_container_that_runs_and_does_not_answer(kind: str, error: str):
    assert diagnose(pod("running", answer_error=UNREACHED.format(error))).kind == kind


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        # kata-containers/kata-containers#9028 (CRI-O) and #10497 (containerd).
        ("Failed", "Error: CreateContainer failed: the file python3 was not found: unknown"),
        (
            "Failed",
            "Error: failed to create containerd task: failed to create shim task: the file python3 was not found",
        ),
        # pkg/kubelet/kuberuntime/kuberuntime_manager.go of kubernetes/kubernetes.
        ("BackOff", f"Back-off restarting failed container verify in pod {POD}_demo(3f2b8a0e)"),
    ],
)
def test_a_program_that_does_not_start_or_ends(reason: str, message: str):
    cause = diagnose(pod("pulling", events=[event(reason, message)]))
    assert (cause.kind, cause.quote, cause.is_final) == ("program", message, True)


def test_another_error_is_quoted_and_may_pass():
    """The network of the node was not ready."""
    message = f"{SANDBOX}failed to create pod network sandbox: CNI request failed: not ready"
    cause = diagnose(pod(events=[event("FailedCreatePodSandBox", message)]))
    assert (cause.kind, cause.quote, cause.is_final) == ("unknown", message, False)


@pytest.mark.parametrize("state", ["scheduled", "pulling"])
def test_a_pod_that_has_not_failed_yet_has_no_cause(state: str):
    assert (
        diagnose(pod(state, events=[{"type": "Normal", "reason": "Scheduled", "message": "Successfully assigned"}]))
        is None
    )


def test_a_long_message_is_cut_around_what_decides():
    cause = diagnose(pod(events=[sandbox_event("x " * 2000 + CREATING[0][1] + " y" * 2000)]))
    assert "InvalidAMIID.NotFound" in cause.quote
    assert len(cause.quote) < 700


def test_every_rule_has_a_kind():
    assert {kind for kind, _pattern in RULES} <= KINDS.keys()
    assert REMOTE in sandbox_event("")["message"]


# The log of two pods of one node: formats of cloud.go, aws/provider.go, azure/provider.go and proxy.go.
AWS_LOG = f"""\
2026/11/30 08:30:00 [adaptor/cloud] create a sandbox 1f0c8a6bdd for pod {POD} in namespace demo (netns: /run/netns/a)
2026/11/30 08:30:00 [adaptor/cloud] create a sandbox 9e9e9e9e00 for pod other in namespace demo (netns: /run/netns/b)
2026/11/30 08:30:01 [adaptor/cloud/aws] Creating instance {VM} for sandbox 1f0c8a6bdd
2026/11/30 08:30:02 [adaptor/cloud/aws] Created instance {VM} ({INSTANCE}) for sandbox 1f0c8a6bdd
2026/11/30 08:30:02 [adaptor/cloud/aws] instance {INSTANCE}: podNodeIP[0]=10.0.1.5
2026/11/30 08:30:02 [adaptor/cloud/aws] instance i-other: podNodeIP[0]=10.0.1.50
2026/11/30 08:30:03 [adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.1.5:15150: i/o timeout
2026/11/30 08:30:03 [adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.1.50:15150: i/o timeout
"""
AZURE_LOG = f"""\
2026/11/30 08:30:00 [adaptor/cloud] create a sandbox 1f0c8a6bdd for pod {POD} in namespace demo (netns: /run/netns/a)
2026/11/30 08:30:01 [adaptor/cloud/azure] CreateInstance: name: "{VM}"
2026/11/30 08:30:02 [adaptor/cloud/azure] pod vm IP[0][private]=10.0.128.9
2026/11/30 08:30:02 [adaptor/cloud] created an instance {VM} for sandbox 1f0c8a6bdd
2026/11/30 08:30:02 [adaptor/cloud/azure] pod vm IP[0][private]=10.0.128.10
2026/11/30 08:30:03 [adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.128.9:15150: i/o timeout
2026/11/30 08:30:03 [adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.128.10:15150: i/o timeout
"""


def test_an_error_of_several_lines_is_one_line():
    error = next(error for kind, error in CREATING if "SkuNotAvailable" in error)
    other = "2026/11/30 08:30:09 [adaptor/cloud] create a sandbox 9 for pod another in namespace demo"
    (line,) = lines_of(f"2026/11/30 08:30:03 [adaptor/cloud] error starting instance: {error}\n{other}\n", POD)
    assert diagnose(pod(adaptor={"pod": "caa", "problem": "", "log": [line]})).kind == "capacity"


@pytest.mark.parametrize(
    ("log", "others"), [(AWS_LOG, ("pod other", "i-other", "10.0.1.50:")), (AZURE_LOG, ("10.0.128.10",))]
)
def test_the_log_is_reduced_to_the_lines_of_the_pod(log: str, others: tuple[str, ...]):
    expected = [line for line in log.splitlines() if not any(other in line for other in others)]
    assert lines_of(log, POD) == expected
