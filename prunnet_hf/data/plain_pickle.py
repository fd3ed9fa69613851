"""Pickles of plain data, read by an interpreter of their few opcodes, in memory and time that the file's size bounds.

Unpickling calls whatever the file names. Here a file can name only what NumPy's arrays and numbers are pickled with,
and these names stand for functions of `plain_arrays`. And Python's reader builds whatever is described: a tuple
doubled 34 times, which takes hours to hash, or lists in lists until the process crashes.
"""

from __future__ import annotations

import os
import pickletools
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plain_arrays import CONSTRUCTORS, Constructor, PlainArray, PlainType, Refused

LARGEST_FILE = 64 * 2**20
"""In bytes. The ground truth of Oxford and Paris has under 2 MB; a million distractors would add 30 MB."""
DEEPEST = 32
"""So many lists, tuples and dicts may be inside each other."""
LONGEST_INTEGER = 1024
"""In bits. Integers of any length take long to print, also in an error."""
_VALUES_PER_BYTE = 10
"""Shared parts counted as often as they are met."""
_COPIES = 4
"""Bytes of all arrays together for each byte of the file: text of Python 2 is copied a few times."""
_SHOWN = 200
"""Letters of another error's message, which may hold half the file."""
_DAMAGE = (ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError)
"""What a file that is not a pickle, or a damaged one, makes this module and NumPy raise."""


