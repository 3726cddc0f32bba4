"""The dispatcher: registers tasks, turns messages into bundles, and hands them to the broker."""

from __future__ import annotations

import fnmatch
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload
from weakref import WeakSet

from queuelib import builtin, futures, mapping, naming, plugins, workflow
from queuelib.bundle import Chunk, Chunks, outgoing
from queuelib.clock import SYSTEM, Clock, seconds
from queuelib.codec import StoredInside, encoded_list, resolving
from queuelib.color import DEFAULT_PALETTE, Palette
from queuelib.errors import (
    BrokerUnavailable,
    ConfigurationError,
    EncodeError,
    QueuelibError,
    RegistrationError,
    SubmitUnknown,
    UnknownTask,
)
from queuelib.events import Events
from queuelib.handle import Shared, Stored, reader
from queuelib.handlers import Handlers, Registry
from queuelib.ids import Key, job_id, new_bundle_id, parse_job_id
from queuelib.job import Job, Outcomes, plain_values
from queuelib.large import Repeats, Store
from queuelib.message import Bundle, Input, Message, Outgoing
from queuelib.options import (
    NO_OPTIONS,
    CallOptions,
    Duration,
    TaskOptions,
    Wishes,
    duration,
    make_options,
    time_to_keep,
)
from queuelib.sealed import SealedBlobs, SealedMemos, SealedResults
from queuelib.settings import DEFAULT_NAMESPACE, KEEP, LARGE_BYTES, NAMESPACE, SUBMIT_DEADLINE, mask
from queuelib.signing import Keyring, Secret
from queuelib.task import Definition, Signature, Task

if TYPE_CHECKING:
    from queuelib.broker import Publisher
    from queuelib.calls import Calls
    from queuelib.ports import Blobs, Memos, ResultBackend
    from queuelib.sharing import Sharing

__all__ = ["Dispatcher"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound=type)
DEFAULT_BROKER = "sqlite:///queuelib.db"
_FRAMES_A_PUBLISH = 256
_SOON = 24 * 3600.0  # seconds of delay up to which a large argument may be kept apart from its message


