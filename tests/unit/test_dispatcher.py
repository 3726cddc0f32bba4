"""What a dispatcher makes of a broker that answers late or not at all, and of settings that make no sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuelib import Dispatcher
from queuelib.clock import Clock
from queuelib.errors import ConfigurationError, SubmitUnknown
from queuelib.ids import created_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queuelib.message import Outgoing

JOBS = 3000  # the first ones travel alone, the later ones in ever larger bundles: 4 batches of frames


class Publisher:
    """Accepts frames; of one batch it does so for the first ones, and the answer is lost."""

    def __init__(self) -> None:
        self.batches = 0
        self.accepted: list[Outgoing] = []
        self.lost_at = 0

    def publish(self, frames: Sequence[Outgoing], deadline: float) -> None:
        """Accept them all, or be in doubt about all but ten, of which the first half was accepted."""
        assert deadline > 0
        self.batches += 1
        if self.batches != self.lost_at:
            self.accepted += frames
            return
        self.accepted += frames[: len(frames) // 2]
        raise SubmitUnknown("the answer was lost", frames=frames[10:])

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher("memory://submits")
    yield made
    made.close()


@pytest.mark.parametrize("lost_at", [1, 2, 4])
def test_what_is_in_doubt_is_all_that_was_not_confirmed(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, lost_at: int
) -> None:
    """Also what was surely not sent: `resubmit` completes the call, however large it is and wherever it broke off."""
    task = dispatcher.task(name="lab.work")(lambda: None)
    publisher: Any = Publisher()
    publisher.lost_at = lost_at
    monkeypatch.setattr(dispatcher._connections, "publisher", lambda: publisher)
    with pytest.raises(SubmitUnknown) as caught:
        task.submit_many([()] * JOBS)
    error = caught.value
    assert publisher.batches == lost_at
    assert len(error.accepted) + len(error.ids) == len({*error.accepted, *error.ids}) == JOBS
    assert error.unknown == error.ids
    dispatcher.resubmit(error)
    assert sum({frame.bundle: frame.size for frame in publisher.accepted}.values()) == JOBS


@pytest.mark.parametrize("name", ["keep", "submit_deadline"])
@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), "1h", None])
def test_a_duration_that_makes_no_sense(name: str, value: Any) -> None:
    """It is refused where it is given, by its name."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=f"^{name} is "):
        Dispatcher("memory://nowhere", **options)


def test_a_redirected_dispatcher_is_as_before_afterwards() -> None:
    """Also where it had no URL of its own, and where the block ends by an error."""
    clock = Clock(wall=lambda: 1000.0)
    dispatcher = Dispatcher(results="memory://its-results", namespace="own")
    place = dispatcher.broker_url, dispatcher.results_url, dispatcher.namespace
    with pytest.raises(KeyError), dispatcher.redirected("memory://elsewhere", clock=clock):
        job = dispatcher.task(name="lab.none")(lambda: None).submit()
        assert created_at(job.key.bundle) == 1000.0
        assert (dispatcher.broker_url, dispatcher.results_url) == ("memory://elsewhere", "memory://elsewhere")
        assert dispatcher.namespace == "own"
        raise KeyError
    assert (dispatcher.broker_url, dispatcher.results_url, dispatcher.namespace) == place


def test_what_is_configured_while_redirected_is_gone_afterwards() -> None:
    """A test that sets a namespace or a key of its own leaves neither to the next one."""
    dispatcher = Dispatcher("memory://its-own", namespace="own")
    with dispatcher.redirected("memory://elsewhere"):
        dispatcher.configure(namespace="other", key="k1:0123456789abcdef")
        assert dispatcher.namespace == "other"
        signs = dispatcher.keys
        assert signs is not None
    assert (dispatcher.broker_url, dispatcher.namespace, dispatcher.keys) == ("memory://its-own", "own", None)
