"""Frames in memory: whose pages they lie in, what is written when, and what is told of the disk."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.store import frames as module
from flowrvs.store.changes import Mark, Record, Role, encode
from flowrvs.store.frames import FrameCache, copy_frame, count_values, new_frame
from flowrvs.store.journal import Journal
from flowrvs.store.storage import Track, create_array

FULL = np.ones((10, 12, 16), bool)
SHAPE = (30, 3, 4)


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    """Thirty frames, each filled with its number on the disk, and only so many in memory."""
    array = create_array(tmp_path / "a", SHAPE, (1, 3, 4), "uint16", ("t", "y", "x"))
    values = np.broadcast_to(np.arange(30, dtype=np.uint16)[:, None, None], SHAPE)
    array.write(values).result()
    return FrameCache(array, tmp_path / "a", lambda t: None)


def draw(cache: FrameCache, t: int, value: int) -> None:
    with cache.lock:
        cache.frame(t)[:] = value
        cache.touch(t)


def on_disk(cache: FrameCache) -> list[int]:
    """Return the first pixel of each frame that lies there."""
    found: list[int] = np.array(cache._array.read().result())[:, 0, 0].tolist()
    return found


class TestMemory:
    @pytest.fixture
    def no_pages(self) -> Iterator[None]:
        """None are kept, nor come back from what other tests forgot."""
        gc.collect()
        module._spare.clear()
        yield
        module._spare.clear()

    def test_pages_are_used_again_when_nobody_looks_at_them(self, no_pages: None) -> None:
        """A view keeps its frame; without one, the next frame of that size takes the pages."""
        shape = (400, 200)  # 160 000 bytes: pages of its own
        frame = new_frame(shape, np.uint16)
        frame[:] = 7
        part = frame[3:5]
        del frame
        other = new_frame(shape, np.uint16)
        other[:] = 9
        assert (part == 7).all() and not np.shares_memory(part, other)
        address = other.ctypes.data
        del other
        again = new_frame(shape, np.uint16)
        assert again.ctypes.data == address and (part == 7).all()
        assert again.flags.c_contiguous and again.shape == shape and again.dtype == np.uint16
        del again, part
        assert {size: len(pages) for size, pages in module._spare.items()} == {2**18: 2}

    def test_what_is_kept_for_the_next_frames_is_bounded(self, no_pages: None) -> None:
        frames = [new_frame((1024, 1024), np.uint8) for _ in range(20)]
        frames += [new_frame((1024, 1025), np.uint8) for _ in range(3)]
        del frames
        kept = {size: len(pages) for size, pages in module._spare.items()}
        assert kept == {2**20: 16, 2**21: 3}

    def test_a_small_frame_has_no_pages(self, no_pages: None) -> None:
        small = new_frame((128, 255), np.uint16)
        del small
        assert not any(module._spare.values())
        large = new_frame((128, 256), np.uint16)
        del large
        assert {size: len(pages) for size, pages in module._spare.items()} == {2**16: 1}

    def test_a_copy_is_one(self) -> None:
        frame = np.arange(24, dtype=np.uint16).reshape(4, 6)[:, ::2]
        copy = copy_frame(frame)
        np.testing.assert_array_equal(copy, frame)
        assert copy.flags.c_contiguous and copy.dtype == np.uint16
        assert not np.shares_memory(copy, frame)

    @pytest.mark.parametrize(
        ("labels", "counts"),
        [
            ([[0, 0], [0, 0]], {}),
            ([[5, 5], [5, 5]], {5: 4}),
            ([[5, 0], [65535, 5]], {5: 2, 65535: 1}),
            ([[]], {}),
            ([[0, 1]], {1: 1}),
        ],
    )
    def test_how_often_each_value_occurs(self, labels: Any, counts: dict[int, int]) -> None:
        assert count_values(np.array(labels, np.uint16)) == counts

    @pytest.mark.parametrize(
        ("side", "caches", "capacity"),
        [(8, 1, 64), (1024, 1, 64), (1024, 2, 32), (2048, 1, 16), (2048, 9, 4), (8192, 1, 4)],
    )
    def test_caches_share_128_mib_but_hold_four_frames_each(
        self, tmp_path: Path, side: int, caches: int, capacity: int
    ) -> None:
        cache = FrameCache(SimpleNamespace(shape=(99, side, side)), tmp_path, lambda t: None)
        cache.share(caches)
        assert cache.capacity == capacity and cache.frame_bytes == 2 * side * side


class TestReading:
    def test_frames_come_as_they_are_asked_for(
        self, cache: FrameCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the disk and from memory, twice, back and forth, and in batches."""
        draw(cache, 7, 700)
        asked = [9, 7, 7, 0, 29, 3, 9]
        for batch in (module._BATCH_BYTES, 24 * 2, 1):
            monkeypatch.setattr(module, "_BATCH_BYTES", batch)
            read = cache.read(asked)
            assert read[:, 2, 3].tolist() == [9, 700, 700, 0, 29, 3, 9] and len(cache) == 1
            assert (read == read[:, :1, :1]).all() and read.dtype == np.uint16
        read[:] = 1
        assert cache.read([7, 9])[:, 0, 0].tolist() == [700, 9], "they are copies"
        assert cache.read([]).shape == (0, 3, 4)

    def test_the_frame_that_was_used_longest_ago_leaves(self, cache: FrameCache) -> None:
        cache.capacity = 4
        draw(cache, 0, 100)
        with cache.lock:
            for t in (1, 2, 3, 1, 4, 5):
                cache.frame(t)
        assert [t for t in range(30) if t in cache] == [0, 1, 4, 5], "what waits is never dropped"
        assert sorted(t for t in cache.stored() if t < 2) == [0, 1, 1]
        assert [(t, int(frame[0, 0])) for t, frame in cache.in_memory()] == [
            *((0, 100), (1, 1), (4, 4), (5, 5)),
        ]

    def test_whoever_looks_at_a_frame_that_is_empty_looks_twice(self, tmp_path: Path) -> None:
        array = create_array(tmp_path / "a", SHAPE, (1, 3, 4), "uint16", ("t", "y", "x"))
        array[4].write(np.ones((3, 4), np.uint16)).result()
        looked: list[int] = []
        cache = FrameCache(array, tmp_path / "a", looked.append)
        cache.read([3, 4])
        with cache.lock:
            cache.frame(5), cache.frame(5), cache.frame(4)
        assert looked == [3, 5]

    def test_what_is_told_of_a_frame_that_cannot_be_read(
        self, tmp_path: Path, info: VideoInfo
    ) -> None:
        """Only what is damaged is to be deleted, whatever its folder is called."""
        with Project.create(tmp_path / "invalid: zstd", info) as project:
            cat = project.add_prompt("the cat")[1]
            project.write_masks(cat.id, 0, FULL)
        layer = project.path / "layers" / "1"
        good = (layer / "c.2.0.0").read_bytes()
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        delete = "restore c.2.0.0 from a copy, or delete it"
        again = "the file itself may be whole: try again"
        with Project.open(project.path, read_only=True) as seen:
            for data, reason in (
                (b"", "it is damaged"),
                (b"junk" * 9, "it is damaged"),
                (good[:-3], "it is damaged"),
                (flipped, "it is damaged"),
                (bytes(2 * 384 + 4097), "it is larger than its pixels"),
            ):
                (layer / "c.2.0.0").write_bytes(data)
                with pytest.raises(ProjectError) as error:
                    seen.labels(1)[2]
                assert str(error.value) == (
                    f"Frame 2 in {layer} cannot be read: {reason}; {delete}."
                )
            cache = seen._state.volumes[1].frames.cache
            for trouble, reason in (
                (
                    OSError(24, "x"),
                    "too many files are open; close some, or raise the limit (ulimit -n)",
                ),
                (ValueError(f'Error reading "{layer}/c.2.0.0": nobody knows'), None),
            ):

                def fail(trouble: Exception = trouble) -> None:
                    raise trouble

                with pytest.raises(ProjectError) as error:
                    cache._loaded(SimpleNamespace(result=fail), 2)
                text = str(error.value)
                assert text.startswith(f"Frame 2 in {layer} cannot be read: {reason or 'Error'}")
                assert text.endswith(f"; {again}.")


