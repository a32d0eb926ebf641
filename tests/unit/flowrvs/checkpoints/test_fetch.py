"""``flowrvs models fetch`` from a stand-in of the hub: in this process and in others."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from flowrvs.checkpoints import hub as client
from flowrvs.checkpoints import locate
from flowrvs.checkpoints.manifest import read_manifest
from flowrvs.cli import main
from tests.fixtures.comfy import text_file
from tests.fixtures.hub import (
    BASE,
    WEIGHTS,
    HubStandIn,
    ask_here,
    environment,
    serve_hub,
    small_repositories,
)
from tests.fixtures.public_layout import PublicLayout, write_public_layout

DIT = "FlowRVS_dit_mevis.pth"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> PublicLayout:
    """A tiny random checkpoint as it is published."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return write_public_layout(tmp_path_factory.mktemp("public"), kind="model", text_shards="5KB")


@pytest.fixture
def hub(layout: PublicLayout) -> Iterator[HubStandIn]:
    """A hub with both repositories."""
    with serve_hub(small_repositories(layout.base, layout.dit, layout.vae)) as served:
        yield served


@pytest.fixture
def home(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The models' folder of this process, which asks the stand-in."""
    ask_here(hub, monkeypatch, tmp_path)
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def flowrvs(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flowrvs", *words], env=env, capture_output=True, text=True
    )


def started(env: dict[str, str], hub: HubStandIn, name: str) -> subprocess.Popen[str]:
    """Start a fetch in a process of its own and wait until half of `name` has arrived."""
    hub.gates[name] = threading.Event()
    command = [sys.executable, "-m", "flowrvs", "models", "fetch", "mevis"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    folder = Path(env["FLOWRVS_HOME"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        parts = [p for p in folder.rglob(f"{name}.*.part") if p.stat().st_size]
        if parts:
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"nothing arrived: {process.communicate()}")


def test_breaks_and_damage_on_the_way_to_a_whole_model(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shard = "text_encoder/model-00002-of-00003.safetensors"
    if shard not in hub.files[BASE]:
        shard = next(n for n in hub.files[BASE] if n.startswith("text_encoder/model-00002"))
    hub.cuts[DIT] = [20_000]
    hub.damaged[shard] = 1
    assert main(["models", "fetch", "mevis", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(home / "mevis") == str(locate("mevis"))
    assert [a.begins for a in hub.gets(DIT)] == [0, 20_000]
    assert len(hub.gets(shard)) == 2 + (shard == _first_shard(hub))
    assert [p.name for p in home.iterdir()] == ["mevis"]

    asked = {a.path for a in hub.asked}
    unwanted = ("README.md", ".bin", "scheduler", "model_index", "diffusion_pytorch_model")
    assert not [path for path in asked if any(word in path for word in unwanted)]
    source = read_manifest(home / "mevis")["source"]
    assert (source["base"], source["dit"]) == ("base", DIT)
    fetched = {(each["repo"], each["file"]): each for each in source["fetched"]}
    assert fetched[WEIGHTS, DIT]["revision"] == hub.commit(WEIGHTS)
    assert (BASE, shard) in fetched

    before = len(hub.asked)
    assert main(["models", "fetch", "mevis"]) == 0
    assert len(hub.asked) == before
    assert main(["models", "verify", "mevis", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(out)["hashed"] and json.loads(out)["whole"]

    weights = next((home / "mevis" / "vae").glob("*.safetensors"))
    with weights.open("r+b") as stream:
        stream.truncate(weights.stat().st_size - 7)
    assert main(["models", "verify", "mevis", "--hashes-only"]) == 2
    assert f"vae/{weights.name} is truncated" in capsys.readouterr().err
    (home / "mevis" / "model_index.json").unlink()
    assert main(["models", "fetch", "mevis"]) == 2
    assert "remove the folder and run 'flowrvs models fetch mevis'" in capsys.readouterr().err


def _first_shard(hub: HubStandIn) -> str:
    return min(n for n in hub.files[BASE] if n.startswith("text_encoder/model-0"))


def test_names_of_the_first_release_are_known(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = hub.files[WEIGHTS]
    files["mevis_dit.pth"] = files.pop(DIT)
    files["decoder.pth"] = files.pop("tuned_vae.pth")
    assert main(["models", "fetch", "mevis", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    names = {each["file"]: each["bytes"] for each in said["files"]}
    assert names["mevis_dit.pth"] == len(files["mevis_dit.pth"])
    assert "decoder.pth" in names
    assert said["download"] == sum(names.values()) and said["here"] == 0
    # The text encoder is float32 on the hub and will take half of that.
    text = sum(b for n, b in names.items() if n.endswith(".safetensors"))
    assert said["result"] == said["download"] - text + text // 2
    assert not home.exists()
    del files["decoder.pth"]
    assert main(["models", "fetch", "mevis"]) == 2
    assert f"{WEIGHTS} has no tuned_vae.pth nor decoder.pth" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_what_a_person_has_is_not_fetched(
    hub: HubStandIn,
    home: Path,
    layout: PublicLayout,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetch = ["models", "fetch", "mevis"]
    assert main([*fetch, "--dry-run", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    sizes = {each["file"]: each["bytes"] for each in plain["files"]}
    encoder = sum(
        size
        for name, size in sizes.items()
        if name.startswith("text_encoder/") and name != "text_encoder/config.json"
    )
    vae = "tuned_vae.pth"
    assert plain["spare"] == {"--dit": sizes[DIT], "--vae": sizes[vae], "--text": encoder}
    assert main([*fetch, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(f"can be left out with {option} FILE: the" in said for option in plain["spare"])

    text = tmp_path / "umt5.safetensors"
    expected = text_file(layout.parts, text, "fp16")
    own = ["--text", str(text), "--vae", str(layout.vae)]
    assert main([*fetch, *own, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["download"] == plain["download"] - encoder - sizes[vae]
    assert plan["spare"] == {"--dit": sizes[DIT]}
    hub.asked.clear()
    assert main([*fetch, *own, "--dit", str(layout.dit)]) == 0
    asked = {each.path for each in hub.asked if "/resolve/" in each.path}
    assert not any(path.endswith((".pth", "index.json")) for path in asked)
    assert not any("text_encoder/model" in path for path in asked)
    with safe_open(home / "mevis" / "text_encoder" / "model.safetensors", framework="pt") as file:
        for name, value in expected.items():
            assert torch.equal(file.get_tensor(name), value.bfloat16()), name
    assert main(["models", "verify", "mevis"]) == 0
    assert layout.vae.is_file() and layout.dit.is_file() and text.is_file()
    (home / "mevis" / "model_index.json").unlink()
    assert main([*fetch, "--text", str(tmp_path / "none")]) == 2
    assert main(["models", "fetch", "mevis", "--home", str(tmp_path), "--vae", "none"]) == 2
    assert "There is no file none" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.claims[DIT] = 10**16
    assert main(["models", "fetch", "mevis"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "free and mevis needs 20000000." in error and "FLOWRVS_HOME" in error
    assert hub.gets(DIT) == [] and list(home.iterdir()) == []


def test_a_shard_that_stays_damaged_is_named(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damaged["tuned_vae.pth"] = 9
    assert main(["models", "fetch", "mevis"]) == 2
    assert f"{WEIGHTS}/tuned_vae.pth arrived damaged twice" in capsys.readouterr().err
    assert not (home / "mevis").exists()
    hub.damaged.clear()
    kept = len(hub.gets(DIT))
    assert main(["models", "fetch", "mevis"]) == 0
    assert len(hub.gets(DIT)) == kept  # what had arrived was not fetched again


@pytest.mark.parametrize(
    ("gone", "lacks"),
    [
        ("text_encoder/model", "text_encoder/*.safetensors"),
        ("tokenizer/", "tokenizer/"),
        ("vae/config.json", "vae/config.json"),
    ],
)
def test_a_base_that_lacks_a_part_is_told_before_anything_is_fetched(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str], gone: str, lacks: str
) -> None:
    for name in [name for name in hub.files[BASE] if name.startswith(gone)]:
        del hub.files[BASE][name]
    assert main(["models", "fetch", "mevis"]) == 2
    assert f"{BASE} lacks {lacks}; a newer flowrvs may help." in capsys.readouterr().err
    assert not any("/resolve/" in asked.path for asked in hub.asked)
    assert not home.exists() or list(home.iterdir()) == []


def test_a_listing_that_leads_outside_writes_nothing(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.files[BASE]["tokenizer/../../../evil.json"] = b"{}"
    assert main(["models", "fetch", "mevis"]) == 2
    assert "names a file outside it" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil.json")) and list(home.iterdir()) == []


def test_weights_that_run_code_are_refused(
    hub: HubStandIn, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "owned"), "w"))

    hub.files[WEIGHTS][DIT] = pickle.dumps({"model": Evil()})
    assert main(["models", "fetch", "mevis"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert DIT in error and "Traceback" not in error
    assert not (tmp_path / "owned").exists() and not (home / "mevis").exists()


def test_files_at_hand_are_converted_and_verified(
    layout: PublicLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    words = ["models", "convert", "--base", str(layout.base), "--vae", str(layout.vae)]
    words += ["--out", str(out), "--dit"]
    assert main([*words, str(layout.dit.with_name("absent.pth"))]) == 2
    assert "absent.pth" in capsys.readouterr().err and not out.exists()
    line = [*words, str(layout.dit), "--text-dtype", "bfloat16", "--name", "ours", "--json"]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    assert json.loads((out / "model_index.json").read_text())["name"] == "ours"
    assert read_manifest(out)["source"]["dit"] == DIT
    assert main(["models", "verify", str(out)]) == 0
    assert f"{out} is whole: " in capsys.readouterr().out


def test_a_killed_fetch_goes_on_with_a_range(hub: HubStandIn, tmp_path: Path) -> None:
    env = environment(hub, tmp_path)
    process = started(env, hub, DIT)
    process.kill()
    process.wait()
    process.stderr.close()  # type: ignore[union-attr]
    hub.gates.pop(DIT).set()
    part = next((tmp_path / "home").rglob(f"{DIT}.*.part"))
    have = part.stat().st_size
    for name in ("ready", ".ready.partial-1-ab"):  # as a kill while converting leaves them
        left = tmp_path / "home" / "models" / ".mevis.download" / name
        left.mkdir()
        (left / "model_index.json").write_text("{}")
    (left.parent / "base" / "tokenizer" / "old.txt").write_text("of an older commit")
    done = flowrvs(env, "models", "fetch", "mevis")
    assert done.returncode == 0, done.stderr
    assert [a.begins for a in hub.gets(DIT)] == [0, have] and have > 0
    assert [p.name for p in (tmp_path / "home" / "models").iterdir()] == ["mevis"]
    assert not list((tmp_path / "home").rglob("old.txt"))


def test_ctrl_c_stops_at_once_and_another_process_is_told(hub: HubStandIn, tmp_path: Path) -> None:
    env = environment(hub, tmp_path)
    process = started(env, hub, DIT)
    other = flowrvs(env, "models", "fetch", "mevis")
    assert other.returncode == 2
    assert other.stderr.startswith("flowrvs: Another process is fetching mevis")
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - pressed < 5
    assert process.returncode == 130
    assert error.splitlines()[-1] == (
        "flowrvs: Stopped on request; what has arrived is kept: fetch again to go on."
    )
    assert next((tmp_path / "home").rglob(f"{DIT}.*.part")).stat().st_size > 0
    listed = flowrvs(env, "models", "list", "--json")
    row = next(r for r in json.loads(listed.stdout)["models"] if r["name"] == "mevis")
    assert not row["installed"] and row["part"] > 0


def test_a_disk_that_fails_on_the_way_keeps_the_part(hub: HubStandIn, tmp_path: Path) -> None:
    env = environment(hub, tmp_path)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
    limited += "from flowrvs.cli import main; sys.exit(main(['models', 'fetch', 'mevis']))"
    done = subprocess.run([sys.executable, "-c", limited], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert (
        line.startswith("flowrvs: Cannot write to ")
        and f"{DIT}: the file system refuses so large" in line
    )
    part = next((tmp_path / "home").rglob(f"{DIT}.*.part"))
    assert part.read_bytes() == hub.files[WEIGHTS][DIT][: part.stat().st_size] != b""
    again = flowrvs(env, "models", "fetch", "mevis", "--dry-run", "--json")
    assert json.loads(again.stdout)["here"] > part.stat().st_size


def test_offline_is_one_line_and_leaves_nothing(hub: HubStandIn, tmp_path: Path) -> None:
    env = environment(hub, tmp_path, HF_HUB_OFFLINE="1")
    done = flowrvs(env, "models", "fetch", "mevis")
    assert done.returncode == 2 and hub.asked == []
    assert "HF_HUB_OFFLINE is set" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_a_proxy_is_used(hub: HubStandIn, tmp_path: Path) -> None:
    env = environment(
        hub,
        tmp_path,
        HF_ENDPOINT="http://hub.invalid",
        HTTP_PROXY=hub.address,
        NO_PROXY="x.invalid",
    )
    done = flowrvs(env, "models", "fetch", "mevis", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert {a.headers["host"] for a in hub.asked if "/api/models/" in a.path} == {"hub.invalid"}
