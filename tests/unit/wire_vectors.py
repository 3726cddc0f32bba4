"""Writes data/wire-vectors.json: a few bundles and the frames that carry them, byte for byte.

Run it (`python -m tests.unit.wire_vectors`) only after the wire format was changed on purpose and its version raised:
frames that were written once are in somebody's queue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from queuelib.envelope import encode
from queuelib.message import Bundle, Input, Limits, Run

FILE = Path(__file__).parent / "data" / "wire-vectors.json"
_SUBMITTED = 1_767_225_600.25  # 2026-01-01 00:00:00.25 UTC
_ID = bytes.fromhex("019b76da00fa") + bytes(
    range(10)
)  # that time in milliseconds, then bytes that stand for random ones

EXAMPLES = {
    "a single job with every default": Bundle(
        id=_ID, task="lab.evaluate", color="yellow", size=1, indexes=[0], column=bytes.fromhex("919101")
    ),
    "three jobs with limits": Bundle(
        id=_ID,
        task="lab.evaluate",
        color="red",
        size=3,
        indexes=[0, 1, 2],
        column=bytes.fromhex("93910191a361626390"),
        schema=bytes.fromhex("d41d8cd98f00b204"),
        limits=Limits(timeout=60.0, hard_timeout=70.0, retries=3, backoff=0.5, max_backoff=30.0),
        submitted=_SUBMITTED,
        reply="inbox.7",
    ),
    "the second attempt of one job of three, delayed": Bundle(
        id=_ID,
        task="lab.evaluate",
        color="red",
        size=3,
        indexes=[1],
        column=bytes.fromhex("9191a3616263"),
        schema=bytes.fromhex("d41d8cd98f00b204"),
        limits=Limits(retries=3),
        submitted=_SUBMITTED,
        due=_SUBMITTED + 1.5,
        expires=_SUBMITTED + 60,
        attempt=2,
        deaths=1,
        reply="inbox.7",
        trace=bytes.fromhex("00aabb"),
    ),
    "a name beyond ASCII": Bundle(
        id=_ID, task="labor.prüfe", color="green", size=1, indexes=[0], column=bytes.fromhex("9190")
    ),
    "a job that waits for the results of three others": Bundle(
        id=_ID,
        task="lab.sum",
        color="yellow",
        size=1,
        indexes=[0],
        column=bytes.fromhex("93c40192c400c400"),
        submitted=_SUBMITTED,
        attempt=0,
        inputs=[Input([Run(_ID[::-1], 4, 1)]), Input([Run(_ID[::-1], 0, 2)], is_list=True)],
    ),
    "the third and fourth job of a call with a seed": Bundle(
        id=_ID,
        task="lab.draw",
        color="yellow",
        size=2,
        indexes=[0, 1],
        column=bytes.fromhex("9291029103"),
        submitted=_SUBMITTED,
        seed=20_261_122,
        first=2,
    ),
}


def as_json(bundle: Bundle) -> dict[str, Any]:
    """Return the fields of a bundle, with bytes in hex."""
    fields = {**bundle._asdict(), "limits": bundle.limits._asdict()}
    inputs = [[[[run.bundle.hex(), run.first, run.count] for run in one.runs], one.is_list] for one in bundle.inputs]
    written = {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}
    return {**written, "inputs": inputs}


def from_json(fields: dict[str, Any]) -> Bundle:
    """Return the bundle that `as_json` wrote down."""
    in_bytes = {name: bytes.fromhex(fields[name]) for name in ("id", "column", "schema", "trace")}
    read: dict[str, Any] = {**fields, **in_bytes, "limits": Limits(**fields["limits"])}
    inputs = [
        Input([Run(bytes.fromhex(bundle), first, count) for bundle, first, count in runs], is_list)
        for runs, is_list in fields.get("inputs", ())
    ]
    return Bundle(**{**read, "inputs": inputs or ()})


def write(file: Path = FILE) -> None:
    """Write the file."""
    vectors = [
        {"name": name, "bundle": as_json(bundle), "frame": encode(bundle).hex()} for name, bundle in EXAMPLES.items()
    ]
    file.write_text(json.dumps(vectors, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
