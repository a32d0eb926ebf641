"""Put one small fault after the other into datasets and projects, and open what comes of it.

Every verb must end in a result or in one line of our own: no traceback, no hang, no memory that
grows. A fault is told by its number, so that it can be put in again::

    python -m tests.fuzz.mutate --calls 100000 --seed 1
    python -m tests.fuzz.mutate --calls 3000 --seed 1 --first 4000 --keep /tmp/look
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import json
import marshal
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from flowrvs.cli import _main as command_line
from flowrvs.cli import main
from flowrvs.errors import FlowRVSError
from flowrvs.store import Project
from tests.fixtures import layouts

#: Seconds and bytes that one call may take, and letters of what it says.
SECONDS, GROWTH, LETTERS = 10, 500 << 20, 1000

Tree = dict[str, bytes | None]
"""Files by their path in a folder; None for a folder."""

NESTED = [functools.reduce(lambda inner, _: [inner], range(n), 1) for n in (300, 900, 950, 970)]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 255, 256, 65536, 2**31 - 1, 2**63, 10**30, -0.5, 1e308),
    *(float("nan"), float("inf"), "", "0", "1", "-1", "1e9", "0x1", "²", "１", "x", "\ud800"),
    *("../x", "/dev/zero", "a/b", "a\\b", "\x00", "\n", "x" * 300, "9" * 5000, ".", "00000"),
    *([], {}, [[]], [None], [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6]], [0] * 999, *NESTED, {"": {}}),
    *({"size": [10**6, 10**6], "counts": "abc"}, {"size": [20, 30], "counts": "`b0"}),
    *({"size": [20, 30], "counts": [600]}, {"size": [30, 20], "counts": [0, 600]}),
    *({"size": [20, 30], "counts": [10**12]}, {"size": [1, 1], "counts": [1]}),
    *({"size": None, "counts": None}, {"size": [20.0, 30.0], "counts": [1e400]}),
    *(
        {"counts": "\u00e9"},
        [[1e9, -1e9, 1e9, 1e9, float("nan"), 0]],
        [[0, 0, 100, 0, 0, 20] * 999],
        40_000_000,
    ),
]
NAMES = ("", ".", "..", "a/b", "v", "V", "x" * 300, "\ud800x", "00000", "-1", "\x7f", "9" * 5000)
FILES = ("00000.jpg", "00001.PNG", "x.png", ".h", "\udcff.json", "\u00fc.json", "-x", "a b.txt")


# -- what is mutated -------------------------------------------------------------------


def _read(folder: Path) -> Tree:
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def _write(tree: Tree, folder: Path) -> None:
    for name, data in tree.items():
        path = folder / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _quiet(*words: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(list(words)) == 0, words


def _davis(root: Path) -> Path:
    pictures, masks = (root / kind / "480p" / "v" for kind in ("JPEGImages", "Annotations"))
    names = layouts.frames(pictures, 3)
    masks.mkdir(parents=True)
    for index, name in enumerate(names):
        layouts.palette(index).save(masks / f"{name}.png")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("v\n")
    (root / "davis_text_annotations").mkdir()
    (root / "davis_text_annotations" / "1.txt").write_text('v 1 "the first"\nv 2 "the second"\n')
    return root


def _labelme(root: Path) -> Path:
    for index, name in enumerate(layouts.frames(root, 3)):
        points = [[2 + index, 2], [9 + index, 2], [9 + index, 8], [2 + index, 8]]
        shape = {"label": "bear", "group_id": 1, "shape_type": "polygon", "points": points}
        box = {"label": "dog", "shape_type": "rectangle", "points": [[3, 11], [9, 17]]}
        about = {"imagePath": f"{name}.jpg", "imageHeight": layouts.H, "imageWidth": layouts.W}
        (root / f"{name}.json").write_text(json.dumps({"shapes": [shape, box], **about}))
    return root


def make_seeds(scratch: Path) -> tuple[dict[str, Tree], dict[str, str]]:
    """Return small datasets of every format, and projects, and what in them is given to a verb."""
    made: dict[str, str] = {}

    def seed(name: str, write: Callable[[Path], Path]) -> Path:
        folder = scratch / name
        folder.mkdir(parents=True)
        made[name] = os.path.relpath(write(folder), folder)
        return folder

    seed("vos", lambda d: layouts.vos(d, layouts.palette))
    seed("vos-16", lambda d: layouts.vos(d, layouts.KINDS["16 bits"], [0, 3]))
    seed("vos-rgb", lambda d: layouts.vos(d, layouts.KINDS["colours of VOC"], [0]))
    seed("ref-ytvos", lambda d: layouts.ref_ytvos(d, truth=True))
    mevis = seed("mevis", lambda d: layouts.mevis_v2(d, "meta_expressions.json", False))
    seed("mevis-2", lambda d: layouts.mevis_v2(d, "meta_expressions_v2.json", True))
    seed("coco-video", layouts.coco_video)
    seed("sa-v", layouts.sa_v)
    seed("davis", _davis)
    seed("labelme", lambda d: _labelme(d / "l"))
    project = scratch / "project" / "p.flowrvs"
    _quiet("import", str(mevis), "--out", str(project))
    with Project.open(project) as opened:  # with steps to undo, one of them undone
        opened.labels(1)[0, :4, :4] = 1
        opened.labels(1)[1, :4, :4] = 0
        opened.write_model(1, 1, 2, np.ones((1, layouts.H, layouts.W), np.bool_))
        opened.undo()
    made["project"] = project.name
    for name in ("mevis", "ytvos", "refdavis", "davis", "coco", "coco-images", "png"):
        target = scratch / f"own-{name}" / "d"
        _quiet("export", str(project), "--to", str(target), "--format", name)
        made[target.parent.name] = "d"
    return {name: _read(scratch / name) for name in made}, made


# -- how -------------------------------------------------------------------------------


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in inner:
        yield (*path, key)
        if isinstance(below, (dict, list)):
            yield from _paths(below, (*path, key))


def _anew(value: Any) -> Any:
    """Copy a value, however deep: faults go into it, too."""
    return marshal.loads(marshal.dumps(value))


def change_json(data: bytes, dice: random.Random) -> bytes:
    """Change, remove, repeat, rename or move a value of a JSON text, or a few."""
    value = json.loads(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        found = list(_paths(value))
        if not found:
            break
        path, other = dice.choice(found), dice.choice(found)
        inside, moved = value, value
        for key in path[:-1]:
            inside = inside[key]
        for key in other:
            moved = moved[key]
        how = dice.random()
        if how < 0.6:
            inside[path[-1]] = _anew(dice.choice(VALUES))
        elif how < 0.75:
            del inside[path[-1]]
        elif how < 0.85 and isinstance(inside, dict):
            inside[dice.choice(NAMES)] = inside.pop(path[-1])
        elif how < 0.92 and isinstance(inside, list):
            inside.append(_anew(inside[path[-1]]))
        else:
            inside[path[-1]] = copy.deepcopy(moved)
    text = json.dumps(value, ensure_ascii=dice.random() < 0.8, indent=dice.choice((None, None, 1)))
    if dice.random() < 0.03:  # a key twice, or an end that is none
        text = text.replace('{"', '{"v": 1, "v": {}, "', 1) if dice.random() < 0.5 else text + "}"
    if dice.random() < 0.04:
        return text.encode(dice.choice(("utf-8-sig", "utf-16", "utf-32-be")), "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def change_bytes(data: bytes, dice: random.Random) -> bytes:
    """Change, remove, add or repeat a few bytes."""
    changed = bytearray(data or b"\xff")
    for _ in range(dice.choice((1, 1, 2, 8))):
        at, how = dice.randrange(len(changed) or 1), dice.random()
        if how < 0.5:
            changed[at : at + 1] = dice.choice((dice.randbytes(1), b"\x00", b"\xff", b"9", b"\n"))
        elif how < 0.7:
            del changed[at : at + dice.randrange(1, 50)]
        elif how < 0.8:
            changed[at:at] = dice.randbytes(dice.randrange(1, 20))
        elif how < 0.9:
            changed[at:at] = changed[max(0, at - 40) : at]
        else:
            del changed[at:]
    return bytes(changed)


def change_picture(data: bytes, dice: random.Random, giants: Sequence[bytes] = ()) -> bytes:
    """Change what a picture says of itself, or save it as another kind."""
    if data[:4] == b"\x89PNG" and dice.random() < 0.4:
        sizes = (0, 1, 21, 2**16, 2**31 - 1, 2**32 - 1)
        width, height, depth, color = struct.unpack(">IIBB", data[16:26])
        how = dice.randrange(4)
        width = dice.choice(sizes) if how in (0, 1) else width
        height = dice.choice(sizes) if how in (1, 2) else height
        if how == 3:
            depth, color = dice.choice((1, 2, 8, 16)), dice.randrange(8)
        head = b"IHDR" + struct.pack(">IIBB", width, height, depth, color) + data[26:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    if giants and dice.random() < 0.1:
        return dice.choice(giants)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
            mode = dice.choice(("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "CMYK", "F"))
            picture = (picture.convert("I") if mode == "I;16" else picture).convert(mode)
            if dice.random() < 0.3:
                picture = picture.resize((dice.choice((1, 20, 31)), dice.choice((1, 20, 30))))
            out = io.BytesIO()
            kind = dice.choice(("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "EPS", "PPM", "ICO"))
            about: dict[str, Any] = {}
            if kind in ("PNG", "JPEG", "WEBP") and dice.random() < 0.5:
                exif = Image.Exif()
                exif[0x0112] = dice.choice((1, 3, 6, 8, 99))
                about = {"exif": exif.tobytes(), "icc_profile": dice.randbytes(40)}
                if dice.random() < 0.7:
                    about["exif"] = b"Exif\0\0" + change_bytes(about["exif"][6:], dice)
            picture.save(out, kind, **about)
            return out.getvalue()
    except (OSError, ValueError, KeyError, SyntaxError):
        return change_bytes(data, dice)


def make_giants() -> list[bytes]:
    """Return small files of pictures as large as a video's may be, and larger."""
    made = []
    for mode, size, kind in (
        *(("L", (8000, 4999), "PNG"), ("I;16", (8000, 4999), "PNG"), ("RGB", (8000, 4999), "PNG")),
        *(
            ("1", (7000, 7000), "PNG"),
            ("P", (1, 40_000_000), "PNG"),
            ("L", (8000, 4999), "JPEG"),
            ("RGB", (200, 150), "JPEG"),
        ),
    ):
        out = io.BytesIO()
        Image.new(mode, size, 1).save(out, kind)
        made.append(out.getvalue())
    return made


