"""The kombu transport of a Redis server: messages in flight belong to a taker with a lease, and markers wake takers.

Everything that must happen together is one script; see scripts/common.lua for the keys.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from queuelib.channel import BatchTransport
from queuelib.errors import BrokerUnavailable, QueuelibError, SubmitUnknown
from queuelib.settings import LEASE
from queuelib_redis import entry
from queuelib_redis.bell import Bell
from queuelib_redis.bindings import DeclaringChannel
from queuelib_redis.identity import is_gone, own_identity
from queuelib_redis.keys import ACCEPTED_FOR, prefix
from queuelib_redis.opening import address_of, confirmation
from queuelib_redis.script import Script
from queuelib_redis.wire import CONNECT_TIMEOUT, SOCKET_TIMEOUT, Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from queuelib.message import Outgoing
    from queuelib.ports import Delivery
    from queuelib_redis.address import Address

__all__ = ["Channel", "Transport"]

_SIGHTS = 2.0  # seconds between two sights of an expired lease
_PATIENCE_SHARE = 1 / 5  # of a lease: a silent server is given up, and found again, before the lease ends
_LEAST_PATIENCE = 0.5  # seconds
_PUSH = Script("common", "records", "push")
_PUSH_ONE = Script("push_one")
_TAKE = Script("common", "take")
_GIVE_BACK = Script("common", "give_back")
_RENEW = Script("common", "renew")
_FRAMES_A_CALL = 1000  # the server does nothing else meanwhile
_BYTES_A_CALL = 4 * 1024 * 1024
_TAGS_A_CALL = 2000
_abandoned: dict[tuple[str, bytes], list[bytes]] = {}  # takers of this process that could not leave, by server


class Channel(DeclaringChannel):
    """A channel to a server and a namespace.

    It becomes a taker, with a lease, when it first takes; until then it only writes. kombu's transport options:
    `namespace`, and for tests `lease` and `sights` in seconds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        client = self.connection.client
        options = client.transport_options
        self.address: Address = options.get("address") or address_of(client)
        self.prefix = prefix(str(options.get("namespace", "kombu")))
        lease = float(options.get("lease", LEASE))
        self._lease = b"%.3f" % lease
        self._sights = b"%.3f" % options.get("sights", _SIGHTS)
        self._patience = min(SOCKET_TIMEOUT, max(_LEAST_PATIENCE, lease * _PATIENCE_SHARE))
        self._connect_timeout = min(CONNECT_TIMEOUT, self._patience, client.connect_timeout or CONNECT_TIMEOUT)
        self._bell: Bell | None = None
        self._wire = Wire(self.address, self._connect_timeout, self._patience, on_close=self._silence)
        self._confirmation = confirmation(self.address, self._wire)
        self.taker = b""
        self.held: set[int] = set()
        self._identity = b""
        self._tag = 0
        self._next_due: float | None = None
        self._short: frozenset[bytes] = frozenset()  # queues that had less than there was room for

    @property
    def wire(self) -> Wire:
        """The connection; a new one after an error, over which the taker goes on with what it held.

        Raises:
            BrokerUnavailable: There is no server.
        """
        return self._connected(self._connect_timeout)

    def publish_batch(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Put frames in, each bundle once; a thousand of them are one step."""
        end = time.monotonic() + deadline
        accepted = 0
        for part in _parts(frames):
            self._publish_part(frames, accepted, part, end)
            accepted += len(part)

    def take_batch(self, room: Mapping[str, int]) -> list[Delivery]:
        """Move what is ready to this taker."""
        if not self.taker:
            self._become_taker()
        wire, bell = self.wire, self._bell
        wire.within(self._patience)
        if bell is not None and bell.is_broken:
            bell.connect()
        rung = self._rung(bell) if bell is not None else None
        asked = {queue: count for queue, count in room.items() if count > 0}
        if rung is not None and rung.decode() not in asked:
            self._hand_on(rung)
        if not asked:
            return []
        arguments = [self.taker, b"%d" % self._tag, self._lease]
        for queue, count in asked.items():
            arguments += (entry.queue_bytes(queue), b"%d" % count)
        now, due, *columns = wire.run(_TAKE, self.prefix, arguments)
        self._note_due(now, due)
        deliveries: list[Delivery] = []
        tag = self._tag
        short: list[bytes] = []
        for (queue, count), entries in zip(asked.items(), columns, strict=True):
            name = entry.queue_bytes(queue)
            skipped = entry.BEFORE_NAME + len(name)
            if len(entries) < count:
                short.append(name)
            for one in entries:
                tag += 1
                deliveries.append(entry.delivery(queue, skipped, tag, one))
        self.held.update(range(self._tag + 1, tag + 1))
        self._tag = tag
        self._short = frozenset(short)
        if bell is not None:
            self._arm(bell)
        return deliveries

    def acknowledge_batch(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete messages in flight."""
        tags = [delivery.tag for delivery in deliveries]
        lost = self.release_tags(tags)
        return [delivery for delivery in deliveries if delivery.tag in lost] if lost else []

    def give_back_batch(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Return messages to the heads of their queues, or hold them back for a while."""
        ours = sorted(delivery.tag for delivery in deliveries if delivery.tag in self.held)
        for start in range(0, len(ours), _TAGS_A_CALL):
            part = ours[start : start + _TAGS_A_CALL]
            self.wire.run(_GIVE_BACK, self.prefix, [self.taker, b"%.6f" % delay, *[b"%d" % tag for tag in part]])
            self.held.difference_update(part)
        if delay > 0 and ours:
            self._note_local_due(time.time() + delay)

    def renew(self) -> None:
        """Renew the lease, and take over from the dead."""
        self._renew(())

    def find_lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return what was taken over."""
        wire = self.wire
        wire.within(SOCKET_TIMEOUT)
        lost: list[Delivery] = []
        for start in range(0, len(deliveries), _TAGS_A_CALL):
            part = deliveries[start : start + _TAGS_A_CALL]
            key = self.prefix + b"if:" + self.taker
            wire.send(b"".join(pack((b"HEXISTS", key, b"%d" % delivery.tag)) for delivery in part))
            answers = [wire.read() for _ in part]
            lost += [delivery for delivery, is_there in zip(part, answers, strict=True) if not int(is_there)]
        self.held.difference_update(delivery.tag for delivery in lost)
        return lost

    def fileno(self) -> int:
        """Return the descriptor of the connection that waits for markers."""
        if self._bell is None:
            self._bell = Bell(self.address, self.prefix)
            self._arm(self._bell)
        return self._bell.fd

    def next_due(self) -> float | None:
        """Return when the next delayed message is due, as the server said last; it rings for an earlier one."""
        return self._next_due

    def waiting_in(self, queues: Sequence[str]) -> dict[str, int]:
        """Count messages that nobody holds, due or not."""
        if not queues:
            return {}
        keys = [entry.queue_bytes(queue) for queue in queues]
        commands = [
            pack((command, self.prefix + kind + key))
            for key in keys
            for command, kind in ((b"LLEN", b"q:"), (b"ZCARD", b"due:"))
        ]
        self.wire.send(b"".join(commands))
        counts = [self.wire.read() for _ in commands]
        return {queue: counts[2 * at] + counts[2 * at + 1] for at, queue in enumerate(queues)}

    def purge_queue(self, queue: str) -> int:
        """Delete messages that nobody holds."""
        name = entry.queue_bytes(queue)
        ready, late = self.prefix + b"q:" + name, self.prefix + b"due:" + name
        self.wire.send(
            pack((b"MULTI",))
            + pack((b"LLEN", ready))
            + pack((b"ZCARD", late))
            + pack((b"DEL", ready, late, self.prefix + b"wake:" + name))
            + pack((b"ZREM", self.prefix + b"due", name))
            + pack((b"EXEC",))
        )
        *_, counts = [self.wire.read() for _ in range(6)]
        return int(counts[0]) + int(counts[1])

    def release_tags(self, tags: Sequence[int]) -> set[int]:
        """Delete messages in flight; return the tags of those that were not ours any more."""
        from queuelib_redis.settlement import settle_tags  # noqa: PLC0415 - it needs this class

        return settle_tags(self, tags)

    def confirmed(self, answers: Any) -> Any:
        """Return the answer of a script that was sent with `confirmation`.

        Raises:
            BrokerUnavailable: Fewer replicas, or disks, have it than the URL asks for.
        """
        if not self._confirmation:
            return answers
        answer, reached = answers
        counts = reached if isinstance(reached, list) else [reached]
        if counts[0] < (1 if self.address.is_durable else self.address.wait):
            msg = f"{self.address.place}: written on the server, but not confirmed as the URL asks (wait=, durable=)"
            raise BrokerUnavailable(msg)
        return answer

    @property
    def confirmation(self) -> Sequence[bytes]:
        """The command that follows a script whose effects have to be confirmed; empty for none."""
        return self._confirmation

    def close(self) -> None:
        """Give back what is held, and leave; where the server does not answer, the process' next taker sees to it."""
        if not self.closed:
            try:
                self.forget_own_queues()
                if self.taker:
                    self._wire.run(_GIVE_BACK, self.prefix, [self.taker, b"0"])
            except QueuelibError:
                _abandoned.setdefault((self.address.place, self.prefix), []).append(self.taker)
            finally:
                self.taker = b""
                self.held.clear()
                self._wire.close()
                if self._bell is not None:
                    self._bell.close()
                    self._bell = None
        super().close()

    def _publish_part(self, frames: Sequence[Outgoing], accepted: int, part: Sequence[Outgoing], end: float) -> None:
        """Put in a part; once more over a new connection if there was no answer, where that changes nothing."""
        is_in_doubt = False
        if self._wire.is_cut():
            self._wire.close()  # found out before anything is sent, it leaves no doubt
        while True:
            self._wire.is_sent = False
            try:
                wire = self._connected(max(0.1, min(self._connect_timeout, end - time.monotonic())))
                wire.within(max(0.1, min(SOCKET_TIMEOUT, end - time.monotonic())))
                if len(part) > 1 or not self._publish_one(part[0]):
                    self._publish_many(part)
            except BrokerUnavailable as error:
                is_first = not is_in_doubt
                is_in_doubt = is_in_doubt or self._wire.is_sent
                is_safe = all(frame.bundle and not frame.is_successor for frame in part)
                if is_in_doubt and is_first and is_safe and self._wire.is_broken and time.monotonic() < end:
                    continue
                if is_in_doubt:
                    msg = f"{error}. Whether it accepted {len(part)} messages is not known"
                    raise SubmitUnknown(msg, frames=[self._colored(one) for one in frames[accepted:]]) from error
                error.accepted = tuple(frame.bundle.hex() for frame in frames[:accepted])
                raise
            return

    def _publish_one(self, frame: Outgoing) -> bool:
        """Put in a frame that is due and whose bundle is new, as most are; return whether it was such a one."""
        color, bundle, body, due, size, is_successor = frame
        now = time.time()
        if due is not None and due > now:
            return False
        arguments = (
            bundle.hex().encode() if bundle and not is_successor else b"",
            b"%d" % size,
            _LIFE,
            entry.queue_bytes(color),
            entry.header(color, now) + body,
        )
        return bool(self.confirmed(self.wire.run(_PUSH_ONE, self.prefix, arguments, self._confirmation)))

    def _publish_many(self, part: Sequence[Outgoing]) -> None:
        arguments: list[bytes] = []
        now = time.time()
        headers: dict[str, bytes] = {}
        for color, bundle, body, due, size, is_successor in part:
            head = headers.get(color)
            if head is None:
                head = headers[color] = entry.header(color, now)
            is_late = due is not None and due > now
            arguments += (
                bundle.hex().encode() if bundle and not is_successor else b"",
                b"%d" % size,
                _LIFE if due is None or not is_late else b"%d" % ((due - now + ACCEPTED_FOR) * 1000),
                b"%.6f" % due if due is not None and is_late else b"",
                entry.queue_bytes(color),
                head + body,
            )
        self.confirmed(self.wire.run(_PUSH, self.prefix, arguments, self._confirmation))

    def _colored(self, frame: Outgoing) -> Outgoing:
        return frame._replace(color=frame.color.removeprefix(self.queue_prefix))

    def _connected(self, timeout: float) -> Wire:
        """Return the connection; a new one, within `timeout` seconds, after an error."""
        if self._wire.is_broken:
            self._wire = Wire(self.address, timeout, self._patience, on_close=self._silence)
            self._resume()
        return self._wire

    def _resume(self) -> None:
        """Learn what this taker still holds, and give back what it took without having heard of it."""
        if not self.taker:
            return
        tags = {int(tag) for tag in self._wire.call(pack((b"HKEYS", self.prefix + b"if:" + self.taker)))}
        unheard = sorted(tags - self.held)
        self.held &= tags
        self._tag = max(self._tag, *tags) if tags else self._tag
        if unheard:
            self._wire.run(_GIVE_BACK, self.prefix, [self.taker, b"0", *[b"%d" % tag for tag in unheard]])

    def _become_taker(self) -> None:
        _ = self.wire
        self.taker = uuid.uuid4().hex.encode()
        self._identity = own_identity().encode()
        self._renew(_abandoned.get((self.address.place, self.prefix), ()))
        _abandoned.pop((self.address.place, self.prefix), None)

    def _renew(self, dead: Iterable[bytes]) -> None:
        arguments = [self.taker, self._lease, self._sights, self._identity]
        for taker in dead:
            arguments += (taker, self._identity)
        now, due, _, others = self.wire.run(_RENEW, self.prefix, arguments)
        self._note_due(now, due)
        gone: list[bytes] = []
        for taker, identity in zip(others[::2], others[1::2], strict=True):
            if identity and identity != self._identity and is_gone(identity.decode()):
                gone += (taker, identity)
        if gone:
            self.wire.run(_RENEW, self.prefix, [self.taker, self._lease, self._sights, self._identity, *gone])

    def _note_due(self, now: bytes, due: bytes) -> None:
        self._next_due = None if not due else float(due) - float(now) + time.time()

    def _note_local_due(self, due: float) -> None:
        self._next_due = due if self._next_due is None else min(due, self._next_due)

    def _silence(self) -> None:
        """Keep the bell from ringing for a connection that is gone."""
        if self._bell is not None:
            self._bell.disconnect()

    def _rung(self, bell: Bell) -> bytes | None:
        try:
            return bell.rung()
        except BrokerUnavailable:
            self._wire.close()  # it is the same server, and would be noticed to be gone one call later
            raise

    def _arm(self, bell: Bell) -> None:
        """Wait for markers of the queues that came up short; where that fails, the next take connects the bell again."""
        try:
            self._await_markers(bell)
        except BrokerUnavailable:
            bell.disconnect()  # raised instead of what was just taken, it would leave that in flight under our lease

    def _await_markers(self, bell: Bell) -> None:
        if bell.armed.issuperset(self._short):
            return
        if bell.armed:
            self.wire.call(pack((b"CLIENT", b"UNBLOCK", b"%d" % bell.id)))
            rung = bell.answer()
            if rung is not None:
                self._hand_on(rung)
        bell.arm(self._short)

    def _hand_on(self, queue: bytes) -> None:
        """Put a marker back that is not for us."""
        self.wire.call(pack((b"RPUSH", self.prefix + b"wake:" + queue, queue)))


class Transport(BatchTransport):
    """qlredis://host:port/db for kombu."""

    Channel = Channel
    can_parse_url = False
    polling_interval = 0.02
    driver_type = "queuelib-redis"
    driver_name = "redis"

    def driver_version(self) -> str:
        """Return redis-py's version."""
        import redis  # noqa: PLC0415 - only for this

        return redis.__version__


def _parts(frames: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Yield the frames of each call."""
    if len(frames) == 1:
        yield frames
        return
    start = size_bytes = 0
    for at, frame in enumerate(frames):
        if at > start and (at - start >= _FRAMES_A_CALL or size_bytes + len(frame.frame) > _BYTES_A_CALL):
            yield frames[start:at]
            start, size_bytes = at, 0
        size_bytes += len(frame.frame)
    if start < len(frames):
        yield frames[start:]


_LIFE = b"%d" % (ACCEPTED_FOR * 1000)
