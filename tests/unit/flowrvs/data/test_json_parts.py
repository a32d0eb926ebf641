"""Parts of JSON files are found, replaced, added and removed; the rest keeps its bytes."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrvs.data import json_parts
from flowrvs.errors import DatasetError, MissingPathError

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


@pytest.mark.parametrize(
    ("keys", "following"),
    [([], 0), (["0", "7", "10"], 11), (["9" * 5000, "x", "-3", "4"], 5), ([str(1 << 31)], 0)],
)
def test_the_number_after_the_highest(keys, following):
    assert json_parts.next_number(keys) == following
