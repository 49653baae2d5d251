# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a peer pod does not run, from what the cluster and the cloud return (no I/O here).

The texts are those of the programs that produce them: kubelet's events contain the error of the runtime, which contains
that of cloud-api-adaptor (src/cloud-api-adaptor/pkg/adaptor/cloud/cloud.go and proxy/proxy.go in
confidential-containers/cloud-api-adaptor), which contains that of EC2 or Azure Resource Manager
(src/cloud-providers/aws/provider.go and azure/provider.go). The tests quote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE

# The end of a long message has the innermost error.
QUOTE_LENGTH = 600


@dataclass(frozen=True)
class Cause:
    """One of the kinds in KINDS, the message that shows it, and where the message is from.

    `is_final` is false if the pod may still start by itself.
    """

    kind: str
    quote: str
    source: str
    is_final: bool = True


# The kinds of causes, each with a sentence about what failed.
KINDS = {
    "slot": "No node has a free slot for the pod",
    "mutation": "The pod requests no slot: it was not mutated",
    "image": "The image of the pod VMs cannot be used",
    "quota": "The quota of the cloud is used up",
    "capacity": "The cloud has no capacity for the VM",
    "permissions": "The cloud rejected the credentials of cloud-api-adaptor or its permissions",
    "settings": "The cloud rejected a setting of peer-pods-cm",
    "adaptor": "cloud-api-adaptor does not run on the node",
    "port": "The VM does not answer its node",
    "agent": "The VM runs, but its agent does not",
    "egress": "The VM does not reach the registry",
    "pull": "The registry rejected the pull in the VM",
    "tunnel": "No packet passes the tunnel to the VM",
    "program": "The program of the pod does not run",
    "unknown": "The pod does not start",
}

# In order: the first pattern that occurs in a message decides. Codes are those of the references "Error codes for the
# Amazon EC2 API" and "Troubleshoot common Azure deployment errors"; the texts are those that the tests quote.
_RULES: tuple[tuple[str, str], ...] = (
    # The image of the pod VMs.
    ("image", r"InvalidAMIID|Not authorized for images|ImageId is empty|unable to get image details"),
    ("image", r"GalleryImageNotFound|ImageNotFound|PlatformImageNotFound|imageReference|galleries/\S+' .*not found"),
    ("image", r"architecture '[^']*' of the specified instance type|does not support .*boot mode|boot mode .*not supp"),
    ("image", r"HypervisorGeneration|cannot boot Hypervisor Generation|does not support .*AMD SEV-SNP"),
    # The quota.
    ("quota", r"VcpuLimitExceeded|InstanceLimitExceeded|VolumeLimitExceeded|AddressLimitExceeded"),
    ("quota", r"exceeding (?:approved .*?[Qq]uota|quota limits?)|QuotaExceeded|PublicIPCountLimitReached"),
    # The capacity.
    ("capacity", r"Insufficient(?:Instance|Host|Reserved\w*)?Capacity|InsufficientCapacity|SpotMaxPriceTooLow"),
    ("capacity", r"InsufficientFreeAddressesInSubnet|SubnetIsFull|does not have enough capacity for \d+ IP"),
    ("capacity", r"SkuNotAvailable|(?:Zonal)?AllocationFailed|OverconstrainedA|requested (?:VM )?size .*not available"),
    ("capacity", r"instance type \(\S+\) is not supported in your requested Availability Zone"),
    # The permissions.
    ("permissions", r"UnauthorizedOperation|AccessDenied|(?:Linked)?AuthorizationFailed|RequestDisallowedByPolicy"),
    ("permissions", r"AuthFailure|InvalidClientTokenId|SignatureDoesNotMatch|ExpiredToken|RequestExpired"),
    ("permissions", r"AADSTS\d+|InvalidAuthenticationToken|ScopeLocked|(?:ClientSecret|WorkloadIdentity)Credential"),
    ("permissions", r"failed to (?:refresh cached credentials|retrieve credentials|sign request)"),
    # The agent: the VM answers, but not as a pod VM.
    ("agent", r"agent proxy connection.*(?:connection refused|connection reset|EOF|tls: |x509: )"),
    ("agent", r"dial tcp \S+:15150: connect: connection refused"),
    ("agent", r"Failed to [Cc]heck if grpc server is working"),
    # The port: no packet comes back.
    ("port", r"(?:dial tcp \S+:\d+: (?:i/o timeout|connect: (?:no route to host|connection timed out)))"),
    ("port", r"failed to establish agent proxy connection"),
    # The pull in the VM, and of the node, which CRI-O makes as well (cri-o/cri-o#7471).
    ("egress", r"(?:[Pp]ull|registry|manifest).*(?:dns error|error sending request|no such host|i/o timeout)"),
    ("egress", r"(?:[Pp]ull|registry|manifest).*(?:tcp connect error|timed out|deadline has elapsed|unreachable)"),
    ("egress", r"(?:[Pp]ull|registry|manifest).*(?:[Cc]onnection refused|deadline exceeded|Temporary failure in name)"),
    ("pull", r"Image Pull error|[Ff]ailed to pull image|ErrImagePull|ImagePullBackOff|Pulling image separately not"),
    ("pull", r"manifest unknown|Not authorized: url|unauthorized: |toomanyrequests|ImageInspectError|InvalidImageName"),
    # The program, which the agent starts after the pull (kata-containers/kata-containers#9028 and #10497), and the
    # message of kubelet about one that ends (pkg/kubelet/kuberuntime of kubernetes/kubernetes).
    ("program", r"the file \S+ was not found|executable file not found in \$PATH"),
    ("program", r"[Bb]ack-off (?:\S+ )?restarting failed container"),
    # cloud-api-adaptor.
    ("adaptor", r"hypervisor\.sock: connect: |no runtime for \"?kata-remote|unknown or unmapped runtime handler"),
    ("settings", r"Invalid(?:Subnet|Group|KeyPair|SecurityGroup)\w*\.\w+|InvalidSubnetID|InvalidGroup|InvalidParam"),
    ("settings", r"failed to verify instance type|failed to get instance type|instance type not found"),
    ("settings", r"InvalidResourceReference|ResourceGroupNotFound|ResourceNotFound|creating an instance :"),
)
RULES = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _RULES)

