"""The wire form of a bundle: what is written is read again, and nothing else is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib.envelope import MAX_JOBS, VERSION, decode, encode
from queuelib.errors import DecodeError, TooLarge, UnsupportedVersion
from queuelib.message import Limits
from queuelib.settings import MAX_MESSAGE_BYTES
from tests.unit.fakes import bundles, make_bundle, quick

if TYPE_CHECKING:
    from queuelib.message import Bundle

FIELDS = ("call", "id", "size", "indexes", "submitted", "due", "expires", "attempt", "deaths", "trace", "column")
CALL = ("task", "color", "schema", "limits", "reply")
LIMITS = ("timeout", "hard_timeout", "retries", "backoff", "max_backoff")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=4) | st.just("x"),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def normal(bundle: Bundle) -> Bundle:
    """Return the bundle with indexes that compare as a list."""
    return bundle._replace(indexes=list(bundle.indexes))


def fields_of(bundle: Bundle | None = None) -> list[Any]:
    """Return the payload's fields of a bundle, of three jobs unless given, to be damaged; the call is opened."""
    fields: list[Any] = msgpack.unpackb(msgpack.unpackb(encode(bundle or make_bundle(3)))[3])
    fields[0] = msgpack.unpackb(fields[0])
    return fields


def frame_of(fields: list[Any]) -> bytes:
    """Return the envelope of a payload whose call is opened."""
    return frame_around(msgpack.packb([msgpack.packb(fields[0]), *fields[1:]]))


def frame_around(payload: bytes) -> bytes:
    """Return the envelope of any payload."""
    frame: bytes = msgpack.packb((VERSION, None, None, payload))
    return frame


def with_field(name: str, value: Any, bundle: Bundle | None = None) -> bytes:
    """Return the envelope of a bundle, of three jobs unless given, with one field changed."""
    fields = fields_of(bundle)
    if name in LIMITS:
        fields[0][CALL.index("limits")][LIMITS.index(name)] = value
    elif name in CALL:
        fields[0][CALL.index(name)] = value
    else:
        fields[FIELDS.index(name)] = value
    return frame_of(fields)


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
        assert fields_of(make_bundle(5))[FIELDS.index("indexes")] is None
        assert decode(encode(make_bundle(5))).indexes == range(5)

    def test_the_arguments_stay_encoded(self) -> None:
        """Reading an envelope counts the argument lists and does not read them, whatever they hold."""
        unreadable = b"\x92\xc1 not msgpack"
        assert decode(encode(make_bundle(2, column=unreadable))).column == unreadable

    def test_what_bundles_of_a_call_share_is_the_same_bytes(self) -> None:
        """Whoever reads many of them need check it only once."""
        one = make_bundle(3, color="red", limits=Limits(retries=2), reply="inbox.7")
        calls = {
            msgpack.unpackb(msgpack.unpackb(encode(bundle))[3])[0]
            for bundle in (one, one._replace(id=bytes(16), submitted=5.0, attempt=2, due=6.0, deaths=1))
        }
        assert [msgpack.unpackb(call) for call in calls] == [
            ["lab.work", "red", b"", [None, None, 2, 1.0, 600.0], "inbox.7"]
        ]

    @quick
    @given(first=bundles(), second=bundles())
    def test_one_after_the_other(self, first: Bundle, second: Bundle) -> None:
        """What was checked for one bundle is not taken for that of another."""
        assert [normal(decode(encode(bundle))) for bundle in (first, second, first)] == [
            normal(bundle) for bundle in (first, second, first)
        ]


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
    @given(bundle=bundles(), field=st.sampled_from([*FIELDS, *CALL, *LIMITS]), value=PLAIN)
    def test_mutated_fields(self, bundle: Bundle, field: str, value: Any) -> None:
        """An envelope with any value in any field is refused or is another bundle."""
        read_or_refuse(with_field(field, value, bundle))

    @quick
    @given(bundle=bundles(), data=st.data())
    def test_truncated(self, bundle: Bundle, data: st.DataObject) -> None:
        """No beginning of a frame is a frame."""
        frame = encode(bundle)
        with pytest.raises(DecodeError):
            decode(frame[: data.draw(st.integers(0, len(frame) - 1))])

    def test_something_behind_it(self) -> None:
        """Two frames in one message are refused."""
        with pytest.raises(DecodeError, match="the envelope is not readable: .*trailing characters"):
            decode(encode(make_bundle()) * 2)

    @pytest.mark.parametrize(
        "value", [[], {}, 1, "x", [None], [True, None, None, b""], ["1", None, None, b""], [1, None, None, "text"], [1]]
    )
    def test_not_the_four_parts(self, value: Any) -> None:
        """Lists of another shape, and what is no list, are refused."""
        with pytest.raises(DecodeError, match="envelope"):
            decode(msgpack.packb(value))

    @pytest.mark.parametrize("value", [1, None, {}, [], [1], "text"])
    def test_not_a_payload(self, value: Any) -> None:
        """A payload of another shape is refused."""
        with pytest.raises(DecodeError, match="the payload "):
            decode(frame_around(msgpack.packb(value)))

    @pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x9b"])
    def test_not_even_msgpack(self, payload: bytes) -> None:
        """A payload that is cut off or no msgpack is refused."""
        with pytest.raises(DecodeError, match="the payload is not readable"):
            decode(frame_around(payload))

    @pytest.mark.parametrize(
        "call", [b"", b"\xc1", b"\x95", msgpack.packb(1), msgpack.packb([1]), msgpack.packb([]) * 2]
    )
    def test_not_a_call(self, call: bytes) -> None:
        """What the bundles of a call share is refused in another shape, again and again."""
        frame = frame_around(msgpack.packb([call, *fields_of()[1:]]))
        for _ in range(2):
            with pytest.raises(DecodeError, match="the call "):
                decode(frame)

    @pytest.mark.parametrize("column", [None, {}, "text", [1, 2, 3], [b"", b"", b""]])
    def test_a_column_of_another_type(self, column: Any) -> None:
        """The column is one byte string."""
        with pytest.raises(DecodeError, match="field 10 of the payload has the type"):
            decode(with_field("column", column))

    @pytest.mark.parametrize(
        "column",
        [
            b"",
            b"\x01",
            b"\x92\x90\x90",
            b"\x94\x90\x90\x90\x90",
            b"\xdc",
            b"\xdc\x00",
            b"\xdd\xff\xff\xff\xff",
            b"\x83",
        ],
    )
    def test_a_column_of_another_length(self, column: bytes) -> None:
        """It is a list of as many argument lists as jobs travel."""
        with pytest.raises(DecodeError, match="3 indexes and a column of -?[0-9]+ argument lists"):
            decode(with_field("column", column))

    def test_deep_nesting(self) -> None:
        """A thousand lists within each other do not exhaust our stack."""
        with pytest.raises(DecodeError, match="not readable"):
            decode(b"\x91" * 100_000)


