"""The workloads by themselves: their mathematics, their determinism, and fan-out over a stand-in for the queue."""

from __future__ import annotations

import json
import math
import sys
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queuelib.workloads import fibonacci, genetic, monte_carlo
from queuelib.workloads.genetic import EvaluateGenome, Genetics, evaluate, evolve, planned_evaluations
from queuelib.workloads.monte_carlo import Moments, black_scholes, european_option, pi
from queuelib.workloads.objectives import OBJECTIVES, find_objective
from queuelib.workloads.ordered import Here, in_order
from queuelib.workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ROOT = 20260101
REAL = sorted(name for name, objective in OBJECTIVES.items() if not objective.is_binary)
FLOATS = st.floats(-1e6, 1e6)


class StubJob:
    """A job of the stand-in: already run, or failed, or never to be started."""

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.value: Any = None
        self.error: Exception | None = None
        self.was_cancelled = False

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value

    def cancel(self) -> None:
        self.was_cancelled = True


class Scattered:
    """Stands in for a task or dispatcher: runs what is submitted in a shuffled order, over text as a wire would."""

    def __init__(self, handler: Callable[..., Any], seed: int = 0) -> None:
        self.handler = handler
        self.random = Random(seed)
        self.jobs: dict[str, StubJob] = {}
        self.colors: list[str] = []

    def options(self, *, color: str) -> Scattered:
        self.colors.append(color)
        return self

    def submit_many(self, calls: Iterable[Any]) -> list[StubJob]:
        jobs = []
        waiting = []
        for call in calls:
            jobs.append(StubJob(f"job{len(self.jobs)}"))
            self.jobs[jobs[-1].id] = jobs[-1]
            arguments = call if isinstance(call, tuple) else tuple(asdict(call).values())
            waiting.append((jobs[-1], json.dumps(arguments)))
        self.random.shuffle(waiting)
        for job, wire in waiting:
            try:
                job.value = json.loads(json.dumps(self.handler(*json.loads(wire))))
            except ValueError as error:
                job.error = error
        return jobs

    def job(self, job_id: str) -> StubJob:
        return self.jobs[job_id]

    def gather(self, jobs: Iterable[StubJob]) -> list[Any]:
        return [job.result() for job in jobs]


def scatter_genetics(monkeypatch: pytest.MonkeyPatch, seed: int) -> Scattered:
    scattered = Scattered(lambda *fields: Genetics().visit_EvaluateGenome(EvaluateGenome(*fields)), seed)
    monkeypatch.setattr(genetic, "dispatcher", scattered)
    return scattered


def small_evolution(**changes: Any) -> genetic.Evolution:
    options = {"dimensions": 4, "population": 12, "generations": 6, "root_seed": ROOT, "serial": True}
    domain = changes.pop("domain", "rastrigin")
    return evolve(domain, **(options | changes))


class TestStreams:
    def test_matches_the_published_vector(self) -> None:
        """A stream is numpy's PCG64 of SeedSequence(root, spawn_key=key), so that other programs can draw it too."""
        assert stream(ROOT, 0).bit_generator.random_raw(2).tolist() == [9432637935875211328, 18135018249918895532]
        assert stream(ROOT, 0).random(3).tolist() == [0.5113443271172544, 0.9831013092313168, 0.24372905798053812]

    def test_keys_name_different_streams(self) -> None:
        """Streams of different keys differ, also where one key begins with the other."""
        draws = {stream(ROOT, *key).random() for key in [(), (0,), (0, 0), (0, 1), (1, 0), (0, 0, 1), (1,)]}
        assert len(draws) == 7

    def test_refuses_negative_seeds(self) -> None:
        """A negative seed is an error, not another seed in disguise."""
        with pytest.raises(ValueError, match="non-negative"):
            stream(-1, 0)


