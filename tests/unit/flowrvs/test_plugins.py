from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.errors import (
    CheckpointError,
    DeviceMemoryError,
    InputError,
    MissingPathError,
    PluginError,
)
from flowrvs.inference.loading import segmenter_plugin
from flowrvs.plugins import find_plugin, load_tracker, plugins
from flowrvs.records import InstanceSegmenter, Segmenter, Tracker
from tests.fixtures.packages import install

SOURCE = """
import numpy as np
from flowrvs.records import Segmenter

class Bright(Segmenter):
    name = "bright"

    def __init__(self, device, precision):
        self.device, self.precision = device, precision

    def segment_window(self, frames, texts, **_):
        for text in texts:
            if text == "the last straw":
                raise ZeroDivisionError("no pixels\\nat all")
            yield np.asarray(frames).mean(-1, dtype=np.float32) / 255 - np.float32(0.25)

class Bad(Bright):
    overlap = 40

class Nothing:
    name = "nothing"

class Marks:
    name = "marks"

    def encode(self, image):
        return image

    def pick(self, encoded, marks, previous=None):
        raise KeyError("x")

    def follow(self, read, keys, frames, *, cancel=None):
        yield 1, {}
        raise KeyError("y")

def load(name, *, device="auto", precision="auto"):
    return Bright(device, precision)

def bad(name, **_):
    return Bad("", "")

def nothing(name, **_):
    return Nothing()

def marks(name, **_):
    return Marks()

def absent(name, **_):
    from flowrvs.errors import CheckpointError
    raise CheckpointError("The weights of bright are not here: run bright-fetch.")

def leaves(name, **_):
    raise SystemExit("no licence")
"""


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    points = {"bright": "bright_models:load", "dark": "dark_models:load"}
    points |= {"bad": "bright_models:bad", "absent": "bright_models:absent"}
    points |= {"nothing": "bright_models:nothing", "leaves": "bright_models:leaves"}
    points |= {"crooked": "bright_models", "tiny": "bright_models:load"}
    points |= {"deep": "bright_models.deep:load", "shut": "shut_models:load"}
    groups = {"flowrvs.segmenters": points, "flowrvs.trackers": {"marks": "bright_models:marks"}}
    modules = {"bright_models": SOURCE, "shut_models": "import no_such_module"}
    return install(monkeypatch, tmp_path, "bright-things", groups, modules)


def test_models_of_packages_are_listed_without_being_imported(brightness: Path) -> None:
    found = {p.name: p for p in plugins("segmenter") if p.package == "bright-things"}
    assert list(found) == sorted(found) and "bright_models" not in sys.modules
    bright = found["bright"]
    assert (bright.kind, bright.version, bright.target) == (
        "segmenter",
        "1.5",
        "bright_models:load",
    )
    assert bright.fault == ""
    assert "module:function" in found["crooked"].fault
    assert found["deep"].fault == "its module bright_models.deep is not there"
    assert find_plugin("tracker", "bright") is None
    assert find_plugin("tracker", "marks") is not None


def test_a_model_of_a_package_is_loaded_by_its_name(brightness: Path) -> None:
    model = flowrvs.load_segmenter("bright", device="cpu", dtype="float16")
    assert isinstance(model, Segmenter) and not isinstance(model, InstanceSegmenter)
    assert (model.name, model.window_size, model.overlap) == ("bright", 17, 4)
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    frames[:, 2:5] = 200
    video = flowrvs.open_video(frames)
    parts = list(flowrvs.segment(video, ["anything"], model))
    masks = np.concatenate([part.masks for part in parts])
    np.testing.assert_array_equal(masks, frames.mean(-1) > 100)


