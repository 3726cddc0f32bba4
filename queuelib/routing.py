"""Which color a call is queued in: its own, the one of a route, its task's, or the palette's default, in this order."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuelib.color import Palette
    from queuelib.options import CallOptions
    from queuelib.task import Definition

__all__ = ["Routing"]


class Routing:
    """The routes of one dispatcher.

    Args:
        palette: The colors.
        routes: Color by pattern of task names, or by message class; the first that matches.

    Raises:
        ConfigurationError: A route leads to a color that the palette lacks.
    """

    def __init__(self, palette: Palette, routes: Mapping[str | type, str]) -> None:
        self._palette = palette
        self._routes = dict(routes)
        for color in self._routes.values():
            palette.require(color)

    def color_of(self, definition: Definition, options: CallOptions) -> str:
        """Return the color of calls of a task.

        Raises:
            ConfigurationError: The palette lacks the one that the call asks for.
        """
        if options.color is not None:
            return self._palette.require(options.color)
        for pattern, color in self._routes.items():
            if isinstance(pattern, str):
                if fnmatch.fnmatchcase(definition.name, pattern):
                    return color
            elif definition.message_class is not None and issubclass(definition.message_class, pattern):
                return color
        return definition.options.color or self._palette.default