# Kubelet repeats these; the pod may start by itself until the time for it is over.
TEMPORARY = ("adaptor", "unknown")

# The console of a VM whose system did not start (the kernel, dracut, systemd, GRUB, UEFI).
BOOT_FAILURES = re.compile(
    r"^.*(?:Kernel panic|You are in emergency mode|Entering emergency mode|dracut-initqueue.*timeout|No bootable device"
    r"|error: no such partition|grub rescue|BdsDxe: failed to load|Failed to start .*(?:agent-protocol-forwarder|"
    r"kata-agent)|(?:agent-protocol-forwarder|kata-agent)\S*: (?:Main process exited|Failed with result)).*$",
    re.MULTILINE,
)

# Events that report a failure of the sandbox or of a container.
FAILURES = ("FailedCreatePodSandBox", "Failed", "BackOff", "FailedMount", "FailedCreatePodContainer", "InspectFailed")


def diagnose(pod: Mapping[str, Any], instances: Sequence[Mapping[str, Any]] = ()) -> Cause | None:
    """Why the pod does not run; None if nothing shows a failure.

    `pod` is the evidence of the module verification_pods, `instances` is what the cloud returns about its VMs.
    """
    if not pod["requests_slot"]:
        # The module does not wait for its VM.
        return Cause("mutation", f"no {EXTENDED_RESOURCE} in its requests", "the pod")
    if pod["unscheduled"]:
        return Cause("slot", pod["unscheduled"], "the scheduler", is_final=False)
    cause = reported(pod)
    if cause and cause.kind in ("port", "agent"):
        cause = _last_attempt(pod) or cause
    failing = _boot_failure(instances)
    # A VM that did not boot does not answer either, whether the port is open or not.
    if failing and (cause is None or cause.kind in ("port", "agent", "unknown")):
        return failing
    return cause or _unanswered(pod)


def reported(pod: Mapping[str, Any]) -> Cause | None:
    """The cause that an event of the pod, the status of its container or the log reports."""
    return next(filter(None, map(_matched, _messages(pod))), None)


