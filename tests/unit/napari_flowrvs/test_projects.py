"""Projects that are open: nobody waits for one that is being opened, none is forgotten."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.export.presenter import ExportInputs, ExportPresenter
from napari_flowrvs.projects import Projects

INFO = VideoInfo(None, "array", 3, 4, 5)


def test_nobody_waits_for_a_project_that_is_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects, gate, begun = Projects(), threading.Event(), threading.Event()
    known = projects.ensure(tmp_path / "known.flowrvs", INFO)
    Project.create(tmp_path / "slow.flowrvs", INFO).close()
    inner, opened = Project.open, list[Project]()

    def slow(path: Path, **options: Any) -> Project:
        begun.set()
        assert gate.wait(20)
        opened.append(inner(path, **options))
        return opened[-1]

    monkeypatch.setattr(Project, "open", slow)
    threads = [
        threading.Thread(target=projects.open, args=(tmp_path / "slow.flowrvs",)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    start = time.monotonic()
    assert projects.get(tmp_path / "slow.flowrvs") is None
    assert projects.open(tmp_path / "known.flowrvs") is known
    assert time.monotonic() - start < 5, "neither a stroke nor another project waits"
    gate.set()
    for thread in threads:
        thread.join(20)
    assert opened == [projects.get(tmp_path / "slow.flowrvs")], "it was opened once"
    projects.close_all()


def test_a_project_that_cannot_be_closed_stays_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects, holder = Projects(), object()
    project = projects.ensure(tmp_path / "clip.flowrvs", INFO)
    projects.hold(project, holder)

    def full() -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(project, "close", full)
        with pytest.raises(StorageError, match="full"):
            projects.release(project, holder)
        assert projects.get(project.path) is project
    projects.close(project)
    assert projects.get(project.path) is None


def test_another_preview_does_not_wait_for_the_one_before(tmp_path: Path) -> None:
    waits: list[float] = []

    class Endless:
        def wait(self, timeout: float) -> bool:
            waits.append(timeout)
            return False

    presenter = ExportPresenter(lambda *arguments, **callbacks: Endless())  # type: ignore[arg-type]
    inputs = ExportInputs((str(tmp_path / "clip.flowrvs"),), str(tmp_path))
    for _ in range(3):
        presenter.preview(inputs)
        assert presenter.preview_job.busy
    assert waits == [0.0, 0.0], "not a moment on the interface's thread"


def test_the_last_holder_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    projects, path = Projects(), tmp_path / "clip.flowrvs"
    project, first, second = projects.ensure(path, INFO), object(), object()
    assert projects.ensure(path, INFO) is project
    for holder in (first, second, first):
        projects.hold(project, holder)
    projects.release(project, first)
    assert projects.get(path) is project, "somebody else shows it"
    projects.release(project, second)
    assert projects.get(path) is None
    again = projects.open(path)
    assert again is not project
    projects.close(project)
    assert projects.get(path) is again, "that was the one before"
    with pytest.raises(ProjectError):
        projects.ensure(path, VideoInfo(None, "array", 9, 4, 5))
    (tmp_path / "link").symlink_to(tmp_path)
    assert projects.get(tmp_path / "link" / "clip.flowrvs") is again, "by whatever name"
    projects.hold(again, first)
    other = projects.ensure(tmp_path / "other.flowrvs", INFO)

    def full() -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(again, "close", full)
        projects.close_all()
    again.close()
    assert projects.get(path) is projects.get(other.path) is None
    for each in (path, other.path):  # neither is held any more
        projects.release(projects.open(each), second)
        assert projects.get(each) is None
