"""Folders of images, MeViS video folders among them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flowrvs.errors import VideoError
from flowrvs.video import open_video
from flowrvs.video.images import read_image
from flowrvs.video.levels import Levels

from .clips import coded_frame, number_in


def save(folder, names, mode="RGB", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        Image.fromarray(coded_frame(n)).convert(mode).save(folder / name, **options)
    return folder


def test_mevis_video_folder(tmp_path):
    names = [f"{5 * n:05d}.jpg" for n in range(20)]
    folder = save(tmp_path / "JPEGImages" / "0ab4afe7fb46", names, quality=95)
    with open_video(folder) as video:
        assert video.info.kind == "images" and video.info.rate is None
        assert video.info.frame_names == tuple(n[:-4] for n in names)
        assert [number_in(f) for f in video.frames.compute()] == list(range(20))
        with Image.open(folder / names[7]) as image:
            assert np.array_equal(video.read(7, 8)[0], np.asarray(image))
        assert np.array_equal(video.read(7, 8)[0], read_image(folder / names[7]))


def test_natural_order_and_other_files_are_passed_over(tmp_path):
    names = ["f1.png", "f2.png", "f9.png", "f10.png", "f100.png"]
    folder = save(tmp_path, names)
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".f0.png").write_bytes(b"x")
    (folder / "sub").mkdir()
    with open_video(folder) as video:
        assert video.info.frame_names == ("f1", "f2", "f9", "f10", "f100")
        assert [number_in(f) for f in video.read(0, 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp", "ppm", "jpeg", "PNG"])
def test_kinds_of_images(tmp_path, suffix):
    folder = save(tmp_path / suffix, [f"{n:03d}.{suffix}" for n in range(3)])
    with open_video(folder) as video:
        assert [number_in(f) for f in video.read(0, 3)] == [0, 1, 2]


def test_one_image_and_a_list_of_images(tmp_path):
    save(tmp_path, ["a.png", "b.png", "c.png"])
    with open_video(tmp_path / "b.png") as video:
        assert video.shape == (1, 64, 96, 3) and number_in(video.read(0, 1)[0]) == 1
    with open_video([tmp_path / "c.png", str(tmp_path / "a.png")]) as video:
        assert [number_in(f) for f in video.read(0, 2)] == [2, 0]
        assert video.info.frame_names == ("c", "a")


def test_sizes_must_agree(tmp_path):
    save(tmp_path, ["1.png", "2.png"])
    Image.new("RGB", (96, 65)).save(tmp_path / "3.png")
    with pytest.raises(VideoError, match=r"3\.png is 96x65 but 1\.png is 96x64"):
        open_video(tmp_path)


def test_a_frame_twice_is_refused(tmp_path):
    save(tmp_path, ["1.png", "1.jpg"])
    with pytest.raises(VideoError, match=r"1\.jpg and 1\.png|1\.png and 1\.jpg"):
        open_video(tmp_path)


def test_broken_images_are_named(tmp_path):
    save(tmp_path, [f"{n}.jpg" for n in range(4)], quality=100)
    data = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(data[:-300])
    with open_video(tmp_path) as video:
        assert number_in(video.read(3, 4)[0]) == 3
        with pytest.raises(VideoError, match=r"2\.jpg cannot be read"):
            video.read(0, 4)
    (tmp_path / "2.jpg").write_bytes(b"")
    with pytest.raises(VideoError, match=r"2\.jpg cannot be read"):
        open_video(tmp_path)


def test_pages_inside_a_folder_of_frames_are_not_lost_silently(tmp_path):
    pages = [Image.fromarray(coded_frame(n)) for n in range(3)]
    pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(VideoError, match="has 3 pages"):
        open_video(tmp_path)


def test_alpha_grey_palette_and_bilevel(tmp_path):
    rgb = coded_frame(37)
    alpha = np.full((*rgb.shape[:2], 1), 7, np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), rgb)
    grey = Image.fromarray(rgb).convert("L")
    grey.save(tmp_path / "grey.png")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert np.array_equal(read_image(tmp_path / "grey.png"), expected)
    palette = Image.fromarray(rgb).quantize(32)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(32)))
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    grey.point(lambda v: 255 * (v > 99)).convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) == {0, 255}


def test_sixteen_bits_share_one_line_over_the_whole_folder(tmp_path):
    for n in range(3):
        deep = np.full((8, 9), 1000 * (n + 1), np.uint16)
        Image.fromarray(deep).save(tmp_path / f"{n}.png")
    with open_video(tmp_path) as video:
        # 3000 needs 12 bits: 4095 is white.
        assert [int(f[0, 0, 0]) for f in video.read(0, 3)] == [62, 125, 187]
    with open_video(tmp_path, limits=(0, 3000)) as video:
        assert [int(f[0, 0, 1]) for f in video.read(0, 3)] == [85, 170, 255]


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (2, np.fliplr),
        (3, lambda frame: np.rot90(frame, 2)),
        (4, np.flipud),
        (5, lambda frame: frame.swapaxes(0, 1)),
        (6, lambda frame: np.rot90(frame, -1)),
        (7, lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(coded_frame(5)).save(tmp_path / "turned.png", exif=exif)
    expected = turned(coded_frame(5))
    with open_video(tmp_path) as video:
        assert (video.info.height, video.info.width) == expected.shape[:2]
        assert np.array_equal(video.read(0, 1)[0], expected)


def test_a_cameras_preview_is_no_frame(tmp_path):
    """A JPEG may carry further pictures (MPO)."""
    pictures = [Image.fromarray(coded_frame(n)) for n in (4, 9)]
    pictures[0].save(tmp_path / "0.jpg", "MPO", save_all=True, append_images=pictures[1:])
    pictures[1].save(tmp_path / "1.jpg")
    with open_video(tmp_path) as video:
        assert [number_in(frame) for frame in video.read(0, 2)] == [4, 9]
    with open_video(tmp_path / "0.jpg") as video:
        assert [number_in(frame) for frame in video.read(0, len(video))] == [4]


def test_fingerprint_finds_a_moved_folder_and_notices_change(tmp_path):
    a = save(tmp_path / "a", ["1.png", "2.png"])
    b = save(tmp_path / "b", ["1.png", "2.png"])
    with open_video(a) as one, open_video(b) as two:
        assert one.info.fingerprint == two.info.fingerprint
    Image.fromarray(coded_frame(9)).save(b / "2.png")
    with open_video(a) as one, open_video(b) as two:
        assert one.info.fingerprint != two.info.fingerprint


def test_deep_images_by_themselves_or_by_given_levels(tmp_path):
    deep = np.array([[0, 1000], [2000, 4095]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "d.png")
    alone = read_image(tmp_path / "d.png")
    assert alone[..., 1].tolist() == [[0, 62], [125, 255]] and (alone == alone[..., :1]).all()
    assert read_image(tmp_path / "d.png", Levels(0, 2000))[..., 2].tolist() == [
        [0, 128],
        [255, 255],
    ]
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "f.tif")
    assert read_image(tmp_path / "f.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_errors_of_images_name_their_cause(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(VideoError) as caught:
        read_image(tmp_path / "a.png")
    path = tmp_path / "a.png"
    assert str(caught.value) == f"{path} cannot be read as an image (damaged or not an image)."
    with pytest.raises(VideoError) as caught:
        read_image(tmp_path / "none.png")
    assert str(caught.value) == (
        f"{tmp_path / 'none.png'} cannot be read as an image (No such file or directory)."
    )
    Image.new("RGB", (4, 4)).save(path)

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("flowrvs.video.images._pixels", full)
    with pytest.raises(VideoError, match="needs more memory than there is; make it smaller"):
        read_image(path)
    monkeypatch.undo()
    monkeypatch.setattr("flowrvs.video.images.is_too_large", lambda w, h: (w, h) == (4, 4))
    with pytest.raises(VideoError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path} has more pixels than can be read; make it smaller."


def test_frames_are_decoded_once_and_kept(tmp_path):
    save(tmp_path, ["0.png", "1.png", "2.png"])
    with open_video(tmp_path) as video:
        first = video.read(0, 3)
        for n in range(3):
            (tmp_path / f"{n}.png").unlink()
        assert np.array_equal(video.read(0, 3), first)
    save(tmp_path, ["0.png", "1.png", "2.png"])
    with open_video(tmp_path, cache_bytes=0) as video:
        (tmp_path / "1.png").unlink()
        assert number_in(video.read(2, 3)[0]) == 2
        with pytest.raises(VideoError, match=r"1\.png cannot be read as an image \(No such file"):
            video.read(0, 3)


def test_a_frame_that_was_replaced_by_another_size_is_told(tmp_path):
    save(tmp_path, ["0.png", "1.png"])
    with open_video(tmp_path) as video:
        Image.new("RGB", (32, 20)).save(tmp_path / "1.png")
        with pytest.raises(VideoError) as caught:
            video.read(0, 2)
    assert str(caught.value) == (
        f"Frame 1 of {tmp_path} is 32x20, not 96x64; frames of one video share one size."
    )


def test_a_sideways_picture_among_upright_ones_is_as_it_stands(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(coded_frame(5))
    Image.fromarray(turned).save(tmp_path / "0.png", exif=exif)
    Image.fromarray(coded_frame(6)).save(tmp_path / "1.png")
    with open_video(tmp_path) as video:
        assert video.shape == (2, 64, 96, 3)
        assert [number_in(f) for f in video.read(0, 2)] == [5, 6]
