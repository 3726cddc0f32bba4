"""Another program: it prints the result of the job whose id it is given, asked for twice."""

from __future__ import annotations

import json
import sys

import deeds

if __name__ == "__main__":
    results = [deeds.dispatcher.job(sys.argv[1]).result(timeout=20) for _ in range(2)]
    print(json.dumps(results))  # noqa: T201
