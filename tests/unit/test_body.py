"""What a record's bytes hold, and as what an error is raised by the reader."""

from __future__ import annotations

import builtins
import importlib
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuelib import body, codec
from queuelib.body import Body
from queuelib.errors import DecodeError, RemoteError, RemoteTraceback, SoftTimeLimit
from queuelib.ids import Key
from queuelib.outcome import SUCCEEDED, Record
from tests.unit.fakes import LETTERS, quick

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = st.text(LETTERS, max_size=30)


class LabError(Exception):
    """An exception of a user."""


class TwoError(Exception):
    """An exception whose constructor does not take its own text."""

    def __init__(self, code: int, *, unit: str) -> None:
        super().__init__(f"{code} {unit}")


class MuteError(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError


LAB = f"{LabError.__module__}.{LabError.__qualname__}"


def raised(error: BaseException) -> BaseException:
    """Return the error with the traceback of having been raised."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - whatever was given
        return caught


def across(error: BaseException, registered: dict[str, type[Exception]] | None = None) -> Exception:
    """Return the exception that the reader raises for one that a handler raised."""
    return body.rebuild(body.read(body.of_error("lab.work", raised(error), "w1/7")), registered or {})


class TestResult:
    """The body of a success."""

    @quick
    @given(task=TEXTS, result=st.binary(max_size=20), ran_by=TEXTS)
    def test_it_comes_back(self, task: str, result: bytes, ran_by: str) -> None:
        """Task, encoded result and who ran it."""
        assert body.read(body.of_result(task, result, ran_by)) == Body(task, ran_by, 0.0, result)

    def test_no_bytes(self) -> None:
        """A state without a body has nothing to say."""
        assert body.read(b"") == Body()


class TestForeignBytes:
    """What queuelib did not write."""

    @quick
    @given(data=st.binary(min_size=1, max_size=40))
    def test_any_bytes(self, data: bytes) -> None:
        """They are a body or a DecodeError, and never another error."""
        try:
            found = body.read(data)
        except DecodeError as error:
            assert re.search("a stored outcome|a signed body", str(error))  # noqa: PT017 - either is right
        else:
            assert isinstance(body.rebuild(found, {}), Exception)

    @pytest.mark.parametrize(
        "fields",
        [1, [], ["t"], ["t", "w"], ["t", "w", "text"], ["t", "w", b"", b""], ["t", "w", "n", "m", "a", "tb"], {}],
    )
    def test_other_fields(self, fields: Any) -> None:
        """Lists of another shape are refused."""
        with pytest.raises(DecodeError, match="has not the fields of a result or an error"):
            body.read(msgpack.packb(fields))


class TestBuiltin:
    """Builtin exceptions are raised as themselves."""

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("not", 3, 0.5),
            KeyError("genome"),
            ZeroDivisionError("division by zero"),
            TypeError(),
            FileNotFoundError(2, "No such file", "x.csv"),
            TimeoutError("late"),
            NotImplementedError(None),
            UnicodeError("odd"),
            MemoryError(),
            RecursionError("deep"),
            StopIteration(1),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_type_arguments_and_cause(self, error: Exception) -> None:
        """The type is the same and no subclass, the arguments too, and the worker's traceback is the cause."""
        rebuilt = across(error)
        assert type(rebuilt) is type(error)
        assert rebuilt.args == error.args
        assert str(rebuilt) == str(error)
        assert isinstance(rebuilt.__cause__, RemoteTraceback)
        assert "raise error" in str(rebuilt.__cause__)

    def test_operating_system_errors_keep_their_fields(self) -> None:
        """Number, text and file name are there again."""
        rebuilt = across(FileNotFoundError(2, "No such file", "x.csv"))
        assert isinstance(rebuilt, FileNotFoundError)
        assert (rebuilt.errno, rebuilt.strerror, rebuilt.filename) == (2, "No such file", "x.csv")
        moved = across(OSError(18, "Cross-device link", "a", None, "b"))
        assert str(moved) == "[Errno 18] Cross-device link: 'a' -> 'b'"

    @quick
    @given(arguments=st.lists(TEXTS | st.integers() | st.none() | st.binary(max_size=5), max_size=3))
    def test_any_plain_arguments(self, arguments: list[Any]) -> None:
        """They travel as values and not as text."""
        rebuilt = across(ValueError(*arguments))
        assert type(rebuilt) is ValueError
        assert list(rebuilt.args) == arguments

    def test_arguments_that_cannot_travel(self) -> None:
        """The text stands in for them."""
        rebuilt = across(ValueError(object))
        assert type(rebuilt) is ValueError
        assert rebuilt.args == (str(object),)

    def test_arguments_that_raise_while_they_are_encoded(self) -> None:
        """The text stands in for them, too: an error about an error would be the end of the child."""

        @dataclass
        class Unset:
            value: int = field(init=False, repr=False)

        assert across(ValueError(Unset())).args == (str(Unset()),)

    def test_arguments_that_are_too_large(self) -> None:
        """A megabyte in an exception is cut to its beginning and end."""
        rebuilt = across(ValueError("a" * 500_000 + "z" * 500_000))
        assert len(str(rebuilt)) < 70_000
        assert str(rebuilt).startswith("aaa")
        assert str(rebuilt).endswith("zzz")
        assert "934,464 characters left out" in str(rebuilt)

    def test_our_own_time_limit(self) -> None:
        """A handler that ran too long raises the same at the client."""
        assert type(across(SoftTimeLimit("too long"))) is SoftTimeLimit

    @pytest.mark.parametrize(
        "cls",
        [
            cls
            for cls in vars(builtins).values()
            if isinstance(cls, type) and issubclass(cls, BaseException) and not issubclass(cls, Exception)
        ],
    )
    def test_what_ends_a_process_is_never_raised(self, cls: type[BaseException]) -> None:
        """SystemExit, KeyboardInterrupt and the like come as a RemoteError, under whichever name they are written."""
        for name in (cls.__name__, f"builtins.{cls.__name__}"):
            rebuilt = body.rebuild(body.read(body.of_failure("lab.work", name, "stop")), {})
            assert type(rebuilt) is RemoteError
            assert (rebuilt.type_name, str(rebuilt)) == (name, f"{cls.__name__}: stop")


class ExitsHere(Exception):
    """An exception whose class ends the program that makes it again."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if args == ("again",):
            raise SystemExit(3)


class NoError(Exception):
    """An exception whose class makes something else."""

    def __new__(cls, *args: object) -> Any:
        """Return a number for a text."""
        return 7 if args == ("again",) else super().__new__(cls, *args)


class Locked(Exception):
    """An exception that lets nobody set anything."""

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


class TestHarmfulClasses:
    """Registered classes whose own code does harm at the reader."""

    @pytest.mark.parametrize("cls", [ExitsHere, NoError])
    def test_they_are_not_made(self, cls: type[Exception]) -> None:
        """What is raised is an Exception, whatever they do."""
        name = f"{cls.__module__}.{cls.__qualname__}"
        failure = body.of_failure("lab.work", name, "again", codec.encode(["again"]), "a traceback")
        rebuilt = body.rebuild(body.read(failure), {name: cls})
        assert type(rebuilt) is RemoteError
        assert isinstance(rebuilt.__cause__, RemoteTraceback)

    def test_the_cause_is_set_in_any_case(self) -> None:
        """Whatever their `__setattr__` does."""
        rebuilt = across(Locked("x"), {f"{Locked.__module__}.{Locked.__qualname__}": Locked})
        assert type(rebuilt) is Locked
        assert isinstance(rebuilt.__cause__, RemoteTraceback)


class TestForeign:
    """Exceptions of users."""

    def test_an_unknown_type(self) -> None:
        """It is a RemoteError that carries the type's name, its text and the worker's traceback."""
        rebuilt = across(LabError("no more mice", 3))
        assert type(rebuilt) is RemoteError
        assert rebuilt.type_name == LAB
        assert str(rebuilt) == "LabError: ('no more mice', 3)"
        assert "test_body.py" in rebuilt.traceback_text
        assert str(rebuilt.__cause__) == f"\n{rebuilt.traceback_text}"

    def test_a_registered_type(self) -> None:
        """It is raised as itself, with its arguments."""
        rebuilt = across(LabError("no more mice", 3), {LAB: LabError})
        assert type(rebuilt) is LabError
        assert rebuilt.args == ("no more mice", 3)
        assert isinstance(rebuilt.__cause__, RemoteTraceback)

    def test_a_registered_type_that_refuses_its_arguments(self) -> None:
        """A constructor that raises leaves a RemoteError."""
        rebuilt = across(TwoError(3, unit="mice"), {f"{TwoError.__module__}.TwoError": TwoError})
        assert type(rebuilt) is RemoteError
        assert str(rebuilt) == "TwoError: 3 mice"

    def test_a_text_that_cannot_be_made(self) -> None:
        """An exception whose own methods raise is still a failure with a body."""
        rebuilt = across(MuteError())
        assert type(rebuilt) is RemoteError
        assert "RuntimeError" in str(rebuilt)

    def test_text_that_is_no_unicode(self) -> None:
        """Half a character, as the names of files may hold, is written as an escape."""
        assert str(across(ValueError("caf\udce9"))) in {"caf\udce9", "caf\\udce9"}
        assert body.read(body.of_failure("t", "E", "caf\udce9")).message == "caf\\udce9"

    def test_frames_of_ours_are_left_out(self) -> None:
        """The traceback begins with the user's own frames; more skips than frames leave the last one."""

        def ours(call: Callable[[], None]) -> None:
            call()

        def users() -> None:
            message = "here"
            raise ValueError(message)

        with pytest.raises(ValueError, match="here") as caught:
            ours(users)
        texts = [body.read(body.of_error("t", caught.value, skip_frames=n)).traceback_text for n in (0, 2, 99)]
        assert ["in ours" in text for text in texts] == [True, False, False]
        assert all("in users" in text for text in texts)


class TestLies:
    """Nothing on the wire is imported or built by name."""

    @pytest.mark.parametrize(
        "name",
        ["antigravity.Flight", "os.system", "subprocess.Popen", "builtins.eval", "eval", "object", "", ".", "a.b.c"],
    )
    def test_a_name_is_never_imported(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """A lying type name is text in a RemoteError, and no module is loaded for it."""

        def refuse(*_: object, **__: object) -> None:
            pytest.fail("something was imported")

        data = body.of_failure("lab.work", name, "boo", codec.encode(["touch /tmp/x"]), "Traceback: none")
        body.read(data)  # the first one of a process imports what reads
        modules = set(sys.modules)
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", refuse)
            patch.setattr(builtins, "__import__", refuse)
            rebuilt = body.rebuild(body.read(data), {})
        assert type(rebuilt) is RemoteError
        assert rebuilt.type_name == name
        assert set(sys.modules) == modules

    @quick
    @given(name=TEXTS, message=TEXTS, arguments=st.binary(max_size=12), text=TEXTS)
    def test_any_failure_can_be_raised(self, name: str, message: str, arguments: bytes, text: str) -> None:
        """Whatever a failure claims to be, rebuilding it gives an Exception and raises none."""
        known = [name, "ValueError", "FileNotFoundError", "KeyError"]
        for claimed in known:
            data = body.of_failure("lab.work", claimed, message, arguments, text)
            assert isinstance(body.rebuild(body.read(data), {}), Exception)


class TestStarts:
    """How often a job was started without an outcome."""

    @pytest.mark.parametrize("count", [0, 1, 3, 999])
    def test_it_comes_back(self, count: int) -> None:
        """A count is read as it was written."""
        assert body.starts_in(body.of_starts(count)) == count

    @quick
    @given(data=st.binary(max_size=12))
    def test_any_bytes(self, data: bytes) -> None:
        """Other bytes are a sane count or none."""
        assert 0 <= body.starts_in(data) < 1000

    @pytest.mark.parametrize("value", [-1, 1000, True, 1.0, "1", [1], {"a": 1}, None])
    def test_no_count(self, value: Any) -> None:
        """What is not a sane number counts for one start: there may have been one, and nobody can have a job set aside."""
        assert body.starts_in(msgpack.packb(value)) == 1


class _Rude(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_an_error_whose_text_cannot_be_made() -> None:
    """Whatever its __str__ raises, it is told of."""
    data = body.read(body.of_error("lab.work", _Rude()))
    assert "_Rude" in data.type_name
    assert "KeyboardInterrupt" in data.message


class TestRecordsOfSeveral:
    """One record may tell of several successes in a row."""

    def test_singles_have_what_each_job_returned(self) -> None:
        """Cut apart, a column is the records that would have been written one by one."""
        results = [codec.encode(value) for value in (1, "two", [3.0], {"four": None})]
        record = Record(Key(b"b" * 16, 5), SUCCEEDED, 2, body.of_results("lab.work", results, "w1/7", 0.5), 9.0, 4)
        assert body.singles(record) == [
            Record(Key(b"b" * 16, 5 + at), SUCCEEDED, 2, body.of_result("lab.work", result, "w1/7", 0.5), 9.0)
            for at, result in enumerate(results)
        ]

    @pytest.mark.parametrize("count", [15, 16, 70_000])
    def test_long_columns_are_cut_too(self, count: int) -> None:
        """Each length of a list has a header of its own on the wire."""
        results = [codec.encode(value) for value in range(count)]
        data = codec.encoded_list(results)
        assert codec.decode(data) == list(range(count))
        assert codec.split_list(data, count) == results

    @pytest.mark.parametrize("data", [b"", b"\x92\x01", b"\x92\x01\x02\x03", b"\x91\x01", b"\xc1"])
    def test_forged_columns_are_refused(self, data: bytes) -> None:
        """Truncated, too long, of another length, or no list at all."""
        with pytest.raises(DecodeError):
            codec.split_list(data, 2)
