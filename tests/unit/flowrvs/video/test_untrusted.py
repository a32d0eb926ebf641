"""Files that somebody made to do harm are refused in one line, and nothing else happens."""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import google_crc32c
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from flowrvs.errors import VideoError
from flowrvs.video import open_video
from flowrvs.video.zarr_store import unpacked_size

from .clips import coded_frame, number_in, write_clip


def refused(path, match: str | None = None) -> str:
    with pytest.raises(VideoError, match=match) as caught, open_video(path) as video:
        video.read(0, len(video))
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


# -- programs and other files ----------------------------------------------------------


def test_postscript_under_a_picture_s_name_starts_no_program(tmp_path, monkeypatch):
    """PIL hands EPS to Ghostscript, which is put into the way here."""
    started = tmp_path / "started"
    tool = tmp_path / "bin" / "gs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch '{started}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n%%EndComments\nshowpage\n"
    )
    refused(frames, "cannot be read as an image")
    refused(frames / "0.png", "cannot be read as an image")
    (frames / "0.png").rename(frames / "0.mp4")
    refused(frames / "0.mp4")
    assert not started.exists()


def test_pictures_are_opened_by_named_formats_everywhere():
    """Without `formats`, PIL tries all it knows, Ghostscript's among them."""
    root = Path(__file__).resolve().parents[4]
    calls = [
        (f"{path.relative_to(root)}:{node.lineno}", {key.arg for key in node.keywords})
        for package in ("flowrvs", "napari_flowrvs")
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
    ]
    assert len(calls) >= 4
    assert [where for where, names in calls if "formats" not in names] == []


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile clip.ts\n",
    "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' "
    "mediaPresentationDuration='PT1S'><Period><AdaptationSet mimeType='video/mp4'>"
    "<Representation id='1'><BaseURL>clip.ts</BaseURL></Representation></AdaptationSet>"
    "</Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5000 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("suffix", ["mp4", "ts", "m3u8", "ffconcat", "mpd", "sdp"])
@pytest.mark.parametrize("kind", list(PLAYLISTS))
def test_playlists_open_no_other_file(tmp_path, kind, suffix):
    write_clip(tmp_path / "clip.ts", count=6)
    path = tmp_path / f"v.{suffix}"
    path.write_text(PLAYLISTS[kind])
    refused(path, "cannot be read as a video")


# -- pipes, devices, links -------------------------------------------------------------


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    assert refused(tmp_path / "v.mp4").startswith(f"{tmp_path}/v.mp4 is no regular file;")
    for device in ("/dev/zero", "/dev/null"):
        if os.path.exists(device):
            assert refused(device).startswith(f"{device} is no regular file;")
    frames = tmp_path / "frames"
    frames.mkdir()
    os.mkfifo(frames / "0.png")
    refused(frames, r"0\.png is no regular file")


