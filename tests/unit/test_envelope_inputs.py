"""Envelopes of jobs that wait for results of others."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import codec
from queuelib.bundle import outgoing
from queuelib.envelope import MAX_JOBS, decode, encode
from queuelib.errors import BadSignature, DecodeError
from queuelib.message import INPUTS, Bundle, Input, Run
from queuelib.signing import Keyring
from tests.unit.fakes import BUNDLE_ID, make_bundle, quick

ONE, LIST = Input([Run(BUNDLE_ID, 3)]), Input([Run(bytes(16), 0, 64), Run(BUNDLE_ID, 7, 2)], is_list=True)
FLAGGED = [Input([Run(BUNDLE_ID, 3)], passes=True), Input([Run(BUNDLE_ID, 3)], is_list=True, passes=True)]
PIECES = codec.encode([b"\x92", b"", b""])


def waiting(*inputs: Input, **changes: Any) -> Bundle:
    column = codec.encode([b""] * (len(inputs) + 1))
    return make_bundle(1, **{"inputs": inputs, "attempt": 0, "column": column, "due": 5.0, **changes})


def test_there_and_back() -> None:
    """In a version of its own, which older workers give back; with all that other envelopes have."""
    bundle = waiting(ONE, LIST, column=PIECES)
    frame = encode(bundle)
    assert msgpack.unpackb(frame)[0] == 3
    found = decode(frame)
    assert found == bundle._replace(inputs=[ONE, LIST])
    assert encode(found) == frame


def test_failures_as_values() -> None:
    """Whether they are is said of each input."""
    bundle = waiting(ONE, *FLAGGED)
    assert decode(encode(bundle)) == bundle._replace(inputs=[ONE, *FLAGGED])


def test_it_travels_by_a_queue_of_its_own() -> None:
    """At once, whatever its delay: that is for the message it becomes."""
    assert outgoing(waiting(ONE))[0] == INPUTS
    assert outgoing(waiting(ONE)).due is None
    assert outgoing(make_bundle(1, due=5.0))[0] == "yellow"


def test_what_waits_for_nothing_is_as_it_was() -> None:
    """The version says which of the two it is."""
    assert msgpack.unpackb(encode(make_bundle(1)))[0] == 2
    frame = msgpack.unpackb(encode(make_bundle(1)))
    frame[0] = 3
    with pytest.raises(DecodeError):
        decode(msgpack.packb(frame))
    frame = msgpack.unpackb(encode(waiting(ONE)))
    frame[0] = 2
    with pytest.raises(DecodeError):
        decode(msgpack.packb(frame))


def test_signatures_cover_the_version_and_the_inputs() -> None:
    """Nobody makes another job wait, or the same one for others; arguments and results may be encrypted."""
    for text in ("lab:secret-secret-secret", "lab/aes:secret-secret-secret"):
        keys = Keyring(text)
        frame = encode(waiting(ONE, LIST, column=PIECES), keys)
        assert decode(frame, keys).inputs == [ONE, LIST]
        assert decode(frame, keys).column == PIECES
        outer = msgpack.unpackb(frame)
        for change in ((2, *outer[1:]), (*outer[:3], outer[3].replace(b"\x03", b"\x04"))):
            with pytest.raises(BadSignature):
                decode(msgpack.packb(change), keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [Input([Run(BUNDLE_ID, 0), Run(BUNDLE_ID, 2)])]},
        {"inputs": [Input([])]},
        {"inputs": [Input([Run(BUNDLE_ID, 0, 0)], is_list=True)]},
        {"inputs": [Input([Run(BUNDLE_ID, 1, MAX_JOBS)], is_list=True)]},
        {"attempt": 1},
        {"size": 2, "indexes": [1]},
        {"column": codec.encode([b""])},
        {"column": codec.encode([b"", 1])},
        {"column": codec.encode(b"")},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    """No run is empty or beyond a bundle, one result is one job's, the pieces lie around the inputs."""
    with pytest.raises(DecodeError):
        decode(
            encode(
                waiting(ONE, **changes)
                if "inputs" not in changes
                else waiting(**changes, column=codec.encode([b"", b""]))
            )
        )


@pytest.mark.parametrize("written", [b"", b"\x02", b"\x01" + bytes(23), 7, [b"\x01"], None])
def test_inputs_of_other_shapes_are_refused(written: object) -> None:
    """Whoever wrote them."""
    frame = msgpack.unpackb(encode(waiting(ONE)))
    payload = msgpack.unpackb(frame[3])
    payload[-1] = [written]
    frame[3] = msgpack.packb(payload)
    with pytest.raises(DecodeError):
        decode(msgpack.packb(frame))


@quick
@given(data=st.data())
def test_mutated_bytes(data: st.DataObject) -> None:
    """A byte changed, cut off or put in: refused, or another bundle."""
    frame = encode(waiting(ONE, LIST, column=PIECES))
    place = data.draw(st.integers(0, len(frame) - 1))
    end = data.draw(st.sampled_from([place, place + 1, len(frame)]))
    try:
        found = decode(frame[:place] + data.draw(st.binary(max_size=2)) + frame[end:])
    except DecodeError:
        return
    assert isinstance(found, Bundle)


SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.just(0))


@given(seed=SEEDS, first=st.integers(0, 2**40), count=st.integers(1, 5))
@quick
def test_a_seed_there_and_back(seed: int, first: int, count: int) -> None:
    """In a version of its own, whether the job waits for others or not; without a seed nothing changes."""
    bundle = make_bundle(count, seed=seed, first=first)
    frame = encode(bundle)
    assert msgpack.unpackb(frame)[0] == 4
    assert decode(frame) == bundle
    bundle = waiting(ONE, seed=seed, first=first)
    assert decode(encode(bundle)) == bundle._replace(inputs=[ONE])
    keys = Keyring("k1/aes:" + "s" * 32)
    assert decode(encode(bundle, keys), keys) == bundle._replace(inputs=[ONE])
    assert msgpack.unpackb(encode(make_bundle(count)))[0] == 2


@pytest.mark.parametrize(
    ("place", "value"), [(-2, -1), (-2, "7"), (-2, None), (-2, True), (-1, -1), (-1, 0.5), (-3, None), (-3, [b"x"])]
)
def test_seeds_of_other_shapes_are_refused(place: int, value: object) -> None:
    """A seed and a place are integers from 0, behind what the job waits for."""
    frame = msgpack.unpackb(encode(make_bundle(1, seed=7, first=1)))
    fields = msgpack.unpackb(frame[3])
    fields[place] = value
    frame[3] = msgpack.packb(fields)
    with pytest.raises(DecodeError):
        decode(msgpack.packb(frame))
