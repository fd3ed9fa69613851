"""What pickled NumPy arrays, numbers and bytes become: built by functions that check every argument.

NumPy's own functions don't: with them a file could describe an array that reads memory beyond its end.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

_LONGEST_EMPTY = 10_000
"""How long an axis of an array without elements may be: as nested lists it would need memory that no file bounds."""
_TYPE_CODE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5}", re.ASCII)


class Refused(pickle.UnpicklingError):
    """What a file asks for and doesn't get."""


class Constructor:
    """A function that a file can call but not change, as it could change functions and classes."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise Refused("a change of this package")


class PlainType:
    """What a pickled dtype becomes: a code like `i8`, and a byte order that its state adds."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or not _TYPE_CODE.fullmatch(code):
            raise Refused("an array of dates, Python objects or records")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or not subarray is names is fields is None:
            raise Refused("an array of records")
        self.dtype = self.dtype.newbyteorder(order)


class PlainArray(np.ndarray[Any, Any]):
    """An array that takes its content from a file only if shape, type and number of bytes agree."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        _check_content(shape, kind, content)
        # NumPy's stub wants a NumPy bool, its code a Python bool.
        super().__setstate__((1, shape, kind.dtype, bool(is_fortran), content))  # type: ignore[arg-type]


def _check_content(shape: Any, kind: Any, content: Any) -> None:
    if not isinstance(kind, PlainType) or not isinstance(content, bytes):
        raise Refused("an array whose content isn't bytes")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise Refused("an array without a proper shape")
    if not content and max(shape, default=0) > _LONGEST_EMPTY:
        raise Refused(f"an array without elements that has axes longer than {_LONGEST_EMPTY}")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise Refused(f"an array of another size than the {len(content)} bytes it comes with")
    if kind.dtype.kind == "U" and content:
        points = np.frombuffer(content, np.dtype(np.uint32).newbyteorder(kind.dtype.byteorder))
        if int(points.max()) > sys.maxunicode:
            raise Refused("text of characters that don't exist")


def _reconstruct(kind: Any, shape: Any, code: Any) -> PlainArray:
    """An array to be filled by its state."""
    if kind is not _NDARRAY:
        raise Refused("an array of another class")
    return np.empty(0, np.uint8).view(PlainArray)


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> PlainArray:
    """An array of pickle protocol 5."""
    if not isinstance(content, bytes | bytearray):
        raise Refused("an array whose content isn't bytes")
    array = np.empty(0, np.uint8).view(PlainArray)
    array.__setstate__((1, shape, kind, order == "F", bytes(content)))
    return array


def _scalar(kind: Any, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    _check_content((), kind, content)
    return np.frombuffer(content, kind.dtype)[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("an encoding of bytes that Python never writes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_NDARRAY = Constructor(_reconstruct)
CONSTRUCTORS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Constructor(PlainType),
    ("_codecs", "encode"): Constructor(_encode),
    ("__builtin__", "bytes"): Constructor(_no_bytes),
    **{
        (f"numpy.{core}.{module}", name): Constructor(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
"""What pickled arrays and numbers name, in NumPy 1 and 2, and what stands for it here."""
