"""The dispatcher, the face of all this to a program: declares tasks, submits, gathers, shares, starts workers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from queuelib import builtin, futures, naming
from queuelib.address import Address
from queuelib.bundler import Bundler
from queuelib.clock import SYSTEM, Clock, seconds
from queuelib.color import DEFAULT_PALETTE, Palette
from queuelib.connections import Connections
from queuelib.errors import SubmitUnknown
from queuelib.events import Events
from queuelib.handle import Shared
from queuelib.handlers import Handlers
from queuelib.ids import Key, parse_job_id
from queuelib.job import Job, Outcomes
from queuelib.message import Message, Outgoing
from queuelib.notice import how_to_serve
from queuelib.options import Duration, Wishes, duration, time_to_keep
from queuelib.producer import Producer
from queuelib.reading import ResultReader
from queuelib.registry import TaskRegistry
from queuelib.routing import Routing
from queuelib.settings import KEEP, SUBMIT_DEADLINE
from queuelib.signing import Keyring
from queuelib.task import Definition, Task, TaskDecorator

if TYPE_CHECKING:
    from queuelib.calls import Calls
    from queuelib.ports import ResultBackend
    from queuelib.sharing import Sharing

__all__ = ["Dispatcher"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound=type)


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
        self.palette = palette
        self.keep = time_to_keep(keep)
        self.allows_pickle = allow_pickle
        self.events = Events()
        self._registry = TaskRegistry(palette)
        self.definitions, self.handlers = self._registry.definitions, self._registry.handlers
        self._exceptions: dict[str, type[Exception]] = {}
        self._connections = Connections(Address(broker, results, namespace, key), self.keep)
        self._calls: Calls | None = None
        self.outcomes = Outcomes(
            self._connections.results,
            ResultReader(self.definitions, self._connections.sharing, lambda: self.calls).values,
            self._exceptions,
            self.keep,
            self._how_to_serve,
            self.events,
            self._connections.memos,
        )
        routing = Routing(palette, routes or {})
        bundler = Bundler(routing, self._connections, clock)
        within = duration("submit_deadline", submit_deadline, above_zero=True)
        self.producer = Producer(
            self._registry, routing, bundler, self._connections, self.outcomes, clock=clock, deadline=within
        )

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
        address = self._connections.address.moved(broker, results, namespace, key)
        self.close()
        self._connections.address = address

    @contextmanager
    def redirected(self, broker: str, *, clock: Clock | None = None) -> Generator[None]:
        """Connect elsewhere while the block lasts, for messages and results alike, and then as before.

        It is for tests: what is submitted meanwhile goes there, and nothing reaches the servers of before. Namespace
        and keys stay.

        Args:
            broker: URL of the broker.
            clock: The clocks meanwhile; None: those of before.
        """
        address = self._connections.address
        self.configure(broker=broker, results=broker)
        own_clock = None if clock is None else self.producer.use_clock(clock)
        try:
            yield
        finally:
            self.close()
            self._connections.address = address
            if own_clock is not None:
                self.producer.use_clock(own_clock)

    @property
    def broker_url(self) -> str:
        """URL of the broker, with a relative file made absolute by whoever opens it."""
        return self._connections.address.broker_url

    @property
    def results_url(self) -> str:
        """URL of the result backend."""
        return self._connections.address.results_url

    @property
    def namespace(self) -> str:
        """Prefix of everything this dispatcher names.

        Raises:
            ConfigurationError: $QUEUELIB_NAMESPACE cannot work.
        """
        return self._connections.address.namespace

    @property
    def keys(self) -> Keyring | None:
        """Who signs and whose signatures count; None: nothing is signed or checked. Read once.

        Raises:
            ConfigurationError: The key, or $QUEUELIB_UNSIGNED, makes no sense.
        """
        return self._connections.address.keys

    # Registering

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, R]: ...

    @overload
    def task(self, /, **wishes: Unpack[Wishes]) -> TaskDecorator: ...

    def task(self, function: Callable[..., Any] | None = None, /, **wishes: Unpack[Wishes]) -> Any:
        """Register a function as a task; usable bare, `@dispatcher.task`, or with options.

        Args:
            function: The function; it stays callable as before.
            wishes: Its options: see `queuelib.options.Wishes`.

        Raises:
            RegistrationError: The name is taken.
            ConfigurationError: An option cannot work.
        """
        options, name = self._registry.options(wishes), wishes.get("name")

        def register(fn: Callable[..., Any]) -> Task[..., Any, Any]:
            return Task(self.producer, self._registry.add_function(fn, options, name), fn)

        return register if function is None else register(function)

    @overload
    def message(self, cls: M, /) -> M: ...

    @overload
    def message(self, /, **wishes: Unpack[Wishes]) -> Callable[[M], M]: ...

    def message(self, cls: type | None = None, /, **wishes: Unpack[Wishes]) -> Any:
        """Register a class as a typed message; a bare annotated class becomes a frozen dataclass.

        Args and errors are those of `task`; the handler is the visitor's `visit_<ClassName>`.
        """
        options, name = self._registry.options(wishes), wishes.get("name")

        def register(message_class: type) -> type:
            return self._registry.add_class(message_class, options, name)

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
        return self.producer.submit_messages(messages)

    def resubmit(self, error: SubmitUnknown) -> None:
        """Submit again what was not confirmed when a confirmation was lost; whatever had happened, each job is there once.

        Raises:
            BrokerUnavailable, SubmitUnknown: As for `task.submit`.
        """
        self.producer.publish([frame for frame in error.frames if isinstance(frame, Outgoing)])

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
        naming.refuse_while_importing("share()")
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
        return self._connections.sharing()

    @property
    def calls(self) -> Calls:
        """What pickles, runs and reads calls of functions that are no tasks."""
        with self._connections.lock:
            if self._calls is None:
                from queuelib.calls import Calls  # noqa: PLC0415 - msgspec, and what few programs need

                self._calls = Calls(self._connections.sharing, is_allowed=self.allows_pickle, keep=self.keep)
            return self._calls

    def definition_of(self, function: object) -> Definition | None:
        """Return the task whose function this is; None if there is none."""
        return self._registry.of_function(function)

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
        return self._connections.results()

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

        naming.refuse_while_importing("workers()")
        may_unpickle = self.allows_pickle if allow_pickle is None else allow_pickle
        return beside.workers(self, beside.Size(processes, threads, asynchronous), name, may_unpickle=may_unpickle)

    def close(self) -> None:
        """Close connections; a later use opens them again, and so does whoever still watches jobs."""
        with self.outcomes.watch.released():
            self._connections.close()
            if self._calls is not None:
                self._calls.forget()

    # How

    def read_state(self, key: Key) -> bytes | None:
        """Return what a job has saved, for workers in this process; None if it has saved nothing."""
        return self._connections.memos().read("state", [key])[0]

    def publish(self, frames: Sequence[Outgoing]) -> None:
        """Hand frames to the broker, in batches; what `submit` ends in.

        Raises:
            BrokerUnavailable: `error.accepted` has the ids of the jobs that were accepted before.
            SubmitUnknown: A confirmation was lost; `error.ids` are all that were not confirmed.
        """
        self.producer.publish(frames)

    def _how_to_serve(self, task: str, color: str) -> str:
        definition = self.definitions.get(task)
        thing = None if definition is None else definition.function or definition.message_class
        return how_to_serve(task, color, self.broker_url, thing)
