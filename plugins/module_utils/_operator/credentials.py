# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The credentials of cloud-api-adaptor, from the options of the role operator_install (no I/O here)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._operator.option_rows import (
    is_set,
    malformed,
    missing,
    value_of,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.credentials import (
    GIVEN,
    REQUEST,
    TOKEN,
    TOKEN_KEYS,
    choose_credentials,
    secret_source,
    takes_session_token,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.ownership import STS

ACCESS_KEY, SESSION_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"

# The prefix of the access keys that need a session token ("Unique identifiers" in the IAM User Guide).
TEMPORARY_PREFIX = "ASIA"

EXPIRES = (
    "The AWS access key in peer-pods-secret is temporary. When it expires, no VM of a peer pod can be created or "
    "deleted any more. Set the options to new keys before that, or use a role: operator_install_credentials=token."
)

# Why the existing peer-pods-secret stands in the way, by the way that is chosen and the way that the Secret came from.
CONFLICTS = {
    (GIVEN, REQUEST): (
        "The operator created peer-pods-secret from a CredentialsRequest and would overwrite other credentials. Set "
        "operator_install_credentials to credentials_request, or delete that CredentialsRequest and the Secret."
    ),
    (GIVEN, TOKEN): (
        "peer-pods-secret names a role or an identity and has a token instead of a secret. Set "
        "operator_install_credentials to token, or delete cco-secret, the variables in spec.config.env of the "
        "Subscription, and peer-pods-secret."
    ),
    (REQUEST, GIVEN): (
        "peer-pods-secret was not created from a CredentialsRequest, and the operator does not change it. Delete it, "
        "or set operator_install_credentials to given."
    ),
    (REQUEST, TOKEN): (
        "peer-pods-secret was not created from a CredentialsRequest, and the operator does not change it. Delete it, "
        "or set operator_install_credentials to token."
    ),
    (TOKEN, GIVEN): (
        "peer-pods-secret has credentials that were given, and the operator creates one with a token only if none "
        "exists. Delete it, or set operator_install_credentials to given."
    ),
    (TOKEN, REQUEST): (
        "The operator created peer-pods-secret from a CredentialsRequest. Delete that CredentialsRequest and the "
        "Secret, or set operator_install_credentials to credentials_request."
    ),
}


@dataclass(frozen=True)
class CredentialPlan:
    """The way, the reason for it, what is written to peer-pods-secret (None removes a key) and to the environment in
    the Subscription, and whether the AWS access key is temporary."""

    way: str
    reason: str
    secret: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    is_temporary: bool = False
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def plan_credentials(
    options: Mapping[str, Any], secret: Mapping[str, Any] | None, csv: str, settings: Mapping[str, str] | None = None
) -> CredentialPlan:
    """The plan for the existing `secret`, as `describe_object` describes it; None if it does not exist. `csv` is the
    ClusterServiceVersion that is or will be installed, empty if it is not known; `settings` is the data of
    peer-pods-cm.

    Of `options`, `credentials` and `token` are the rows of the options of either way. `key` of a token's row is that of
    the environment, `secret_key` that of peer-pods-secret.
    """
    source = None if secret is None else secret_source(secret["labels"], secret["content"] or {})
    facts = options["facts"]
    choice = choose_credentials(
        options["credentials_from"],
        options["platform"],
        given=_set_options(options["credentials"]),
        token=_set_options(options["token"]),
        # peer-pods-secret may have been created after the facts were read.
        facts=None if facts is None else {**facts, "secret": source},
        csv=csv,
    )
    problems = [choice.problem] if choice.problem else []
    if source is not None and source != choice.way:
        problems.append(CONFLICTS[choice.way, source])
    plan = CredentialPlan(choice.way, choice.reason)
    if choice.way == GIVEN:
        plan = _plan_given(plan, options["credentials"], secret, csv, settings or {})
    elif choice.way == TOKEN:
        plan = _plan_token(plan, options["token"], secret)
        if source == TOKEN and secret is not None and STS not in secret["labels"] and not plan.env:
            plan = replace(plan, warnings=tuple(_unmounted(options["token"], options.get("objects", ()))))
    return replace(plan, problems=(*problems, *plan.problems))


def _set_options(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The options that are set and name an identity, which those of a tenant or a subscription do not."""
    return [row["option"] for row in rows if is_set(row) and not row.get("shared")]


def _plan_given(
    plan: CredentialPlan,
    rows: Sequence[Mapping[str, Any]],
    secret: Mapping[str, Any] | None,
    csv: str,
    settings: Mapping[str, str],
) -> CredentialPlan:
    """A complete Secret and that of another owner keep what they have where no option is set. The environment fills a
    new Secret, and one that an earlier run has left incomplete."""
    required = {row["key"] for row in rows if not row.get("optional")}
    stored = (secret or {}).get("content") or {}
    is_kept = secret is not None and (required <= stored.keys() or not (secret["managed"] or _set_options(rows)))
    written = {row["key"]: row["value"] if is_kept else value_of(row) for row in rows if is_set(row) or not is_kept}
    # The token of the environment belongs to the key of the environment.
    tokens = [row for row in rows if row["key"] == SESSION_TOKEN]
    token = next(((row["value"] if _set_options(rows) else value_of(row)) for row in tokens), "")
    written.pop(SESSION_TOKEN, None)
    problems = [
        *(problem for row in rows if row["key"] in written for problem in missing(row)),
        *_half_set(rows),
    ]
    if is_kept and not _set_options(rows):
        problems += _incomplete({*stored, *written, *(key for key, value in settings.items() if value)}, rows)
    if str(written.get(ACCESS_KEY, "")).startswith(TEMPORARY_PREFIX):
        problems += _session_problems(token, csv)
        written[SESSION_TOKEN] = token
    elif written.get(ACCESS_KEY) and SESSION_TOKEN in stored:
        # The token of the key before.
        written[SESSION_TOKEN] = None
    is_temporary = written.get(SESSION_TOKEN, SESSION_TOKEN in stored or None) is not None
    return replace(
        plan,
        secret=written,
        is_temporary=is_temporary,
        warnings=(EXPIRES,) if is_temporary else (),
        problems=tuple(problems),
    )


def _half_set(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Half of a key from the options and the other half from the environment would belong to two identities."""
    pair = [row for row in rows if row.get("group")]
    absent = [row["option"] for row in pair if not is_set(row) and not row.get("optional")]
    if absent and any(map(is_set, pair)):
        yield (
            f"{' and '.join(row['option'] for row in pair if is_set(row))} must be set together with "
            f"{' and '.join(absent)}: they belong to one key."
        )


def _incomplete(keys: Collection[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Why cloud-api-adaptor cannot start with a Secret that is kept. `keys` are those of the Secret and of
    peer-pods-cm: both are its environment, which its entrypoint checks, and its provider the secret of Azure
    (src/cloud-api-adaptor/entrypoint.sh and src/cloud-providers/azure/client.go of
    confidential-containers/cloud-api-adaptor)."""
    lacking = [row for row in rows if not row.get("optional") and row["key"] not in keys]
    if lacking and not any(key in keys for key in TOKEN_KEYS):
        keys_of_rows = " and no ".join(row["key"] for row in lacking)
        yield (
            f"peer-pods-secret, which this collection did not create, has no {keys_of_rows}: "
            "cloud-api-adaptor does not start without. Add what is missing, or set "
            f"{' and '.join(row['option'] for row in lacking)}, and operator_install_take_over to true."
        )


def _session_problems(token: str, csv: str) -> Iterator[str]:
    if not token:
        yield (
            "The AWS access key for peer-pods-secret is temporary, and its session token is missing. Set "
            "operator_install_aws_session_token, or AWS_SESSION_TOKEN if the key is that of the environment."
        )
    elif not takes_session_token(csv):
        yield (
            f"The AWS access key for peer-pods-secret is temporary, and cloud-api-adaptor of {csv} reads no session "
            "token. Use a permanent key, or set operator_install_credentials to credentials_request."
        )


def _unmounted(rows: Iterable[Mapping[str, Any]], objects: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """With cco-secret, the environment of the operator may lack what makes it mount a token into cloud-api-adaptor
    (configureCAAProvider in controllers/peerpods.go)."""
    env = {
        each.get("name")
        for entry in objects
        if entry["kind"] == "Subscription"
        for each in ((entry["content"] or {}).get("config") or {}).get("env") or ()
    }
    if absent := [row["key"] for row in rows if row["key"] not in env]:
        yield (
            f"peer-pods-secret was created from cco-secret, and {', '.join(absent)} is not in spec.config.env of the "
            "Subscription: without it, the operator mounts no token into cloud-api-adaptor, which can then create no "
            "VM. Add it, with the value in cco-secret."
        )


def _plan_token(
    plan: CredentialPlan, rows: Sequence[Mapping[str, Any]], secret: Mapping[str, Any] | None
) -> CredentialPlan:
    """The operator creates peer-pods-secret from its environment if none exists, and does not change it later: then
    the role changes it, too. Without options, an existing one is kept."""
    if secret is not None and not _set_options(rows):
        return plan
    problems = [problem for row in rows for problem in (*missing(row), *malformed(row))]
    is_operators = secret is not None and STS in secret["labels"]
    if secret is not None and not is_operators and secret_source(secret["labels"], secret["content"] or {}) == TOKEN:
        problems.append(
            "The operator created peer-pods-secret from cco-secret. Change cco-secret, or leave out "
            f"{' and '.join(_set_options(rows))}."
        )
    return replace(
        plan,
        secret={row["secret_key"]: value_of(row) for row in rows} if is_operators else {},
        env={row["key"]: str(value_of(row)) for row in rows},
        problems=tuple(f"{plan.reason} {problem}" for problem in problems),
    )
