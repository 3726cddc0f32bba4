"""Attack S15: somebody reads the broker, its files, its traffic or a dump of it."""

from __future__ import annotations

import hmac
import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from queuelib import (
    BadSignature,
    CannotDecrypt,
    ConfigurationError,
    DecodeError,
    Dispatcher,
    JobQuarantined,
    body,
    codec,
    encryption,
)
from queuelib.encryption import decrypt, encrypt, is_encrypted
from queuelib.envelope import decode, encode
from queuelib.errors import MissingDriver
from queuelib.ids import Key
from queuelib.outcome import FAILED, RUNNING, SUCCEEDED, Record
from queuelib.ports import QuarantineItem, Settled
from queuelib.seal import open_sealed, seal
from queuelib.sealed import SealedResults, SealedSettlement
from queuelib.signing import Keyring
from queuelib.worker.intake import Intake
from tests.crash.proxy import FaultProxy
from tests.integration.lab import KINDS, WITHIN, Lab, clean, load_deeds, results
from tests.unit.fakes import BUNDLE_ID, FakeDoor, FakeResults, Time, make_bundle, make_delivery

SECRET = "0123456789abcdef" * 2
KEYS = Keyring(f"k1/aes:{SECRET}")
SIGNING = Keyring(f"k1:{SECRET}")  # the same key, which reads what is encrypted and encrypts nothing
CANARY = "c4nary-in-the-mine"
ARGUMENTS = bytes(msgpack.packb([[CANARY]]))


def box_of(context: bytes, plain: bytes, salt: bytes = bytes(range(16))) -> bytes:
    """Return a box made by the words of docs/wire-format.md, without a line of ours."""
    key = hmac.digest(SECRET.encode(), b"queuelib encryption\0\2k1" + salt, "sha256")
    return b"\xc1\2k1" + salt + AESGCM(key).encrypt(bytes(12), plain, context)


# Boxes


def test_s15_a_box_is_what_the_wire_format_says() -> None:
    """A box that others made is read, and ours differs from it in nothing but what is random."""
    assert decrypt(KEYS, b"context", box_of(b"context", b"plain")) == b"plain"
    box = encrypt(KEYS, b"context", b"plain")
    assert box == box_of(b"context", b"plain", box[4:20])


def test_s15_every_byte_of_a_box_counts() -> None:
    """A box that was changed anywhere, cut short, or stands for something else does not open."""
    box = encrypt(KEYS, b"context", b"plain")
    for at in range(1, len(box)):
        with pytest.raises(BadSignature):
            decrypt(KEYS, b"context", box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :])
    for end in range(len(box)):
        with pytest.raises(BadSignature):
            decrypt(KEYS, b"context", box[:end])
    with pytest.raises(BadSignature):
        decrypt(KEYS, b"another", box)


def test_s15_the_same_twice_looks_different() -> None:
    """Nobody sees from two boxes that they hold the same."""
    boxes = {encrypt(KEYS, b"context", b"plain") for _ in range(100)}
    assert len(boxes) == 100
    assert len({box[20:] for box in boxes}) == 100


# Frames


def test_s15_arguments_in_a_frame() -> None:
    """They are not in it; who has the key reads them, encrypting or not."""
    bundle = make_bundle(column=ARGUMENTS)
    frame = encode(bundle, KEYS)
    assert CANARY.encode() in encode(bundle, SIGNING)
    assert CANARY.encode() not in frame
    assert decode(frame, KEYS) == decode(frame, SIGNING) == bundle


def test_s15_a_frame_without_the_key() -> None:
    """Who has no key learns that it is encrypted; who has another one, that it is not to be trusted."""
    frame = encode(make_bundle(column=ARGUMENTS), KEYS)
    with pytest.raises(CannotDecrypt, match="QUEUELIB_KEY"):
        decode(frame)
    for other in (f"k1/aes:{SECRET[::-1]}", f"k2/aes:{SECRET}"):
        with pytest.raises(BadSignature):
            decode(frame, Keyring(other))


