"""``flowrvs check``: lint a MeViS-style split."""

from __future__ import annotations

import argparse
import json

HELP = "Check a MeViS-style split for errors and slips."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("split", metavar="SPLIT_DIR", help="folder with meta_expressions.json")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code: 2 when there are errors."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.check import check_split

    with cancel_on_interrupt() as cancel, progress_line() as progress:
        findings = check_split(args.split, cancel=cancel, progress=progress)
    errors = sum(finding.severity == "error" for finding in findings)
    if args.json:
        print(
            json.dumps(
                {
                    "errors": errors,
                    "warnings": len(findings) - errors,
                    "findings": [finding.to_dict() for finding in findings],
                }
            )
        )
    else:
        for finding in findings:
            print(finding)
        print(f"{args.split}: {errors} errors, {len(findings) - errors} warnings")
    return 2 if errors else 0
