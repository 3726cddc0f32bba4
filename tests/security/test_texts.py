"""Attacks by names and texts: what is looked up, what becomes a key or a file, what is logged and shown."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from queuelib import Color, ConfigurationError, Dispatcher, Palette, RegistrationError, UnknownJob
from queuelib.cli import cli
from queuelib.cli.worker import Formatter
from queuelib.clock import Clock
from queuelib.codec import encode
from queuelib.envelope import encode as encode_envelope
from queuelib.ids import BUNDLE_BYTES, job_id, new_bundle_id, parse_job_id
from queuelib.message import Bundle
from queuelib.outcome import Failed, Quarantined
from queuelib.ports import Delivery, QuarantineItem
from queuelib.settings import mask
from queuelib.shown import shown
from queuelib.worker.child import Lot
from queuelib.worker.execute import Executor
from queuelib.worker.intake import Intake

HOSTILE = "\r\n2026-01-01 ERROR forged\x1b[2J\x1b]0;title\x07\u202egnp.exe\x00\x9b31m\ud800"
NOW = 1_800_000_000.0
CLOCK = Clock(wall=lambda: NOW, monotonic=lambda: 0.0)


def read(frame: bytes, *, published: float = NOW, tasks: tuple[str, ...] = ("lab.echo",)) -> Any:
    """Have a supervisor look at a message."""
    intake = Intake(tasks, ["red"], 3600.0, CLOCK)
    return intake.read([Delivery(frame, "red", 1, redelivered=False, published=published)], lambda: None)  # type: ignore[arg-type, return-value]


def frame_of(task: str) -> bytes:
    """Return a message for a task."""
    column = b"\x91" + encode([1])
    return encode_envelope(Bundle(bytes(16), task, "red", 1, [0], column, submitted=NOW))


@pytest.mark.parametrize("name", [
    "os.system", "__import__", "a..b", "x" * 3000, "lab.echo ", " lab.echo", "LAB.ECHO", "lab.echo\x00", "lab", "echo",
    "lab.echo.__class__", "lab.echo.__globals__", "../lab.echo", "queuelib.worker.template.main", "", HOSTILE[:-1],
])  # fmt: skip
def test_s09_a_name_is_looked_up_and_nothing_else(name: str) -> None:
    """A task that is not registered under exactly this name is never imported, walked to or run: it waits and is set aside."""
    before = set(sys.modules)
    taken = read(frame_of(name))
    assert not taken.holds
    assert len(taken.postponed) == 1
    late = read(frame_of(name), published=NOW - 7200)
    assert not late.holds
    (settled,) = late.settled
    (item,) = settled.quarantined
    assert item.reason.isprintable()
    assert len(item.reason) < 1400
    assert set(sys.modules) == before


def test_s09_a_child_looks_a_name_up_as_well() -> None:
    """A child that is handed a name it does not have imports nothing and calls nothing."""
    dispatcher = Dispatcher("memory://names")
    executor = Executor(dispatcher, "w")
    for name in ("os.system", "builtins.exec", "queuelib.errors.DecodeError"):
        lot = Lot([name, b"", None, bytes(16), None, 1, b"\x91\x91\x01", None], "w")
        (outcome,) = executor.outcomes(lot, 0)
        assert isinstance(outcome, Quarantined)


def test_s10_arguments_of_other_types_fail_before_the_handler() -> None:
    """Wrong counts, types and shapes fail their job with a path; the handler is not called."""
    calls: list[Any] = []
    dispatcher = Dispatcher("memory://types")

    @dispatcher.task(name="typed")
    def typed(genome: list[float], name: str = "x") -> None:
        calls.append((genome, name))

    executor = Executor(dispatcher, "w")
    schema = dispatcher.definitions["typed"].schema.hash
    wrong: list[Any] = [
        [],
        [1],
        ["abc"],
        [[1.0, "x"]],
        [[1.0], 7],
        [[1.0], "x", 2],
        [None],
        [{"genome": [1.0]}],
        7,
        "text",
        {},
        None,
    ]
    for arguments in wrong:
        lot = Lot(["typed", schema, None, bytes(16), None, 1, b"\x91" + encode(arguments), None], "w")
        (outcome,) = executor.outcomes(lot, 0)
        assert isinstance(outcome, Failed | Quarantined), arguments
    assert calls == []


@pytest.mark.parametrize("published", [float("nan"), float("inf"), -float("inf"), 1e300, -1e300, NOW + 7200])
def test_s37_a_forged_time_of_publication_does_not_wait_for_ever(published: float) -> None:
    """An unknown task goes back only for as long as its age says; an age that cannot be is over at once."""
    taken = read(frame_of("unknown"), published=published)
    assert not taken.postponed
    assert len(taken.settled) == 1


def test_s17_arguments_are_not_in_what_a_supervisor_says(caplog: pytest.LogCaptureFixture) -> None:
    """A message that is set aside, unreadable or unknown: neither log nor reason has its arguments."""
    caplog.set_level(logging.DEBUG)
    column = b"\x91" + encode(["canary-4711"])
    frame = encode_envelope(Bundle(bytes(16), "unknown", "red", 1, [0], column, submitted=NOW))
    for one in (frame, frame[:-3], b"\x91" + frame, frame + b"\x00"):
        taken = read(one, published=NOW - 7200)
        for settled in taken.settled:
            for item in settled.quarantined:
                assert "canary" not in item.reason
            for record in settled.records:
                assert b"canary" not in record.body
    assert "canary" not in caplog.text


def test_s17_arguments_are_not_in_the_error_of_a_wrong_type() -> None:
    """The error names the path and the types, and not the value."""
    dispatcher = Dispatcher("memory://secrets")

    @dispatcher.task
    def login(name: str, pin: int) -> None: ...

    with closing(dispatcher), pytest.raises(TypeError) as caught:
        login.submit("me", "canary-4711")  # type: ignore[arg-type]
    assert "canary" not in str(caught.value)


def test_s18_what_is_shown_moves_no_cursor() -> None:
    """Control characters, escapes, direction marks and lone surrogates are escaped; what is long is cut."""
    text = shown(HOSTILE)
    assert text.isprintable()
    for bad in ("\r", "\n", "\x1b", "\u202e", "\x00", "\x9b", "\ud800"):
        assert bad not in text
    assert shown("prüfe 測定 ok") == "prüfe 測定 ok"
    assert len(shown("x" * 10_000_000)) < 1200
    assert len(shown("\x1b" * 10_000_000)) < 6000


def test_s18_a_log_line_is_one_line() -> None:
    """Text from elsewhere never begins a line of a worker's log, and is cut."""
    formatter = Formatter("%(asctime)s %(levelname)s %(message)s")
    record = logging.LogRecord("queuelib.worker", logging.ERROR, "", 0, "said %s", (HOSTILE,), None)
    first, *others = formatter.format(record).split("\n")
    assert first.endswith("\\r")
    assert all(line.startswith("    ") for line in others)
    assert "\x1b" not in "".join(others)
    long = logging.LogRecord("queuelib.worker", logging.ERROR, "", 0, "%s", ("y" * 10_000_000,), None)
    assert len(formatter.format(long)) < 70_000


