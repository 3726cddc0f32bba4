"""Calls that wait for each other: what is submitted, in which order, and what each waits for."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher, Job, Signature, chain, chord, codec, group, settled, topk
from queuelib import envelope as envelopes
from queuelib.errors import ArgumentError, BrokerUnavailable, EncodeError
from queuelib.ids import Key
from queuelib.inputs import keys_of, pieces
from queuelib.message import INPUTS, Bundle, Input, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuelib.message import Outgoing


class Desk:
    """A dispatcher, and what it publishes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
        self.dispatcher = Dispatcher("memory://workflow", namespace=namespace)
        self.calls: list[list[Outgoing]] = []
        monkeypatch.setattr(self.dispatcher.producer, "publish", self.publish)

        @self.dispatcher.task(name="add")
        def add(x: int, y: int = 0, *more: int, **named: int) -> int:
            return x + y

        @self.dispatcher.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        self.add: Any = add
        self.total: Any = total

    def publish(self, frames: Sequence[Outgoing]) -> None:
        self.calls.append(list(frames))

    @property
    def plain(self) -> list[Bundle]:
        return self.bundles(INPUTS, are_there=False)

    @property
    def waiting(self) -> list[Bundle]:
        return self.bundles(INPUTS, are_there=True)

    def bundles(self, color: str, *, are_there: bool) -> list[Bundle]:
        frames = [frame for call in self.calls for frame in call]
        return [envelopes.decode(frame.frame) for frame in frames if (frame.color == color) == are_there]


