"""Doors that sign what goes in and check what comes out, around those of any backend, which know nothing of it."""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from queuelib.encryption import decrypt, encrypt
from queuelib.errors import BadSignature, CannotDecrypt, DecodeError
from queuelib.ids import Key, job_id
from queuelib.message import Outgoing
from queuelib.outcome import CANCELLED, FORGED, QUEUED, SCHEDULED, Record
from queuelib.ports import (
    Blobs,
    Cancelled,
    Listening,
    Memo,
    Memos,
    QuarantineItem,
    ResultBackend,
    ResultCapabilities,
    Settled,
    Settlement,
    Teller,
    WorkerInfo,
)
from queuelib.seal import is_sealed, open_blob, open_sealed, seal, seal_blob
from queuelib.signing import Keyring

__all__ = ["SealedBlobs", "SealedMemos", "SealedResults", "SealedSettlement"]

_log = logging.getLogger("queuelib.signing")
# Backends say these themselves, of what they were asked: a client cancelled a job, or nothing is known of it yet.
_SAID_BY_BACKENDS = frozenset({QUEUED, SCHEDULED, CANCELLED})


class SealedResults:
    """A result backend whose records are signed.

    Args:
        inner: The backend.
        keys: The first one signs, all verify.
        shows_forged: Whether a record that nobody here signed is shown as one of the state `forged`, for a client to
            raise; a worker takes it for no record at all.
    """

    def __init__(self, inner: ResultBackend, keys: Keyring, *, shows_forged: bool) -> None:
        self.inner = inner
        self._keys = keys
        self._shows_forged = shows_forged
        self._last: _Opened | None = None  # a record of thousands of jobs is asked for many times

    @property
    def capabilities(self) -> ResultCapabilities:
        """What the backend can promise."""
        return self.inner.capabilities

    def accept(self, frames: Sequence[Outgoing]) -> None:
        """Remember that these bundles were given out."""
        self.inner.accept(frames)

    def expect(self, frames: Sequence[Outgoing]) -> None:
        """Note that this client is about to publish bundles."""
        self.inner.expect(frames)

    def store(self, records: Sequence[Record], reply: str = "") -> list[bool]:
        """Sign records and store them."""
        return self.inner.store([seal(record, self._keys) for record in records], reply)

    def fetch(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return what is known of each job and was signed."""
        return self._opened(keys, self.inner.fetch(keys))

    def wait(self, keys: Sequence[Key], timeout: float) -> Sequence[Record | None] | None:
        """Wait as the backend does; what it says by the way is checked."""
        found = self.inner.wait(keys, timeout)
        return None if found is None else self._opened(keys, found)

    def listen(self) -> Listening | None:
        """Listen as the backend does: what it says is looked up, and checked then."""
        return self.inner.listen() if isinstance(self.inner, Teller) else None

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop what is stored of these jobs' endings."""
        self.inner.forget(keys)

    def inbox(self) -> str:
        """Return the address on which this client waits."""
        return self.inner.inbox()

    def cancel(self, keys: Sequence[Key]) -> None:
        """Mark jobs; marks are not signed."""
        self.inner.cancel(keys)

    def cancelled(self, cursor: Any) -> Cancelled:
        """Return the marks made since `cursor`."""
        return self.inner.cancelled(cursor)

    def quarantine(self, items: Sequence[QuarantineItem]) -> None:
        """Set messages aside; their frames are signed, what is said of them is not, though encrypted if frames are."""
        self.inner.quarantine(_hidden(items, self._keys))

    def quarantined(self) -> list[QuarantineItem]:
        """Return all that is set aside."""
        return [_shown(item, self._keys) for item in self.inner.quarantined()]

    def release(self, ids: Sequence[str]) -> None:
        """Remove items from the quarantine."""
        self.inner.release(ids)

    def announce(self, worker: WorkerInfo, lifetime: float) -> None:
        """Say that a worker lives; this is not signed."""
        self.inner.announce(worker, lifetime)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that say that they live."""
        return self.inner.workers()

    def close(self) -> None:
        """Give up connections."""
        self.inner.close()

    def _opened(self, keys: Sequence[Key], found: Sequence[Record | None]) -> list[Record | None]:
        opened: list[Record | None] = []
        record = checked = None
        bundle, start, end = b"", 0, 0  # the jobs that the last record tells of, if it is good
        for key, one in zip(keys, found, strict=True):
            if one is None:
                opened.append(None)
            elif one is record and key[0] == bundle and start <= key[1] < end:
                opened.append(checked)
            else:
                record, start, end = one, 0, 0
                checked = self._checked(key, one)
                opened.append(checked)
                if checked is not None and checked.count > 1:
                    (bundle, start), end = checked.key, checked.key.index + checked.count
        return opened

    def _checked(self, key: Key, record: Record) -> Record | None:
        try:
            opened = self._open(key, record)
        except BadSignature as error:
            _log.warning("the %s record of job %s is not believed: %s", record.state, job_id(*key), error)
            return Record(key, FORGED, body=str(error).encode()) if self._shows_forged else None
        return opened

    def _open(self, key: Key, record: Record) -> Record:
        bundle, first = record.key
        if bundle != key.bundle or not first <= key.index < first + record.count:
            msg = "it is that of another job"
            raise BadSignature(msg)
        if is_sealed(record.body):
            last = self._last
            if last is None or (last.stored is not record and last.stored != record):
                try:
                    opened = open_sealed(record, self._keys)
                except CannotDecrypt:
                    opened = record  # it is good: who wants to read what is in it is told then
                last = self._last = _Opened(record, opened)
            return last.record
        is_backends_word = record.state in _SAID_BY_BACKENDS and not record.body and record.count == 1
        if is_backends_word or self._keys.accepts_unsigned:
            return record
        msg = "it is not signed"
        raise BadSignature(msg)


class _Opened(NamedTuple):
    """A record as it is stored, and as it was found to be signed."""

    stored: Record
    record: Record


class SealedSettlement:
    """A settlement that signs the records it writes."""

    def __init__(self, inner: Settlement, keys: Keyring) -> None:
        self._inner = inner
        self._keys = keys

    def settle(self, batch: Sequence[Settled]) -> list[bool]:
        """Sign the records of a batch and write it."""
        return self._inner.settle([self._signed(entry) for entry in batch])

    def _signed(self, entry: Settled) -> Settled:
        records = [seal(record, self._keys) for record in entry.records]
        quarantined = _hidden(entry.quarantined, self._keys)
        return Settled(entry.delivery, records, entry.successors, quarantined, entry.is_complete, entry.reply)


class SealedBlobs:
    """A keeper of blobs that are signed, and called so that their names tell nothing."""

    def __init__(self, inner: Blobs, keys: Keyring) -> None:
        self._inner = inner
        self._keys = keys

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Sign pieces and keep them."""
        stored = {self._keys.names(name)[0]: data for name, data in pieces.items()}
        self._inner.put({name: seal_blob(name, data, self._keys) for name, data in stored.items()})

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return pieces that one of the keys signed."""
        found: dict[bytes, bytes] = {}
        known = {name: self._places(name) for name in names}
        for attempt in range(max((len(places) for places in known.values()), default=0)):
            missing = [name for name in known if name not in found]
            if not missing:
                break
            places = [known[name][attempt] for name in missing]
            for name, place, data in zip(missing, places, self._inner.get(places), strict=True):
                opened = None if data is None else self._opened(name, place, data)
                if opened is not None:
                    found[name] = opened
        return [found.get(name) for name in names]

    def renew(self, names: Sequence[bytes]) -> list[bool]:
        """Have the time of pieces begin anew that were stored as this program would store them."""
        return self._inner.renew([self._keys.names(name)[0] for name in names])

    def drop(self, names: Sequence[bytes]) -> None:
        """Remove pieces, whoever of those who have a key stored them."""
        self._inner.drop([place for name in names for place in self._places(name)])

    def close(self) -> None:
        """Give up connections."""
        self._inner.close()

    def _places(self, name: bytes) -> list[bytes]:
        places = self._keys.names(name)
        return [*places, name] if self._keys.accepts_unsigned else places

    def _opened(self, name: bytes, place: bytes, data: bytes) -> bytes | None:
        if place == name:
            return data  # unsigned, which is accepted here
        try:
            return open_blob(place, data, self._keys)
        except BadSignature as error:
            _log.warning("a piece of something shared is not believed: %s", error)
            return None


class SealedMemos:
    """A keeper of memos that are signed: each says of which job it is, and of which kind."""

    def __init__(self, inner: Memos, keys: Keyring) -> None:
        self._inner = inner
        self._keys = keys

    def write(self, memos: Sequence[Memo]) -> None:
        """Sign memos and keep them."""
        self._inner.write(
            [memo._replace(data=seal_blob(_name_of(memo.kind, memo.key), memo.data, self._keys)) for memo in memos]
        )

    def read(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """Return memos that one of the keys signed."""
        found = self._inner.read(kind, keys)
        return [None if data is None else self._opened(kind, key, data) for key, data in zip(keys, found, strict=True)]

    def drop(self, kind: str, keys: Sequence[Key]) -> None:
        """Remove memos."""
        self._inner.drop(kind, keys)

    def close(self) -> None:
        """Give up connections."""
        self._inner.close()

    def _opened(self, kind: str, key: Key, data: bytes) -> bytes | None:
        if not is_sealed(data) and self._keys.accepts_unsigned:
            return data
        try:
            return open_blob(_name_of(kind, key), data, self._keys)
        except BadSignature as error:
            _log.warning("the %s of job %s is not believed: %s", kind, job_id(*key), error)
            return None


def _name_of(kind: str, key: Key) -> bytes:
    """Return what a signed memo belongs to: longer than any name of a blob, so that none can stand for the other."""
    return f"memo of a job that runs: its {kind}, and its id: {job_id(*key)}".encode()


_ENCRYPTED = "encrypted:"  # before the base64 of a box with the reason, which may quote arguments


def _hidden(items: Sequence[QuarantineItem], keys: Keyring) -> Sequence[QuarantineItem]:
    """Return what is to be set aside with reasons that only who has the key can read, if it encrypts."""
    if not keys.encrypts:
        return items
    boxes = [encrypt(keys, item.id.encode(), item.reason.encode(errors="surrogatepass")) for item in items]
    return [replace(item, reason=_ENCRYPTED + b64encode(box).decode()) for item, box in zip(items, boxes, strict=True)]


def _shown(item: QuarantineItem, keys: Keyring) -> QuarantineItem:
    """Return what is set aside with a reason to read."""
    if not item.reason.startswith(_ENCRYPTED):
        return item
    try:
        reason = decrypt(keys, item.id.encode(), b64decode(item.reason[len(_ENCRYPTED) :]))
    except (DecodeError, ValueError) as error:
        return replace(item, reason=f"(its reason is not readable: {error})")
    return replace(item, reason=reason.decode(errors="surrogatepass"))
