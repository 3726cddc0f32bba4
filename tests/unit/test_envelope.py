"""The wire form of a bundle: what is written is read again, and nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.envelope import MAX_JOBS, VERSION, decode, encode
from queuelib.errors import DecodeError, TooLarge, UnsupportedVersion
from queuelib.settings import MAX_MESSAGE_BYTES
from tests.unit.fakes import bundles, make_bundle, quick

if TYPE_CHECKING:
    from queuelib.message import Bundle

FIELDS = (
    *("id", "task", "color", "size", "indexes", "schema", "limits", "submitted", "due", "expires"),
    *("attempt", "deaths", "reply", "trace"),
)
LIMITS = ("timeout", "hard_timeout", "retries", "backoff", "max_backoff")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=4) | st.just("x"),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def normal(bundle: Bundle) -> Bundle:
    """Return the bundle with sequences that compare as lists."""
    return replace(bundle, indexes=list(bundle.indexes), arguments=list(bundle.arguments))


def parts(bundle: Bundle | None = None) -> tuple[list[Any], list[Any]]:
    """Return header and column of a bundle, to be damaged."""
    header, column = msgpack.unpackb(msgpack.unpackb(encode(bundle or make_bundle(3)))[3])
    return header, column


def frame_of(header: Any, column: Any) -> bytes:
    """Return the envelope of a header and a column."""
    frame: bytes = msgpack.packb((VERSION, None, None, msgpack.packb((header, column))))
    return frame


def with_field(name: str, value: Any) -> bytes:
    """Return the envelope of three jobs with one field of its header changed."""
    header, column = parts()
    if name in LIMITS:
        header[FIELDS.index("limits")][LIMITS.index(name)] = value
    else:
        header[FIELDS.index(name)] = value
    return frame_of(header, column)


def read_or_refuse(frame: bytes) -> None:
    """Decode a frame; what comes out can be written again, and the only error is DecodeError."""
    try:
        bundle = decode(frame)
    except DecodeError:
        return
    assert bundle.indexes
    assert normal(decode(encode(bundle))) == normal(bundle)


class TestRoundTrip:
    """What is written is read again."""

    @quick
    @given(bundle=bundles())
    def test_every_field(self, bundle: Bundle) -> None:
        """A bundle, whole or in part, comes back as it was."""
        assert normal(decode(encode(bundle))) == normal(bundle)

    def test_a_whole_bundle_does_not_spell_out_its_indexes(self) -> None:
        """They cost nothing on the wire and come back as a range."""
        header, _ = parts(make_bundle(5))
        assert header[FIELDS.index("indexes")] is None
        assert decode(encode(make_bundle(5))).indexes == range(5)

    def test_the_arguments_stay_encoded(self) -> None:
        """Reading an envelope does not read the arguments, whatever they hold."""
        assert decode(encode(make_bundle(arguments=[b"\xc1 not msgpack"]))).arguments == [b"\xc1 not msgpack"]


class TestForeignBytes:
    """What is not an envelope is a DecodeError and nothing else."""

    @quick
    @given(frame=st.binary(max_size=80))
    def test_any_bytes(self, frame: bytes) -> None:
        """Random bytes are refused."""
        read_or_refuse(frame)

    @quick
    @given(value=PLAIN)
    def test_any_values(self, value: Any) -> None:
        """Other programs' msgpack is refused."""
        read_or_refuse(msgpack.packb(value))

    @quick
    @given(bundle=bundles(), data=st.data())
    def test_mutated_bytes(self, bundle: Bundle, data: st.DataObject) -> None:
        """A frame with a byte changed, cut off or put in is refused or is another bundle."""
        frame = encode(bundle)
        place = data.draw(st.integers(0, len(frame) - 1))
        end = data.draw(st.sampled_from([place, place + 1, len(frame)]))
        read_or_refuse(frame[:place] + data.draw(st.binary(max_size=2)) + frame[end:])

    @quick
    @given(bundle=bundles(), field=st.sampled_from([*FIELDS, *LIMITS]), value=PLAIN)
    def test_mutated_fields(self, bundle: Bundle, field: str, value: Any) -> None:
        """A header with any value in any field is refused or is another bundle."""
        header, column = parts(bundle)
        if field in LIMITS:
            header[FIELDS.index("limits")][LIMITS.index(field)] = value
        else:
            header[FIELDS.index(field)] = value
        read_or_refuse(frame_of(header, column))

    @quick
    @given(bundle=bundles(), data=st.data())
    def test_truncated(self, bundle: Bundle, data: st.DataObject) -> None:
        """No beginning of a frame is a frame."""
        frame = encode(bundle)
        with pytest.raises(DecodeError):
            decode(frame[: data.draw(st.integers(0, len(frame) - 1))])

    def test_something_behind_it(self) -> None:
        """Two frames in one message are refused."""
        with pytest.raises(DecodeError, match="the envelope is not readable: ExtraData"):
            decode(encode(make_bundle()) * 2)

    @pytest.mark.parametrize(
        "value", [[], {}, 1, "x", [None], [True, None, None, b""], ["1", None, None, b""], [1, None, None, "text"], [1]]
    )
    def test_not_the_four_parts(self, value: Any) -> None:
        """Lists of another shape, and what is no list, are refused."""
        with pytest.raises(DecodeError, match="envelope"):
            decode(msgpack.packb(value))

    @pytest.mark.parametrize("payload", [b"", msgpack.packb(1), msgpack.packb([1]), msgpack.packb([1, 2, 3])])
    def test_not_a_header_and_a_column(self, payload: bytes) -> None:
        """A payload of another shape is refused."""
        with pytest.raises(DecodeError, match="the payload is not"):
            decode(msgpack.packb((VERSION, None, None, payload)))

    @pytest.mark.parametrize("column", [None, {}, [1, b"", b""], ["text", b"", b""]])
    def test_not_a_column(self, column: Any) -> None:
        """Arguments are byte strings."""
        with pytest.raises(DecodeError, match="not a column of byte strings"):
            decode(frame_of(parts()[0], column))

    def test_deep_nesting(self) -> None:
        """A thousand lists within each other do not exhaust our stack."""
        with pytest.raises(DecodeError, match="not readable"):
            decode(b"\x91" * 100_000)