class TestInOrder:
    def test_counts_each_result(self) -> None:
        """The watcher hears of every result, counting on from earlier calls."""
        heard: list[tuple[int, int]] = []
        jobs = [Here(partial(str.upper, value)) for value in "abc"]
        assert list(in_order(jobs, on_done=lambda *counts: heard.append(counts), before=10)) == ["A", "B", "C"]
        assert heard == [(11, 0), (12, 0), (13, 0)]

    def test_failure_is_counted_raised_and_stops_the_rest(self) -> None:
        """The first failure reaches the watcher and the caller, and later jobs are cancelled."""
        jobs = [StubJob(str(index)) for index in range(4)]
        jobs[1].error = ArithmeticError("no")
        heard: list[tuple[int, int]] = []
        with pytest.raises(ArithmeticError):
            list(in_order(jobs, on_done=lambda *counts: heard.append(counts)))
        assert heard == [(1, 0), (1, 1)]
        assert [job.was_cancelled for job in jobs] == [False, True, True, True]

    def test_closing_early_cancels_what_is_left(self) -> None:
        """A caller that stops half-way leaves no work behind."""
        jobs = [StubJob(str(index)) for index in range(3)]
        with closing(in_order(jobs)) as results:
            next(results)
        assert [job.was_cancelled for job in jobs] == [False, True, True]


class TestObjectives:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_has_its_minimum_where_it_says(self, name: str) -> None:
        """At its minimum an objective has its least value, to rounding."""
        objective = OBJECTIVES[name]
        assert objective.at([objective.minimum_at] * 10) == pytest.approx(objective.minimum, abs=1e-15)

    @pytest.mark.parametrize("name", OBJECTIVES)
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def test_is_never_below_its_minimum(self, name: str, seed: int) -> None:
        """No point within the bounds beats the known minimum."""
        objective = OBJECTIVES[name]
        points = np.random.default_rng(seed).uniform(objective.lower, objective.upper, (50, 5))
        assert objective.function(points).min() >= objective.minimum

    def test_values_worked_out_by_hand(self) -> None:
        """The formulas are those of the literature."""
        assert find_objective("sphere").at([1.0, -2.0, 3.0]) == 14.0
        assert find_objective("rastrigin").at([1.0, 2.0]) == pytest.approx(5.0)
        assert find_objective("rosenbrock").at([0.0, 0.0, 0.0]) == 2.0
        assert find_objective("rosenbrock").at([2.0, 3.0]) == 101.0
        assert find_objective("ackley").at([1.0, 1.0]) == pytest.approx(20.0 - 20.0 * math.exp(-0.2))
        assert find_objective("onemax").at([1.0, 0.0, 0.0]) == 2.0

    def test_unknown_name_gets_a_suggestion(self) -> None:
        """A misspelled domain is answered with the nearest one."""
        with pytest.raises(ValueError, match="did you mean 'rastrigin'"):
            find_objective("rastringin")


