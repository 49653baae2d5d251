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
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names
from ansible_collections.osc.peerpods.plugins.module_utils._verify.kinds import KINDS
from ansible_collections.osc.peerpods.plugins.module_utils._verify.pods import has_passed

# The end of a long message has the innermost error.
QUOTE_LENGTH = 600


@dataclass(frozen=True)
class Cause:
    """One of KINDS, the message that shows it, and where the message is from."""

    kind: str
    quote: str
    source: str

    @property
    def is_final(self) -> bool:
        return KINDS[self.kind].is_final


# What a message is about: the sandbox, which is the VM with its agent, or a container in it.
SANDBOX, CONTAINER = "sandbox", "container"

# A request that had no answer: what the SDK for Go of AWS and Go's net/http add. With a proxy that refuses it, only the
# form of the error shows that (url.Error in net/url).
_UNSENT = r"(?:request send failed|dial tcp|TLS handshake timeout|x509: |(?:Get|Put|Post|Delete|Patch) \\?\"https?://)"

# In order: the first pattern that occurs in a message decides, among those of the checks that the pod has not passed.
# The order is that of the work: the request to the cloud, its answer, the connection to the agent; then the container,
# its image and its program. What is not final comes after what is. Codes are those of the references "Error codes for
# the Amazon EC2 API" and "Troubleshoot common Azure deployment errors"; the texts are those that the tests quote.
_RULES: Mapping[str, Sequence[tuple[str, str]]] = {
    SANDBOX: (
        # The request: without credentials, the SDK looks for those of the node. Other metadata of it is optional.
        ("permissions", r"no EC2 IMDS role found|At least one of these must be SET"),
        ("permissions", r"\$(?:AWS_\w+|AZURE_(?:CLIENT|TENANT|SUBSCRIPTION)\w*) is NOT set"),
        ("endpoint", rf"operation error (?!ec2imds)\w+: .*{_UNSENT}"),
        ("endpoint", rf"(?:creating an instance :|page of VM sizes|authentication failed).*{_UNSENT}"),
        # The answer. The image of the pod VMs.
        ("image", r"InvalidAMIID|Not authorized for images|unable to get image details"),
        ("image", r"\$AZURE_IMAGE_ID is NOT set|ImageNotFound"),
        ("image", r"imageReference|galleries/\S+' .*not found|does not support .*(?:boot mode|AMD SEV-SNP)"),
        ("image", r"architecture '[^']*' of the specified instance type|cannot boot Hypervisor Generation"),
        # The quota.
        ("quota", r"VcpuLimitExceeded|InstanceLimitExceeded|VolumeLimitExceeded|AddressLimitExceeded"),
        ("quota", r"exceeding (?:approved .*?[Qq]uota|quota limits?)|QuotaExceeded|PublicIPCountLimitReached"),
        # The capacity.
        ("capacity", r"Insufficient(?:Instance|Host|Reserved\w*)?Capacity|InsufficientCapacity|SpotMaxPriceTooLow"),
        ("capacity", r"InsufficientFreeAddressesInSubnet|SubnetIsFull|does not have enough capacity for \d+ IP"),
        ("capacity", r"SkuNotAvailable|(?:Zonal)?AllocationFailed|Overconstrained|requested (?:VM )?size .*not avail"),
        ("capacity", r"instance type \(\S+\) is not supported in your requested Availability Zone"),
        # The permissions.
        ("permissions", r"UnauthorizedOperation|AccessDenied|(?:Linked)?AuthorizationFailed|RequestDisallowedByPolicy"),
        ("permissions", r"AuthFailure|InvalidClientTokenId|SignatureDoesNotMatch|ExpiredToken|RequestExpired"),
        ("permissions", r"AADSTS\d+|InvalidAuthenticationToken|ScopeLocked"),
        ("permissions", r"(?:ClientSecret|WorkloadIdentity)Credential|failed to (?:retrieve credentials|sign request)"),
        ("permissions", r"failed to refresh cached credentials"),
        # The settings.
        ("settings", r"Invalid(?:Subnet|Group|KeyPair|SecurityGroup|InstanceType)\w*|InvalidSubnetID|InvalidParam"),
        ("settings", r"failed to verify instance type|failed to get instance type|instance type not found"),
        ("settings", r"InvalidResourceReference|ResourceGroupNotFound|ResourceNotFound"),
        ("settings", r"\$\w+ is NOT set|CLOUD_PROVIDER is currently set to"),
        # Errors that pass by themselves.
        ("service", r"RequestLimitExceeded|Throttl(?:ing|ed)|TooManyRequests|PendingVerification|OperationPreempted"),
        ("service", r"InternalError|InternalFailure|InternalServerError|InternalExecutionError"),
        ("service", r"ServiceUnavailable|api error Unavailable|StatusCode: 5\d\d|RESPONSE (?:5\d\d|429)"),
        # The agent: the VM answers, but not as a pod VM.
        ("agent", r"agent proxy connection.*(?:connection refused|connection reset|EOF|tls: |x509: )"),
        ("agent", r"dial tcp \S+:15150: connect: connection refused|Failed to [Cc]heck if grpc server is working"),
        ("agent", r"OSProvisioning\w+|OS Provisioning for VM"),
        # The port: no packet comes back.
        (
            "port",
            r"agent proxy connection.*(?:timeout|timed out|no route to host)|failed to establish agent proxy conn",
        ),
        ("port", r"dial tcp \S+:15150: (?:i/o timeout|connect: (?:no route to host|connection timed out))"),
        # The sandbox has a container of its own.
        ("container", r"is blocked by policy"),
        ("adaptor", r"hypervisor\.sock: connect: |no runtime for \"?kata-remote|failed to find runtime handler"),
    ),
    CONTAINER: (
        ("container", r"is blocked by policy|runAsNonRoot|breaks non-root policy|CreateContainerConfigError"),
        # The agent starts the program after the pull.
        ("program", r"the file \S+ was not found|executable file not found in \$PATH"),
        # The registry answers.
        ("pull", r"x509: |invalid peer certificate|Not authorized: url|unauthorized: |no basic auth credentials"),
        ("pull", r"(?<!permission )denied: |access to the resource is denied|AccessDenied|manifest unknown"),
        ("pull", r"toomanyrequests|ImageInspectError|InvalidImageName|invalid reference format"),
        # It does not. Without a way out, packets are dropped, and the pull takes until one of the timeouts is over:
        # create_container_timeout of kata, container_create_timeout of CRI-O, or that of kubelet.
        ("egress", r"(?:[Pp]ull|registry|manifest).*(?:dns error|error sending request|no such host|i/o timeout)"),
        ("egress", r"(?:[Pp]ull|registry|manifest).*(?:tcp connect error|timed out|deadline has elapsed|unreachable)"),
        ("egress", r"(?:[Pp]ull|registry|manifest).*(?:[Cc]onnection refused|no route to host|Temporary failure in)"),
        ("egress", r"deadline exceeded|CreateContainerRequest timed out|[Cc]ontainer ?[Cc]reation timeout"),
        ("egress", r"CreateContainer timeout|timing out in CRI-O"),
        (
            "pull",
            r"Image Pull error|[Ff]ailed to pull image|ErrImagePull|ImagePullBackOff|Pulling image separately not",
        ),
        ("program", r"[Bb]ack-off (?:\S+ )?restarting failed container"),
    ),
}
RULES = {
    about: tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in rules) for about, rules in _RULES.items()
}