class TestWriting:
    def test_what_is_dirty_is_written_and_then_clean(self, cache: FrameCache) -> None:
        for t in (8, 3, 20):
            draw(cache, t, 100 + t)
        assert (cache.dirty, cache.burden) == (3, 3)
        assert [(t, int(frame[0, 0])) for t, frame in cache.waiting()] == [
            *((8, 108), (3, 103), (20, 120)),
        ]
        calls: list[int] = []
        cache.flush(lambda: calls.append(cache.dirty), frames=2)
        assert calls == [2 + 1], "called before anything is written"
        wanted = [108 if t == 8 else 103 if t == 3 else t for t in range(30)]
        assert on_disk(cache) == wanted and cache.dirty == 1
        cache.flush(lambda: None)
        wanted[20] = 120
        assert on_disk(cache) == wanted and cache.dirty == 0 and 20 in cache

    def test_in_batches_each_after_its_word(
        self, cache: FrameCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The journal holds what a batch says before it is written, and all that is copied."""
        monkeypatch.setattr(module, "_BATCH_BYTES", 24 * 2)
        for t in range(5):
            draw(cache, t, 100)
        seen: list[list[int]] = []

        def before() -> None:
            seen.append([t for t, value in enumerate(on_disk(cache)) if value == 100])
            draw(cache, 4, 101)

        cache.flush(before)
        assert seen == [[], [0, 1], [0, 1, 2, 3]]
        assert on_disk(cache)[4] == 101 and cache.dirty == 1, "drawn after it was copied"

    def test_what_is_drawn_while_it_is_written_is_written_again(self, cache: FrameCache) -> None:
        draw(cache, 3, 1)
        cache.flush(lambda: draw(cache, 3, 2))
        assert cache.dirty == 1 and on_disk(cache)[3] == 1
        cache.flush(lambda: None)
        assert cache.dirty == 0 and on_disk(cache)[3] == 2

    def test_a_frame_that_cannot_be_written_waits(self, cache: FrameCache) -> None:
        """The others of its batch are safe."""
        for t in (2, 4, 6):
            draw(cache, t, 100)
        (cache.path / "c.4.0.0").unlink()
        (cache.path / "c.4.0.0").mkdir()
        with pytest.raises(StorageError) as error:
            cache.flush(lambda: None)
        assert str(error.value).startswith(f"Cannot write to {cache.path}: ")
        assert str(error.value).endswith(" Nothing in memory is lost.")
        assert cache.dirty == 1 and 4 in cache
        (cache.path / "c.4.0.0").rmdir()
        assert [on_disk(cache)[t] for t in (2, 4, 6)] == [100, 0, 100]
        cache.flush(lambda: None)
        assert on_disk(cache)[4] == 100 and cache.dirty == 0

    def test_a_frame_that_cannot_be_written_is_the_last_one_next_time(
        self, cache: FrameCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_BATCH_BYTES", 1)  # a frame is a batch
        for t in (4, 2, 6):
            draw(cache, t, 100)
        (cache.path / "c.4.0.0").unlink()
        (cache.path / "c.4.0.0").mkdir()
        for _ in range(2):
            with pytest.raises(StorageError):
                cache.flush(lambda: None)
        assert cache.dirty == 1
        (cache.path / "c.4.0.0").rmdir()
        assert [on_disk(cache)[t] for t in (2, 6)] == [100, 100]

    def test_frames_that_are_moved(self, cache: FrameCache, tmp_path: Path) -> None:
        """What the moves will make of them is seen at once, and drawn on as any other."""
        shape, kept = (3, 4), tmp_path / "kept"
        kept.mkdir()
        drawn = np.zeros(shape, np.uint16)
        drawn[1] = 8
        data = encode(np.zeros(shape, np.uint16), drawn)
        change = Record(1, 1, 1, 5, 6, Role.PIXELS, (Mark(8, 0, 2),), data)
        versions = cache.changed.copy()
        with cache.lock:
            assert not cache.move(5, str(kept / "none"), change), "there is no such file"
            assert cache.move(5, str(kept / "5"), None)
            assert cache.move(6, str(kept / "6"), None)
        assert np.flatnonzero(cache.changed != versions).tolist() == [5, 6]
        assert (cache.dirty, cache.burden, len(cache)) == (2, 0, 0) and 5 in cache
        assert not cache.read([5, 6]).any() and on_disk(cache)[5] == 5
        draw(cache, 6, 60)
        assert (cache.dirty, len(cache)) == (2, 1), "it is a frame in memory now"
        cache.flush(lambda: None, frames=9)
        assert on_disk(cache)[5:7] == [5, 60], "moves wait for a whole flush"
        cache.flush(lambda: None)
        assert on_disk(cache)[5] == 0 and (kept / "5").exists() and not (kept / "6").exists()
        assert cache.dirty == 0
        with cache.lock:
            assert cache.move(5, str(kept / "5"), change)
        np.testing.assert_array_equal(cache.read([5])[0], drawn)
        np.testing.assert_array_equal(dict(cache.waiting())[5], drawn)
        cache.flush(lambda: None)
        assert on_disk(cache)[5] == 5 and not (kept / "5").exists(), "the very file"

    def test_a_file_that_is_gone_is_written_from_what_it_held(
        self, cache: FrameCache, tmp_path: Path
    ) -> None:
        drawn = np.full((3, 4), 8, np.uint16)
        data = encode(drawn * 0, drawn)
        change = Record(1, 1, 1, 5, 6, Role.PIXELS, (), data)
        (tmp_path / "kept").write_bytes(b"")
        with cache.lock:
            assert cache.move(5, str(tmp_path / "kept"), change)
        (tmp_path / "kept").unlink()
        cache.flush(lambda: None)
        assert cache.dirty == 1 and (cache.read([5]) == 8).all()
        cache.flush(lambda: None)
        assert on_disk(cache)[5] == 8 and cache.dirty == 0


class TestOrder:
    """What must be on the disk before what, so that a kill in between loses nothing."""

    @pytest.fixture
    def cat(self, project: Project) -> Iterator[ObjectRecord]:
        yield project.add_prompt("the cat")[1]

    def test_journal_then_provenance_then_pixels(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.flush()
        project._state._saver.stop(), project._state._scribe.stop()
        order: list[str] = []
        commit, write, pixels = Journal.commit, Track.write, FrameCache._write

        def noted_commit(journal: Journal, batch: Any) -> None:
            order.extend(["journal"] * bool(batch.records))
            commit(journal, batch)

        def noted_write(track: Track, pieces: Any) -> Any:
            order.append(track.path.parent.name)
            return write(track, pieces)

        def noted_pixels(cache: FrameCache, *arguments: Any) -> None:
            order.append("pixels")
            pixels(cache, *arguments)

        monkeypatch.setattr(Journal, "commit", noted_commit)
        monkeypatch.setattr(Track, "write", noted_write)
        monkeypatch.setattr(FrameCache, "_write", noted_pixels)
        for t, write_all in ((3, project._state.volumes[1].frames.flush), (5, project.flush)):
            order.clear()
            project.labels(1)[t] = cat.id
            assert project.unsaved == 3, "the frame, who drew it, and its area"
            write_all()
            assert order == ["journal", "provenance", "areas", "pixels"]
            assert project.unsaved == 0

    def test_provenance_is_safe_where_pixels_are_refused(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.flush()
        project._state._saver.stop()
        project.labels(1)[3] = cat.id
        (project.path / "layers" / "1" / "c.3.0.0").mkdir()
        with pytest.raises(StorageError):
            project.flush()
        with Project.open(project.path, read_only=True) as seen:
            assert seen.provenance(cat.id)[3] == Provenance.HUMAN
        assert project.unsaved == 1
        (project.path / "layers" / "1" / "c.3.0.0").rmdir()

    def test_a_layer_that_cannot_be_written_does_not_keep_the_others_back(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        other = project.add_object("other", project.add_layer("other").id)
        project.flush()
        project._state._saver.stop()
        for layer, object_id in ((1, cat.id), (other.layer, other.id)):
            project.labels(layer)[3] = object_id
        (project.path / "layers" / "1" / "c.3.0.0").mkdir()
        with pytest.raises(StorageError, match=r"layers/1: "):
            project.flush()
        with Project.open(project.path, read_only=True) as seen:
            assert seen.object_mask(other.id, 3, 4).all()
        (project.path / "layers" / "1" / "c.3.0.0").rmdir()
        project.flush()
        with Project.open(project.path, read_only=True) as seen:
            assert seen.object_mask(cat.id, 3, 4).all()

    def test_many_frames_of_a_stroke_are_packed_while_it_is_drawn(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """Two frames in memory for each would be too much."""
        with Project.create(
            project.path.with_name("long"), VideoInfo(None, "array", 60, 12, 16)
        ) as long:
            labels = long.labels(long.add_layer("a").id)
            long._state._saver.stop(), long._state._scribe.stop()
            with labels.stroke("brush"):
                for t in range(60):
                    labels[t, 3] = 1
            records = long.history._waiting.records
            assert 40 < len(records) <= 60
            assert sum(record.frames is not None for record in records) <= 16
            long.undo()
            assert not labels[:].any()


class TestCounting:
    def test_many_objects_at_once(self, project: Project) -> None:
        cat = project.add_prompt("the cat")[1]
        dog, bird = project.add_object("dog", 1), project.add_object("bird", 1)
        labels = project.labels(1)
        labels[3, :4], labels[3, 4:6], labels[3, 8] = cat.id, dog.id, bird.id
        frames = project._state.volumes[1].frames
        assert frames.areas_on(3) == {cat.id: 64, dog.id: 32, bird.id: 16}
        assert frames.areas_on(4) == {}
        assert frames.masks([cat.id], 3, 5).sum((1, 2)).tolist() == [64, 0]
        assert frames.masks([cat.id, bird.id], 3, 5).sum((1, 2)).tolist() == [80, 0]
        project.lock_frames(dog.id, 3, 4)
        assert labels.locked(3) == [dog.id] and labels.locked(4) == []
        frames.tracks.areas[cat.id].known = False
        assert frames.areas_on(3) is None
        frames.tracks.areas[cat.id].values[:] = 0
        assert project.areas(cat.id).tolist() == [0, 0, 0, 64] + [0] * 6, "counted anew"
        frames.tracks.areas[dog.id].values[3] = 5
        frames.recount(3)
        assert project.areas(dog.id)[3] == 32

    def test_what_is_copied_is_not_the_project(self, project: Project) -> None:
        cat = project.add_prompt("the cat")[1]
        project.write_masks(cat.id, 0, FULL)
        project.areas(cat.id)[:] = 5
        project.provenance(cat.id)[:] = 0
        project.object_mask(cat.id, 0, 10)[:] = False
        np.asarray(project.labels(1))[:] = 0
        assert project.areas(cat.id).tolist() == [192] * 10
        assert project.provenance(cat.id).tolist() == [2] * 10
        assert project.object_mask(cat.id, 0, 10).all()

    def test_a_frame_that_cannot_be_read_is_counted_another_time(self, project: Project) -> None:
        cat = project.add_prompt("the cat")[1]
        project.write_masks(cat.id, 0, FULL)
        project.close()
        file = project.path / "layers" / "1" / "c.4.0.0"
        good = file.read_bytes()
        file.write_bytes(b"junk")
        for path in (project.path / "areas" / "1").iterdir():
            path.unlink()
        with Project.open(project.path) as again:
            assert again.areas(cat.id).tolist() == [192] * 4 + [0] + [192] * 5
        file.write_bytes(good)
        with Project.open(project.path) as again:
            assert again.areas(cat.id).tolist() == [192] * 10
