"""What a person reads: the terminal's tables and the HTML report."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from flowrvs.cli import main
from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import Cancelled
from flowrvs.evaluation import evaluate, format_scores, write_report
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


def test_evaluate_writes_the_report_from_the_command_line(scored, tmp_path, capsys):
    source, pred, _ = scored
    line = ["evaluate", str(pred), str(source.folder), "--workers", "1"]
    assert main([*line, "--html", str(tmp_path / "r.html")]) == 0
    assert "report:" in capsys.readouterr().out
    Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert main([*line, "--html", str(tmp_path / "none" / "r.html")]) == 2
    assert "create it first" in capsys.readouterr().err