@pytest.fixture
def it(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk of its own for each test."""
    return Desk(monkeypatch, "flow")


def inputs_of(bundle: Bundle) -> list[list[Key]]:
    return [keys_of(one) for one in bundle.inputs]


def test_a_job_as_an_argument(it: Desk) -> None:
    """Its result, whoever submitted it and whenever; given to `submit` itself as well as to `s`."""
    first = it.add.submit(1, 2)
    jobs = [it.add.submit(first, 3), it.add.s(4, y=first).submit()]
    assert [(b.task, b.attempt, inputs_of(b)) for b in it.waiting] == [("add", 0, [[first.key]])] * 2
    assert [job.key.bundle for job in jobs] == [bundle.id for bundle in it.waiting]
    assert [pieces(bundle.column) for bundle in it.waiting] == [[b"\x94", b"\x03\x90\x80"], [b"\x94\x04", b"\x90\x80"]]


def test_a_list_of_jobs_is_the_list_of_their_results(it: Desk) -> None:
    """Those of one bundle are one run."""
    jobs = it.add.submit_many([(number,) for number in range(300)])
    it.total.submit(jobs)
    (bundle,) = it.waiting
    (given,) = bundle.inputs
    assert given.is_list
    assert keys_of(given) == [job.key for job in jobs]
    assert len(given.runs) < 300


def test_a_chain(it: Desk) -> None:
    """Each waits for the one before it; the job is that of the last one."""
    job = chain(it.add.s(1, 2), it.add.s(3), it.total.s()).submit()
    (first,) = it.plain
    second, third = it.waiting
    assert inputs_of(second) == [[Key(first.id, 0)]]
    assert inputs_of(third) == [[Key(second.id, 0)]]
    assert job.key == Key(third.id, 0)


def test_a_chain_longer_than_the_stack_is_deep(it: Desk) -> None:
    """It is walked through without recursion."""
    chain(*(it.add.s(1) for _ in range(5000))).submit()
    assert (len(it.plain), len(it.waiting)) == (1, 4999)


def test_a_chord(it: Desk) -> None:
    """Its members travel together, and the callback waits for the list of all."""
    job = chord(group(it.add.s(number, 1) for number in range(1000)), it.total.s()).submit()
    (callback,) = it.waiting
    (keys,) = inputs_of(callback)
    assert len(keys) == sum(bundle.size for bundle in it.plain) == 1000
    assert len(it.plain) < 1000
    assert keys == [Key(bundle.id, index) for bundle in it.plain for index in bundle.indexes]
    assert job.key == Key(callback.id, 0)


def test_results_are_joined_in_steps(it: Desk) -> None:
    """Always the same ones, so that floating-point sums have the same bits."""
    chord((it.add.s(number) for number in range(600)), it.add.s(1), reduce=it.total).submit()
    *level, last, callback = it.waiting
    assert [[len(keys) for keys in inputs_of(bundle)] for bundle in level] == [[256], [256], [88]]
    assert inputs_of(last) == [[Key(bundle.id, 0) for bundle in level]]
    assert inputs_of(callback) == [[Key(last.id, 0)]]
    assert [bundle.task for bundle in (*level, last, callback)] == ["total"] * 4 + ["add"]


@pytest.mark.parametrize(
    ("reduce", "how", "count"), [("sum", "sum", 0), (topk(3), "top", 3), (topk(2, smallest=True), "bottom", 2)]
)
def test_a_named_reduction(it: Desk, reduce: Any, how: str, count: int) -> None:
    """Its steps are a task that every worker knows, in the color of the members, told which is the first and the last."""
    add = it.add.options(color="red")
    job = chord((add.s(number) for number in range(600)), reduce=reduce).submit()
    *level, last = it.waiting
    assert [[len(keys) for keys in inputs_of(bundle)] for bundle in level] == [[256], [256], [88]]
    assert inputs_of(last) == [[Key(bundle.id, 0) for bundle in level]]
    assert {(bundle.task, bundle.color) for bundle in it.waiting} == {("queuelib.reduce", "red")}
    rest = [codec.decode(b"\x95" + codec.encode([]) + pieces(bundle.column)[1])[1:] for bundle in it.waiting]
    assert rest == [[how, count, True, False]] * 3 + [[how, count, False, True]]
    assert job.key == Key(last.id, 0)


def test_failures_in_place(it: Desk) -> None:
    """Asked for with a chord, with the first steps of a reduction, or for any argument."""
    fails = it.add.s(1)
    chord([fails], it.total.s(), errors="pass").submit()
    chord((it.add.s(number) for number in range(300)), reduce=it.total, errors="pass").submit()
    it.add.s(settled(fails), y=fails).submit()
    it.total.s(settled([])).submit()
    flags = [[(one.is_list, one.passes) for one in bundle.inputs] for bundle in it.waiting]
    assert flags == [[(True, True)], [(True, True)], [(True, True)], [(True, False)], [(False, True), (False, False)]]


def test_reductions_that_cannot_be(it: Desk) -> None:
    """Each is refused where it is written."""
    wrong: Any
    for wrong, words in (({}, "callback"), ({"reduce": "median"}, "'median'"), ({"reduce": "top"}, "'top'")):
        with pytest.raises(TypeError, match=words):
            chord([it.add.s(1)], **wrong)
    with pytest.raises(TypeError, match="nothing to reduce"):
        chord([], reduce="sum")
    with pytest.raises(TypeError, match="no place for failures"):
        chord([it.add.s(1)], it.total.s(), reduce="sum", errors="pass")
    with pytest.raises(TypeError, match="'ignore'"):
        chord([it.add.s(1)], it.total.s(), errors="ignore")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="settled takes"):
        settled(3)  # type: ignore[arg-type]


def test_a_group_between_steps(it: Desk) -> None:
    """Each of its calls gets what was before it, the next step all of their results."""
    chain(it.add.s(1), group(it.add.s(2), it.add.s(3)), it.total.s()).submit()
    (first,) = it.plain
    left, right, last = it.waiting
    assert inputs_of(left) == inputs_of(right) == [[Key(first.id, 0)]]
    assert inputs_of(last) == [[Key(left.id, 0), Key(right.id, 0)]]


def test_a_signature_in_two_places_is_one_job(it: Desk) -> None:
    """As in a diamond."""
    top = it.add.s(1)
    it.total.s([it.add.s(top, 1), it.add.s(top, 2)]).submit()
    assert len(it.plain) == 1
    assert [inputs_of(bundle) for bundle in it.waiting[:2]] == [[[Key(it.plain[0].id, 0)]]] * 2


def test_jobs_by_star_and_an_empty_group(it: Desk) -> None:
    """What stands for no results is the empty list, and nothing waits for it."""
    jobs = [it.add.submit(1) for _ in range(3)]
    it.add.submit(1, 2, *jobs)
    assert inputs_of(it.waiting[0]) == [[job.key] for job in jobs]
    assert group([]).submit() == []
    chord([], it.total.s()).submit()
    assert len(it.waiting) == 1
    assert it.plain[-1].column == b"\x91\x91\x90"


def test_what_waits_is_sent_after_what_it_waits_for(it: Desk) -> None:
    """If that is not accepted, nothing waits for it."""
    chain(it.add.s(1), it.add.s(2)).submit()
    assert [[frame.color == INPUTS for frame in call] for call in it.calls] == [[False], [True]]

    def refuse(_: Sequence[Outgoing]) -> None:
        it.calls.append([])
        raise BrokerUnavailable("gone")

    it.calls.clear()
    it.dispatcher.producer.publish = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(BrokerUnavailable):
        chain(it.add.s(1), it.add.s(2)).submit()
    assert it.calls == [[]]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        (("one",), {}, "x: expected int, got str"),
        ((1, 2, 3, "four"), {}, "more"),
        ((), {}, "missing a required argument"),
        ((1,), {"other": object()}, "other"),
    ],
)
def test_what_does_not_fit_is_not_submitted(
    it: Desk, args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    """Of arguments that are there; and nothing of the rest of the composition."""
    with pytest.raises((ArgumentError, EncodeError), match=words):
        it.total.s([it.add.s(1), it.add.s(it.add.s(*args, **kwargs), 2)]).submit()
    assert it.calls == []


def test_values_beside_jobs_are_named(it: Desk) -> None:
    """A list is of jobs, or of values."""
    job = it.add.submit(1)
    with pytest.raises(ArgumentError, match="only jobs and signatures in it, and not 5"):
        it.total.submit([job, 5])


def test_tasks_of_two_dispatchers_do_not_mix(it: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them submits, workers of the other one may not know."""
    other = Desk(monkeypatch, "other")
    with pytest.raises(ArgumentError, match="add is a task of another dispatcher"):
        it.total.s([it.add.s(1), other.add.s(2)]).submit()
    assert it.calls == other.calls == []


def test_jobs_within_an_argument_are_named(it: Desk) -> None:
    """They would be sent as what they are made of; what else cannot travel is named as ever."""
    one = it.add.s(1)
    for wrong in ([1, one], [[one]], {"x": it.add.submit(1)}):
        with pytest.raises(ArgumentError, match="total: .* lies within an argument"):
            it.total.submit(wrong)
        with pytest.raises(ArgumentError, match="add: .* lies within an argument"):
            it.add.s(one, wrong).submit()
    with pytest.raises(ArgumentError, match="total: a future is among the arguments: its `job`"):
        it.total.submit([Future()])
    with pytest.raises(EncodeError, match="cannot encode"):
        it.total.submit([object()])


def test_what_contains_itself_is_refused_at_once(it: Desk) -> None:
    """The search for a job within it comes to an end."""
    around: list[Any] = [1]
    around.append({"x": [around, around]})
    with pytest.raises(EncodeError, match="contains itself"):
        it.total.submit(around)
    with pytest.raises(EncodeError, match="contains itself"):
        it.add.s(it.add.s(1), around).submit()


@pytest.mark.parametrize("steps", [(), (5,), (lambda: 1,)])
def test_steps_that_are_none(steps: tuple[Any, ...]) -> None:
    """Clear words for whoever forgot `.s`."""
    with pytest.raises(TypeError, match="chain"):
        chain(*steps)


def test_groups_of_something_else(it: Desk) -> None:
    """A plain function, a job, a call that was made by mistake; a chain that ends with a group."""
    for wrong in (it.add, it.add.submit(1), 3):
        with pytest.raises(TypeError, match="signatures"):
            group([wrong])  # type: ignore[arg-type]  # which a checker says, too
    with pytest.raises(TypeError, match="not of groups: let a chord collect each"):
        group(group(it.add.s(1)), it.add.s(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="signatures.*not of 3"):
        group(3)  # type: ignore[arg-type]  # `add(1, 2)` where `add.s(1, 2)` was meant
    with pytest.raises(TypeError, match="ends with one call"):
        chain(it.add.s(1), group(it.add.s(2)))


def test_calls_that_travel_together_wait_for_nothing(it: Desk) -> None:
    """Jobs among the rows of `submit_many` and `map` are an error that says what to do."""
    job, signature = it.add.submit(1), it.add.s(1)
    for given in (job, signature, [job, signature]):
        task = it.total if isinstance(given, list) else it.add
        with pytest.raises(ArgumentError, match=r"wait for no others.*group\(task\.s\(job\) for job in jobs\)"):
            task.submit_many([([],), (given,)] if task is it.total else [(1,), (given,)])
        with pytest.raises(ArgumentError, match="wait for no others"):
            list(task.map([given]))
    with pytest.raises(EncodeError, match="cannot encode object"):
        it.total.submit_many([(object(),)])


def test_options_of_a_call_stay(it: Desk) -> None:
    """Color, delay and limits count for the message that it becomes."""
    it.add.options(color="red", delay=60.0, retries=3).s(it.add.s(1)).submit()
    (bundle,) = it.waiting
    assert (bundle.color, bundle.limits.retries) == ("red", 3)
    assert bundle.due == pytest.approx(bundle.submitted + 60.0)


def test_a_signature_is_no_job(it: Desk) -> None:
    """It can be submitted again, and is another job then."""
    signature = it.add.s(1, 2)
    assert isinstance(signature, Signature)
    first, second = signature.submit(), signature.submit()
    assert isinstance(first, Job)
    assert first != second


def test_input_runs_are_as_short_as_the_wire_needs() -> None:
    """A single result is one run of one."""
    assert Input([Run(bytes(16), 0)]).is_list is False