def test_links_among_frames_stay_in_their_folder(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for n in range(2):
        Image.fromarray(coded_frame(n)).save(frames / f"{n}.png")
    (frames / "2.png").symlink_to("0.png")
    with open_video(frames) as video:
        assert [number_in(f) for f in video.read(0, 3)] == [0, 1, 0]
    Image.fromarray(coded_frame(7)).save(tmp_path / "private.png")
    (frames / "3.png").symlink_to("../private.png")
    refused(frames, r"3\.png is a link that leads out of its folder")
    # What a person names is what a person means.
    with open_video([frames / "0.png", frames / "3.png"]) as video:
        assert [number_in(f) for f in video.read(0, 2)] == [0, 7]
    (frames / "3.png").unlink()
    (frames / "3.png").symlink_to("nothing.png")
    refused(frames, r"3\.png is no regular file")
    (tmp_path / "link").symlink_to(frames)
    (frames / "3.png").unlink()
    with open_video(tmp_path / "link") as video:
        assert len(video) == 3


# -- sizes -----------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(10**5)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9000, 9000), (30000, 30000), (2**31 - 1, 2**31 - 1)])
def test_pictures_that_claim_any_size(tmp_path, size):
    (tmp_path / "0.png").write_bytes(png(*size))
    refused(tmp_path / "0.png", "more pixels than can be read")
    refused(tmp_path, "more pixels than can be read")


def test_tiffs_that_claim_any_size(tmp_path):
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((64, 96), np.uint8), photometric="minisblack")
    data = bytearray((tmp_path / "t.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "t.tif") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = file.pages[0].tags[name]
            at = tag.offset + 2
            data[at : at + 10] = struct.pack("<HII", 4, 1, 200_000)
    (tmp_path / "t.tif").write_bytes(data)
    refused(tmp_path / "t.tif", "more pixels than can be read")


@pytest.mark.parametrize(("tag", "count"), [("SamplesPerPixel", 60_000), ("ImageLength", 40_000)])
def test_tiffs_with_odd_shapes(tmp_path, tag, count):
    path = tmp_path / "t.tif"
    tifffile.imwrite(path, np.zeros((64, 96), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[tag].offset
    data = bytearray(path.read_bytes())
    data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, count)
    path.write_bytes(data)
    refused(path, "more pixels than can be read|samples a pixel")


@pytest.mark.parametrize("codec", ["zlib", "lzma"])
@pytest.mark.parametrize("pages", [1, 3])
def test_tiff_strips_that_unpack_to_gigabytes(tmp_path, codec, pages):
    path = tmp_path / "t.tif"
    noise = np.random.default_rng(3).integers(0, 256, (64, 96), np.uint8)
    for _ in range(pages):
        tifffile.imwrite(path, noise, compression=codec, photometric="minisblack", append=True)
    bomb = packed_zeros("zlib" if codec == "zlib" else "lzma", 3 * 10**8)
    with tifffile.TiffFile(path) as file:
        page = file.pages[-1]
        tags = [page.tags[name] for name in ("StripOffsets", "StripByteCounts")]
    data = bytearray(path.read_bytes())
    for tag, value in zip(tags, (len(data), len(bomb)), strict=True):
        data[tag.offset + 2 : tag.offset + 12] = struct.pack("<HII", 4, 1, value)
    path.write_bytes(data + bomb)
    line, grown = measured(path)
    assert "cannot be read" in line or "pages allow" in line, line
    assert grown < 150


def test_videos_that_claim_any_size(tmp_path):
    path = write_clip(tmp_path / "v.y4m", "rawvideo", count=1, format="yuv4mpegpipe")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"W96 H64", b"W30000 H30000"))
    refused(path)


HEADERS = [
    "{'descr':'|O','fortran_order':False,'shape':(3,4,5)}",
    "{'descr':'|u1','fortran_order':False,'shape':(1000000000000,4,5)}",
    "{'descr':'|u1','fortran_order':False,'shape':(-3,4,5)}",
    "{'descr':'|u1','fortran_order':False,'shape':(99999999999999999999999,4,5)}",
    "{'descr':'|u1','fortran_order':False,'shape':(0,4,5)}",
    "{'descr':[('a','u1')],'fortran_order':False,'shape':(1,4,5)}",
    "{'descr':'|u1','fortran_order':False,'shape':(1,4,'x')}",
    "{'descr':'|u1','fortran_order':False,'shape':" + "(" * 9000 + ")" * 9000 + "}",
    "{'descr':'|S5','fortran_order':False,'shape':(1,2,2)}",
    "__import__('os').system('touch started')",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_npy_headers(tmp_path, monkeypatch, header):
    monkeypatch.chdir(tmp_path)
    text = header.encode() + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(1000))
    refused(path)
    assert not (tmp_path / "started").exists()


# -- zarr ------------------------------------------------------------------------------


def store(path: Path, frames: int = 4, **options) -> Path:
    options.setdefault("chunks", (1, 64, 96, 3))
    array = zarr.create_array(path, shape=(frames, 64, 96, 3), dtype="u1", **options)
    array[:] = np.stack([coded_frame(n) for n in range(frames)])
    return path


def chunk_of(path: Path, n: int) -> Path:
    return next(p for p in (path / f"c/{n}/0/0/0", path / f"{n}.0.0.0") if p.exists())


def metadata(path: Path, **changes) -> None:
    file = next(p for p in (path / "zarr.json", path / ".zarray") if p.exists())
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
def test_zarr_codecs_that_run_code(tmp_path):
    # Within a shard, and in the index of its chunks.
    for place in ("codecs", "index_codecs"):
        plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
        inner = {"chunk_shape": [1, 64, 96, 3], "codecs": plain, "index_codecs": plain}
        inner[place] = [{"name": "numcodecs.zfpy", "configuration": {}}]
        path = store(tmp_path / f"{place}.zarr")
        metadata(path, codecs=[{"name": "sharding_indexed", "configuration": inner}])
        refused(path, "is packed by 'zfpy'")
    path = store(tmp_path / "v.zarr", zarr_format=2, compressors=None)
    metadata(path, filters=[{"id": "pickle", "protocol": 5}])
    chunk_of(path, 0).write_bytes(
        b"cos\nsystem\n(Vtouch " + str(tmp_path).encode() + b"/started\ntR."
    )
    refused(path, "pickle")
    assert not (tmp_path / "started").exists()


def test_zarr_chunks_that_are_links_or_pipes(tmp_path):
    path = store(tmp_path / "v.zarr")
    secret = tmp_path / "secret"
    secret.write_bytes(chunk_of(path, 1).read_bytes())
    chunk_of(path, 2).unlink()
    (path / "c/2/0/0/0").symlink_to(secret)
    refused(path, "is no regular file")
    (path / "c/2/0/0/0").unlink()
    os.mkfifo(path / "c/2/0/0/0")
    refused(path, "is no regular file")
    other = store(tmp_path / "w.zarr")
    (other / "zarr.json").rename(secret)
    (other / "zarr.json").symlink_to(secret)
    refused(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [10**12, 64, 96, 3]},
        {"shape": [4, 10**6, 10**6, 3]},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**9, 64, 96, 3]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 64, 96, 3]}}},
        {"data_type": "string"},
        {"codecs": [{"name": "bytes"}, {"name": "nonsense"}]},
        {"shape": "none"},
        {"zarr_format": 9},
        {"node_type": "group"},
    ],
)
def test_zarr_metadata_that_lies(tmp_path, changes):
    path = store(tmp_path / "v.zarr")
    metadata(path, **changes)
    refused(path)