class TestVersion:
    """Every version can at least be recognized."""

    @pytest.mark.parametrize("rest", [[], [None, None, b"payload"], [{}, "of", "another", b"shape"]])
    def test_a_newer_one(self, rest: list[Any]) -> None:
        """It is named, whatever follows the number, so that a worker can leave it to a newer one."""
        with pytest.raises(UnsupportedVersion, match=r"has version 99; this queuelib reads versions 2 to 4"):
            decode(msgpack.packb([99, *rest]))

    def test_an_older_one(self) -> None:
        """The first version had all fields in one header, and is named as well."""
        header = [
            bytes(16),
            "lab.work",
            "red",
            1,
            None,
            b"",
            [None, None, 0, 1.0, 600.0],
            0.0,
            None,
            None,
            1,
            0,
            "",
            b"",
        ]
        with pytest.raises(UnsupportedVersion, match=r"has version 1; this queuelib reads versions 2 to 4"):
            decode(msgpack.packb([1, None, None, msgpack.packb([header, [b"\x90"]])]))


class TestContradictions:
    """An envelope that cannot be true is refused here, so that no crash follows later."""

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
        fields = fields_of()
        fields[FIELDS.index("indexes")] = []
        fields[FIELDS.index("column")] = b"\x90"
        with pytest.raises(DecodeError):
            decode(frame_of(fields))

    @pytest.mark.parametrize("count", [10, 12])
    def test_the_number_of_fields(self, count: int) -> None:
        """A payload with a field more or less is not of this version."""
        with pytest.raises(DecodeError, match="the payload has not the 11 fields of version 2"):
            decode(frame_of([*fields_of(), 0][:count]))

    @pytest.mark.parametrize("count", [4, 6])
    def test_the_number_of_fields_of_a_call(self, count: int) -> None:
        """And so is a call, or its limits."""
        fields = fields_of()
        with pytest.raises(DecodeError, match="the call has not the 5 fields of version 2"):
            decode(frame_of([[*fields[0], ""][:count], *fields[1:]]))
        with pytest.raises(DecodeError, match="the limits has not the 5 fields of version 2"):
            decode(with_field("limits", [*fields[0][3], 0][:count]))

    @pytest.mark.parametrize("field", ["task", "color", "reply"])
    def test_a_text_of_the_call_is_unicode(self, field: str) -> None:
        """A lone surrogate is none: a retry of the job, or what is set aside, could not be written with it."""
        fields = fields_of()
        fields[0][CALL.index(field)] = "a\ud800"
        call = msgpack.packb(fields[0], unicode_errors="surrogatepass")
        with pytest.raises(DecodeError, match="not Unicode"):
            decode(frame_around(msgpack.packb([call, *fields[1:]])))

    def test_the_message_names_the_field(self) -> None:
        """Whoever looks into the quarantine learns what is wrong."""
        with pytest.raises(DecodeError, match="field 2 of the payload has the type str"):
            decode(with_field("size", "3"))
        with pytest.raises(DecodeError, match="field 1 of the call has the type int"):
            decode(with_field("color", 3))
        with pytest.raises(DecodeError, match="field 3 of the limits has the type bytes"):
            decode(with_field("backoff", b"3"))

    def test_a_truth_value_is_no_number(self) -> None:
        """Also where a number of its value was read before."""
        for field in ("size", "attempt", "deaths", "submitted", "due", "retries", "timeout"):
            bundle = make_bundle(1, submitted=1, due=1, deaths=1, limits=Limits(1, 1, 1, 1, 1))
            assert decode(with_field(field, 1, bundle)) == bundle
            with pytest.raises(DecodeError, match="has the type bool"):
                decode(with_field(field, True, bundle))  # noqa: FBT003 - a value on the wire


class TestSize:
    """A message has 16 MiB at the most."""

    def test_too_large_to_send(self) -> None:
        """The error names the task and says what to do instead."""
        with pytest.raises(
            TooLarge, match=r"for 'lab\.work' has 16,777,\d{3} bytes; at most 16,777,216 fit.*Pass a path"
        ):
            encode(make_bundle(column=bytes(MAX_MESSAGE_BYTES)))

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
