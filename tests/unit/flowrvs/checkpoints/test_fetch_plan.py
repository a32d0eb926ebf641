"""What a fetch will take: the plan's sums, its order, and what it tells on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowrvs.checkpoints import fetch as fetching
from flowrvs.checkpoints import hub as client
from flowrvs.checkpoints.fetch import FetchPlan, downloads_of, fetch, plan_fetch, source_of
from flowrvs.checkpoints.hub import HubFile
from flowrvs.checkpoints.manifest import read_manifest
from flowrvs.checkpoints.registry import MODELS
from flowrvs.errors import (
    Cancelled,
    CheckpointError,
    InputError,
    MissingPathError,
    StorageError,
)
from flowrvs.progress import CancelToken, Progress
from tests.fixtures.hub import HubStandIn, ask_here, serve_hub

REPO = "facebook/sam2.1-hiera-tiny"
FILES = {
    "config.json": b'{"model_type": "sam2_video"}',
    "b.txt": b"words",
    "model-2.safetensors": b"",
    "model-1.safetensors": b"",
    "README.md": b"no",
    "x.bin": b"no",
    "folder/config.json": b"no",
}


def weights(count: int) -> bytes:
    header = {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * count)


FILES["model-1.safetensors"], FILES["model-2.safetensors"] = weights(9), weights(5000)
TAKEN = ["b.txt", "config.json", "model-1.safetensors", "model-2.safetensors"]


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with serve_hub({REPO: dict(FILES)}) as served:
        yield served


@pytest.fixture
def home(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    ask_here(hub, monkeypatch, tmp_path)
    monkeypatch.setattr(client, "WAITS", (0.01,))
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def hub_file(name: str, size: int) -> HubFile:
    return HubFile("me/x", "r", name, size, "a" * 64)


def test_what_must_be_free_is_what_is_missing_and_the_result_of_a_conversion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = (hub_file("a", 1000), tmp_path / "a"), (hub_file("b", 500), tmp_path / "b")
    folder = tmp_path / "m"
    plain = FetchPlan("m", folder, files, have=300, result=9000)
    made = FetchPlan("m", folder, files, 300, 9000, dit=tmp_path / "d", vae=tmp_path / "v")
    assert (plain.download, plain.need) == (1500, 1200 + 200_000_000)
    assert (made.download, made.need) == (1500, 1200 + 9000 + 200_000_000)
    assert plain.spare == {} and plain.text is None
    asked: list[Path] = []
    monkeypatch.setattr(fetching, "free_bytes", lambda f: (asked.append(f), plain.need)[1])
    plain.check()
    assert asked == [folder]
    monkeypatch.setattr(fetching, "free_bytes", lambda f: plain.need - 1)
    with pytest.raises(StorageError) as caught:
        plain.check()
    assert str(caught.value) == (
        f"{tmp_path} has 200.0 MB free and m needs 200.0 MB while it is made (9.0 kB afterwards): "
        "free some space, or choose another disk with FLOWRVS_HOME."
    )


def test_small_files_come_first_and_what_is_here_counts(hub: HubStandIn, home: Path) -> None:
    plan = plan_fetch("sam2.1-tiny")
    place = home / ".sam2.1-tiny.download" / "base"
    assert [(file.name, path) for file, path in plan.files] == [(n, place / n) for n in TAKEN]
    total = sum(len(FILES[name]) for name in TAKEN)
    assert (plan.download, plan.result, plan.have) == (total, total, 0)
    assert (plan.dit, plan.vae, plan.text, plan.spare) == (None, None, None, {})
    assert plan.folder == home / "sam2.1-tiny" and downloads_of(plan.folder) == place.parent
    place.mkdir(parents=True)
    (place / "b.txt").write_bytes(b"words")
    part = client.partial(*plan.files[3])
    part.write_bytes(bytes(7))
    assert plan_fetch("sam2.1-tiny").have == 5 + 7
    (place / "model-2.safetensors").write_bytes(bytes(11))  # it comes before its part
    assert plan_fetch("sam2.1-tiny").have == 5 + 11


def test_what_is_told_while_a_model_arrives(hub: HubStandIn, home: Path) -> None:
    events: list[Progress] = []
    folder = fetch("sam2.1-tiny", progress=events.append)
    assert folder == home / "sam2.1-tiny"
    total = sum(len(FILES[name]) for name in TAKEN)
    said = list(dict.fromkeys(event.message for event in events))
    steps = [f"{verb} {name}" for name in TAKEN for verb in ("Fetching", "Checking")]
    asking = f"Asking {REPO} what there is to fetch"
    assert said == [asking, *steps, *(f"Hashing {name}" for name in TAKEN)]
    downloads = [e for e in events if e.message.startswith(("Fetching", "Checking"))]
    assert {e.total for e in downloads} == {total} and downloads[0].done == 0
    done = [e.done for e in downloads]
    assert done == sorted(done) and done[-1] == total
    assert (events[-1].done, events[-1].total) == (total, total)
    source = read_manifest(folder)["source"]
    assert source["model"] == "sam2.1-tiny"
    assert [entry["file"] for entry in source["fetched"]] == TAKEN
    assert all(entry["repo"] == REPO for entry in source["fetched"])
    assert [entry["hash"] for entry in source["fetched"]] == [
        client.list_files(REPO).file(name).digest for name in TAKEN
    ]
    assert {path.name for path in home.iterdir()} == {"sam2.1-tiny"}


def test_what_an_older_version_left_does_not_get_into_the_model(
    hub: HubStandIn, home: Path
) -> None:
    place = home / ".sam2.1-tiny.download"
    for name in ("base/old.json", "weights/old.pth", "base/b.txt.0123456789ab.part", "ready/x"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"old")
    folder = fetch("sam2.1-tiny")
    assert {path.name for path in folder.iterdir()} == {*TAKEN, "flowrvs-manifest.json"}
    assert not place.exists()


def test_events_are_passed_on_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(fetching, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[int] = []
    report = fetching._throttled(lambda event: told.append(event.done))
    for at, done, message in (
        (100.0, 1, "a"),
        (100.05, 2, "a"),
        (100.09, 3, "b"),  # something else
        (100.15, 4, "b"),
        (100.1951, 5, "b"),
        (100.25, 6, "b"),
        (100.26, 9, "b"),  # the end
    ):
        now[0] = at
        report(Progress(done, 9, message))
    assert told == [1, 3, 5, 9]


def test_a_cancel_says_that_it_can_go_on(hub: HubStandIn, home: Path) -> None:
    token = CancelToken()

    def stop(event: Progress) -> None:
        if event.message == "Fetching model-2.safetensors":
            token.cancel()

    with pytest.raises(Cancelled) as caught:
        fetch("sam2.1-tiny", progress=stop, cancel=token)
    assert str(caught.value) == (
        "Stopped on request; what has arrived is kept: fetch again to go on."
    )
    assert not (home / "sam2.1-tiny").exists()
    asked = len(hub.gets("model-1.safetensors"))
    assert fetch("sam2.1-tiny").is_dir() and len(hub.gets("model-1.safetensors")) == asked
    before = len(hub.asked)
    assert fetch("sam2.1-tiny") == home / "sam2.1-tiny" and len(hub.asked) == before


def test_what_cannot_be_fetched_is_told(home: Path, tmp_path: Path) -> None:
    names = ", ".join(name for name, record in MODELS.items() if record.hub)
    for name in ("tiny", "nothing"):
        with pytest.raises(InputError) as caught:
            source_of(name)
        assert str(caught.value) == (
            f"There is nothing to fetch for {name!r}; what can be fetched: {names}."
        )
    assert fetch("tiny") == MODELS["tiny"].folder
    for part in ("dit", "vae", "text"):
        with pytest.raises(InputError, match="^edgetam is fetched whole; leave out --dit, --vae"):
            plan_fetch("edgetam", **{part: tmp_path})
        with pytest.raises(MissingPathError) as missing:
            plan_fetch("mevis", **{part: tmp_path / "none"})
        assert str(missing.value).startswith(f"There is no file {tmp_path / 'none'}; check")


@pytest.mark.parametrize(
    ("types", "share"),
    [
        ({"F32": 10}, 0.5),
        ({"BF16": 10}, 1),
        ({"F16": 4, "F32": 4}, 16 / 24),
        ({"F64": 10}, 0.25),
        ({"I64": 1, "I32": 1, "BF16": 1}, 6 / 14),
        ({"F8_E4M3": 10}, 1),
        ({}, 1),
    ],
)
def test_the_size_of_a_result_is_the_downloads_with_the_encoder_in_16_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, types: dict[str, int], share: float
) -> None:
    names = {"t/a.safetensors": 1000, "t/b.safetensors": 600, "c.json": 50, "d.pth": 7}
    files = tuple((hub_file(name, size), tmp_path / "x") for name, size in names.items())
    asked: list[str] = []
    monkeypatch.setattr(client, "shard_dtypes", lambda f, c: (asked.append(f.name), types)[1])
    assert fetching._result_size(files, CancelToken()) == 57 + int(1600 * share)
    assert asked == ["t/a.safetensors"]
    assert fetching._result_size(files[2:], CancelToken()) == 57


def test_a_shard_that_is_broken_at_its_source_does_not_become_a_model(
    hub: HubStandIn, home: Path
) -> None:
    """Its hash is right: it was published so."""
    hub.files[REPO]["model-2.safetensors"] = FILES["model-2.safetensors"][:-100]
    size = len(FILES["model-2.safetensors"])
    with pytest.raises(CheckpointError) as caught:
        fetch("sam2.1-tiny")
    assert str(caught.value) == (
        f"{REPO} is not whole: model-2.safetensors is truncated: {size - 100} of {size} bytes "
        "(20.1 kB); try again later."
    )
    assert not (home / "sam2.1-tiny").exists()


def test_a_model_that_another_process_has_just_fetched_is_taken(
    hub: HubStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def waited(folder: Path) -> Iterator[None]:
        folder.mkdir(parents=True)
        for name in TAKEN:
            (folder / name).write_bytes(FILES[name])
        yield

    monkeypatch.setattr(fetching, "_locked", waited)
    assert fetch("sam2.1-tiny") == home / "sam2.1-tiny" and hub.asked == []


def test_a_disk_that_refuses_is_one_line(
    hub: HubStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.mkdir(parents=True)
    home.write_text("in the way")
    with pytest.raises(StorageError, match=r"\.sam2\.1-tiny\.download"):
        fetch("sam2.1-tiny")
    home.unlink()
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if target == home / "sam2.1-tiny":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StorageError, match="disk is full"):
        fetch("sam2.1-tiny")
    assert not (home / "sam2.1-tiny").exists()


def test_a_lock_is_gone_with_the_run(hub: HubStandIn, home: Path) -> None:
    hub.files[REPO].pop("config.json")
    with pytest.raises(CheckpointError) as caught:
        fetch("sam2.1-tiny")
    assert str(caught.value) == f"{REPO} lacks config.json; a newer flowrvs may help."
    assert list(home.iterdir()) == [], "nothing had arrived: nothing is kept"