# The console of a VM whose system did not start (the kernel, dracut, systemd, GRUB, UEFI).
BOOT_FAILURES = re.compile(
    r"^.*(?:Kernel panic|You are in emergency mode|Entering emergency mode|dracut-initqueue.*timeout|No bootable device"
    r"|error: no such partition|grub rescue|BdsDxe: failed to load|Failed to start .*(?:agent-protocol-forwarder|"
    r"kata-agent)|(?:agent-protocol-forwarder|kata-agent)\S*: (?:Main process exited|Failed with result)).*$",
    re.MULTILINE,
)

# Lines of cloud-api-adaptor's log about its connection to an agent (pkg/adaptor/proxy/proxy.go).
_ATTEMPT = "agent proxy connection"
_RETRY = f"Retrying failed {_ATTEMPT}"
_CONNECTED = f"established {_ATTEMPT}"

# The events about a container; the others are about the pod until its sandbox runs (pkg/kubelet/events/event.go).
_OF_CONTAINER = ("Failed", "BackOff", "FailedCreatePodContainer", "InspectFailed")

# Of a pod that was placed on a node, the first is past. CRI-O reports the other when a slow creation succeeded.
_PAST = "FailedScheduling"
_SUCCEEDED = "is now ready and will be provided to the kubelet"


