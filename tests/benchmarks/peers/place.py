"""Where one session runs: the servers, a folder and a name that no other session has, handed on by the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Place"]

ROOT = Path(__file__).resolve().parents[3]  # of the repository: what workers import their tasks from
_PREFIX = "BENCH_PEERS_"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one session runs.

    Attributes:
        broker: `redis`, `amqp`, `sqlite` or `none`.
        redis: URL of a database that nothing else uses.
        amqp: URL of RabbitMQ.
        folder: Of files that go with the session.
        name: Prefix of queues and keys.
        variant: Which configuration of a contestant that has several.
    """

    broker: str
    redis: str
    amqp: str
    folder: str
    name: str
    variant: str = ""

    @classmethod
    def here(cls) -> Place:
        """Return the place that this process was told; tasks' modules call it in clients and in workers."""
        return cls(**{field: os.environ.get(_PREFIX + field.upper(), "") for field in cls.__slots__})

    @property
    def amqp_for_pika(self) -> str:
        """The URL as pika reads it: the default virtual host, which others write as a second slash, is %2F."""
        return self.amqp[:-1] + "%2F" if self.amqp.endswith("//") else self.amqp

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that is to work here."""
        told = {_PREFIX + field.upper(): str(getattr(self, field)) for field in self.__slots__}
        path = os.pathsep.join((str(ROOT), str(ROOT / "backends")))
        return {**os.environ, **told, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
