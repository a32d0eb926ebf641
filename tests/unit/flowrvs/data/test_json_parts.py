"""Parts of JSON files are found, replaced, added and removed; the rest keeps its bytes."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrvs.data import json_parts
from flowrvs.errors import DatasetError, MissingPathError, StorageError

KEYS = st.text(st.sampled_from('ab"\\{}[],: \u0441\u96ea'), max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.sampled_from('x"\\[]{}\u0441'), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
STYLES = st.sampled_from([None, 1, 4])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), STYLES, st.booleans(), st.data())
def test_objects(value, indent, ascii_only, data):
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    places = {m.key: (m.start, m.stop) for m in json_parts.members(raw)}
    assert {key: json_parts.value(raw, *place) for key, place in places.items()} == value
    assert json_parts.joined(raw, json_parts.splice(raw, 0, {})) == raw
    changes = {
        key: data.draw(st.sampled_from([None, b'"new"']))
        for key in value
        if data.draw(st.booleans())
    }
    extra = {"one more": b"[1]"}
    out = json_parts.joined(raw, json_parts.splice(raw, 0, changes, extra))
    wanted = {k: "new" if k in changes else v for k, v in value.items() if changes.get(k, 1)}
    wanted["one more"] = [1]
    assert list(json.loads(out).items()) == list(wanted.items())
    for key in set(value) - set(changes):
        assert raw[slice(*places[key])] in out


@settings(max_examples=80, deadline=None)
@given(st.lists(VALUES, max_size=5), STYLES, st.data())
def test_lists(value, indent, data):
    raw = json.dumps(value, indent=indent).encode()
    assert [json_parts.value(raw, *place) for place in json_parts.elements(raw)] == value
    chosen = [n for n in range(len(value)) if data.draw(st.booleans())]
    out = json_parts.joined(raw, json_parts.splice_list(raw, 0, dict.fromkeys(chosen, b"7")))
    assert json.loads(out) == [7 if n in chosen else v for n, v in enumerate(value)]


@pytest.mark.parametrize(
    "raw", [b"", b"[1", b'{"a"', b'{"a": ', b'{"a": [1}', b'{"a" 1}', b"{a: 1}", b'{"a": 1 "b": 2}']
)
def test_damage_is_told(raw):
    with pytest.raises(DatasetError):
        for place in json_parts.members(raw):
            json_parts.value(raw, place.start, place.stop)


def test_files(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf {"a": 1, "a": 2}')
    with json_parts.mapped(path) as data:
        assert [m.key for m in json_parts.members(data)] == ["a", "a"]
        found = json_parts.member(data, "a")
        assert found is not None and json_parts.value(data, found.start, found.stop) == 2
    with pytest.raises(MissingPathError), json_parts.mapped(tmp_path / "none"):
        pass


@pytest.mark.parametrize("head", [b"", b"{", b'{"a": 1}'])
def test_a_damaged_giant_is_not_read_into_the_memory(tmp_path, head):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 27)  # zeros that lie nowhere
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="x.json is not readable JSON"):
            json_parts.read_json(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_file_where_a_folder_should_be_is_told_in_a_line(tmp_path):
    (tmp_path / "split").write_text("")
    with pytest.raises(DatasetError) as caught:
        json_parts.read_json(tmp_path / "split" / "x.json")
    assert str(caught.value) == f"{tmp_path}/split/x.json cannot be read (Not a directory)."


@pytest.mark.parametrize(
    ("keys", "following"),
    [([], 0), (["0", "7", "10"], 11), (["9" * 5000, "x", "-3", "4"], 5), ([str(1 << 31)], 0)],
)
def test_the_number_after_the_highest(keys, following):
    assert json_parts.next_number(keys) == following


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), STYLES, st.data())
def test_lists_lose_change_and_get_elements(value, indent, data):
    raw = json.dumps(value, indent=indent).encode()
    changes = {
        n: data.draw(st.sampled_from([None, b"77"]))
        for n in range(len(value))
        if data.draw(st.booleans())
    }
    out = json_parts.joined(raw, json_parts.splice_list(raw, 0, changes, [b"88", b"99"]))
    wanted = [77 if n in changes else v for n, v in enumerate(value) if changes.get(n, 1)]
    assert json.loads(out) == [*wanted, 88, 99]
    if len(value) > 1 and not changes:  # what is new stands as the others do
        assert out == json.dumps([*value, 88, 99], indent=indent).encode()


def test_only_what_changes_is_not_copied_byte_for_byte():
    raw = b'\n{ "a" :1,  "b":[ 2 ],"c" : {"d": 3}\t}  \n'
    found = list(json_parts.members(raw))
    assert [(m.key, raw[m.key_start : m.key_stop], raw[m.start : m.stop]) for m in found] == [
        ("a", b'"a"', b"1"),
        ("b", b'"b"', b"[ 2 ]"),
        ("c", b'"c"', b'{"d": 3}'),
    ]

    def spliced(changes, extra=()):
        return json_parts.joined(raw, json_parts.whole(raw, changes, extra))

    assert spliced({}) == raw
    assert spliced({"b": b"7"}) == raw.replace(b"[ 2 ]", b"7")
    assert spliced({"a": None}) == b'\n{ "b":[ 2 ],"c" : {"d": 3}\t}  \n'
    assert spliced({"c": None}) == b'\n{ "a" :1,  "b":[ 2 ]\t}  \n'
    assert spliced({}, [("e", b"5")]) == raw.replace(b"}\t", b'},  "e" :5\t')
    everything = dict.fromkeys("abc")
    assert spliced(everything) == b"\n{ \t}  \n"
    assert spliced(everything, [("e", b"5")]) == b'\n{ "e" :5\t}  \n'
    nested = json_parts.joined(raw, json_parts.nested(raw, "c", {"d": b"4"}, {"x": b"5"}))
    assert nested == raw.replace(b'{"d": 3}', b'{"d": 4, "x": 5}')
    with pytest.raises(DatasetError, match="there is no 'z'"):
        json_parts.joined(raw, json_parts.nested(raw, "z", {}))
    for text, wanted in ((b"{}", b'{"x": 1}'), (b"{ }", b'{ "x": 1}'), (b"[]", None)):
        if wanted:
            out = json_parts.joined(text, json_parts.whole(text, {}, [("x", b"1")]))
            assert json.loads(out) == {"x": 1}
        else:
            with pytest.raises(DatasetError, match="byte 0 should begin a JSON object"):
                list(json_parts.whole(text, {}, ()))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"[1, 2", "the JSON is damaged near byte 5"),
        (b"[1 2]", "the JSON is damaged near byte 3"),
        (b"[1, [2]", "the JSON is damaged near byte 7"),
        (b"[1, [2", "the JSON that begins at byte 4 is cut off"),
        (b"{}", "byte 0 should begin a JSON list"),
        (b"[,]", "the JSON is damaged near byte 1"),
    ],
)
def test_damage_in_a_list_is_told_by_its_place(raw, said):
    with pytest.raises(DatasetError) as caught:
        list(json_parts.elements(raw))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("raw", "spaced"),
    [
        (b'{"a": 1}', True),
        (b'{"a":1}', False),
        (b"[1]", True),
        (b'{"a":1, "b": 2}', True),
        (b'{"x"' + b" " * 5000 + b':1,"a":2}', True),
    ],
)
def test_a_style_is_that_of_the_first_keys(raw, spaced):
    wanted = '{"a": [1, 2]}' if spaced else '{"a":[1,2]}'
    assert json_parts.style(raw).encode({"a": [1, 2]}) == wanted


def test_pieces_are_copied_a_little_at_a_time(tmp_path):
    data = bytes(range(256)) * 10_000  # longer than two megabytes
    with (tmp_path / "x").open("wb") as out:
        json_parts.copy(data, [(3, 2_500_001), b"new", (5, 9)], out)
    assert (tmp_path / "x").read_bytes() == data[3:2_500_001] + b"new" + data[5:9]


def split_at(folder):
    folder.mkdir(parents=True)
    (folder / "meta_expressions.json").write_text('{"videos": {"v": {"a": 1}}}')
    (folder / "mask_dict.json").write_text('{"0": [1], "1": [2]}')
    return folder


def test_a_split_is_amended_in_one_go(tmp_path):
    split = split_at(tmp_path / "s")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x.jpg").write_bytes(b"x")
    with json_parts.locked(split):
        json_parts.amend(
            split,
            videos={"v": b"{}"},
            new_videos={"w": b"[]"},
            masks={"0": b"[3]", "1": None},
            new_masks=[("7", b"[4]")],
            folders=[(tmp_path / "new", split / "w")],
        )
    assert (split / "meta_expressions.json").read_text() == '{"videos": {"v": {}, "w": []}}'
    assert (split / "mask_dict.json").read_text() == '{"0": [3], "7": [4]}'
    assert (split / "w" / "x.jpg").read_bytes() == b"x" and not (tmp_path / "new").exists()
    assert sorted(p.name for p in split.iterdir()) == [
        "mask_dict.json",
        "meta_expressions.json",
        "w",
    ]


@pytest.mark.parametrize("text", ['{"videos": []}', '{"none": {}}', '{"videos": {"v": {"a": 1}'])
def test_what_cannot_be_amended_is_as_it_was(tmp_path, text):
    """Folders that were moved go back, masks that were written beside take no place."""
    split = split_at(tmp_path / "s")
    (split / "meta_expressions.json").write_text(text)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    before = {p.name: p.read_bytes() for p in split.iterdir()}
    with pytest.raises(DatasetError, match=r"meta_expressions\.json cannot be changed \("):
        json_parts.amend(split, new_videos={"w": b"[]"}, masks={"0": b"[3]"})
    assert {p.name: p.read_bytes() for p in split.iterdir()} == before
    (split / "meta_expressions.json").write_text('{"videos": {}}')
    folders = [(tmp_path / "a", split / "a"), (tmp_path / "b", split / "mask_dict.json")]
    with pytest.raises(StorageError):
        json_parts.amend(split, new_videos={"w": b"[]"}, masks={"0": b"[3]"}, folders=folders)
    assert (tmp_path / "a").is_dir() and (tmp_path / "b").is_dir()
    assert (split / "meta_expressions.json").read_text() == '{"videos": {}}'
    assert (split / "mask_dict.json").read_bytes() == before["mask_dict.json"]
    assert sorted(p.name for p in split.iterdir()) == sorted(before)


def test_masks_that_nothing_means_any_more_go_last(tmp_path, monkeypatch):
    """Old masks stay until the sentences that meant them are gone."""
    split = split_at(tmp_path / "s")
    seen = []
    replace = os.replace

    def note(source, target):
        replace(source, target)
        seen.append((Path(target).name, (split / "mask_dict.json").read_text()))

    monkeypatch.setattr(os, "replace", note)
    json_parts.amend(split, videos={"v": b"{}"}, masks={"0": b"[3]", "1": None})
    assert seen == [
        ("mask_dict.json", '{"0": [3], "1": [2]}'),
        ("meta_expressions.json", '{"0": [3], "1": [2]}'),
        ("mask_dict.json", '{"0": [3]}'),
    ]
