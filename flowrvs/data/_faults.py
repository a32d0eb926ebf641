"""The faults that `flowrvs check` knows: what they are called, and whether they are repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["FAULTS", "Finding"]

FAULTS: Mapping[str, str] = {
    # the files
    "bad-json": "A file is not readable JSON",
    "byte-order-mark": "A file begins with a byte order mark, which most loaders refuse",
    "repeated-key": "A key is there twice, so that loaders see the last one only",
    "no-videos": "There are no videos",
    "no-masks-file": "Sentences refer to masks, but mask_dict.json is missing",
    "leftover": "A killed export left something behind",
    # names
    "unsafe-name": "A name leads outside its folder or cannot be a file name",
    "same-name": "Names differ in case only, so that some disks mix them up",
    "link-outside": "A link leads outside the split",
    # videos and frames
    "bad-video": "A video lacks its frames or expressions",
    "no-frames": "A video lists no frames",
    "repeated-frame": "A frame is listed twice",
    "unsorted-frames": "Frames are not sorted: loaders sort them, and masks would shift",
    "uneven-names": "Frame numbers have different widths, so that they sort wrongly",
    "no-first-frame": "Frame numbers do not begin with 00000",
    "gap-in-frames": "Frame numbers leave some out",
    "no-folder": "The folder of a video is missing",
    "missing-frame": "Listed frames are missing",
    "unlisted-frame": "There are pictures that are not listed",
    "not-jpg": "Frames do not end in .jpg, which loaders look for",
    "bad-picture": "A frame is not a readable picture",
    "cut-picture": "A frame is cut off",
    "frame-size": "Frames of one video have different sizes",
    "unlisted-video": "A folder belongs to no video",
    # sentences
    "no-sentences": "A video has no sentences",
    "bad-sentence": "An expression has no text",
    "empty-sentence": "A sentence is empty",
    "loose-sentence": "A sentence has white space at its ends or line breaks in it",
    "repeated-sentence": "A video has the same sentence twice",
    "bad-ids": "obj_id and anno_id are no lists of whole numbers",
    "null-ids": "obj_id or anno_id is null, where loaders want []",
    "uneven-ids": "obj_id and anno_id are not parallel",
    "repeated-id": "An anno_id is listed twice in one sentence",
    "dangling-id": "A sentence refers to masks that are not there",
    "foreign-id": "Videos share masks",
    "two-objects": "One anno_id goes by several obj_ids",
    # masks
    "bad-key": "A key of mask_dict.json is no whole number",
    "unused-masks": "No sentence refers to some masks",
    "bad-masks": "Masks are no list",
    "mask-count": "Masks and frames differ in number",
    "not-null": "An absent mask is written as something else than null, on which loaders fail",
    "bad-rle": "A mask is no valid RLE",
    "plain-rle": "A mask is an uncompressed RLE, which loaders cannot decode",
    "empty-rle": "An absent mask is written as an RLE without pixels",
    "turned-rle": "A mask has its width and height swapped",
    "mask-size": "A mask has another size than its frames",
    "never-seen": "An object is seen on no frame",
    "same-masks": "The same masks are stored twice",
    "overlap": "Objects overlap",
    # pictures of masks
    "not-binary": "A mask picture holds other values than 0 and 255",
    "mask-picture": "A mask picture is missing, unreadable or of another size",
}
"""Every fault by its name, in the words of a report."""

FIXED: frozenset[str] = frozenset(
    (
        "byte-order-mark leftover loose-sentence null-ids repeated-id not-null plain-rle empty-rle"
    ).split()
)
"""Those that ``--fix`` repairs: none of them changes what a mask or a sentence means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes
    ----------
    severity : {"error", "warning"}
        An error breaks a loader or the scores; a warning looks like a slip.
    file : str
        Where, relative to the split's folder.
    key : str
        Which entry of the file: ``video/exp_id``, ``anno_id 17 frame 3``, ...
    problem : str
        What is wrong.
    remedy : str
        What to do about it.
    code : str
        The fault's name, a key of `FAULTS`.
    """

    severity: Literal["error", "warning"]
    file: str
    key: str
    problem: str
    remedy: str
    code: str = ""

    @property
    def fixable(self) -> bool:
        """True when ``flowrvs check --fix`` repairs it."""
        return self.code in FIXED

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.severity}: {self.file}:{key} {self.problem}; {self.remedy}"

    def to_dict(self) -> dict[str, str | bool]:
        """Return the finding as plain values."""
        return {**asdict(self), "fixable": self.fixable}
