from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_flowrvs.recent import Recent


def test_sentences_survive_the_session_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "memory.json"
    one = Recent(path)
    one.add_sentences(["a", "b"])
    one.add_sentences(["c", "a"])
    one.add_model("/models/mine")
    again = Recent(path)
    assert again.sentences == ("c", "a", "b")
    assert again.models == ("/models/mine",)
    again.forget_sentences()
    assert Recent(path).sentences == ()
    assert [p.name for p in path.parent.iterdir()] == ["memory.json"]


def test_only_the_last_fifty_are_kept(tmp_path: Path) -> None:
    memory = Recent(tmp_path / "memory.json")
    memory.add_sentences([str(i) for i in range(60)])
    assert memory.sentences == tuple(str(i) for i in range(50))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sentences": 3}', '{"sentences": [1, "a"]}'])
def test_a_damaged_file_disturbs_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(text)
    memory = Recent(path)
    assert set(memory.sentences) <= {"a"}
    memory.add_sentences(["b"])
    assert json.loads(path.read_text())["sentences"][0] == "b"


def test_a_place_that_cannot_be_written_keeps_this_session(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Recent(tmp_path / "file" / "memory.json")
    memory.add_sentences(["a"])
    assert memory.sentences == ("a",)
