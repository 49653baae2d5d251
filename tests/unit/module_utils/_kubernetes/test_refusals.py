"""What to do about a rejected request, by the texts that API servers return (refusals.py names their sources)."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.refusals import (
    MORE_PERMISSIONS_DO_NOT_HELP,
    NO_API_SERVER,
    UNKNOWN_CAUSE,
    advise,
)

FORBIDDEN_POD = 'pods "probe" is forbidden: '


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (
            'nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope',
            "Grant alice the verb list on nodes in the whole cluster, or log in",
        ),
        (
            (
                'deployments.apps "web" is forbidden: User "system:serviceaccount:ci:bot" cannot patch resource '
                '"deployments/scale" in API group "apps" in the namespace "team": RBAC: '
                'role.rbac.authorization.k8s.io "x" not found'
            ),
            "Grant system:serviceaccount:ci:bot the verb patch on deployments/scale.apps in namespace team, or",
        ),
        ('forbidden: User "alice" cannot get path "/metrics"', "Grant alice the verb get on /metrics, or log in"),
        (
            (
                'nodes is forbidden: User "system:anonymous" cannot list resource "nodes" in API group "" '
                "at the cluster scope"
            ),
            "The request was sent without credentials. Log in.",
        ),
        (
            (
                'clusterroles "x" is forbidden: user "alice" (groups=["system:authenticated"]) is attempting to grant '
                'RBAC permissions not currently held:\n{APIGroups:[""], Resources:["nodes"], Verbs:["get"]}'
            ),
            "A user can only grant permissions that it has",
        ),
        (
            FORBIDDEN_POD + "exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4",
            "The ResourceQuota compute of the namespace rejects",
        ),
        (FORBIDDEN_POD + "failed quota: compute: must specify limits.cpu for: app", "The ResourceQuota compute of the"),
        (
            FORBIDDEN_POD
            + "[minimum cpu usage per Container is 20m, but request is 10m, maximum memory usage per Pod is 1Gi]",
            "A LimitRange of the namespace rejects",
        ),
        (
            'admission webhook "policy.example.com" denied the request: images must be signed',
            "The admission webhook policy.example.com rejects",
        ),
        (
            FORBIDDEN_POD
            + "ValidatingAdmissionPolicy 'no-latest' with binding 'no-latest' denied request: no tag latest",
            "The ValidatingAdmissionPolicy no-latest rejects",
        ),
        (
            FORBIDDEN_POD + 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
            "The namespace admits only pods of the Pod Security Standard restricted:latest",
        ),
        (
            FORBIDDEN_POD
            + "unable to validate against any security context constraint: [provider restricted-v2: .spec…]",
            "No SecurityContextConstraints that the pod's service account may use",
        ),
        (
            (
                'configmaps "a" is forbidden: unable to create new content in namespace team because it is being '
                "terminated"
            ),
            "The namespace is being deleted",
        ),
        (
            FORBIDDEN_POD + 'pod rejected: RuntimeClass "kata-remote" not found',
            "The RuntimeClass kata-remote does not exist",
        ),
        (FORBIDDEN_POD + "the plugin has no reason", UNKNOWN_CAUSE),
    ],
)
def test_a_403_gets_the_advice_of_its_cause(message: str, advice: str):
    assert advise(403, message).startswith(advice)


@pytest.mark.parametrize(
    "cause",
    [
        "exceeded quota: a, requested: pods=1",
        'admission webhook "w" denied the request',
        "because it is being terminated",
    ],
)
def test_the_advice_says_where_more_permissions_do_not_help(cause: str):
    assert advise(403, FORBIDDEN_POD + cause).endswith(MORE_PERMISSIONS_DO_NOT_HELP)


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (401, "Unauthorized", "The credentials are invalid or have expired. Log in again."),
        (404, 'namespaces "team" not found', "Create the namespace team first."),
        (
            422,
            "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            "The ValidatingAdmissionPolicy p rejects",
        ),
        (400, 'admission webhook "w" denied the request without explanation', "The admission webhook w rejects"),
        (
            500,
            'Internal error occurred: failed calling webhook "w": connection refused',
            "The API server could not call",
        ),
        (404, 'configmaps "a" not found', ""),
        (409, "the object has been modified", ""),
        (500, "etcdserver: leader changed", ""),
    ],
)
def test_other_statuses_get_advice_where_the_message_names_a_cause(status: int, message: str, advice: str):
    given = advise(status, message)
    assert given.startswith(advice)
    assert bool(given) == bool(advice)


def test_an_answer_that_is_not_a_status_is_not_of_an_api_server():
    assert advise(403, "<html>Blocked by the proxy</html>", is_of_api_server=False) == NO_API_SERVER
