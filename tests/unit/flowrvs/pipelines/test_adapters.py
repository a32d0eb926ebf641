"""Where an adapter is looked for by name, folder or file."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowrvs.errors import MissingPathError
from flowrvs.pipelines.adapters import ADAPTER_FILE, find_adapter


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "models"


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / ADAPTER_FILE).write_bytes(b"")
    return folder


def test_places_are_looked_at_one_after_the_other(home: Path, tmp_path: Path) -> None:
    places = [tmp_path / "mine", tmp_path / "mine" / "lora", home / "mine", home / "mine" / "lora"]
    for place in places[::-1]:
        if place == tmp_path / "mine":
            (place / ADAPTER_FILE).write_bytes(b"")
        else:
            (place / ADAPTER_FILE).write_bytes(b"") if place.is_dir() else adapter(place)
    for place in places:
        found = find_adapter("mine")
        assert found == (place.relative_to(tmp_path) if home not in place.parents else place)
        (place / ADAPTER_FILE).unlink()
    with pytest.raises(MissingPathError) as caught:
        find_adapter("mine")
    assert str(caught.value) == (
        f"No adapter 'mine': neither a folder with {ADAPTER_FILE} nor the name of one in {home}."
    )


def test_a_path_is_not_looked_for_at_home(home: Path, tmp_path: Path) -> None:
    adapter(home / "mine")
    for name in ("x/mine", str(tmp_path / "mine"), "./mine", "mine/lora"):
        with pytest.raises(MissingPathError):
            find_adapter(name)
    assert find_adapter(home / "mine") == home / "mine"


def test_the_file_itself(home: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    assert find_adapter(folder / ADAPTER_FILE) == folder
    other = folder / "other.safetensors"
    other.write_bytes(b"")
    with pytest.raises(MissingPathError):
        find_adapter(other)
