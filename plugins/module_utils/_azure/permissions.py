# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the permissions of an identity in Azure include an action (private; no I/O here).

Sources: REST references "Permissions - List For Resource", "Role Definitions - Get" and "Deny Assignments - List", and
"Understand Azure role definitions" and "List Azure deny assignments".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PERMISSIONS_API_VERSION = "2022-04-01"

# All users, groups, service principals and managed identities, in a deny assignment.
EVERYONE = "00000000-0000-0000-0000-000000000000"

NO_ROLE = "no role"

# What exists before the first VM of a peer pod: a role on one of them counts. The others are created in the group.
EXISTING_TYPES = (
    "microsoft.compute/galleries",
    "microsoft.network/networksecuritygroups",
    "microsoft.network/virtualnetworks",
)


@dataclass(frozen=True)
class Access:
    """What a principal may do: the assignments of its roles, their permissions by the ID of the role in lower case, and
    the deny assignments of the subscription."""

    principal_id: str
    assignments: Sequence[Mapping[str, Any]]
    permissions: Mapping[str, Sequence[Mapping[str, Any]]]
    denials: Sequence[Mapping[str, Any]] = ()

    def obstacle(self, action: str, scope: str) -> str | None:
        """Why the principal may not take the action on the resources in a resource group, or on one resource; None if
        it may.

        A deny assignment takes precedence over roles.
        """
        denial = next((each for each in self.denials if self._denies(each["properties"], action, scope)), None)
        if denial:
            return f"deny assignment {denial['properties'].get('denyAssignmentName') or denial['name']}"
        roles = (
            self.permissions.get(each["properties"]["roleDefinitionId"].lower(), ())
            for each in self.assignments
            if contains(each["properties"]["scope"], scope)
        )
        return None if any(granted(action, permissions) for permissions in roles) else NO_ROLE

    def resources_in(self, action: str, group: str) -> list[str]:
        """The resources in the resource group on which a role permits the action, though not in the whole group."""
        return [
            scope
            for each in self.assignments
            if contains(group, scope := each["properties"]["scope"])
            and _has_action(scope, action)
            and granted(action, self.permissions.get(each["properties"]["roleDefinitionId"].lower(), ()))
        ]

    def _denies(self, denial: Mapping[str, Any], action: str, scope: str) -> bool:
        def is_among(principals: Iterable[Mapping[str, Any]] | None, *ids: str) -> bool:
            return any(str(each.get("id")).lower() in ids for each in principals or ())

        own = self.principal_id.lower()
        return (
            contains(denial["scope"], scope)
            # It is for the resource group itself, and not for the resources in it.
            and (not denial.get("doNotApplyToChildScopes") or (is_resource(scope) and contains(scope, denial["scope"])))
            and is_among(denial.get("principals"), own, EVERYONE)
            and not is_among(denial.get("excludePrincipals"), own)
            and granted(action, denial.get("permissions") or ())
        )


def is_resource(scope: str) -> bool:
    """Whether the scope is a resource in a resource group."""
    return re.search("/resourceGroups/[^/]+/providers/", scope, re.IGNORECASE) is not None


def _has_action(resource: str, action: str) -> bool:
    """Whether the action is one on this resource or on what it contains."""
    _group, _providers, path = resource.lower().rpartition("/providers/")
    namespace, *parts = path.split("/")
    kind = "/".join([namespace, *parts[::2]])
    return kind.startswith(EXISTING_TYPES) and action.lower().startswith(f"{kind}/")


def contains(outer: str, scope: str) -> bool:
    """Whether a scope is the other one, or contains it."""
    return f"{scope}/".lower().startswith(f"{outer.rstrip('/')}/".lower())


def granted(action: str, permissions: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of the permissions has the action, and does not exclude it by its notActions.

    Each permission belongs to one assigned role. An action that one role excludes may be granted by another role.
    """
    return any(
        _is_among(action, permission.get("actions")) and not _is_among(action, permission.get("notActions"))
        for permission in permissions
    )


def _is_among(action: str, patterns: Iterable[str] | None) -> bool:
    """Whether a pattern matches: case is ignored, and `*` matches any text, including slashes."""
    return any(
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), action, re.IGNORECASE) for pattern in patterns or ()
    )
