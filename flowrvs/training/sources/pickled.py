"""Read the pickles in which RefCOCO's sentences come, without running what is in them.

``refs(unc).p`` and its like hold lists, dictionaries, texts and numbers only. Everything else
in a pickle (classes, functions, persistent ids, buffers) is refused before any of it is read,
and so are memo numbers that would make the reader reserve memory for what the file has not.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from flowrvs.disk import read_regular
from flowrvs.errors import DatasetError

__all__ = ["read_plain_pickle"]

_LIMIT = 256 * 2**20

#: What plain containers, texts and numbers are written with, in all protocols.
_PLAIN = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    """.split()
)


class _Plain(pickle.Unpickler):
    """Knows no classes; the opcodes were looked at before."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it has persistent ids")


def read_plain_pickle(path: Path) -> Any:
    """Return what a pickle of plain values holds.

    Raises
    ------
    MissingPathError
        There is no such file.
    DatasetError
        It is no pickle, damaged, too large, or holds anything but plain values.
    """
    data = read_regular(path, _LIMIT)
    count = 0
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(data), 1):
            if code.name not in _PLAIN:
                what = f" {str(argument)[:60]!a}" if argument is not None else ""
                raise DatasetError(
                    f"{path} is refused: its pickle would do {code.name}{what}, which sentences "
                    "do not need; get the file from its authors."
                )
            if code.name.endswith("PUT") and int(argument or 0) > count:
                raise DatasetError(f"{path} is refused: its pickle is malformed.")
        return _Plain(io.BytesIO(data), encoding="latin1").load()
    except DatasetError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise DatasetError(f"{path} is no readable pickle ({reason}); copy it again.") from None
