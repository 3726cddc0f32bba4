"""Attacks S12, S13, S14 and S36, and forged outcomes: what somebody can do who writes to the broker, and has no key."""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING, Any, Self

import msgpack
import pytest

from queuelib import BadSignature, ConfigurationError, Dispatcher, ForgedOutcome, QueuelibError, body, codec
from queuelib.cli.place import Place
from queuelib.envelope import VERSION, decode, encode
from queuelib.ids import Key
from queuelib.message import Input, Limits, Run
from queuelib.outcome import (
    CANCELLED,
    EXPIRED,
    FAILED,
    QUARANTINED,
    QUEUED,
    RETRYING,
    RUNNING,
    SUCCEEDED,
    Again,
    Quarantined,
    Record,
)
from queuelib.ports import QuarantineItem, ResultCapabilities, Settled
from queuelib.seal import open_sealed, seal
from queuelib.sealed import SealedResults, SealedSettlement
from queuelib.signing import FRAME, Keyring
from queuelib.worker.intake import Intake
from queuelib.worker.settle import Ledger
from tests.integration.lab import KINDS, ROOT, WITHIN, Lab, clean, load_deeds, results
from tests.unit.fakes import BUNDLE_ID, FakeDoor, FakeResults, Time, make_bundle, make_delivery, make_hold
from tests.unit.wire_vectors import EXAMPLES
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuelib import Job
    from queuelib.message import Bundle, Outgoing
    from queuelib.ports import Delivery
    from queuelib.worker.intake import Taken

OLD, NEW, OTHER = (f"{name}:{name * 16}" for name in ("old", "new", "oth"))
KEY = "k1:" + "0123456789abcdef" * 2
KEYS = Keyring(KEY)
NOT_KEYS = Keyring("k1:" + "fedcba9876543210" * 2)  # the same id, another secret


# What a frame is worth


def refused_frames(bundle: Bundle) -> dict[str, bytes]:
    """Return frames that no key of ours has signed, by what is wrong with them."""
    good = msgpack.unpackb(encode(bundle, KEYS))
    version, key_id, signature, payload = good
    wrong = bytes([signature[0] ^ 1]) + signature[1:]
    changed = msgpack.unpackb(encode(bundle._replace(expires=bundle.submitted + 1e9), KEYS))[3]

    def packed(*parts: Any) -> bytes:
        return bytes(msgpack.packb(parts))

    return {
        "unsigned": encode(bundle),
        "signature left out": packed(version, key_id, None, payload),
        "key id left out": packed(version, None, signature, payload),
        "empty signature": packed(version, key_id, b"", payload),
        "signature of text": packed(version, key_id, signature.hex(), payload),
        "no key id and an empty signature": packed(version, "", b"", payload),
        "the algorithm none": packed(version, "none", b"", payload),
        "truncated signature": packed(version, key_id, signature[:16], payload),
        "longer signature": packed(version, key_id, signature + b"\0", payload),
        "one bit of the signature": packed(version, key_id, wrong, payload),
        "another key id": packed(version, "k2", signature, payload),
        "another secret": encode(bundle, NOT_KEYS),
        "another payload": packed(version, key_id, signature, changed),
        "truncated payload": packed(version, key_id, signature, payload[:-1]),
        "an older version": packed(version - 1, key_id, signature, payload),
        "a newer version": packed(version + 1, key_id, signature, payload),
        "an unsigned newer version": packed(99, "whatever that is"),
        "one part too many": packed(version, key_id, signature, payload, 0),
        "a signed outcome": packed(version, *KEYS.sign(b"outcome", bytes([version]), payload), payload),
    }


