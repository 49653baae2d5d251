"""Why a peer pod does not run, by messages as the real programs write them.

The chain of an error of EC2: provider.go of cloud-api-adaptor (`creating instance NAME (<nil>): %w`), the SDK for Go
(`operation error EC2: RunInstances, https response error StatusCode: 403, …`, quoted in
DataDog/stratus-red-team#387), cloud.go (`creating an instance : %w`), remote.go of kata, CRI-O, kubelet. That of Azure:
azure/provider.go (`Creating instance (<nil>): %s`), the SDK's ResponseError (quoted in cloud-barista/cb-spider#1558).
"""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._verify.causes import RULES, diagnose, is_settled, lines_of
from ansible_collections.osc.peerpods.plugins.module_utils._verify.kinds import KINDS

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
    # RhinoSecurityLabs/cloudgoat#247.
    (
        "image",
        ec2(
            "InvalidParameterValue",
            "The t2.micro instance type does not support an AMI with a boot mode of UEFI. Only instance types built on "
            "the Nitro System support UEFI. Specify an instance type that supports UEFI, and try again.",
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
    # docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html.
    (
        "quota",
        ec2("InstanceLimitExceeded", "Your quota allows for 0 more running instance(s). You requested at least 1"),
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
    # aws/aws-parallelcluster-node#415.
    (
        "capacity",
        ec2(
            "SpotMaxPriceTooLow",
            "Your Spot request price of 0.001 is lower than the minimum required Spot request fulfillment price of "
            "0.0374.",
        ),
    ),
    # The role of a token: aws-sdk-go-v2's WebIdentityRoleProvider, with the answer of STS in
    # sentry-kubernetes/charts#514.
    (
        "permissions",
        (
            f"creating an instance : creating instance {VM} (<nil>): operation error EC2: RunInstances, get identity: "
            "get credentials: failed to refresh cached credentials, failed to retrieve credentials, operation error "
            "STS: AssumeRoleWithWebIdentity, https response error StatusCode: 403, RequestID: 0, api error "
            "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"
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
    # The same file, for the annotations of a pod.
    (
        "settings",
        (
            "creating an instance : failed to get instance type based on vCPU and memory annotations: no instance type "
            "found for the given vcpus (2) and memory (18432)"
        ),
    ),
    # hashicorp/terraform#10056.
    (
        "quota",
        arm(
            "409: 409 Conflict",
            "OperationNotAllowed",
            "Operation results in exceeding quota limits of Core. Maximum allowed: 20, Current in use: 20, Additional "
            "requested: 2.",
        ),
    ),
    # openshift/openshift-azure#2252.
    (
        "quota",
        arm(
            "400: 400 Bad Request",
            "PublicIPCountLimitReached",
            "Cannot create more than 20 public IP addresses for this subscription in this region.",
        ),
    ),
    # jenkins-infra/helpdesk#3584.
    (
        "capacity",
        arm(
            "200: 200 OK",
            "OverconstrainedZonalAllocationRequest",
            "Allocation failed. VM(s) with the following constraints cannot be allocated, because the condition is too "
            "restrictive. Please remove some constraints and try again. Constraints applied are: Availability Zone",
        ),
    ),
    # loft-sh/devpod#731.
    (
        "image",
        arm(
            "400: 400 Bad Request",
            "BadRequest",
            "The selected VM size 'Standard_NC24ads_A100_v4' cannot boot Hypervisor Generation '1'. If this was a "
            "Create operation please check that the Hypervisor Generation of the Image matches the Hypervisor "
            "Generation of the selected VM Size.",
        ),
    ),
    # Azure/azure-cli#32417.
    (
        "permissions",
        arm(
            "403: 403 Forbidden", "RequestDisallowedByPolicy", "Resource 'my-vmVMNic' was disallowed by policy. Policy"
        ),
    ),
    # Azure/azure-sdk-for-java#2560.
    (
        "permissions",
        arm(
            "409: 409 Conflict",
            "ScopeLocked",
            f"The scope '/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/{VM}' cannot "
            "perform write operation because following scope(s) are locked: '/subscriptions/s/resourceGroups/g'. "
            "Please remove the lock and try again.",
        ),
    ),
    # Azure/azure-workload-identity#1200.
    (
        "permissions",
        (
            "creating an instance : Creating instance (<nil>): beginning VM creation or update: "
            "WorkloadIdentityCredential authentication failed. POST https://login.microsoftonline.com/t/oauth2/v2.0/"
            "token RESPONSE 401 Unauthorized: AADSTS700213: No matching federated identity record found for presented "
            "assertion subject 'system:serviceaccount:n:default'. Check your federated identity credential Subject, "
            "Audience and Issuer against the presented assertion."
        ),
    ),
    # F5Networks/terraform-azure-bigip-module#68.
    (
        "agent",
        arm(
            "200: 200 OK",
            "OSProvisioningTimedOut",
            f"OS Provisioning for VM '{VM}' did not finish in the allotted time. The VM may still finish provisioning "
            "successfully. Please check provisioning state later.",
        ),
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


# The chain of a request without an answer: aws/smithy-go's transport/http/client.go (`request send failed, %v`), and
# net/http's as in hashicorp/terraform-provider-aws#40465 and Azure-Samples/azure-fastapi-postgres-flexible-aca#54.
SENDING = (
    "operation error EC2: {}, exceeded maximum number of attempts, 3, https response error StatusCode: 0, RequestID: , "
    'request send failed, Post "https://ec2.us-east-2.amazonaws.com/": dial tcp 52.95.25.84:443: i/o timeout'
)
LOGIN = '"https://login.microsoftonline.com/t/v2.0/.well-known/openid-configuration": dial tcp: lookup login.'

# The cloud did not process the request.
UNPROCESSED = [
    ("endpoint", f"creating an instance : creating instance {VM} (<nil>): {SENDING.format('RunInstances')}"),
    (
        "endpoint",
        (
            "creating an instance : Creating instance (<nil>): beginning VM creation or update: Put "
            f'"https://management.azure.com/subscriptions/0/resourceGroups/g/virtualMachines/{VM}": dial tcp: lookup '
            "management.azure.com on 172.30.0.10:53: no such host"
        ),
    ),
    (
        "endpoint",
        (
            "creating an instance : Creating instance (<nil>): beginning VM creation or update: ClientSecretCredential "
            f"authentication failed. Get {LOGIN}microsoftonline.com on 172.30.0.10:53: server misbehaving"
        ),
    ),
    # A proxy between the node and the cloud refuses the connection (net/http's transport.go).
    (
        "endpoint",
        (
            "creating an instance : Creating instance (<nil>): beginning VM creation or update: Put "
            f'"https://management.azure.com/subscriptions/0/virtualMachines/{VM}": Proxy Authentication Required'
        ),
    ),
    # otiai10/hotsub#10.
    ("service", ec2("RequestLimitExceeded", "Request limit exceeded.", 503)),
    ("service", ec2("InternalError", "An internal error has occurred", 500)),
    # UA-TECH-POWER/DDoS_terraform_aws#5.
    (
        "service",
        ec2(
            "PendingVerification",
            "Your request for accessing resources in this region is being validated, and you will not be able to "
            "launch additional resources in this region until the validation is complete.",
        ),
    ),
    ("service", arm("429: 429 Too Many Requests", "OperationNotAllowed", "The server rejected the request because")),
    ("unknown", ec2("Blocked", "This account is currently blocked and not recognized as a valid account.")),
]


@pytest.mark.parametrize(("kind", "error"), UNPROCESSED)
def test_an_error_of_the_cloud_that_may_pass(kind: str, error: str):
    cause = diagnose(pod(events=[sandbox_event(error)]))
    assert (cause.kind, cause.is_final) == (kind, False)


# What cloud-api-adaptor writes before it ends: main.go of cmd/cloud-api-adaptor prints the error of NewProvider, which
# reads the sizes (updateInstanceTypeSpecList in aws/provider.go, updateInstanceSizeSpecList in azure/provider.go), and
# entrypoint.sh the names of missing variables. Each after lines without the cause.
IMDS = (
    "2026/11/30 08:30:00 [adaptor/cloud/aws] Failed to retrieve configuration, some fields may still be missing: "
    "operation error ec2imds: GetMetadata, exceeded maximum number of attempts, 3, request send failed, Get "
    '"http://169.254.169.254/latest/meta-data/mac": dial tcp 169.254.169.254:80: i/o timeout'
)
REJECTED = "https response error StatusCode: 401, RequestID: 0, api error AuthFailure: AWS was not able to validate the"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("permissions", f"cloud-api-adaptor: operation error EC2: DescribeInstanceTypes, {REJECTED} provided access"),
        (
            "permissions",
            (
                "cloud-api-adaptor: operation error EC2: DescribeInstanceTypes, get identity: get credentials: failed "
                "to refresh cached credentials, no EC2 IMDS role found, operation error ec2imds: GetMetadata, request "
                'send failed, Get "http://169.254.169.254/latest/meta-data/iam/": dial tcp 169.254.169.254:80: i/o '
                "timeout"
            ),
        ),
        # Without a role in the environment of the operator, no token is mounted: stscreds/web_identity_provider.go of
        # aws/aws-sdk-go-v2, sdk/azidentity/errors.go of Azure/azure-sdk-for-go.
        (
            "permissions",
            (
                "cloud-api-adaptor: operation error EC2: DescribeInstanceTypes, get identity: get credentials: failed "
                "to refresh cached credentials, failed to retrieve jwt from provide source, unable to read file at "
                "/var/run/secrets/openshift/serviceaccount/token: open "
                "/var/run/secrets/openshift/serviceaccount/token: no such file or directory"
            ),
        ),
        (
            "permissions",
            (
                "cloud-api-adaptor: getting next page of VM sizes: WorkloadIdentityCredential: open "
                "/var/run/secrets/openshift/serviceaccount/token: no such file or directory"
            ),
        ),
        (
            "permissions",
            (
                "cloud-api-adaptor: getting next page of VM sizes: ClientSecretCredential authentication failed. POST "
                "https://login.microsoftonline.com/t/oauth2/v2.0/token RESPONSE 401 Unauthorized: AADSTS7000215: "
                "Invalid client secret provided."
            ),
        ),
        ("permissions", "At least one of these must be SET: AWS_SECRET_ACCESS_KEY AWS_ROLE_ARN"),
        ("permissions", "$AZURE_CLIENT_ID is NOT set"),
        ("image", "$AZURE_IMAGE_ID is NOT set"),
        # NewProvider in aws/provider.go reads the image for ROOT_VOLUME_SIZE.
        ("image", "cloud-api-adaptor: unable to get image details"),
        ("settings", "$AZURE_SUBNET_ID is NOT set"),
        ("settings", '(CLOUD_PROVIDER is currently set to "awss")'),
        ("endpoint", f"cloud-api-adaptor: {SENDING.format('DescribeInstanceTypes')}"),
        ("adaptor", "panic: runtime error: invalid memory address or nil pointer dereference"),
    ],
)
def test_the_last_lines_of_an_adaptor_that_ended(kind: str, line: str):
    """None of them names the pod, whose event only has that the socket of cloud-api-adaptor does not exist."""
    problem = "osc-caa-ds-x7k2p on worker-1 is not ready: CrashLoopBackOff."
    adaptor = {"pod": "osc-caa-ds-x7k2p", "problem": problem, "log": [], "ended": [IMDS, line]}
    message = f"{SANDBOX}CreateContainer failed: dial unix /run/peerpod/hypervisor.sock: connect: no such file"
    for events in ([], [event("FailedCreatePodSandBox", message)]):
        cause = diagnose(pod(events=events, adaptor=adaptor))
        assert cause.kind == kind
        assert line in cause.quote


# pkg/adaptor/proxy/proxy.go.
FAILED = (
    "error connecting to agent: failed to establish agent proxy connection to 10.0.1.5:15150: context deadline exceeded"
)
RETRY = "2026/11/30 08:33:04 [adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.1.5:15150: {}"
DROPPED, REFUSED = RETRY.format("i/o timeout"), RETRY.format("connect: connection refused")
UNCHECKED = (
    # src/runtime/virtcontainers/kata_agent.go of kata-containers, quoted in kata-containers/kata-containers#2499.
    f"{SANDBOX}CreateContainer failed: Failed to Check if grpc server is working: rpc error: code = DeadlineExceeded "
    "desc = timed out: unknown"
)
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


def test_an_agent_that_does_not_answer_the_runtime():
    cause = diagnose(pod("booting", events=[event("FailedCreatePodSandBox", UNCHECKED)]))
    assert (cause.kind, cause.source) == ("agent", "event FailedCreatePodSandBox")


ESTABLISHED = "2026/11/30 08:33:05 [adaptor/proxy] established agent proxy connection to 10.0.1.5:15150"
TRYING = "2026/11/30 08:33:05 [adaptor/proxy] Trying to establish agent proxy connection to 10.0.1.5:15150"
SLOW = event("FailedCreatePodSandBox", f"{SANDBOX.replace('Unknown', 'DeadlineExceeded')}context deadline exceeded")
# Setup of workerNode in cloud.go, before the first connection to the agent.
TUNNEL = event("FailedCreatePodSandBox", f"{SANDBOX}setting up pod network tunnel on netns /run/netns/a: file exists")


@pytest.mark.parametrize(
    ("kind", "log", "events"),
    [
        # Without an answer, the first attempt takes more than two minutes, longer than kubelet waits.
        ("port", [TRYING], [SLOW]),
        ("port", [], [SLOW]),
        # The message is that of an earlier attempt.
        ("port", [TRYING], [TUNNEL]),
        ("unknown", [], [TUNNEL]),
        # The node has reached the VM.
        ("agent", [TRYING, DROPPED, REFUSED, ESTABLISHED], [SLOW]),
        ("agent", [TRYING, DROPPED, REFUSED, ESTABLISHED], []),
        ("agent", [TRYING, DROPPED, ESTABLISHED], [event("FailedCreatePodSandBox", UNCHECKED)]),
        ("unknown", [TRYING, DROPPED, ESTABLISHED], [event("FailedCreatePodSandBox", f"{SANDBOX}no such device")]),
        ("port", [TRYING, DROPPED, ESTABLISHED, TRYING, DROPPED], [SLOW]),
    ],
)
def test_a_vm_that_was_reached_has_no_closed_port(kind: str, log: list[str], events: list[dict]):
    assert diagnose(pod("booting", events=events, adaptor={"pod": "caa", "problem": "", "log": log})).kind == kind


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


# cri-o/cri-o#2723, with the prefix of go.podman.io/image's docker_client.go and of kubelet.
NODE_PULL = (
    'Failed to pull image "quay.io/a/b:1": initializing source docker://quay.io/a/b:1: pinging container registry '
    'quay.io: Get "https://quay.io/v2/": dial tcp 34.225.41.113:443: {}'
)

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
        *(
            ("egress", "Failed", NODE_PULL.format(reason))
            for reason in ("i/o timeout", "connect: no route to host", "connect: connection timed out")
        ),
        # A private certificate authority (rustls, and Go's crypto/x509).
        ("pull", "Failed", PULL.format("error sending request: invalid peer certificate: UnknownIssuer")),
        (
            "pull",
            "Failed",
            (
                'Failed to pull image "m.example/a/b:1": pinging container registry m.example: Get "https://m.example/'
                'v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority'
            ),
        ),
        # ECR (docs.aws.amazon.com/AmazonECR/latest/userguide/common-errors-docker.html).
        ("pull", "Failed", PULL.format("AccessDenied: User: arn:aws:sts::1:assumed-role/r is not authorized")),
        (
            "pull",
            "Failed",
            (
                'Failed to pull image "1.dkr.ecr.us-east-2.amazonaws.com/b:1": reading manifest 1: denied: User: arn:'
                "aws:iam::1:user/u is not authorized to perform: ecr:BatchGetImage"
            ),
        ),
        # The timeouts: confidential-containers/cloud-api-adaptor#1882; kata_agent.go of kata's runtime with CRI-O's
        # prefix; internal/oci/runtime_vm.go of CRI-O; and kubelet's own.
        (
            "egress",
            "Failed",
            "Error: failed to create containerd task: failed to create shim task: context deadline exceeded",
        ),
        ("egress", "Failed", "Error: CreateContainer failed: CreateContainerRequest timed out: unknown"),
        ("egress", "Failed", "Error: Container creation timeout (4m0s)"),
        ("egress", "Failed", "Error: CreateContainer timeout (4m0s)"),
        ("egress", "Failed", "Error: context deadline exceeded"),
        # kubernetes/kubernetes#112105, and getResourceOrWait in server/utils.go of CRI-O.
        (
            "egress",
            "Failed",
            (
                "(combined from similar events): Error: Kubelet may be retrying requests that are timing out in CRI-O "
                f"due to system load: context deadline exceeded: error reserving ctr name k8s_verify_{POD}_demo_0 for "
                "id 8424e8fd: name is reserved"
            ),
        ),
        (
            "egress",
            "Failed",
            (
                "Error: kubelet may be retrying requests that are timing out in CRI-O due to system load. Currently at "
                "stage container runtime creation: waited too long for request to timeout or ctr to be created"
            ),
        ),
        # src/agent/src/policy.rs of kata-containers, quoted in kata-containers/kata-containers#10613.
        (
            "container",
            "Failed",
            (
                "Error: failed to create containerd task: failed to create shim task: "
                '"CreateContainerRequest is blocked by policy: agent_policy:114: allow_create_container_input"'
            ),
        ),
        # pkg/kubelet/kuberuntime/security_context_others.go of kubernetes/kubernetes.
        (
            "container",
            "Failed",
            f'Error: container has runAsNonRoot and image will run as root (pod: "{POD}_demo(3f2b8a0e)", container: v)',
        ),
        (
            "container",
            "Failed",
            "Error: container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root",
        ),
        # The same file, for an image that names a user, and a pod that has runAsUser 0.
        (
            "container",
            "Failed",
            f'Error: container\'s runAsUser breaks non-root policy (pod: "{POD}_demo(3f2b8a0e)", container: v)',
        ),
        # cri-o/cri-o#5282.
        (
            "pull",
            "Failed",
            (
                'Failed to pull image "docker.io/a/b:1": reading manifest 1 in docker.io/a/b: toomanyrequests: You '
                "have reached your pull rate limit."
            ),
        ),
        # FootprintAI/Containarium#1524: pkg/kubelet/images/image_manager.go of kubernetes/kubernetes.
        (
            "pull",
            "InspectFailed",
            (
                'Failed to apply default image tag "images:ubuntu/24.04": couldn\'t parse image name '
                '"images:ubuntu/24.04": invalid reference format'
            ),
        ),
        # openshift/sandboxed-containers-operator#426.
        ("pull", "Failed", "Pulling image separately not support on main. It is required to use the nydus-snapshotter"),
    ],
)
def test_a_failed_pull(kind: str, reason: str, message: str):
    cause = diagnose(pod("pulling", events=[event(reason, message)]))
    assert (cause.kind, cause.is_final) == (kind, True)


# What kubelet adds after the message with the error (pkg/kubelet/images and kuberuntime_manager.go).
SUMMARIES = [
    event("Failed", "Error: ErrImagePull"),
    event("BackOff", 'Back-off pulling image "quay.io/a/b:1"'),
    event("Failed", "(combined from similar events): Error: ImagePullBackOff"),
    event("BackOff", f"Back-off restarting failed container verify in pod {POD}_demo(3f2b8a0e)"),
]


@pytest.mark.parametrize(
    "message", [PULL.format(DNS), NODE_PULL.format("i/o timeout"), "Error: context deadline exceeded"]
)
def test_the_message_with_the_error_is_quoted_instead_of_later_summaries(message: str):
    waiting = [{"reason": "ImagePullBackOff", "message": 'Back-off pulling image "quay.io/a/b:1"'}]
    cause = diagnose(pod("pulling", events=[event("Failed", message), *SUMMARIES], waiting=waiting))
    assert (cause.kind, cause.quote, cause.source) == ("egress", message, "event Failed")


def test_the_log_has_the_error_of_a_pull_if_kubelet_has_only_summaries():
    line = f"2026/11/30 08:30:03 [adaptor/proxy] CreateContainer fails: {PULL.format(DNS)}"
    adaptor = {"pod": "caa", "problem": "", "log": [line]}
    assert diagnose(pod("pulling", events=SUMMARIES, adaptor=adaptor)).kind == "egress"


STALE = [
    sandbox_event(CREATING[3][1]),
    sandbox_event(FAILED),
    event("Failed", PULL.format("manifest unknown")),
]


@pytest.mark.parametrize(
    ("state", "changed", "kind"),
    [
        ("booting", {}, "port"),
        ("pulling", {}, "pull"),
        ("running", {"answer_error": "error trying to reach service: dial tcp 10.1.2.3:8080: i/o timeout"}, "tunnel"),
        ("running", {"ended": ["exit code 1 (Error)"]}, "program"),
    ],
)
def test_what_a_pod_has_passed_is_not_its_cause(state: str, changed: dict, kind: str):
    """The events of an attempt that failed stay for an hour."""
    assert diagnose(pod(state, events=STALE, **changed)).kind == kind


@pytest.mark.parametrize(
    "message",
    [
        # cri-o/cri-o's server/sandbox_network.go and Multus, as in okd-project/okd#1172.
        (
            f"{SANDBOX}failed to create pod network sandbox k8s_{POD}_demo_0(a4b8): error adding pod to CNI network "
            '"multus-cni-network": Get "https://api-int.demo.example:6443/api/v1/namespaces/demo/pods/p": dial tcp '
            "10.0.0.9:6443: i/o timeout"
        ),
        f'{SANDBOX}pinging container registry quay.io: Get "https://quay.io/v2/": dial tcp 34.2.4.1:443: i/o timeout',
    ],
)
def test_the_network_of_the_node_is_not_the_port_of_the_vm(message: str):
    cause = diagnose(pod(events=[event("FailedCreatePodSandBox", message)]))
    assert (cause.kind, cause.is_final) == ("unknown", False)


def test_a_policy_of_the_agent_may_reject_the_sandbox():
    """kata-containers/kata-containers#11679."""
    message = (
        f'{SANDBOX}CreateContainer failed: "CreateContainerRequest is blocked by policy: agent_policy:122": unknown'
    )
    assert diagnose(pod("booting", events=[event("FailedCreatePodSandBox", message)])).kind == "container"


def test_a_slow_creation_that_succeeded_is_not_an_error():
    """getResourceOrWait in server/utils.go of CRI-O: kubelet gets the container when it tries again."""
    message = (
        "Error: kubelet may be retrying requests that are timing out in CRI-O due to system load. Currently at stage "
        "container runtime creation: the requested ctr x is now ready and will be provided to the kubelet on next retry"
    )
    slow = pod("pulling", events=[event("Failed", message)])
    assert diagnose(slow) is None
    assert not is_settled(slow, 900, 240, 60)


def test_another_error_of_a_container_is_quoted():
    message = "Error: CreateContainer failed: ENOENT: No such file or directory: unknown"
    cause = diagnose(pod("pulling", events=[event("Failed", message), *SUMMARIES[:1]]))
    # The summary has a rule.
    assert cause.kind == "pull"
    cause = diagnose(pod("pulling", events=[sandbox_event("x"), event("Failed", message)]))
    assert (cause.kind, cause.quote, cause.is_final) == ("unknown", message, False)


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
        # ValidateRuntimeHandler in internal/oci/oci.go of CRI-O, as in kata-containers/runtime#1931.
        f"{SANDBOX}failed to find runtime handler kata-remote from runtime list map[runc:0xc00001da70]",
    ],
)
def test_cloud_api_adaptor_may_start_later(message: str):
    cause = diagnose(pod(events=[event("FailedCreatePodSandBox", message)]))
    assert (cause.kind, cause.is_final) == ("adaptor", False)


