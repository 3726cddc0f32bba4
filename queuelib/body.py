"""What a record's opaque bytes hold: the task's name, and the encoded result, the error, or a reason.

An error crosses as text and plain arguments. Which type it is raised as is decided by the reader alone, from a fixed
list of builtin exceptions and what the reader registered: nothing on the wire is imported or built by name.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import msgpack

from queuelib import codec, seal
from queuelib.context import Progress
from queuelib.errors import (
    DecodeError,
    InputError,
    JobLost,
    PickleRefused,
    RemoteError,
    RemoteTraceback,
    Shutdown,
    SoftTimeLimit,
)
from queuelib.outcome import Record

__all__ = ["Body", "of_error", "of_result", "of_results", "read", "rebuild", "singles"]

_packb = cast("Callable[..., bytes]", msgpack.packb)  # which says that it may return None, and never does
_LIST, _FIELDS_OF_RESULT, _FIELDS_OF_ERROR = 0x90, 4, 6  # msgpack's mark of a short list, and how long ours are
_MOST_COUNT_BYTES = 9  # of the longest integer
_MAX_TEXT = 64 * 1024  # of a traceback or message; both ends of a longer one are kept
_RAISED_AS_THEMSELVES: Mapping[str, type[Exception]] = {
    cls.__name__: cls
    for cls in (
        ArithmeticError, AssertionError, AttributeError, BufferError, ConnectionError, ConnectionAbortedError,
        ConnectionRefusedError, ConnectionResetError, BrokenPipeError, EOFError, FileExistsError, FileNotFoundError,
        FloatingPointError, ImportError, IndexError, InterruptedError, IsADirectoryError, KeyError, LookupError,
        MemoryError, ModuleNotFoundError, NameError, NotADirectoryError, NotImplementedError, OSError, OverflowError,
        PermissionError, ProcessLookupError, RecursionError, ReferenceError, RuntimeError, StopIteration,
        StopAsyncIteration, TimeoutError, TypeError, UnboundLocalError, UnicodeError, ValueError, ZeroDivisionError,
    )
}  # fmt: skip
_OURS: Mapping[str, type[Exception]] = {
    f"queuelib.errors.{cls.__name__}": cls for cls in (InputError, JobLost, PickleRefused, SoftTimeLimit)
}


@dataclass(frozen=True, slots=True)
class Body:
    """A record's bytes, read.

    Attributes:
        task: Wire name of the task.
        ran_by: Worker and process that ran it, `name/pid`; empty if none did.
        seconds: How long the handler ran; the mean where the record tells of several jobs.
        result: The encoded result of a success, or the encoded list of several.
        type_name: Name of the exception's class, with its module unless builtin.
        message: The exception's text, or why the job was set aside.
        arguments: The exception's arguments, encoded; empty if they could not be.
        traceback_text: The worker's traceback.
    """

    task: str = ""
    ran_by: str = ""
    seconds: float = 0.0
    result: bytes = b""
    type_name: str = ""
    message: str = ""
    arguments: bytes = b""
    traceback_text: str = ""


def of_result(task: str, result: bytes, ran_by: str = "", seconds: float = 0.0) -> bytes:
    """Return the body of a success.

    Args:
        task: Wire name of the task.
        result: The encoded result.
        ran_by: Worker and process.
        seconds: How long the handler ran.
    """
    return _packb((task, ran_by, seconds, result))


def of_results(task: str, results: Sequence[bytes], ran_by: str = "", seconds: float = 0.0) -> bytes:
    """Return the body of a record of several successes: their results as one encoded list.

    Args:
        task: Wire name of the task.
        results: Two encoded results or more.
        ran_by: Worker and process.
        seconds: How long the handler ran, in the mean.
    """
    return of_result(task, codec.encoded_list(results), ran_by, seconds)


def singles(record: Record) -> list[Record]:
    """Return a record of several successes as one record a job, for whoever cannot keep it whole.

    Raises:
        DecodeError: Its body does not hold as many results.
    """
    if record.count == 1:
        return [record]
    if seal.is_sealed(record.body):
        return seal.parts(record)
    task, ran_by, seconds, results = _success(record.body)
    columns = codec.split_list(results, record.count)
    return [
        Record(key, record.state, record.attempt, of_result(task, result, ran_by, seconds), record.at)
        for key, result in zip(record.keys, columns, strict=True)
    ]


def _success(data: bytes) -> tuple[str, str, float, bytes]:
    found = read(data)
    return found.task, found.ran_by, found.seconds, found.result


def of_error(task: str, error: BaseException, ran_by: str = "", *, skip_frames: int = 0) -> bytes:
    """Return the body of a failure.

    Args:
        task: Wire name of the task.
        error: What was raised.
        ran_by: Worker and process.
        skip_frames: Frames at the top of the traceback that are ours and tell the user nothing.
    """
    frame = error.__traceback__
    for _ in range(skip_frames):
        frame = frame.tb_next if frame is not None and frame.tb_next is not None else frame
    try:
        text = "".join(traceback.format_exception(type(error), error, frame))
        message = str(error)
    except BaseException as failure:  # noqa: BLE001 - __str__ of a foreign exception may do anything
        text = message = f"(its text could not be made: {type(failure).__name__})"
    try:
        arguments = codec.encode(_arguments(error))
    except Shutdown:
        raise
    except BaseException:  # noqa: BLE001 - they cannot travel, or their own methods raise while they are encoded
        arguments = b""
    if len(arguments) > _MAX_TEXT:
        arguments = b""
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return of_failure(task, name, message, arguments, text, ran_by)


def of_failure(  # noqa: PLR0917 - the fields of the wire, in order
    task: str, type_name: str, message: str, arguments: bytes = b"", traceback_text: str = "", ran_by: str = ""
) -> bytes:
    """Return the body of a failure that is known by its texts."""
    fields = (task, ran_by, type_name[:1024], _cut(message), arguments, _cut(traceback_text))
    return _packb(fields, unicode_errors="backslashreplace")


def of_loss(task: str, how: str) -> bytes:
    """Return the body of a job that must not start again, with what became of its only start."""
    text = f"{how}; its task is at_most_once, so it does not start again"
    return of_failure(task, f"{JobLost.__module__}.{JobLost.__name__}", text)


def read(data: bytes) -> Body:
    """Return what a record's bytes hold; a signature is not looked at here, but in `queuelib.sealed`.

    Raises:
        CannotDecrypt: They are encrypted, and there was no key to open them with.
        DecodeError: They were not written by queuelib.
    """
    data = seal.without_seal(data) if seal.is_sealed(data) else data
    try:
        if not data:
            return Body()
        reads_result, reads_error = _readers()
        fields = (reads_result if data[0] == _LIST | _FIELDS_OF_RESULT else reads_error).decode(data)
    except (ValueError, RecursionError) as error:
        msg = f"a stored outcome is not readable, or has not the fields of a result or an error: {error}"
        raise DecodeError(msg) from error
    if len(fields) == _FIELDS_OF_RESULT:
        return Body(*fields)
    task, ran_by, type_name, message, arguments, text = fields
    return Body(task, ran_by, 0.0, b"", type_name, message, arguments, text)


@lru_cache(maxsize=1)
def _readers() -> tuple[Any, Any]:
    """Return what reads a result, and what reads an error; neither makes anything that is not in their fields."""
    from msgspec.msgpack import Decoder  # noqa: PLC0415 - unneeded by a program that reads no results

    return Decoder(tuple[str, str, float, bytes]), Decoder(tuple[str, str, str, str, bytes, str])


def rebuild(body: Body, registered: Mapping[str, type[Exception]]) -> Exception:
    """Return the exception to raise for a failure, with the worker's traceback as its cause.

    Args:
        body: The failure.
        registered: Further exception classes the reader allows, by `module.qualname`.
    """
    cls = _RAISED_AS_THEMSELVES.get(body.type_name) or registered.get(body.type_name) or _OURS.get(body.type_name)
    error: Exception | None = None
    if cls is not None:
        error = _instance(cls, body)
    if error is None:
        name = body.type_name.rpartition(".")[2]
        error = RemoteError(
            f"{name}: {body.message}" if name else body.message,
            type_name=body.type_name,
            traceback_text=body.traceback_text,
        )
    if body.traceback_text:
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(body.traceback_text))  # a class may have its own
    return error


def _instance(cls: type[Exception], body: Body) -> Exception | None:
    arguments: Any = [body.message]
    if body.arguments:
        try:
            arguments = codec.decode(body.arguments)
        except DecodeError:
            arguments = [body.message]
    try:
        error: Any = cls(*arguments) if isinstance(arguments, list) else cls(body.message)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a registered class may refuse these arguments in any way
        return None
    return cast("Exception", error) if issubclass(type(error), Exception) else None  # its __new__ may return anything


def _arguments(error: BaseException) -> list[Any]:
    if isinstance(error, OSError) and len(error.args) == 2 and error.filename is not None:  # noqa: PLR2004 - errno, text
        names = [error.filename] if error.filename2 is None else [error.filename, None, error.filename2]
        return [*error.args, *names]  # OSError takes the files' names and does not show them among its arguments
    return list(error.args)


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"


def of_progress(progress: Progress) -> bytes:
    """Return progress as the bytes of a memo."""
    return _packb(tuple(progress), unicode_errors="backslashreplace")


def progress_in(data: bytes) -> Progress:
    """Return the progress in a memo.

    Raises:
        DecodeError: It was not written by queuelib.
    """
    try:
        fields = codec.decode_fields(data)
    except (ValueError, RecursionError) as error:
        msg = f"stored progress is not readable: {error}"
        raise DecodeError(msg) from error
    match fields:
        case [int() | float() as done, int() | float() | None as total, str(message), int() | float() as at]:
            return Progress(done, total, message, at)
        case _:
            msg = "stored progress has not the fields of progress"
            raise DecodeError(msg)


def of_starts(count: int) -> bytes:
    """Return the body of a start mark: how often a job was started so far without an outcome."""
    return _packb(count)


def starts_in(data: bytes) -> int:
    """Return the count in a start mark: 0 where there is none, 1 where it cannot be read or is not a sane number."""
    if not data:
        return 0
    try:
        data = seal.without_seal(data) if seal.is_sealed(data) else data
        count = msgpack.unpackb(data) if len(data) <= _MOST_COUNT_BYTES else None
    except ValueError:
        return 1
    return count if type(count) is int and 0 <= count < 1000 else 1  # noqa: PLR2004 - far beyond any limit of deaths