def test_s18_failed_ls_shows_hostile_texts(tmp_path: Path) -> None:
    """Whatever stands in the quarantine is listed: escaped, cut, and never taken for rich's markup."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    dispatcher = Dispatcher(url)
    markup = "[/red] [link=http://x]y[/link] [bold"
    items = [
        QuarantineItem("id\x1b[2J", "red\r\n", markup, b"", 1e300),
        QuarantineItem("other", "red", HOSTILE.replace("\ud800", ""), b"", float("-inf")),
        QuarantineItem("long", "red", "z" * 1_000_000, b"", -1.0),
    ]
    with closing(dispatcher):
        dispatcher.open_results().quarantine(items)
    done = CliRunner().invoke(cli, ["failed", "ls", "--broker", url], catch_exceptions=False)
    assert done.exit_code == 0
    assert "[/red]" in done.output
    assert all(one.isprintable() or one == "\n" for one in done.output)
    assert len(done.output) < 40_000
    as_json = CliRunner().invoke(cli, ["failed", "ls", "--broker", url, "--json"], catch_exceptions=False)
    assert as_json.exit_code == 0
    assert all(one.isprintable() or one == "\n" for one in as_json.output)


def test_s18_an_error_of_the_command_line_is_shown_the_same_way(tmp_path: Path) -> None:
    """What stands behind `queuelib:` on stderr is escaped as well."""
    command = [
        sys.executable,
        "-m",
        "queuelib",
        "failed",
        "drop",
        HOSTILE[2:25],
        "--broker",
        f"sqlite:///{tmp_path}/jobs.db",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


NAMES = [
    "",
    "a b",
    "a*",
    "a:b",
    "a\x00b",
    "../a",
    "{a}",
    "a\nb",
    "a\u202eb",
    "a/b",
    "x" * 10_000,
    "'; DROP TABLE message --",
]


@pytest.mark.parametrize("name", NAMES)
def test_s29_names_that_become_keys_are_restricted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces and colors, which begin keys, queues and rows, are of letters, digits and a few signs."""
    if name:
        with pytest.raises(ConfigurationError):
            Dispatcher("memory://", namespace=name)
    with pytest.raises(ConfigurationError):
        Palette([Color(name, 1)])
    if name and "\x00" not in name:
        monkeypatch.setenv("QUEUELIB_NAMESPACE", name)
        with pytest.raises(ConfigurationError):
            _ = Dispatcher("memory://").namespace