@pytest.mark.parametrize("name", refused_frames(make_bundle()))
class TestS12:
    """A signature that is missing, wrong, truncated, by an unknown key, or downgraded."""

    def test_s12_it_is_not_decoded(self, name: str) -> None:
        """The frame is a BadSignature, whatever is in its payload, and the message shows no secret."""
        frame = refused_frames(make_bundle())[name]
        with pytest.raises(BadSignature) as caught:
            decode(frame, KEYS)
        assert "0123456789abcdef" not in str(caught.value)

    def test_s12_it_is_set_aside(self, name: str) -> None:
        """A worker quarantines it, bytes and all, and says nothing of the job that it names."""
        delivery = make_delivery(frame=refused_frames(make_bundle())[name])
        taken = read([delivery], FakeResults())
        assert (taken.holds, taken.postponed) == ([], [])
        (settled,) = taken.settled
        assert settled.is_complete
        assert not settled.records
        (item,) = settled.quarantined
        assert item.frame == delivery.frame
        assert item.reason.startswith("not to be trusted: ")
        assert BUNDLE_ID.hex() not in item.id

    def test_s12_only_the_unsigned_pass_while_signing_is_introduced(self, name: str) -> None:
        """QUEUELIB_UNSIGNED=accept takes frames that bear no signature at all, and no others."""
        migrating = Keyring(KEY, accepts_unsigned=True)
        frame = refused_frames(make_bundle())[name]
        if name == "unsigned":
            assert decode(frame, migrating) == decode(frame)
        else:
            with pytest.raises(QueuelibError):
                decode(frame, migrating)


def test_s12_what_is_signed_is_read() -> None:
    """The same bundle comes back; a program without a key reads it too, and cannot know who wrote it."""
    bundle = make_bundle(3)
    frame = encode(bundle, KEYS)
    assert decode(frame, KEYS) == decode(frame) == decode(encode(bundle))
    assert msgpack.unpackb(frame)[:2] == [VERSION, "k1"]


def test_s12_the_signature_that_the_wire_format_shows() -> None:
    """The page quotes a signed frame, byte for byte, and it is read."""
    page = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8")
    quoted = page.partition("<!-- signed: begin -->")[2].partition("```text\n")[2].partition("```")[0]
    keys, bundle = Keyring("k1:0123456789abcdef"), EXAMPLES["a single job with every default"]
    frame = encode(bundle, keys)
    assert bytes.fromhex("".join(quoted.split())) == frame
    assert decode(frame, keys).id == bundle.id
    head = b"queuelib frame\0\x02k1" + bytes([VERSION])
    payload = msgpack.unpackb(frame)[3]
    assert msgpack.unpackb(frame)[2] == hmac.digest(b"0123456789abcdef", head + payload, "sha256")


CHANGES: dict[str, dict[str, Any]] = {
    "id": {"id": bytes(16)},
    "task": {"task": "lab.other"},
    "color": {"color": "red"},
    "size": {"size": 9},
    "indexes": {"size": 3, "indexes": [2]},
    "column": {"column": codec.encoded_list([codec.encode(["other"])])},
    "schema": {"schema": b"12345678"},
    "limits": {"limits": Limits(retries=9)},
    "submitted": {"submitted": 1.0},
    "due": {"due": 1.0},
    "expires": {"expires": 1e12},
    "attempt": {"attempt": 2},
    "deaths": {"deaths": 1},
    "reply": {"reply": "elsewhere"},
    "trace": {"trace": b"x"},
    "inputs": {"inputs": [Input([Run(bytes(16), 0)])], "attempt": 0, "column": codec.encode([b"", b""])},
    "seed": {"seed": 8},
    "first": {"first": 3},
}


@pytest.mark.parametrize("field", CHANGES)
def test_s13_every_field_is_covered(field: str) -> None:
    """A signature does not fit a bundle that differs in one field: id, queue, task, times, arguments, any."""
    bundle = make_bundle()._replace(seed=7) if field in {"seed", "first"} else make_bundle()
    assert set(CHANGES) == set(bundle._fields)
    version, key_id, signature, payload = msgpack.unpackb(encode(bundle, KEYS))
    other = msgpack.unpackb(encode(bundle._replace(**CHANGES[field]), KEYS))[3]
    assert payload != other
    with pytest.raises(BadSignature, match="wrong"):
        decode(msgpack.packb((version, key_id, signature, other)), KEYS)


def read(deliveries: list[Delivery], stored: Any) -> Taken:
    """Read deliveries as a worker with a key does."""
    kept = SealedResults(stored, KEYS, shows_forged=False)
    return Intake(["lab.work"], ["red", "yellow"], 3600.0, Time().clock, keys=KEYS).read(deliveries, lambda: kept)


