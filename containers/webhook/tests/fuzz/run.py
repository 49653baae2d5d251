"""`make fuzz`: a bounded number of mutated reviews, by all cores, then some over HTTPS."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import wire
from .invariants import BrokenPromiseError, check
from .reviews import cases, corpus

FAILURES = Path("build") / "fuzz"
BATCH = 5000

# How much more memory a worker may take at its end than it took after a fifth of its reviews:
# at a million reviews and two cores, a leak of 170 bytes a review is more.
MOST_GROWTH = 64 * 2**20


class Batch(NamedTuple):
    """What a worker process says about some reviews, or about the one that broke a promise."""

    pid: int
    resident_bytes: int
    outcomes: Counter[str]
    failure: tuple[int, bytes, str] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument(
        "--count",
        type=int,
        default=1_000_000,
        help="reviews (a million), and a fiftieth of it over HTTPS",
    )
    parser.add_argument("--seconds", type=float, default=1800, help="give up after this (1800)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="repeat this run")
    parser.add_argument("--case", type=int, help="only the review with this number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (all cores)")
    options = parser.parse_args()
    print(f"make fuzz SEED={options.seed} repeats this run.", flush=True)
    try:
        if options.case is not None:
            one = run_batch(options.seed, range(options.case, options.case + 1))
            if one.failure:
                report(options.seed, *one.failure)
            print(f"Review {options.case} keeps all promises: {one.outcomes}")
            return
        fuzz(options)
        began, requests = time.monotonic(), options.count // 50
        wire.check(options.seed, requests)
        took = time.monotonic() - began
        print(f"{requests:,} requests over HTTPS in {took:.0f} s; the process is in good order.")
    except BrokenPromiseError as broken:
        sys.exit(f"A promise was broken: {broken} (seed {options.seed})")


def fuzz(options: argparse.Namespace) -> None:
    """Raises BrokenPromiseError, where a review did it after having written that to build/fuzz/."""
    began = time.monotonic()
    starts = range(0, options.count, BATCH)
    batches = [range(start, min(start + BATCH, options.count)) for start in starts]
    outcomes: Counter[str] = Counter()
    resident: dict[int, list[int]] = {}
    # Spawned: a worker's memory is its own, and no thread of ours is copied halfway.
    with multiprocessing.get_context("spawn").Pool(options.jobs) as workers:
        run = functools.partial(run_batch, options.seed)
        for batch in workers.imap_unordered(run, batches):
            if batch.failure:
                report(options.seed, *batch.failure)
            outcomes += batch.outcomes
            resident.setdefault(batch.pid, []).append(batch.resident_bytes)
            took = time.monotonic() - began
            if sys.stdout.isatty():
                print(f"\r{outcomes.total():,} reviews, {took:.0f} s", end="\r", flush=True)
            if took > options.seconds and outcomes.total() < options.count:
                raise BrokenPromiseError(
                    f"{outcomes.total():,} of {options.count:,} reviews took {took:.0f} s; "
                    "ask for fewer by --count, or allow more --seconds"
                )
    growth = max(after[-1] - after[len(after) // 5] for after in resident.values())
    summary = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    print(
        f"{outcomes.total():,} reviews in {took:.0f} s ({summary}); the memory of a process grew by "
        f"{growth / 2**20:.1f} MiB to {max(map(max, resident.values())) / 2**20:.0f} MiB.",
        flush=True,
    )
    if growth > MOST_GROWTH:
        raise BrokenPromiseError(f"the memory of a process grew by {growth / 2**20:.0f} MiB")


def run_batch(seed: int, indices: range) -> Batch:
    """Check the reviews with these numbers, up to the first that breaks a promise."""
    outcomes: Counter[str] = Counter()
    failure = None
    for index, body in cases(seed, indices, corpus()):
        try:
            outcomes[check(body)] += 1
        except BrokenPromiseError as broken:
            failure = index, body, str(broken)
            break
    return Batch(os.getpid(), wire.resident_bytes("self"), outcomes, failure)


def report(seed: int, index: int, body: bytes, why: str) -> None:
    """Write the review and a smaller one that fails alike to build/fuzz/; raises BrokenPromiseError."""
    FAILURES.mkdir(parents=True, exist_ok=True)
    path = FAILURES / f"{seed}-{index}.json"
    path.write_bytes(body)
    small = path.with_suffix(".small.json")
    small.write_bytes(minimize(body, functools.partial(fails_alike, why)))
    raise BrokenPromiseError(
        f"{why[:1000]}; review {index} is in {path}, and in {small} as little of it as still "
        f"fails. `make fuzz SEED={seed} CASE={index}` repeats it"
    )


def fails_alike(why: str, body: bytes) -> bool:
    try:
        check(body)
    except BrokenPromiseError as broken:
        return str(broken)[:20] == why[:20]
    return False


def minimize(body: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """`body` without whatever parts of it can be left out, ever smaller ones, with it still failing."""
    size = len(body) // 2
    while size:
        at = 0
        while at < len(body):
            without = body[:at] + body[at + size :]
            if fails(without):
                body = without
            else:
                at += size
        size //= 2
    return body


if __name__ == "__main__":
    main()
