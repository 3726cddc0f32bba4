"""A stock Celery app uses our transports as its broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

import queuelib_redis
import queuelib_sqlite

_APP = """
import os
import queuelib_redis, queuelib_sqlite
from celery import Celery

app = Celery("stock", broker=os.environ["STOCK_BROKER"], backend=os.environ["STOCK_RESULTS"])

@app.task(name="stock.double")
def double(number):
    return 2 * number
"""


@pytest.fixture(params=["qlsqlite", "qlredis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty broker."""
    assert queuelib_sqlite.BACKEND.name == "sqlite"
    assert queuelib_redis.BACKEND.name == "redis"  # importing them registers the aliases
    if request.param == "qlsqlite":
        return f"qlsqlite:///{tmp_path / 'celery.db'}"
    url: str = request.getfixturevalue("redis_url")
    return "qlredis" + url.removeprefix("redis")


def test_ten_tasks(broker: str, tmp_path: Path) -> None:
    """A worker process runs what this process sends, and its results come back."""
    (tmp_path / "results").mkdir()
    (tmp_path / "stock_app.py").write_text(_APP, encoding="utf-8")
    results = f"file://{tmp_path / 'results'}"
    queue = f"celery-{tmp_path.name}"
    environment = {
        **os.environ,
        "STOCK_BROKER": broker,
        "STOCK_RESULTS": results,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    log = tmp_path / "worker.log"
    with log.open("w", encoding="utf-8") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "stock_app", "worker", "-c", "2", "-l", "info", "-Q", queue],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            app = Celery("stock", broker=broker, backend=results)
            with app.connection_for_write() as connection:
                sent = [app.send_task("stock.double", (n,), queue=queue, connection=connection) for n in range(10)]
                got = [one.get(timeout=60) for one in sent]
            app.close()
        finally:
            worker.terminate()
            worker.wait(30)
    assert got == [2 * number for number in range(10)], log.read_text(encoding="utf-8")
