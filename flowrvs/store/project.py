"""`Project`: the folder ``<name>.flowrvs`` with everything known of one video's masks."""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

from flowrvs.errors import FlowRVSError, MissingPathError, ProjectError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store._backup import read_document
from flowrvs.store._catalog import relative_path
from flowrvs.store._document import Document, event, placed
from flowrvs.store._files import set_aside, storage_error, write_group
from flowrvs.store._lock import WriterLock
from flowrvs.store._runs import Runs
from flowrvs.store._steps import ChangeRow, Kind, Step
from flowrvs.store._surgery import Surgery
from flowrvs.store._videos import Videos

__all__ = ["SUFFIX", "Project"]

SUFFIX = ".flowrvs"
"""What the name of a project's folder ends in."""

_GROUPS = ("layers", "provenance", "areas", "confidence")


class Project(Surgery, Runs, Videos):
    """A project on disk; make one with `create` or `open`, and close it.

    It is a zarr v3 group that any zarr reader opens: ``layers/<n>`` are label volumes
    (T, H, W) uint16 whose pixel values are object ids; ``provenance/<object id>`` (T,) uint8
    and ``areas/<object id>`` (T,) int32 are kept per frame; ``confidence/<n>`` (T, H, W) uint8
    where it was kept; ``history`` holds the undo history; the attributes hold the rest.
    Nothing of it is ever half written: a process that is killed loses at most the last
    quarter of a second of painting.

    All methods may be called from any thread. One process at a time writes to a project;
    any number may read.

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
        super().__init__(path, document, lock)
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
        document = Document(video=placed(video))
        if document.video.path is not None:
            document.relative = relative_path(document.video.path, folder.absolute())
        document.history.append(event("created"))
        building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            for name in _GROUPS:
                write_group(building / name, {})
            write_group(building, document.to_attributes())
            if folder.exists():
                old = building.with_suffix(".old")
                folder.rename(old)
                building.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                building.rename(folder)
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise (
                error if isinstance(error, StorageError) else storage_error(error, folder)
            ) from None
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
        document, damaged = read_document(folder)
        lock = None if read_only else WriterLock(folder)
        try:
            if lock is not None:
                # Once more under the lock: another writer may have closed it just now.
                document, damaged = read_document(folder)
            project = cls(folder, document, lock)
            if damaged:
                project._restored()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        if lock is not None:
            for stale in folder.glob(".zarr.json.*.partial"):
                stale.unlink(missing_ok=True)
        return project

    def close(self) -> None:
        """Write what is left and let others in; further calls do nothing.

        Raises
        ------
        StorageError
            Something could not be written. The project stays open, so that nothing is lost:
            free some space and close it again.
        """
        if self._closed:
            return
        if self._writer is not None:
            self.settle_strokes()
            for object_id in list(self._open_runs):
                self.end_run(object_id)
            self._seal(True)
            try:
                self._flush_all()
                self.history.close()
            except BaseException:
                self._seal(False)
                raise
            self._let_go(self._writer)
        self._closed = True
        _OPEN.discard(self)

    def discard(self) -> None:
        """Close without writing what is left, for a project whose folder is to be deleted."""
        if self._closed:
            return
        self._seal(True)
        if self._writer is not None:
            self._let_go(self._writer)
        self._closed = True
        _OPEN.discard(self)

    def _let_go(self, lock: WriterLock) -> None:
        self._flusher.stop()
        self._scribe.stop()
        self.history.let_go()
        lock.release()

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Project {self._path} {len(self._doc.objects)} objects>"

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
        self._check_writable()
        with self.history.step(name, kind, who, on_error):
            yield

    def undo(self) -> Step | None:
        """Take back the last step and return it; None where there is none.

        See `History.undo`, which can be cancelled: a step of many frames takes a while.
        """
        return self.history.undo()

    def redo(self) -> Step | None:
        """Do again what was undone last and return it; None where there is none."""
        return self.history.redo()

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
        self._object(object_id)
        return self.history.changes(object_id, t)

    # -- copies --------------------------------------------------------------------------

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
        if self._closed:
            raise ProjectError(f"{self._path} was closed; open it again.")
        building = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
                shutil.rmtree(stale, ignore_errors=True)  # of a copy that was killed
            if self._writer is None:
                self._copy_files(building, ("writer",))
                document = self._doc.to_attributes()
            else:
                self.settle_strokes()
                with contextlib.suppress(StorageError):  # a full disk is a reason for a copy
                    self.flush()
                with self._still():
                    but = ("writer", "journal.sqlite*", "document.json", "damaged-*")
                    self._copy_files(building, but)
                    document = self._complete(building)
            video = self._doc.video.path
            if video is not None:
                document["video_relative"] = relative_path(video, target)
            write_group(building, document)
            building.rename(target)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, FlowRVSError) or not isinstance(error, Exception):
                raise
            raise storage_error(error, target) from error  # tensorstore raises ValueError, ...
        return target

    def _restored(self) -> None:
        """Say that the document is a copy, and write it in the place of the damaged one."""
        file = self._path / "zarr.json"
        self.history.damaged(f"{file} was damaged; names and sentences are those of its copy.")
        if self._writer is not None:
            with contextlib.suppress(OSError):
                set_aside(file)
            self._save()

    def _copy_files(self, target: Path, but: tuple[str, ...]) -> None:
        ignored = shutil.ignore_patterns("*.partial", "*.__lock", *but)
        shutil.copytree(self._path, target, ignore=ignored, dirs_exist_ok=True)


_OPEN: set[Project] = set()


@atexit.register
def _close_all() -> None:
    """Save what forgotten projects still hold when the program ends."""
    for project in list(_OPEN):
        try:
            project.close()
        except Exception as error:  # the others are to be saved, too
            print(f"{project.path} was not saved completely: {error}", file=sys.stderr)


def _with_suffix(path: Path) -> Path:
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
