# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why an API server rejected a request, and what to do about that (private to this collection).

The status alone does not name the cause: 403 is also the answer of a quota, of an admission plugin and of a namespace
that is being deleted, where more permissions do not help. The cause is in the message, whose texts are those of the API
server: kubernetes/kubernetes, staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go
(permissions), pkg/admission/plugin/webhook/errors/statuserror.go (webhooks),
pkg/admission/plugin/policy/validating/dispatcher.go (policies), plugin/pkg/admission (the others).
"""

from __future__ import annotations

import re

MORE_PERMISSIONS_DO_NOT_HELP = "More permissions do not help."

UNAUTHORIZED = (
    "The credentials are invalid or have expired. Log in again. If the kubeconfig gets them from a command (exec), "
    "run that command."
)
UNKNOWN_CAUSE = (
    "If the message names a permission, grant it, or log in as a user with the role cluster-admin; if it names a "
    "policy or a quota, change that."
)
NO_API_SERVER = (
    "The answer is not that of a Kubernetes API server: check the proxy, firewall or load balancer between this "
    "machine and the cluster."
)

_PERMISSION = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) '
    r'(?:resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)")?'
    r'|path "(?P<path>[^"]+)")'
)

# What to do, by what the message contains; the first that matches counts. The named groups are filled in.
_CAUSES = (
    (
        r"attempting to grant RBAC permissions not currently held",
        (
            "A user can only grant permissions that it has: log in as a user with the role cluster-admin, or grant "
            "the verb escalate on the role."
        ),
    ),
    (
        r"(?:exceeded|failed) quota: (?P<quota>[^:,]+)",
        (
            "The ResourceQuota {quota} of the namespace rejects the request: change it, or free what it counts. "
            "{no_permissions}"
        ),
    ),
    (
        (
            r"(?:maximum|minimum) \S+ (?:usage|limit to request ratio|storage) ?.*"
            r"per (?:Container|Pod|PersistentVolumeClaim)"
        ),
        "A LimitRange of the namespace rejects the request: change it. {no_permissions}",
    ),
    (
        r'failed calling webhook "(?P<webhook>[^"]+)"',
        (
            "The API server could not call the admission webhook {webhook}: check that its pods run and that its "
            "certificate is valid, then try again."
        ),
    ),
    (
        r'admission webhook "(?P<webhook>[^"]+)" denied the request',
        (
            "The admission webhook {webhook} rejects the request: meet what it requires, or have its administrator "
            "make an exception. {no_permissions}"
        ),
    ),
    (
        r"ValidatingAdmissionPolicy '(?P<policy>[^']+)'",
        (
            "The ValidatingAdmissionPolicy {policy} rejects the request: meet what it requires, or have its "
            "administrator make an exception. {no_permissions}"
        ),
    ),
    (
        r'violates PodSecurity "(?P<level>[^"]+)"',
        (
            "The namespace admits only pods of the Pod Security Standard {level}: change its labels "
            "pod-security.kubernetes.io, or use another namespace. {no_permissions}"
        ),
    ),
    (
        r"unable to validate against any security context constraint",
        (
            "No SecurityContextConstraints that the pod's service account may use admit the pod: grant it the verb "
            "use on one that does."
        ),
    ),
    (
        r"because it is being terminated",
        "The namespace is being deleted. Wait until it no longer exists, then try again. {no_permissions}",
    ),
    (
        r'RuntimeClass "(?P<runtime_class>[^"]+)" not found',
        "The RuntimeClass {runtime_class} does not exist: the operator creates it for a KataConfig. {no_permissions}",
    ),
    (
        r"UID in (?:the )?precondition",
        "Another client has deleted this object and created a new one of the same name. Run the task again.",
    ),
    (
        r'namespaces "(?P<namespace>[^"]+)" not found',
        "Create the namespace {namespace} first.",
    ),
)


def is_uncalled_webhook(message: str) -> bool:
    """Whether the API server could not call an admission webhook: then it has stored nothing."""
    return "failed calling webhook" in message


def advise(status: int, message: str, *, is_of_api_server: bool = True) -> str:
    """What to do about a request that was rejected with this status and message; empty if only the message can help.

    `is_of_api_server` is false if the body is not a Status object.
    """
    if status == 401:
        return UNAUTHORIZED
    if not is_of_api_server and status in (403, 404, 407):
        return NO_API_SERVER
    permission = _PERMISSION.search(message)
    if status == 403 and permission:
        return _grant(**permission.groupdict())
    for pattern, advice in _CAUSES:
        cause = re.search(pattern, message)
        if cause:
            return advice.format(**cause.groupdict(), no_permissions=MORE_PERMISSIONS_DO_NOT_HELP)
    return UNKNOWN_CAUSE if status == 403 else ""


def _grant(
    user: str, verb: str, resource: str | None, group: str | None, namespace: str | None, path: str | None
) -> str:
    if user == "system:anonymous":
        return "The request was sent without credentials. Log in."
    kind = path or f"{resource}.{group}".rstrip(".")
    where = f" in namespace {namespace}" if namespace else " in the whole cluster"
    return (
        f"Grant {user} the verb {verb} on {kind}{'' if path else where}, or log in as a user with that permission, "
        "such as one with the role cluster-admin."
    )
