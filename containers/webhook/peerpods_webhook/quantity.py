# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Kubernetes quantities (`500m`, `1.5Gi`, `2e3`) as exact integers.

Kubernetes keeps at most nine decimal places of a quantity. An integer number of
billionths represents every quantity, and makes sums and comparisons exact.
"""

from __future__ import annotations

import functools
import re
import reprlib

# Billionths in one: parse("1") == ONE.
ONE = 10**9

# No quantity represents a number greater than 2^63-1 in magnitude; larger ones are capped.
MAXIMUM = (2**63 - 1) * ONE

_QUANTITY = re.compile(
    r"""
    (?P<sign>[+-]?)
    (?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)
    (?P<suffix>[KMGTPE]i|[numkMGTPE]?|[eE][+-]?[0-9]+)
    """,
    re.VERBOSE,
)

# Each suffix as (factor, power of ten).
_SUFFIXES = {
    **{suffix: (1, 3 * power) for power, suffix in enumerate("num", start=-3)},
    **{suffix: (1, 3 * power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{prefix}i": (1024**power, 0) for power, prefix in enumerate("KMGTPE", start=1)},
    "": (1, 0),
}

# int() accepts no more than 4300 digits.
_MAX_LENGTH = 4300

# Beyond this power of ten, the result is the cap or the smallest amount, whatever the digits are.
# Computing 10**999999999 would exhaust the memory.
_DECISIVE_POWER = 5000


# The pods of a cluster use the same few amounts.
@functools.lru_cache(maxsize=1024)
def parse(text: str) -> int:
    """The quantity in billionths, by the grammar of k8s.io/apimachinery's `resource.Quantity`.

    As in Kubernetes, more than nine decimal places round away from zero (a request for something
    never becomes nothing), and a magnitude above 2^63-1 is capped.

    Raises ValueError if `text` is not a quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{quote(text)} is not a Kubernetes quantity")
    sign, number, suffix = match.groups()
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"{quote(text)} is longer than {_MAX_LENGTH} characters")
    whole, _, decimals = number.partition(".")
    mantissa = int(whole + decimals)
    factor, power = _SUFFIXES[suffix] if suffix in _SUFFIXES else (1, int(suffix[1:]))
    power += 9 - len(decimals)
    if mantissa == 0:
        return 0
    if abs(power) > _DECISIVE_POWER:
        magnitude = MAXIMUM if power > 0 else 1
    elif power >= 0:
        magnitude = min(mantissa * factor * 10**power, MAXIMUM)
    else:
        magnitude = min(ceil_divide(mantissa * factor, 10**-power), MAXIMUM)
    return -magnitude if sign == "-" else magnitude


# Quotes text from a request in a message, shortened.
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100
quote = _repr.repr


def printable(text: str) -> str:
    """The text for a message, quoted if it is not a short line of printable characters."""
    return text if text.isprintable() and 0 < len(text) < 100 else quote(text)


def ceil_divide(amount: int, unit: int) -> int:
    """`amount` in whole units, rounded up."""
    return -(-amount // unit)
