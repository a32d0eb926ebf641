"""``flowrvs check``: lint a MeViS-style split."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowrvs.data.check import Finding

HELP = "Check a MeViS-style split for errors and slips."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("split", metavar="SPLIT_DIR", help="folder with meta_expressions.json")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="repair what changes no mask and no sentence; <file>.before-fix keeps what was",
    )
    parser.add_argument("--deep", action="store_true", help="decode every frame; takes longer")
    parser.add_argument(
        "--max", type=int, default=3, metavar="N", help="examples of each fault (3; 0 for all)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code: 2 when there are errors."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.check import check_split
    from flowrvs.data.faults import repair_split
    from flowrvs.errors import InputError

    if args.max < 0:
        raise InputError(f"--max must be 0 or more, not {args.max}.")

    with cancel_on_interrupt() as cancel:
        if args.fix:
            with progress_line() as progress:
                done = repair_split(args.split, cancel=cancel, progress=progress)
            args.result["fixed"] = done
            if not args.json:
                print("\n".join(f"repaired: {line}" for line in done) or "nothing to repair")
        with progress_line() as progress:
            findings = check_split(args.split, deep=args.deep, cancel=cancel, progress=progress)
    errors = sum(finding.severity == "error" for finding in findings)
    if args.json:
        args.result |= {
            "errors": errors,
            "warnings": len(findings) - errors,
            "findings": [finding.to_dict() for finding in findings],
        }
        print(json.dumps(args.result))
        return 2 if errors else 0
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in report(args.split, findings, examples=args.max, colored=colored, fix=args.fix):
        print(line)
    return 2 if errors else 0


def report(
    split: str,
    findings: Sequence[Finding],
    *,
    examples: int = 3,
    colored: bool = False,
    fix: bool = False,
) -> list[str]:
    """Return the findings as lines for a person: by fault, the worst first.

    Parameters
    ----------
    split : str
        What was checked.
    findings : sequence of Finding
        Errors first.
    examples : int
        How many of each fault are shown; all of them for 0.
    colored : bool
        Use a terminal's colours.
    fix : bool
        ``--fix`` was given: do not advise it.
    """
    from flowrvs.data.check import FAULTS
    from flowrvs.errors import counted

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colored else text

    lines: list[str] = []
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.code), []).append(finding)
    for severity, color in (("error", "31"), ("warning", "33")):
        here = [(code, group) for (kind, code), group in groups.items() if kind == severity]
        if not here:
            continue
        count = sum(len(group) for _, group in here)
        lines += [paint(f"{counted(count, severity)}".upper(), f"1;{color}")]
        for code, group in sorted(here, key=lambda pair: -len(pair[1])):
            number = f" ({len(group)})" if len(group) > 1 else ""
            lines.append(f"  {paint(FAULTS.get(code, code), '1')}{number}  [{code}]")
            shown = group if examples <= 0 else group[:examples]
            for finding in shown:
                where = f"{finding.file}: {finding.key}" if finding.key else finding.file
                lines.append(f"    {where}: {finding.problem}")
            if len(group) > len(shown):
                lines.append(f"    ... and {len(group) - len(shown)} more (--max 0 shows all)")
            lines.append(f"    -> {group[0].remedy}")
        lines.append("")
    errors = sum(finding.severity == "error" for finding in findings)
    fixable = sum(finding.fixable for finding in findings)
    if not findings:
        lines.append(paint(f"{split}: 0 errors, 0 warnings", "32"))
        return lines
    total = f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}"
    lines.append(f"{split}: {total}")
    if fixable and not fix:
        lines.append(f"{fixable} of them can be repaired safely: flowrvs check {split} --fix")
    return lines