def test_a_pod_without_events_on_a_node_without_cloud_api_adaptor():
    problem = "No cloud-api-adaptor pod is on worker-1."
    cause = diagnose(pod(adaptor={"pod": None, "problem": problem, "log": []}))
    assert (cause.kind, cause.quote, cause.is_final) == ("adaptor", problem, False)


@pytest.mark.parametrize(
    "reason",
    [
        "1 node(s) had untolerated taint(s)",
        "1 node(s) had untolerated taint {gpu: yes}",
        "1 node(s) were unschedulable",
        "1 Insufficient cpu",
    ],
)
def test_the_scheduler_has_other_reasons(reason: str):
    """pkg/scheduler/framework/plugins of kubernetes/kubernetes."""
    message = f"0/3 nodes are available: {reason}, 2 node(s) didn't match Pod's node affinity/selector."
    cause = diagnose(pod("unscheduled", unscheduled=message))
    assert (cause.kind, cause.quote, cause.is_final) == ("node", message, False)


def test_a_pod_without_a_slot():
    message = "0/3 nodes are available: 1 Insufficient kata.peerpods.io/vm, 2 node(s) didn't match Pod's node affinity."
    cause = diagnose(pod("unscheduled", unscheduled=message))
    assert (cause.kind, cause.quote, cause.is_final) == ("slot", message, False)


