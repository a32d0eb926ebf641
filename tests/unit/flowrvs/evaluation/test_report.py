"""What a person reads: the terminal's tables and the HTML report."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from flowrvs.cli import main
from flowrvs.data.mevis import MevisSplit, MevisWriter
from flowrvs.errors import Cancelled
from flowrvs.evaluation import evaluate, format_scores, write_report
from flowrvs.evaluation.report import _outline
from flowrvs.evaluation.scores import ExpressionScore, Scores
from flowrvs.progress import CancelToken

NASTY = '<script>alert("1")</script> & "quotes" \ud800 円が動く'
VOID = {"meta", "img", "link", "br", "rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Collects what a page holds and checks that its tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.images, self.attributes = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)


@pytest.fixture
def scored(split, tmp_path):
    meta = split / "meta_expressions.json"
    value = json.loads(meta.read_text())
    value["videos"]["one"]["expressions"]["1"]["exp"] = NASTY
    meta.write_text(json.dumps(value))
    source = MevisSplit.open(split)
    pred = tmp_path / "<pred>"
    for video, exp_id in source:
        folder = pred / video / exp_id
        folder.mkdir(parents=True)
        for index, mask in enumerate(source.target_masks(video, exp_id)):
            if (video, exp_id, index) == ("one", "1", 5):
                continue
            moved = np.roll(mask, 9 if exp_id == "1" else 1, axis=1)
            Image.fromarray(moved).convert("L").save(folder / f"{index:05d}.png")
    return source, pred, evaluate(pred, source)


def test_the_report_is_one_page_without_network(scored, tmp_path):
    source, pred, scores = scored
    path = write_report(tmp_path / "report.html", scores, pred, source, worst=4)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    assert 'alert("1")' in words and "円が動く" in words and "<pred> against valid_u" in words
    assert page.tags.count("script") == 1
    assert f"{scores.j_and_f:.4f}" in words and "not predicted" in words
    for name in ("href", "src", "srcset", "action"):
        assert all(v.startswith("data:") for k, v in page.attributes if k == name)
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text
    assert len(page.images) == 4 and page.tags.count("svg") == 5
    assert page.tags.count("tr") == 3 + 3 + 7


def test_the_worst_frame_shows_both_outlines(scored, tmp_path):
    source, pred, scores = scored
    path = write_report(tmp_path / "report.html", scores, pred, source, worst=2)
    page = Page(path.read_text(encoding="utf-8"))
    both = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))), dtype=int)
        for data in page.images
    ]
    # The lowest one lacks the frame that is shown, so that only the truth is drawn on it.
    cyan = [(p[..., 2] - p[..., 0] > 120).sum() for p in both]
    orange = [((p[..., 0] - p[..., 2] > 120) & (p[..., 1] > 90)).sum() for p in both]
    assert min(cyan) > 20 and orange[0] == 0 and orange[1] > 20


def test_a_split_without_frames_still_gets_a_report(scored, tmp_path):
    import shutil

    source, pred, scores = scored
    shutil.rmtree(source.folder / "JPEGImages")
    path = write_report(tmp_path / "report.html", scores, pred, source, worst=6)
    assert len(Page(path.read_text(encoding="utf-8")).images) == 6


def test_a_cancelled_report_leaves_nothing(scored, tmp_path):
    source, pred, scores = scored
    token = CancelToken()
    token.cancel()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        write_report(tmp_path / "report.html", scores, pred, source, cancel=token)
    assert sorted(tmp_path.iterdir()) == before


def test_the_tables_fit_a_terminal(scored):
    source, _, scores = scored
    text = format_scores(scores, 6, lambda v, e: source.videos[v].expressions[e].exp * 5)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert f"J&F      {scores.j_and_f:.4f}" in lines
    assert "1 expression lacks pictures; missing ones score 0." in lines
    rows = [line.split() for line in lines]
    assert ["two", "v1.0", "3"] in [row[:3] for row in rows]
    assert "\ud800" not in text and "…" in text
    # The lowest come first.
    assert next(i for i, line in enumerate(lines) if line.startswith("one/1")) < next(
        i for i, line in enumerate(lines) if line.startswith("one/0")
    )


def entry(video, exp_id, frame_j, frame_f, missing=(), **more):
    j, f = np.array(frame_j, float), np.array(frame_f, float)
    means, count = (float(j.mean()), float(f.mean())), len(j)
    frames = {"frame_j": j, "frame_f": f, "missing": missing}
    return ExpressionScore(video, exp_id, *means, count, count - len(missing), **frames, **more)


SCORES = Scores(
    (
        entry(
            "b",
            "0",
            [1, 0.9, 0.8, 0.5],
            [1, 0.7, 0.6, 0.5],
            intersection=320,
            union=400,
            dtssd=0.125,
        ),
        entry("b", "1", [0, 0, 1], [0, 0, 1], (1,), union=100, has_target=False),
        entry("a", "0", [0.5] * 2, [0.4] * 2, intersection=50, union=100, dtssd=0.25),
        entry("a", "7", [1, 1], [1, 1], has_target=False, has_answer=False, dtssd=0.0),
    )
)
MEANS = """\
J        0.6583
F        0.6083
J&F      0.6333
coverage 0.9091   (4 expressions, 2 videos)
1 expression lacks pictures; missing ones score 0.

