"""A joblib backend: after `import queuelib.joblib`, `joblib.parallel_config("queuelib")` runs what joblib runs on workers.

scikit-learn and whatever else uses `joblib.Parallel` needs no other change.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

try:
    from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase, SequentialBackend
    from joblib.parallel import BatchedCalls, register_parallel_backend
except ImportError as error:
    msg = "queuelib.joblib needs joblib: pip install 'queuelib-kombu[joblib]'"
    raise ImportError(msg) from error

from queuelib.dispatcher import Dispatcher
from queuelib.executor import Executor
from queuelib.extensions import check_array
from queuelib.handle import Shared

if TYPE_CHECKING:
    from joblib import Parallel

__all__ = ["QueueBackend"]

_LARGE = 256 * 1024  # bytes of an array
_FEWEST = 2  # joblib runs everything in the program itself where it is told of one worker


class QueueBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs batches of calls as jobs; joblib makes it from the arguments of `parallel_config("queuelib", ...)`.

    Args:
        executor: Runs the calls; it stays open. By default one is made for each use, and closed after it.
        dispatcher: Where that one submits; by default `Dispatcher()`, the broker in QUEUELIB_BROKER or the embedded file.
        inner_max_num_threads: Not taken: children of a worker have one thread for BLAS and OpenMP unless the worker's
            environment says otherwise.
        nesting_level: joblib's.

    Raises:
        TypeError: Both an executor and a dispatcher.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    supports_sharedmem = False
    uses_threads = False
    default_n_jobs = -1

    def __init__(
        self,
        *,
        executor: Executor | None = None,
        dispatcher: Dispatcher | None = None,
        inner_max_num_threads: int | None = None,
        nesting_level: int | None = None,
    ) -> None:
        if executor is not None and dispatcher is not None:
            msg = "give an executor or a dispatcher: an executor has a dispatcher"
            raise TypeError(msg)
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._given = executor
        self._dispatcher = dispatcher
        self._executor = executor
        self._open: set[Future[Any]] = set()
        self._handles: dict[int, tuple[Any, bytes, Shared[Any]]] = {}  # arrays of this call of Parallel, by id

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return for how many workers joblib is to cut the work: as asked, -1 for all children that there are."""
        if n_jobs == 0:
            msg = "n_jobs == 0 has no meaning"
            raise ValueError(msg)
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs > 0:
            return n_jobs
        return max(_FEWEST, self._pool().size + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Parallel | None = None, **_: Any) -> int:
        """Get ready for a `Parallel`, and return its number of workers."""
        self.parallel = parallel
        self.reset_batch_stats()
        return self.effective_n_jobs(n_jobs)

    def start_call(self) -> None:
        """Let go of the arrays of the call before."""
        self._handles.clear()

    def submit(self, func: BatchedCalls, callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Submit a batch of calls; large arrays among their arguments are shared, once for all batches.

        What cannot be submitted is a future that has failed: joblib submits from callbacks, where nobody sees an error.
        """
        try:
            func.items = [
                (call, tuple(map(self._light, args)), {name: self._light(value) for name, value in kwargs.items()})
                for call, args, kwargs in func.items
            ]
            future: Future[Any] = self._pool().submit(_run, func)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call of Parallel is to raise it
            future = Future()
            future.set_exception(error)
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what a batch returned, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - joblib's signature
        """Cancel the batches that have not started: one has failed, or nobody wants the rest."""
        for future in list(self._open):
            future.cancel()

    def terminate(self) -> None:
        """Close what was made here."""
        if self._given is not None or self._executor is None:
            return
        pool, self._executor = self._executor, None
        pool.shutdown(wait=False, cancel_futures=True)
        if self._dispatcher is None:
            pool.dispatcher.close()

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Return what a `Parallel` within a job uses: its own process, as all others have work."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def _light(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is None or type(value) is not numpy.ndarray or value.nbytes <= _LARGE:
            return value
        try:
            check_array(value)
        except TypeError:  # one with fields, say: it can be pickled, and is not shared
            return value
        # As bytes, since times have no buffer of their own. It may be written to between two batches.
        digest = hashlib.sha256(numpy.ascontiguousarray(value).view(numpy.uint8).data).digest()
        _, known, handle = self._handles.get(id(value), (None, b"", None))
        if handle is None or known != digest:
            handle = self._pool().dispatcher.share(value)
            self._handles[id(value)] = value, digest, handle  # it lives as long as its id stands here
        return handle

    def _pool(self) -> Executor:
        if self._executor is None:
            self._executor = Executor(self._dispatcher or Dispatcher(allow_pickle=True))
        return self._executor


def _run(batch: BatchedCalls) -> list[Any]:
    """Run a batch in a worker."""
    batch.items = [
        (call, tuple(map(_whole, args)), {name: _whole(value) for name, value in kwargs.items()})
        for call, args, kwargs in batch.items
    ]
    results: list[Any] = batch()
    return results


def _whole(value: Any) -> Any:
    return value.get() if type(value) is Shared else value


register_parallel_backend("queuelib", QueueBackend)