def test_s13_moved_to_another_queue() -> None:
    """A signed message that came by another color than its own is set aside, and its job is left alone."""
    bundle = make_bundle()
    taken = read([make_delivery(frame=encode(bundle, KEYS), color="red")], FakeResults())
    assert taken.holds == []
    (settled,) = taken.settled
    assert not settled.records
    assert "yellow" in settled.quarantined[0].reason
    assert "red" in settled.quarantined[0].reason


def test_s13_replayed() -> None:
    """A message of jobs that have ended is acknowledged without a start, though nobody said that it was redelivered."""
    bundle = make_bundle(3)
    done = [Record(Key(bundle.id, at), SUCCEEDED, body=body.of_result("lab.work", b"\1")) for at in range(3)]
    stored = {record.key: seal(record, KEYS) for record in done}
    delivery = make_delivery(frame=encode(bundle, KEYS))
    taken = read([delivery], FakeResults(records=stored))
    assert taken.holds == []
    assert [(one.delivery, one.is_complete, one.records) for one in taken.settled] == [(delivery, True, ())]
    del stored[Key(bundle.id, 1)]
    (hold,) = read([delivery], FakeResults(records=stored)).holds
    assert [(part.at, part.end, part.is_suspect) for part in hold.waiting()] == [(1, 2, False)]


def test_s13_replayed_where_looking_up_is_dear() -> None:
    """Without a record of what was given out, what a worker meets a second time is looked up, and nothing else."""
    bundle = make_bundle(3)
    done = [Record(Key(bundle.id, at), SUCCEEDED, body=body.of_result("lab.work", b"\1")) for at in range(3)]
    stored = FakeResults(capabilities=ResultCapabilities())
    kept: Any = SealedResults(stored, KEYS, shows_forged=False)  # type: ignore[arg-type]
    intake = Intake(["lab.work"], ["yellow"], 3600.0, Time().clock, keys=KEYS)
    delivery = make_delivery(frame=encode(bundle, KEYS))
    assert [hold.left for hold in intake.read([delivery], lambda: kept).holds] == [3]
    assert stored.log == []
    assert [hold.left for hold in intake.read([delivery], lambda: kept).holds] == [3]  # given back, and not begun
    stored.records |= {record.key: seal(record, KEYS) for record in done}
    taken = intake.read([delivery], lambda: kept)
    assert taken.holds == []
    assert [one.is_complete for one in taken.settled] == [True]


# Keys