overall IoU   0.6167   all frames as one picture
J decay       0.3000   first minus last quarter of the frames
dtSSD         0.1250   temporal instability, 0 is best
T-acc         1.0000   with a target: something was found
N-acc         0.5000   without a target (2): nothing was found

share with J above    0.5    0.6    0.7    0.8    0.9   mean
expressions         0.500  0.500  0.500  0.250  0.250  0.400
frames              0.545  0.545  0.545  0.455  0.364  0.491
"""


def test_the_whole_text_for_a_terminal():
    assert format_scores(SCORES) == (
        MEANS
        + """
video  expr.    J&F      J      F  coverage
b          2  0.542  0.567  0.517     0.857
a          2  0.725  0.750  0.700     1.000

lowest expressions    J&F      J      F  decay  dtSSD
b/1                 0.333  0.333  0.333      -      -
a/0                 0.450  0.500  0.400      -  0.250
b/0                 0.750  0.800  0.700  0.300  0.125
a/7                 1.000  1.000  1.000      -  0.000"""
    )
    assert format_scores(SCORES, 1, lambda v, e: f"what {v}\n{e} means \x1b[31m") == (
        MEANS
        + """
lowest videos  expr.    J&F      J      F  coverage
b                  2  0.542  0.567  0.517     0.857