BOMB = """
import resource, sys
from flowrvs.errors import VideoError
from flowrvs.video import open_video
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with open_video(sys.argv[1]) as video:
        video.read(0, len(video))
except VideoError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def measured(path) -> tuple[str, int]:
    """Return what reading it in a process of its own says, and by how many MiB that grows."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True
    )
    line, grown = done.stdout.strip().split("\n")
    return line, int(grown)


def packed_zeros(codec: str, size: int) -> bytes:
    if codec == "lzma":
        stream = lzma.LZMACompressor(preset=0)
    else:
        stream = zlib.compressobj(9, wbits=31 if codec == "gzip" else 15)
    return b"".join(stream.compress(bytes(10**7)) for _ in range(size // 10**7)) + stream.flush()


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc", "lzma"])
def test_zarr_chunks_that_unpack_to_gigabytes(tmp_path, codec):
    packer = numcodecs.get_codec({"id": codec})
    path = store(tmp_path / "v.zarr", zarr_format=2, compressors=packer)
    if codec in ("gzip", "lzma"):
        data = packed_zeros(codec, 2 * 10**8 if codec == "lzma" else 10**9)
    else:
        data = packer.encode(np.zeros(10**9, np.uint8))
    chunk_of(path, 1).write_bytes(data)
    line, grown = measured(path)
    assert "array allows" in line and grown < 150


def test_zarr_frames_of_very_many_chunks(tmp_path):
    path = store(tmp_path / "v.zarr")
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1, 3]}}
    metadata(path, shape=[4, 1000, 1000, 3], chunk_grid=grid)
    refused(path, "too many chunks")
    metadata(path, shape=[4, 10**6, 48, 3])
    refused(path)
    zarr.create_array(tmp_path / "l.zarr", shape=(70_000, 2, 2), chunks=(1, 2, 2), dtype="u1")
    with open_video(tmp_path / "l.zarr") as video:
        assert len(video) == 70_000  # an hour may have as many, of one chunk each


@pytest.mark.parametrize(
    ("flags", "header", "size"),
    [
        (0x20, b"\x05", 5),
        (0x60, (700).to_bytes(2, "little"), 700),
        (0x80, b"\x58" + (10**6).to_bytes(4, "little"), 10**6),
        (0xA3, b"dict" + (7).to_bytes(4, "little"), 7),
        (0xC1, b"\x58d" + (10**9).to_bytes(8, "little"), 10**9),
        (0x00, b"\x58" + bytes(9), 15 * 2**15),  # it does not say: as it can grow to
    ],
)
def test_what_zstd_says_of_its_size(flags, header, size):
    """RFC 8878: window, dictionary and size are of the widths that the flags say."""
    data = b"\x28\xb5\x2f\xfd" + bytes([flags]) + header
    assert unpacked_size("zstd", data, 100) == size


