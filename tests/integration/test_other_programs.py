"""Programs that take a pool, a map or joblib, on workers: what they compute is, bit for bit, what they compute alone."""

from __future__ import annotations

import random
import secrets
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import joblib
import numpy as np
import pytest
from deap import algorithms, base, creator, tools
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize as pymoo_minimize
from pymoo.parallelization.starmap import StarmapParallelization
from scipy import integrate, optimize
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from queuelib import Dispatcher, Executor
from queuelib.errors import EncodeError, PickleRefused
from queuelib.joblib import QueueBackend
from tests.integration.lab import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Vector: TypeAlias = "NDArray[np.float64]"
Parallel: Any = joblib.Parallel  # what it returns depends on its arguments
Optimize: Any = optimize  # whose `workers` is said to be a number
QuadVec: Any = integrate.quad_vec
Kinds: Any = creator  # a module to which classes are added
Toolbox: Any = base.Toolbox  # and a class to which functions are


@pytest.fixture(scope="module")
def place(broker_kind: str, server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and namespace that two children serve, which take functions, for all tests of one broker."""
    url = server_url or f"sqlite:///{tmp_path_factory.mktemp('programs')}/jobs.db"
    namespace = f"programs{secrets.token_hex(6)}"
    dispatcher = Dispatcher(url, namespace=namespace, allow_pickle=True)
    try:
        with dispatcher.workers(processes=2):
            dispatcher.close()
            yield url, namespace
    finally:
        dispatcher.close()
        clean(broker_kind, url, namespace)


@pytest.fixture
def pool(place: tuple[str, str]) -> Iterator[Executor]:
    """An executor that they serve."""
    url, namespace = place
    with closing(Dispatcher(url, namespace=namespace, allow_pickle=True)) as dispatcher, Executor(dispatcher) as pool:
        yield pool


def valley(weights: list[float]) -> Callable[[Vector], float]:
    """Return a function to be minimized; it travels by value, as a function of a notebook does."""

    def depth(x: Vector) -> float:
        return float(np.sum(np.asarray(weights) * (x - 0.5) ** 2) + np.sum(np.sin(9 * x)))

    return depth


def same(one: Any, other: Any) -> bool:
    """Whether two arrays hold the same bits."""
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


# SciPy


def test_differential_evolution(pool: Executor) -> None:
    """`workers=` takes the executor's map."""

    def solve(**how: Any) -> Any:
        f = valley([1.0, 2.0, 3.0])
        return Optimize.differential_evolution(
            f, [(-2, 2)] * 3, rng=7, popsize=5, maxiter=5, updating="deferred", polish=False, **how
        )

    alone, spread = solve(workers=1), solve(workers=pool.map)
    assert same(alone.x, spread.x)
    assert alone.fun == spread.fun
    assert alone.nfev == spread.nfev > 50


def test_gradients_grids_and_integrals(pool: Executor) -> None:
    """`minimize`, `brute` and `quad_vec` take it, too."""
    f = valley([1.0, 4.0])
    x0 = np.array([0.9, -0.2])
    alone = Optimize.minimize(f, x0, method="L-BFGS-B")
    spread = Optimize.minimize(f, x0, method="L-BFGS-B", options={"workers": pool.map})
    assert same(alone.x, spread.x)
    assert alone.nit == spread.nit > 0
    grid = (slice(-1, 1, 0.5), slice(-1, 1, 0.5))
    assert same(Optimize.brute(f, grid, finish=None), Optimize.brute(f, grid, finish=None, workers=pool.map))

    def wave(x: float) -> Vector:
        return np.array([np.sin(x), x**3])

    assert same(QuadVec(wave, 0, 2)[0], QuadVec(wave, 0, 2, workers=pool.map)[0])


def test_an_error_in_what_is_minimized_is_seen(pool: Executor) -> None:
    """SciPy wraps a TypeError in words of its own; the handler's stays readable behind it."""

    def broken(_: Vector) -> float:
        msg = "no such genome"
        raise TypeError(msg)

    with pytest.raises((RuntimeError, TypeError)) as caught:
        Optimize.differential_evolution(broken, [(0, 1)], workers=pool.map, updating="deferred", maxiter=1)
    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__ or error.__context__
    assert any("no such genome" in text for text in chain)


# DEAP


def test_deap(pool: Executor) -> None:
    """`toolbox.register("map", pool.map)` is all."""
    Kinds.create("Most", base.Fitness, weights=(1.0,))
    Kinds.create("Genome", list, fitness=Kinds.Most)

    def ones(genome: list[int]) -> tuple[int]:
        return (sum(genome),)

    def evolve(mapping: Any) -> list[tuple[list[int], tuple[float, ...]]]:
        toolbox = Toolbox()
        toolbox.register("map", mapping)
        toolbox.register("gene", random.randint, 0, 1)
        toolbox.register("genome", tools.initRepeat, Kinds.Genome, toolbox.gene, 30)
        toolbox.register("population", tools.initRepeat, list, toolbox.genome)
        toolbox.register("evaluate", ones)
        toolbox.register("mate", tools.cxTwoPoint)
        toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
        toolbox.register("select", tools.selTournament, tournsize=3)
        random.seed(11)
        population, _ = algorithms.eaSimple(toolbox.population(n=30), toolbox, 0.5, 0.2, 6, verbose=False)
        return [(list(genome), genome.fitness.values) for genome in population]

    try:
        alone, spread = evolve(map), evolve(pool.map)
    finally:
        del Kinds.Most, Kinds.Genome
    assert alone == spread
    assert max(fitness for _, fitness in spread) > (20.0,)


# pymoo


def test_pymoo(pool: Executor) -> None:
    """`StarmapParallelization` takes the executor's starmap."""

    class Problem(ElementwiseProblem):  # type: ignore[misc]  # pymoo has no types
        def __init__(self, **how: Any) -> None:
            super().__init__(n_var=3, n_obj=1, xl=-2.0, xu=2.0, **how)

        def _evaluate(self, x: Vector, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = np.sum((x - 0.25) ** 2) + np.sin(7 * x[0])

    def solve(**how: Any) -> Any:
        return pymoo_minimize(Problem(**how), GA(pop_size=16), ("n_gen", 4), seed=3, verbose=False)

    alone = solve()
    spread = solve(elementwise_runner=StarmapParallelization(pool.starmap))
    assert same(alone.X, spread.X)
    assert same(alone.F, spread.F)


# joblib and scikit-learn


def test_joblib(pool: Executor) -> None:
    """`joblib.Parallel` in each of its ways, with batches that joblib makes."""
    assert joblib.parallel.BACKENDS["queuelib"] is QueueBackend
    calls = [joblib.delayed(pow)(i, 2) for i in range(200)]
    squares = [i * i for i in range(200)]
    with joblib.parallel_config("queuelib", executor=pool):
        assert Parallel()(calls) == squares
        assert list(Parallel(return_as="generator")(calls)) == squares
        assert sorted(Parallel(return_as="generator_unordered")(calls)) == squares
        assert Parallel(n_jobs=1)(calls[:3]) == squares[:3]


def test_large_arrays_are_shared_once(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come read-only, as joblib's own do; what was written to them between two calls is seen."""
    shared: list[int] = []
    share = pool.dispatcher.share

    def counted(value: Any) -> Any:
        shared.append(value.nbytes)
        return share(value)

    monkeypatch.setattr(pool.dispatcher, "share", counted)
    table = np.arange(200_000, dtype=np.float64)

    def look(row: int, table: Vector, *, other: Vector) -> tuple[float, bool, bool]:
        return float(table[row]), table.flags.writeable, other is table

    with joblib.parallel_config("queuelib", executor=pool):
        found = Parallel()(joblib.delayed(look)(i, table, other=table) for i in range(20))
        assert found == [(float(i), False, True) for i in range(20)]
        assert shared == [table.nbytes]
        table[3] = -1.0
        assert Parallel()(joblib.delayed(look)(i, table, other=table) for i in (3, 4))[0][0] == -1.0


def test_an_array_that_is_filled_again_is_sent_again(pool: Executor) -> None:
    """Also within one call: a generator may use one buffer for all, of which joblib sees every second state."""
    buffer = np.zeros(50_000)

    def calls() -> Iterator[Any]:
        for i in range(6):
            buffer[:] = i
            yield joblib.delayed(np.sum)(buffer)

    with joblib.parallel_config("queuelib", executor=pool):
        found = Parallel(n_jobs=2, batch_size=1)(calls())
    assert found[-1] == 250_000.0


def test_large_arrays_of_any_kind_travel(pool: Executor) -> None:
    """Those of times, and those that can be pickled and not shared: with fields, of raw bytes."""
    tables: list[Any] = [
        np.arange(40_000).astype("datetime64[s]"),
        np.arange(40_000).astype("timedelta64[ms]"),
        np.zeros(40_000, dtype=[("at", "<f8"), ("count", "<i4")]),
        np.arange(40_000).view("V8"),
    ]

    def look(table: Any) -> tuple[str, bytes]:
        return str(table.dtype), table.tobytes()

    with joblib.parallel_config("queuelib", executor=pool):
        for table in tables:
            found = Parallel()(joblib.delayed(look)(table) for _ in range(2))
            assert found == [(str(table.dtype), table.tobytes())] * 2


def test_what_cannot_be_submitted_later_is_an_error(pool: Executor) -> None:
    """Joblib submits all but the first batches in a callback, where an error of ours would be lost."""
    values = [1, 2, 3, 4, threading.Lock(), 5, 6]
    with joblib.parallel_config("queuelib", executor=pool), pytest.raises(EncodeError, match="lock"):
        Parallel(n_jobs=2, pre_dispatch=2)(joblib.delayed(str)(value) for value in values)


def test_a_dispatcher_or_nothing_will_do(place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend makes its own executor, and closes what it made."""
    url, namespace = place
    with closing(Dispatcher(url, namespace=namespace, allow_pickle=True)) as dispatcher:
        with joblib.parallel_config("queuelib", dispatcher=dispatcher):
            assert Parallel()(joblib.delayed(pow)(i, 2) for i in range(4)) == [0, 1, 4, 9]
    monkeypatch.setenv("QUEUELIB_BROKER", url)
    monkeypatch.setenv("QUEUELIB_NAMESPACE", namespace)
    with joblib.parallel_config("queuelib", n_jobs=2):
        assert Parallel()(joblib.delayed(pow)(i, 2) for i in range(4)) == [0, 1, 4, 9]


def test_mistakes_are_named(pool: Executor) -> None:
    """Two pools, no workers' number at all, a dispatcher that takes no functions."""
    with pytest.raises(TypeError, match="an executor or a dispatcher"):
        joblib.parallel_config("queuelib", executor=pool, dispatcher=pool.dispatcher)
    with joblib.parallel_config("queuelib", executor=pool), pytest.raises(ValueError, match="n_jobs"):
        Parallel(n_jobs=0)([joblib.delayed(pow)(1, 2)])
    with (
        closing(Dispatcher("memory://no-functions")) as strict,
        joblib.parallel_config("queuelib", dispatcher=strict),
        pytest.raises(PickleRefused, match="allow_pickle=True"),
    ):
        Parallel()([joblib.delayed(pow)(1, 2)] * 3)


def test_an_error_of_joblib_ends_all(pool: Executor) -> None:
    """It is raised as it was, and the backend can be used again."""

    def check(i: int) -> int:
        if i == 7:
            msg = "seven"
            raise KeyError(msg)
        return i

    with joblib.parallel_config("queuelib", executor=pool):
        with pytest.raises(KeyError, match="seven"):
            Parallel()(joblib.delayed(check)(i) for i in range(50))
        assert Parallel()(joblib.delayed(check)(i) for i in range(5)) == list(range(5))


def test_a_parallel_within_a_job_runs_there(pool: Executor) -> None:
    """Or the children would start threads for each other's work."""

    def inner(n: int) -> tuple[int, str]:
        backend, _ = joblib.parallel.get_active_backend()
        return sum(Parallel(n_jobs=2)(joblib.delayed(pow)(i, 2) for i in range(n))), type(backend).__name__

    with joblib.parallel_config("queuelib", executor=pool):
        assert Parallel()(joblib.delayed(inner)(n) for n in (3, 4)) == [
            (5, "SequentialBackend"),
            (14, "SequentialBackend"),
        ]


def test_scikit_learn(pool: Executor) -> None:
    """A search over a grid and a forest give the scores and the probabilities that they give alone."""
    x, y = make_classification(n_samples=120, n_features=8, random_state=5)

    def work() -> tuple[Any, Any, Any]:
        search = GridSearchCV(SVC(random_state=0), {"C": [0.1, 1.0, 10.0], "gamma": [0.1, 0.01]}, cv=3).fit(x, y)
        forest = RandomForestClassifier(n_estimators=12, random_state=9).fit(x, y)
        return search.cv_results_["mean_test_score"], search.best_params_, forest.predict_proba(x)

    alone = work()
    with joblib.parallel_config("queuelib", executor=pool):
        spread = work()
    assert same(alone[0], spread[0])
    assert alone[1] == spread[1]
    assert same(alone[2], spread[2])
