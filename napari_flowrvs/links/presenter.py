"""After a prompt: does it mean what is there already?"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from psygnal import Signal

from flowrvs import editing
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store import Project
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Job, Runner, run_here

__all__ = ["Link", "LinksPresenter"]


@dataclass(frozen=True, slots=True)
class Link:
    """A sentence whose new mask coincides with objects that were there.

    Attributes
    ----------
    text : str
        The sentence.
    object_id : int
        The object that was made for it.
    match : Match
        The objects that it looks like, and how much.
    """

    text: str
    object_id: int
    match: editing.Match

    @property
    def question(self) -> str:
        """What the user is asked."""
        ids = " + ".join(str(i) for i in self.match.object_ids)
        noun = "object" if len(self.match.object_ids) == 1 else "objects"
        return f"“{self.text}” looks like {noun} {ids} ({self.match.iou:.0%} the same)."


class LinksPresenter:
    """Compares new objects with the others and offers links, one after the other.

    Parameters
    ----------
    desk : Desk
        Whose project.
    runner : Runner
        Where masks are compared.
    """

    #: Another question, or none: Link | None.
    asked = Signal(object)

    def __init__(self, desk: Desk, runner: Runner = run_here) -> None:
        self.desk = desk
        self.job = Job(runner)
        self._links: list[Link] = []
        desk.project_changed.connect(self._on_project)
        desk.catalog_changed.connect(self._on_catalog)

    @property
    def link(self) -> Link | None:
        """What is asked now."""
        return self._links[0] if self._links else None

    def look(self, project: Project, object_ids: Iterable[int]) -> None:
        """Compare objects that sentences have just made with the older ones.

        Two new ones that coincide are asked about once, as if the second had come later.
        """
        new = sorted(object_ids, reverse=True)
        if self.job.busy:
            return

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            for object_id in new:
                match, record = _offer(project, object_id, cancel), project.objects.get(object_id)
                asked = {i for i in new if i > object_id}
                if match and record is not None and asked.isdisjoint(match.object_ids):
                    yield Link(record.name, object_id, match)

        self.job.start(work, self._on_item)

    def _on_item(self, item: object) -> None:
        if isinstance(item, Link):
            self._links.append(item)
            if len(self._links) == 1:
                self.asked.emit(item)

    def accept(self) -> None:
        """Let the sentence mean the older objects; the new one goes."""
        link, project = self.link, self.desk.project
        if link is not None and project is not None:
            editing.accept_link(project, link.object_id, link.match)
            self.decline()
            self.desk.catalog_changed.emit()
            self.desk.choose(min(link.match.object_ids))

    def decline(self) -> None:
        """Keep the new object."""
        del self._links[:1]
        self._drop_gone()
        self.asked.emit(self.link)

    def _drop_gone(self) -> None:
        """Ask nothing of objects that have gone, by a link or otherwise."""
        known = set() if self.desk.project is None else set(self.desk.project.objects)
        self._links = [
            each for each in self._links if {each.object_id, *each.match.object_ids} <= known
        ]

    def _on_catalog(self) -> None:
        before = self.link
        self._drop_gone()
        if self.link is not before:
            self.asked.emit(self.link)

    def _on_project(self, _project: object) -> None:
        self.close(0.0)
        self._links.clear()
        self.asked.emit(None)

    def close(self, timeout: float = 5.0) -> bool:
        """Stop comparing."""
        return self.job.close(timeout)


def _offer(project: Project, object_id: int, cancel: CancelToken) -> editing.Match | None:
    """Compare an object with the others, also where some of them are removed meanwhile."""
    while object_id in project.objects:
        known = project.objects.keys()
        try:
            return editing.link_offer(project, object_id, cancel=cancel)
        except InputError:
            if project.objects.keys() == known:
                raise
    return None
