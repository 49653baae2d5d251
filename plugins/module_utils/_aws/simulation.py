# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Simulates with IAM which actions the policies of a principal allow (private to this collection)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.osc.peerpods.plugins.module_utils._aws.api import Api
from ansible_collections.osc.peerpods.plugins.module_utils._aws.client import Ec2Error

# How many actions one simulation may have (maxItems is not documented; the console sends up to 100).
SIMULATED = 100


@dataclass(frozen=True)
class Simulation:
    """The actions that are denied; None if they could not be simulated, for the reason `unknown`."""

    denied: list[str] | None = None
    unknown: str = ""


def denied_actions(iam: Api, principal: str, required: Mapping[str, Sequence[str]]) -> list[str]:
    """The actions that the policies of the principal do not allow, of those that are required on each resource."""
    denied: set[str] = set()
    for resource, actions in required.items():
        for start in range(0, len(actions), SIMULATED):
            results = iam.call(
                "SimulatePrincipalPolicy",
                PolicySourceArn=principal,
                ActionNames=list(actions[start : start + SIMULATED]),
                ResourceArns=[resource],
            )["EvaluationResults"]
            denied |= {each["EvalActionName"] for each in results if each["EvalDecision"] != "allowed"}
    return sorted(denied)


def simulate_caller(module: AnsibleAWSModule, caller: str, required: Mapping[str, Sequence[str]]) -> Simulation:
    """Whether the credentials of the module allow these actions on each resource. `caller` is the ARN that
    GetCallerIdentity returns for them."""
    if not required:
        return Simulation([])
    iam = Api(module, "iam", "IAM")
    try:
        kind, _slash, name = caller.split(":")[5].partition("/")
        if kind == "root":
            return Simulation([])
        if kind == "assumed-role":
            # The ARN of the session lacks the path of the role.
            caller = iam.call("GetRole", RoleName=name.partition("/")[0])["Role"]["Arn"]
        return Simulation(denied_actions(iam, caller, required))
    except Ec2Error as error:
        return Simulation(unknown=str(error))