class TestGenetic:
    def test_evaluates_a_plain_genome(self) -> None:
        """Without samples the fitness is the objective itself, a plain Python float."""
        assert evaluate(EvaluateGenome("sphere", [0.0])) == 0.0
        assert type(Genetics().visit_EvaluateGenome(EvaluateGenome("sphere", [3.0, 4.0]))) is float

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_samples_are_named_by_the_seed(self, name: str) -> None:
        """A sampled fitness is the same each time for one seed, another for another, and near the plain one."""
        objective = OBJECTIVES[name]
        genome = [
            objective.lower + objective.width * share
            for share in ((0, 1, 1) if objective.is_binary else (0.2, 0.5, 0.9))
        ]
        first, again, other = (
            evaluate(EvaluateGenome(name, genome, 5000, seed)) for seed in ((ROOT, 1, 2), (ROOT, 1, 2), (ROOT, 2, 1))
        )
        assert first == again
        assert first != other
        assert first == pytest.approx(objective.at(genome), rel=0.01, abs=0.01)

    @pytest.mark.parametrize("samples", [0, 20])
    def test_same_seed_same_bits(self, samples: int) -> None:
        """Two searches from one root seed agree in every bit; another root seed gives another search."""
        assert small_evolution(samples=samples) == small_evolution(samples=samples)
        assert small_evolution(samples=samples) != small_evolution(samples=samples, root_seed=ROOT + 1)

    @pytest.mark.parametrize("seed", range(3))
    def test_order_of_evaluation_does_not_matter(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        """Evaluations sent away and run in any order give the serial loop's search, bit for bit."""
        scatter_genetics(monkeypatch, seed)
        assert small_evolution(serial=False, samples=7) == small_evolution(samples=7)

    def test_failing_evaluation_stops_the_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a handler raises reaches the caller of evolve, and the generation's other jobs are cancelled."""

        def fail(*fields: Any) -> float:
            if fields[3][2] == 5:
                raise ValueError("five")
            return 0.0

        scattered = Scattered(fail)
        monkeypatch.setattr(genetic, "dispatcher", scattered)
        with pytest.raises(ValueError, match="five"):
            small_evolution(serial=False)
        assert [job.was_cancelled for job in scattered.jobs.values()] == [False] * 5 + [True] * 7

    @pytest.mark.parametrize("domain", OBJECTIVES)
    def test_best_never_gets_worse(self, domain: str) -> None:
        """The best and, since the best of old and new survive, also the mean fall or stay from each generation on."""
        history = small_evolution(domain=domain, samples=3, generations=15).history
        for before, after in pairwise(history):
            assert after.best <= before.best
            assert after.mean <= before.mean
        assert history[-1].best < history[0].best

    def test_solves_onemax(self) -> None:
        """Forty bits are all found."""
        evolution = evolve("onemax", dimensions=40, population=20, generations=60, root_seed=ROOT, serial=True)
        assert evolution.best_value == evolution.best_fitness == evolution.optimum == 0.0
        assert evolution.best_genome == (1.0,) * 40

    def test_comes_near_the_minimum_of_rastrigin(self) -> None:
        """In ten dimensions the search gets past the local minima, the nearest of which lies near 0.995."""
        evolution = evolve("rastrigin", dimensions=10, population=40, generations=150, root_seed=ROOT, serial=True)
        assert evolution.best_value < 0.1
        assert max(map(abs, evolution.best_genome)) < 0.02

    @pytest.mark.parametrize("domain", OBJECTIVES)
    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**64))
    def test_children_stay_within_the_bounds(self, domain: str, seed: int) -> None:
        """Whatever is drawn, children of parents at the bounds lie within them, and bits stay bits."""
        objective = OBJECTIVES[domain]
        parents = [np.full(6, bound) for bound in (objective.lower, objective.upper)]
        for index in range(10):
            child = genetic._breed(objective, parents, [0.0, 0.0], stream(seed, index))
            assert child.shape == (6,)
            assert objective.lower <= child.min() <= child.max() <= objective.upper
            assert not objective.is_binary or set(child.tolist()) <= {0.0, 1.0}
        assert [parent.tolist() for parent in parents] == [[objective.lower] * 6, [objective.upper] * 6]

    def test_mutation_changes_a_coordinate(self) -> None:
        """No child is spent on an exact copy: every mutation changes at least one coordinate."""
        genome = np.ones(8)
        for index in range(50):
            assert (genetic._mutate(OBJECTIVES["onemax"], genome, stream(ROOT, index)) != genome).any()

    def test_selection_favors_the_fit_and_breaks_ties_by_index(self) -> None:
        """Tournaments pick the fittest most often, the least fit hardly ever; equals rank by index."""
        winners = [genetic._tournament([3.0, 2.0, 1.0, 0.0], stream(ROOT, index)) for index in range(500)]
        shares = np.bincount(winners, minlength=4)
        assert shares.argmax() == 3
        assert shares[0] < 20
        assert genetic._fittest([1.0, 0.0, 1.0, 0.0], range(4)) == [1, 3, 0, 2]

    def test_watchers_hear_of_everything(self) -> None:
        """Each generation is reported once, each evaluation once, and both counts end as planned."""
        generations: list[genetic.Generation] = []
        done: list[int] = []
        evolution = small_evolution(on_generation=generations.append, on_done=lambda count, _failed: done.append(count))
        assert tuple(generations) == evolution.history
        assert done == list(range(1, planned_evaluations(12, 6) + 1))
        assert evolution.evaluations == len(done)

    def test_turns_into_json(self) -> None:
        """An evolution survives the way through JSON unchanged."""
        as_dict = small_evolution().to_dict()
        assert json.loads(json.dumps(as_dict)) == as_dict

    @pytest.mark.parametrize(
        "changes",
        [
            {"domain": "spher"},
            {"population": 0},
            {"generations": -1},
            {"samples": -1},
            {"domain": "rosenbrock", "dimensions": 1},
        ],
    )
    def test_refuses_what_cannot_be_searched(self, changes: dict[str, Any]) -> None:
        """Numbers and names without a meaning are refused before any work is done."""
        with pytest.raises(ValueError, match=r"domain|population|generations|dimensions"):
            small_evolution(**changes)