def load_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of plain data, of any protocol, written by Python 2 or 3.

    Plain data are None, booleans, numbers, strings, bytes, lists, tuples and dicts with strings as keys, and NumPy's
    arrays and numbers except those of dates, of Python objects and of records. Strings of Python 2 are read as
    Latin-1.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a pickle, is damaged or too large, or names anything else. Nothing in it is
            executed.
    """
    state = Path(path).stat()
    if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_FILE:
        raise ValueError(
            f"{os.fspath(path)} must be a file of up to {LARGEST_FILE} bytes to be a pickle of plain data; it has "
            f"{state.st_size}, or is not a file. Download it again."
        )
    content = Path(path).read_bytes()
    try:
        return _Interpreter(len(content)).run(content)
    except Refused as refused:
        raise ValueError(
            f"{os.fspath(path)} contains {refused}, which plain data never does. Nothing was executed. Don't use this "
            "file: it may be an attack."
        ) from refused
    except _DAMAGE as error:
        raise ValueError(
            f"{os.fspath(path)} is not a sound pickle of plain data ({str(error)[:_SHOWN]}). Download it again."
        ) from error


class _Node:
    """A value on the interpreter's stack, and what is known of it.

    Attributes:
        depth: How many lists, tuples and dicts are inside each other here.
        weight: Number of values in it, counted as often as they are met.
        is_data: Whether it is not part of the description of an array.
        is_placed: Whether another value holds it; from then on it can't change, so depth and weight stay true.
    """

    __slots__ = ("depth", "is_data", "is_placed", "value", "weight")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.depth, self.weight, self.is_placed = 0, 1, False
        self.is_data = not isinstance(value, Constructor | PlainType)


_CONSTANTS = {"NONE": _Node(None), "NEWTRUE": _Node(True), "NEWFALSE": _Node(False)}
_IGNORED = frozenset({"PROTO", "FRAME"})
_REFUSED = {
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "the registered extension {}"),
    **dict.fromkeys(("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"), "an object outside of the file"),
    **dict.fromkeys(("EMPTY_SET", "ADDITEMS", "FROZENSET"), "a set"),
    **dict.fromkeys(("OBJ", "NEWOBJ", "NEWOBJ_EX"), "an object of a class"),
}


class _Interpreter:
    """A pickle's stack machine, for the opcodes of plain data.

    Args:
        size: The file's size in bytes.
    """

    def __init__(self, size: int) -> None:
        self.stack: list[_Node | None] = []  # None is a mark
        self.memo: dict[int, _Node] = {}
        self.most_values = _VALUES_PER_BYTE * (size + 100)
        self.free_bytes = _COPIES * (size + 100)

    def run(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        result = self._pop()
        _check_is_data([result])
        return result.value

    def _step(self, name: str, argument: Any) -> None:
        if name in _REFUSED:
            raise Refused(_REFUSED[name].format(argument))
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _STEPS:
            _STEPS[name](self)
        elif name in _MEMO_STEPS:
            _MEMO_STEPS[name](self, argument)
        elif name not in _IGNORED:
            self._push(_checked_value(argument))

    def _push(self, value: Any) -> None:
        self.stack.append(_Node(value))

    def _pop(self) -> _Node:
        node = self.stack.pop()
        if node is None:
            raise ValueError("a mark stands in the place of a value")
        return node

    def _pop_to_mark(self) -> list[_Node]:
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not None:
            place -= 1
        if place < 0:
            raise ValueError("a mark is missing")
        nodes = [node for node in self.stack[place + 1 :] if node is not None]
        del self.stack[place:]
        return nodes

    def _top(self) -> _Node:
        self.stack.append(node := self._pop())
        return node

    def _fill(self, node: _Node, parts: Sequence[_Node]) -> None:
        """Note that `node` holds `parts`."""
        for part in parts:
            part.is_placed = True
        if node.is_placed:
            raise Refused("a list or dict that changes after another one holds it")
        node.depth = max([node.depth, *(part.depth + 1 for part in parts)])
        node.weight += sum(part.weight for part in parts)
        if node.depth > DEEPEST:
            raise Refused(f"more than {DEEPEST} lists, tuples and dicts inside each other")
        if node.weight > self.most_values:
            raise Refused(f"parts that repeat until there are more than {self.most_values} values")

    def _tuple(self, parts: list[_Node]) -> None:
        node = _Node(tuple(part.value for part in parts))
        node.is_data = all(part.is_data for part in parts)
        self._fill(node, parts)
        self.stack.append(node)

    def _last(self, count: int) -> list[_Node]:
        return [self._pop() for _ in range(count)][::-1]

    def _extend(self, parts: list[_Node]) -> None:
        node = self._top()
        _check_is_data(parts)
        if type(node.value) is not list:
            raise TypeError("something is appended to what is not a list")
        self._fill(node, parts)
        node.value.extend(part.value for part in parts)

    def _update(self, parts: list[_Node]) -> None:
        node = self._top()
        _check_is_data(parts)
        keys = [part.value for part in parts[::2]]
        if type(node.value) is not dict or len(parts) % 2:
            raise TypeError("an item is set in what is not a dict, or its value is missing")
        if not all(type(key) is str for key in keys):
            raise Refused("a key that is not a string")
        self._fill(node, parts)
        node.value.update(zip(keys, (part.value for part in parts[1::2]), strict=True))

    def _list_of(self, parts: list[_Node]) -> None:
        self._push([])
        self._extend(parts)

    def _dict_of(self, parts: list[_Node]) -> None:
        self._push({})
        self._update(parts)

    def _get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def _put(self, place: int) -> None:
        self.memo[place] = self._top()

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(_constructor(module, name))

    def _instance(self, argument: str) -> None:
        self._global(argument)
        raise Refused("an object of a class")

    def _stack_global(self) -> None:
        module, name = self._last(2)
        self._push(_constructor(module.value, name.value))

    def _reduce(self) -> None:
        call, arguments = self._last(2)
        if not isinstance(call.value, Constructor) or type(arguments.value) is not tuple:
            raise TypeError("a call of what is not a function")
        result = call.value(*arguments.value)
        self._count(result)
        self._push(result)

    def _build(self) -> None:
        target, state = self._last(2)
        if not isinstance(target.value, PlainType | PlainArray | Constructor):
            raise Refused("a state of what has none")
        target.value.__setstate__(state.value)
        self._count(target.value)
        self.stack.append(target)

    def _count(self, value: Any) -> None:
        """Arrays copy their content, which a file may use any number of times."""
        if isinstance(value, np.ndarray | np.generic | bytes):
            self.free_bytes -= len(value) if isinstance(value, bytes) else value.nbytes
        if self.free_bytes < 0:
            raise Refused("arrays of many more bytes than the file has")


_STEPS: dict[str, Callable[[_Interpreter], Any]] = {
    "MARK": lambda machine: machine.stack.append(None),
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": lambda machine: machine._pop_to_mark(),
    "DUP": lambda machine: machine.stack.append(machine._top()),
    "EMPTY_LIST": lambda machine: machine._push([]),
    "EMPTY_DICT": lambda machine: machine._push({}),
    "EMPTY_TUPLE": lambda machine: machine._push(()),
    "TUPLE1": lambda machine: machine._tuple(machine._last(1)),
    "TUPLE2": lambda machine: machine._tuple(machine._last(2)),
    "TUPLE3": lambda machine: machine._tuple(machine._last(3)),
    "TUPLE": lambda machine: machine._tuple(machine._pop_to_mark()),
    "LIST": lambda machine: machine._list_of(machine._pop_to_mark()),
    "DICT": lambda machine: machine._dict_of(machine._pop_to_mark()),
    "APPEND": lambda machine: machine._extend(machine._last(1)),
    "APPENDS": lambda machine: machine._extend(machine._pop_to_mark()),
    "SETITEM": lambda machine: machine._update(machine._last(2)),
    "SETITEMS": lambda machine: machine._update(machine._pop_to_mark()),
    "MEMOIZE": lambda machine: machine._put(len(machine.memo)),
    "STACK_GLOBAL": _Interpreter._stack_global,
    "REDUCE": _Interpreter._reduce,
    "BUILD": _Interpreter._build,
}
_MEMO_STEPS: dict[str, Callable[[_Interpreter, Any], None]] = {
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Interpreter._get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Interpreter._put),
    "GLOBAL": _Interpreter._global,
    "INST": _Interpreter._instance,
}


def _constructor(module: Any, name: Any) -> Constructor:
    if (module, name) not in CONSTRUCTORS:
        shown = " ".join(f"{module}.{name}".split())
        raise Refused(f"the global {shown[:_SHOWN]}")
    return CONSTRUCTORS[module, name]


def _checked_value(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
        raise Refused(f"an integer of more than {LONGEST_INTEGER} bits")
    return value


def _check_is_data(nodes: Sequence[_Node]) -> None:
    if not all(node.is_data for node in nodes):
        raise Refused("a type or a function in the place of a value")
