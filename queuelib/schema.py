"""Typed to plain and back: arguments and results checked against annotations, at the submitter and at the worker."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast
from uuid import UUID

import msgspec

from queuelib import codec
from queuelib.codec import StoredInside, list_length, split_list
from queuelib.context import place_of
from queuelib.errors import (
    ArgumentError,
    DecodeError,
    EncodeError,
    QueuelibError,
    RegistrationError,
    Shutdown,
    SoftTimeLimit,
)
from queuelib.handle import Shared
from queuelib.shown import words_of

__all__ = ["Call", "Schema", "SchemaMismatch", "as_message_class", "converted", "is_structured"]

_PARAMETER = inspect.Parameter
_OURS = (bytes, dt.datetime, dt.date, dt.time, dt.timedelta, Decimal, UUID)  # the codec has made them: no text does
_EXACT = (int, float, str, bytes, bool)  # a value of exactly this type needs no conversion
_UNFIT = (
    TypeError,
    OverflowError,
    NotImplementedError,
    AttributeError,
)  # msgspec's: odd annotations, huge or numpy numbers
_PLACE = re.compile(r" - at `(?:key(?P<key>[^`]*)` in `)?\$(?P<path>[^`]*)`$")
_FROM_OUTSIDE = (
    KeyboardInterrupt,
    Shutdown,
    SoftTimeLimit,
)  # they strike anywhere, and are not about what was done there
_NUMBERS = (int, float, bool)
_MISSING = object()


class SchemaMismatch(ArgumentError):
    """Arguments written for another shape of the task cannot be read as this one: a deploy changed it."""


class Call(NamedTuple):
    """The arguments of a function."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def as_message_class(cls: type) -> type:
    """Return a message class: a bare annotated class becomes a frozen dataclass, others stay what they are.

    Raises:
        RegistrationError: It has no annotations, or its instances do not know their class.
    """
    if typing.is_typeddict(cls):
        msg = f"{cls.__qualname__} is a TypedDict, whose instances are plain dicts: make the message a dataclass"
        raise RegistrationError(msg)
    if is_structured(cls):
        return cls
    if "__init__" in vars(cls):
        msg = f"{cls.__qualname__} has an __init__ of its own: make it a dataclass, or leave __init__ out"
        raise RegistrationError(msg)
    return dataclasses.dataclass(frozen=True)(cls)