def diagnose(pod: Mapping[str, Any], instances: Sequence[Mapping[str, Any]] = ()) -> Cause | None:
    """Why the pod does not run; None if nothing shows a failure.

    `pod` is the evidence of the module verification_pods, `instances` is what the cloud returns about its VMs.
    """
    if not pod["requests_slot"]:
        # The module does not wait for its VM.
        return Cause("mutation", f"no {EXTENDED_RESOURCE} in its requests", "the pod")
    if pod["failed"]:
        return Cause("evicted", _quote(pod["failed"], 0), "the status of the pod")
    if pod["unscheduled"]:
        is_full = f"Insufficient {EXTENDED_RESOURCE}" in pod["unscheduled"]
        return Cause("slot" if is_full else "node", pod["unscheduled"], "the scheduler")
    ended = _ended(pod, instances)
    if pod["state"] == "running":
        return ended or _unanswered(pod)
    cause = reported(pod)
    # The cloud may have rejected a later VM.
    if ended and not (cause and cause.is_final and KINDS[cause.kind].check == "verify-vm"):
        return ended
    is_early = not has_passed(pod["state"], "verify-agent")
    if is_early and (cause is None or not cause.is_final):
        cause = _of_adaptor(pod) or cause
    if cause and cause.kind in ("port", "agent"):
        cause = _last_attempt(pod) or cause
    # A VM that did not boot does not answer either, whether the port is open or not.
    if is_early and (cause is None or cause.kind in ("port", "agent", "unknown")):
        cause = _boot_failure(instances) or cause
    if pod["state"] == "booting" and (cause is None or cause.kind == "unknown"):
        return _unreached(pod, cause)
    return cause


def reported(pod: Mapping[str, Any]) -> Cause | None:
    """The cause that an event of the pod, the status of its container or the log reports."""
    about = CONTAINER if has_passed(pod["state"], "verify-agent") else SANDBOX
    messages = [message[1:] for message in _messages(pod) if message[0] == about]
    known = next(filter(None, (_matched(pod["state"], about, *message) for message in messages)), None)
    if known or not messages:
        return known
    text, source = messages[0]
    return Cause("unknown", _quote(text, 0), source)


def is_settled(pod: Mapping[str, Any], seconds: int, boot_timeout: int, answer_timeout: int) -> bool:
    """Whether waiting longer changes nothing, `seconds` after the last change of the pod's state."""
    if pod["state"] == "answered" or not pod["requests_slot"] or pod["failed"]:
        return True
    if pod["state"] in ("unscheduled", "booting") and seconds >= boot_timeout:
        return True
    if pod["state"] == "running":
        return seconds >= answer_timeout
    cause = reported(pod)
    # Without an error, the cloud may still create the VM, or the VM still pull the image.
    if cause is None:
        return False
    # Kubelet repeats a pull, which may fail once while the network of the VM starts.
    if pod["state"] == "pulling":
        return seconds >= answer_timeout
    return cause.is_final or seconds >= boot_timeout


