"""The tasks of a dispatcher: registered once, found by wire name, by function, or by message class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from queuelib import naming
from queuelib.errors import RegistrationError, UnknownTask
from queuelib.handlers import Registry
from queuelib.options import TaskOptions, Wishes, make_options
from queuelib.task import Definition

if TYPE_CHECKING:
    from queuelib.color import Palette

__all__ = ["TaskRegistry"]


class TaskRegistry:
    """What one dispatcher has registered.

    Args:
        palette: The colors that a task may have.

    Attributes:
        definitions: Tasks by wire name.
        handlers: The visitors that handle messages.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self.definitions: dict[str, Definition] = {}
        self.handlers = Registry()
        self._by_class: dict[type, Definition] = {}
        self._by_function: dict[int, Definition] = {}  # by their ids: a function need not be hashable

    def options(self, wishes: Wishes) -> TaskOptions:
        """Return the options of a task.

        Raises:
            ConfigurationError: One of them cannot work.
        """
        options = make_options(wishes)
        if options.color is not None:
            self._palette.require(options.color)
        return options

    def add_function(self, function: Callable[..., Any], options: TaskOptions, name: str | None) -> Definition:
        """Register a function, under its own name unless another is given.

        Raises:
            RegistrationError: The name is taken, or none.
        """
        from queuelib.schema import Schema  # noqa: PLC0415 - msgspec, unneeded by a program without tasks

        wire_name = naming.check_name(name or naming.name_of(function))
        definition = Definition(wire_name, Schema.of_function(function, name=wire_name), options, function=function)
        self._add(definition)
        self._by_function[id(function)] = definition
        return definition

    def add_class(self, given: type, options: TaskOptions, name: str | None) -> type:
        """Register a class of messages, under its own name unless another is given; return it as a message class.

        Raises:
            RegistrationError: The name is taken, or none, or a visitor has two classes to handle by one method.
        """
        from queuelib.schema import Schema, as_message_class  # noqa: PLC0415

        message_class = as_message_class(given)
        wire_name = naming.check_name(name or naming.name_of(message_class))
        self.handlers.know(message_class)
        schema = Schema.of_class(message_class, name=wire_name)
        definition = Definition(wire_name, schema, options, message_class=message_class)
        self._add(definition)
        self._by_class[message_class] = definition
        return message_class

    def of_message(self, message: object) -> Definition:
        """Return what a message was registered as.

        Raises:
            UnknownTask: Its class is not registered.
        """
        definition = self._by_class.get(type(message))
        if definition is None:
            msg = (
                f"{type(message).__qualname__} is not a registered message: decorate the class with @dispatcher.message, "
                "or call .submit(...) of a task"
            )
            raise UnknownTask(msg)
        return definition

    def of_function(self, function: object) -> Definition | None:
        """Return the task whose function this is; None if there is none."""
        return self._by_function.get(id(function))

    def _add(self, definition: Definition) -> None:
        other = self.definitions.get(definition.name)
        if other is not None:
            msg = f"the task name {definition.name!r} is taken; give one of the two another name="
            raise RegistrationError(msg)
        self.definitions[definition.name] = definition