class TestVersion:
    """Every version can at least be recognized."""

    @pytest.mark.parametrize("rest", [[], [None, None, b"payload"], [{}, "of", "another", b"shape"]])
    def test_a_newer_one(self, rest: list[Any]) -> None:
        """It is named, whatever follows the number, so that a worker can leave it to a newer one."""
        with pytest.raises(UnsupportedVersion, match=r"has version 99; this queuelib reads version 1"):
            decode(msgpack.packb([99, *rest]))


class TestContradictions:
    """A header that cannot be true is refused here, so that no crash follows later."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", b"short"),
            ("id", b"x" * 17),
            ("size", 0),
            ("size", -1),
            ("size", MAX_JOBS + 1),
            ("attempt", 0),
            ("attempt", 2**63),
            ("deaths", -1),
            ("deaths", 2**63),
            ("retries", -1),
            ("retries", 2**64 - 1),
            ("indexes", []),
            ("indexes", [0, 1]),
            ("indexes", [0, 1, 3]),
            ("indexes", [0, 2, 1]),
            ("indexes", [0, 1, 1]),
            ("indexes", [-1, 0, 1]),
            ("indexes", [0, True, 2]),
            ("indexes", ["0", "1", "2"]),
            ("size", 2),
            ("size", True),
            ("submitted", None),
            ("task", b"bytes"),
        ],
    )
    def test_a_field_out_of_range(self, field: str, value: Any) -> None:
        """Counts, indexes and ids that no submitter writes are refused."""
        with pytest.raises(DecodeError):
            decode(with_field(field, value))

    @pytest.mark.parametrize(
        "field", ["submitted", "due", "expires", "timeout", "hard_timeout", "backoff", "max_backoff"]
    )
    def test_a_time_is_finite(self, field: str) -> None:
        """A timer that never rings, or one that breaks the comparison of times, is refused."""
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(DecodeError, match="finite"):
                decode(with_field(field, value))

    @pytest.mark.parametrize("field", ["timeout", "hard_timeout", "backoff", "max_backoff"])
    def test_a_limit_is_not_negative(self, field: str) -> None:
        """The clock of a limit never runs backwards."""
        with pytest.raises(DecodeError):
            decode(with_field(field, -0.5))

    def test_a_part_of_nothing(self) -> None:
        """A bundle without a job is refused: acknowledged or set aside, it would name no job."""
        header, _ = parts()
        header[FIELDS.index("indexes")] = []
        with pytest.raises(DecodeError):
            decode(frame_of(header, []))

    @pytest.mark.parametrize("count", [13, 15])
    def test_the_number_of_fields(self, count: int) -> None:
        """A header with a field more or less is not of this version."""
        header, column = parts()
        with pytest.raises(DecodeError, match="the header has not the 14 fields of version 1"):
            decode(frame_of([*header, 0][:count], column))

    def test_the_message_names_the_field(self) -> None:
        """Whoever looks into the quarantine learns what is wrong."""
        with pytest.raises(DecodeError, match="field 3 of the header has the type str"):
            decode(with_field("size", "3"))


class TestSize:
    """A message has 16 MiB at the most."""

    def test_too_large_to_send(self) -> None:
        """The error names the task and says what to do instead."""
        with pytest.raises(
            TooLarge, match=r"for 'lab\.work' has 16,777,\d{3} bytes; at most 16,777,216 fit.*Pass a path"
        ):
            encode(make_bundle(arguments=[bytes(MAX_MESSAGE_BYTES)]))

    def test_the_largest(self) -> None:
        """What may be sent can be read."""
        bundle = make_bundle(arguments=[bytes(MAX_MESSAGE_BYTES - 200)])
        assert normal(decode(encode(bundle))) == normal(bundle)

    def test_too_large_to_read(self) -> None:
        """Larger ones are not even parsed."""
        with pytest.raises(DecodeError, match="at most 16,777,216 are read"):
            decode(bytes(MAX_MESSAGE_BYTES + 1025))

    def test_a_forged_count_allocates_nothing(self) -> None:
        """A list that claims four billion elements is refused by its claim."""
        with pytest.raises(DecodeError, match="not readable"):
            decode(b"\xdd\xff\xff\xff\xff")