def _messages(pod: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Messages that may have the cause: what they are about, their text and source, the most direct first."""
    summaries = []
    for event in reversed(pod["events"]):
        if event["type"] == "Warning" and event["reason"] != _PAST and _SUCCEEDED not in event["message"]:
            about = CONTAINER if event["reason"] in _OF_CONTAINER else SANDBOX
            message = (about, event["message"], f"event {event['reason']}")
            if _is_summary(event["reason"], event["message"]):
                summaries.append(message)
            else:
                yield message
    for each in pod["waiting"]:
        message = (CONTAINER, f"{each['reason']}: {each['message']}", "the status of the container")
        if _is_summary(each["reason"], each["message"]):
            summaries.append(message)
        elif each["message"] and each["reason"] not in ("ContainerCreating", "PodInitializing"):
            yield message
    adaptor = pod.get("adaptor") or {}
    for line in reversed(_log(pod)):
        # Other lines do not report a failure: the rules decide only about its kind.
        if re.search(r"error|fail|timeout|timed out|refused|Retrying|cleaning up", line, re.IGNORECASE):
            yield CONTAINER if "Container fails: " in line else SANDBOX, line, f"the log of {adaptor['pod']}"
    yield from summaries


def _log(pod: Mapping[str, Any]) -> list[str]:
    """The lines of cloud-api-adaptor's log, without failed attempts to connect to an agent that it then reached."""
    lines = (pod.get("adaptor") or {}).get("log") or []
    last = max((index for index, line in enumerate(lines) if _CONNECTED in line), default=-1)
    return [line for index, line in enumerate(lines) if index >= last or _ATTEMPT not in line]


def _is_summary(reason: str, message: str) -> bool:
    """Whether kubelet only repeats that something failed, after the message with the error: `Error: ErrImagePull`."""
    is_name = re.fullmatch(r"(?:\(combined from similar events\): )?Error: \w+", message) is not None
    return is_name or reason in ("BackOff", "CrashLoopBackOff", "ImagePullBackOff")


def _matched(state: str, about: str, message: str, source: str) -> Cause | None:
    """The cause by the rules, without those of the checks that the pod has passed: an earlier attempt failed."""
    for kind, pattern in RULES[about]:
        if not has_passed(state, KINDS[kind].check) and (match := pattern.search(message)):
            return Cause(kind, _quote(message, match.start()), source)
    return None


def _of_adaptor(pod: Mapping[str, Any]) -> Cause | None:
    """The cause in the last lines of a cloud-api-adaptor that does not run: it reads from the cloud when it starts."""
    adaptor = pod.get("adaptor") or {}
    if not adaptor.get("problem"):
        return None
    ended = adaptor.get("ended") or []
    source = f"the log of {adaptor['pod']}, which has ended"
    causes = (_matched("scheduled", SANDBOX, line, source) for line in reversed(ended))
    known = next((cause for cause in causes if cause and KINDS[cause.kind].check == "verify-vm"), None)
    quote = " ".join(filter(None, (adaptor["problem"], *ended[-1:])))
    return known or Cause("adaptor", _quote(quote, 0), "the DaemonSet of cloud-api-adaptor")


# What kubelet and CRI-O report about a sandbox that only takes too long.
_IS_SLOW = re.compile(r"deadline exceeded|timed out|timing out|timeout|context canceled|is reserved", re.IGNORECASE)


def _unreached(pod: Mapping[str, Any], reported_cause: Cause | None) -> Cause:
    """The cause for a VM whose sandbox is not complete, if no message names one."""
    adaptor = pod.get("adaptor") or {}
    log = _log(pod)
    source = f"the log of {adaptor.get('pod') or 'cloud-api-adaptor'}"
    last = next((line for line in reversed(log) if _ATTEMPT in line), "")
    is_connected = _CONNECTED in last
    is_other = reported_cause is not None and not _IS_SLOW.search(reported_cause.quote)
    if reported_cause and is_other and (is_connected or not last):
        return reported_cause
    return Cause("agent", _quote(last, 0), source) if is_connected else Cause("port", _last(log), source)


def _last_attempt(pod: Mapping[str, Any]) -> Cause | None:
    """The last failed connection to the agent. Kubelet's event only has that the time for it was over, and while a VM
    boots, it first drops packets, and then refuses connections."""
    adaptor = pod.get("adaptor") or {}
    attempts = (line for line in reversed(_log(pod)) if _RETRY in line)
    source = f"the log of {adaptor.get('pod')}"
    return next(filter(None, (_matched("booting", SANDBOX, line, source) for line in attempts)), None)


# The states of an instance of EC2 or a VM of Azure that does not run.
ENDED = ("shutting-down", "terminated", "stopping", "stopped", "failed", "canceled", "deallocating", "deallocated")


def _ended(pod: Mapping[str, Any], instances: Iterable[Mapping[str, Any]]) -> Cause | None:
    """The current VM, if it has ended by itself: cloud-api-adaptor terminates one whose agent it does not reach."""
    current = next((each for each in instances if each["id"] in pod["instances"][-1:]), None)
    if current is None or current["state"] not in ENDED or "UserInitiatedShutdown" in current["state_reason"]:
        return None
    reason = current["state_reason"]
    kind = next((kind for kind, pattern in RULES[SANDBOX] if kind in _OF_STATES and pattern.search(reason)), "vm")
    quote = f"{current['id']} is {current['state']}: {reason or 'no reason'}"
    return Cause(kind, _quote(quote, 0), "the cloud")


# The kinds that the reason of a state may show, such as Server.InsufficientInstanceCapacity.
_OF_STATES = ("quota", "capacity")


def _boot_failure(instances: Iterable[Mapping[str, Any]]) -> Cause | None:
    for instance in instances:
        match = BOOT_FAILURES.search(instance.get("console") or "")
        if match:
            return Cause("agent", match[0].strip()[:QUOTE_LENGTH], f"the console of {instance['id']}")
    return None


def _unanswered(pod: Mapping[str, Any]) -> Cause | None:
    """The cause for a pod whose container has started."""
    if pod["ended"]:
        log = " / ".join(pod.get("log") or [])
        return Cause("program", _quote(f"{pod['ended'][-1]}{f': {log}' if log else ''}", 0), "the container")
    error = pod.get("answer_error") or ""
    if not error:
        return None
    # The container listens on all addresses as soon as it runs. The error is that of the proxy of the API server.
    is_unreached = re.search(r"error trying to reach service|timeout|timed out|deadline", error)
    if re.search(r"rejected by the API server with 403 .*cannot get resource", error):
        kind = "access"
    elif re.search(r"connection refused|answer of the pod is not", error):
        kind = "program"
    # Its log has the results if the pod does not answer.
    elif is_unreached and (passed := _passed_tests(pod.get("output") or {})):
        return Cause("network", _quote(f"{error} The pod reached {join_names(passed)}.", 0), "the API server")
    else:
        kind = "tunnel" if is_unreached else "unknown"
    return Cause(kind, _quote(error, 0), "the API server")


def _passed_tests(output: Mapping[str, Any]) -> list[str]:
    """What the pod reached over the pod network: its packets pass the tunnel in both directions."""
    return [str(output[key]["found"]) for key in ("service", "egress") if (output.get(key) or {}).get("ok")]


def _last(lines: Sequence[str] | None) -> str:
    return lines[-1] if lines else "no line about this pod"


def _quote(message: str, start: int) -> str:
    """The message on one line; of a long one, the part around `start`."""
    # The rules of azcore's ResponseError.
    before, line = (" ".join(re.sub(r"-{9,}", " ", text).split()) for text in (message[:start], message))
    if len(line) <= QUOTE_LENGTH:
        return line
    begin = max(0, min(len(before) - 100, len(line) - QUOTE_LENGTH))
    end = begin + QUOTE_LENGTH
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"


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
