"""When a worker that was told to stop does what: by its orders and the clock, and by nothing else."""

from __future__ import annotations

from queuelib.worker.stopping import Stopping


def test_without_an_order_nothing_is_out_of_time() -> None:
    """However late it is."""
    stopping = Stopping(grace=5.0)
    assert not stopping.is_ordered
    assert not stopping.is_out_of_time(1e9)
    assert not stopping.is_to_kill(1e9)
    assert stopping.pause(100.0) == float("inf")


def test_what_runs_has_its_grace() -> None:
    """It counts from when the order was noticed, whatever is noticed later."""
    stopping = Stopping(grace=5.0)
    stopping.order()
    stopping.begin(100.0)
    stopping.begin(104.0)
    assert stopping.is_ordered
    assert stopping.since == 100.0
    assert (stopping.is_out_of_time(104.9), stopping.is_out_of_time(105.0)) == (False, True)
    assert stopping.pause(101.0) == 4.0


def test_a_second_order_ends_the_grace() -> None:
    """Also where there is no end to it otherwise."""
    stopping = Stopping(grace=None)
    stopping.order()
    stopping.begin(100.0)
    assert not stopping.is_out_of_time(1e9)
    stopping.order()
    assert stopping.is_out_of_time(100.0)


def test_an_owner_that_has_gone_is_no_second_order() -> None:
    """Whoever was told to stop already goes on as told."""
    stopping = Stopping(grace=5.0)
    stopping.order_once()
    stopping.begin(100.0)
    stopping.order_once()
    assert stopping.is_ordered
    assert not stopping.is_out_of_time(100.0)


def test_what_was_interrupted_has_its_last_seconds() -> None:
    """And is killed after them, but not before it was interrupted."""
    stopping = Stopping(grace=0.5)
    stopping.order()
    stopping.begin(100.0)
    assert not stopping.is_to_kill(200.0)
    stopping.interrupted(101.0)
    assert stopping.has_interrupted
    assert (stopping.is_to_kill(102.9), stopping.is_to_kill(103.0)) == (False, True)
    assert stopping.pause(101.5) == 1.5