# What the API server returns for a pod that its proxy does not reach.
UNREACHED = (
    "GET /…/proxy/ was rejected by the API server with 503 …: error trying to reach service: dial tcp 10.1.2.3:8080: {}"
)


FORBIDDEN = (
    'GET /…/proxy/ was rejected by the API server with 403 Forbidden: pods "p" is forbidden: User "u" cannot get '
    'resource "pods/proxy" in API group ""'
)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("tunnel", UNREACHED.format("i/o timeout")),
        ("tunnel", UNREACHED.format("connect: no route to host")),
        ("program", UNREACHED.format("connect: connection refused")),
        ("program", "The answer of the pod is not JSON."),
        ("access", FORBIDDEN),
        ("unknown", UNREACHED.format("unknown").replace("error trying to reach service", "another error")),
    ],
)
def test_a_container_that_runs_and_does_not_answer(kind: str, error: str):
    assert diagnose(pod("running", answer_error=error)).kind == kind


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("tunnel", {}),
        ("tunnel", {"service": {"ok": False, "found": "timed out"}}),
        ("network", {"service": {"ok": True, "found": "172.30.0.1:443"}}),
        ("network", {"service": {"ok": False, "found": "timed out"}, "egress": {"ok": True, "found": "quay.io:443"}}),
    ],
)
def test_a_tunnel_that_the_pod_uses_is_not_closed(kind: str, output: dict):
    """A NetworkPolicy denies what the API server sends."""
    given = pod("running", answer_error=UNREACHED.format("i/o timeout"), output=output)
    assert diagnose(given).kind == kind


