"""Which of a TIFF's pages are frames, and what of it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from flowrvs.errors import VideoError
from flowrvs.video import open_video, tiff
from flowrvs.video.tiff import _axes

FRAMES = np.random.default_rng(2).integers(0, 256, (5, 20, 24, 3), np.uint8)
GREY = FRAMES[..., 0]
AS_RGB = np.repeat(GREY[..., None], 3, 3)


@pytest.mark.parametrize(
    ("axes", "found"),
    [
        ("TYX", "TYX"),
        ("ZYX", "TYX"),
        ("IYX", "TYX"),
        ("QYXS", "TYXC"),
        ("CYX", "TYX"),
        ("TZCYX", "TZCYX"),
        ("ZCYX", "TCYX"),
        ("YXS", "YXC"),
        ("YX", "YX"),
        ("TCYXS", "TCYXS"),
        ("QZYX", "QTYX"),
    ],
)
def test_the_axis_along_which_pages_follow_each_other_is_time(axes: str, found: str) -> None:
    assert _axes(axes) == found


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (GREY[0], {"photometric": "minisblack"}, AS_RGB[:1]),
        (FRAMES[0], {"photometric": "rgb"}, FRAMES[:1]),
        (GREY, {"photometric": "minisblack", "ome": True, "metadata": {"axes": "ZYX"}}, AS_RGB),
        (
            np.moveaxis(FRAMES, 3, 1),
            {"photometric": "minisblack", "ome": True, "metadata": {"axes": "TCYX"}},
            FRAMES,
        ),
        (GREY > 99, {"photometric": "minisblack"}, 255 * (AS_RGB > 99).astype(np.uint8)),
    ],
)
def test_one_series(tmp_path: Path, data: np.ndarray, options: dict, expected: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "t.tif", data, **options)
    with open_video(tmp_path / "t.tif") as video:
        assert video.info.kind == "tiff"
        np.testing.assert_array_equal(video.read(0, len(video)), expected)


@pytest.mark.parametrize("pages", [GREY, FRAMES], ids=["grey", "rgb"])
def test_pages_one_by_one(tmp_path: Path, pages: np.ndarray) -> None:
    kind = "rgb" if pages.ndim == 4 else "minisblack"
    expected = FRAMES if pages.ndim == 4 else AS_RGB
    with tifffile.TiffWriter(tmp_path / "t.tif") as out:
        out.write(pages[0, ::2, ::2], photometric=kind, subfiletype=1)
        for page in pages:
            out.write(page, photometric=kind)
    with open_video(tmp_path / "t.tif") as video:
        np.testing.assert_array_equal(video.read(0, len(video)), expected)
        np.testing.assert_array_equal(video.read(3, 5), expected[3:5])
    with tifffile.TiffWriter(tmp_path / "t.tif") as out:
        for n, page in enumerate(pages):
            out.write(page.astype(np.uint16) if n == 2 else page, photometric=kind)
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / "t.tif")
    size = "x".join(map(str, pages.shape[1:]))
    assert str(caught.value) == (
        f"Page 2 of {tmp_path / 't.tif'} differs in size or type: {size} uint16, others are "
        f"{size} uint8; give one stack a file."
    )


def test_reduced_pages_alone_are_frames_after_all(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "t.tif") as out:
        for page in GREY:
            out.write(page, photometric="minisblack", subfiletype=1)
    with open_video(tmp_path / "t.tif") as video:
        np.testing.assert_array_equal(video.read(0, len(video)), AS_RGB[: len(video)])


def test_the_file_is_closed_with_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    close = tifffile.TiffFile.close
    monkeypatch.setattr(
        tifffile.TiffFile, "close", lambda self: (closed.append(self), close(self))[1]
    )
    tifffile.imwrite(tmp_path / "t.tif", GREY, photometric="minisblack")
    video = open_video(tmp_path / "t.tif")
    before = len(closed)
    video.close()
    assert len(closed) == before + 1
    # One that is left to PIL is closed at once.
    tifffile.imwrite(tmp_path / "p.tif", GREY[0], photometric="miniswhite")
    closed.clear()
    with open_video(tmp_path / "p.tif") as video:
        assert closed
        np.testing.assert_array_equal(video.read(0, 1)[0, ..., 0], 255 - GREY[0])
    # And one that is refused.
    tifffile.imwrite(tmp_path / "5.tif", np.zeros((4, 5, 5), np.uint8), photometric="rgb",
                     extrasamples=[0, 0], planarconfig="contig")  # fmt: skip
    closed.clear()
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / "5.tif")
    assert str(caught.value) == (f"{tmp_path / '5.tif'} has 5 samples a pixel; give 1, 3 or 4.")
    assert closed


def test_four_samples_are_colours_and_alpha(tmp_path: Path) -> None:
    alpha = np.concatenate([FRAMES, GREY[..., None]], 3)
    tifffile.imwrite(tmp_path / "t.tif", alpha, photometric="rgb", extrasamples=[2])
    with open_video(tmp_path / "t.tif") as video:
        np.testing.assert_array_equal(video.read(0, 5), FRAMES)


def ome(folder: Path, inside: str, name: str = "a.ome.tif") -> Path:
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" Type="uint8" DimensionOrder="XYCZT" '
        'SizeX="24" SizeY="20" SizeC="1" SizeZ="1" SizeT="5">'
        f"{inside}<TiffData/></Pixels></Image></OME>"
    )
    path = folder / name
    tifffile.imwrite(path, GREY, photometric="minisblack", metadata=None, description=text)
    return path


@pytest.mark.parametrize(
    ("inside", "claim"),
    [
        ('<x SizeT="50"/>', 50),
        ('<x FirstZ="51"/>', 51),
        ('<x IFD="52"/>', 52),
        ('<x NumPlanes="53"/>', 53),
        ('<x PlaneCount="54"/>', 54),
        ('<x SizeZ="4" /><x SizeC="3"/>', 60),  # 5 * 4 * 3
        ('<ModuloAlongZ Start="2" End="57" Step="1"/>', 55),
        ('<ModuloAlongZ End="28" Step="0.5"/>', 56),
        ('<ModuloAlongZ End="57"/>', 57),
    ],
)
def test_planes_that_metadata_speak_of_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, claim: int
) -> None:
    path = ome(tmp_path, inside)
    monkeypatch.setattr(tiff, "MAX_PLANES", claim - 1)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value) == f"{path} claims {claim} planes; save it as a plain TIFF."
    monkeypatch.setattr(tiff, "MAX_PLANES", claim)
    with tifffile.TiffFile(path) as file:
        tiff._check_companions(file, path)


def test_companions_lie_beside_the_file(tmp_path: Path) -> None:
    def refused(name: str) -> str:
        path = ome(tmp_path, f'<x FileName="{name}"/>')
        with tifffile.TiffFile(path) as file, pytest.raises(VideoError) as caught:
            tiff._check_companions(file, path)
        return str(caught.value)

    def taken(name: str) -> None:
        path = ome(tmp_path, f'<x FileName="{name}"/>')
        with tifffile.TiffFile(path) as file:
            tiff._check_companions(file, path)

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.tif").write_bytes(b"x")
    (tmp_path / "link.tif").symlink_to(tmp_path / "sub" / "b.tif")
    for name in ("b.tif", "sub/b.tif", "sub", "link.tif", "../x.tif"):
        assert refused(name) == (
            f"{tmp_path / 'a.ome.tif'} is a part of an OME-TIFF; {name}, which belongs to it, is "
            "not beside it. Put it there, or save this part as a plain TIFF."
        )
    (tmp_path / "b & c.tif").write_bytes(b"x")
    taken("b &amp; c.tif")
    taken("A.OME.tif")
    taken("a.ome.tif")


def test_strips_have_a_limit_of_twice_their_pixels(tmp_path: Path) -> None:
    """A little more may be what the format pads; much more is somebody's bomb."""
    import zlib

    samples = 20 * 24
    for extra, good in ((2 * samples + 2**16, True), (2 * samples + 2**16 + 1, False)):
        tifffile.imwrite(tmp_path / "t.tif", GREY[0], compression="zlib", photometric="minisblack")
        bomb = zlib.compress(bytes(extra))
        with tifffile.TiffFile(tmp_path / "t.tif") as file:
            tags = [file.pages[0].tags[name] for name in ("StripOffsets", "StripByteCounts")]
        data = bytearray((tmp_path / "t.tif").read_bytes())
        for tag, value in zip(tags, (len(data), len(bomb)), strict=True):
            data[tag.offset + 2 : tag.offset + 12] = (
                (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
            )
        (tmp_path / "t.tif").write_bytes(bytes(data) + bomb)
        with tifffile.TiffFile(tmp_path / "t.tif") as file:
            page = file.pages[0]
            tiff._check_page(page, tmp_path / "t.tif")
            if good:
                page.asarray()
            else:
                with pytest.raises(VideoError) as caught:
                    page.asarray()
                assert str(caught.value) == (
                    f"{tmp_path / 't.tif'} unpacks to more than its pages allow; get another copy."
                )


def test_of_a_pyramid_the_full_size_is_shown(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "p.tif") as out:
        out.write(GREY, photometric="minisblack", subifds=1)
        out.write(GREY[:, ::2, ::2], photometric="minisblack", subfiletype=1)
    with open_video(tmp_path / "p.tif") as video:
        np.testing.assert_array_equal(video.read(0, len(video)), AS_RGB)


def test_memory_that_is_too_small_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / "t.tif"
    tifffile.imwrite(path, GREY, photometric="minisblack")
    asked: list[dict] = []
    stock = tifffile.TiffFile

    def opened(path: Path, **options: object) -> tifffile.TiffFile:
        asked.append(options)
        return stock(path, **options)

    monkeypatch.setattr(tifffile, "TiffFile", opened)
    open_video(path).close()
    # Indices of Micro-Manager name further files, which nobody means to open.
    assert asked == [{"is_mmstack": False, "is_ndtiff": False}]
    monkeypatch.setattr(tifffile, "TiffFile", full)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value) == f"{path} needs more memory than there is; make it smaller."