def change_place(path: Path, dice: random.Random) -> None:
    """Put something else in a file's place: a folder, a pipe, a link, nothing, a giant."""
    how = dice.randrange(9)
    if how == 0:
        path.rename(path.with_name(dice.choice(FILES)))
        return
    path.unlink()
    if how == 1:
        path.mkdir()
    elif how == 2:
        os.mkfifo(path)
    elif how == 3:
        path.symlink_to(dice.choice(("/dev/zero", "/etc/hostname", path.name, "..", "gone")))
    elif how == 4:
        with path.open("wb") as file:
            file.truncate(dice.choice((1 << 20, 1 << 33)))  # sparse
    elif how == 5:
        path.write_bytes(b"")
    elif how == 6:
        folder = path.parent
        for inside in folder.iterdir():
            if inside.is_file() or inside.is_symlink():
                inside.unlink()
    elif how == 7:
        path.with_name(path.stem).mkdir(exist_ok=True)


def put_fault(folder: Path, dice: random.Random, giants: Sequence[bytes] = ()) -> str:
    """Change a file somewhere in a folder; return which."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    # One that was made sparse is not read here: the peak of memory is what the calls took.
    files = [p for p in files if p.stat().st_size < 1 << 26]
    if not files:
        return ""
    # Text first: a dataset has many pictures and few of them.
    text = [p for p in files if p.suffix in (".json", ".txt") or p.name in ("history", "zarr.json")]
    path = dice.choice(text if text and dice.random() < 0.6 else files)
    how = dice.random()
    try:
        if how < 0.12:
            change_place(path, dice)
        elif path.suffix == ".json" and how < 0.85 and path.stat().st_size:
            path.write_bytes(change_json(path.read_bytes(), dice))
        elif path.suffix in (".jpg", ".png") and how < 0.6:
            path.write_bytes(change_picture(path.read_bytes(), dice, giants))
        elif path.stat().st_size < 1 << 21:
            path.write_bytes(change_bytes(path.read_bytes(), dice))
    except (OSError, ValueError, RecursionError):  # a second fault met the first
        pass
    return path.relative_to(folder).as_posix()


# -- what must not happen --------------------------------------------------------------


class Hang(BaseException):
    """A call took longer than `SECONDS`."""


_ALARMS = (signal.SIGPROF, signal.SIGALRM)


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


def draw(project: str) -> int:
    """Open a project to draw in it, as the dock does: look at all of it, undo, redo, draw."""
    try:
        with Project.open(project) as opened:
            frames = opened.video.frame_count
            for object_id, record in list(opened.objects.items()):
                opened.object_mask(object_id, 0, frames)
                opened.labels(record.layer)[frames - 1, :2, :2] = object_id
            opened.undo()
            opened.redo()
            opened.flush()
    except FlowRVSError as error:
        print(f"flowrvs: {error}", file=sys.stderr)
        return 2
    return 0


def call(*words: str) -> tuple[int, str]:
    """Run a verb, or `draw`; return its exit code and what was wrong with how it ended."""
    out, err = io.StringIO(), io.StringIO()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The processor's time, which another program's work does not lengthen; and the clock's, for
    # what waits.
    before = [signal.signal(number, _alarm) for number in _ALARMS]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(12 * SECONDS)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            code = draw(words[1]) if words[0] == "draw" else main([*words, "-v"])
    except Hang:
        return 1, f"no end after {SECONDS} s\n" + traceback.format_exc()
    except BaseException:
        return 1, "escaped\n" + traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in zip(_ALARMS, before, strict=True):
            signal.signal(number, handler)
    # -v shows the traceback of any error; the line behind it is what a person reads.
    said = err.getvalue()
    lines = [line for line in said.splitlines() if line.startswith("flowrvs: ")]
    if code not in (0, 2):
        return code, f"exit code {code}\n{said}"
    checked = words[0] == "check" and "rror" in out.getvalue()
    if code and not checked and (not lines or "internal error" in said or len(lines[-1]) > LETTERS):
        return code, f"what it says\n{said[-3000:]}"
    if not code and "Traceback" in said:
        return code, f"a traceback beside\n{said}"
    hidden = (DeprecationWarning, PendingDeprecationWarning, ResourceWarning)
    strange = [str(w.message) for w in warned if not issubclass(w.category, hidden)]
    if strange:
        return code, f"warnings {strange[:3]}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    return code, f"{grown >> 20} MB more memory" if grown > GROWTH else ""


class Fuzz:
    """Datasets and projects to put faults into, in a folder of their own.

    Parameters
    ----------
    folder : Path
        Is filled; nothing outside it is written.
    seed : int
        What is drawn.
    giants : bool
        Pictures as large as a video's may be are among the faults; making them takes seconds.
    """

    def __init__(self, folder: Path, seed: int, *, giants: bool = False) -> None:
        self.giants = make_giants() if giants else []
        self.folder, self.seed = folder, seed
        self.trees, self.given = make_seeds(folder / "seeds")
        self.names = [*sorted(self.trees), "project", "project"]
        self.ended: dict[str, int] = {}

    def round(self, number: int, keep: Path | None = None) -> list[tuple[str, str]]:
        """Put the faults of one number in; return each command that ended wrong, and how."""
        dice = random.Random(f"{self.seed} {number}")
        name = dice.choice(self.names)
        work, out = self.folder / "work", self.folder / "out"
        for left in (work, out):
            shutil.rmtree(left, ignore_errors=True)
        work.mkdir()
        out.mkdir()
        _write(self.trees[name], work)
        for _ in range(dice.choice((1, 1, 1, 2))):
            put_fault(work, dice, self.giants)
        if keep is not None:
            shutil.rmtree(keep / "last", ignore_errors=True)
            shutil.copytree(work, keep / "last", symlinks=True, copy_function=_copy)
        given = str(work / self.given[name])
        ran = [(" ".join(words), self._run(*words)) for words in self._commands(given, out, dice)]
        found = [(words, wrong) for words, wrong in ran if wrong]
        if keep is not None and found:
            (keep / "last").rename(keep / f"{self.seed}-{number}")
        return found

    def _commands(self, given: str, out: Path, dice: random.Random) -> Iterator[tuple[str, ...]]:
        if given.endswith(".flowrvs"):
            kind = dice.choice(("mevis", "davis", "csv"))
            yield "export", given, "--to", str(out / "to"), "--format", kind
            yield "draw", given
            yield "export", given, "--to", str(out / "again"), "--format", kind
            return
        split = given if Path(given).is_dir() else str(Path(given).parent)
        yield "import", given, "--list"
        which = dice.choice((("--all",), (), ()))
        yield ("import", given, "--out", str(out / "p"), *which)
        yield ("check", split, *dice.choice(((), ("--deep",), ("--json",), ("--fix",))))

    def _run(self, *words: str) -> str:
        start = time.process_time()
        code, wrong = call(*words)
        kind = "wrong" if wrong else f"{words[0]} {code}"
        self.ended[kind] = self.ended.get(kind, 0) + 1
        took = time.process_time() - start
        return wrong or (f"took {took:.1f} s" if took > SECONDS / 2 else "")


def _copy(source: str, target: str) -> None:
    if os.path.isfile(source) and not os.path.islink(source) and os.path.getsize(source) < 1 << 24:
        shutil.copyfile(source, target)


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first fault")
    parser.add_argument("--only", type=int, help="put this fault in, and no other")
    parser.add_argument("--names", nargs="+", help="put faults into these alone")
    parser.add_argument("--keep", type=Path, help="keep what was opened when something went wrong")
    args = parser.parse_args()
    # It takes longer than most verbs that meet a fault.
    command_line.build_parser = functools.cache(command_line.build_parser)
    with tempfile.TemporaryDirectory(prefix="flowrvs-fuzz-") as folder:
        fuzz = Fuzz(Path(folder), args.seed, giants=True)
        fuzz.names = args.names or fuzz.names
        begin, number, kinds = resident(), args.only or args.first, set()
        start = time.monotonic()
        while True:
            for command, wrong in fuzz.round(number, args.keep):
                last = [line for line in wrong.splitlines() if line.startswith("  File")][-1:]
                kind = (wrong.splitlines()[0][:60], *last)
                if kind not in kinds or args.only is not None:
                    kinds.add(kind)
                    print(f"--- {number}: {command}\n{wrong}", flush=True)
            number += 1
            done = sum(fuzz.ended.values())
            if number % 1000 == 0:
                rss = (resident() - begin) >> 20
                spent = time.monotonic() - start
                print(f"{number} {done} calls {spent:.0f} s +{rss} MB {fuzz.ended}", flush=True)
            if args.only is not None or done >= args.calls:
                break
        grown = (resident() - begin) >> 20
        print(f"{done} calls, {len(kinds)} kinds of finds, {grown} MB more memory, {fuzz.ended}")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(_main())
