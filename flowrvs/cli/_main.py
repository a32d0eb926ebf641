"""The parser of ``flowrvs`` and its exit codes; importing it leaves torch alone."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import MappingProxyType, ModuleType
from typing import Any, NoReturn, TextIO, cast

from flowrvs import __version__
from flowrvs.errors import Cancelled, FlowRVSError, missing_extra

__all__ = ["CANCELLED", "DONE", "FAULT", "INPUT", "VERBS", "build_parser", "main"]

VERBS = (
    "demo",
    "segment",
    "pick",
    "spread",
    "import",
    "export",
    "check",
    "predict",
    "evaluate",
    "synth",
    "train",
    "models",
)

#: Verbs that import huggingface_hub, which fails where its settings are malformed.
_MODEL_VERBS = ("demo", "segment", "pick", "spread", "predict", "train", "models")

#: Exit codes: done, a fault of the program, bad input, cancelled.
DONE, FAULT, INPUT, CANCELLED = 0, 1, 2, 130

_LONGEST = 800  # letters of the line that tells of an error
_NO_MEMORY = b"flowrvs: The memory is too small; ask for less at once.\n"

#: Options that take a path.
_PATHS = (
    *("--out", "--to", "--into", "--home", "--html", "--overlay", "--config"),
    *("--frames", "--sentences", "--data", "--cache", "--base", "--dit", "--vae", "--truth"),
)


class _UsageError(Exception):
    """The command line itself is wrong."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see '{self.prog} --help'")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every verb, without importing what the verbs need to run.

    Returns
    -------
    argparse.ArgumentParser
        Its results have ``run`` (what to call with them), ``json`` and ``verbose``.
    """
    parser = _Parser(
        prog="flowrvs",
        description="From a sentence to video masks to a dataset.",
        epilog="Exit codes: 0 done, 1 a fault of the program, 2 bad input, 130 cancelled.",
    )
    parser.add_argument("--version", action="version", version=f"flowrvs {__version__}")
    parser.set_defaults(json=False, verbose=False)
    verbs = parser.add_subparsers(metavar="VERB", title="verbs")
    for verb in VERBS:
        module = importlib.import_module(f"{__package__}.{verb}")
        child = verbs.add_parser(verb, help=module.HELP, description=module.HELP)
        module.add_arguments(child)
        child.set_defaults(run=module.run, loads_models=verb in _MODEL_VERBS)
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Let ``--json`` and ``-v`` stand anywhere on the line."""
    # SUPPRESS keeps a child's default from overwriting what its parent has read.
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print one JSON object on standard output",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                _add_common(child)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0 done, 1 a fault of the program, 2 bad input, 130 cancelled. Everything but 0
        comes with one line on standard error, and with a traceback after ``-v``.
    """
    _open_streams()
    if argv is None:  # this process is the program's own
        _tell_full_memory_once()
    # Of large pictures, for which our own limit is lower, and of what is odd in a picture's head.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    stream = sys.stdout
    output = sys.stdout = cast(Any, _Output(stream))
    try:
        try:
            code = _run(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:  # before a verb has begun, or again at its end
            code = _fail(CANCELLED, "Stopped on request.")
        except Exception as error:  # again, while the first one was looked at
            code = _fail_again(error)
        with contextlib.suppress(OSError):
            output.flush()
    finally:
        sys.stdout = stream
    if output.failure is None or isinstance(output.failure, BrokenPipeError):
        return code  # the reader (head, less) left: a message would help nobody
    return code or _fail(INPUT, f"Cannot write to standard output: {output.failure.strerror}.")


class _Output:
    """Standard output that remembers why it could not be written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, and drop what follows once that has failed."""
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Flush."""
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], Any]) -> Any:
        if self.failure is not None:
            return 0
        try:
            return call()
        except OSError as error:
            self.failure = error
            _drop(self._stream)
            return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _run(argv: list[str]) -> int:
    parser = build_parser()
    try:
        _check_paths(argv)
        args = parser.parse_args(argv)
    except _UsageError as error:
        return _fail(INPUT, str(error), as_json="--json" in argv)
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else DONE
    if not hasattr(args, "run"):
        with contextlib.suppress(OSError):
            parser.print_help(sys.stderr)
        return INPUT
    args.result = {}  # what --json says: verbs fill it as they go, so that no error loses it
    fail = partial(_fail, verbose=args.verbose, as_json=args.json, result=args.result)
    try:
        if args.loads_models:
            from flowrvs.checkpoints.registry import check_settings

            check_settings()
        return args.run(args) or DONE
    except (Cancelled, KeyboardInterrupt) as error:
        return fail(CANCELLED, str(error) or "Stopped on request.")
    except FlowRVSError as error:
        return fail(INPUT, str(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return fail(INPUT, f"{error.strerror or error}{where}")
    except Exception as error:
        full = _memory_error(error)
        if full is not None:
            said = f" ({full})" if str(full) else ""
            return fail(INPUT, f"The memory is too small{said}; ask for less at once.")
        extra = missing_extra(error) if isinstance(error, ImportError) else None
        if extra is not None:
            return fail(INPUT, str(extra))
        what = f"internal error, {type(error).__name__}: {error}"
        hint = "" if args.verbose else " (-v shows where)"
        return fail(FAULT, what + hint)


def _open_streams() -> None:
    """Let standard streams exist and take any text, so that no file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the first number that is free is taken: this one
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        with contextlib.suppress(AttributeError, ValueError):
            # A file's name may hold bytes that are no text.
            getattr(sys, name).reconfigure(errors="backslashreplace")


#: Words of `ImportError` (torch is a gigabyte) and `RuntimeError` (a thread needs a stack).
_FULL = ("map segment", "allocate mem", "start new thread")


def _fail_again(error: Exception) -> int:
    """Say why the first error could not be told."""
    full = _full_memory(error)
    said = "The memory is too small" if full else getattr(error, "strerror", None)
    # What the frames of both hold may be what there is too little of.
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__
    if said:
        return _fail(INPUT, f"{said}; ask for less at once.")
    return _fail(FAULT, f"internal error, {type(error).__name__}: {error} (-v shows where)")


def _full_memory(error: BaseException) -> BaseException | None:
    """Return what, among an error and its causes, says that the memory is full."""
    cause: BaseException | None = error
    while cause is not None:  # diffusers wraps what it meets while it is imported
        words = str(cause) if isinstance(cause, (ImportError, RuntimeError)) else ""
        if isinstance(cause, MemoryError) or any(text in words for text in _FULL):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _memory_error(error: BaseException) -> BaseException | None:
    """Return what says that the memory is full, if that is why; torch says so in words alone."""
    full = _full_memory(error)
    if full is None and "torch" in sys.modules:
        from flowrvs.models.devices import is_out_of_memory

        return error if is_out_of_memory(error) else None
    return full


def _tell_full_memory_once() -> None:
    """Keep other threads, finalizers and the program's end from printing tracebacks of it.

    The verb itself meets a full memory too, and says so.
    """

    def quiet(place: ModuleType, name: str) -> None:
        told = getattr(place, name)

        def hook(unhandled: Any) -> None:
            error = unhandled.exc_value
            if not (unhandled.exc_type is MemoryError or (error and _memory_error(error))):
                told(unhandled)

        setattr(place, name, hook)

    quiet(threading, "excepthook")
    quiet(sys, "unraisablehook")


def _check_paths(argv: Sequence[str]) -> None:
    """Refuse empty paths, which a variable that is not set leaves: they would mean this folder."""
    for word, following in pairwise((*argv, None)):
        option = str(word).removesuffix("=")
        if option in _PATHS and (option != word or following == ""):
            raise _UsageError(f"argument {option}: the path is empty")
        # Behind an option it may be a text; elsewhere it is a folder or a file.
        if following == "" and (word == "--" or not str(word).startswith("-")):
            raise _UsageError(f"the word behind {word!r} is empty, where a path is wanted")


def _fail(
    code: int,
    message: str,
    *,
    verbose: bool = False,
    as_json: bool = False,
    result: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Say `message` in one line on standard error, and as JSON, and return `code`.

    JSON says as well what had come of the work until then: `result`.
    """
    line = " ".join(message.split())
    if len(line) > _LONGEST:  # what a file says, in place of a word
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    try:
        if verbose:
            traceback.print_exc(file=sys.stderr)
        print(f"flowrvs: {line}", file=sys.stderr, flush=True)
    except OSError:  # there is nobody to tell
        _drop(sys.stderr)
    except MemoryError:  # not even for that
        with contextlib.suppress(OSError):
            os.write(2, _NO_MEMORY)
    if as_json:
        with contextlib.suppress(MemoryError):
            print(json.dumps({**result, "error": line, "code": code}))
    return code


def _drop(stream: TextIO) -> None:
    """Send what is left for a stream that cannot be written to nowhere, for a quiet exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
