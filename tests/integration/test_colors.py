"""Colors from end to end: what is urgent starts soon, what is not still moves, and who serves what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Color, ConfigurationError, Dispatcher, Palette
from tests.integration.lab import WITHIN, Gate, History, Lab, let_pass, results
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GREEN = 10_000


def starts_until(history: History, label: str, after: float) -> list[str]:
    """Return the labels that started after a moment, up to and with `label`."""
    labels = [mark.label for mark in history.marks("start") if mark.at > after]
    return labels[: labels.index(label) + 1]


def now_of(history: History) -> float:
    """Return the time of the last mark: nothing runs, so nothing later is older."""
    return history.marks()[-1].at


@pytest.mark.slow
@pytest.mark.parametrize("quick_before", [0, 300], ids=["one-by-one", "handed-ahead"])
def test_red_behind_10_000_green_starts_among_the_next_two(lab: Lab, quick_before: int) -> None:
    """Red starts among the next two starts after its acceptance, however much green was taken or handed over before."""
    gate, history, mark = lab.gate(), lab.history(), lab.deeds.mark_green
    rows = [(history.path, f"g{i}", "" if i < quick_before else gate.path) for i in range(GREEN)]
    mark.submit_many(rows)
    lab.worker("--processes", "1")
    history.await_start(f"g{quick_before}")
    red = lab.deeds.mark_red.submit(history.path, "red")
    accepted = now_of(history)
    if quick_before:  # hundreds of such green ones start in the milliseconds until the worker has learned of red
        let_pass(1.0 if lab.kind == "redis" else 0.1)  # kombu's stock transport takes half a second for 2,000 of them
    gate.open()
    assert red.result(timeout=WITHIN) == "red"
    assert len(starts_until(history, "red", accepted)) <= 2


@pytest.mark.slow
@pytest.mark.alone  # it counts which starts next, where its worker must not wait for a processor
def test_green_moves_while_red_never_stops(lab: Lab) -> None:
    """While red always waits, green gets its tenth of the starts, never two in a row, and yellow its quarter."""
    history, deeds = lab.history(), lab.deeds
    # So quick that the worker takes hundreds at once, and no quicker than a busy machine's broker can deliver: red that
    # waits there and not in the worker's list does not wait for it.
    pause = 0.002
    red = deeds.nap_red.submit_many([(history.path, f"red{i}", pause) for i in range(1500)])
    yellow = deeds.mark_for.submit_many([(history.path, f"yellow{i}", pause) for i in range(700)])
    green = deeds.nap_green.submit_many([(history.path, f"green{i}", pause) for i in range(300)])
    lab.worker("--processes", "1")
    results([*red, *yellow, *green])
    kinds = [label.rstrip("0123456789") for label in history.labels()]
    while_red = kinds[: len(kinds) - kinds[::-1].index("red")]
    # Hundreds of these quick jobs start before the worker has all three colors: which one arrives first is the
    # broker's to say. A second green start, after the one job that told how quick they are, shows that it has.
    settled = while_red[[i for i, kind in enumerate(while_red) if kind == "green"][1] :]
    assert len(settled) >= 500
    assert settled.count("green") >= 0.07 * len(settled)
    assert settled.count("yellow") >= 0.20 * len(settled)
    assert settled.count("red") >= 0.5 * len(settled)
    owed_pairs = sum(a != "red" and b != "red" for a, b in zip(settled, settled[1:], strict=False))
    assert owed_pairs <= 2  # at most at the seams, where the worker's short list of red ran out for a moment


def test_worker_on_some_colors_serves_only_those(lab: Lab) -> None:
    """With --colors a worker takes nothing of the others, which wait for one that does."""
    history, deeds = lab.history(), lab.deeds
    green = deeds.mark_green.submit(history.path, "green")
    lab.worker("--processes", "1", "--colors", "red,yellow")
    done = [deeds.mark_red.submit(history.path, "red"), deeds.mark.submit(history.path, "yellow")]
    assert results(done) == ["red", "yellow"]
    assert green.state == "queued"
    lab.worker("--processes", "1", "--colors", "green")
    assert green.result(timeout=WITHIN) == "green"


def test_color_by_route_and_by_call(lab: Lab) -> None:
    """A route by name glob gives a task its color, a call's option beats it, and the task's own color comes last."""
    history, deeds = lab.history(), lab.deeds
    routed = deeds.mark_routed.submit(history.path, "routed")
    called = deeds.mark_routed.options(color="red").submit(history.path, "called")
    own = deeds.mark_red.submit(history.path, "own")
    lab.worker("--processes", "1", "--colors", "red")
    assert results([called, own]) == ["called", "own"]
    assert routed.state == "queued"
    lab.worker("--processes", "1", "--colors", "green")
    assert routed.result(timeout=WITHIN) == "routed"


@pytest.fixture
def dispatcher(lab: Lab) -> Iterator[Callable[..., Dispatcher]]:
    """Make dispatchers on the lab's broker, closed at the end."""
    made: list[Dispatcher] = []

    def make(**options: Any) -> Dispatcher:
        made.append(Dispatcher(lab.url, namespace=lab.namespace, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_color_by_type(lab: Lab, dispatcher: Callable[..., Dispatcher]) -> None:
    """A route may name a message class, and holds for its subclasses."""

    class Base:
        pass

    routed = dispatcher(routes={Base: "green"})

    @routed.message(name="lab.derived")
    class Derived(Base):
        x: int

    @routed.message(name="lab.stranger")
    class Stranger:
        x: int

    routed.submit_many([Derived(1), Derived(2), Stranger(3)])
    waiting = lab.open_lane().waiting(["red", "yellow", "green"])
    assert waiting == {"red": 0, "yellow": 1, "green": 2}


def test_unknown_colors_are_refused_at_once(lab: Lab, dispatcher: Callable[..., Dispatcher]) -> None:
    """A color that the palette lacks is an error where it is written, which lists those it has."""
    with pytest.raises(ConfigurationError, match="purple.*red, yellow, green"):
        dispatcher(routes={"*": "purple"})
    with pytest.raises(ConfigurationError, match="purple"):
        dispatcher().task(color="purple")
    with pytest.raises(ConfigurationError, match="purple"):
        lab.deeds.mark.options(color="purple").submit("", "")
    with pytest.raises(ConfigurationError, match="1/2|half|0.5"):
        Palette([Color("a", 3), Color("b", 2, 0.4), Color("c", 1, 0.2)])
    worker = lab.worker("--colors", "purple")
    assert worker.wait() == 1
    assert "purple" in worker.said


def shades(lab: Lab, taking: str) -> tuple[Dispatcher, Any]:
    """Return a dispatcher with the palette of apps/shades.py, and its task."""
    palette = Palette([Color("now", 9), Color("later", 1)], default="later", taking=taking)
    dispatcher = Dispatcher(lab.url, namespace=lab.namespace, palette=palette)

    @dispatcher.task(name="shades.shade")
    def shade(path: str, label: str, gate: str = "") -> str:
        return f"{path}{label}{gate}"

    return dispatcher, shade


@pytest.mark.parametrize("taking", ["weighted", "strict"])
def test_palette_of_ones_own(lab: Lab, taking: str) -> None:
    """User-made colors work like the default ones; strict taking starts no lower color while a higher one waits."""
    history = lab.history()
    dispatcher, shade = shades(lab, taking)
    try:
        first: Gate = lab.gate("first")
        block = shade.options(color="now").submit(history.path, "block", first.path)
        lab.worker("--processes", "1", target="shades.py", TAKING=taking)
        history.await_start("block")
        later = shade.submit_many([(history.path, f"later{i}") for i in range(50)])
        now = shade.options(color="now").submit_many([(history.path, f"now{i}") for i in range(50)])
        first.open()
        results([block, *now, *later])
    finally:
        dispatcher.close()
    kinds = [label.rstrip("0123456789") for label in history.labels()][1:]
    last_now = len(kinds) - kinds[::-1].index("now")
    overtaken = kinds[:last_now].count("later")
    if taking == "strict":
        # SQLite is asked when a child is free; the others deliver the next ones while the first already run.
        assert overtaken <= (1 if lab.kind == "sqlite" else 10)
    else:
        assert 8 <= overtaken <= 25  # a quarter of the starts, and not more than every other


def test_shown_palette_is_the_workers(lab: Lab) -> None:
    """A worker says at its start which colors it serves, most urgent first."""
    worker = lab.ready_worker("--processes", "1", target="shades.py")
    eventually(lambda: "now, later" in worker.said)