def test_s15_arguments_moved_to_another_job() -> None:
    """Arguments of one message in another, signed anew by somebody who lent the key to sign only, are not read."""
    mine, other = make_bundle(column=ARGUMENTS), make_bundle(id=bytes(16), column=ARGUMENTS)
    moved = msgpack.unpackb(msgpack.unpackb(encode(mine, KEYS))[3])[-1]
    assert is_encrypted(moved)
    with pytest.raises(BadSignature, match="another job"):
        decode(encode(other._replace(column=moved), SIGNING), KEYS)


def test_s15_a_worker_without_the_key_leaves_it_to_others() -> None:
    """It gives the message back, as one of an unknown task; in the end it sets it aside, as it came."""
    time = Time()
    delivery = make_delivery(frame=encode(make_bundle(column=ARGUMENTS), KEYS), published=time.clock.wall())
    intake = Intake(["lab.work"], ["yellow"], 100.0, time.clock)
    stored: Any = FakeResults()
    ((postponed, reason),) = intake.read([delivery], lambda: stored).postponed
    assert postponed is delivery
    assert "it is encrypted" in reason
    delivery.published -= 101.0
    (settled,) = intake.read([delivery], lambda: stored).settled
    (item,) = settled.quarantined
    assert "encrypted" in item.reason
    assert item.frame == delivery.frame


# Outcomes


def success(count: int, first: int = 3) -> Record:
    """Return a record of successes, each with a result of its own."""
    texts = [codec.encode(f"{CANARY}{i}") for i in range(count)]
    data = body.of_result("lab.work", texts[0], "w/1", 0.5)
    return Record(
        Key(BUNDLE_ID, first),
        SUCCEEDED,
        1,
        data if count == 1 else body.of_results("lab.work", texts, "w/1", 0.5),
        5.0,
        count,
    )


FAILURE = Record(Key(BUNDLE_ID, 3), FAILED, 2, body.of_failure("lab.work", "ValueError", CANARY, ARGUMENTS), 5.0)
SIZES = (1, 2, 3, 4, 5, 7, 16, 17, 100, 4096)


