"""Compares quantities with the grammar of Kubernetes and with the parser of its Python client."""

from __future__ import annotations

from decimal import MAX_EMAX, ROUND_UP, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from peerpods_webhook.quantity import MAXIMUM, ONE, parse

# The grammar of k8s.io/apimachinery's resource.Quantity, rule by rule. It allows an exponent with
# decimals, which the API server rejects.
digits = st.text("0123456789", min_size=1, max_size=20)
numbers = (
    digits
    | st.builds("{}.{}".format, digits, digits)
    | st.builds("{}.".format, digits)
    | st.builds(".{}".format, digits)
)
signed_numbers = st.builds("{}{}".format, st.sampled_from(["", "+", "-"]), numbers)
binary_si = st.sampled_from(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
decimal_si = st.sampled_from(["n", "u", "m", "", "k", "M", "G", "T", "P", "E"])
decimal_exponents = st.builds("{}{}".format, st.sampled_from("eE"), st.integers(-30, 30).map(str) | st.just("+3"))
quantities = st.builds("{}{}".format, signed_numbers, binary_si | decimal_si | decimal_exponents)


def as_kubernetes_stores_it(text: str) -> int:
    """The client's parser, rounded to billionths and capped as the API server does."""
    with localcontext() as context:
        context.prec = 200
        context.Emax = MAX_EMAX
        billionths = int((parse_quantity(text) * ONE).to_integral_value(ROUND_UP))
    return max(-MAXIMUM, min(billionths, MAXIMUM))


@given(quantities)
@example("0.0000000001")
@example("1E")
@example("1E1")
@example("9223372036854775807")
@example("-8Ei")
def test_equals_the_kubernetes_clients_parser(text):
    assert parse(text) == as_kubernetes_stores_it(text)


@given(st.text("0123456789.+-eEinumkKMGTP _", max_size=7))
def test_accepts_nothing_that_the_kubernetes_client_rejects(text):
    try:
        billionths = parse(text)
    except ValueError:
        return
    assert billionths == as_kubernetes_stores_it(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 ",
        "m",
        "+",
        ".",
        "Gi",
        "1ki",
        "1mi",
        "1K",
        "1e",
        "1e1.5",
        "1e+",
        "1_0",
        "1Gi5",
        "0x1",
        "--1",
        "1,5",
        "NaN",
        "Infinity",
        "1Kib",
        "١",
        "1\n",
    ],
)
def test_rejects_invalid_quantities(text):
    with pytest.raises(ValueError, match="is not a Kubernetes quantity"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "billionths"),
    [
        ("1.5Gi", 3 * 2**29 * ONE),
        ("500m", ONE // 2),
        ("1n", 1),
        ("0.1n", 1),
        ("-0.1n", -1),
        ("10E", MAXIMUM),
        ("1e999999999", MAXIMUM),
        ("-1e999999999", -MAXIMUM),
        ("1e-999999999", 1),
        ("0e999999999", 0),
        ("0." + "0" * 4000 + "1e4001", ONE),
    ],
)
def test_rounds_up_and_caps(text, billionths):
    assert parse(text) == billionths
