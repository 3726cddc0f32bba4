"""One run: `python -m tests.crash.peers.session` injects one fault into one system and prints what came of it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.place import Place
from tests.crash.own_servers import OwnRedis
from tests.crash.peers.catalog import SYSTEMS
from tests.crash.peers.checker import count
from tests.crash.peers.faults import INJECT, Aftermath
from tests.crash.peers.stage import Stage


def main() -> None:
    """Run, and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", type=int, required=True)
    parser.add_argument("--system", required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--wait", type=float, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--amqp", default="")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(json.dumps(_run(options)), flush=True)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    system = SYSTEMS[options.system]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-peers-", ignore_cleanup_errors=True))
        server = stack.enter_context(OwnRedis(Path(folder))) if system.broker == "redis" else None
        url = f"redis://127.0.0.1:{server.port}/0" if server else ""
        place = Place(system.broker, url, options.amqp, folder, options.name, system.variant)
        os.environ.update(place.environment())
        peer = importlib.import_module(f"tests.crash.peers.systems.{system.module}").Peer(place)
        stack.callback(peer.close)
        chance = random.Random(f"{options.seed}/{options.system}/{options.row}/{options.number}")
        stage = Stage(place, peer, server, options.wait, options.number, chance, stack)
        return _judge(stage, INJECT[options.row](stage))


def _judge(stage: Stage, after: Aftermath) -> dict[str, Any]:
    accepted = {label for label in stage.handles if label not in after.left_out}
    counted = count(stage.runs(), accepted, since=after.since, touched=[x for x in after.touched if x in accepted])
    facts = list(after.facts)
    exits = sum(group.exits for group in stage.groups)
    if counted.lost:
        states = sorted({stage.peer.state(stage.handles[label]) for label in counted.lost})
        facts.append(f"the lost are {' or '.join(map(repr, states))}")
    return {
        **asdict(counted),
        "exits": exits,
        "is_alive": any(group.is_alive for group in stage.groups),
        "has_warned": stage.has_warned(),
        "facts": facts,
    }


if __name__ == "__main__":
    main()
