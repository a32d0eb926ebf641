"""`Project`: the folder ``<name>.flowrvs`` with everything known of one video's masks."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, overload

import numpy as np

from flowrvs.errors import FlowRVSError, MissingPathError, ProjectError, StorageError
from flowrvs.folders import NewFolder
from flowrvs.records import Expression, VideoInfo
from flowrvs.store.catalog import Catalog, Runs
from flowrvs.store.changes import ChangeRow, Kind
from flowrvs.store.document import (
    Document,
    LayerRecord,
    ObjectRecord,
    RunRecord,
    WriterLock,
    read_document,
    relative_path,
    with_full_path,
)
from flowrvs.store.history import History
from flowrvs.store.journal import add_to_copy
from flowrvs.store.masks import Confidence, Masks
from flowrvs.store.state import State
from flowrvs.store.storage import create_array, failed, is_plain, open_array, set_aside, write_group
from flowrvs.store.surgery import Surgery
from flowrvs.video.search import find_video

__all__ = ["SUFFIX", "Project"]

SUFFIX = ".flowrvs"
"""What the name of a project's folder ends in."""

_GROUPS = ("layers", "provenance", "areas", "confidence")
_FOLDERS = (*_GROUPS, "disagreement", "history", "writer")

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _HandedOn(Generic[_P, _R]):
    """A call of `Project` that one of its parts answers."""

    def __init__(self, part: str, method: Callable[Concatenate[Any, _P], _R]) -> None:
        self._part = part
        self._method = method

    @overload
    def __get__(self, project: None, owner: Any) -> Callable[Concatenate[Any, _P], _R]: ...

    @overload
    def __get__(self, project: Project, owner: Any) -> Callable[_P, _R]: ...

    def __get__(self, project: Project | None, owner: Any) -> Any:
        if project is None:
            return self._method  # for `help`
        return getattr(getattr(project, self._part), self._method.__name__)