@pytest.mark.parametrize("state", ["scheduled", "booting", "running"])
def test_a_pod_that_kubelet_has_ended_is_not_waited_for(state: str):
    """pkg/kubelet/eviction, lifecycle/predicate.go and active_deadline.go of kubernetes/kubernetes."""
    given = pod(state, failed="Evicted: The node was low on resource: memory.", ended=["exit code 137 (Error)"])
    cause = diagnose(given)
    assert (cause.kind, cause.quote, cause.source) == ("evicted", given["failed"], "the status of the pod")
    assert is_settled(given, 0, 240, 60)


def test_a_program_that_ended_is_quoted_with_its_last_lines():
    refused = UNREACHED.format("connect: connection refused")
    ended = pod("running", ended=["exit code 1 (Error)"], answer_error=refused, log=["Traceback:", "OSError: no"])
    cause = diagnose(ended)
    assert (cause.kind, cause.quote) == ("program", "exit code 1 (Error): Traceback: / OSError: no")


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


def test_a_quote_of_azure_has_no_lines_of_dashes():
    error = arm("409: 409 Conflict", "SkuNotAvailable", "x " * 500)
    cause = diagnose(pod(events=[sandbox_event(error)]))
    assert "ERROR CODE: SkuNotAvailable {" in cause.quote
    assert "---" not in cause.quote


