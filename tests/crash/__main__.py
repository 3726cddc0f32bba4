"""Runs rows of the fault catalogue: `make crash SEEDS=3 ROWS=1-66 BROKERS=sqlite,redis,rabbitmq`.

Each row runs in a process of its own, several side by side, with a seed that its schedule is drawn from; a failure
prints the seed and the command that runs it again. Results are lines of JSON; tests.crash.report makes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import leaks
from tests.crash.rows import BROKERS, LATER, QUICK, Row, all_rows
from tests.crash.trial import Trial

_ROOT = Path(__file__).resolve().parent.parent.parent
_SHOWN = 40  # lines of a failed row's output


@dataclass(frozen=True)
class _Order:
    row: Row
    broker: str
    seed: int


@dataclass
class _Running:
    order: _Order
    process: subprocess.Popen[bytes]
    folder: Path
    mark: str
    began: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 0 if all of it held."""
    wishes = _parser().parse_args(arguments)
    rows = {row.name: row for row in all_rows()}
    if wishes.list:
        return _list(rows)
    if wishes.trial:
        name, broker, seed = wishes.trial.split(",")
        return _try(rows[name], broker, int(seed), wishes.lease, Path(wishes.folder))
    numbers = set(QUICK) if wishes.quick else _numbers(wishes.rows)
    chosen = [
        row
        for row in rows.values()
        if (row.number in numbers or row.name in wishes.rows.split(","))
        and (not row.is_long or wishes.full or row.name in wishes.rows.split(","))
        and (not row.needs_root or os.geteuid() == 0)
    ]
    brokers = wishes.brokers.split(",")
    if unknown := set(brokers) - set(BROKERS):
        print(f"crash: there is no broker {unknown.pop()!r}; there are {', '.join(BROKERS)}", file=sys.stderr)
        return 2
    orders = [
        _Order(row, broker, wishes.seed + at)
        for at in range(wishes.seeds)
        for row in chosen
        for broker in brokers
        if broker in row.brokers
    ]
    _say_what_is_left_out(rows, numbers, wishes)
    if not orders:
        print("crash: no row fits", file=sys.stderr)
        return 2
    return _run_all(orders, wishes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.crash", description=__doc__)
    parser.add_argument("--rows", default="1-66", help="numbers, ranges or names: 1,3,10-20,9-storm (default: all)")
    parser.add_argument("--quick", action="store_true", help="the rows that CI runs")
    parser.add_argument("--full", action="store_true", help="long rows too")
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds a row and broker")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="the first one")
    parser.add_argument("--lease", type=float, default=1.5, help="seconds of the lease on Redis (default 1.5)")
    parser.add_argument("--side-by-side", type=int, default=3, help="how many rows at the same time")
    parser.add_argument("--record", type=Path, help="append a line of JSON for each result to this file")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failed rows")
    parser.add_argument("--list", action="store_true", help="say what there is, and what cannot be tried yet")
    parser.add_argument("--trial", help=argparse.SUPPRESS)  # ROW,BROKER,SEED: in a process of its own
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


def _numbers(text: str) -> set[int]:
    """Return the row numbers in `1,3,10-20`; names of variants, such as `9-storm`, stand for themselves."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last.isdigit() or not last):
            found.update(range(int(first), int(last or first) + 1))
    return found


def _list(rows: dict[str, Row]) -> int:
    for row in rows.values():
        notes = [
            ", ".join(row.brokers),
            *(["long"] if row.is_long else []),
            *(["needs root"] if row.needs_root else []),
        ]
        print(f"{row.name:>14}  {row.title} ({'; '.join(notes)})")
    for number, reason in LATER.items():
        print(f"{number:>14}  not here: {reason}")
    return 0


def _say_what_is_left_out(rows: dict[str, Row], numbers: set[int], wishes: argparse.Namespace) -> None:
    missing = sorted(numbers - {row.number for row in rows.values()})
    for number in missing:
        print(f"row {number}: not run: {LATER.get(number, 'not written')}")
    for row in rows.values():
        if row.number in numbers and row.is_long and not wishes.full:
            print(f"row {row.name}: not run: long; ask for it by name or with --full")
        elif row.number in numbers and row.needs_root and os.geteuid() != 0:
            print(f"row {row.name}: not run: needs root")


# One trial, in this process.


def _try(row: Row, broker: str, seed: int, lease: float, folder: Path) -> int:
    trial = Trial(broker, seed, lease, folder)
    print(f"row {row.name} on {broker}, seed {seed}, lease {lease:g} s", flush=True)
    began = time.monotonic()
    error = ""
    try:
        try:
            row.run(trial)
        finally:
            trial.close()
    except BaseException as failure:  # noqa: BLE001 - whatever it is, it is the result
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"[:2000] or "failed"
    result = {
        "row": row.name,
        "title": row.title,
        "broker": broker,
        "seed": seed,
        "lease": lease,
        "ok": not error,
        "seconds": round(time.monotonic() - began, 2),
        "error": error,
        "figures": trial.figures,
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 1 if error else 0


# All of them, each in a process of its own.


def _run_all(orders: list[_Order], wishes: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    waiting = sorted(orders, key=lambda order: (order.row.alone, order.seed, -order.row.seconds))
    running: list[_Running] = []
    results: list[dict[str, Any]] = []
    try:
        while waiting or running:
            while waiting and _may_start(waiting[0], running, wishes.side_by_side):
                running.append(_start(waiting.pop(0), wishes))
            ended = _await_one(running)
            running.remove(ended)
            results.append(_result(ended, wishes, len(results) + 1, len(orders)))
    except KeyboardInterrupt:
        print("crash: interrupted", file=sys.stderr)
    finally:
        for one in running:
            _end(one)
            shutil.rmtree(one.folder, ignore_errors=True)
    failed = [result for result in results if not result["ok"]]
    print(f"crash: {len(results) - len(failed)} held, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    for result in failed:
        again = (
            f"--rows {result['row']} --brokers {result['broker']} --seed {result['seed']} --lease {result['lease']:g}"
        )
        print(f"  FAILED {result['row']} on {result['broker']}: {result['error'].splitlines()[0]}")
        print(f"    again: python -m tests.crash {again}")
    return 1 if failed or len(results) < len(orders) else 0


def _may_start(order: _Order, running: list[_Running], most: int) -> bool:
    if not running:
        return True
    return not order.row.alone and not any(one.order.row.alone for one in running) and len(running) < most


def _start(order: _Order, wishes: argparse.Namespace) -> _Running:
    folder = Path(tempfile.mkdtemp(prefix=f"queuelib-crash-{order.row.name}-"))
    mark = secrets.token_hex(8)
    command = [sys.executable, "-m", "tests.crash", "--trial", f"{order.row.name},{order.broker},{order.seed}"]
    command += ["--lease", str(wishes.lease), "--folder", str(folder)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, leaks.MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return _Running(order, process, folder, mark, time.monotonic())


def _await_one(running: list[_Running]) -> _Running:
    while True:
        for one in running:
            if one.process.poll() is not None or time.monotonic() - one.began > one.order.row.within:
                return one
        time.sleep(0.05)


def _end(one: _Running) -> list[str]:
    """Kill what is left of a trial, and return what outlived it."""
    hung = one.process.poll() is None
    if hung:
        os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
    left = leaks.orphans(one.mark)
    for text in left:
        try:
            os.kill(int(text.split()[1].rstrip(":")), signal.SIGKILL)
        except ProcessLookupError:
            continue
    return [] if hung else left


def _result(one: _Running, wishes: argparse.Namespace, number: int, count: int) -> dict[str, Any]:
    order, took = one.order, time.monotonic() - one.began
    is_hung = one.process.poll() is None
    left = _end(one)
    place = one.folder / "result.json"
    result: dict[str, Any] = {
        "row": order.row.name, "title": order.row.title, "broker": order.broker, "seed": order.seed,
        "lease": wishes.lease, "ok": False, "seconds": round(took, 2), "error": "", "figures": {},
    }  # fmt: skip
    if is_hung:
        result["error"] = f"hung: not over after {order.row.within:g} s"
    elif place.exists():
        result |= json.loads(place.read_text(encoding="utf-8"))
    else:
        result["error"] = f"the row's process ended with {one.process.returncode} and no result"
    if left and result["ok"]:
        result |= {"ok": False, "error": f"processes that outlive it: {left}"}
    word = "ok    " if result["ok"] else "FAILED"
    print(
        f"[{number}/{count}] {word} {order.row.name:>10} {order.broker:<8} seed {order.seed} {took:5.1f} s  {order.row.title}"
    )
    if not result["ok"]:
        output = (one.folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(f"    | {line}" for line in output[-_SHOWN:]), flush=True)
    if wishes.record:
        with wishes.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**result, "at": int(time.time())}) + "\n")
    if result["ok"] or not wishes.keep:
        shutil.rmtree(one.folder, ignore_errors=True)
    else:
        print(f"    kept: {one.folder}")
    sys.stdout.flush()
    return result


if __name__ == "__main__":
    sys.exit(main())
