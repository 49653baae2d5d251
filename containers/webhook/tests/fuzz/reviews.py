"""Mutates reviews that an API server sent."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

CORPUS = Path(__file__).parents[1] / "corpus"

# The prefix of values of environment variables in the corpus.
SECRET = "s3cret-"

TARGET = "kata-remote"
VM_RESOURCE = "kata.peerpods.io/vm"
HYPERVISOR = "io.katacontainers.config.hypervisor."
SIZES = tuple(f"{HYPERVISOR}default_{name}" for name in ("vcpus", "memory", "gpus"))
MACHINE_TYPE = f"{HYPERVISOR}machine_type"

# Values of all JSON types, some of which are valid in a given place.
JUNK = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63), 2**64, 10**60, 1e308, -0.0),
    *("", " ", "0", "x", "\0", "\n", "\ud800", "\udc00\ud800", "안녕", "🦊", "'\"\\", "a/b~c"),
    *([], {}, [None], [[]], {"": None}, {"name": "x"}, "y" * 5000),
)

# Invalid JSON and edge cases of it, which are inserted after encoding.
RAW = (
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b"1.", b"+1", b".5", b"1E-400", b"nul", b""),
    *(b'"\\ud800"', b'"\\ud83e\\udd8a"', b'"\\x"', b'"\\u00"', b'"\xff"', b'"\xc0\x80"', b'"\0"'),
    *(b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b"\xef\xbb\xbf1", b"'x'", b"/**/1", b"[1,]"),
    *(
        b'{"a":1,}',
        b'{"a" 1}',
        b"{1:1}",
        # With another such value around it, still below Python's limit of recursion, at whatever depth it is read.
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ),
    *(b"[" * 100_000, b'{"a":' * 20_000, b"1" * 400, b"9" * 5000, b'"' + b"7" * 5000 + b'"'),
)
_HOLE = "hole-in-the-json"

_SUFFIXES = ("", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_INVALID_QUANTITIES = (
    *("", " 1", "1 ", "m", ".", "-", "1K", "1ki", "1e", "1e1.5", "1_0", "NaN", "Infinity", "0x1"),
    *("1,5", "١", "1\n", "--1", "1Gi5", "12 GiB", "1e99999999999", "z" * 300),
)
_RESOURCES = (
    *("cpu", "memory", "nvidia.com/gpu", VM_RESOURCE, "ephemeral-storage", "hugepages-2Mi"),
    *("example.com/nic", ""),
)

_KEY = re.compile(rb'"(?:[^"\\]|\\.){0,60}":')


def corpus() -> tuple[str, ...]:
    """The reviews of the corpus as JSON text, in a fixed order."""
    return tuple(path.read_text() for path in sorted(CORPUS.glob("*.json")))


def mutated(random: Random, originals: tuple[str, ...]) -> bytes:
    """Apply a few mutations to one of `originals`. All choices depend on `random` alone."""
    review = json.loads(random.choice(originals))
    holes: list[bytes] = []
    for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
        if random.random() < 0.75:
            _change_pod(random, review)
        else:
            _change_anywhere(random, review, originals, holes)
    body = json.dumps(review, ensure_ascii=random.random() < 0.5, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    for raw in holes:
        body = body.replace(f'"{_HOLE}"'.encode(), raw, 1)
    for _ in range(random.choice((0, 0, 0, 0, 0, 0, 0, 1, 1, 4))):
        body = random.choice(_BYTE_MUTATIONS)(random, body)
    return body


# --- fields of a pod ---------------------------------------------------------------------------


def quantity(random: Random) -> Any:
    """A quantity of any syntax, mostly of a realistic amount, sometimes an invalid one."""
    kind = random.random()
    if kind < 0.05:
        return random.choice(_INVALID_QUANTITIES)
    if kind < 0.1:
        return random.choice((random.randint(-5, 10**6), random.random() * 10**3, 1e22, 1e-7))
    digits = str(random.randrange(10 ** random.choice((1, 1, 2, 4, 12, 25))))
    decimals = str(random.randrange(10 ** random.choice((1, 3, 12))))
    number = random.choice((digits, digits, f"{digits}.{decimals}", f"{digits}.", f".{decimals}"))
    sign = random.choice(("", "", "", "", "", "", "+", "-"))
    exponent = f"{random.choice('eE')}{random.choice(('', '+', '-'))}{random.randrange(40)}"
    return f"{sign}{number}{random.choice((*_SUFFIXES, exponent))}"


def _amounts(random: Random) -> dict[str, Any]:
    return {random.choice(_RESOURCES): quantity(random) for _ in range(random.randrange(4))}


def _resources(random: Random) -> dict[str, Any]:
    sides = random.sample(("limits", "requests"), random.randrange(3))
    resources: dict[str, Any] = {side: _amounts(random) for side in sides}
    if random.random() < 0.1:
        resources["claims"] = [{"name": "gpu"}]
    return resources


def _container(random: Random) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": random.choice(("app", "", "a\nb")),
        "env": [{"name": "TOKEN", "value": f"{SECRET}{random.randrange(10)}"}],
    }
    if random.random() < 0.7:
        container["resources"] = _resources(random)
    if random.random() < 0.3:
        container["restartPolicy"] = "Always"
    return container


def _change_pod(random: Random, review: dict) -> None:
    """Change fields of the pod that the patch depends on, if earlier mutations left a pod."""
    request = review.get("request")
    pod = request.get("object") if isinstance(request, dict) else None
    spec = pod.get("spec") if isinstance(pod, dict) else None
    if not isinstance(spec, dict):
        return
    change = random.randrange(8)
    containers = [
        container
        for side in ("containers", "initContainers")
        if isinstance(spec.get(side), list)
        for container in spec[side]
        if isinstance(container, dict)
    ]
    if change == 0:
        spec["runtimeClassName"] = random.choice((TARGET, TARGET, "runc", "", None, "KATA-REMOTE"))
    elif change == 1:
        request["operation"] = random.choice(("CREATE", "CREATE", "UPDATE", "DELETE", "create"))
    elif change == 2:
        spec["resources"] = _resources(random)
    elif change == 3 and isinstance(metadata := pod.setdefault("metadata", {}), dict):
        keys = random.sample((*SIZES, MACHINE_TYPE, "example.com/a~b"), random.randrange(4))
        metadata["annotations"] = {key: random.choice(("", "9", "m5.large")) for key in keys}
    elif change == 4:
        side = random.choice(("containers", "initContainers"))
        spec[side] = [_container(random) for _ in range(random.randrange(5))]
    elif containers:
        random.choice(containers)["resources"] = _resources(random)


# --- any part of the JSON ----------------------------------------------------------------------


def _change_anywhere(random: Random, review: dict, originals: tuple[str, ...], holes: list[bytes]) -> None:
    if not review:
        return
    holder, key = _random_member(random, review)
    change = random.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1:
        # A copy: later mutations may change it, and cases must not depend on earlier ones.
        holder[key] = copy.deepcopy(random.choice(JUNK))
    elif change == 2 and len(holes) < 3:
        holes.append(random.choice(RAW))
        holder[key] = _HOLE
    elif change == 3:
        holder[key] = {"x": holder[key]} if random.random() < 0.5 else [holder[key]]
    elif change == 4:
        # A part of another review, but no environment: its values must not move to other fields.
        donor, donor_key = _random_member(random, json.loads(random.choice(originals)))
        if SECRET not in str(donor[donor_key]):
            holder[key] = donor[donor_key]
    elif isinstance(holder, list):
        holder.extend([holder[key]] * random.choice((1, 2, 50)))
    else:
        name = random.choice(("", "resources", "kind", "uid", "\0", "X" * 300))
        if SECRET not in str(holder[key]):
            holder[name] = holder[key]


def _random_member(random: Random, root: dict) -> tuple[Any, Any]:
    """A random member of a random object or array: the container, and the key or index."""
    holder: Any = root
    while True:
        key = random.choice(tuple(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
        child = holder[key]
        if not isinstance(child, dict | list) or not child or random.random() < 0.15:
            return holder, key
        holder = child


# --- bytes -------------------------------------------------------------------------------------


def _flip(random: Random, body: bytes) -> bytes:
    position = random.randrange(len(body) + 1)
    return (
        body[:position]
        + bytes(byte ^ 1 << random.randrange(8) for byte in body[position : position + 1])
        + body[position + 1 :]
    )


def _insert(random: Random, body: bytes) -> bytes:
    position = random.randrange(len(body) + 1)
    return body[:position] + random.choice((random.randbytes(3), *RAW)) + body[position:]


def _cut(random: Random, body: bytes) -> bytes:
    position = random.randrange(len(body) + 1)
    return body[:position] + body[position + random.choice((1, 2, 10, 1000, len(body))) :]


def _repeat(random: Random, body: bytes) -> bytes:
    position, size = random.randrange(len(body) + 1), random.choice((1, 5, 40))
    return body[:position] + body[position : position + size] * random.choice((2, 3, 20)) + body[position + size :]


def _duplicate_key(random: Random, body: bytes) -> bytes:
    """Duplicate a key with another value."""
    key = _KEY.search(body, random.randrange(len(body) + 1))
    if key is None:
        return body
    junk_value = json.dumps(random.choice(JUNK)).encode()
    return body[: key.start()] + key.group() + junk_value + b"," + body[key.start() :]


def _whitespace(random: Random, body: bytes) -> bytes:
    position = random.choice((0, len(body), body.find(b":", random.randrange(len(body) + 1)) + 1))
    return body[:position] + random.choice((b" ", b"\n\t\r ", b"\x0c", b"\xa0", b" " * 10_000)) + body[position:]


def _encode_otherwise(random: Random, body: bytes) -> bytes:
    return body.decode("latin-1").encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))


_BYTE_MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_flip, _flip, _insert, _insert, _cut, _repeat, _duplicate_key, _duplicate_key, _whitespace),
    _encode_otherwise,
)


def cases(seed: int, indices: range, originals: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
    """The reviews of a run. Each depends only on the seed of the run and its own index."""
    for index in indices:
        yield index, mutated(Random(seed << 40 | index), originals)
