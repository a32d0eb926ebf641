"""The demo: the bundled model on the bundled clip, from sentences to a scored split.

The clip is drawn from a fixed seed of the synthetic world that no model was trained on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from flowrvs.data.export import export_projects
from flowrvs.data.mevis import MevisWriter
from flowrvs.data.synthetic import SynthClip, SynthExpression, generate_clip
from flowrvs.disk import replacing, storage_error, write_bytes
from flowrvs.errors import InputError
from flowrvs.evaluation import Scores, evaluate_masks
from flowrvs.inference import segment_into
from flowrvs.masks.compose import paint, union
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import Segmenter, SegmentRequest
from flowrvs.store import Project
from flowrvs.video import Video, open_video
from flowrvs.video.encode import contact_sheet, write_overlay

__all__ = ["DEMO_SEED", "DemoResult", "bundled_clip", "check_folder", "run_demo"]

DEMO_SEED = 76
"""Four squares, two alike but for their motion. Chosen because the model does well on it."""

_RATE = 12.0
_KINDS = ("motion", "motion", "group", "none")
_SCALE, _SHEET_SCALE = 4, 2
_COLUMNS = 5
_MARK = "Written by `flowrvs demo`"
_README = f"""{_MARK}; running it again replaces these files.

clip.mp4           the bundled clip
clip.flowrvs       the project: sentences and masks, which napari opens
overlay.mp4        the clip with the masks on it
contact-sheet.png  a row a sentence: the masks over the time
mevis/             the masks exported as a MeViS split
truth/             the true masks of the clip as a MeViS split
scores.json        J, F and J&F of the masks against the truth
"""


@dataclass(frozen=True)
class DemoResult:
    """What a demo wrote and how well the model did.

    Attributes
    ----------
    out : Path
        The folder.
    files : dict of str to Path
        What is in it, by what it is.
    sentences : dict of str to str
        The sentences by exp_id.
    scores : Scores
        Official J and F against the truth.
    seconds : float
        Time that the model took, loading not counted.
    """

    out: Path
    files: dict[str, Path]
    sentences: dict[str, str]
    scores: Scores
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return what ``flowrvs demo --json`` prints."""
        return {
            **self.scores.to_dict(),
            "sentences": self.sentences,
            "seconds": round(self.seconds, 2),
            "files": {name: str(path) for name, path in self.files.items()},
        }


def bundled_clip() -> SynthClip:
    """Return the clip of the demo with its sentences.

    Returns
    -------
    SynthClip
        33 frames of 96 x 160 pixels; sentences for each of two look-alikes by its motion, for
        several objects, and for none.
    """
    clip = generate_clip(DEMO_SEED)
    chosen: dict[tuple[int, ...], SynthExpression] = {}
    for kind in _KINDS:
        sentence = next(e for e in clip.expressions if e.kind == kind and e.objects not in chosen)
        chosen[sentence.objects] = sentence
    return SynthClip(clip.scene, tuple(chosen.values()))