def _messages(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Messages that may have the cause, with their sources, the most direct first."""
    # An error that names the cloud's code comes first; that of the connection is the most general.
    for event in reversed(pod["events"]):
        if event["reason"] in FAILURES or event["type"] == "Warning":
            yield event["message"], f"event {event['reason']}"
    for each in pod["waiting"]:
        if each["message"] and each["reason"] not in ("ContainerCreating", "PodInitializing"):
            yield f"{each['reason']}: {each['message']}", "the status of the container"
    adaptor = pod.get("adaptor") or {}
    for line in reversed(adaptor.get("log") or []):
        if _is_failure(line):
            yield line, f"the log of {adaptor['pod']}"


def _is_failure(line: str) -> bool:
    return re.search(r"error|fail|timeout|timed out|refused|Retrying|cleaning up", line, re.IGNORECASE) is not None


def _matched(found: tuple[str, str]) -> Cause | None:
    message, source = found
    for kind, pattern in RULES:
        if match := pattern.search(message):
            return Cause(kind, _quote(message, match.start()), source, is_final=kind not in TEMPORARY)
    return None


def _last_attempt(pod: Mapping[str, Any]) -> Cause | None:
    """The last failed connection to the agent. Kubelet's event only has that the time for it was over, and while a VM
    boots, it first drops packets, and then refuses connections."""
    adaptor = pod.get("adaptor") or {}
    attempts = (line for line in reversed(adaptor.get("log") or []) if "Retrying failed agent proxy" in line)
    return next(filter(None, (_matched((line, f"the log of {adaptor['pod']}")) for line in attempts)), None)


def _boot_failure(instances: Iterable[Mapping[str, Any]]) -> Cause | None:
    for instance in instances:
        match = BOOT_FAILURES.search(instance.get("console") or "")
        if match:
            return Cause("agent", match[0].strip()[:QUOTE_LENGTH], f"the console of {instance['id']}")
    return None


def _unanswered(pod: Mapping[str, Any]) -> Cause | None:
    """The cause for a pod without any failure in its events."""
    error = pod.get("answer_error") or ""
    if pod["state"] == "running" and error:
        # The container listens on all addresses as soon as it runs.
        kind = "program" if "connection refused" in error else "tunnel"
        return Cause(kind, _quote(error, 0), "the API server")
    adaptor = pod.get("adaptor") or {}
    if pod["state"] in ("scheduled", "booting") and adaptor.get("problem"):
        return Cause("adaptor", adaptor["problem"], "the DaemonSet of cloud-api-adaptor", is_final=False)
    if pod["state"] == "booting":
        return Cause("port", _last(adaptor.get("log")), f"the log of {adaptor.get('pod') or 'cloud-api-adaptor'}")
    warnings = [event for event in pod["events"] if event["type"] == "Warning"]
    if warnings:
        message = warnings[-1]["message"]
        return Cause("unknown", _quote(message, 0), f"event {warnings[-1]['reason']}", is_final=False)
    return None


def _last(lines: Sequence[str] | None) -> str:
    return lines[-1] if lines else "no line about this pod"


def _quote(message: str, start: int) -> str:
    """The message on one line; of a long one, the part around `start`."""
    line = " ".join(message.split())
    if len(line) <= QUOTE_LENGTH:
        return line
    begin = max(0, min(start - 100, len(line) - QUOTE_LENGTH))
    return f"{'…' if begin else ''}{line[begin : begin + QUOTE_LENGTH]}…"


# Lines of cloud-api-adaptor's log that name what belongs to a pod (cloud.go, aws/provider.go, azure/provider.go).
_SANDBOX = re.compile(r"create a sandbox (\S+) for pod (\S+) in namespace")
_CREATED = re.compile(r"[Cc]reated (?:an )?instance (\S+?)(?: \((\S+)\))? for sandbox \S+")
_ADDRESS = re.compile(r"podNodeIP\[\d+\]=(\S+)")
# Azure's lines with the addresses do not name the VM: they are between these two.
_CONTINUED = re.compile(r"\n(?!\d{4}/\d\d/\d\d )")
_CREATING = re.compile(r"CreateInstance: name: \"([^\"]+)\"")
_AZURE_ADDRESS = re.compile(r"pod vm IP\[\d+\]\[\w+\]=(\S+)")


def lines_of(log: str, pod_name: str) -> list[str]:
    """The lines of cloud-api-adaptor's log that belong to a pod, whose name is random.

    They name the pod, its sandbox, its VM or the VM's address; those of other pods of the node are left out.
    """
    tokens = {pod_name}
    lines: list[str] = []
    is_creating = False
    # The error of Azure has several lines, of which the first one names the VM.
    for line in _CONTINUED.sub(" ", log).splitlines():
        address = _AZURE_ADDRESS.search(line) if is_creating else _ADDRESS.search(line)
        is_own = any(token in line for token in tokens) or bool(is_creating and address)
        if not is_own:
            continue
        lines.append(line)
        if match := _SANDBOX.search(line):
            tokens.add(match[1])
        if match := _CREATED.search(line):
            tokens |= {token for token in match.groups() if token}
        if address:
            tokens.add(f"{address[1]}:")
        is_creating = bool(_CREATING.search(line)) or (is_creating and not _CREATED.search(line))
    return lines
