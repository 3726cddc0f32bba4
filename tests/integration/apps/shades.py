"""A user's module with a palette of its own, weighted or strict by $TAKING."""

from __future__ import annotations

import os
import time

import deeds

from queuelib import Color, Dispatcher, Palette

dispatcher = Dispatcher(
    os.environ.get("BROKER", "memory://shades"),
    namespace=os.environ.get("NAMESPACE", "shades"),
    palette=Palette(
        [Color("now", 9), Color("later", 1)],
        default="later",
        taking="strict" if os.environ.get("TAKING") == "strict" else "weighted",
    ),
)


@dispatcher.task
def shade(path: str, label: str, gate: str = "") -> str:
    """Start, wait for the gate, and take a hundredth of a second."""
    deeds.note(path, "start", label)
    deeds.pass_gate(gate)
    time.sleep(0.01)
    return label
