"""A result backend that somebody else wrote: a folder of JSON lines, one file for everything."""

from __future__ import annotations

import base64
import fcntl
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from queuelib.body import singles
from queuelib.ids import Key
from queuelib.message import Outgoing
from queuelib.outcome import QUEUED, SCHEDULED, Record, supersedes
from queuelib.ports import Cancelled, QuarantineItem, ResultCapabilities, WorkerInfo


class JournalResults:
    """Appends what it is told to a file, and reads the file again for every question."""

    capabilities = ResultCapabilities(records=True, survives_restart=True)

    def __init__(self, path: Path) -> None:
        self._path = path

    def _append(self, kind: str, *rows: Sequence[Any]) -> None:
        lines = "".join(json.dumps([kind, *row], default=lambda b: base64.b85encode(b).decode()) + "\n" for row in rows)
        with self._path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(lines)

    def _rows(self, kind: str) -> list[list[Any]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [row[1:] for row in map(json.loads, lines) if row[0] == kind]

    def _records(self) -> dict[Key, Record]:
        found: dict[Key, Record] = {}
        for state, bundle, index, attempt, body, at in self._rows("record"):
            record = Record(Key(base64.b85decode(bundle), index), state, attempt, base64.b85decode(body), at)
            if state == "forgotten":
                found.pop(record.key, None)
            elif supersedes(record, found.get(record.key)):
                found[record.key] = record
        return found

    def accept(self, frames: Sequence[Outgoing]) -> None:
        self._append("bundle", *((frame.bundle, frame.size, frame.due or 0) for frame in frames))

    def expect(self, frames: Sequence[Outgoing]) -> None:
        self.accept(frames)

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        jobs = [singles(record) for record in records]  # of a record of several successes, one each
        self._append("record", *((r.state, *r.key, r.attempt, r.body, r.at) for some in jobs for r in some))
        now = self._records()
        return [all(now.get(one.key) == one for one in some) for some in jobs]

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        records = self._records()
        bundles = {base64.b85decode(bundle): (size, due) for bundle, size, due in self._rows("bundle")}
        for key in set(keys) - set(records):
            size, due = bundles.get(key.bundle, (0, 0))
            if key.index < size:
                records[key] = Record(key, SCHEDULED if due > time.time() else QUEUED)
        return [records.get(key) for key in keys]

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        time.sleep(min(timeout, 0.02))  # it may return early, and nobody tells this file's readers anything

    def forget(self, keys: Sequence[Key]) -> None:
        self._append("record", *(("forgotten", *key, 0, b"", 0.0) for key in keys))

    def inbox(self) -> str:
        return ""

    def cancel(self, keys: Sequence[Key]) -> None:
        self._append("cancel", *keys)

    def cancelled(self, cursor: Any) -> Cancelled:
        keys = [Key(base64.b85decode(bundle), index) for bundle, index in self._rows("cancel")]
        return Cancelled(keys[cursor or 0 :], len(keys))

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        self._append("item", *((i.id, i.color, i.reason, i.frame, i.at) for i in items))

    def quarantined(self) -> list[QuarantineItem]:
        released = {row[0] for row in self._rows("release")}
        rows = [row for row in self._rows("item") if row[0] not in released]
        return [QuarantineItem(name, color, why, base64.b85decode(frame), at) for name, color, why, frame, at in rows]

    def release(self, ids: Sequence[str]) -> None:
        self._append("release", *((name,) for name in ids))

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        until = time.time() + lifetime
        self._append(
            "worker",
            (worker.name, worker.host, worker.pid, worker.colors, worker.tasks, worker.at, until, worker.processes),
        )

    def workers(self) -> list[WorkerInfo]:
        last = {row[0]: row for row in self._rows("worker")}
        alive = [row for row in last.values() if row[6] > time.time()]
        return [WorkerInfo(row[0], row[1], row[2], tuple(row[3]), tuple(row[4]), row[5], row[7]) for row in alive]

    def close(self) -> None:
        pass
