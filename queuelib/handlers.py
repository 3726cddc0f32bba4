"""The visitor: from a message to the method that does its work.

`visit_<MessageClass>` is looked for by the message's class, then by its base classes in their order of resolution,
then `generic_visit`. The same visitor dispatches on plain options: `visit(42)` calls `visit_42`, `visit("IN")` calls
`visit_IN`. What was found is remembered, so that a second look-up is one dictionary access.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from queuelib.context import place_of
from queuelib.errors import RegistrationError, UnknownTask

__all__ = ["Handlers", "Registry"]

Method = Callable[..., Any]
_PREFIX = "visit_"


class Handlers:
    """Base of visitors; a subclass holds its own configuration and one method a message class.

    Example:
        >>> class Greeter(Handlers):
        ...     def visit_str(self, text, mark="!"):
        ...         return text + mark
        ...     def visit_42(self, number):
        ...         return "the answer"
        >>> Greeter().visit("hello", mark="?"), Greeter().visit(42)
        ('hello?', 'the answer')
    """

    def visit(self, subject: object, /, *args: object, **kwargs: object) -> Any:
        """Call the method for `subject` with it and with all that follows, and return what it returns.

        Raises:
            UnknownTask: There is no method for it and no `generic_visit`.
        """
        return self.find(subject)(subject, *args, **kwargs)

    def find(self, subject: object) -> Method:
        """Return the bound method for a message or option.

        Raises:
            UnknownTask: There is none and no `generic_visit`.
        """
        cache = self._methods()
        key = _key(subject)
        method = cache.get(key)
        if method is None:
            method = self._look_up(subject)
            if len(cache) < _MAX_REMEMBERED:  # options come from the caller and have no bound
                cache[key] = method
        return method

    def add(self, name: str | type, method: Method) -> None:
        """Add the method for a message class or option at run time; `method` gets the subject first, not `self`.

        Raises:
            RegistrationError: This visitor has one already.
        """
        attribute = _PREFIX + (name.__name__ if isinstance(name, type) else str(name))
        if hasattr(self, attribute):
            msg = f"{type(self).__name__} already has {attribute}"
            raise RegistrationError(msg)
        setattr(self, attribute, method)
        self._methods().clear()

    def handles(self, message_class: type) -> bool:
        """Whether there is a method for the class or one of its bases, `generic_visit` aside."""
        return any(_has(self, _PREFIX + base.__name__) for base in message_class.__mro__[:-1])

    @property
    def has_default(self) -> bool:
        """Whether there is a `generic_visit`."""
        return _has(self, "generic_visit")

    def _methods(self) -> dict[tuple[type, object], Method]:
        # Made on first use: a subclass need not call super().__init__().
        try:
            return self.__found
        except AttributeError:
            self.__found: dict[tuple[type, object], Method] = {}
            return self.__found

    def _look_up(self, subject: object) -> Method:
        names = [base.__name__ for base in type(subject).__mro__[:-1]]
        if _is_option(subject):
            names.insert(0, str(subject))
        for name in [*(_PREFIX + name for name in names), "generic_visit"]:
            method: Method | None = getattr(self, name, None)
            if callable(method):
                return method
        msg = f"{type(self).__name__} has neither {_PREFIX}{names[0]} nor generic_visit"
        raise UnknownTask(msg)


class Registry:
    """The visitors of a dispatcher, as one.

    Two visitors with a method for the same class, two with a `generic_visit`, or two classes of one simple name
    under one visitor are refused when they are registered: which of them ran would depend on the order of imports.
    """

    def __init__(self) -> None:
        self._visitors: list[Handlers] = []
        self._classes: dict[str, list[type]] = {}

    def add(self, visitor: Handlers) -> None:
        """Add a visitor.

        Raises:
            RegistrationError: It is no visitor, another one handles one of its messages, or one of its methods takes two
                contexts.
        """
        if not isinstance(cast("object", visitor), Handlers):
            msg = f"register() takes an instance of a Handlers subclass, not {visitor!r}"
            raise RegistrationError(msg)
        mine = _method_names(visitor)
        for other in self._visitors:
            both = mine & _method_names(other)
            if both:
                msg = f"{type(visitor).__name__} and {type(other).__name__} both have {', '.join(sorted(both))}"
                raise RegistrationError(msg)
        for name in mine:
            place_of(getattr(visitor, name))
        for name, classes in self._classes.items():
            if len(classes) > 1 and _PREFIX + name in mine:
                raise RegistrationError(_two_meanings(*classes[:2]))
        self._visitors.append(visitor)

    def know(self, message_class: type) -> None:
        """Note a message class, so that a second one of the same simple name is refused.

        Raises:
            RegistrationError: `visit_<name>` would mean two classes.
        """
        name = message_class.__name__
        classes = self._classes.setdefault(name, [])
        if message_class in classes:
            return
        if classes and any(_has(visitor, _PREFIX + name) for visitor in self._visitors):
            raise RegistrationError(_two_meanings(classes[0], message_class))
        classes.append(message_class)

    def find(self, message: object) -> Method | None:
        """Return the method for a message, None if there is none.

        The nearest class with a method in any visitor decides, and any method comes before a `generic_visit`.
        """
        for name in [*(_PREFIX + base.__name__ for base in type(message).__mro__[:-1]), "generic_visit"]:
            for visitor in self._visitors:
                if _has(visitor, name):
                    return visitor.find(message)
        return None

    def method_of(self, message_class: type) -> Method | None:
        """Return the method for messages of a class, None if there is none."""
        for name in [*(_PREFIX + base.__name__ for base in message_class.__mro__[:-1]), "generic_visit"]:
            for visitor in self._visitors:
                if _has(visitor, name):
                    method: Method = getattr(visitor, name)
                    return method
        return None

    def handles(self, message_class: type) -> bool:
        """Whether some visitor handles the class, by its own method or by `generic_visit`."""
        return any(visitor.handles(message_class) or visitor.has_default for visitor in self._visitors)


_MAX_REMEMBERED = 10_000


def _key(subject: object) -> tuple[type, object]:
    return type(subject), (subject if _is_option(subject) else None)


def _is_option(subject: object) -> bool:
    return isinstance(subject, str | int | float) or subject is None


def _has(visitor: Handlers, name: str) -> bool:
    return callable(getattr(visitor, name, None))  # a subclass may switch a method off by setting it to None


def _method_names(visitor: Handlers) -> set[str]:
    names = {name for name in dir(visitor) if name.startswith(_PREFIX) or name == "generic_visit"}
    return {name for name in names if _has(visitor, name)}


def _two_meanings(one: type, other: type) -> str:
    return f"{_PREFIX}{one.__name__} would mean both {_full(one)} and {_full(other)}: rename one of them"


def _full(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
