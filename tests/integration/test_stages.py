"""Each stage of a job's way, and each way to do harm there: the tables of docs/errors.md, tried on every broker."""

from __future__ import annotations

import builtins
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuelib import JobQuarantined, RemoteError, RemoteTraceback
from tests.integration.lab import ROOT, WITHIN, Lab, lab_of, results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuelib import Job

HOWS = ("raise", "exit", "os-exit", "signal", "huge")
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
Row = tuple[str, str, str]


def table(title: str) -> list[list[str]]:
    """Return the cells of the table whose first column has this title."""
    lines = PAGE[PAGE.index(f"| {title} |") :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def cells() -> list[Row]:
    """Return each cell of the first table: where, how, what is seen."""
    return [(where, how, seen) for where, *row in table("where") for how, seen in zip(HOWS, row, strict=True)]


def in_worker(lab: Lab, where: str, how: str) -> Job[Any]:
    """Submit what does harm there."""
    stages = lab.deeds
    fall = "memory" if how == "huge" else how
    ways: dict[str, Callable[[], Job[Any]]] = {
        "the arguments are read": lambda: stages.take.submit(stages.Trap("worker-load", fall)),
        "the handler runs": lambda: stages.run.submit(fall),
        "a coroutine runs": lambda: stages.run_async.submit(fall),
        "the result is encoded": lambda: (
            stages.give_large.submit(17 * 1024**2) if how == "huge" else stages.give.submit("worker-dump", fall)
        ),
        "the exception is made": lambda: stages.throw.submit("init", fall),
        "the exception's text is made": lambda: (
            stages.throw.submit("huge text") if how == "huge" else stages.throw.submit("str", fall)
        ),
        "the exception's arguments are encoded": lambda: (
            stages.throw.submit("huge arguments") if how == "huge" else stages.throw.submit("args", fall)
        ),
    }
    return ways[where]()


def at_client(lab: Lab, where: str, how: str) -> Any:
    """Do there, in this process, what does harm."""
    stages = lab.deeds
    fall = "memory" if how == "huge" else how
    if where == "the arguments are encoded":
        if how == "huge":
            return stages.take_bytes.submit(bytes(17 * 1024**2))
        return stages.take.submit(stages.Trap("client-dump", fall))
    if where == "the result is read":
        return stages.give.submit("client-load", fall).result(timeout=WITHIN)
    assert where == "the exception is made again"
    return stages.throw.submit("rebuild", fall).result(timeout=WITHIN)


@pytest.fixture(scope="module")
def lab(broker_kind: str, server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A worker of apps/stages.py, for all tests of this file."""
    folder = tmp_path_factory.mktemp("stages")
    url = server_url or f"sqlite:///{folder}/jobs.db"
    with lab_of("stages", broker_kind, url, folder) as made:
        made.ready_worker("--processes", "2", target="stages.py", PLACE="worker")
        yield made


@pytest.fixture(autouse=True)
def others_run(lab: Lab) -> Iterator[None]:
    """After each test the same worker runs the next job."""
    before = lab.deeds.pids.submit().result(timeout=WITHIN)[1]
    yield
    after = {supervisor for _, supervisor in results(lab.deeds.pids.submit_many([()] * 4), WITHIN)}
    lab.dispatcher.close()
    assert after == {before}


def check(error: BaseException | None, name: str, how: str) -> None:
    """Hold an exception against a class's name: as itself where it may be, else as RemoteError."""
    assert error is not None
    cls = getattr(builtins, name, None)
    if cls is not None:
        assert type(error) is cls
    else:
        assert isinstance(error, RemoteError)
        assert error.type_name.rpartition(".")[2] == name
        assert str(error).startswith(f"{name}: ")
    assert isinstance(error.__cause__, RemoteTraceback)
    words = {"raise": "fell|its text|HarmfulArguments", "exit": "SystemExit|HarmfulArguments"}
    assert re.search(words.get(how, ""), str(error))


@pytest.mark.parametrize(("where", "how", "seen"), [row for row in cells() if row[0].startswith("worker")])
def test_in_the_worker(lab: Lab, where: str, how: str, seen: str) -> None:
    """The job fails with a reason, or is set aside when its child has died of it three times."""
    job = in_worker(lab, where.removeprefix("worker: "), how)
    error = job.exception(timeout=WITHIN)
    if seen == "set aside":
        assert type(error) is JobQuarantined
        how_it_died = f"signal {int(signal.SIGSEGV)}" if how == "signal" else "exit status 3"
        assert re.search(f"3 processes died while they ran it, the last one by {how_it_died}", str(error))
        assert job.state == "quarantined"
        return
    found = re.fullmatch(r"failed: `(\w+)`", seen)
    assert found is not None
    check(error, found[1], how)
    assert len(str(error)) < 70_000
    assert job.state == "failed"


@pytest.mark.parametrize(
    ("where", "how", "seen"), [row for row in cells() if row[0].startswith("client") and "raises" in row[2]]
)
def test_at_the_client(lab: Lab, where: str, how: str, seen: str) -> None:
    """It is an error of ours that says why, but that a program may end itself while it encodes."""
    found = re.fullmatch(r"(?:submit|result) raises `(\w+)`", seen)
    assert found is not None
    words = {"raise": "fell|Harmful", "exit": "3|Harmful", "huge": "16,777,216|MemoryError|Harmful"}
    with pytest.raises(BaseException, match=words[how]) as caught:
        at_client(lab, where.removeprefix("client: "), how)
    assert type(caught.value).__name__ == found[1]


@pytest.mark.parametrize(
    ("where", "how"), [row[:2] for row in cells() if row[0].startswith("client") and row[2] == "the client ends"]
)
def test_client_that_ends(lab: Lab, where: str, how: str) -> None:
    """A client that ends over its own code takes nobody with it; what it had submitted is there."""
    where = where.removeprefix("client: ")
    lines = {
        "the arguments are encoded": f"stages.take.submit(stages.Trap('client-dump', {how!r}))",
        "the result is read": f"job = stages.give.submit('client-load', {how!r})",
        "the exception is made again": f"job = stages.throw.submit('rebuild', {how!r})",
    }
    done = lab.run("-c", f"import stages; {lines[where]}; print(job.id, flush=True); job.result(timeout={WITHIN})")
    assert done.returncode == (-signal.SIGSEGV if how == "signal" else 3), done.stderr
    if where == "the arguments are encoded":
        assert not done.stdout
        return
    other = lab.dispatcher.job(done.stdout.strip())
    assert other.wait(timeout=WITHIN)
    assert other.state == ("succeeded" if where == "the result is read" else "failed")


RAISED = {
    "`ValueError` with arguments that cannot travel": "foreign",
    "a class that the client registered": "rebuild",
    "a class that nobody can make again, registered": "two",
    "a class whose `__new__` returns something else, registered": "new",
    "an exception that fails when its class is asked for": "masked",
    "`ExceptionGroup`": "group",
    "`BaseExceptionGroup`": "base group",
    "`asyncio.CancelledError`": "cancelled",
}


@pytest.mark.parametrize(("raised", "seen"), [(row[0], row[1]) for row in table("raised in the handler")])
def test_what_is_raised(lab: Lab, raised: str, seen: str) -> None:
    """It arrives as the table says, and never as what ends programs."""
    kind = RAISED.get(raised, raised.strip("`"))
    error = lab.deeds.throw.submit(kind).exception(timeout=WITHIN)
    expected = "HarmfulRebuild" if seen == "itself" else seen.strip("`")
    assert type(error).__name__ == expected
    assert isinstance(error, Exception)
    if kind not in {"rebuild", "masked"}:
        assert isinstance(error.__cause__, RemoteTraceback)
    if kind in {"group", "base group"}:
        assert "ValueError: one" in str(error.__cause__)


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "GeneratorExit", "BaseException", "cancelled", "base group"])
def test_what_a_coroutine_raises(lab: Lab, kind: str) -> None:
    """It is the same in a coroutine, of which nothing is left to the next one."""
    error = lab.deeds.throw_async.submit(kind).exception(timeout=WITHIN)
    assert type(error) is RemoteError
    assert lab.deeds.run_async.submit("").result(timeout=WITHIN) == ""


def test_two_groups_with_harmful_members(lab: Lab) -> None:
    """The text of a group is made of its members' texts; one that cannot say what it is spoils none of the others."""
    error = lab.deeds.throw.submit("group", "raise").exception(timeout=WITHIN)
    assert isinstance(error, RemoteError)
    assert "ValueError: one" in str(error.__cause__)


@pytest.mark.parametrize("how", ["os-exit", "signal", "exit"])
def test_neighbors_are_not_blamed(lab: Lab, how: str) -> None:
    """Where one of many messages in a bundle kills whoever reads it, it alone is set aside, or fails."""
    stages = lab.deeds
    harmless = stages.Trap("", "")
    assert (
        len(list(stages.take.map([harmless] * 600))) == 600
    )  # so it is known to be quick, and its jobs share messages
    jobs = stages.take.submit_many([(harmless,)] * 5 + [(stages.Trap("worker-load", how),)] + [(harmless,)] * 100)
    assert len({job.key.bundle for job in jobs[:10]}) == 1
    errors = [job.exception(timeout=60) for job in jobs]
    assert [place for place, error in enumerate(errors) if error is not None] == [5]
    assert type(errors[5]) is (RemoteError if how == "exit" else JobQuarantined)
