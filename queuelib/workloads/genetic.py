"""A genetic algorithm whose genomes are evaluated by workers, each genome a job.

The search itself (who mates, mutates and survives) runs in the submitting process; only evaluations travel. The best
of parents and children together survive, so that the best never gets worse (elitism in full). Every draw comes
from a stream named by generation and place in the population, and results are taken in the order of submission, so
the serial loop and any number of workers find the same genomes, bit for bit.

    >>> evolve("onemax", dimensions=20, population=20, generations=30, root_seed=1, serial=True).best_value
    0.0
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from queuelib import Dispatcher, Handlers
from queuelib.workloads.objectives import Objective, Points, find_objective
from queuelib.workloads.ordered import Here, in_order
from queuelib.workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.random import Generator

    from queuelib.workloads.ordered import Pending

__all__ = [
    "EvaluateGenome",
    "Evolution",
    "Generation",
    "Genetics",
    "dispatcher",
    "evaluate",
    "evolve",
    "planned_evaluations",
    "run",
]

# RIVALS, BLEND_RATE and STEP_DECADES: the best of a small grid on Rastrigin, Rosenbrock and Ackley in 10 dimensions
# with 3,600 evaluations, four seeds each; the worst seed ended at 1.06 (one local minimum off), 8.6 and 0.14.
RIVALS = 4  # in a tournament
CROSSOVER_RATE = 0.9
BLEND_RATE = 0.2  # of the coordinates; the others come from one parent unchanged
SPREAD_INDEX = 5.0  # of a blend; the greater, the nearer the child stays to its parents
STEP_DECADES = (0.7, 2.7)  # a mutation moves by 20 to 0.2 per cent of the range: coarse search and fine in one
TOLERANCE = 1e-4  # of the range: how far a sample strays from its genome
_NOISE = 1  # tells the evaluation's draws from those that bred the genome

dispatcher = Dispatcher(namespace="demo-ga")


@dispatcher.message(color="yellow", name="ga.evaluate")
@dataclass(frozen=True)
class EvaluateGenome:
    """Asks for the fitness of one genome, the less the better.

    Attributes:
        domain: Name of the objective.
        genome: Its coordinates, within the objective's bounds.
        samples: 0 for the objective at the genome itself; else the mean over that many copies, each off by
            a random error of `TOLERANCE` of the range. That is robust optimization (Beyer and Sendhoff 2007),
            where evaluations cost what they do in practice.
        seed: Names the stream of those errors: the root seed, the generation and the place in the population.

    Example:
        >>> evaluate(EvaluateGenome("sphere", [0.0]))
        0.0
    """

    domain: str
    genome: list[float]
    samples: int = 0
    seed: tuple[int, int, int] = (0, 0, 0)


class Genetics(Handlers):
    """Does the genetic algorithm's work at the worker."""

    def visit_EvaluateGenome(self, message: EvaluateGenome) -> float:
        """Return the genome's fitness."""
        return evaluate(message)


dispatcher.register(Genetics())


@dataclass(frozen=True, slots=True)
class Generation:
    """How the population stood after one generation.

    Attributes:
        number: 0 for the random population that the search starts from.
        best: Least fitness.
        mean: Mean fitness of the whole population.
        evaluations: Evaluations so far.
    """

    number: int
    best: float
    mean: float
    evaluations: int


@dataclass(frozen=True, slots=True)
class Evolution:
    """What a search found.

    Attributes:
        domain: Name of the objective.
        best_genome: The fittest genome that was seen.
        best_fitness: Its fitness as evaluated: with samples, the mean over them.
        best_value: The objective at `best_genome` itself; compare this with `optimum`.
        optimum: Least value that the objective has anywhere.
        evaluations: Number of genomes evaluated.
        history: An entry a generation, the random population first.
        root_seed: Gives the same search again.
    """

    domain: str
    best_genome: tuple[float, ...]
    best_fitness: float
    best_value: float
    optimum: float
    evaluations: int
    history: tuple[Generation, ...]
    root_seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return asdict(self) | {"best_genome": list(self.best_genome), "history": [asdict(g) for g in self.history]}


