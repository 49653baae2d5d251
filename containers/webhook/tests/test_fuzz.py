"""A short run of `make fuzz`, and tests of the fuzzer itself."""

from __future__ import annotations

import secrets

import pytest
from fuzz import wire
from fuzz.invariants import InvariantError, check
from fuzz.reviews import cases, corpus
from fuzz.run import minimize, run_batch

from peerpods_webhook import review

OUTCOMES = {"mutated", "unchanged", "rejected", "malformed"}


def test_the_corpus():
    assert {check(text.encode()) for text in corpus()} == {"mutated", "unchanged"}


def test_mutated_reviews():
    seed = secrets.randbits(32)
    batch = run_batch(seed, range(4000))
    assert batch.failure is None, f"seed {seed}, review {batch.failure[0]}: {batch.failure[2]}"
    assert set(batch.outcomes) == OUTCOMES


def test_requests_over_https():
    seed = secrets.randbits(32)
    try:
        wire.check(seed, 600)
    except InvariantError as error:
        pytest.fail(f"seed {seed}: {error}")


def test_every_case_of_a_run_is_reproducible():
    run = list(cases(7, range(500), corpus()))
    assert [*cases(7, range(499, 500), corpus())] == run[499:]
    assert [*cases(7, range(500), corpus())] == run


def test_a_violation_is_found_and_minimized(monkeypatch):
    monkeypatch.setattr(review, "mutate", lambda pod, policy: b'[{"op": "remove", "path": "/spec"}]')
    batch = run_batch(0, range(100))
    _, body, _ = batch.failure
    small = minimize(body, lambda part: b"kata" in part)
    assert small == b"kata"