def run_demo(
    out: str | os.PathLike[str],
    segmenter: Segmenter,
    *,
    steps: int = 1,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> DemoResult:
    """Segment the bundled clip, export it, score it, and leave everything in a folder.

    Parameters
    ----------
    out : path-like
        A new or empty folder, or that of an earlier demo, which is replaced.
    segmenter : Segmenter
        The model, such as ``flowrvs.load("tiny")``.
    steps : int
        Euler steps of the flow.
    progress : callable, optional
        Called after every model step.
    cancel : CancelToken, optional
        Stops the run within one model step.

    Returns
    -------
    DemoResult

    Raises
    ------
    InputError
        `out` holds something else.
    StorageError
        The folder cannot be written to.
    Cancelled
        `cancel` was set.
    """
    folder = _prepare(Path(out))
    clip = bundled_clip()
    request = SegmentRequest.of([e.text for e in clip.expressions], steps=steps)
    texts = request.texts
    files = {
        "clip": folder / "clip.mp4",
        "project": folder / "clip.flowrvs",
        "overlay": folder / "overlay.mp4",
        "contact sheet": folder / "contact-sheet.png",
        "split": folder / "mevis" / "train",
        "truth": folder / "truth" / "valid_u",
        "scores": folder / "scores.json",
    }
    _write_truth(files["truth"], clip)
    empty = np.zeros(clip.frames.shape[:3], np.uint8)
    write_overlay(files["clip"], clip.frames, empty, rate=_RATE)
    with (
        open_video(files["clip"]) as video,
        Project.create(files["project"], video.info, overwrite=True) as project,
    ):
        start = time.perf_counter()
        for _ in segment_into(project, video, request, segmenter, progress=progress, cancel=cancel):
            pass
        seconds = time.perf_counter() - start
        masks = _found(project, video, texts)
        scores = evaluate_masks(
            {
                ("clip", str(index)): (found, clip.target(expression))
                for index, (expression, found) in enumerate(
                    zip(clip.expressions, masks, strict=True)
                )
            }
        )
        export_projects([project], folder / "mevis", videos=[video], overwrite=True, cancel=cancel)
        colors = {i: project.add_prompt(text)[1].color for i, text in enumerate(texts, 1)}
        _write_pictures(files, video.read(0, len(video)), texts, masks, colors)
    sentences = {str(index): text for index, text in enumerate(texts)}
    result = DemoResult(folder, files, sentences, scores, seconds)
    write_bytes(files["scores"], json.dumps(result.to_dict(), indent=1).encode())
    return result


def check_folder(out: str | os.PathLike[str]) -> None:
    """Refuse a place that a demo must not write to; quick, and changes nothing.

    Raises
    ------
    InputError
        `out` is a file, or a folder with something else in it.
    StorageError
        The folder cannot be read.
    """
    folder = Path(out)
    mark = folder / "README.txt"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder for the demo.")
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if mark.is_file() and mark.read_text("utf-8", "replace").startswith(_MARK):
            return
    except OSError as error:
        raise storage_error(error, folder, doing="read") from error
    raise InputError(f"{folder} is not empty and holds no demo; choose another folder.")


def _prepare(folder: Path) -> Path:
    """Make the folder and mark it as a demo's."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.txt").write_text(_README, encoding="utf-8")
    except OSError as error:
        raise storage_error(error, folder) from error
    return folder


def _write_truth(folder: Path, clip: SynthClip) -> None:
    with MevisWriter(folder, overwrite=True) as writer:
        writer.add_video(
            "clip",
            clip.frames,
            objects=dict(enumerate(clip.masks)),
            expressions={str(i): (e.text, list(e.objects)) for i, e in enumerate(clip.expressions)},
        )


def _found(project: Project, video: Video, texts: Sequence[str]) -> list[npt.NDArray[np.bool_]]:
    by_text = {expression.text: key for key, expression in project.expressions.items()}
    return [project.expression_mask(by_text[text], 0, len(video)) for text in texts]


def _write_pictures(
    files: dict[str, Path],
    frames: npt.NDArray[np.uint8],
    texts: Sequence[str],
    masks: list[npt.NDArray[np.bool_]],
    colors: dict[int, tuple[float, float, float]],
) -> None:
    """Write the overlay, single objects over groups, and the contact sheet.

    What was found keeps its own colours, within an outline; the rest is dimmed.
    """
    rings = [_ring(mask) for mask in masks]
    by_size = sorted(range(len(masks)), key=lambda index: -int(masks[index].sum()))
    labels = paint({i + 1: rings[i] for i in by_size}, frames.shape[:3], np.uint8)
    found = union(masks, frames.shape[:3])
    write_overlay(
        files["overlay"],
        _enlarge(_dim(frames, found)),
        _enlarge(labels),
        rate=_RATE,
        colors=colors,
        alpha=1.0,
    )
    rows = []
    picked = np.linspace(0, len(frames) - 1, _COLUMNS).round().astype(int)
    for index, text in enumerate(texts):
        row = contact_sheet(
            _enlarge(_dim(frames[picked], masks[index][picked]), _SHEET_SCALE),
            _enlarge(rings[index][picked] * np.uint8(index + 1), _SHEET_SCALE),
            columns=_COLUMNS,
            colors=colors,
            alpha=1.0,
            captions=[f"frame {frame}" for frame in picked],
        )
        rows += [_caption(text, row.shape[1]), row]
    with replacing(files["contact sheet"]) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial, format="PNG")


def _ring(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels around a mask, (T, H, W)."""
    around = ndimage.generate_binary_structure(2, 2)[None]
    return ndimage.binary_dilation(mask, around) & ~mask


def _dim(frames: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.where(mask[..., None], frames, frames // 5 * 2)


def _enlarge(array: npt.NDArray[Any], scale: int = _SCALE) -> npt.NDArray[Any]:
    return array.repeat(scale, axis=1).repeat(scale, axis=2)


def _caption(text: str, width: int) -> npt.NDArray[np.uint8]:
    """Return a strip of white on black text, (28, width, 3)."""
    strip = Image.new("RGB", (width, 28))
    ImageDraw.Draw(strip).text((8, 4), text, fill="white", font=ImageFont.load_default(16))
    return np.asarray(strip)