def run(
    domain: str = "rastrigin",
    *,
    dimensions: int = 10,
    population: int = 40,
    generations: int = 120,
    samples: int = 3_000,
    root_seed: int = 20260101,
    serial: bool = False,
    on_generation: Callable[[Generation], object] | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Evolution:
    """Run the demonstration: `evolve`, with evaluations that cost about 1.5 ms each."""
    return evolve(
        domain,
        dimensions=dimensions,
        population=population,
        generations=generations,
        root_seed=root_seed,
        samples=samples,
        serial=serial,
        on_generation=on_generation,
        on_done=on_done,
    )


def evolve(
    domain: str,
    *,
    dimensions: int,
    population: int,
    generations: int,
    root_seed: int,
    samples: int = 0,
    serial: bool = False,
    on_generation: Callable[[Generation], object] | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Evolution:
    """Search the minimum of `domain`.

    Args:
        domain: `sphere`, `rastrigin`, `rosenbrock`, `ackley` or `onemax`.
        dimensions: Coordinates of a genome.
        population: Genomes alive at a time.
        generations: How often as many new ones are bred.
        root_seed: Same seed, same search, serial or not.
        samples: Of each evaluation, see `EvaluateGenome`.
        serial: Evaluate here, without any broker.
        on_generation: Called with each generation's figures.
        on_done: Called after each evaluation, in order, with the numbers done and failed so far.

    Raises:
        ValueError: An unknown domain, or a number too small to search with.
        Exception: What the first failing evaluation raised; evaluations that have not started are cancelled.
    """
    objective = find_objective(domain)
    _require(dimensions >= objective.min_dimensions, f"{domain} needs {objective.min_dimensions} dimensions or more")
    _require(population >= 1, f"a population needs a genome, not {population}")
    _require(generations >= 0 and samples >= 0, "generations and samples are 0 or more")

    def scores(genomes: list[Points], generation: int) -> list[float]:
        messages = [
            EvaluateGenome(domain, genome.tolist(), samples, (root_seed, generation, index))
            for index, genome in enumerate(genomes)
        ]
        return _evaluate_all(messages, serial=serial, on_done=on_done, before=generation * population)

    genomes = [_random_genome(objective, dimensions, stream(root_seed, 0, index)) for index in range(population)]
    fitness = scores(genomes, 0)
    history = [_figures(0, fitness)]
    _tell(on_generation, history[-1])
    for number in range(1, generations + 1):
        draws = (stream(root_seed, number, index) for index in range(population))
        children = [_breed(objective, genomes, fitness, each) for each in draws]
        genomes, fitness = _survivors(genomes + children, fitness + scores(children, number), population)
        history.append(_figures(number, fitness))
        _tell(on_generation, history[-1])
    best = _fittest(fitness, range(population))[0]
    genome: tuple[float, ...] = tuple(genomes[best].tolist())
    return Evolution(
        domain=domain,
        best_genome=genome,
        best_fitness=fitness[best],
        best_value=objective.at(genome),
        optimum=objective.minimum,
        evaluations=history[-1].evaluations,
        history=tuple(history),
        root_seed=root_seed,
    )


def planned_evaluations(population: int, generations: int) -> int:
    """Return how many evaluations `evolve` will ask for.

    Example:
        >>> planned_evaluations(10, 2)
        30
    """
    return population * (generations + 1)


def evaluate(message: EvaluateGenome) -> float:
    """Return a genome's fitness; the same message has the same one everywhere.

    Raises:
        ValueError: There is no such domain.
    """
    objective = find_objective(message.domain)
    if not message.samples:
        return objective.at(message.genome)
    root_seed, generation, index = message.seed
    draws = stream(root_seed, generation, index, _NOISE)
    copies = _perturbed(objective, np.array(message.genome, dtype=np.float64), message.samples, draws)
    return float(objective.function(copies).mean())


def _perturbed(objective: Objective, genome: Points, samples: int, draws: Generator) -> Points:
    """Return `(samples, d)` copies that stray a little; real ones may leave the bounds, as products of a factory do."""
    shape = (samples, genome.size)
    if objective.is_binary:
        return np.abs(genome - (draws.random(shape) < TOLERANCE))
    return genome + draws.normal(0.0, TOLERANCE * objective.width, shape)


def _evaluate_all(
    messages: list[EvaluateGenome], *, serial: bool, on_done: Callable[[int, int], object] | None, before: int
) -> list[float]:
    jobs: Sequence[Pending[float]]
    jobs = [Here(partial(evaluate, message)) for message in messages] if serial else dispatcher.submit_many(messages)
    with closing(in_order(jobs, on_done=on_done, before=before)) as fitness:
        return list(fitness)


def _random_genome(objective: Objective, dimensions: int, draws: Generator) -> Points:
    if objective.is_binary:
        return draws.integers(0, 2, dimensions).astype(np.float64)
    return draws.uniform(objective.lower, objective.upper, dimensions)


def _breed(objective: Objective, genomes: Sequence[Points], fitness: Sequence[float], draws: Generator) -> Points:
    """Return one child of two parents that each won a tournament."""
    mother, father = (genomes[_tournament(fitness, draws)] for _ in range(2))
    if draws.random() >= CROSSOVER_RATE:
        child = mother
    elif objective.is_binary:
        child = np.where(draws.random(mother.size) < 0.5, mother, father)  # noqa: PLR2004 - either parent alike
    else:
        child = _cross(mother, father, draws)
    return _mutate(objective, child, draws)


def _survivors(genomes: list[Points], fitness: list[float], size: int) -> tuple[list[Points], list[float]]:
    best = _fittest(fitness, range(len(fitness)))[:size]
    return [genomes[index] for index in best], [fitness[index] for index in best]


def _tournament(fitness: Sequence[float], draws: Generator) -> int:
    """Return the index of the fittest of a few drawn at random."""
    return _fittest(fitness, draws.integers(0, len(fitness), RIVALS).tolist())[0]


def _fittest(fitness: Sequence[float], indexes: Iterable[int]) -> list[int]:
    """Return `indexes`, fittest first; of equals the lower index, so that no order of arrival decides."""
    return sorted(indexes, key=lambda index: (fitness[index], index))


def _cross(mother: Points, father: Points, draws: Generator) -> Points:
    """Return one child: each coordinate from either parent, some of them blended.

    The blend is the simulated binary crossover of Deb and Agrawal (1995), Complex Systems 9, 115-148.
    """
    u, blended, first = draws.random((3, mother.size))
    ratio = np.where(u < 0.5, 2.0 * u, 0.5 / (1.0 - u)) ** (1.0 / (SPREAD_INDEX + 1.0))  # noqa: PLR2004 - the paper's
    ratio = np.where(blended < BLEND_RATE, ratio, 1.0)
    sign = np.where(first < 0.5, 1.0, -1.0)  # noqa: PLR2004 - which of the paper's two children
    return 0.5 * ((mother + father) + sign * ratio * (mother - father))


def _mutate(objective: Objective, genome: Points, draws: Generator) -> Points:
    """Change one coordinate or more: flip a bit, or move by a Gaussian step of random scale within the bounds.

    Scales spread evenly over decades are those of Mühlenbein and Schlierkamp-Voosen (1993), Evol. Comput. 1, 25-49.
    """
    chosen = draws.random(genome.size) < 1.0 / genome.size
    chosen[draws.integers(genome.size)] = True
    if objective.is_binary:
        return np.where(chosen, 1.0 - genome, genome)
    scale = objective.width * 10.0 ** -draws.uniform(*STEP_DECADES, genome.size)
    moved = np.where(chosen, genome + scale * draws.standard_normal(genome.size), genome)
    return np.clip(moved, objective.lower, objective.upper)


def _figures(number: int, fitness: Sequence[float]) -> Generation:
    size = len(fitness)
    return Generation(number, best=min(fitness), mean=sum(fitness) / size, evaluations=(number + 1) * size)


def _tell(watcher: Callable[[Generation], object] | None, generation: Generation) -> None:
    if watcher is not None:
        watcher(generation)


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as the sentence it is
    if not condition:
        raise ValueError(message)
