"""What a verb's options are by default, what becomes of those that are given, what is said."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flowrvs
import flowrvs.data.check
import flowrvs.data.export
import flowrvs.data.faults
import flowrvs.data.importing
import flowrvs.data.synthetic
import flowrvs.evaluation
from flowrvs.cli import main
from flowrvs.cli._main import build_parser
from flowrvs.data.export import ExportResult
from flowrvs.data.faults import Finding
from flowrvs.errors import StorageError
from flowrvs.progress import CancelToken
from tests.unit.flowrvs.cli.conftest import Recorder

REQUEST = {"steps": 1, "window": None, "overlap": None}
MODEL = {
    "model": "tiny",
    "lora": None,
    "device": "auto",
    "memory": "auto",
    "dtype": "auto",
    "text_precision": "full",
    "portrait_box": False,
    "fast": False,
    "sparse": False,
    "compile": False,
}
CLUSTER = {
    "scheduler": None,
    "tls_ca": None,
    "tls_cert": None,
    "tls_key": None,
    "insecure": False,
}
SEGMENT = {
    "videos": ["v"],
    "prompts": [],
    "sentences": None,
    "out": None,
    "start": 0,
    "stop": None,
    "around": None,
    "every": 1,
    "fill": False,
    "no_cuts": False,
    "overlay": None,
    "damaged": "raise",
    "confidence": False,
    "again": False,
}
EXPORT = {
    "projects": ["a", "b"],
    "to": "d",
    "into": None,
    "format": "mevis",
    "split": "train",
    "assign": None,
    "seed": 0,
    "name_as_sentence": False,
    "annotated_only": False,
    "append": False,
    "overwrite": False,
    "quality": 95,
    "every": 1,
    "link": False,
    "jobs": None,
    "licence": "",
    "date": "",
}
IMPORT = {
    "split": "s",
    "video": None,
    "all": False,
    "list": False,
    "frames": None,
    "out": None,
}
SYNTH = {
    "out": "d",
    "videos": 10,
    "seed": 0,
    "frames": 33,
    "height": 96,
    "width": 160,
    "expressions": 8,
}
TRACKER = {"tracker": None, "device": "auto", "precision": "auto"}
PICK = {
    "source": "v",
    "frame": 3,
    "marks": None,
    "scissors": None,
    "object": None,
    "sentence": None,
    "name": None,
    "rule": "replace",
    "inside_box": False,
    "out": None,
    **TRACKER,
}
SPREAD = {
    "project": Path("p"),
    "objects": None,
    "method": None,
    "keys": None,
    "start": 0,
    "stop": None,
    "again": False,
    "video": None,
    **TRACKER,
    **CLUSTER,
}
CONVERT = {
    "action": "convert",
    "base": Path("b"),
    "dit": Path("d"),
    "vae": Path("v"),
    "text": None,
    "out": Path("o"),
    "name": None,
    "dtype": None,
    "text_dtype": None,
    "text_length": None,
}
OWN = {"dit": None, "vae": None, "text": None}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("demo", {"out": Path("demo-out"), "model": "tiny", "steps": 1, "device": "auto"}),
        ("segment v", {**SEGMENT, **REQUEST, **MODEL, **CLUSTER}),
        ("export a b --to d", EXPORT),
        ("export a --into s", {**EXPORT, "projects": ["a"], "to": None, "into": "s"}),
        ("import s", IMPORT),
        ("import s --all", {**IMPORT, "all": True}),
        ("import s --list --frames f", {**IMPORT, "list": True, "frames": "f"}),
        ("check s", {"split": "s", "fix": False, "deep": False, "max": 3}),
        (
            "predict s --out p",
            {"split": "s", "out": "p", "videos": None, "zip": None}
            | {**REQUEST, **MODEL, **CLUSTER},
        ),
        (
            "predict s --out p --videos a b --zip --window whole",
            {"split": "s", "out": "p", "videos": ["a", "b"], "zip": "mevis"}
            | {**REQUEST, **MODEL, **CLUSTER, "window": "whole"},
        ),
        (
            "evaluate p s",
            {"predictions": "p", "split": "s", "worst": 5, "html": None, "workers": 0},
        ),
        ("synth --out d", SYNTH),
        ("pick v --frame 3", PICK),
        (
            "pick v --frame 3 --point 1,2 --not 3,4.5 --box 1,2,3,4 --scribble '1,2;3,4' "
            "--not-scribble 5,6 --scissors 1,2 3,4 --scissors 5,6 --inside-box",
            PICK
            | {
                "marks": [
                    ("point", ((1.0, 2.0),), True),
                    ("point", ((3.0, 4.5),), False),
                    ("box", ((1.0, 2.0), (3.0, 4.0)), True),
                    ("scribble", ((1.0, 2.0), (3.0, 4.0)), True),
                    ("scribble", ((5.0, 6.0),), False),
                ],
                "scissors": [[((1.0, 2.0),), ((3.0, 4.0),)], [((5.0, 6.0),)]],
                "inside_box": True,
            },
        ),
        ("spread p", SPREAD),
        (
            "spread p --object 1 --object 2 --from 3 --from 5 --again",
            SPREAD | {"objects": [1, 2], "keys": [3, 5], "again": True},
        ),
        ("models list", {"action": "list"}),
        (
            "models fetch mevis",
            {"action": "fetch", "model": "mevis", "home": None, "dry_run": False, **OWN},
        ),
        ("models convert --base b --dit d --vae v --out o", CONVERT),
        ("models verify m", {"action": "verify", "model": "m", "hashes_only": False}),
        (
            "models calibrate m",
            {"action": "calibrate", "model": "m", "split": None, "clips": 24, "device": "auto"},
        ),
    ],
)
def test_defaults(line: str, wanted: dict[str, Any]) -> None:
    found = vars(build_parser().parse_args(shlex.split(line)))
    assert found.pop("json") is found.pop("verbose") is False
    assert callable(found.pop("run"))
    verb = line.split()[0]
    models = verb in ("demo", "segment", "pick", "spread", "predict", "models")
    assert found.pop("loads_models") is models
    assert found == wanted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export a", "one of the arguments --to --into is required"),
        ("export a --to d --into s", "argument --into: not allowed with argument --to"),
        ("export --to d", "the following arguments are required: PROJECT"),
        ("import s --all --list", "argument --list: not allowed with argument --all"),
        ("import s --video v --all", "argument --all: not allowed with argument --video"),
        ("predict s", "the following arguments are required: --out"),
        ("predict s --out p --zip tar", "argument --zip: invalid choice: 'tar'"),
        ("segment v --damaged skip", "argument --damaged: invalid choice: 'skip'"),
        ("segment v --memory none", "argument --memory: invalid choice: 'none'"),
        ("segment v --dtype int8", "argument --dtype: invalid choice: 'int8'"),
        ("segment v --text-precision x", "argument --text-precision: invalid choice: 'x'"),
        ("segment v --window 1.5", "'1.5' is neither a number of frames nor 'whole'"),
        ("synth", "the following arguments are required: --out"),
        ("pick v --point 1,2", "the following arguments are required: --frame"),
        ("pick v --frame 3 --point 1,2,3,4", "'1,2,3,4' is not one point X,Y"),
        ("pick v --frame 3 --box 1,2", "'1,2' is not a box X0,Y0,X1,Y1"),
        ("pick v --frame 3 --box 1,2,3", "'1,2,3' has an odd number of coordinates; use X,Y"),
        ("pick v --frame 3 --point 1,x", "'1,x' is not a list of numbers such as 120,80"),
        ("pick v --frame 3 --rule x", "argument --rule: invalid choice: 'x'"),
        ("spread p --method x", "argument --method: invalid choice: 'x'"),
        ("spread p --precision x", "argument --precision: invalid choice: 'x'"),
        ("segment", "Give a VIDEO, or a file of them with --sentences."),
        ("segment v", "There is no sentence for v; give one with -p."),
        ("segment --sentences none.csv", "Nothing is at none.csv; give a CSV file of sentences."),
        ("segment v w -p x --overlay o.mp4", "--overlay is for one video; 'flowrvs export"),
        ("segment v -p x --fill", "--fill needs --every 2 or more: the frames between are"),
        ("segment v -p x --fill --every 1", "--fill needs --every 2 or more: the frames between"),
        ("segment v -p x --around 2 --start 1", "--around says which frames; leave --start,"),
        ("segment v -p x --around 2 --stop 0", "--around says which frames; leave --start,"),
        ("segment v -p x --around 2 --every 2", "--around says which frames; leave --start,"),
        ("models", "the following arguments are required: ACTION"),
        ("models convert --base b --dit d --out o", "arguments are required: --vae"),
        ("models convert --base b --vae d --out o", "arguments are required: --dit"),
    ],
)
def test_slips_are_told(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


ALL = "--name-as-sentence --annotated-only --quality 7 --every 3 --link --jobs 2"
GIVEN = {
    "name_as_sentence": True,
    "annotated_only": True,
    "quality": 7,
    "every": 3,
    "link": True,
    "jobs": 2,
}
PLAIN = {
    "name_as_sentence": False,
    "annotated_only": False,
    "quality": 95,
    "every": 1,
    "link": False,
    "jobs": None,
}
MORE = "--format csv --overwrite --licence CC0 --date today"
TOLD = {"format": "csv", "overwrite": True, "licence": "CC0", "date": "today"}
UNTOLD = {"format": "mevis", "overwrite": False, "licence": "", "date": ""}


@pytest.mark.parametrize(
    ("line", "function", "args", "options"),
    [
        (f"--split x {ALL} {MORE}", "export_projects", ["d"], {"split": "x", **GIVEN, **TOLD}),
        ("", "export_projects", ["d"], {"split": "train", **PLAIN, **UNTOLD}),
        (
            f"--assign 1,3 --seed 5 {ALL} {MORE}",
            "export_splits",
            ["d", {"train": 1.0, "valid": 3.0}],
            {"seed": 5, **GIVEN, **TOLD},
        ),
        (
            "--assign 1,3",
            "export_splits",
            ["d", {"train": 1.0, "valid_u": 3.0}],
            {"seed": 0, **PLAIN, **UNTOLD},
        ),
        (f"--append --split x {ALL}", "append_projects", [Path("d/x")], GIVEN),
        ("--append", "append_projects", [Path("d/train")], PLAIN),
    ],
)
def test_export(replaced, capsys, line, function, args, options) -> None:
    result = ExportResult(Path("d/x"), "csv", 1, 2, 1, 0, ("first", "second"))
    several = function == "export_splits"
    recorder = replaced(flowrvs.data.export, function, [result] if several else result)
    assert main(["export", "a", "b", "--to", "d", *line.split()]) == 0
    assert recorder.only() == ((["a", "b"], *args), options)
    assert capsys.readouterr().out == (
        "d/x: 1 video, 2 frames, 1 sentence, 0 objects (csv)\nnote: first\nnote: second\n"
    )
    assert main(["--json", "export", "a", "--to", "d", *line.split()]) == 0
    row = {**dataclasses.asdict(result), "path": "d/x", "notes": ["first", "second"]}
    assert json.loads(capsys.readouterr().out) == ({"splits": [row]} if several else row)


@pytest.mark.parametrize("wrong", ["--assign 1,1", "--overwrite", "--format csv"])
def test_append_goes_with_no_other_way(replaced, capsys, wrong: str) -> None:
    recorder = replaced(flowrvs.data.export, "append_projects", None)
    assert main(["export", "a", "--to", "d", "--append", *wrong.split()]) == 2
    assert capsys.readouterr().err == (
        "flowrvs: --append adds to a MeViS-style split: leave out --assign, --overwrite, "
        "--format.\n"
    )
    assert not recorder.calls


def test_import_lists(replaced, capsys) -> None:
    recorder = replaced(flowrvs.data.importing, "list_videos", {"a": 1, "b": 2})
    assert main(["import", "s", "--list", "--frames", "f"]) == 0
    assert recorder.calls == [(("s",), {"pictures": "f"})]
    assert capsys.readouterr().out == "a  1 sentence\nb  2 sentences\n"
    assert main(["import", "s", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"videos": {"a": 1, "b": 2}}


def test_import(replaced, monkeypatch, capsys) -> None:
    class Made(SimpleNamespace):
        def __enter__(self) -> Made:
            return self

        def __exit__(self, *_: object) -> None:
            self.closed = True

    made = Made(path=Path("p"), objects=[1], expressions=[1, 2], layers=[])
    single = replaced(flowrvs.data.importing, "import_video", made)
    notes = SimpleNamespace(load=lambda path: SimpleNamespace(notes=[f"of {path}"]))
    monkeypatch.setattr("flowrvs.data.origin.Origin", notes)
    assert main(["import", "s"]) == 0
    assert single.only() == (("s", None, None), {"pictures": None}) and made.closed
    told = "p: 1 object, 2 sentences, 0 layers\nnote: of p\n"
    assert capsys.readouterr().out == told
    single.calls.clear()
    assert main("import s --video v --out o --frames f --json".split()) == 0
    assert single.only() == (("s", "v", "o"), {"pictures": "f"})
    assert json.loads(capsys.readouterr().out) == {"projects": ["p"]}
    every = replaced(flowrvs.data.importing, "import_split", [Path("a"), Path("b")])
    assert main(["import", "s", "--all"]) == 0
    args, options = every.only()
    options.pop("kept")(Path("b"))
    options.pop("failed")
    assert (args, options) == (("s", None), {"pictures": None})
    assert capsys.readouterr().out == "a\nnote: of a\nb\nnote: of b\n"
    every.calls.clear()
    assert main("import s --all --out o --frames f --json".split()) == 0
    args, options = every.only()
    assert args == ("s", "o") and options["pictures"] == "f"
    assert options.keys() == {"pictures", "kept", "failed"}
    assert json.loads(capsys.readouterr().out) == {"projects": ["a", "b"], "failed": {}}


FINDINGS = [
    Finding("error", "f.json", "v/0", "it is wrong", "mend it", "bad-ids"),
    Finding("warning", "g.json", "", "it is odd", "look", "empty-rle"),
]


@pytest.mark.parametrize(("found", "code"), [(FINDINGS, 2), (FINDINGS[1:], 0), ([], 0)])
def test_check(replaced, capsys, found, code) -> None:
    check = replaced(flowrvs.data.check, "check_split", found)
    repair = replaced(flowrvs.data.faults, "repair_split", ["x: y"])
    assert main(["check", "s", "--deep"]) == code
    assert check.only() == (("s",), {"deep": True}) and not repair.calls
    told = capsys.readouterr().out.splitlines()
    errors = code // 2
    assert told[-2 if found else -1] == f"s: {errors} error{'s' * (not errors)}, " + (
        "1 warning" if found else "0 warnings"
    )
    if found:
        assert told[-1] == "1 of them can be repaired safely: flowrvs check s --fix"
    if code:
        assert told[:8] == [
            "1 ERROR",
            "  obj_id and anno_id are no lists of whole numbers  [bad-ids]",
            "    f.json: v/0: it is wrong",
            "    -> mend it",
            "",
            "1 WARNING",
            "  An absent mask is written as an RLE without pixels  [empty-rle]",
            "    g.json: it is odd",
        ]
    check.calls.clear()
    assert main(["check", "s", "--fix", "--json"]) == code
    assert check.only() == (("s",), {"deep": False}) and repair.only() == (("s",), {})
    keys = ("severity", "file", "key", "problem", "remedy", "code")
    rows = [{key: getattr(f, key) for key in keys} for f in found]
    for row in rows:
        row["fixable"] = row["code"] == "empty-rle"
    said = {"errors": errors, "warnings": min(len(found), 1), "findings": rows, "fixed": ["x: y"]}
    assert json.loads(capsys.readouterr().out) == said
    assert main(["check", "s", "--fix"]) == code
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "repaired: x: y" and "--fix" not in "".join(told)
    repair.result = []
    assert main(["check", "s", "--fix"]) == code
    assert capsys.readouterr().out.startswith("nothing to repair\n")


@pytest.mark.parametrize(
    ("no_color", "colored"), [(None, True), ("1", False)], ids=["terminal", "NO_COLOR"]
)
def test_check_has_colours_on_a_terminal(replaced, monkeypatch, capsys, no_color, colored) -> None:
    replaced(flowrvs.data.check, "check_split", FINDINGS)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True, raising=False)
    main(["check", "s"])
    told = capsys.readouterr().out
    assert ("\x1b[1;31m1 ERROR\x1b[0m" in told) is colored
    assert ("\x1b[1;33m1 WARNING\x1b[0m" in told) is colored
    assert ("\x1b" in told) is colored


@pytest.fixture
def split(tmp_path: Path) -> Path:
    (tmp_path / "s" / "JPEGImages" / "v").mkdir(parents=True)
    meta = {"videos": {"v": {"frames": ["00000"], "expressions": {"0": {"exp": "it"}}}}}
    (tmp_path / "s" / "meta_expressions.json").write_text(json.dumps(meta))
    return tmp_path / "s"


def test_predict(replaced, monkeypatch, capsys, split: Path) -> None:
    segmenter = SimpleNamespace(memory_line="")
    load = Recorder(segmenter)
    monkeypatch.setitem(flowrvs.__dict__, "load_segmenter", load)
    counts = {"out": Path("p"), "videos": 1, "expressions": 2, "frames": 3, "skipped": 0}
    result = SimpleNamespace(**counts, blank=())
    predict = replaced(flowrvs.evaluation, "predict_split", result)
    pack = replaced(flowrvs.evaluation, "zip_predictions", Path("p.zip"))
    line = ["predict", str(split), "--out", str(split.parent / "p")]
    assert main(line) == 0
    assert not pack.calls
    assert capsys.readouterr().out == "p: 1 video, 2 sentences\n"
    (given, out, model), options = predict.only()
    options.pop("failed")
    assert given.folder == split and out == line[-1] and model is segmenter
    assert options == {"videos": None, **REQUEST}
    defaults = {name: value for name, value in MODEL.items() if name != "model"}
    assert load.calls == [(("tiny",), defaults)]
    predict.calls.clear()
    load.calls.clear()
    result.skipped, result.blank = 2, tuple("abcdef")
    segmenter.memory_line = "about 1 GB"
    line += "--model m --lora l --device cpu --memory low --dtype float16".split()
    line += "--text-precision float8 --portrait-box --fast --sparse --compile".split()
    line += "--steps 2 --window 9 --overlap 3 --zip ytvos --videos v w".split()
    assert main(line) == 0
    said = capsys.readouterr()
    assert said.out == "p: 1 video, 2 sentences, 2 of them before\np.zip: written and read back\n"
    assert said.err.splitlines() == [
        "about 1 GB",
        "warning: 6 sentences without a word, predicted as background: a, b, c, d, e, ...",
    ]
    options = {"steps": 2, "window": 9, "overlap": 3, "videos": ["v", "w"]}
    given = predict.only()[1]
    given.pop("failed")
    assert given == options
    args, options = pack.only()
    assert args[1:] == (str(split.parent / "p"),) and args[0].folder == split
    assert options == {"videos": ["v", "w"], "layout": "ytvos"}
    flags = ("portrait_box", "fast", "sparse", "compile")
    options = {"lora": "l", "device": "cpu", "memory": "low", "dtype": "float16"}
    options |= {"text_precision": "float8", **dict.fromkeys(flags, True)}
    assert load.calls == [(("m",), options)]
    assert main([*line, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        **counts,
        "out": "p",
        "skipped": 2,
        "blank": list("abcdef"),
        "zip": "p.zip",
        "failed": {},
    }
    assert "about 1 GB" not in said.err


def test_an_overlap_needs_a_window(capsys, split: Path) -> None:
    for more in ([], ["--window", "whole"]):
        line = ["predict", str(split), "--out", str(split.parent / "p"), "--overlap", "2", *more]
        assert main(line) == 2
        assert capsys.readouterr().err == "flowrvs: --overlap needs a --window of some frames.\n"


def test_evaluate(replaced, monkeypatch, capsys, split: Path) -> None:
    scores = SimpleNamespace(coverage=0.5, to_dict=lambda: {"J": 1.0})
    evaluate = replaced(flowrvs.evaluation, "evaluate", scores)
    told = replaced(flowrvs.evaluation, "format_scores", "the scores")
    write = replaced(flowrvs.evaluation, "write_report", None)
    line = ["evaluate", "p", str(split)]
    assert main(line) == 0
    assert capsys.readouterr().out == "the scores\n"
    (predictions, given), options = evaluate.only()
    assert predictions == "p" and given.folder == split and options == {"workers": 0}
    ((found, worst, sentence), _) = told.calls[0]
    assert (found, worst, sentence("v", "0")) == (scores, 5, "it") and not write.calls
    report = split.parent / "r.html"
    evaluate.calls.clear()
    assert main([*line, "--html", str(report), "--worst", "2", "--workers", "3"]) == 0
    assert capsys.readouterr().out == f"the scores\n\nreport: {report}\n"
    assert evaluate.only()[1] == {"workers": 3} and told.calls[1][0][1] == 2
    (args, options) = write.calls[0]
    assert args == (report, scores, "p", args[3]) and args[3].folder == split
    assert isinstance(options["cancel"], CancelToken)
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"J": 1.0}

    # What was scored for an hour is told, whatever becomes of the report.
    def full(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(flowrvs.evaluation, "write_report", full)
    assert main([*line, "--html", str(report)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("the scores\n", "flowrvs: The disk is full.\n")
    assert main([*line, "--html", str(report), "--json"]) == 2
    wanted = {"J": 1.0, "error": "The disk is full.", "code": 2}
    assert json.loads(capsys.readouterr().out) == wanted
    for wrong, said in (
        (["--workers", "-1"], "--worst and --workers must be 0 or more."),
        (["--html", str(split / "none" / "r.html")], "for the report; create it first."),
    ):
        assert main([*line, *wrong]) == 2
        assert said in capsys.readouterr().err
    scores.coverage = 0
    assert main(line) == 2
    assert "such as v/0/00000.png; run 'flowrvs predict' first" in capsys.readouterr().err


def test_synth(replaced, capsys) -> None:
    clip = SimpleNamespace(expressions=[SimpleNamespace(kind=kind) for kind in "bab"])
    write = replaced(flowrvs.data.synthetic, "write_split", [clip])
    options = {name: value for name, value in SYNTH.items() if name != "out"}
    assert main(["synth", "--out", "d"]) == 0
    assert write.only() == (("d",), options)
    assert capsys.readouterr().out == "10 videos, 3 sentences (1 a, 2 b) in d\n"
    write.calls.clear()
    line = "synth --out d --videos 1 --seed 2 --frames 3 --height 40 --width 50 --expressions 6"
    assert main(line.split()) == 0
    given = {"videos": 1, "seed": 2, "frames": 3, "height": 40, "width": 50, "expressions": 6}
    assert write.only() == (("d",), given)
    assert capsys.readouterr().out == "1 video, 3 sentences (1 a, 2 b) in d\n"
    assert main([*line.split(), "--json"]) == 0
    wanted = {"split": "d", "videos": 1, "expressions": 3, "kinds": {"a": 1, "b": 2}}
    assert json.loads(capsys.readouterr().out) == wanted


def test_a_model_on_a_cluster(replaced, monkeypatch, capsys, split: Path, tmp_path: Path) -> None:
    """Folders are named as they are from everywhere; what happens to workers is told."""
    import flowrvs.inference.cluster as cluster

    at, made = Recorder("scheduler"), Recorder("segmenter")
    monkeypatch.setattr(cluster.Scheduler, "at", at)
    monkeypatch.setattr(cluster, "Cluster", made)
    result = SimpleNamespace(out=Path("p"), videos=1, expressions=1, frames=1, skipped=0, blank=())
    predict = replaced(flowrvs.evaluation, "predict_split", result)
    monkeypatch.chdir(tmp_path)
    for name in ("m", "l"):
        (tmp_path / name).mkdir()
    line = ["predict", str(split), "--out", str(tmp_path / "p"), "--scheduler", "tls://h:1"]
    more = "--tls-ca a --tls-cert c --tls-key k --insecure --model m --lora l"
    assert main([*line, *more.split()]) == 0
    options = {"insecure": True, "tls_ca": "a", "tls_cert": "c", "tls_key": "k"}
    assert at.calls == [(("tls://h:1",), options)]
    ((args, given),) = made.calls
    assert args == ("scheduler", str(tmp_path / "m"))
    assert given.pop("lora") == str(tmp_path / "l") and given.pop("device") == "auto"
    assert isinstance(given.pop("cancel"), CancelToken)
    given.pop("notice")("a worker left")
    assert capsys.readouterr().err.endswith("flowrvs: a worker left\n")
    rest = {k: v for k, v in MODEL.items() if k not in ("model", "lora", "device")}
    assert given == rest and predict.only()[0][2] == "segmenter"
    assert main([*line, "--model", "tiny", "--lora", "name"]) == 0
    args, given = made.calls[1]
    assert args[1] == "tiny" and given["lora"] == "name"
    nothing = {"tls_ca": None, "tls_cert": None, "tls_key": None}
    assert at.calls[1][1] == {"insecure": False, **nothing}
