"""What a tracker of the SAM 2 family remembers of a video, here and in a file."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import safetensors.torch
import torch
from safetensors import SafetensorError

from flowrvs.disk import parse_json
from flowrvs.errors import InputError

__all__ = ["Memory"]

#: What of a network's outputs a memory keeps in a file, and the note that tells damage. Where a
#: feature lies in the picture (``maskmem_pos_enc``) is the same on all frames.
_KEPT = {"object_pointer", "maskmem_features"}
_SUM, _METADATA = "crc32", "__metadata__"
_NAME = re.compile(r"(\d{1,9})/(\d{1,9})/(object_pointer|maskmem_features)", re.ASCII)


@dataclass(slots=True, eq=False)
class Memory:
    """What a tracker remembers of the frames it answered last: enough to go on from there.

    `Sam2Tracker.follow` fills and prunes the one that it is given. It does not grow: per object
    six frames' features and fifteen short vectors with the published models (3 MiB; 6 MiB with the
    features' places, which are not kept on the disk).

    Attributes
    ----------
    frames : dict of int to dict of int to dict
        What the network stored, by object and frame.
    about : dict of str to str
        Notes that are kept with it.
    """

    frames: dict[int, dict[int, dict[str, torch.Tensor]]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Memory:
        """Return what is remembered now; the tensors are shared, and nothing changes them."""
        return Memory({key: dict(kept) for key, kept in self.frames.items()}, dict(self.about))

    def to_bytes(self) -> bytes:
        """Return a safetensors file of it, for `Sam2Tracker.recall`."""
        tensors = {
            f"{key}/{frame}/{name}": output[name].cpu().clone(memory_format=torch.contiguous_format)
            for key, kept in self.frames.items()
            for frame, output in kept.items()
            for name in _KEPT & set(output)
        }
        about = {**self.about, _SUM: _checksum(tensors, self.about)}
        return safetensors.torch.save(tensors, about)

    @classmethod
    def from_bytes(cls, data: bytes, blank: Mapping[str, torch.Tensor]) -> Memory:
        """Return what `to_bytes` has made a file of.

        Parameters
        ----------
        data : bytes
            Perhaps damaged, perhaps of somebody who means harm.
        blank : mapping of str to Tensor
            What the network remembers of a frame: of the same shapes and dtypes on its device.

        Raises
        ------
        InputError
            It is damaged, or of a network of another kind.
        """
        try:
            tensors = safetensors.torch.load(data)
            about = dict(parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])[_METADATA])
            if about.pop(_SUM) != _checksum(tensors, about):
                raise ValueError("damaged")
            memory = cls(about=about)
            for name, tensor in tensors.items():
                key, frame, kind = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
                like = blank[kind]
                if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
                    raise ValueError("of another network")
                if not tensor.isfinite().all():
                    raise ValueError("no numbers")
                output = memory.frames.setdefault(int(key), {}).setdefault(int(frame), {})
                output[kind] = tensor.to(like.device)
                if kind == "maskmem_features":
                    output["maskmem_pos_enc"] = blank["maskmem_pos_enc"]
            for kept in memory.frames.values():
                if not all("object_pointer" in output for output in kept.values()):
                    raise ValueError("incomplete")
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError("It is no memory of this tracker, or damaged.") from error
        return memory


def _checksum(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    total = zlib.crc32(repr(sorted(about.items())).encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensor.flatten().view(torch.uint8).numpy(), total)
    return f"{total:08x}"