class TestS14:
    """Rotation: two keys live at once, in either order."""

    @pytest.mark.parametrize(
        ("writer", "reader", "is_read"),
        [
            (OLD, OLD, True),
            (OLD, f"{OLD},{NEW}", True),  # the reader was given the new key first
            (f"{OLD},{NEW}", OLD, True),  # the writer was
            (f"{NEW},{OLD}", f"{OLD},{NEW}", True),  # the writer signs with the new one
            (f"{OLD},{NEW}", f"{NEW},{OLD}", True),
            (NEW, f"{NEW},{OLD}", True),
            (f"{NEW},{OLD}", NEW, True),
            (f"{NEW},{OLD}", OLD, False),
            (OLD, NEW, False),
            (OTHER, f"{NEW},{OLD}", False),
        ],
    )
    def test_s14_frames_and_outcomes(self, writer: str, reader: str, is_read: bool) -> None:  # noqa: FBT001
        """What the first key of the writer signed is read by whoever has that key at any place."""
        bundle = make_bundle()
        record = Record(Key(bundle.id, 0), FAILED, body=body.of_failure("t", "", "no"))
        frame, sealed = encode(bundle, Keyring(writer)), seal(record, Keyring(writer))
        if is_read:
            assert decode(frame, Keyring(reader)).id == bundle.id
            assert open_sealed(sealed, Keyring(reader)) == record
        else:
            with pytest.raises(BadSignature, match="signed with the key"):
                decode(frame, Keyring(reader))
            with pytest.raises(BadSignature, match="signed with the key"):
                open_sealed(sealed, Keyring(reader))

    def test_s14_a_rotation_step_by_step(self) -> None:
        """Workers and clients change over one after the other, and at no time is a job refused or an outcome doubted."""
        url = f"memory://{secrets.token_hex(8)}"
        # The steps of docs/security.md; within a step either side may be the first.
        steps = [(OLD, OLD), (f"{OLD},{NEW}", OLD), (f"{OLD},{NEW}",) * 2, (f"{NEW},{OLD}", f"{OLD},{NEW}")]
        steps += [(f"{NEW},{OLD}",) * 2, (NEW, f"{NEW},{OLD}"), (NEW, NEW)]
        for one, other in steps:
            for of_worker, of_client in ((one, other), (other, one)):
                with served(url, of_worker), client(url, of_client) as double:
                    assert double.submit(4).result(timeout=WITHIN) == 8
        assert Dispatcher(url).open_results().quarantined() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ID:SECRET"),
        ("k1", "ID:SECRET"),
        (":" + "s" * 32, "ID:SECRET"),
        ("k 1:" + "s" * 32, "ID:SECRET"),
        ("k" * 33 + ":" + "s" * 32, "ID:SECRET"),
        ("k1:" + "s" * 15, "fewer than 16"),
        ("k1:" + "s" * 32 + ",", "key 2"),
        ("k1:" + "s" * 32 + ",k1:" + "t" * 32, "two keys"),
        ("none:", "fewer than 16"),
    ],
)
def test_s12_keys_that_make_no_sense(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a ConfigurationError at the first use, from the argument as from the environment, that shows no secret."""
    monkeypatch.setenv("QUEUELIB_KEY", text)
    for dispatcher in (Dispatcher("memory://", key=text), Dispatcher("memory://")):
        with pytest.raises(ConfigurationError, match=words) as caught:
            dispatcher.open_results()
        assert "sss" not in str(caught.value)


def test_s12_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dispatcher(key=...), then configure(key=...), then $QUEUELIB_KEY; nothing, and nothing is signed."""
    monkeypatch.setenv("QUEUELIB_KEY", OLD)
    dispatcher = Dispatcher("memory://", key=NEW)
    assert dispatcher.keys is not None
    assert dispatcher.keys.ids == ("new",)
    dispatcher.configure(key=OTHER)
    assert dispatcher.keys.ids == ("oth",)
    other = Dispatcher("memory://")
    assert other.keys is not None
    assert other.keys.ids == ("old",)
    assert not other.keys.accepts_unsigned
    monkeypatch.delenv("QUEUELIB_KEY")
    assert Dispatcher("memory://").keys is None


@pytest.mark.parametrize("word", ["", "yes", "ACCEPT", "none"])
def test_s12_unsigned_is_one_of_two_words(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in QUEUELIB_UNSIGNED does not open the door."""
    monkeypatch.setenv("QUEUELIB_UNSIGNED", word)
    with pytest.raises(ConfigurationError, match="refuse or accept"):
        _ = Dispatcher("memory://", key=KEY).keys


# Outcomes


def outcomes() -> list[Record]:
    """Return one record of each kind that a worker stores."""
    key = Key(BUNDLE_ID, 3)
    failure, start = body.of_failure("lab.work", "ValueError", "no"), body.of_starts(2)
    several = body.of_results("lab.work", [codec.encode(i) for i in range(7)], "w/1", 0.5)
    return [
        Record(key, SUCCEEDED, 1, body.of_result("lab.work", b"\1", "w/1", 0.5), 5.0),
        Record(key, SUCCEEDED, 1, several, 5.0, 7),
        Record(key, FAILED, 2, failure, 5.0),
        Record(key, QUARANTINED, 1, failure, 5.0),
        Record(key, RETRYING, 2, failure, 5.0),
        Record(key, RUNNING, 1, start, 5.0),
        Record(key, QUEUED, 1, start, 5.0),
        Record(key, CANCELLED, 1, b"", 5.0),
        Record(key, EXPIRED, 1, b"", 5.0),
    ]


@pytest.mark.parametrize("record", outcomes(), ids=lambda record: f"{record.state}-{record.count}-{len(record.body)}")
class TestForgedOutcome:
    """What is stored under a job without a key."""

    def test_forged_outcome_signed_ones_are_read(self, record: Record) -> None:
        """A record comes back as it was signed; whoever has no key reads the same."""
        sealed = seal(record, KEYS)
        assert open_sealed(sealed, KEYS) == record
        if record.state in {RUNNING, QUEUED}:
            assert body.starts_in(sealed.body) == 2
        else:
            assert body.read(sealed.body) == body.read(record.body)

    def test_forged_outcome_everything_is_covered(self, record: Record) -> None:
        """A signature fits no other job, state, attempt, number of jobs or body."""
        sealed = seal(record, KEYS)
        others = [
            sealed._replace(key=Key(BUNDLE_ID, 4)),
            sealed._replace(key=Key(bytes(16), 3)),
            sealed._replace(state=FAILED if record.state != FAILED else SUCCEEDED),
            sealed._replace(attempt=record.attempt + 1),
            sealed._replace(count=record.count + 1),
            sealed._replace(body=sealed.body + b"\0"),
            sealed._replace(body=sealed.body[:-1]),
            seal(record, NOT_KEYS),
        ]
        for forged in others:
            with pytest.raises(BadSignature):
                open_sealed(forged, KEYS)

    def test_forged_outcome_every_byte_is_covered(self, record: Record) -> None:
        """No bit of a signed body can be flipped, and it can be cut nowhere."""
        sealed = seal(record, KEYS)
        for at in range(1, len(sealed.body)):
            flipped = bytearray(sealed.body)
            flipped[at] ^= 0x10
            for data in (bytes(flipped), sealed.body[:at]):
                with pytest.raises(BadSignature):
                    open_sealed(sealed._replace(body=data), KEYS)

    def test_forged_outcome_a_worker_takes_it_for_none(self, record: Record) -> None:
        """Without a signature it does not keep a job from running, nor count as a start of it."""
        bundle = make_bundle(10)
        stored = FakeResults(records=dict.fromkeys(record.keys, record))
        delivery = make_delivery(frame=encode(bundle, KEYS), redelivered=True)
        taken = read([delivery], stored)
        is_backends_word = record.state == CANCELLED
        assert sum(hold.left for hold in taken.holds) == (9 if is_backends_word else 10)
        assert is_backends_word or dict(taken.holds[0].starts) == dict.fromkeys(range(10), 1)

    def test_forged_outcome_a_client_is_told(self, record: Record) -> None:
        """A client sees the state `forged`, except where backends themselves say so: of a cancelled job."""
        kept = SealedResults(FakeResults(records=dict.fromkeys(record.keys, record)), KEYS, shows_forged=True)  # type: ignore[arg-type]
        (found,) = kept.fetch([record.key])
        assert found is not None
        assert found.state == (CANCELLED if record.state == CANCELLED else "forged")

    def test_forged_outcome_unsigned_ones_pass_while_signing_is_introduced(self, record: Record) -> None:
        """QUEUELIB_UNSIGNED=accept takes them, and still refuses a wrong signature."""
        migrating = Keyring(KEY, accepts_unsigned=True)
        stored = dict.fromkeys(record.keys, record)
        kept = SealedResults(FakeResults(records=stored), migrating, shows_forged=False)  # type: ignore[arg-type]
        assert kept.fetch([record.key]) == [record]
        stored |= dict.fromkeys(record.keys, seal(record, NOT_KEYS))
        assert kept.fetch([record.key]) == [None]


def test_forged_outcome_of_a_neighbor() -> None:
    """A signed record of several successes tells of these jobs only, and each part of it of one."""
    whole = seal(outcomes()[1], KEYS)
    neighbor = Key(BUNDLE_ID, 10)
    kept = SealedResults(FakeResults(records={neighbor: whole}), KEYS, shows_forged=False)  # type: ignore[arg-type]
    assert kept.fetch([neighbor]) == [None]
    pieces = body.singles(whole)
    assert [body.read(open_sealed(one, KEYS).body).result for one in pieces] == [codec.encode(i) for i in range(7)]
    for one in pieces:
        for other in pieces:
            if one is not other:
                with pytest.raises(BadSignature):
                    open_sealed(one._replace(body=other.body), KEYS)


def test_forged_outcome_between_jobs_of_one_record() -> None:
    """Each job of a fetch is judged by itself: good ones before and behind what is missing, forged or another's."""
    record = outcomes()[1]
    whole = seal(record, KEYS)
    stored = dict.fromkeys(record.keys, whole)
    del stored[Key(BUNDLE_ID, 4)]
    stored[Key(BUNDLE_ID, 6)] = Record(Key(BUNDLE_ID, 6), SUCCEEDED, body=body.of_result("lab.work", b"\1"))
    stored[Key(bytes(16), 7)] = stored[Key(BUNDLE_ID, 2)] = whole
    kept = SealedResults(FakeResults(records=stored), KEYS, shows_forged=False)  # type: ignore[arg-type]
    asked = [Key(BUNDLE_ID, index) for index in (3, 4, 5, 6, 7, 2, 8)] + [Key(bytes(16), 7), Key(BUNDLE_ID, 9)]
    assert kept.fetch(asked) == [record, None, record, None, record, None, record, None, record]


@pytest.mark.parametrize("count", [2, 3, 4, 9, 10, 100])
def test_forged_outcome_parts_are_what_was_signed(count: int) -> None:
    """Whatever their number, parts cut without a key are believed, and no byte of them can be changed."""
    results_ = [codec.encode("x" * (i % 5)) for i in range(count)]
    record = Record(Key(BUNDLE_ID, 1), SUCCEEDED, 1, body.of_results("t", results_, "w/1", 0.5), 5.0, count)
    pieces = body.singles(seal(record, KEYS))
    assert [open_sealed(piece, KEYS) for piece in pieces] == body.singles(record)
    piece = pieces[count // 2]
    kept = body.read(open_sealed(piece, KEYS).body)
    for at in range(1, len(piece.body)):
        flipped = bytearray(piece.body)
        flipped[at] ^= 0x01
        try:
            found = body.read(open_sealed(piece._replace(body=bytes(flipped)), KEYS).body)
        except BadSignature:
            continue
        assert found == kept  # a digest that is not needed because the results themselves are here


def test_forged_outcome_signed_on_settling() -> None:
    """Where broker and results are one server, the records of a settlement are signed as those that are stored."""
    door = FakeDoor()
    record = outcomes()[0]
    delivery = make_delivery()
    assert SealedSettlement(door, KEYS).settle([Settled(delivery, [record], is_complete=True, reply="r")]) == [True]
    ((_, (entry,)),) = door.log
    assert (entry.delivery, entry.is_complete, entry.reply) == (delivery, True, "r")
    assert [open_sealed(one, KEYS) for one in entry.records] == [record]


def test_forged_outcome_is_an_error_at_the_client() -> None:
    """result(), exception() and state say so, done() is true, gather and map raise it; the true outcome may still come."""
    url = f"memory://{secrets.token_hex(8)}"
    with client(url, KEY) as double:
        job = double.submit(1)
        stored = Dispatcher(url).open_results()
        forgery = body.of_result("signed.double", codec.encode(666))
        stored.store([Record(job.key, FAILED, body=forgery)])
        with pytest.raises(ForgedOutcome, match=f"{job.id}.*not signed"):
            job.result(timeout=WITHIN)
        with pytest.raises(ForgedOutcome):
            _ = job.state
        with pytest.raises(ForgedOutcome):
            double.dispatcher.gather([job], timeout=WITHIN)
        assert isinstance(job.exception(timeout=WITHIN), ForgedOutcome)
        assert job.done()
        with served(url, KEY):
            eventually(lambda: not isinstance(job.exception(timeout=WITHIN), ForgedOutcome), within=WITHIN)
            assert job.result(timeout=WITHIN) == 2


# The quarantine


class TestS36:
    """What is set aside is checked again before it is queued again."""

    def test_s36_retry_checks_the_signature(self) -> None:
        """Neither an unsigned message nor one of another key is sent; it stays where it is, and so do its jobs."""
        url = f"memory://{secrets.token_hex(8)}"
        bundle = make_bundle()
        for frame in refused_frames(bundle).values():
            place, item = quarantined(url, frame)
            with pytest.raises(QueuelibError, match="cannot be queued again"):
                place.retry(item)
            assert item in place.results().quarantined()
        assert waiting(url) == 0

    def test_s36_retry_signs_anew(self) -> None:
        """What passes is sent signed by the key that signs now, and leaves the quarantine."""
        url = f"memory://{secrets.token_hex(8)}"
        place, item = quarantined(url, encode(make_bundle(), Keyring(OLD)), key=f"{NEW},{OLD}")
        assert place.retry(item) == "yellow"
        assert place.results().quarantined() == []
        (frame,) = taken_from(url)
        assert decode(frame, Keyring(NEW)).id == BUNDLE_ID

    def test_s36_retry_does_not_run_finished_jobs(self) -> None:
        """A copy of a message whose jobs have succeeded, put into the quarantine, is not run a second time."""
        url = f"memory://{secrets.token_hex(8)}"
        place, item = quarantined(url, encode(make_bundle(), KEYS))
        done = Record(Key(BUNDLE_ID, 0), SUCCEEDED, body=body.of_result("lab.work", b"\1"))
        place.results().store([done])
        with pytest.raises(QueuelibError, match="succeeded by now"):
            place.retry(item)
        assert place.results().fetch([done.key]) == [done]
        assert waiting(url) == 0

    def test_s36_retry_checks_the_size(self) -> None:
        """A message that became too large is refused, and its record is not forgotten."""
        url = f"memory://{secrets.token_hex(8)}"
        place, item = quarantined(url, b"\x94\x02" + bytes(17 * 2**20))
        with pytest.raises(QueuelibError, match="cannot be queued again"):
            place.retry(item)
        assert item in place.results().quarantined()


def quarantined(url: str, frame: bytes, key: str = KEY) -> tuple[Place, QuarantineItem]:
    """Set a frame aside, and return the place as an operator with a key sees it."""
    item = QuarantineItem(secrets.token_hex(8), "yellow", "why", frame, time.time())
    Dispatcher(url).open_results().quarantine([item])
    place = Place(url, None, None)
    place._dispatcher.configure(key=key)
    return place, item


def taken_from(url: str) -> list[bytes]:
    """Take what waits in yellow."""
    from queuelib import broker  # noqa: PLC0415 - kombu

    lane = broker.open_lane(broker.settings_for(url, "queuelib"), "queuelib", 5.0)
    frames = [delivery.frame for delivery in lane.take({"yellow": 10})]
    lane.close()
    return frames


def waiting(url: str) -> int:
    """Count what waits in yellow."""
    return len(taken_from(url))


class _Client:
    """A dispatcher with one task, as a program has it."""

    def __init__(self, url: str, key: str) -> None:
        self.dispatcher = Dispatcher(url, key=key)

        @self.dispatcher.task(name="signed.double")
        def double(x: int) -> int:
            return 2 * x

        self._double = double

    def submit(self, x: int) -> Job[int]:
        """Submit a call."""
        return self._double.submit(x)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispatcher.close()


def client(url: str, key: str) -> _Client:
    """Return a client with keys."""
    return _Client(url, key)


def served(url: str, key: str) -> Any:
    """Run a worker with keys, in threads."""
    return _Client(url, key).dispatcher.workers(processes=1)


# End to end, on each broker


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which broker."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest, kind: str) -> str:
    """URL of the server; empty where there is none."""
    return "" if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture
def lab(kind: str, server_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A namespace whose clients and workers have the key in their environment."""
    url = server_url or f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("QUEUELIB_KEY", KEY)
    lab = Lab(kind, url, namespace, tmp_path, load_deeds(url, namespace))
    try:
        yield lab
    finally:
        lab.close()
        clean(kind, url, namespace)


def submitted(lab: Lab, monkeypatch: pytest.MonkeyPatch, label: str) -> tuple[Job[str], Outgoing]:
    """Submit a job and return it with its frame, as somebody sees it who reads the broker."""
    frames: list[Outgoing] = []
    publish = lab.dispatcher.producer.publish

    def seen(some: list[Outgoing]) -> None:
        frames.extend(some)
        publish(some)

    with monkeypatch.context() as patched:
        patched.setattr(lab.dispatcher.producer, "publish", seen)
        job = lab.deeds.mark.submit(lab.history().path, label)
    return job, frames[0]


@pytest.mark.slow
def test_s12_s13_on_every_broker(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unsigned, changed, moved and replayed messages none is run, each is accounted for, and good ones pass."""
    lab.ready_worker("--processes", "1")
    job, seen = submitted(lab, monkeypatch, "good")
    assert job.result(timeout=WITHIN) == "good"
    bundle = decode(seen.frame)._replace(id=secrets.token_bytes(16))  # of a job that nobody has seen
    bad = refused_frames(bundle)
    lab.publish_raw(bad.values())
    lab.publish_raw([seen.frame], color="red")
    lab.publish_raw([seen.frame] * 3)  # the transport does not know its id: it is not the submitter's
    stored = lab.dispatcher.open_results()
    eventually(lambda: len(stored.quarantined()) == len(bad) + 1, within=WITHIN)
    eventually(lambda: lab.open_lane().waiting(["yellow", "red"]) == {"yellow": 0, "red": 0}, within=WITHIN)
    assert results(lab.deeds.mark.submit_many([(lab.history().path, f"more{i}") for i in range(20)])) is not None
    assert lab.history().count() == {"good": 1} | {f"more{i}": 1 for i in range(20)}
    frames = sorted(item.frame for item in stored.quarantined())
    assert frames == sorted([*bad.values(), seen.frame])
    assert all(item.reason.startswith("not to be trusted") for item in stored.quarantined())
    done = lab.run("-m", "queuelib", "failed", "retry", "--all", "--broker", lab.url, "--namespace", lab.namespace)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == len(frames)
    assert len(stored.quarantined()) == len(frames)
    assert KEY[3:] not in done.stdout + done.stderr


@pytest.mark.slow
def test_forged_outcome_on_every_broker(lab: Lab) -> None:
    """What is stored without the key is an error for the client; a true outcome is read, single and in spans."""
    job = lab.deeds.mark.submit(lab.history().path, "victim")
    stored = lab.dispatcher.open_results()
    stored.inner.store(
        [Record(job.key, FAILED, body=body.of_failure("deeds.mark", "ValueError", "ha"))], stored.inbox()
    )
    with pytest.raises(ForgedOutcome):
        job.result(timeout=WITHIN)
    lab.ready_worker("--processes", "2")
    assert results(lab.deeds.square.submit_many([(i,) for i in range(600)])) == [i * i for i in range(600)]
    assert list(lab.deeds.square.map(range(3000))) == [i * i for i in range(3000)]
    assert isinstance(lab.deeds.fussy.submit(4).exception(timeout=WITHIN), ValueError)
    assert lab.deeds.flaky.submit(lab.history("flaky").path, "f", 2).result(timeout=WITHIN) == 3
    # The worker did not take the forgery for an ending; its own success takes the place of it.
    eventually(lambda: lab.history().count()["victim"] == 1, within=WITHIN)
    eventually(lambda: job.exception(timeout=WITHIN) is None, within=WITHIN)


def test_s12_frames_of_the_worker_are_signed_too() -> None:
    """Retries, remainders and what is set aside are signed where the worker makes them."""
    bundle = make_bundle(3, limits=Limits(retries=1))
    hold = make_hold(bundle)
    ledger = Ledger(Time().clock, KEYS)
    ledger.add(hold, 0, Again(0.0, b""))
    ledger.add(hold, 1, Quarantined("why"))
    (entry,) = ledger.take_all()
    frames = [entry.successors[0].frame, entry.quarantined[0].frame, hold.remainder(KEYS).frame]
    assert [list(decode(frame, KEYS).indexes) for frame in frames] == [[0], [1], [2]]
    assert decode(frames[0], KEYS).attempt == 2


def test_signatures_cost_nothing_without_a_key() -> None:
    """Without keys frames are the unsigned ones byte for byte, and nothing stands around the result backend."""
    assert encode(make_bundle(), None) == encode(make_bundle())
    assert msgpack.unpackb(encode(make_bundle()))[1:3] == [None, None]
    assert not isinstance(Dispatcher("memory://plain").open_results(), SealedResults)
    assert FRAME == b"frame"