lowest expressions    J&F      J      F  decay  dtSSD  sentence
b/1                 0.333  0.333  0.333      -      -  what b 1 means ?[31m"""
    )
    assert format_scores(SCORES, 0) == format_scores(SCORES, -1) == MEANS.rstrip("\n")
    alone = format_scores(Scores(SCORES.expressions[:1]))
    assert "video" not in alone.splitlines()[4:][-3] and "N-acc              -   " in alone
    assert "lack" not in alone and "(1 expressions, 1 videos)" in alone
    both = Scores((SCORES.expressions[1], SCORES.expressions[1]))
    assert "2 expressions lack pictures" in format_scores(both)
    long = format_scores(SCORES, 1, lambda *_: "x" * 161, width=400)
    assert long.endswith("x" * 159 + "…")
    assert format_scores(SCORES, 1, lambda *_: "x" * 160, width=400).endswith("x" * 160)


def test_a_drop_that_rounds_to_nothing_has_no_sign():
    level = [0.5, 0.5, 0.5, 0.50000001]
    text = format_scores(Scores((entry("v", "0", level, level),)))
    assert "J decay       0.0000" in text and "-0.0" not in text


def test_an_outline_is_two_pixels_wide_below_and_beside():
    mask = np.zeros((6, 7), bool)
    mask[2:4, 2:5] = True
    rows = ["".join(".x"[int(v)] for v in row) for row in _outline(mask)]
    expected = [".......", *[".xxxxx."] * 3, ".xxxx..", "......."]
    assert rows == expected


def test_what_the_page_says_of_each_expression(scored, tmp_path):
    source, pred, scores = scored
    path = write_report(tmp_path / "report.html", scores, pred, source, worst=1)
    text = path.read_text(encoding="utf-8")
    rows = [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    ]
    worst = scores.worst(1)[0]
    assert (worst.video, worst.exp_id) == ("one", "1")
    by_name = {row[0]: row[1:] for row in rows if row}
    assert by_name["one/1"] == [
        NASTY.replace("\ud800", "?"),
        f"{worst.j_and_f:.3f}",
        f"{worst.j:.3f}",
        f"{worst.f:.3f}",
        f"{worst.decay:.4f}",
        f"{worst.dtssd:.4f}",
        "11/12",
        "yes",
    ]
    assert by_name["two v1.0/2"] == [
        "nothing at all",
        *["1.000"] * 3,
        "0.0000",
        "0.0000",
        "12/12",
        "none",
    ]
    video = next(v for v in scores.videos if v.video == "one")
    assert by_name["one"] == [
        "3",
        *(f"{x:.3f}" for x in (video.j_and_f, video.j, video.f)),
        "0.972",
    ]
    assert by_name["expressions"][:5] == [f"{v:.3f}" for v in scores.precision.values()]
    assert "frame 00005, not predicted: J 0.000, F 0.000" in text
    assert f"one/1 &middot; J&amp;F {worst.j_and_f:.3f}" in text
    bars = [int(n) for n in re.findall(r"<title>0\.\d+ to \d\.\d+: (\d+)</title>", text)]
    assert bars == np.histogram([e.j for e in scores.expressions], 20, (0, 1))[0].tolist()
    curve = re.findall(r'class="([fj])" points="(.*?)"', text)
    for kind, values in zip("fj", (worst.frame_f, worst.frame_j), strict=True):
        drawn = dict(curve)[kind].split()
        expected = [
            f"{34 + index / 11 * 518:.1f},{8 + (1 - value) * 120:.1f}"
            for index, value in enumerate(values)
        ]
        assert drawn == expected
    ticks = re.findall(r'y="144" text-anchor="middle">(\d+)</text>', text)
    assert ticks == ["0", "2", "4", "6", "8", "10"]
    assert re.findall(r'class="missing" cx="(.*?)"', text) == [f"{34 + 5 / 11 * 518:.1f}"]


def test_wide_pictures_are_shown_smaller(tmp_path):
    """960 x 20 pixels become 480 x 10, with the outline where the mask is."""
    mask = np.zeros((1, 20, 960), bool)
    mask[0, 6:16, 400:500] = True
    with MevisWriter(tmp_path / "s") as writer:
        frames = np.zeros((1, 20, 960, 3), np.uint8)
        writer.add_video("v", frames, objects={1: mask}, expressions={"0": ("it", [1])})
    (tmp_path / "p" / "v" / "0").mkdir(parents=True)
    Image.fromarray(mask[0]).convert("L").save(tmp_path / "p" / "v" / "0" / "00000.png")
    scores = evaluate(tmp_path / "p", tmp_path / "s")
    path = write_report(tmp_path / "r.html", scores, tmp_path / "p", tmp_path / "s")
    (data,) = Page(path.read_text(encoding="utf-8")).images
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))), int)
    assert shown.shape == (10, 480, 3)
    rows, columns = np.nonzero(shown.max(axis=2) > 120)
    assert rows.min() in (2, 3) and rows.max() in (7, 8)
    assert columns.min() in (199, 200) and columns.max() in (249, 250, 251)


def test_evaluate_writes_the_report_from_the_command_line(scored, tmp_path, capsys):
    source, pred, _ = scored
    line = ["evaluate", str(pred), str(source.folder), "--workers", "1"]
    assert main([*line, "--html", str(tmp_path / "r.html")]) == 0
    assert "report:" in capsys.readouterr().out
    Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert main([*line, "--html", str(tmp_path / "none" / "r.html")]) == 2
    assert "create it first" in capsys.readouterr().err