class Schema:
    """The types of one task.

    Annotations are read on first use, so that they may name what a module defines later.

    Attributes:
        name: Wire name of the task, for messages.
        context: Where the function wants its context, which is no argument of a call; None if nowhere.
    """

    def __init__(self, name: str, *, function: Callable[..., Any] | None = None, cls: type | None = None) -> None:
        self.name = name
        self._function = function
        self._cls = cls
        self._parameters: list[inspect.Parameter] = []
        self.context = None if function is None else place_of(function)
        if function is not None:
            given = None if self.context is None else self.context.name
            parameters = inspect.signature(function).parameters.values()
            self._parameters = [parameter for parameter in parameters if parameter.name != given]
        self._is_ready = False
        self._hash = b""
        self._shown = ""
        self._types: list[Any] = []
        self._result: Any = _MISSING
        self._number: type | None = None  # of results, where they are all plain numbers
        self._exact: list[type | None] = []
        self._defaults: tuple[Any, ...] = ()
        self._is_plain = False  # every parameter can be given by position, and by nothing but its own place
        self._row_type: Any = None

    @classmethod
    def of_function(cls, function: Callable[..., Any], name: str = "") -> Schema:
        """Return the schema of a function's signature."""
        return cls(name or function.__qualname__, function=function)

    @classmethod
    def of_class(cls, message_class: type, name: str = "") -> Schema:
        """Return the schema of a message class."""
        return cls(name or message_class.__qualname__, cls=message_class)

    @property
    def hash(self) -> bytes:
        """Eight bytes that change with the shape of the arguments, the same on every Python version.

        The first four are of the parameters' names in their order, the last four of everything.
        """
        if not self._hash:
            self._hash = self._names_digest(len(self._parameters)) + _digest(self.describe())
        return self._hash

    def describe(self) -> str:
        """Return the shape of the arguments as text."""
        if not self._shown:  # once: a bundle of what does not fit says it for each job
            self._shown = self._describe()
        return self._shown

    def pack(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return a call's arguments as bytes: the values in the order of the signature.

        Defaults are filled in here, so that submitter and worker agree on them also while they differ in version.

        Raises:
            ArgumentError: Wrong count, names or types; the message has the path.
            EncodeError: A value cannot travel.
        """
        self._prepare()
        values = self._bind(args, kwargs)
        data = self._encode(values)
        for value, exact in zip(values, self._exact, strict=True):
            if exact is None or type(value) is not exact:
                return self._checked(data)
        return data

    def pack_around(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], replace: Callable[[object], bytes | None]
    ) -> bytes:
        """Return a call's arguments as bytes, of which some are not there yet.

        Args:
            args: Arguments by position.
            kwargs: Arguments by name.
            replace: Returns what is written for an argument instead of checking and encoding it, or None. It is asked in
                the order in which the arguments are written.

        Raises:
            ArgumentError: Wrong count, names or types; the message has the path.
            EncodeError: A value cannot travel.
        """
        self._prepare()
        items: list[bytes] = []
        for parameter, annotation, value in zip(self._parameters, self._types, self._bind(args, kwargs), strict=True):
            if parameter.kind is _PARAMETER.VAR_POSITIONAL:
                each = annotation.__args__[0]
                items.append(
                    codec.encoded_list([replace(one) or self._pack_one(one, each, parameter.name) for one in value])
                )
            else:
                items.append(replace(value) or self._pack_one(value, annotation, parameter.name))
        return codec.encoded_list(items)

    def _pack_one(self, value: Any, annotation: Any, name: str) -> bytes:
        try:
            data = codec.encode(value)
        except EncodeError as error:
            msg = f"{self.name}: {name}{str(error).removeprefix('value')}"
            raise type(error)(msg) from error
        if annotation is Any:
            return data
        converted, was_plain = self._convert(self._decode_own(data), annotation, name)
        return self._encode(converted) if was_plain else data

    def pack_rows(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        """Return calls by position as a column: the encoded list of their argument lists.

        Raises:
            ArgumentError, EncodeError: As for `pack`, of the first row that does not fit.
        """
        self._prepare()
        if self._is_plain and all(len(row) == len(self._exact) for row in rows):
            if all(exact and _are_all(exact, values) for exact, values in zip(self._exact, zip(*rows), strict=False)):  # noqa: B905
                return self._encode(rows, is_flat=True)
            try:
                data = self._encode(rows)
                self._convert_rows(self._decode_own(data))
            except _FROM_OUTSIDE:
                raise
            except BaseException:  # noqa: BLE001, S110 - classes may check themselves as they like
                pass  # the rows one by one say which it is, or turn numpy's values into plain ones
            else:
                return data
        return codec.encoded_list([self.pack(row, {}) for row in rows])

    def pack_message(self, message: object) -> bytes:
        """Return a message as bytes.

        Raises:
            ArgumentError: A field does not fit its annotation; the message has the path.
            EncodeError: A value cannot travel.
        """
        self._prepare()
        data = self._encode(message)
        loaded, was_plain = self._convert(self._decode_own(data), self._cls)
        return self._encode(loaded) if was_plain else data

    def pack_messages(self, messages: Sequence[object]) -> bytes:
        """Return messages as a column.

        Raises:
            ArgumentError, EncodeError: As for `pack_message`, of the first that does not fit.
        """
        return codec.encoded_list([self.pack_message(message) for message in messages])

    def load(self, data: bytes, schema_hash: bytes | None = None) -> Any:
        """Return the message, or the `Call`, that bytes hold.

        Args:
            data: What `pack` or `pack_message` returned, here or in another version of the program.
            schema_hash: Digest of the types there.

        Raises:
            DecodeError: The bytes are not readable.
            SchemaMismatch: They were written for another shape and cannot be read as this one.
            ArgumentError: They were written for this shape and do not fit; the message has the path.
        """
        self._prepare()
        return self._load_value(codec.decode(data), schema_hash)

    def _load_value(self, value: Any, schema_hash: bytes | None) -> Any:
        try:
            if self._cls is not None:
                return self._convert(value, self._cls)[0]
            if schema_hash is not None and schema_hash != self.hash:
                value = self._aligned(value, schema_hash)
            return self._as_call(self._convert_all(value)[0])
        except ArgumentError as error:
            if schema_hash is not None and schema_hash != self.hash:
                msg = f"{self.name} was submitted with another shape ({_shape(value)}) than it has here {self.describe()}: {error}"
                raise SchemaMismatch(msg) from error
            raise

    def load_column(self, column: bytes, schema_hash: bytes | None = None) -> list[Any]:
        """Return what each job of a column is called with.

        Args:
            column: The encoded list of what `pack` or `pack_message` returned.
            schema_hash: Digest of the types there.

        Returns:
            For each job a tuple of positional arguments, a `Call`, a message, or the error that `load` would raise.

        Raises:
            DecodeError: The column is not readable.
        """
        self._prepare()
        try:
            rows = codec.decode_list(column)
        except DecodeError:  # one that cannot be read here spoils none but itself
            return [self._or_error(self.load, row, schema_hash) for row in split_list(column, list_length(column))]
        if schema_hash is None or schema_hash == self.hash:
            try:
                if self._cls is not None:
                    return self._convert_messages(rows)
                if self._is_plain:
                    return self._convert_rows(rows)
            except Shutdown:
                raise
            except BaseException:  # noqa: BLE001, S110 - classes may check themselves as they like
                pass  # the jobs one by one say which it is
        return [self._or_error(self._load_value, value, schema_hash) for value in rows]

    def load_results(self, data: bytes) -> list[Any]:
        """Return the results in an encoded list of them, as the return annotation says.

        Raises:
            DecodeError, ArgumentError: As for `load_result`.
        """
        self._prepare()
        values = codec.decode_list(data)
        if self._result is _MISSING or _are_all(self._result, values):
            return values
        return [self._convert(value, self._result, "result")[0] for value in values]

    def _or_error(self, load: Callable[[Any, bytes | None], Any], value: Any, schema_hash: bytes | None) -> Any:
        try:
            return load(value, schema_hash)
        except StoredInside as error:
            error.data = value
            return error
        except QueuelibError as error:
            return error
        except Shutdown:
            raise
        except BaseException as error:  # noqa: BLE001 - classes may check themselves as they like
            made = ArgumentError(f"{self.name}: {words_of(error)}")
            made.__cause__ = error
            return made

    def _convert_rows(self, rows: Any) -> list[Any]:
        return cast(
            "list[Any]", msgspec.convert(rows, self._row_type, dec_hook=_from_plain, builtin_types=_OURS, strict=True)
        )

    def _convert_messages(self, rows: Any) -> list[Any]:
        wanted = list.__class_getitem__(self._cls)
        return cast("list[Any]", msgspec.convert(rows, wanted, dec_hook=_from_plain, builtin_types=_OURS))

    def _names_digest(self, count: int) -> bytes:
        return _digest(" ".join(parameter.name for parameter in self._parameters[:count]))

    def _aligned(self, values: Any, schema_hash: bytes) -> Any:
        """Return the values of another version of the program in the order of this one.

        Values travel by position, so they mean the same here only if the parameters had the same names in the same
        order; parameters that were added behind them take their defaults.
        """
        count = len(values) if isinstance(values, list) else -1
        if not 0 <= count <= len(self._parameters) or schema_hash[:4] != self._names_digest(count):
            msg = "its parameters have other names or another order"
            raise ArgumentError(msg)
        added = [_default(parameter) for parameter in self._parameters[count:]]
        if _is_missing(added):
            msg = "a parameter without a default was added"
            raise ArgumentError(msg)
        return [*values, *added]

    def dump_result(self, value: object) -> bytes:
        """Return a result as bytes, after checking it against the return annotation.

        Raises:
            ArgumentError: It does not fit; the message has the path.
            EncodeError: It cannot travel.
        """
        if type(value) is self._number:
            try:
                return codec.encode_number(cast("float", value))  # as most results of quick jobs are
            except OverflowError:
                pass  # beyond 64 bits
        self._prepare()
        data = codec.encode(value)
        if (type(value) in _EXACT or value is None) and (self._result is _MISSING or type(value) is self._result):
            return data
        arrived = self._decode_own(data)
        if self._result is _MISSING:
            return data
        loaded, was_plain = self._convert(arrived, self._result, "result")
        return codec.encode(loaded) if was_plain else data

    def load_result(self, data: bytes) -> Any:
        """Return the result in bytes, as the return annotation says.

        Raises:
            DecodeError: The bytes are not readable.
            ArgumentError: It does not fit the annotation, which may differ from the worker's.
        """
        self._prepare()
        value = codec.decode(data)
        if self._result is _MISSING or type(value) is self._result:
            return value
        return self._convert(value, self._result, "result")[0]

    def _prepare(self) -> None:
        if self._is_ready:
            return
        hints = self._hints()
        if self._function is not None:
            for parameter in self._parameters:
                annotation = hints.get(parameter.name, Any)
                if parameter.default is None and annotation is not Any:
                    annotation = annotation | None  # `x: int = None` is written often and means this
                if parameter.kind is _PARAMETER.VAR_POSITIONAL:
                    annotation = list.__class_getitem__(annotation)
                elif parameter.kind is _PARAMETER.VAR_KEYWORD:
                    annotation = dict.__class_getitem__((str, annotation))
                self._types.append(annotation)
                self._exact.append(annotation if annotation in _EXACT else None)
            self._result = hints.get("return", _MISSING)
            if self._result is Any:
                self._result = _MISSING  # which asks for as little
            elif self._result is None or self._result is type(None):
                self._result = type(None)
            self._number = self._result if self._result in _NUMBERS else None
            positional = [p for p in self._parameters if p.kind is _PARAMETER.POSITIONAL_OR_KEYWORD]
            if len(positional) == len(self._parameters):
                self._is_plain = True
                self._defaults = tuple(p.default for p in positional)
                row = tuple.__class_getitem__(tuple(self._types) or ((),))
                self._row_type = list.__class_getitem__(row)
        self._is_ready = True

    def _hints(self) -> dict[str, Any]:
        subject = self._function if self._cls is None else self._cls
        try:
            return typing.get_type_hints(subject, include_extras=True)
        except (NameError, AttributeError, TypeError) as error:
            msg = f"an annotation of {self.name} cannot be resolved: {error}. Import the name at run time, or define it first"
            raise RegistrationError(msg) from error

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        missing = len(self._defaults) - len(args)
        if not kwargs and self._defaults and missing >= 0:
            tail = self._defaults[len(args) :] if missing else ()
            if not _is_missing(tail):
                return [*args, *tail]
        try:
            bound = inspect.Signature(self._parameters).bind(*args, **kwargs)
        except TypeError as error:
            msg = f"{self.name}: {error}; it takes {self.describe()}"
            raise ArgumentError(msg) from error
        bound.apply_defaults()
        return list(bound.arguments.values())

    def _decode_own(self, data: bytes) -> Any:
        """Decode what was just encoded: a key that is a dataclass, say, can be written and not be read."""
        try:
            return codec.decode(data)
        except DecodeError as error:
            msg = f"{self.name}: a value cannot travel: {error}"
            raise EncodeError(msg) from error

    def _checked(self, data: bytes) -> bytes:
        converted, was_plain = self._convert_all(self._decode_own(data))
        return self._encode(converted) if was_plain else data

    def _encode(self, value: object, *, is_flat: bool = False) -> bytes:
        try:
            return codec.encode(value, is_flat=is_flat)
        except EncodeError as error:
            msg = f"{self.name}: {self._with_names(str(error))}"
            raise type(error)(msg) from error

    def _with_names(self, text: str) -> str:
        """Put parameter names into the path of an encoding error: `value[1][3]` is `genome[3]`."""
        found = re.match(r"value\[(\d+)\]", text)
        if found is None or not self._parameters or int(found[1]) >= len(self._parameters):
            return text.removeprefix("value.")
        return self._parameters[int(found[1])].name + text[found.end() :]

    def _describe(self) -> str:
        self._prepare()
        if self._cls is not None:
            return _text(self._cls, set())
        shown = [
            f"{'*' * (p.kind is _PARAMETER.VAR_POSITIONAL) + '**' * (p.kind is _PARAMETER.VAR_KEYWORD)}{p.name}: "
            f"{_text(annotation, set())}"
            for p, annotation in zip(self._parameters, self._types, strict=True)
        ]
        return f"({', '.join(shown)})"

    def _convert_all(self, values: Any) -> tuple[list[Any], bool]:
        if not isinstance(values, list) or len(values) != len(self._types):
            count = len(values) if isinstance(values, list) else "no list of"
            msg = f"{self.name} takes {len(self._types)} arguments {self.describe()}, and {count} came"
            raise ArgumentError(msg)
        converted: list[Any] = []
        was_plain = False
        for parameter, annotation, value in zip(self._parameters, self._types, values, strict=True):
            if annotation is Any or type(value) is annotation:
                converted.append(value)
            else:
                result, needed = self._convert(value, annotation, parameter.name)
                converted.append(result)
                was_plain = was_plain or needed
        return converted, was_plain

    def _convert(self, value: Any, annotation: Any, name: str = "") -> tuple[Any, bool]:
        """Return a value as its annotation has it, and whether numpy values had to become plain ones first."""
        try:
            return msgspec.convert(value, annotation, dec_hook=_from_plain, builtin_types=_OURS), False
        except msgspec.ValidationError as error:
            simple = codec.plain(value)
            if simple is value or _is_same(simple, value):
                raise ArgumentError(_explain(error, name)) from error
        except _FROM_OUTSIDE:
            raise
        except BaseException as error:  # classes may check themselves as they like, and even leave
            raise ArgumentError(_why(name or self.name, error)) from error
        try:
            return msgspec.convert(simple, annotation, dec_hook=_from_plain, builtin_types=_OURS), True
        except msgspec.ValidationError as error:
            raise ArgumentError(_explain(error, name)) from error
        except _FROM_OUTSIDE:
            raise
        except BaseException as error:  # the same classes
            raise ArgumentError(_why(name or self.name, error)) from error

    def _as_call(self, values: list[Any]) -> Call:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter, value in zip(self._parameters, values, strict=True):
            if parameter.kind is _PARAMETER.VAR_POSITIONAL:
                args += value
            elif parameter.kind is _PARAMETER.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is _PARAMETER.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return Call(tuple(args), kwargs)


def converted(value: Any, wanted: Any) -> Any:
    """Return what was shared as a handle's annotation has it.

    Raises:
        ArgumentError: It does not fit; the message has the path.
    """
    if wanted is Any or type(value) is wanted or isinstance(wanted, typing.TypeVar):
        return value
    try:
        return msgspec.convert(value, wanted, dec_hook=_from_plain, builtin_types=_OURS)
    except msgspec.ValidationError as error:
        raise ArgumentError(_explain(error, "shared")) from error
    except _FROM_OUTSIDE:
        raise
    except BaseException as error:  # classes may check themselves as they like, and even leave
        raise ArgumentError(_why("shared", error)) from error


def _from_plain(wanted: Any, value: Any) -> Any:
    """Convert to the types that msgspec leaves to us."""
    origin = typing.get_origin(wanted) or wanted
    handle: Any = value
    if isinstance(handle, Shared) and typing.get_origin(wanted) is Shared:
        return handle.wanting(typing.get_args(wanted)[0])
    if isinstance(origin, type) and isinstance(value, origin):
        return value
    if origin is complex and isinstance(value, int | float):
        return complex(value)
    if isinstance(origin, type) and issubclass(origin, PurePath) and isinstance(value, str | PurePath):
        return Path(value)
    if origin is Fraction and isinstance(value, int):
        return Fraction(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(origin, type):
        if origin is numpy.ndarray and isinstance(value, list):
            return numpy.asarray(value, dtype=_dtype_of(wanted))
        if issubclass(origin, numpy.generic) and isinstance(value, int | float | complex | bool | str | numpy.generic):
            with numpy.errstate(all="ignore"):
                converted = origin(value)
            # As an int8, 300 would wrap around and 1.5 lose its half.
            if converted == value or not issubclass(origin, numpy.integer):
                return converted
    msg = f"Expected `{getattr(origin, '__qualname__', wanted)}`, got `{type(value).__qualname__}`"
    raise ValueError(msg)


def _dtype_of(annotation: Any) -> Any:
    """Return the scalar type in NDArray[scalar], or None."""
    arguments = typing.get_args(annotation)
    scalars = typing.get_args(arguments[1]) if len(arguments) > 1 else ()
    return scalars[0] if scalars and isinstance(scalars[0], type) else None


def _explain(error: msgspec.ValidationError, name: str) -> str:
    """Return msgspec's message in our form: `genome[3]: expected float, got str`."""
    text = str(error)
    found = _PLACE.search(text)
    path = name
    if found is not None:
        key = "" if found["key"] is None else f"<key>{found['key']}"
        path = (name + found["path"] + key).removeprefix(".")
        text = text[: found.start()]
    text = text.replace("`", "").replace("null", "None")
    return f"{path}: {text[:1].lower()}{text[1:]}" if path else text


def _why(name: str, error: BaseException) -> str:
    """Return why a value could not be converted, other than by msgspec's own words: its class may have code of its own."""
    return f"{name}: {error if isinstance(error, _UNFIT) else words_of(error)}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=4).digest()


def _default(parameter: inspect.Parameter) -> Any:
    """Return what a parameter that was not given holds."""
    if parameter.kind is _PARAMETER.VAR_POSITIONAL:
        return []
    return {} if parameter.kind is _PARAMETER.VAR_KEYWORD else parameter.default


def _are_all(cls: Any, values: Iterable[object]) -> bool:
    return set(map(type, values)) <= {cls}


def _is_missing(values: Iterable[object]) -> bool:
    return any(value is _PARAMETER.empty for value in values)  # `in` would compare, which arrays do for each element


def is_structured(cls: type) -> bool:
    """Return whether a class is one of named fields: a dataclass, msgspec.Struct, attrs class or NamedTuple."""
    return (
        dataclasses.is_dataclass(cls)
        or hasattr(cls, "__struct_fields__")
        or hasattr(cls, "__attrs_attrs__")
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )


def _is_same(simple: Any, value: Any) -> bool:
    return type(simple) is type(value) and codec.encode(simple) == codec.encode(value)


def _text(annotation: Any, seen: set[type]) -> str:
    """Return an annotation as text that is the same on every Python version."""
    if annotation is None or annotation is type(None):
        return "None"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(sorted(_text(argument, seen) for argument in arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is typing.Annotated:
        return _text(arguments[0], seen)
    if origin is not None:
        inner = ", ".join("..." if argument is ... else _text(argument, seen) for argument in arguments)
        return f"{getattr(origin, '__qualname__', origin)}[{inner}]"
    if isinstance(annotation, type) and annotation not in seen and is_structured(annotation):
        seen.add(annotation)
        try:
            hints = typing.get_type_hints(annotation)
        except (NameError, TypeError):
            hints = dict.fromkeys(getattr(annotation, "__annotations__", {}), Any)
        fields = ", ".join(f"{name}: {_text(hint, seen)}" for name, hint in hints.items())
        return f"{annotation.__qualname__}{{{fields}}}"
    return str(getattr(annotation, "__qualname__", None) or str(annotation).removeprefix("typing."))


def _shape(value: Any) -> str:
    """Return what came over the wire, by its types only: it may hold secrets."""
    if isinstance(value, list):
        return f"({', '.join(type(item).__name__ for item in value[:20])})"
    if isinstance(value, dict):
        names = {k if isinstance(k, str) else type(k).__name__: type(v).__name__ for k, v in list(value.items())[:20]}
        return "{" + ", ".join(f"{key}: {name}" for key, name in names.items()) + "}"
    return type(value).__name__