def test_flowrvs_own_names_and_folders_come_before_those_of_packages(
    brightness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segmenter_plugin("tiny") is None
    assert segmenter_plugin("bright") is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright").mkdir()
    assert segmenter_plugin("bright") is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("dark", "No module named 'dark_models'"),
        ("shut", "No module named 'no_such_module'"),
        ("bad", "An overlap of 40 frames does not fit windows of 17"),
        ("nothing", "it has no method segment_window"),
        ("leaves", "SystemExit: no licence"),
        ("crooked", "module:function"),
    ],
)
def test_a_broken_package_is_named_and_the_others_go_on(
    brightness: Path, name: str, what: str
) -> None:
    with pytest.raises(PluginError) as raised:
        flowrvs.load_segmenter(name)
    line = str(raised.value)
    assert "bright-things 1.5" in line and what in line and "\n" not in line
    assert line.endswith("update or remove the package.")
    known = find_plugin("segmenter", name)
    assert known is not None and what in known.fault  # from now on it is listed as broken
    assert flowrvs.load_segmenter("bright").name == "bright"


def test_what_a_package_says_on_purpose_is_told_as_it_is(brightness: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^The weights of bright are not here"):
        flowrvs.load_segmenter("absent")
    known = find_plugin("segmenter", "absent")
    assert known is not None and known.fault == ""  # it is not broken


def test_what_fails_later_names_the_package_too(brightness: Path) -> None:
    video = flowrvs.open_video(np.zeros((3, 8, 8, 3), np.uint8))
    model = flowrvs.load_segmenter("bright")
    with pytest.raises(PluginError, match=r"bright-things 1.5: .*ZeroDivisionError: no pixels\)"):
        list(flowrvs.segment(video, ["the last straw"], model))
    tracker = load_tracker("marks")
    assert isinstance(tracker, Tracker)
    with pytest.raises(PluginError, match=r"'marks' of the package bright-things"):
        tracker.pick(None, [])
    followed = tracker.follow(lambda t: np.zeros((2, 2, 3), np.uint8), {}, [1, 2])
    assert next(followed) == (1, {})
    with pytest.raises(PluginError, match="KeyError: 'y'"):
        next(followed)


def test_instances_and_a_full_memory_of_a_package(
    brightness: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = (
        SOURCE
        + """
class Many(Bright):
    def find_instances(self, read, text, frames, *, cancel=None):
        for t in frames:
            yield t, {t: (text, read(t), cancel)}
        raise KeyError("z")

    def segment_window(self, frames, texts, **_):
        raise MemoryError("9 GiB")

class OutOfMemoryError(RuntimeError):
    pass

def many(name, **_):
    return Many("", "")

def full(name, **_):
    raise OutOfMemoryError("CUDA out of memory")
"""
    )
    points = {"many": "many_models:many", "full": "many_models:full"}
    groups = {"flowrvs.segmenters": points}
    site = install(monkeypatch, tmp_path, "many-things", groups, {"many_models": source})
    monkeypatch.syspath_prepend(str(site) + "/../many-things")  # the same one a second time
    assert [p.fault for p in plugins("segmenter") if p.package == "many-things"] == ["", ""]
    model = flowrvs.load_segmenter("many")
    assert isinstance(model, InstanceSegmenter)
    found = model.find_instances(lambda t: t * 10, "it", [2, 3], cancel="token")
    assert [next(found), next(found)] == [
        (2, {2: ("it", 20, "token")}),
        (3, {3: ("it", 30, "token")}),
    ]
    with pytest.raises(PluginError, match=r"many-things 1\.5: went wrong \(KeyError: 'z'\); up"):
        next(found)
    for call in (
        lambda: list(model.segment_window([], ["x"])),
        lambda: flowrvs.load_segmenter("full"),
    ):
        with pytest.raises(
            DeviceMemoryError, match=r"many-things 1\.5: the memory is too small; up"
        ):
            call()
    assert find_plugin("segmenter", "full").fault == "", "that is not the package's fault"


FAULTS = {
    "name = 7": "its name is 7, not a text",
    "name = ' '": "its name is ' ', not a text",
    "name = 'a\\nb'": r"its name is 'a\nb', not a text",
    "segment_window = 7": "it has no method segment_window",
    "window_size = 9.5": "its window_size and overlap are 9.5 and 4, not whole numbers",
    "overlap = None": "its window_size and overlap are 17 and None, not whole numbers",
    "overlap = 17": "An overlap of 17 frames does not fit windows of 17",
    "overlap = 8": "",
}


def test_what_keeps_an_object_from_being_a_segmenter(
    brightness: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = SOURCE + "".join(
        f"class Odd{n}(Bright):\n    {change}\n\n"
        f"def odd{n}(name, **_):\n    return Odd{n}('', '')\n\n"
        for n, change in enumerate(FAULTS)
    )
    points = {f"odd{n}": f"odd_models:odd{n}" for n in range(len(FAULTS))}
    install(monkeypatch, tmp_path, "odd", {"flowrvs.segmenters": points}, {"odd_models": source})
    for name, fault in zip(points, FAULTS.values(), strict=True):
        if not fault:
            assert flowrvs.load_segmenter(name).overlap == 8
            continue
        with pytest.raises(PluginError) as caught:
            flowrvs.load_segmenter(name)
        head = f"The segmenter {name!r} of the package odd 1.5: "
        assert str(caught.value).startswith(head + fault)
        assert find_plugin("segmenter", name).fault.startswith(fault)


def test_options_of_our_models_are_refused_for_others(brightness: Path) -> None:
    with pytest.raises(InputError, match=r"--lora is for models of flowrvs"):
        flowrvs.load_segmenter("bright", lora="mine")
    assert flowrvs.load_segmenter("bright", memory="auto", lora=None).name == "bright"


def test_unknown_names_say_what_there_is(brightness: Path) -> None:
    with pytest.raises(MissingPathError, match=r"of other packages \(.*bright"):
        flowrvs.load_segmenter("no-such-model")
    with pytest.raises(MissingPathError, match=r"No tracker 'x': there are .*marks"):
        load_tracker("x")
    with pytest.raises(InputError, match="takes sentences, not marks"):
        load_tracker("bright")


def test_a_name_that_two_packages_offer_is_the_first_ones(
    brightness: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups = {"flowrvs.segmenters": {"bright": "other_models:load"}}
    install(monkeypatch, tmp_path, "other-things", groups, {"other_models": SOURCE})
    rows = {p.package: p for p in plugins("segmenter") if p.name == "bright"}
    assert rows["other-things"].fault == ""
    assert rows["bright-things"].fault == "the package other-things offers this name, too"
    assert flowrvs.load_segmenter("bright").name == "bright"


def test_models_list_shows_them(brightness: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in listed["plugins"] if row["package"] == "bright-things"}
    assert rows["bright"] == {
        "name": "bright",
        "kind": "segmenter",
        "package": "bright-things",
        "version": "1.5",
        "installed": None,
        "fault": "",
    }
    assert rows["marks"]["kind"] == "tracker"
    assert rows["deep"]["installed"] is False
    assert next(row for row in listed["models"] if row["name"] == "tiny")["kind"] == "segmenter"
    assert main(["models", "list"]) == 0
    text = capsys.readouterr().out
    assert "segmenter of the package bright-things 1.5" in text
    assert "broken: its module bright_models.deep is not there" in text
    assert "bright_models" not in sys.modules


def test_segment_takes_a_model_of_a_package(
    brightness: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    for t in range(3):
        picture = np.zeros((16, 24, 3), np.uint8)
        picture[4:9, 3 + t : 9 + t] = 255
        Image.fromarray(picture).save(tmp_path / "clip" / f"{t}.png")
    line = ["segment", "clip", "-p", "a light", "--model", "bright", "--out", "a", "--json"]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "bright"
    with flowrvs.Project.open("a.flowrvs") as project:
        (run,) = project.runs.values()
        assert (run.key["model"], run.key["weights"]) == ("bright", "1.5")
        assert project.areas(1).tolist() == [30, 30, 30]
    assert main([*line[:-1], "-p", "the last straw"]) == 2
    error = capsys.readouterr().err
    assert "bright-things 1.5" in error and "Traceback" not in error
    assert main(["segment", "clip", "-p", "x", "--model", "shut"]) == 2
    assert "bright-things 1.5" in capsys.readouterr().err


def test_our_own_trackers_are_offered_the_same_way(root: Path) -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    points = config["options.entry_points"]["flowrvs.trackers"].split("\n")
    names = [line.split("=")[0].strip() for line in points if line]
    sizes = [f"sam2.1-{size}" for size in ("tiny", "small", "base-plus", "large")]
    assert names == [*sizes, "edgetam", "sam3-tracker"]