class TestMoments:
    @settings(max_examples=60, deadline=None)
    @given(values=st.lists(FLOATS, min_size=2, max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6))
    def test_merging_parts_gives_the_whole(self, values: list[float], cuts: list[int]) -> None:
        """However a sample is cut, its merged parts have numpy's count, mean and variance of the whole."""
        edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
        total = Moments()
        for start, end in pairwise(edges):
            total = total.merge(Moments.of(values[start:end]))
        scale = max(map(abs, values)) + 1e-300
        tiny = sys.float_info.min  # below it numbers have fewer digits
        assert total.n == len(values)
        assert total.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12 * scale + tiny)
        assert total.m2 == pytest.approx(np.var(values) * len(values), rel=1e-9, abs=1e-12 * scale**2 + tiny)

    def test_small_spread_on_a_large_mean_survives(self) -> None:
        """Merging keeps a variance of 1/4 beside a mean of 1e9, where a sum of squares would lose it."""
        total = Moments()
        for _ in range(100):
            total = total.merge(Moments.of([1e9, 1e9 + 1.0]))
        assert total.m2 / total.n == pytest.approx(0.25)

    def test_nothing_is_neutral(self) -> None:
        """Merging with an empty sample changes nothing; an empty or single one has no finite standard error."""
        some = Moments.of([1.0, 2.0])
        assert some.merge(Moments()) == Moments().merge(some) == some
        assert Moments().standard_error == Moments.of([1.0]).standard_error == math.inf