class Project:
    """A project on disk; make one with `create` or `open`, and close it.

    It is a zarr v3 group that any zarr reader opens: ``layers/<n>`` are label volumes
    (T, H, W) uint16 whose pixel values are object ids; ``provenance/<object id>`` (T,) uint8
    and ``areas/<object id>`` (T,) int32 are kept per frame; ``confidence/<n>`` (T, H, W) uint8
    where it was kept; ``history`` holds the undo history; the attributes hold the rest.
    Nothing of it is ever half written: a process that is killed loses at most the last
    quarter of a second of painting.

    All methods may be called from any thread. One process at a time writes to a project;
    any number may read. `history` is what was done, to be undone and redone.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from flowrvs.records import VideoInfo
    >>> folder = os.path.join(tempfile.mkdtemp(), "clip.flowrvs")
    >>> with Project.create(folder, VideoInfo(None, "array", 4, 6, 8)) as project:
    ...     expression, cat = project.add_prompt("the cat that jumps")
    ...     written = project.write_model(cat.layer, cat.id, 0, np.ones((4, 6, 8), bool))
    ...     project.labels(cat.layer)[2, :3] = 0   # a person erases
    ...     print(project.provenance(cat.id), project.object_mask(cat.id, 2, 3).sum())
    [1 1 2 1] 24
    """

    def __init__(self, path: Path, document: Document, lock: WriterLock | None) -> None:
        """Use `create` or `open`."""
        self._state = State(path, document, lock)
        self._told = ""  # why it could not be closed
        self._catalog = Catalog(self._state)
        self._confidence = Confidence(self._state)
        self._masks = Masks(self._state, self._confidence)
        self._runs = Runs(self._state)
        self._surgery = Surgery(self._state, self._catalog, self._masks)
        self.history: History = self._state.history
        _OPEN.add(self)

    # -- opening and closing -------------------------------------------------------------

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], video: VideoInfo, *, overwrite: bool = False
    ) -> Project:
        """Make an empty project for a video and open it for writing.

        Parameters
        ----------
        path : path-like
            The folder to make; ``.flowrvs`` is added to a name without it.
        video : VideoInfo
            The video that it is about.
        overwrite : bool
            Replace a project that is already there, masks and edits included.

        Raises
        ------
        ProjectError
            Something is already there, or the video has no frames.
        StorageError
            The folder cannot be made.
        """
        folder = _with_suffix(Path(path))
        if min(video.frame_count, video.height, video.width) < 1:
            raise ProjectError(f"{video.path or 'The video'} has no frames to make masks for.")
        if folder.exists() or folder.is_symlink():
            if not overwrite:
                raise ProjectError(f"{folder} already exists; open it or choose another name.")
            # Opening it proves that it is ours to delete and that nobody is writing to it.
            cls.open(folder).close()
        document = Document(video=with_full_path(video))
        if document.video.path is not None:
            document.relative = relative_path(document.video.path, folder.absolute())
        document.log("created")
        with NewFolder(folder, replace=lambda _: overwrite, refuse=ProjectError) as building:
            for name in _GROUPS:
                write_group(building.path / name, {})
            write_group(building.path, document.to_attributes())
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, read_only: bool = False) -> Project:
        """Open a project.

        Parameters
        ----------
        path : path-like
            Its folder; ``.flowrvs`` may be left out.
        read_only : bool
            Read what is on the disk, also while another process writes to it.

        Raises
        ------
        MissingPathError
            Nothing is there.
        ProjectError
            It is no project, damaged, newer than this version, or open for writing elsewhere.
        StorageError
            It lies on a disk that cannot be written to.
        """
        folder = Path(path)
        if not folder.exists() and _with_suffix(folder).exists():
            folder = _with_suffix(folder)
        if not folder.exists():
            raise MissingPathError(f"There is no project at {folder}.")
        if not folder.is_dir():
            raise ProjectError(f"{folder} is a file; a project is a folder named *{SUFFIX}.")
        folder = Path(os.path.abspath(folder))  # tensorstore knows no '..'
        for name in _FOLDERS:
            if (folder / name).is_symlink():
                raise ProjectError(
                    f"{folder / name} is a symbolic link; put the folder itself in its place."
                )
        document, damaged = read_document(folder)
        lock = None if read_only else WriterLock(folder)
        try:
            if lock is not None:
                # Once more under the lock: another writer may have closed it just now.
                document, damaged = read_document(folder)
                _sweep(folder)
            project = cls(folder, document, lock)
            if damaged:
                project._restored()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return project

    def _restored(self) -> None:
        """Say that the document is a copy, and write it in the place of the damaged one."""
        file = self.path / "zarr.json"
        self._state.journal.damaged(
            f"{file} was damaged; names and sentences are those of its copy."
        )
        if self.writable:
            with contextlib.suppress(OSError):
                set_aside(file)
            self._state.save()

    def close(self) -> None:
        """Write what is left and let others in; further calls do nothing.

        Raises
        ------
        StorageError
            Something could not be written. The project stays open, so that nothing is lost:
            free some space and close it again.
        """
        if self._state.closed:
            return
        if self.writable:
            self._state.settle_strokes()
            for object_id in list(self._state.open_runs):
                self._state.end_run(object_id)
        try:
            self._state.close()
        except StorageError as error:
            self._told = str(error)
            raise
        _OPEN.discard(self)

    def discard(self) -> None:
        """Close without writing what is left, for a project whose folder is to be deleted."""
        if not self._state.closed:
            self._state.let_go()
            _OPEN.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Project {self.path} {len(self.objects)} objects>"

    def copy_to(self, path: str | os.PathLike[str]) -> Path:
        """Write a copy of the project as it is now, undo history included; return its folder.

        Raises
        ------
        ProjectError
            Something is already there.
        StorageError
            The copy cannot be written; nothing is left under its name.
        """
        target = _with_suffix(Path(path)).absolute()
        if target.exists():
            raise ProjectError(f"{target} already exists; choose another name.")
        self._state.check_open()
        try:
            with NewFolder(target, refuse=ProjectError) as building:
                if self.writable and self._state.vanished:
                    self._state.settle_strokes()
                    document = self._rescue(building.path)
                elif not self.writable:
                    self._copy_files(building.path, ("writer", "undone"))
                    document = self._state.document.to_attributes()
                else:
                    self._state.settle_strokes()
                    with contextlib.suppress(StorageError):  # a full disk is a reason for a copy
                        self.flush()
                    with contextlib.ExitStack() as still:  # no frame is written meanwhile
                        for volume in self._state.sorted_volumes:
                            still.enter_context(volume.frames.flush_lock)
                        but = ("writer", "journal.sqlite*", "document.json", "damaged-*", "undone")
                        self._copy_files(building.path, but)
                        document = self._complete(building.path)
                video = self.video.path
                if video is not None:
                    document["video_relative"] = relative_path(video, target)
                write_group(building.path, document)
        except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
            if isinstance(error, FlowRVSError):
                raise
            raise failed(error, target) from error
        return target

    def _complete(self, copy: Path) -> dict[str, Any]:
        """Write into a copy of the files what only the memory holds; return the attributes.

        All of it is of one moment: pixels, provenance, areas, history and names.
        """
        state, volumes = self._state, self._state.sorted_volumes
        with contextlib.ExitStack() as locked:
            for volume in volumes:
                locked.enter_context(volume.lock)
            locked.enter_context(state.lock)
            state.settle()
            state.document.moment = self.history.moment
            attributes = state.document.to_attributes()
            waiting = [volume.frames.waiting() for volume in volumes]
            batch = self.history.copy(copy)
        add_to_copy(copy, state.shape, batch)
        for volume, (frames, tracks) in zip(volumes, waiting, strict=True):
            if frames:
                path = copy / volume.frames.path.relative_to(state.path)
                array = open_array(path, state.shape, "uint16", (1, *state.shape[1:]))
                for t, frame in frames:
                    array[t].write(frame).result()
            for track in tracks:
                track.write_at(copy / track.path.relative_to(state.path))
        return attributes

    def _rescue(self, copy: Path) -> dict[str, Any]:
        """Write what the memory and the open journal hold of a project whose folder is gone."""
        state, lost = self._state, 0
        attributes = state.document.to_attributes() | {"confidence": []}
        for name in _GROUPS:
            write_group(copy / name, {})
        add_to_copy(copy, state.shape, self.history.copy(copy))
        for volume in state.sorted_volumes:
            path = copy / volume.frames.path.relative_to(state.path)
            array = create_array(path, state.shape, (1, *state.shape[1:]), "uint16", "tyx")
            with volume.lock:
                known = dict(volume.frames.cache.in_memory())
                areas = {i: volume.frames.tracks.areas[i].values for i in volume.frames.members}
            for t in np.flatnonzero(sum(areas.values(), np.zeros(state.shape[0]))).tolist():
                frame = known.get(t)
                if frame is None:
                    frame = self.history.frame(volume.id, t, math.prod(state.shape[1:]))
                    counts = np.bincount(frame, minlength=max(areas) + 1)
                    lost += any(counts[i] != values[t] for i, values in areas.items())
                array[t].write(frame.reshape(state.shape[1:])).result()
            for i in volume.frames.members:
                for track in (volume.frames.tracks.provenance[i], volume.frames.tracks.areas[i]):
                    track.write_at(copy / track.path.relative_to(state.path))
        if lost:
            self._state.journal.damaged(
                f"{lost} frames were on the disk only; the copy is without them."
            )
        return attributes

    def _copy_files(self, target: Path, but: tuple[str, ...]) -> None:
        patterns = shutil.ignore_patterns("*.partial*", "*.__lock", *but)

        def ignored(folder: str, names: list[str]) -> set[str]:
            links = {n for n in names if not is_plain(os.path.join(folder, n))}
            return {*patterns(folder, names), *links}

        shutil.copytree(self.path, target, ignore=ignored, dirs_exist_ok=True)

    # -- what is known -------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The project's folder."""
        return self._state.path

    @property
    def writable(self) -> bool:
        """False for a project that was opened for reading only, or closed."""
        return self._state.writable

    @property
    def video(self) -> VideoInfo:
        """The video that the masks belong to."""
        return self._state.document.video

    @property
    def model(self) -> str | None:
        """Name of the model that ran last."""
        return self._state.document.model

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was done as a whole, and when (ISO 8601, UTC), oldest first: ``time``, ``event``."""
        with self._state.lock:
            return [dict(row) for row in self._state.document.history]

    @property
    def notes(self) -> dict[str, Any]:
        """What others keep with the project, as it was found: it may be anything; see `note`."""
        with self._state.lock:
            return dict(self._state.document.extra)

    @property
    def layers(self) -> dict[int, LayerRecord]:
        """Every layer by its id."""
        with self._state.lock:
            return dict(self._state.document.layers)

    @property
    def objects(self) -> dict[int, ObjectRecord]:
        """Every object by its id."""
        with self._state.lock:
            return dict(self._state.document.objects)

    @property
    def expressions(self) -> dict[str, Expression]:
        """Every expression by its id."""
        with self._state.lock:
            return dict(self._state.document.expressions)

    @property
    def runs(self) -> dict[str, RunRecord]:
        """Every run by its id, finished windows included."""
        with self._state.lock:
            return dict(self._state.document.runs)

    @property
    def next_label(self) -> int:
        """The id that the next new object gets, free in every layer."""
        return self._state.next_label

    @property
    def confidence_notice(self) -> str | None:
        """Why confidence is not kept any more; None while it is."""
        return self._confidence.notice

    @property
    def storage_error(self) -> StorageError | None:
        """Why the last write in the background failed; None while all is well."""
        return self._state.storage_error

    @property
    def unsaved(self) -> int:
        """Number of frames (and provenance chunks) that are not on the disk yet."""
        return self._state.unsaved

    def find_video(self, candidates: Iterable[str | os.PathLike[str]] = ()) -> Path | None:
        """Find the video by its content and note where it lies; None where it is nowhere.

        Looked at are, in this order: its path relative to the project, its last full path,
        `candidates` (folders too), and files of its name or its kind near the project.

        Parameters
        ----------
        candidates : iterable of path
            Files and folders that the user named.

        Returns
        -------
        Path or None
            The first that has the same frames, size and content hash.
        """
        relative = self._state.document.relative
        first = [] if relative is None else [self.path / relative]
        found = find_video(self.video, self.path.parent, first, candidates)
        if found is not None and self.writable and str(found) != self.video.path:
            self._catalog.note_video(str(found))
        return found

    # -- what its parts answer -----------------------------------------------------------

    connect = _HandedOn("_state", State.connect)
    flush = _HandedOn("_state", State.flush)

    check_video = _HandedOn("_catalog", Catalog.check_video)
    note = _HandedOn("_catalog", Catalog.note)
    add_layer = _HandedOn("_catalog", Catalog.add_layer)
    rename_layer = _HandedOn("_catalog", Catalog.rename_layer)
    add_object = _HandedOn("_catalog", Catalog.add_object)
    update_object = _HandedOn("_catalog", Catalog.update_object)
    add_expression = _HandedOn("_catalog", Catalog.add_expression)
    set_expression_text = _HandedOn("_catalog", Catalog.set_expression_text)
    set_expression_objects = _HandedOn("_catalog", Catalog.set_expression_objects)
    remove_expression = _HandedOn("_catalog", Catalog.remove_expression)
    add_prompt = _HandedOn("_catalog", Catalog.add_prompt)

    labels = _HandedOn("_masks", Masks.labels)
    write_model = _HandedOn("_masks", Masks.write_model)
    write_masks = _HandedOn("_masks", Masks.write_masks)
    provenance = _HandedOn("_masks", Masks.provenance)
    lock_frames = _HandedOn("_masks", Masks.lock_frames)
    unlock_frames = _HandedOn("_masks", Masks.unlock_frames)
    release_frames = _HandedOn("_masks", Masks.release_frames)
    accept_frames = _HandedOn("_masks", Masks.accept_frames)
    areas = _HandedOn("_masks", Masks.areas)
    present = _HandedOn("_masks", Masks.present)
    counts = _HandedOn("_masks", Masks.counts)
    object_mask = _HandedOn("_masks", Masks.object_mask)
    expression_mask = _HandedOn("_masks", Masks.expression_mask)

    confidence = _HandedOn("_confidence", Confidence.confidence)
    confidence_frames = _HandedOn("_confidence", Confidence.confidence_frames)
    rethreshold = _HandedOn("_confidence", Confidence.rethreshold)
    keep_disagreement = _HandedOn("_confidence", Confidence.keep_disagreement)
    disagreement = _HandedOn("_confidence", Confidence.disagreement)

    begin_run = _HandedOn("_runs", Runs.begin_run)
    mark_window_done = _HandedOn("_runs", Runs.mark_window_done)
    end_run = _HandedOn("_state", State.end_run)
    remove_run = _HandedOn("_masks", Masks.remove_run)

    mark_absent = _HandedOn("_surgery", Surgery.mark_absent)
    start_object = _HandedOn("_surgery", Surgery.start_object)
    end_object = _HandedOn("_surgery", Surgery.end_object)
    split_object = _HandedOn("_surgery", Surgery.split_object)
    merge_objects = _HandedOn("_surgery", Surgery.merge_objects)
    swap_objects = _HandedOn("_surgery", Surgery.swap_objects)
    move_object = _HandedOn("_surgery", Surgery.move_object)
    remove_object = _HandedOn("_surgery", Surgery.remove_object)

    # -- steps ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def edit(
        self,
        name: str,
        kind: Kind = "human",
        who: str | None = None,
        on_error: Literal["undo", "keep"] = "undo",
    ) -> Iterator[None]:
        """Make everything that this thread changes inside one step to undo.

        Any thread may do so, several at a time. An `edit` inside another one joins it.

        Parameters
        ----------
        name : str
            In the user's words: ``"spread 'the cat', frames 3-40"``.
        kind : {"human", "model"}
            Who made it. A person's step ends what could be redone.
        who : str, optional
            Name of the person (`History.author` by default) or model.
        on_error : {"undo", "keep"}
            What becomes of it when the block raises, `Cancelled` included: everything is as
            it was before, or what was done so far is the step.

        Examples
        --------
        >>> with project.edit("spread 'the cat', frames 3-4"):          # doctest: +SKIP
        ...     project.write_masks(cat.id, 3, masks)
        >>> project.undo_name                                           # doctest: +SKIP
        "spread 'the cat', frames 3-4"
        """
        self._state.check_writable()
        with self.history.step(name, kind, who, on_error):
            yield

    undo = _HandedOn("history", History.undo)
    redo = _HandedOn("history", History.redo)

    @property
    def undo_name(self) -> str | None:
        """Name of the step that `undo` takes back."""
        step = self.history.undo_step
        return None if step is None else step.name

    @property
    def redo_name(self) -> str | None:
        """Name of the step that `redo` does again."""
        step = self.history.redo_step
        return None if step is None else step.name

    def changes(self, object_id: int, t: int) -> list[ChangeRow]:
        """Return who touched an object on a frame, newest first."""
        self._state.check_open()
        self._state.object(object_id)
        return self.history.changes(object_id, t)


_OPEN: set[Project] = set()


@atexit.register
def _close_all() -> None:
    """Save what forgotten projects still hold when the program ends."""
    for project in list(_OPEN):
        told = project._told
        try:
            project.close()
        except Exception as error:  # the others are to be saved, too
            if str(error) == told:
                continue
            print(f"{project.path} was not saved completely: {error}", file=sys.stderr)


def _sweep(folder: Path) -> None:
    """Remove what a killed writer left; needs the lock."""
    for stale in folder.glob(".zarr.json.*.partial*"):
        stale.unlink(missing_ok=True)
    if (folder / "history" / "journal.sqlite-wal").exists():  # it was killed
        for name in (*_GROUPS, "disagreement"):
            for stale in folder.glob(f"{name}/*/*.__lock"):
                with contextlib.suppress(OSError):
                    stale.unlink()


def _with_suffix(path: Path) -> Path:
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
