"""`make fuzz`: checks a number of mutated reviews on all cores, then some over HTTPS."""

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
from .invariants import InvariantError, check
from .reviews import cases, corpus

FAILURES = Path("build") / "fuzz"
BATCH = 5000

# The maximum growth of a worker's memory after the first fifth of its reviews. With a million reviews
# on two cores, a leak of 170 bytes per review exceeds it.
MAX_GROWTH = 64 * 2**20


class Batch(NamedTuple):
    """The result of a worker process for some reviews, up to the first that violates an invariant."""

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
        help="number of reviews (default: a million); a fiftieth as many are sent over HTTPS",
    )
    parser.add_argument("--seconds", type=float, default=1800, help="time limit (default: 1800)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="repeat the run with this seed")
    parser.add_argument("--case", type=int, help="check only the review with this number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of processes (default: all cores)")
    options = parser.parse_args()
    print(f"make fuzz SEED={options.seed} repeats this run.", flush=True)
    try:
        if options.case is not None:
            batch = run_batch(options.seed, range(options.case, options.case + 1))
            if batch.failure:
                report(options.seed, *batch.failure)
            print(f"Review {options.case} violates no invariant: {batch.outcomes}")
            return
        fuzz(options)
        began, requests = time.monotonic(), options.count // 50
        wire.check(options.seed, requests)
        took = time.monotonic() - began
        print(f"{requests:,} requests over HTTPS in {took:.0f} s; the process violated no invariant.")
    except InvariantError as error:
        sys.exit(f"An invariant was violated: {error} (seed {options.seed})")


def fuzz(options: argparse.Namespace) -> None:
    """Raises InvariantError, after writing a review that violates an invariant to build/fuzz/."""
    began = time.monotonic()
    starts = range(0, options.count, BATCH)
    batches = [range(start, min(start + BATCH, options.count)) for start in starts]
    outcomes: Counter[str] = Counter()
    resident: dict[int, list[int]] = {}
    # Spawned: the memory of a worker contains nothing of this process.
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
                raise InvariantError(
                    f"{outcomes.total():,} of {options.count:,} reviews took {took:.0f} s; "
                    "reduce --count or increase --seconds"
                )
    growth = max(after[-1] - after[len(after) // 5] for after in resident.values())
    summary = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    print(
        f"{outcomes.total():,} reviews in {took:.0f} s ({summary}); the memory of a process grew by "
        f"{growth / 2**20:.1f} MiB to {max(map(max, resident.values())) / 2**20:.0f} MiB.",
        flush=True,
    )
    if growth > MAX_GROWTH:
        raise InvariantError(f"the memory of a process grew by {growth / 2**20:.0f} MiB")


def run_batch(seed: int, indices: range) -> Batch:
    """Check the reviews with these numbers, up to the first that violates an invariant."""
    outcomes: Counter[str] = Counter()
    failure = None
    for index, body in cases(seed, indices, corpus()):
        try:
            outcomes[check(body)] += 1
        except InvariantError as error:
            failure = index, body, str(error)
            break
    return Batch(os.getpid(), wire.resident_bytes("self"), outcomes, failure)


def report(seed: int, index: int, body: bytes, why: str) -> None:
    """Write the review and a minimized one to build/fuzz/, then raise InvariantError."""
    FAILURES.mkdir(parents=True, exist_ok=True)
    path = FAILURES / f"{seed}-{index}.json"
    path.write_bytes(body)
    small = path.with_suffix(".small.json")
    small.write_bytes(minimize(body, functools.partial(fails_equally, why)))
    raise InvariantError(
        f"{why[:1000]}; review {index} is in {path}, and a minimized one that fails equally "
        f"in {small}. `make fuzz SEED={seed} CASE={index}` repeats it"
    )


def fails_equally(why: str, body: bytes) -> bool:
    try:
        check(body)
    except InvariantError as error:
        return str(error)[:20] == why[:20]
    return False


def minimize(body: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Remove parts of `body`, of decreasing size, as long as the rest still fails."""
    size = len(body) // 2
    while size:
        position = 0
        while position < len(body):
            shorter_body = body[:position] + body[position + size :]
            if fails(shorter_body):
                body = shorter_body
            else:
                position += size
        size //= 2
    return body


if __name__ == "__main__":
    main()