@pytest.mark.parametrize("name", ["a b", "a\x00b", "a\nb", "a\u202eb", "x" * 256, "\ud800"])
def test_s29_names_of_tasks_print_and_are_short(name: str) -> None:
    """A task's name is no key anywhere, but it is shown and sent."""
    dispatcher = Dispatcher("memory://names")
    with pytest.raises(RegistrationError, match="no name of a task"):
        dispatcher.task(name=name)(lambda: None)


@pytest.mark.parametrize(
    "name", [*NAMES, "0" * 39, "g" * 39, "-" + "0" * 38, "0x" + "0" * 37, "\u0660" * 39, "0" * 10**6]
)
def test_s29_an_id_that_was_not_given_out_reaches_no_server(name: str) -> None:
    """Ids are parsed to bytes and a number before they become a key or a parameter."""
    with pytest.raises(UnknownJob):
        parse_job_id(name)


def test_s30_an_id_has_80_random_bits() -> None:
    """Of the 128 bits of a bundle's id 48 are its time; the rest is the operating system's randomness.

    Whoever tries a billion ids a second against a million jobs of a known millisecond finds the first after some 38
    years in the mean, and every try is a request to the server; the check digits in an id are no secret.
    """
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count

    new_bundle_id(NOW, random)
    assert asked == [10]
    ids = {new_bundle_id(NOW)[6:] for _ in range(1000)}
    assert len(ids) == 1000
    assert BUNDLE_BYTES == 16
    assert parse_job_id(job_id(bytes(16), 7)).index == 7


def test_s18_masking_a_password_takes_no_longer_than_reading() -> None:
    """A megabyte of addresses without a password, or with one, is masked by one look at each character."""
    for text in ("amqp://h" + "://n2ry" * 100_000, "redis://:x" + "://a:" * 100_000 + "@h", "x;a://b:" * 100_000):
        assert mask(text).count("x") <= text.count("x")
    assert (
        mask("see redis://me:a@b@h/0 and amqp://u:p@h;amqp://u:q@i")
        == "see redis://me:***@h/0 and amqp://u:***@h;amqp://u:***@i"
    )
