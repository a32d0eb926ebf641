from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from napari.components import ViewerModel
from pycocotools import mask as coco_mask
from qtpy.QtCore import Qt

from flowrvs.data.export import ExportResult
from flowrvs.data.origin import Origin
from flowrvs.errors import InputError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.export import presenter as module
from napari_flowrvs.export.panel import ExportDialog
from napari_flowrvs.export.presenter import DESCRIPTIONS, ExportInputs, ExportPresenter
from napari_flowrvs.find.presenter import SegmentInputs, SegmentPresenter
from napari_flowrvs.job import run_here
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import VideoSource
from tests.fixtures.segmenters import ThresholdSegmenter

Clip = npt.NDArray[np.uint8]
Load = Callable[[str, str], ThresholdSegmenter]


def segmented(source: VideoSource, load: Load) -> SegmentPresenter:
    presenter = SegmentPresenter(load=load)
    presenter.run(SegmentInputs(source, ("red", "green")))
    assert presenter.project is not None
    return presenter


def outcome(presenter: ExportPresenter, inputs: ExportInputs) -> list[Any]:
    seen: list[Any] = []
    presenter.finished.connect(lambda result: seen.append(result))
    presenter.job.failed.connect(lambda failure: seen.append(failure.summary))
    presenter.run(inputs)
    return seen