class TestMonteCarlo:
    def test_black_scholes_matches_published_values(self) -> None:
        """The closed form gives the reference prices to the last digits."""
        assert black_scholes(100, 100, 0.05, 0.2, 1, "call") == pytest.approx(10.450583572185565, rel=1e-14)
        assert black_scholes(100, 100, 0.05, 0.2, 1, "put") == pytest.approx(5.573526022256971, rel=1e-14)
        assert black_scholes(42, 40, 0.10, 0.2, 0.5, "call") == pytest.approx(4.759422392871535, rel=1e-14)

    @given(spot=st.floats(1, 1e3), strike=st.floats(1, 1e3), rate=st.floats(-0.1, 0.2), volatility=st.floats(0.05, 1))
    def test_put_call_parity(self, spot: float, strike: float, rate: float, volatility: float) -> None:
        """Call minus put is the spot minus the discounted strike."""
        call, put = (black_scholes(spot, strike, rate, volatility, 1.0, kind) for kind in ("call", "put"))
        assert call - put == pytest.approx(spot - strike * math.exp(-rate), abs=1e-9)

    def test_pi_agrees_with_pi(self) -> None:
        """The estimate lies within four of its standard errors, and these are the theory's 1.642 / sqrt(n)."""
        estimate = pi(2_000_000, groups=7, root_seed=ROOT, serial=True)
        assert estimate.z is not None
        assert abs(estimate.z) < 4
        assert estimate.n == 2_000_000
        assert estimate.standard_error == pytest.approx(1.642 / math.sqrt(2_000_000), rel=0.01)

    @pytest.mark.parametrize("kind", ["call", "put"])
    def test_option_agrees_with_black_scholes(self, kind: monte_carlo.Kind) -> None:
        """The simulated price lies within four standard errors of the exact one."""
        estimate = european_option(100, 100, 0.05, 0.2, 1, kind, paths=400_000, groups=5, root_seed=ROOT, serial=True)
        assert estimate.z is not None
        assert abs(estimate.z) < 4

    def test_error_falls_with_the_square_root(self) -> None:
        """Sixty-four times the points, an eighth of the error."""
        few, many = (pi(points, groups=4, root_seed=ROOT, serial=True) for points in (10_000, 640_000))
        assert few.standard_error / many.standard_error == pytest.approx(8.0, rel=0.05)

    def test_groups_have_the_moments_of_their_trials(self) -> None:
        """A group reports what numpy finds in the very trials that its stream gives."""
        draws = stream(ROOT, 3)
        x, y = draws.random(1000), draws.random(1000)
        expected = Moments.of(np.where(x * x + y * y < 1.0, 4.0, 0.0))
        n, mean, m2 = monte_carlo.pi_group(1000, ROOT, 3)
        assert n == expected.n
        assert mean == pytest.approx(expected.mean)
        assert m2 == pytest.approx(expected.m2)

    @pytest.mark.parametrize("seed", range(3))
    def test_order_of_groups_does_not_matter(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        """Groups sent away and run in any order give the serial loop's estimate, bit for bit."""
        monkeypatch.setattr(monte_carlo, "pi_group", Scattered(monte_carlo.pi_group, seed))
        monkeypatch.setattr(monte_carlo, "option_group", Scattered(monte_carlo.option_group, seed))
        option = partial(european_option, 100, 90, 0.05, 0.2, 1.0, "put", paths=5000, groups=9, root_seed=ROOT)
        assert pi(70_001, groups=9, root_seed=ROOT) == pi(70_001, groups=9, root_seed=ROOT, serial=True)
        assert option() == option(serial=True)

    def test_another_seed_gives_another_estimate(self) -> None:
        """The root seed matters."""
        assert pi(10_000, groups=2, root_seed=1, serial=True) != pi(10_000, groups=2, root_seed=2, serial=True)

    def test_watchers_see_the_estimate_grow(self) -> None:
        """Each group is reported once, in order, with the estimate so far; the last is the result."""
        seen: list[tuple[int, monte_carlo.Estimate]] = []
        done: list[tuple[int, int]] = []
        result = pi(
            10_003,
            groups=4,
            root_seed=ROOT,
            serial=True,
            on_group=lambda *group: seen.append(group),
            on_done=lambda *counts: done.append(counts),
        )
        assert [number for number, _ in seen] == [1, 2, 3, 4]
        assert [estimate.n for _, estimate in seen] == [2501, 5002, 7503, 10_003]
        assert seen[-1][1] == result
        assert done == [(1, 0), (2, 0), (3, 0), (4, 0)]

    def test_estimate_without_spread_has_no_z(self) -> None:
        """One point shows no spread: z is None, and JSON gets no infinity."""
        estimate = pi(1, groups=1, root_seed=ROOT, serial=True)
        assert estimate.z is None
        assert json.loads(json.dumps(estimate.to_dict(), allow_nan=False))["standard_error"] is None

    @pytest.mark.parametrize(("points", "groups"), [(0, 1), (10, 0), (3, 4), (-1, -1)])
    def test_refuses_groups_without_a_point(self, points: int, groups: int) -> None:
        """Every group needs a trial."""
        with pytest.raises(ValueError, match="cannot be split"):
            pi(points, groups=groups, root_seed=ROOT, serial=True)

    @pytest.mark.parametrize(
        "terms", [(0, 1, 0, 1, 1), (1, 1, 0, 0, 1), (1, 1, 0, 1, -1), (1, 1, 0, 1, math.nan), (1, 1, math.inf, 1, 1)]
    )
    def test_refuses_terms_without_a_price(self, terms: tuple[float, float, float, float, float]) -> None:
        """Spot, strike, volatility and maturity are above 0, and an option is a call or a put."""
        with pytest.raises(ValueError, match="above 0"):
            black_scholes(*terms)
        with pytest.raises(ValueError, match="'call' or 'put'"):
            black_scholes(1, 1, 0, 1, 1, "straddle")  # type: ignore[arg-type]


@pytest.fixture
def scattered_fibonacci(monkeypatch: pytest.MonkeyPatch) -> Scattered:
    """Put the Fibonacci workload on the stand-in, run by a worker called w1."""
    scattered = Scattered(fibonacci.fib_by)
    monkeypatch.setenv("QUEUELIB_WORKER_NAME", "w1")
    monkeypatch.setattr(fibonacci, "fib_by", scattered)
    monkeypatch.setattr(fibonacci, "dispatcher", scattered)
    return scattered


class TestFibonacci:
    def test_recursion_matches_the_sequence(self) -> None:
        """The first numbers are those everyone knows."""
        assert [fibonacci.fib(n) for n in range(10)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]

    def test_says_who_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The worker's name comes with the value, and is empty outside of workers."""
        monkeypatch.delenv("QUEUELIB_WORKER_NAME", raising=False)
        assert fibonacci.fib_by(10) == (55, "")
        monkeypatch.setenv("QUEUELIB_WORKER_NAME", "w2")
        assert fibonacci.fib_by(10) == (55, "w2")

    @pytest.mark.usefixtures("scattered_fibonacci")
    @pytest.mark.parametrize("count", [0, 1, 7, 30])
    def test_collects_from_the_file_in_order(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int) -> None:
        """Answers come back in the order of submission, red, yellow and green by turns, over several rounds."""
        monkeypatch.setattr(fibonacci, "ROUND", 9)
        done: list[tuple[int, int]] = []
        assert fibonacci.submit_all(count, 12, tmp_path / "ids.txt") == count
        answers = list(fibonacci.collect(tmp_path / "ids.txt", on_done=lambda *counts: done.append(counts)))
        assert [answer.index for answer in answers] == list(range(count))
        assert [answer.color for answer in answers] == [fibonacci.COLORS[index % 3] for index in range(count)]
        assert {(answer.value, answer.worker) for answer in answers} <= {(144, "w1")}
        assert len({answer.id for answer in answers}) == count
        assert done == [(index + 1, 0) for index in range(count)]

    def test_broker_lost_half_way_leaves_ids_that_can_be_collected(
        self, scattered_fibonacci: Scattered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Ids of batches that were accepted before the broker was lost are in the file."""
        submit_many = scattered_fibonacci.submit_many

        def fail_on_green(calls: Iterable[Any]) -> list[StubJob]:
            if scattered_fibonacci.colors[-1] == "green":
                raise ConnectionError
            return submit_many(calls)

        monkeypatch.setattr(scattered_fibonacci, "submit_many", fail_on_green)
        with pytest.raises(ConnectionError):
            fibonacci.submit_all(9, 5, tmp_path / "ids.txt")
        assert [answer.color for answer in fibonacci.collect(tmp_path / "ids.txt")] == ["red", "yellow"] * 3

    def test_failure_is_counted_and_raised(self, scattered_fibonacci: Scattered, tmp_path: Path) -> None:
        """A failed job stops the collecting with its error, and the watcher hears of it."""
        fibonacci.submit_all(3, 5, tmp_path / "ids.txt")
        scattered_fibonacci.jobs["job1"].error = ArithmeticError("no")
        done: list[tuple[int, int]] = []
        with pytest.raises(ArithmeticError):
            list(fibonacci.collect(tmp_path / "ids.txt", on_done=lambda *counts: done.append(counts)))
        assert done == [(0, 1)]

    @pytest.mark.usefixtures("scattered_fibonacci")
    def test_run_counts_who_did_what(self, tmp_path: Path) -> None:
        """Jobs are counted by color and worker, with and without a file of one's own, and checked."""
        shares = fibonacci.run(count=8, n=9, ids_file=tmp_path / "ids.txt")
        assert shares == fibonacci.run(count=8, n=9)
        assert shares.by_color == {"red": {"w1": 3}, "yellow": {"w1": 3}, "green": {"w1": 2}}
        assert (shares.value, shares.wrong) == (34, 0)
        assert json.loads(json.dumps(shares.to_dict())) == shares.to_dict()

    def test_wrong_answers_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A job that returns another number than F(n) is not passed over."""
        monkeypatch.setattr(fibonacci, "fib_by", lambda n: (n, ""))
        assert fibonacci.run(count=4, n=10, serial=True).wrong == 4

    @pytest.mark.parametrize(("count", "n"), [(-1, 5), (5, -1)])
    def test_refuses_negative_numbers(self, tmp_path: Path, count: int, n: int) -> None:
        """Negative counts and arguments are refused before a file is written."""
        with pytest.raises(ValueError, match="0 or more"):
            fibonacci.submit_all(count, n, tmp_path / "ids.txt")
        assert not list(tmp_path.iterdir())
