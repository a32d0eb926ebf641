"""How long the imports take that a user waits for, in fresh interpreters.

    python benchmarks/import_time.py [--repeat N] [--only TEXT] [--json]

Prints the median over the runs in milliseconds, the bare interpreter taken off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "import flowrvs": "import flowrvs",
    "import napari_flowrvs": "import napari_flowrvs",
    "flowrvs --version": "import flowrvs.cli; flowrvs.cli.main(['--version'])",
    "flowrvs.open_video": "import flowrvs; flowrvs.open_video",
    "flowrvs.Project": "import flowrvs; flowrvs.Project",
    "flowrvs.load": "import flowrvs; flowrvs.load",
}


def measure(code: str, repeat: int) -> float:
    """Return the median wall time in seconds of `repeat` interpreters that run `code`."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="interpreters a statement (5)")
    parser.add_argument("--only", default="", metavar="TEXT", help="statements that hold TEXT")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    bare = measure("pass", args.repeat)
    result = {
        name: round(1000 * (measure(code, args.repeat) - bare))
        for name, code in STATEMENTS.items()
        if args.only in name
    }
    if args.json:
        print(json.dumps(result))
        return
    for name, milliseconds in result.items():
        print(f"{name:24} {milliseconds:6} ms")


if __name__ == "__main__":
    main()
