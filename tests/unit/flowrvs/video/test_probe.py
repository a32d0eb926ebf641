"""What a path is taken for, and the hash by which a video is known again."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from flowrvs.errors import MissingPathError, VideoError
from flowrvs.video import probe
from flowrvs.video.probe import (
    edits_not_followed,
    fingerprint,
    incomplete,
    is_joined,
    kind_of,
    list_images,
    natural_key,
)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + bytes(4)


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13))
FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("name", "start", "kind"),
    [
        ("a.mp4", b"II*\0" + bytes(9), "tiff"),
        ("a.tif", b"MM\0*", "tiff"),
        ("a.tif", b"II+\0", "tiff"),
        ("a.tif", b"MM\0+", "tiff"),
        ("a.tif", b"II*\x01", "image"),
        ("a.png", b"\x93NUMPY\1\0", "npy"),
        ("a.png", b"GIF89a", "video"),
        ("a.mp4", PNG + chunk(b"IDAT"), "image"),
        ("a.mp4", PNG + chunk(b"acTL", bytes(8)) + chunk(b"IDAT"), "video"),
        ("a.png", PNG + chunk(b"gAMA", bytes(4)) + chunk(b"acTL") + chunk(b"IDAT"), "video"),
        ("a.png", PNG + chunk(b"IDAT") + chunk(b"acTL"), "image"),
        ("a.png", PNG + chunk(b"tEXt", b"acTL"), "image"),
        ("a.png", PNG[:11], "image"),
        ("a.jpg", FTYP + b"isom", "video"),
        ("a.mp4", FTYP + b"avif", "image"),
        ("a.mp4", FTYP + b"mif1\0\0\0\0avis", "image"),
        ("a.jpg", b"anything", "image"),
        ("a.JPEG", b"anything", "image"),
        ("a.mkv", b"anything", "video"),
        ("a", b"x", "video"),
    ],
)
def test_a_file_is_known_by_how_it_begins(
    tmp_path: Path, name: str, start: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(start)
    assert kind_of(tmp_path / name) == kind


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"heim", b"heis", b"mif1"])
def test_heic_brands(tmp_path: Path, brand: bytes) -> None:
    (tmp_path / "a").write_bytes(FTYP + brand)
    with pytest.raises(VideoError) as caught:
        kind_of(tmp_path / "a")
    assert str(caught.value) == f"{tmp_path / 'a'} is a HEIC picture; convert it to JPEG or PNG."


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["zarr.json"], "zarr"),
        ([".zarray"], "zarr"),
        ([".zgroup", "a.png"], "zarr"),
        (["a.txt", "b.TGA"], "images"),
        (["JPEGImages/", "a.png"], "images"),
    ],
)
def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path, names: list[str], kind: str) -> None:
    for name in names:
        path = tmp_path / name
        path.mkdir() if name.endswith("/") else path.write_bytes(b"x")
    assert kind_of(tmp_path) == kind


@pytest.mark.parametrize(
    ("folder", "names", "message"),
    [
        ("a", [], "{} is an empty folder; give one with images in it."),
        ("a.FlowRVS", ["0.png"], "{} is a project, not a video; open it as a project."),
        (
            "a",
            ["JPEGImages"],
            "{} holds many videos; open one of the folders in {}/JPEGImages.",
        ),
        ("JPEGImages", ["x"], "{} holds many videos; open one of the folders in {}."),
        ("a", ["1.HEIC", "t"], "{} holds HEIC pictures; convert them to JPEG or PNG."),
        ("a", ["1.heif"], "{} holds HEIC pictures; convert them to JPEG or PNG."),
        (
            "a",
            ["notes", ".0.png"],
            "{} holds no images (avif, bmp, gif, jfif, jp2, jpe, jpeg, jpg, pbm, pgm, png, pnm, "
            "ppm, tga, tif, tiff, webp); give a folder of frames or a video file.",
        ),
    ],
)
def test_a_folder_that_is_no_video_says_why(
    tmp_path: Path, folder: str, names: list[str], message: str
) -> None:
    (tmp_path / folder).mkdir()
    for name in names:
        (tmp_path / folder / name).write_bytes(b"")
    with pytest.raises(VideoError) as caught:
        kind_of(tmp_path / folder)
    said = message.replace("/", os.sep).replace("{}", str(tmp_path / folder))
    assert str(caught.value) == said


def test_paths_that_cannot_be() -> None:
    nowhere = Path("/no/such")
    with pytest.raises(MissingPathError) as caught:
        kind_of(nowhere)
    assert str(caught.value) == f"Nothing is at {nowhere}; check the path."
    with pytest.raises(VideoError, match="cannot be read"):
        kind_of(Path("a\0b"))
    with pytest.raises(VideoError, match="cannot be read"):
        kind_of(Path("x" * 300))


def test_names_are_sorted_as_people_count() -> None:
    names = ["f10.png", "f9.png", "f9b1.png", "F2.png", "10.png", "9.png", "f\u00b2.png", "g.png"]
    assert sorted(names, key=natural_key) == [
        "9.png", "10.png", "F2.png", "f9.png", "f9b1.png", "f10.png", "f\u00b2.png", "g.png",
    ]  # fmt: skip
    assert natural_key("a01b") == [(1, "a"), (0, 1), (1, "b")]


def test_a_frame_that_is_there_twice_is_named(tmp_path: Path) -> None:
    for name in ("2.png", "10.png", "10.JPG", "2.txt", "3.gif"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(VideoError) as caught:
        list_images(tmp_path)
    assert str(caught.value) in [
        f"{tmp_path} holds both {a} and {b}; keep one of them."
        for a, b in (("10.png", "10.JPG"), ("10.JPG", "10.png"))
    ]
    (tmp_path / "10.JPG").unlink()
    assert list_images(tmp_path) == [tmp_path / n for n in ("2.png", "3.gif", "10.png")]


# -- hashes: projects keep them, so they must stay as they are --------------------------


def test_a_file_is_hashed_whole_or_by_32_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "WHOLE_FILE", 1000)
    monkeypatch.setattr(probe, "SAMPLE_BYTES", 10)
    path = tmp_path / "v"
    whole = bytes(i * 7 % 251 for i in range(1000))
    path.write_bytes(whole)
    assert fingerprint([path]) == hashlib.sha256(whole).hexdigest()
    large = bytes(i * 7 % 251 for i in range(1317))
    path.write_bytes(large)
    pieces = [large[n * 1307 // 31 : n * 1307 // 31 + 10] for n in range(32)]
    assert fingerprint([path]) == hashlib.sha256(b"1317\0" + b"".join(pieces)).hexdigest()
    assert pieces[-1] == large[-10:]


@pytest.mark.parametrize(
    ("count", "read"),
    [
        (2, [0, 1]),
        (16, list(range(16))),
        (17, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]),
        (46, list(range(0, 46, 3))),
    ],
)
def test_of_several_files_all_names_and_sizes_count(
    tmp_path: Path, count: int, read: list[int]
) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        path.write_bytes(b"%d" % n * 3)
    names = b"".join(b"%d.png\0%d\0" % (n, p.stat().st_size) for n, p in enumerate(paths))
    content = b"".join(paths[n].read_bytes() for n in read)
    assert fingerprint(paths) == hashlib.sha256(names + content).hexdigest()
    assert fingerprint([], [b"a", b"b"]) == hashlib.sha256(b"ab").hexdigest()
    assert fingerprint(paths[:1], [b"a"]) == hashlib.sha256(b"a000").hexdigest()


# -- containers -------------------------------------------------------------------------


def box(kind: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I4s", len(data) + 8 if size is None else size, kind) + data


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (box(b"ftyp") + box(b"moov"), ""),
        (box(b"moov") + box(b"mdat", b"abc"), ""),
        (box(b"moov") + box(b"mdat", b"abc", 100), "89 bytes are missing at its end"),
        (box(b"ftyp") + box(b"mdat", b"abc"), "its index (moov) is missing"),
        (box(b"ftyp") + box(b"mdat", b"abc", 12), "1 bytes are missing at its end"),
        (box(b"moov") + box(b"mdat", b"abc", 0), ""),
        (box(b"mdat", struct.pack(">Q", 24) + bytes(8), 1) + box(b"moov"), ""),
        (box(b"mdat", struct.pack(">Q", 99) + bytes(8), 1), "75 bytes are missing at its end"),
        (box(b"moov") + box(b"free", b"", 7) + box(b"mdat", b"", 99), ""),  # no box: not looked at
        (box(b"wide") + box(b"moov") + b"\0" * 7, ""),
        (box(b"skip") + box(b"moov"), ""),
        (box(b"xxxx") + box(b"mdat", b"", 99), ""),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x84abcd", ""),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x85abcd", "1 bytes are missing at its end"),
        (b"\x1aE\xdf\xa3\x81a\x18S\x80g\x40\x09abcd", "5 bytes are missing at its end"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x20\0\x09abcd", "5 bytes are missing at its end"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\xffabcd", ""),  # left open
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x7f\xffabcd", ""),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x7f\xfe", "16382 bytes are missing at its end"),
        (b"\x1aE\xdf\xa3\xff\x18S\x80g\x85abcd", "1 bytes are missing at its end"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80h\x85abcd", ""),
        (b"\x1aE\xdf\xa3\0\x18S\x80g", ""),
    ],
)
def test_what_headers_say_of_a_files_length(tmp_path: Path, content: bytes, missing: str) -> None:
    (tmp_path / "v").write_bytes(content)
    assert incomplete(tmp_path / "v") == missing


FLV, ASF = b"FLV\x01" + bytes(20), bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


@pytest.mark.parametrize(
    ("content", "last", "joined"),
    [
        (box(b"ftyp") + box(b"moov") + box(b"ftyp") + box(b"moov"), 0, True),
        (box(b"ftyp") + box(b"moov") + box(b"mdat") + box(b"moof"), 0, False),
        (FLV + b"x" * 9 + FLV, 24, True),
        (FLV + b"x" * 9 + FLV, 4, True),
        (FLV + b"x" * 9 + FLV, 3, False),  # its last packet cannot be within its head
        (FLV + b"x" * 9 + FLV, 34, False),
        (FLV + b"x" * 9 + FLV[:8], 24, False),  # by chance: nine bytes are compared
        (ASF + b"x" * 9 + ASF, 20, True),
        (PNG + b"x" * 9 + PNG, 30, True),
        (b"FLV\x02" + bytes(20) + b"FLV\x02" + bytes(20), 10, False),
        (b"anything" * 9, 10, False),
    ],
)
def test_a_second_file_behind_the_first_is_seen(
    tmp_path: Path, content: bytes, last: int, joined: bool
) -> None:
    (tmp_path / "v").write_bytes(content)
    assert is_joined(tmp_path / "v", last) == joined


def track(*edits: tuple[int, int, float], version: int = 0, kind: bytes = b"vide") -> bytes:
    rows = [
        struct.pack(">QqI" if version else ">IiI", count, time, int(rate * 2**16))
        for count, time, rate in edits
    ]
    table = struct.pack(">B3xI", version, len(rows)) + b"".join(rows)
    handler = box(b"mdia", box(b"mdhd", bytes(24)) + box(b"hdlr", bytes(8) + kind + bytes(12)))
    return box(b"trak", handler + box(b"edts", box(b"elst", table)))


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    ("edits", "found"),
    [
        ([(5, 0, 1)], ""),
        ([(5, -1, 1), (5, -1, 1), (5, 3, 1)], ""),
        ([(5, 3, 1), (5, -1, 1)], "a pause in the middle"),
        ([(5, 3, 1.5)], "a speed of 1.5"),
        ([(5, -1, 2), (5, 3, 1)], ""),  # of a pause the speed means nothing
        ([(5, -1, 1), (5, 3, 1), (5, 4, 0.25)], "a speed of 0.25"),
        ([], ""),
    ],
)
def test_edits_that_are_not_followed(
    tmp_path: Path, version: int, edits: list[tuple[int, int, float]], found: str
) -> None:
    path = tmp_path / "v.mp4"
    made = track(*edits, version=version)
    path.write_bytes(box(b"ftyp") + box(b"moov", box(b"mvhd", bytes(9)) + made))
    assert edits_not_followed(path) == found
    # Of a second track too, of its video alone.
    path.write_bytes(box(b"ftyp") + box(b"moov", track((5, 0, 1)) + made))
    assert edits_not_followed(path) == found
    sound = track(*edits, version=version, kind=b"soun")
    path.write_bytes(box(b"ftyp") + box(b"moov", sound + track((5, 0, 1))))
    assert edits_not_followed(path) == ""
    path.write_bytes(box(b"xxxx") + box(b"moov", made))
    assert edits_not_followed(path) == ""


def test_an_edit_list_is_as_long_as_it_says(tmp_path: Path) -> None:
    made = track((5, 0, 1), (5, 3, 2))
    path = tmp_path / "v.mp4"
    path.write_bytes(box(b"ftyp") + box(b"moov", made))
    assert edits_not_followed(path) == "a speed of 2"
    at = made.index(b"elst") + 8
    path.write_bytes(box(b"ftyp") + box(b"moov", made[:at] + struct.pack(">I", 1) + made[at + 4 :]))
    assert edits_not_followed(path) == ""


def test_crc_of_a_chunk_is_passed_over(tmp_path: Path) -> None:
    """An ``acTL`` in a checksum is none."""
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0) + b"tEXt" + b"acTL" + chunk(b"IDAT")
    (tmp_path / "a.png").write_bytes(data)
    assert kind_of(tmp_path / "a.png") == "image"