class _TaskDecorator(Protocol):
    """`@dispatcher.task(...)` with options, for type checkers."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class Dispatcher:
    """Typed tasks on priority-colored queues, over the broker that a URL names.

    Nothing is connected, and nothing read from the environment, before the first use.

    Args:
        broker: URL of the broker: `sqlite:///file`, `redis://`, `amqp://`, `memory://` or another that kombu knows.
            None: $QUEUELIB_BROKER, else the file queuelib.db in the current folder.
        results: URL of the result backend; None: $QUEUELIB_RESULTS, else the broker's own server.
        namespace: Prefix of every key, queue, stream and row; None: $QUEUELIB_NAMESPACE, else `queuelib`.
        routes: Color by task name: `{"render.*": "green"}`; the first pattern that matches. A message class may
            stand for a pattern.
        palette: The colors.
        keep: Seconds or timedelta for which outcomes are kept, a second at the least.
        submit_deadline: Seconds within which `submit` answers.
        key: Who signs messages and outcomes, `id:secret`, or `id/aes:secret` to encrypt them too, or several
            separated by commas of which the first signs; None: $QUEUELIB_KEY, else nothing is signed or checked.
        allow_pickle: Whether an `Executor` may send functions that are no tasks, and read results, by cloudpickle. Workers
            must be started with `--allow-pickle`. Whoever can write to the broker, or has the key where there is
            one, can then run code here.
        clock: The clocks, for tests.

    Raises:
        ConfigurationError: A name, number or color cannot work.
    """

    def __init__(
        self,
        broker: str | None = None,
        *,
        results: str | None = None,
        namespace: str | None = None,
        routes: Mapping[str | type, str] | None = None,
        palette: Palette = DEFAULT_PALETTE,
        keep: Duration = KEEP,
        submit_deadline: Duration = SUBMIT_DEADLINE,
        key: str | None = None,
        allow_pickle: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        self._broker_url = Secret(broker or "")  # a URL may hold a password
        self._results_url = Secret(results or "")
        self._namespace = namespace
        self._key = None if key is None else Secret(key)
        self._keys: Keyring | None = None
        self._has_read_keys = False
        self.palette = palette
        self.keep = time_to_keep(keep)
        self.allows_pickle = allow_pickle
        self._deadline = duration("submit_deadline", submit_deadline, above_zero=True)
        self._clock = clock
        self._routes = dict(routes or {})
        for color in self._routes.values():
            palette.require(color)
        if namespace is not None:
            _check_namespace(namespace)
        self.definitions: dict[str, Definition] = {}
        self.handlers = Registry()
        self.events = Events()
        self._classes: dict[type, Definition] = {}
        self._by_function: dict[int, Definition] = {}  # by their ids: a function need not be hashable
        self._exceptions: dict[str, type[Exception]] = {}
        self._lock = threading.RLock()
        self._publisher: Publisher | None = None
        self._results: ResultBackend | None = None
        self._results_pid = 0
        self._transport_keeps_records = False
        self._sharing: Sharing | None = None
        self._calls: Calls | None = None
        self._store = Store(self._open_blobs, self.keep, lambda: self.open_results().capabilities.large_apart)
        self._repeats = Repeats(self._store)
        self._reader = _Reader(self)
        self._memos: Memos | None = None
        self.outcomes = Outcomes(
            self.open_results,
            self._load_results,
            self._exceptions,
            self.keep,
            self._how_to_serve,
            self.events,
            self._open_memos,
        )
        _dispatchers.add(self)

    # Where it connects to

    def configure(
        self,
        *,
        broker: str | None = None,
        results: str | None = None,
        namespace: str | None = None,
        key: str | None = None,
    ) -> None:
        """Set what is not None anew; later uses connect there.

        Raises:
            ConfigurationError: The namespace cannot work.
        """
        if namespace is not None:
            _check_namespace(namespace)
        self.close()
        self._broker_url = Secret(broker) if broker else self._broker_url
        self._results_url = Secret(results) if results else self._results_url
        self._namespace = namespace or self._namespace
        self._key = self._key if key is None else Secret(key)
        self._has_read_keys = False

    @contextmanager
    def redirected(self, broker: str, *, clock: Clock | None = None) -> Generator[None]:
        """Connect elsewhere while the block lasts, for messages and results alike, and then as before.

        It is for tests: what is submitted meanwhile goes there, and nothing reaches the servers of before. Namespace
        and keys stay.

        Args:
            broker: URL of the broker.
            clock: The clocks meanwhile; None: those of before.
        """
        before = self._broker_url, self._results_url, self._clock
        self.configure(broker=broker, results=broker)
        self._clock = clock or self._clock
        try:
            yield
        finally:
            self.close()
            self._broker_url, self._results_url, self._clock = before

    @property
    def broker_url(self) -> str:
        """URL of the broker, with a relative file made absolute by whoever opens it."""
        return self._broker_url.reveal() or os.environ.get("QUEUELIB_BROKER") or DEFAULT_BROKER

    @property
    def results_url(self) -> str:
        """URL of the result backend."""
        return self._results_url.reveal() or os.environ.get("QUEUELIB_RESULTS") or self.broker_url

    @property
    def namespace(self) -> str:
        """Prefix of everything this dispatcher names.

        Raises:
            ConfigurationError: $QUEUELIB_NAMESPACE cannot work.
        """
        if self._namespace:
            return self._namespace
        name = os.environ.get("QUEUELIB_NAMESPACE") or DEFAULT_NAMESPACE
        _check_namespace(name)
        return name

    @property
    def keys(self) -> Keyring | None:
        """Who signs and whose signatures count; None: nothing is signed or checked. Read once.

        Raises:
            ConfigurationError: The key, or $QUEUELIB_UNSIGNED, makes no sense.
        """
        if not self._has_read_keys:
            given = os.environ.get("QUEUELIB_KEY") if self._key is None else self._key.reveal()
            unsigned = os.environ.get("QUEUELIB_UNSIGNED", "refuse")
            if unsigned not in {"refuse", "accept"}:
                msg = f"QUEUELIB_UNSIGNED is refuse or accept, not {unsigned!r:.40}"
                raise ConfigurationError(msg)
            self._keys = None if given is None else Keyring(given, accepts_unsigned=unsigned == "accept")
            self._has_read_keys = True
        return self._keys

    # Registering

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, R]: ...

    @overload
    def task(self, /, **wishes: Unpack[Wishes]) -> _TaskDecorator: ...

    def task(self, function: Callable[..., Any] | None = None, /, **wishes: Unpack[Wishes]) -> Any:
        """Register a function as a task; usable bare, `@dispatcher.task`, or with options.

        Args:
            function: The function; it stays callable as before.
            wishes: Its options: see `queuelib.options.Wishes`.

        Raises:
            RegistrationError: The name is taken.
            ConfigurationError: An option cannot work.
        """
        options, name = self._options(wishes), wishes.get("name")

        def register(fn: Callable[..., Any]) -> Task[..., Any, Any]:
            from queuelib.schema import Schema  # noqa: PLC0415 - msgspec, unneeded by a program without tasks

            wire_name = naming.check_name(name or naming.name_of(fn))
            definition = Definition(wire_name, Schema.of_function(fn, name=wire_name), options, function=fn)
            self._add(definition)
            return Task(self, definition, fn)

        return register if function is None else register(function)

    @overload
    def message(self, cls: M, /) -> M: ...

    @overload
    def message(self, /, **wishes: Unpack[Wishes]) -> Callable[[M], M]: ...

    def message(self, cls: type | None = None, /, **wishes: Unpack[Wishes]) -> Any:
        """Register a class as a typed message; a bare annotated class becomes a frozen dataclass.

        Args and errors are those of `task`; the handler is the visitor's `visit_<ClassName>`.
        """
        options, name = self._options(wishes), wishes.get("name")

        def register(message_class: type) -> type:
            from queuelib.schema import Schema, as_message_class  # noqa: PLC0415

            message_class = as_message_class(message_class)
            wire_name = naming.check_name(name or naming.name_of(message_class))
            self.handlers.know(message_class)
            schema = Schema.of_class(message_class, name=wire_name)
            definition = Definition(wire_name, schema, options, message_class=message_class)
            self._add(definition)
            self._classes[message_class] = definition
            return message_class

        return register if cls is None else register(cls)

    def register(self, visitor: Handlers) -> None:
        """Add a visitor, whose methods handle messages.

        Raises:
            RegistrationError: Another visitor handles one of its messages already.
        """
        self.handlers.add(visitor)

    def register_exception(self, cls: type[Exception]) -> type[Exception]:
        """Have `result()` raise this class as itself when a handler raised it; usable as a decorator."""
        self._exceptions[f"{cls.__module__}.{cls.__qualname__}"] = cls
        return cls

    # Submitting

    @overload
    def submit(self, message: Message[R]) -> Job[R]: ...

    @overload
    def submit(self, message: object) -> Job[Any]: ...

    def submit(self, message: object) -> Job[Any]:
        """Submit a typed message and return its job, once the broker has accepted it.

        Raises:
            UnknownTask: Its class is not registered.
            ArgumentError, EncodeError, BrokerUnavailable, SubmitUnknown: As for `task.submit`.
        """
        return self.submit_many([message])[0]

    @overload
    def submit_many(self, messages: Iterable[Message[R]]) -> list[Job[R]]: ...

    @overload
    def submit_many(self, messages: Iterable[object]) -> list[Job[Any]]: ...

    def submit_many(self, messages: Iterable[object]) -> list[Job[Any]]:
        """Submit typed messages and return their jobs, in order.

        Raises:
            UnknownTask, ArgumentError, EncodeError: One of them does not fit; nothing of this call was submitted.
            BrokerUnavailable, SubmitUnknown: As for `task.submit_many`.
        """
        _refuse_in_worker("submit()")
        bundles: list[Bundle] = []
        for definition, same in groupby(messages, self._definition_of):
            bundles += self._bundles(definition, Chunks(same, definition.schema.pack_messages, definition.sizes))
        return self._submit_bundles(bundles)

    def submit_call(
        self, definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions
    ) -> Job[Any]:
        """Submit one call; this is what `task.submit` calls."""
        _refuse_in_worker("submit()")
        if any(map(workflow.waits, (*args, *kwargs.values()))):
            return self.submit_signatures([Signature(self, definition, options, args, kwargs)])[0]
        try:
            column = encoded_list([definition.schema.pack(args, kwargs)])
        except EncodeError:
            workflow.refuse_hidden(definition.name, (*args, *kwargs.values()))
            raise
        return self._submit_bundles([self._bundle(definition, Chunk(column, 1), options)])[0]

    def submit_signatures(self, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
        """Submit calls, and before them those that they wait for; this is what `task.s(...).submit` calls."""
        _refuse_in_worker("submit()")
        places: dict[int, int] = {}
        plan = workflow.Plan(self, lambda *about: self._bundle(*about, places=places))
        placed = plan.place(signatures)
        for bundles in (plan.plain, plan.waiting):  # nothing waits for what was not accepted
            self.publish([outgoing(bundle, self.keys) for bundle in bundles])
        return [Job(self.outcomes, one.key, (one.task, one.color)) for one in placed]

    def submit_rows(
        self, definition: Definition, rows: Iterable[tuple[Any, ...]], options: CallOptions
    ) -> list[Job[Any]]:
        """Submit calls of one task; this is what `task.submit_many` calls."""
        _refuse_in_worker("submit()")
        chunks = Chunks(rows, workflow.packed_rows(definition), definition.sizes)
        return self._submit_bundles(self._bundles(definition, chunks, options))

    def map_rows(
        self,
        definition: Definition,
        rows: Iterable[tuple[Any, ...]],
        options: CallOptions,
        *,
        ordered: bool,
        total: int | None = None,
        bar: bool = False,
    ) -> Generator[Any]:
        """Submit calls lazily and yield their results; this is what `task.map` calls."""
        stream = self.open_stream(definition, rows, options, total=total)
        stream.refill()
        return stream.shown(definition.name, total, ordered=ordered) if bar else stream.results(ordered=ordered)

    def open_stream(
        self,
        definition: Definition,
        rows: Iterable[tuple[Any, ...]],
        options: CallOptions,
        *,
        total: int | None = None,
        limits: mapping.Limits = mapping.NO_LIMITS,
    ) -> mapping.Stream:
        """Return calls as a stream of which nothing is submitted yet.

        Args:
            definition: The task.
            rows: Arguments, by position.
            options: Options of all calls.
            total: Number of calls if it is known.
            limits: How far the stream may run ahead, and how long it may take.
        """
        _refuse_in_worker("submit()")
        places: dict[int, int] = {}

        def send(batch: list[Chunk]) -> list[bytes]:
            bundles = self._bundles(definition, batch, options, places)
            self.publish([outgoing(bundle, self.keys) for bundle in bundles])
            return [bundle.id for bundle in bundles]

        about = (definition.name, self._color_of(definition, options))
        sizes = limits.sizes(definition.sizes)
        chunks = Chunks(rows, workflow.packed_rows(definition), sizes, total)
        return mapping.Stream(chunks, send, self.outcomes, sizes, about, limits)

    def resubmit(self, error: SubmitUnknown) -> None:
        """Submit again what was not confirmed when a confirmation was lost; whatever had happened, each job is there once.

        Raises:
            BrokerUnavailable, SubmitUnknown: As for `task.submit`.
        """
        self.publish([frame for frame in error.frames if isinstance(frame, Outgoing)])

    # Sharing

    def share(self, value: T) -> Shared[T]:
        """Put an object where all workers find it, and return the handle that jobs carry in its place.

        It is kept by its content: what is shared again is not sent again. It stays for `keep` seconds after it was shared
        or fetched by a worker last. A parameter annotated `Shared[...]` takes the handle, and the handler calls `.get()`.

        Args:
            value: A numpy array, or anything that can be an argument.

        Raises:
            EncodeError, TooLarge: It cannot travel; the message says which part of it.
            BrokerUnavailable: It is not kept, or not all of it; the same call again goes on from there.
            ConfigurationError: The result backend keeps no shared objects.
        """
        _refuse_in_worker("share()")
        return self.sharing.share(value)

    def unshare(self, handle: Shared[Any]) -> None:
        """Remove what was shared; jobs that still have a handle of it fail, but on hosts that fetched it before.

        Raises:
            BrokerUnavailable: It may be there still.
        """
        self.sharing.drop(handle)

    @property
    def sharing(self) -> Sharing:
        """What reads and keeps shared objects for this dispatcher."""
        with self._lock:
            if self._sharing is None:
                from queuelib.sharing import Sharing  # noqa: PLC0415 - programs that share nothing do without

                self._sharing = Sharing(self._open_blobs, self._store)
            return self._sharing

    @property
    def calls(self) -> Calls:
        """What pickles, runs and reads calls of functions that are no tasks."""
        with self._lock:
            if self._calls is None:
                from queuelib.calls import Calls  # noqa: PLC0415 - msgspec, and what few programs need

                self._calls = Calls(lambda: self.sharing, is_allowed=self.allows_pickle, keep=self.keep)
            return self._calls

    def definition_of(self, function: object) -> Definition | None:
        """Return the task whose function this is; None if there is none."""
        return self._by_function.get(id(function))

    def definition(self, task: str) -> Definition | None:
        """Return what a worker runs under a wire name: one of the tasks, or what every worker knows; None for neither."""
        found = self.definitions.get(task)
        if found is None:
            found = self.calls.definition if task == naming.CALL else builtin.definition_of(task)
        return found

    # Results

    def job(self, id: str) -> Job[Any]:  # noqa: A002 - the word users know
        """Return a job by its id, in any process.

        Raises:
            UnknownJob: The id is mistyped or made up. Ids that look right are looked up when they are used.
        """
        return Job(self.outcomes, parse_job_id(id))

    def gather(self, jobs: Iterable[Job[R]], timeout: Duration | None = None, *, progress: bool = False) -> list[R]:
        """Return the results of jobs in their order; the first failure, in that order, is raised.

        Args:
            jobs: The jobs; they may be of other dispatchers.
            timeout: Seconds for all of them; None for no limit.
            progress: Show a bar on stderr, or a line now and then where that is no terminal. Ctrl-C then cancels what has
                not started, says how to come back to what runs, waits for that, and raises; a second one stops it, too.

        Raises:
            JobTimeout: Not all ended within `timeout` seconds.
            KeyboardInterrupt: After Ctrl-C.
            Exception: What `job.result()` raises.
        """
        return futures.gather(jobs, None if timeout is None else seconds(timeout), bar=progress)

    async def agather(self, jobs: Iterable[Job[R]], timeout: Duration | None = None) -> list[R]:  # noqa: ASYNC109 - that of `gather`
        """Do what `gather` does without blocking the event loop.

        Raises:
            JobTimeout: Not all ended within `timeout` seconds.
            Exception: What `job.result()` raises.
        """
        return await futures.agather(jobs, None if timeout is None else seconds(timeout))

    def as_completed(
        self, jobs: Iterable[Job[R]], timeout: Duration | None = None, *, progress: bool = False
    ) -> futures.Completed[R]:
        """Return an iterator over jobs as they end, for `for` and for `async for`.

        More jobs can be added to it while it runs: `stream.add(job)`, `stream.update(jobs)`. A job that comes twice is
        yielded once. `stream.close()` ends it early.

        Args:
            jobs: The jobs; they may be of other dispatchers.
            timeout: Seconds from now for all of them; None for no limit.
            progress: Show a bar, and cancel at Ctrl-C while it waits: see `gather`.

        Raises:
            JobTimeout: Not all ended within `timeout` seconds.
        """
        return futures.Completed(jobs, None if timeout is None else seconds(timeout), bar=progress)

    def wait(
        self,
        jobs: Iterable[Job[Any]],
        timeout: Duration | None = None,
        return_when: futures.ReturnWhen = "ALL_COMPLETED",
    ) -> futures.DoneAndNotDone:
        """Wait for jobs as `concurrent.futures.wait` does; return the sets `(done, not_done)`.

        Args:
            jobs: The jobs; they may be of other dispatchers.
            timeout: Seconds after which it returns whatever has ended by then; None for no limit.
            return_when: `ALL_COMPLETED`, `FIRST_COMPLETED` or `FIRST_EXCEPTION`, as text or as the constant of
                `concurrent.futures`. A cancelled job is no exception.

        Raises:
            UnknownJob: The id of one of them was never given out.
            BrokerUnavailable: The server has not answered for some seconds.
        """
        return futures.wait(jobs, None if timeout is None else seconds(timeout), return_when)

    def open_results(self) -> ResultBackend:
        """Return the result backend of this process, opened on first use."""
        with self._lock:
            if self._results is None or self._results_pid != os.getpid():
                url = self.results_url
                stored, keys = plugins.backend_for(url).results(url, self.namespace, self.keep), self.keys
                self._results = stored if keys is None else SealedResults(stored, keys, shows_forged=True)
                self._results_pid = os.getpid()
            return self._results

    # Workers

    def workers(
        self,
        processes: int = 2,
        *,
        threads: int = 1,
        asynchronous: int = 0,
        name: str = "",
        allow_pickle: bool | None = None,
    ) -> AbstractContextManager[None]:
        """Run a real worker beside this program while the block lasts.

        It serves the tasks of the modules that registered them here. On leaving, running jobs get 10 s to finish,
        the rest goes back to its queue, and what is queued stays.

        Args:
            processes: Number of children; on memory:// threads of this process.
            threads: How many jobs each of them runs at a time.
            asynchronous: How many jobs of `async def` tasks run at a time, in one more process and one event loop;
                0: they run as all others do.
            name: Name of the worker; made up unless given.
            allow_pickle: Whether it runs pickled functions; None: as this dispatcher says.

        Raises:
            WorkerError: It did not start, or lacks a task that this program has; the message has its words.
        """
        from queuelib import beside  # noqa: PLC0415 - only programs that start workers need it

        _refuse_in_worker("workers()")
        may_unpickle = self.allows_pickle if allow_pickle is None else allow_pickle
        return beside.workers(self, beside.Size(processes, threads, asynchronous), name, may_unpickle=may_unpickle)

    def close(self) -> None:
        """Close connections; a later use opens them again, and so does whoever still watches jobs."""
        with self.outcomes.watch.released(), self._lock:
            if self._publisher is not None:
                self._publisher.close()
                self._publisher = None
            if self._results is not None and self._results_pid == os.getpid():
                self._results.close()
            self._results = None
            if self._sharing is not None:
                self._sharing.close()
            if self._calls is not None:
                self._calls.forget()
            if self._memos is not None:
                self._memos.close()
                self._memos = None
            self._store.close()
            self._repeats = Repeats(self._store)  # the next server may be another one

    # How

    def read_state(self, key: Key) -> bytes | None:
        """Return what a job has saved, for workers in this process; None if it has saved nothing."""
        return self._open_memos().read("state", [key])[0]

    def _open_memos(self) -> Memos:
        with self._lock:
            if self._memos is None:
                memos = plugins.memos_for(self.results_url, self.namespace)
                self._memos = memos if self.keys is None else SealedMemos(memos, self.keys)
            return self._memos

    def _bundles(
        self,
        definition: Definition,
        chunks: Iterable[Chunk],
        options: CallOptions = NO_OPTIONS,
        places: dict[int, int] | None = None,
    ) -> list[Bundle]:
        places = {} if places is None else places
        return [self._bundle(definition, chunk, options, places=places) for chunk in chunks]

    def _bundle(
        self,
        definition: Definition,
        chunk: Chunk,
        options: CallOptions,
        inputs: Sequence[Input] = (),
        *,
        places: dict[int, int] | None = None,
    ) -> Bundle:
        """Return calls as a bundle; `places` counts those of one seed that went before in the same call."""
        now, seed, first = self._clock.wall(), options.seed, 0
        if seed is not None and places is not None:
            first = places.get(seed, 0)
            places[seed] = first + chunk.count
        column = chunk.column
        # What waits for others is in pieces; what waits for days may outlast what is kept.
        if len(column) > LARGE_BYTES and not inputs and (options.delay or 0.0) <= _SOON:
            column = self._repeats.moved(column, chunk.count)
        return Bundle(
            id=new_bundle_id(now),
            task=definition.name,
            color=self._color_of(definition, options),
            size=chunk.count,
            indexes=range(chunk.count),
            column=column,
            schema=definition.schema.hash,
            limits=options.limits or definition.options.limits,
            submitted=now,
            due=None if not options.delay else now + options.delay,
            expires=None if options.expires is None else now + options.expires,
            attempt=0 if inputs else 1,
            reply=self.open_results().inbox(),
            inputs=inputs,
            seed=seed,
            first=first,
        )

    def _submit_bundles(self, bundles: Sequence[Bundle]) -> list[Job[Any]]:
        keys = self.keys
        self.publish([outgoing(bundle, keys) for bundle in bundles])
        made: list[Job[Any]] = []
        for bundle in bundles:
            about = (bundle.task, bundle.color)
            made += [Job(self.outcomes, Key(bundle.id, index), about) for index in bundle.indexes]
        return made

    def publish(self, frames: Sequence[Outgoing]) -> None:
        """Hand frames to the broker, in batches; what `submit` ends in.

        Raises:
            BrokerUnavailable: `error.accepted` has the ids of the jobs that were accepted before.
            SubmitUnknown: A confirmation was lost; `error.ids` are all that were not confirmed.
        """
        end = self._clock.monotonic() + self._deadline
        accepted: list[str] = []
        for start in range(0, len(frames), _FRAMES_A_PUBLISH):
            batch = frames[start : start + _FRAMES_A_PUBLISH]
            try:
                publisher = self._open_publisher()
                results = self.open_results()
                (results.expect if self._transport_keeps_records else results.accept)(batch)
                publisher.publish(batch, max(0.1, end - self._clock.monotonic()))
            except BrokerUnavailable as error:
                error.accepted = (*accepted, *_ids(f for f in batch if f.bundle.hex() in error.accepted))
                raise
            except SubmitUnknown as error:
                doubtful = [frame for frame in error.frames if isinstance(frame, Outgoing)]
                error.accepted = (*accepted, *_ids(f for f in batch if f not in doubtful))
                doubtful += frames[start + _FRAMES_A_PUBLISH :]  # so that resubmit completes the call
                error.frames, error.ids = tuple(doubtful), tuple(_ids(doubtful))
                error.unknown = error.ids
                raise
            accepted += _ids(batch) if len(frames) > _FRAMES_A_PUBLISH else ()
            end = self._clock.monotonic() + self._deadline

    def _open_blobs(self, keep: float | None = None) -> Blobs:
        blobs = plugins.blobs_for(self.results_url, self.namespace, self.keep if keep is None else keep)
        return blobs if self.keys is None else SealedBlobs(blobs, self.keys)

    def _open_publisher(self) -> Publisher:
        with self._lock:
            if self._publisher is None:
                from queuelib import broker  # noqa: PLC0415 - kombu takes 60 ms to import

                settings = broker.settings_for(self.broker_url, self.namespace)
                self._publisher = broker.Publisher(settings, self.namespace)
                # Where broker and results are one server, publishing writes the record as well.
                same = self.results_url == self.broker_url
                self._transport_keeps_records = same and settings.capabilities.deduplicates
            return self._publisher

    def _color_of(self, definition: Definition, options: CallOptions) -> str:
        if options.color is not None:
            return self.palette.require(options.color)
        for pattern, color in self._routes.items():
            if isinstance(pattern, str):
                if fnmatch.fnmatchcase(definition.name, pattern):
                    return color
            elif definition.message_class is not None and issubclass(definition.message_class, pattern):
                return color
        return definition.options.color or self.palette.default

    def _definition_of(self, message: object) -> Definition:
        definition = self._classes.get(type(message))
        if definition is None:
            msg = (
                f"{type(message).__qualname__} is not a registered message: decorate the class with @dispatcher.message, "
                "or call .submit(...) of a task"
            )
            raise UnknownTask(msg)
        return definition

    def _add(self, definition: Definition) -> None:
        other = self.definitions.get(definition.name)
        if other is not None:
            msg = f"the task name {definition.name!r} is taken; give one of the two another name="
            raise RegistrationError(msg)
        self.definitions[definition.name] = definition
        if definition.function is not None:
            self._by_function[id(definition.function)] = definition

    def _options(self, wishes: Wishes) -> TaskOptions:
        options = make_options(wishes)
        if options.color is not None:
            self.palette.require(options.color)
        return options

    def _load_results(self, task: str, encoded: bytes) -> list[Any]:
        before = reader.set(self._reader)
        try:
            return self._read_values(task, encoded)
        except StoredInside:
            with resolving(self._reader.load):
                return self._read_values(task, encoded)
        finally:
            reader.reset(before)

    def _read_values(self, task: str, encoded: bytes) -> list[Any]:
        definition = self.definitions.get(task)
        if definition is not None:
            return definition.schema.load_results(encoded)
        return self.calls.results(encoded) if task == naming.CALL else plain_values(encoded)

    def _how_to_serve(self, task: str, color: str) -> str:
        url = self.broker_url
        if url.startswith("sqlite:///"):
            url = "sqlite:///" + os.path.abspath(url[len("sqlite:///") :])  # noqa: PTH100 - keeps the URL's own slashes
        definition = self.definitions.get(task)
        target = naming.worker_target(definition.function or definition.message_class) if definition else "MODULE"
        target = "--allow-pickle" if task == naming.CALL else target
        return (
            f"queuelib: no live worker serves task {task!r} in color {color!r} on {mask(url)}. "
            f"Start one: QUEUELIB_BROKER={mask(url)} queuelib worker {target}"
        )


class _Reader:
    """Reads for handles in results; what that takes is made once there is one."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def read(self, hash: bytes, size_bytes: int, wanted: Any) -> Any:  # noqa: A002 - as in `Reader`
        return self._dispatcher.sharing.read(hash, size_bytes, wanted)

    def load(self, stored: Stored) -> bytes:
        return self._dispatcher.sharing.load(stored)

    def keep(self, result: bytes) -> Stored:
        return self._dispatcher.sharing.keep(result)


_dispatchers: WeakSet[Dispatcher] = WeakSet()


def _renew_locks() -> None:
    for dispatcher in _dispatchers:
        dispatcher._lock = threading.RLock()  # noqa: SLF001 - a thread of the parent's may hold it, which is not here
        if dispatcher._calls is not None:  # noqa: SLF001
            dispatcher._calls.renew_lock()  # noqa: SLF001


os.register_at_fork(after_in_child=_renew_locks)


def _ids(frames: Iterable[Outgoing]) -> list[str]:
    return [job_id(frame.bundle, index) for frame in frames for index in range(frame.size)]


def _check_namespace(namespace: str) -> None:
    if not NAMESPACE.match(namespace):
        msg = f"a namespace is 1 to 64 letters, digits, '_' or '-', not {namespace!r}"
        raise ConfigurationError(msg)


def _refuse_in_worker(what: str) -> None:
    if naming.is_importing:
        msg = (
            f"{what} ran while a worker imported this module. Put what the program does, as opposed to what it defines, "
            'under `if __name__ == "__main__":`'
        )
        raise QueuelibError(msg)
