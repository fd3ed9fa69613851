"""Pickles of plain data, read without running any other code that they name.

Unpickling calls whatever the file names. Here a file can name only what NumPy's arrays and numbers are pickled with,
and these names stand for functions of this module, which check their arguments. NumPy's own functions don't: with them
a file could describe an array that reads memory beyond its end.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_TYPE_CODE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6}", re.ASCII)
_EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
)
"""What the unpickler raises on damaged files, found by damaging files."""


def load_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of plain data, of any protocol, written by Python 2 or 3.

    Plain data are None, booleans, numbers, strings, bytes, lists, tuples and dicts, and NumPy's arrays and numbers
    except those of dates, of Python objects and of records. Strings of Python 2 are read as Latin-1.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a pickle, is damaged, or names anything else. Nothing in it is executed.
    """
    content = Path(path).read_bytes()
    try:
        _refuse_extensions(content)
        # Written again, because wrong frame lengths and memo numbers make CPython's reader fail or fill the memory.
        sound = pickletools.optimize(content)
        return _PlainUnpickler(io.BytesIO(sound), encoding="latin1").load()
    except _Refused as refused:
        raise ValueError(
            f"{os.fspath(path)} contains {refused}, which plain data never does. Nothing was executed. Don't use this "
            "file: it may be an attack."
        ) from refused
    except _DAMAGE as error:
        raise ValueError(
            f"{os.fspath(path)} is not a sound pickle of plain data ({error}). Download it again."
        ) from error


class _Refused(pickle.UnpicklingError):
    """What a file names and doesn't get."""


def _refuse_extensions(content: bytes) -> None:
    """Refuse classes registered by number, which the unpickler may return without calling `find_class`."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _EXTENSIONS:
            raise _Refused(f"the registered extension {argument}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CONSTRUCTORS:
            raise _Refused(f"the global {module}.{name}")
        return _CONSTRUCTORS[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("an object outside of the file")


class _Constructor:
    """A function that a file can call but not change, as it could change functions and classes."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refused("a change of this package")


class _PlainType:
    """What a pickled dtype becomes: a code like `i8`, and a byte order that its state adds."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or not _TYPE_CODE.fullmatch(code):
            raise _Refused("an array of dates, Python objects or records")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or not subarray is names is fields is None:
            raise _Refused("an array of records")
        self.dtype = self.dtype.newbyteorder(order)


class _PlainArray(np.ndarray[Any, Any]):
    """An array that takes its content from a file only if shape, type and number of bytes agree."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        _check_content(shape, kind, content)
        # NumPy's stub wants a NumPy bool, its code a Python bool.
        super().__setstate__((1, shape, kind.dtype, bool(is_fortran), content))  # type: ignore[arg-type]


def _check_content(shape: Any, kind: Any, content: Any) -> None:
    if not isinstance(kind, _PlainType) or not isinstance(content, bytes):
        raise _Refused("an array whose content isn't bytes")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise _Refused("an array without a proper shape")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise _Refused(f"an array of another size than the {len(content)} bytes it comes with")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _PlainArray:
    """An array to be filled by its state."""
    if kind is not _NDARRAY:
        raise _Refused("an array of another class")
    return np.empty(0, np.uint8).view(_PlainArray)


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _PlainArray:
    """An array of pickle protocol 5."""
    if not isinstance(content, bytes | bytearray):
        raise _Refused("an array whose content isn't bytes")
    array = np.empty(0, np.uint8).view(_PlainArray)
    array.__setstate__((1, shape, kind, order == "F", bytes(content)))
    return array


def _scalar(kind: Any, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    _check_content((), kind, content)
    return np.frombuffer(content, kind.dtype)[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("an encoding of bytes that Python never writes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_NDARRAY = _Constructor(_reconstruct)
_CONSTRUCTORS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Constructor(_PlainType),
    ("_codecs", "encode"): _Constructor(_encode),
    ("__builtin__", "bytes"): _Constructor(_no_bytes),
    **{
        (f"numpy.{core}.{module}", name): _Constructor(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
"""What pickled arrays and numbers name, in NumPy 1 and 2, and what stands for it here."""