def test_every_rule_has_a_kind():
    assert {kind for rules in RULES.values() for kind, _pattern in rules} <= KINDS.keys()
    assert REMOTE in sandbox_event("")["message"]


ADAPTOR = f"{SANDBOX}CreateContainer failed: dial unix /run/peerpod/hypervisor.sock: connect: connection refused"


@pytest.mark.parametrize(
    ("settled_after", "given"),
    [
        (0, pod("answered")),
        (0, pod(requests_slot=False)),
        (240, pod("unscheduled", unscheduled="Insufficient kata.peerpods.io/vm")),
        # The cloud may take long to create a VM, and the VM to pull an image.
        (None, pod("scheduled")),
        (None, pod("pulling")),
        (0, pod(events=[sandbox_event(CREATING[3][1])])),
        # An error that may pass.
        (240, pod(events=[event("FailedCreatePodSandBox", ADAPTOR)])),
        (240, pod(events=[sandbox_event(UNPROCESSED[3][1])])),
        (240, pod("booting")),
        (0, pod("booting", events=[sandbox_event(FAILED)])),
        # The cloud rejected an earlier VM.
        (240, pod("booting", events=[sandbox_event(CREATING[3][1])])),
        (60, pod("pulling", events=[event("Failed", PULL.format(DNS))])),
        (60, pod("pulling", events=[event("Failed", "Error: context deadline exceeded"), *SUMMARIES[3:]])),
        (60, pod("pulling", events=[event("Failed", "Error: an error without a rule")])),
        (60, pod("pulling", waiting=[{"reason": "CreateContainerConfigError", "message": "secret not found"}])),
        (60, pod("running")),
        (60, pod("running", ended=["exit code 1 (Error)"])),
    ],
)
def test_how_long_a_state_is_waited_for(settled_after: int | None, given: dict):
    settled = [seconds for seconds in (0, 59, 60, 239, 240, 900) if is_settled(given, seconds, 240, 60)]
    assert settled[:1] == ([] if settled_after is None else [settled_after])


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