@pytest.mark.parametrize(
    ("codec", "pack"),
    [
        ("gzip", gzip.compress),
        ("zlib", zlib.compress),
        ("zlib", gzip.compress),
        ("bz2", bz2.compress),
        ("lzma", lzma.compress),
    ],
)
def test_what_a_packed_chunk_gives_is_counted_up_to_a_limit(codec, pack):
    data = pack(bytes(3 * 2**20))
    assert unpacked_size(codec, data, 3 * 2**20) == 3 * 2**20
    assert 2**20 < unpacked_size(codec, data, 2**20) < 3 * 2**20, "no more than needs be"
    assert unpacked_size(codec, data[: len(data) * 3 // 4], 2**21) < 3 * 2**20  # cut off
    assert unpacked_size(codec, b"no such thing", 10) == 0
    # Of deflate alone it is known how much can come of so few bytes: bz2 may give 70000 for one.
    known = codec in ("gzip", "zlib")
    limit = 1032 * len(data)
    assert (unpacked_size(codec, data, limit) == 0) == known
    assert unpacked_size(codec, data, limit - 1) >= min(limit, 3 * 2**20)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
def test_a_small_chunk_of_bz2_that_unpacks_to_megabytes(tmp_path):
    path = store(tmp_path / "v.zarr", zarr_format=2, compressors=numcodecs.BZ2())
    chunk_of(path, 1).write_bytes(bz2.compress(bytes(8 * 2**20)))
    assert chunk_of(path, 1).stat().st_size < 100
    refused(path, "unpacks to more than its array allows")


@pytest.mark.parametrize(
    ("codec", "pack"), [("gzip", gzip.compress), ("bz2", bz2.compress), ("lzma", lzma.compress)]
)
def test_streams_that_follow_each_other_in_a_chunk_are_counted_together(codec, pack):
    packed = pack(bytes(2 * 2**20))
    assert unpacked_size(codec, pack(b"") + packed + packed, 5 * 2**20) in (0, 4 * 2**20)
    assert unpacked_size(codec, pack(b"") + packed + packed, 3 * 2**20) > 3 * 2**20
    assert unpacked_size(codec, packed + b"other bytes", 2**20) > 2**20
    assert unpacked_size(codec, 65 * pack(b""), 9) == 10, "nobody packs a chunk in so many"


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_shard_that_is_read_whole_is_counted_chunk_by_chunk(tmp_path, location):
    path = tmp_path / "v.zarr"
    options = {"chunks": (1, 32, 96, 3), "compressors": zarr.codecs.GzipCodec()}
    shards = {"shape": (1, 64, 96, 3), "index_location": location}
    store(path, shards=shards, **options)
    with open_video(path) as video:
        np.testing.assert_array_equal(video.read(1, 2)[0], coded_frame(1))
    shard = bytearray(chunk_of(path, 1).read_bytes())
    index, bomb = 2 * 16 + 4, gzip.compress(bytes(8 * 2**20))
    begin = 0 if location == "start" else len(shard) - index
    rows = np.frombuffer(bytes(shard[begin : begin + 32]), "<u8").copy()
    rows[:2] = 2**64 - 1  # the first chunk is not there
    rows[2:] = index if location == "start" else 1, len(bomb)
    head = rows.tobytes() + struct.pack("<I", google_crc32c.value(rows.tobytes()))
    chunk_of(path, 1).write_bytes(head + bomb if location == "start" else b"-" + bomb + head)
    refused(path, "unpacks to more than its array allows")


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not", "ignore:Combining a `sharding")
def test_chunks_that_are_packed_in_a_way_that_hides_their_size(tmp_path):
    path = store(tmp_path / "v.zarr", zarr_format=2, compressors=numcodecs.BZ2())
    metadata(path, filters=[{"id": "gzip", "level": 1}])
    refused(path, "is packed more than once")
    metadata(path, filters=None, compressor={"id": "lzma", "format": 3, "filters": [{"id": 33}]})
    refused(path, "is packed by 'raw lzma'")
    path = store(tmp_path / "s.zarr", shards=(1, 64, 96, 3), chunks=(1, 32, 96, 3))
    codecs = json.loads((path / "zarr.json").read_text())["codecs"]
    metadata(path, codecs=[*codecs, {"name": "crc32c"}])
    refused(path, "has shards of an unusual index")


def test_sizes_that_other_codecs_state():
    assert unpacked_size("lz4", (700).to_bytes(4, "little") + b"abc", 9) == 700
    assert unpacked_size("blosc", bytes(4) + (800).to_bytes(4, "little") + b"abc", 9) == 800
    assert unpacked_size("zstd", b"\x28\xb5\x2f\xfd", 9) == 0
    assert unpacked_size("zstd", b"\x28\xb5\x2f\xfe\x20\x05", 9) == 0
    assert unpacked_size("crc32c", bytes(10**5), 9) == 0
    assert unpacked_size("shuffle", b"\x28\xb5\x2f\xfd\x20\x05", 9) == 0, "not of zstd"


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"filters": [{"id": "delta", "dtype": "u1"}, {"id": "vlen-bytes"}]}, "vlen-bytes"),
        ({"compressor": {"id": "zfpy", "mode": 4}}, "zfpy"),
    ],
)
def test_codecs_that_are_not_known_are_named(tmp_path, changes, name):
    path = store(tmp_path / "v.zarr", zarr_format=2, compressors=None)
    metadata(path, **changes)
    assert name in refused(path)


def test_colours_that_cannot_be_converted_are_an_error_of_ours(tmp_path, monkeypatch):
    """A damaged ProRes header made FFmpeg refuse to convert what it had decoded."""
    with open_video(write_clip(tmp_path / "v.mp4", count=2)) as video:

        class Refusing:
            def reformat(self, *_, **__):
                raise av.error.OSError(95, "Operation not supported")

        video._source._local.formatter = Refusing()
        with pytest.raises(VideoError, match="Frame 1 of v.mp4 has no colours"):
            video.read(1, 2)