@pytest.mark.parametrize("record", [FAILURE, *map(success, SIZES)], ids=lambda record: f"{record.state}-{record.count}")
class TestOutcomes:
    """What is stored of each."""

    def test_s15_nothing_of_it_is_in_what_is_stored(self, record: Record) -> None:
        """Nor in the parts of it, and each way leads back."""
        stored = seal(record, KEYS)
        assert CANARY.encode() in seal(record, SIGNING).body
        assert CANARY.encode() not in stored.body
        assert open_sealed(stored, KEYS) == open_sealed(stored, SIGNING) == record
        alone = body.singles(record)
        parts = body.singles(stored)
        assert not any(CANARY.encode() in part.body for part in parts)
        assert [open_sealed(part, KEYS) for part in parts] == alone

    def test_s15_without_the_key(self, record: Record) -> None:
        """Who wants to read it is told what it takes."""
        for one in body.singles(seal(record, KEYS)):
            with pytest.raises(CannotDecrypt, match="QUEUELIB_KEY"):
                body.read(one.body)
        with pytest.raises((CannotDecrypt, BadSignature)):
            body.read(seal(record, KEYS).body)

    def test_s15_every_byte_is_covered(self, record: Record) -> None:
        """A bit changed anywhere: refused."""
        stored = seal(record, KEYS)
        for at in range(0, len(stored.body), max(1, len(stored.body) // 200)):
            changed = stored.body[:at] + bytes([stored.body[at] ^ 1]) + stored.body[at + 1 :]
            with pytest.raises(DecodeError):
                body.read(open_sealed(stored._replace(body=changed), KEYS).body)


def test_s15_slices_that_are_missing() -> None:
    """Whoever cuts a record with fewer boxes than it needs is told that it is not readable, without a key."""
    record = seal(success(9), KEYS)
    name, signature, content = record.body[:5], record.body[5:37], record.body[37:]
    head, boxes = msgpack.unpackb(content[1:])
    short = name + signature + b"\xc1" + bytes(msgpack.packb([head, boxes[:-1]]))
    assert body.singles(record._replace(body=name + signature + content))
    with pytest.raises(DecodeError):
        body.singles(record._replace(body=short))


def test_s15_a_start_mark_that_cannot_be_read() -> None:
    """A worker that has no key yet knows that there was a start."""
    mark = seal(Record(Key(BUNDLE_ID, 3), RUNNING, 1, body.of_starts(2), 5.0), KEYS)
    assert body.starts_in(mark.body) == 1


def test_s15_results_are_not_exchanged_between_jobs() -> None:
    """A part bears its own result, also where every box is genuine."""
    one, other = (body.singles(seal(success(9, first), KEYS)) for first in (0, 9))
    for mine, theirs in itertools.product(one, other):
        with pytest.raises(BadSignature):
            open_sealed(mine._replace(body=theirs.body), KEYS)


def test_s15_records_without_a_body_stay_small() -> None:
    """There is nothing to hide in them."""
    record = Record(Key(BUNDLE_ID, 3), RUNNING, 1, b"", 5.0)
    assert len(seal(record, KEYS).body) == len(seal(record, SIGNING).body)


def test_s15_reasons_in_the_quarantine() -> None:
    """They may quote arguments: only who has the key reads them, by either way in."""
    inner: Any = FakeResults()
    door = FakeDoor()
    item = QuarantineItem("id", "red", f"cannot run {CANARY}\udcff", b"frame", 5.0)
    SealedResults(inner, KEYS, shows_forged=True).quarantine([item])
    SealedSettlement(door, KEYS).settle([Settled(make_delivery(), quarantined=[item])])
    ((_, [by_call]),), ((_, [settled]),) = inner.log, door.log
    for stored in (by_call, settled.quarantined[0]):
        assert CANARY not in repr(stored)
        inner.set_aside = [stored]
        for keys in (KEYS, SIGNING):
            assert SealedResults(inner, keys, shows_forged=True).quarantined() == [item]
        (shown,) = SealedResults(inner, Keyring(f"k2:{SECRET}"), shows_forged=True).quarantined()
        assert "not readable" in shown.reason


# Keys


def test_s15_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that encrypts is an error that names the extra; one that signs works, up to what is encrypted."""
    record, frame = seal(FAILURE, KEYS), encode(make_bundle(column=ARGUMENTS), KEYS)

    def missing() -> NoReturn:
        raise ImportError

    monkeypatch.setattr(encryption, "_aead", missing)
    with pytest.raises(MissingDriver, match=r"queuelib-kombu\[crypto\]"):
        Keyring(f"k1/aes:{SECRET}")
    with pytest.raises(CannotDecrypt, match=r"queuelib-kombu\[crypto\]"):
        decode(frame, SIGNING)
    inner: Any = FakeResults()
    inner.records[record.key] = record
    (found,) = SealedResults(inner, SIGNING, shows_forged=True).fetch([record.key])
    assert found is not None
    assert found.state == FAILED
    with pytest.raises(CannotDecrypt, match=r"queuelib-kombu\[crypto\]"):
        body.read(found.body)


@pytest.mark.parametrize("text", [f"k1/:{SECRET}", f"k1/des:{SECRET}", f"k1/aes/aes:{SECRET}", f"/aes:{SECRET}"])
def test_s15_keys_that_make_no_sense(text: str) -> None:
    """They are refused without being shown."""
    with pytest.raises(ConfigurationError, match="ID/aes:SECRET") as caught:
        Keyring(text)
    assert SECRET not in str(caught.value)


def test_s15_a_rotation_step_by_step() -> None:
    """From signing to encrypting: at no step is there a message or outcome that somebody cannot read."""
    old, new = f"k1:{SECRET}", f"k2/aes:{SECRET[::-1]}"
    steps = [Keyring(text) for text in (old, f"{old},{new}", f"{new},{old}", new)]
    for writer, reader in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]:
        bundle = make_bundle(column=ARGUMENTS)
        frame = encode(bundle, steps[writer])
        assert decode(frame, steps[reader]) == bundle
        assert (CANARY.encode() in frame) is (writer < 2)
        assert open_sealed(seal(FAILURE, steps[writer]), steps[reader]) == FAILURE


# On each broker


@pytest.fixture(params=["", "/aes"], ids=["signing", "encrypting"])
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of all programs; the one that only signs shows that the canary would be found."""
    key = f"k1{request.param}:{SECRET}"
    monkeypatch.setenv("QUEUELIB_KEY", key)
    return key


class Overheard:
    """What somebody sees who reads a broker: a server's traffic, or a file."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self.url = url or f"sqlite:///{folder}/jobs.db"
        self._folder = folder
        self._proxy: FaultProxy | None = None
        if url:
            parts = urlsplit(url)
            assert parts.hostname
            assert parts.port
            self._proxy = stack.enter_context(FaultProxy(parts.port, host=parts.hostname))
            self._proxy.heard = bytearray()
            self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self._proxy.port}")

    def read(self) -> bytes:
        """Return all of it."""
        if self._proxy is not None:
            assert self._proxy.heard
            return bytes(self._proxy.heard)
        return b"".join(path.read_bytes() for path in self._folder.glob("jobs.db*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_s15_nothing_of_a_job_is_read_on_a_broker(
    kind: str, key: str, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Neither arguments nor results, errors, retries or what is set aside; every job ends as without encryption."""
    url = "" if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_url"))
    with ExitStack() as stack:
        broker = Overheard(url, tmp_path, stack)
        lab = Lab(kind, broker.url, namespace, tmp_path, load_deeds(broker.url, namespace))
        stack.callback(clean, kind, broker.url, namespace)
        stack.callback(lab.close)
        lab.ready_worker("--processes", "1")
        found = use(lab)
        seen = broker.read()
    for what, canary in found.items():
        assert (canary.encode() in seen) is ("/aes" not in key), what


def use(lab: Lab) -> dict[str, str]:
    """Run jobs of all kinds; return what they carried, by what they were."""
    deeds, path = lab.deeds, lab.history().path
    found = {what: f"{CANARY}-{what}" for what in ("single", "bundle", "mapped", "error", "retry", "aside")}
    assert deeds.anything.submit(found["single"]).result(timeout=WITHIN) == found["single"]
    rows = [(found["bundle"],)] * 400
    assert results(deeds.anything.submit_many(rows)) == [found["bundle"]] * 400
    assert list(deeds.anything.map([found["mapped"]] * 2000)) == [found["mapped"]] * 2000
    error = deeds.complain.submit(found["error"]).exception(timeout=WITHIN)
    assert isinstance(error, ValueError)
    assert str(error) == found["error"]
    assert deeds.flaky.submit(path, found["retry"], 1).result(timeout=WITHIN) == 2
    aside = deeds.deed.submit(path, found["aside"], "kill", 9)
    with pytest.raises(JobQuarantined):
        aside.result(timeout=WITHIN)
    (item,) = lab.dispatcher.open_results().quarantined()
    assert codec.decode(decode(item.frame, lab.dispatcher.keys).column)[0][1] == found["aside"]
    assert "died" in item.reason
    return found


def test_s15_the_whole_way_in_one_process(key: str) -> None:
    """A dispatcher whose key encrypts works with threads and in memory as any other."""
    dispatcher = Dispatcher("memory://s15")

    @dispatcher.task(name="lab.echo")
    def echo(text: str) -> str:
        return text

    with dispatcher.workers(processes=1):
        assert list(echo.map([CANARY] * 300)) == [CANARY] * 300
    assert dispatcher.keys is not None
    assert dispatcher.keys.encrypts is ("/aes" in key)
