# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why the waves of the role peerpodconfig_rollout cannot be rolled out (no I/O here)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.limit_plan import (
    LimitError,
    parse_limit,
    refuse_bad_fields,
)
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import (
    DEFAULT_POOL,
    OPERATORS_CONFIG,
    PEER_POD_CONFIG,
)
from ansible_collections.osc.peerpods.plugins.module_utils._text import join_names

OPTION = "peerpodconfig_rollout_waves"


def wave_problems(
    waves: Sequence[Mapping[str, Any]], limit_in: str = "", pools: Collection[str] | None = None
) -> list[str]:
    """The problems, each as a sentence.

    `limit_in` is where the operator stores limits, empty if that is not known. `pools` are the names of the existing
    pools besides that of the operator, None if they are not known.
    """
    return list(_problems(waves, limit_in, pools))


def _problems(waves: Sequence[Mapping[str, Any]], limit_in: str, pools: Collection[str] | None) -> Iterator[str]:
    names = [str(wave.get("name") or "") for wave in waves]
    # The operator's own pool has one name on each generation, and the second accepts both.
    is_first = limit_in == PEER_POD_CONFIG
    counted = Counter(name if is_first or name != OPERATORS_CONFIG else DEFAULT_POOL for name in names)
    if any(number > 1 for name, number in counted.items() if name):
        yield f"{OPTION} names a pool twice ({', '.join(names)}). Remove one of the two waves."
    for name, wave in zip(names, waves, strict=True):
        if not name:
            yield f"A wave of {OPTION} has no name. Set it to the name of the pool."
            continue
        try:
            refuse_bad_fields({"name": name})
            if wave.get("limit") not in (None, ""):
                parse_limit(str(wave["limit"]))
        except LimitError as error:
            yield f"The wave {name} of {OPTION} is invalid: {error}"
    absent = {name for name in names if name} - {DEFAULT_POOL, OPERATORS_CONFIG, *(pools or ())}
    if pools is not None and absent:
        yield (
            f"{OPTION} names pools that do not exist: {join_names(sorted(absent))}. Create them with "
            "osc.peerpods.peerpod_limit and node_selector, or remove these waves."
        )