def truth(split: Path, exp: str) -> npt.NDArray[np.bool_]:
    """Read a sentence's masks as a dataset's own loader does."""
    videos = json.loads((split / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((split / "mask_dict.json").read_text())
    (video,) = videos.values()
    entry = next(e for e in video["expressions"].values() if e["exp"] == exp)
    out = []
    for index in range(len(video["frames"])):
        found = [masks[str(anno)][index] for anno in entry["anno_id"]]
        out.append(np.any([coco_mask.decode(rle) for rle in found if rle], axis=0))
    return np.array(out, dtype=bool)


def test_only_what_came_from_a_dataset_is_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (tmp_path / f"{name}.flowrvs" for name in ("mine", "theirs"))
    for path in (mine, theirs):
        Project.create(path, VideoInfo(None, "array", 3, 4, 5)).close()
    Origin("mevis", str(tmp_path / "set"), "clip").save(theirs)
    written: list[str] = []
    monkeypatch.setattr(module, "write_back", lambda project, **_: written.append(project.path))
    export = ExportPresenter()
    found: list[bool] = []
    export.homes_found.connect(found.append)
    for folders in ((mine,), (mine, theirs), ()):
        export.look_for_homes([str(path) for path in folders])
    assert found == [False, True, False]
    (line,) = outcome(export, ExportInputs((str(theirs), str(mine)), home=True))
    assert line == (
        "mine.flowrvs does not come from a dataset that can be written back to: untick it, or "
        "'write back'."
    )
    assert written == [], "not the first one, either"
    assert outcome(export, ExportInputs((str(theirs),), home=True)) == [] and written == [theirs]


def test_nothing_is_read_on_the_thread_of_the_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(Origin, "load", read.append)
    export = ExportPresenter(lambda *work, **callbacks: None)  # type: ignore[arg-type]
    folder = str(tmp_path / "clip.flowrvs")
    export.run(ExportInputs((folder,), home=True))
    export.look_for_homes([folder])
    assert export.job.busy and export.home_job.busy and read == []
    assert export.close()
    assert not export.job.busy and not export.home_job.busy


def test_the_form_fits_on_a_small_screen(qtbot: Any, tmp_path: Path) -> None:
    dialog = ExportDialog(ViewerModel(), runner=run_here)
    qtbot.addWidget(dialog)
    dialog.show()
    assert dialog.home.native.isHidden()
    for name in ("one", "two"):
        dialog.add_project(str(tmp_path / name / "clip.flowrvs"))
    names = [dialog.projects.item(i).text() for i in range(2)]
    assert names == ["clip.flowrvs", "clip.flowrvs in two"]
    assert dialog.home.native.isHidden(), "neither comes from a dataset"
    dialog.projects.item(0).setCheckState(Qt.CheckState.Unchecked)
    inputs = ExportInputs(
        projects=(str(tmp_path / "two" / "clip.flowrvs"),),
        to=str(tmp_path),
        split="valid_u",
        format="coco",
        overwrite=True,
        shares="0.5,0.5",
        seed=3,
        quality=71,
        link=True,
        licence="CC0",
        date="today",
        name_as_sentence=False,
        annotated_only=True,
    )
    dialog.to.line_edit.value = inputs.to
    for field, value in (
        *((dialog.split, inputs.split), (dialog.format, "coco"), (dialog.overwrite, True)),
        *((dialog.shares, "0.5,0.5"), (dialog.seed, 3), (dialog.quality, 71), (dialog.link, True)),
        *((dialog.licence, "CC0"), (dialog.date, "today"), (dialog.home, True)),
    ):
        field.value = value
    with dialog.annotated.changed.blocked():
        dialog.annotated.value = True
    assert dialog.inputs() == inputs, "what is hidden is not asked for"
    assert dialog.about_format.text() == DESCRIPTIONS["coco"]
    dialog.presenter.homes_found.emit(True)
    with dialog.annotated.changed.blocked(), dialog.names.changed.blocked():
        dialog.annotated.value, dialog.names.value = False, True
    wanted = replace(inputs, home=True, name_as_sentence=True, annotated_only=False)
    assert dialog.inputs() == wanted
    dialog.home.value = False
    assert dialog.to.enabled and dialog.names.enabled
    dialog.more.set_open(True)
    dialog.table.show_findings([], "nothing")
    qtbot.wait(50)
    assert dialog.height() <= 640 and dialog.minimumSizeHint().height() <= 400
    bottom = dialog.export_button.mapTo(dialog, dialog.export_button.rect().bottomLeft()).y()
    assert bottom < dialog.height()


def test_a_stroke_that_is_not_on_disk_yet_is_exported(
    image_folder: Path, clip: Clip, load: Load, tmp_path: Path
) -> None:
    source = VideoSource("squares", len(clip), str(image_folder))
    project = segmented(source, load).project
    red = next(thing for thing in project.objects.values() if thing.name == "red")
    project.labels(red.layer)[7, 20:24, 50:58] = red.id
    (result,) = outcome(
        ExportPresenter(), ExportInputs((str(project.path),), str(tmp_path / "set"), "train")
    )
    assert isinstance(result, ExportResult)
    with Project.open(project.path, read_only=True) as on_disk:
        assert (on_disk.labels(red.layer)[7, 20:24, 50:58] == red.id).all(), "it is saved first"
    assert (result.videos, result.frames, result.expressions) == (1, 24, 2)
    expected = clip[..., 0] > 150
    expected[7, 20:24, 50:58] = True
    assert np.array_equal(truth(tmp_path / "set" / "train", "red"), expected)


def test_what_a_person_does_while_it_is_exported(
    image_folder: Path, clip: Clip, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory has what a full disk has not; a project that is let go of is closed afterwards."""
    project = segmented(VideoSource("squares", len(clip), str(image_folder)), load).project
    holder, write = object(), module.export_projects
    open_projects.hold(project, holder)

    def full() -> None:
        raise StorageError("The disk is full.")

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        open_projects.release(project, holder)
        assert project.writable
        return write(*arguments, **options)

    monkeypatch.setattr(project, "flush", full)
    monkeypatch.setattr(module, "export_projects", meanwhile)
    (result,) = outcome(
        ExportPresenter(), ExportInputs((str(project.path),), str(tmp_path / "set"))
    )
    assert isinstance(result, ExportResult) and result.objects == 2
    assert open_projects.get(project.path) is None


def test_a_project_that_is_not_open_is_read_and_let_go(
    image_folder: Path, clip: Clip, load: Load, tmp_path: Path
) -> None:
    project = segmented(VideoSource("squares", len(clip), str(image_folder)), load).project
    open_projects.close(project)
    (result,) = outcome(
        ExportPresenter(), ExportInputs((str(project.path),), str(tmp_path / "set"))
    )
    assert isinstance(result, ExportResult)
    assert open_projects.get(project.path) is None


def test_projects_of_arrays_find_their_frames_again(clip: Clip, load: Load, tmp_path: Path) -> None:
    sources = (VideoSource("b", 24, None, clip[::-1]), VideoSource("a", 24, None, clip))
    project = segmented(sources[1], load).project
    inputs = ExportInputs((str(project.path),), str(tmp_path / "set"), arrays=sources)
    (result,) = outcome(ExportPresenter(), inputs)
    assert isinstance(result, ExportResult)
    first = sorted((tmp_path / "set" / "train" / "JPEGImages").glob("*/*.jpg"))[0]
    from PIL import Image

    shown = np.asarray(Image.open(first)).astype(int)
    assert np.abs(shown - clip[0]).mean() < np.abs(shown - clip[-1]).mean()
    # Two others of this size: nobody knows whose frames they are.
    others = tuple(VideoSource("c", 24, None, clip // n) for n in (2, 3))
    again = replace(inputs, to=str(tmp_path / "again"), arrays=others)
    (line,) = outcome(ExportPresenter(), again)
    assert "was made from an array in memory" in line
    assert isinstance(
        outcome(ExportPresenter(), replace(again, arrays=others[:1]))[0], ExportResult
    )


def test_objects_without_a_sentence_and_frames_that_nobody_looked_at_are_a_choice(
    image_folder: Path, clip: Clip, load: Load, tmp_path: Path
) -> None:
    project = segmented(VideoSource("squares", len(clip), str(image_folder)), load).project
    thing = project.add_object("the scarf", layer_id=project.add_layer("by hand").id)
    project.labels(thing.layer)[3, 2:6, 2:6] = thing.id
    presenter = ExportPresenter()
    previews: list[Any] = []
    presenter.previewed.connect(lambda preview: previews.append(preview))
    inputs = ExportInputs((str(project.path),), str(tmp_path / "set"))
    chosen = replace(inputs, name_as_sentence=True, annotated_only=True)
    for each in (inputs, chosen):
        presenter.preview(each)
    assert [(row.frames, row.sentences) for p in previews for row in p.rows] == [(24, 2), (1, 3)]
    assert [f.code for f in previews[0].findings if "scarf" in f.problem] == ["no-sentence"]
    assert any(f.code == "not-looked" and "23 of 24" in f.problem for f in previews[0].findings)
    assert not [f for f in previews[1].findings if f.code in ("no-sentence", "not-looked")]
    (result,) = outcome(presenter, chosen)
    assert (result.frames, result.expressions, result.objects) == (1, 3, 3)
    assert truth(tmp_path / "set" / "train", "the scarf").sum() == 16


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (ExportInputs((), "x"), "no project"),
        (ExportInputs(("a.flowrvs",), " "), "no destination"),
        (ExportInputs(("a.flowrvs",), "x", ""), "no name"),
    ],
)
def test_incomplete_inputs_are_refused(inputs: ExportInputs, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExportPresenter().run(inputs)


def test_a_project_that_has_gone_is_told_in_one_line(tmp_path: Path) -> None:
    inputs = ExportInputs((str(tmp_path / "gone.flowrvs"),), str(tmp_path / "set"))
    (line,) = outcome(ExportPresenter(), inputs)
    assert "gone.flowrvs" in line and "\n" not in line
    assert not (tmp_path / "set").exists()
