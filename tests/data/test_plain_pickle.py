from __future__ import annotations

import builtins
import copyreg
import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.data import plain_arrays, plain_pickle
from prunnet_hf.data.plain_pickle import load_plain_pickle

PLAIN = {
    "names": ["all_souls_000013", "Notre-Dame-de-Chaillot é"],
    "numbers": (1, -(2**70), 0.5, True, None, b"\xff\x00"),
    "rows": [np.arange(5), np.array([7], dtype=np.uint16), np.array([]), np.array([], dtype=np.int32)],
    "tables": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(3)],
    "kinds": [np.array([1.5, -2.0], dtype=">f4"), np.array([True, False]), np.array([1 + 2j]), np.array(["ab", "c"])],
    "bytes": np.array([b"ab", b"c"]),
    "scalars": [np.float64(0.25), np.int32(-3), np.uint8(255), np.bool_(True), np.str_("é")],
}

# What Python 2 writes for {"name": "caf\xe9", "rows": np.array([1, 258], dtype="<i2")}: strings of bytes.
BY_PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04nameq\x02U\x04caf\xe9q\x03U\x04rowsq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\n"
    b"ndarray\nq\x06K\x00\x85q\x07U\x01bq\x08\x87q\tRq\n(K\x01K\x02\x85q\x0bcnumpy\ndtype\nq\x0cU\x02i2q\rK\x00K\x01"
    b"\x87q\x0eRq\x0f(K\x03U\x01<q\x10NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x11b\x89U\x04\x01\x00\x02\x01q\x12"
    b"tq\x13bu."
)


def load(tmp_path: Path, content: bytes):
    (tmp_path / "gnd.pkl").write_bytes(content)
    return load_plain_pickle(tmp_path / "gnd.pkl")


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype.newbyteorder("=")  # NumPy swaps bytes when it unpickles
        assert found.tolist() == expected.tolist()
    else:
        assert type(found) is type(expected)
        assert found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_plain_data_comes_back_by_any_protocol_and_numpy(tmp_path, protocol, module):
    content = pickle.dumps(PLAIN, protocol=protocol)
    if protocol < 4:  # names are written in full lines here, so that another length does no harm
        content = content.replace(b"numpy._core", module.encode())
    assert_same(load(tmp_path, content), PLAIN)


def test_strings_and_arrays_of_python_2_come_back(tmp_path):
    assert_same(load(tmp_path, BY_PYTHON_2), {"name": "café", "rows": np.array([1, 258], dtype="<i2")})


class Exploit:
    """Pickled as a call of a function with arguments, by any of the ways a pickle has."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(path) -> None:
    Path(path).touch()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {}",), rf"{os.system.__module__}\.system"),
        (builtins.eval, ("open({!r}, 'w')",), r"(__builtin__|builtins)\.eval"),
        (builtins.getattr, (os, "system"), r"(__builtin__|builtins)\.getattr"),
        (functools.partial, (touch, "{}"), r"functools\.partial"),
        (np.load, ("{}",), r"numpy\.load"),
        (np.fromfile, ("{}",), r"numpy.*fromfile"),
        (copyreg._reconstructor, (list, object, None), r"(copy_reg|copyreg)\._reconstructor"),
        (bytearray, (10**12,), r"(__builtin__|builtins)\.bytearray"),
    ],
)
def test_code_is_named_and_not_executed(tmp_path, protocol, function, arguments, named):
    victim = tmp_path / "executed"
    filled = tuple(part.format(str(victim)) if isinstance(part, str) else part for part in arguments)
    filled = tuple("os" if part is os else part for part in filled)
    exploit = pickle.dumps({"imlist": [], "gnd": Exploit(function, *filled)}, protocol=protocol)
    with pytest.raises(ValueError, match=rf"gnd\.pkl.*global {named},.*Nothing.*executed"):
        load(tmp_path, exploit)
    assert not victim.exists()


NDARRAY, RECONSTRUCT = b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"
EMPTY = RECONSTRUCT + b"(" + NDARRAY + b"(K\x00tU\x01btR"
INT8 = b"cnumpy\ndtype\n(U\x02i8K\x00K\x01tR"


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"cposix\nsystem\n(U\x04truetR.", r"global posix\.system"),
        (b"(U\x04trueiposix\nsystem\n.", r"global posix\.system"),
        (b"(cposix\nsystem\nU\x04trueo.", r"global posix\.system"),
        (b"\x80\x02cbuiltins\nobject\n)\x81.", r"global builtins\.object"),
        (b"\x80\x04\x8c\x15numpy.core.multiarray\x94\x8c\x18_reconstruct.__globals__\x93.", r".*__globals__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", r"global numpy\.ndarray\.__init__"),
        (b"cnumpy\nload\n.", r"global numpy\.load"),
        (b"cos\n__builtins__\n.", r"global os\.__builtins__"),
        (b"Pfile\n.", "object outside"),
        (b"K\x01Q.", "object outside"),
        (b"\x80\x02\x82\x01.", "registered extension 1"),
        (b"\x80\x02\x83\x01\x01.", "registered extension 257"),
        (b"\x80\x02\x84\x01\x00\x00\x01.", "registered extension 16777217"),
        # A state for what stands for NumPy's functions, by which a class or a function would be altered.
        (NDARRAY + b"}U\x01aK\x01sb.", r"change.*package"),
        (RECONSTRUCT + b"N}U\x0c__defaults__)s\x86b.", r"change.*package"),
        (RECONSTRUCT + b"(" + RECONSTRUCT + b"(K\x00tU\x01btR.", r"array.*class"),
        (b"c_codecs\nencode\n(U\x01aU\x05rot13tR.", r"encoding.*bytes"),
        (b"cnumpy\ndtype\n(U\x01OK\x00K\x01tR.", r"array.*dates, Python objects.*records"),
        (b"cnumpy\ndtype\n(U\x0aO,i8,(9)i8K\x00K\x01tR.", r"array.*dates, Python objects.*records"),
        (b"cnumpy\ndtype\n(U\x03V16K\x00K\x01tR.", r"array.*dates, Python objects.*records"),
        (INT8 + b"(K\x03U\x01<NU\x01a}K\x08K\x01K\x00tb.", r"array.*records"),
        (EMPTY + b"(K\x01(K\x02t" + INT8 + b"\x89U\x08aaaaaaaatb.", r"array.*size.*8 bytes"),
        (EMPTY + b"(K\x01(J\xff\xff\xff\xfft" + INT8 + b"\x89U\x00tb.", r"array.*shape"),
        (EMPTY + b"(K\x01(K\x01t" + INT8 + b"\x89]tb.", r"array.*content.*bytes"),
        (EMPTY + b"(K\x01(K\x01tU\x02i8\x89U\x08aaaaaaaatb.", r"array.*content.*bytes"),
        (
            b"cnumpy._core.numeric\n_frombuffer\n(J\xff\xff\xff\x7f" + INT8 + b"(K\x01tU\x01CtR.",
            r"array.*content.*bytes",
        ),
        (b"cnumpy.core.multiarray\nscalar\n(" + INT8 + b"U\x04aaaatR.", r"array.*size.*4 bytes"),
    ],
)
def test_what_no_plain_data_asks_for_is_refused(tmp_path, content, asked):
    with pytest.raises(ValueError, match=rf"gnd\.pkl.*{asked}"):
        load(tmp_path, content)


DOUBLED = b"K\x01" + b"2\x86" * 34
BY_SIZE = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(J\xff\xff\xff\x07tcnumpy\ndtype\n"
)
U0 = BY_SIZE + b"(U\x02U0K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x00tb."
EMPTY_ROWS = EMPTY + b"(K\x01(J\xff\xff\xff\x07K\x00t" + INT8 + b"\x89U\x00tb."
ENCODED = b"\x80\x02]q\x00(X\x00\x10\x00\x00" + b"a" * 4096 + b"q\x010" + b"c_codecs\nencode\nq\x020"


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"\x80\x02}" + DOUBLED + b"K\x00s.", "parts that repeat"),  # as a key, it would be hashed for hours
        (b"\x80\x02]" + DOUBLED + b"a.", "parts that repeat"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "32 lists, tuples and dicts inside"),
        (b"\x80\x02" + b"K\x01" + b"\x85" * 100_000 + b".", "32 lists, tuples and dicts inside"),
        (b"\x80\x02]q\x00h\x00a.", "list or dict that changes after"),
        (b"\x80\x02]q\x00\x85h\x00K\x01a.", "list or dict that changes after"),
        (b"\x80\x02}K\x01K\x02s.", "key that is not a string"),
        (b"\x80\x02}K\x01\x85K\x02s.", "key that is not a string"),
        (U0, r"array of dates, Python objects"),
        (EMPTY_ROWS, "array without elements.*10000"),
        (ENCODED + b"h\x02h\x01U\x06latin1\x86R0" * 5 + b".", "arrays of many more bytes"),
        (b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".", "integer of more than 1024 bits"),
        (b"\x80\x04\x8f.", "a set"),
        (pickle.dumps(np.array(["ab"])).replace(b"b\0\0\0", b"b\0\0\x7f"), "text of characters that don't exist"),
        (b"\x80\x05\x97.", "object outside"),
        (NDARRAY + b".", "type or a function in the place of a value"),
        (b"]" + INT8 + b"a.", "type or a function in the place of a value"),
        (b"(inumpy\nndarray\n.", "object of a class"),
    ],
)
def test_what_would_take_hours_or_all_memory_is_refused(tmp_path, content, asked):
    with pytest.raises(ValueError, match=rf"gnd\.pkl contains .*{asked}.*Nothing was executed"):
        load(tmp_path, content)


def test_shared_parts_and_long_lists_are_plain_data(tmp_path):
    shared = [1, 2, 3]
    content = {"all": [shared] * 50, "names": [f"{number:06d}" for number in range(5000)], "deep": [[[[[({},)]]]]]}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(load(tmp_path, pickle.dumps(content, protocol=protocol)), content)


def test_what_is_no_file_or_too_large_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    with (tmp_path / "huge.pkl").open("wb") as file:
        file.truncate(plain_pickle.LARGEST_FILE + 1)
    for name in ("pipe.pkl", "huge.pkl"):
        with pytest.raises(ValueError, match=rf"{name} must be a file of up to 67108864 bytes.*Download"):
            load_plain_pickle(tmp_path / name)


@pytest.mark.parametrize("place", [b"r\xff\xff\xff\xff", b"p99999999999\n"])
def test_far_places_take_no_memory(tmp_path, place):
    # The unpickler would make room for 8 bytes times 2 ** 32 or more.
    assert load(tmp_path, b"N" + place + b".") is None


def test_frame_that_ends_too_early_does_no_harm(tmp_path):
    content = pickle.dumps(PLAIN, protocol=5)
    assert content[2:3] == pickle.FRAME
    for length in range(1, len(content) - 11, 5):
        assert_same(
            load(tmp_path, content[:3] + length.to_bytes(8, "little") + content[11:])["scalars"], PLAIN["scalars"]
        )


def test_registered_extension_is_refused_even_if_it_was_used_before(tmp_path):
    copyreg.add_extension("posix", "getpid", 240)
    try:
        content = pickle.dumps(os.getpid, protocol=2)
        assert pickle.loads(content) is os.getpid
        with pytest.raises(ValueError, match="registered extension 240"):
            load(tmp_path, content)
    finally:
        copyreg.remove_extension("posix", "getpid", 240)


def test_arrays_of_objects_are_refused(tmp_path):
    for content in (np.array([{}, []], dtype=object), np.zeros(2, dtype="i4,f8"), np.zeros(2, dtype="M8[s]")):
        with pytest.raises(ValueError, match=r"array.*dates, Python objects.*records"):
            load(tmp_path, pickle.dumps(content))


def classes() -> dict[str, dict[str, object]]:
    modules = [*vars(plain_pickle).items(), *vars(plain_arrays).items()]
    return {name: vars(value).copy() for name, value in modules if isinstance(value, type)}


def test_refused_files_leave_the_reader_as_it_was(tmp_path):
    before = classes()
    for target in (NDARRAY, RECONSTRUCT, INT8, EMPTY, b"cnumpy\ndtype\n"):
        for name in (b"__defaults__", b"_call", b"__class__", b"dtype"):
            with pytest.raises(ValueError, match=r"gnd\.pkl"):
                load(tmp_path, target + b"N}U" + bytes([len(name)]) + name + b"Ns\x86b.")
    assert classes() == before
    assert_same(load(tmp_path, BY_PYTHON_2)["rows"], np.array([1, 258], dtype="<i2"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"no pickle",
        b"<html>Not Found</html>",
        b"\x80\x63.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
)
def test_what_is_no_pickle_is_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"gnd\.pkl.*sound pickle.*plain data"):
        load(tmp_path, content)


def test_every_truncated_pickle_is_named(tmp_path):
    content = pickle.dumps({"a": [1, "x"], "b": np.arange(3)}, protocol=2)
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"gnd\.pkl.*sound pickle.*plain data.*Download.*again"):
            load(tmp_path, content[:length])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gnd\.pkl"):
        load_plain_pickle(tmp_path / "gnd.pkl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@given(st.data())
def test_damaged_pickles_give_data_or_a_value_error(folder, data):
    protocol = data.draw(st.sampled_from([0, 2, 4, 5]))
    content = bytearray(pickle.dumps([{"a": np.arange(3), "b": (1.5, None)}, np.float32(2), "x"], protocol=protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    shown = "gnd.pkl"
    try:
        load(folder, bytes(content))
    except ValueError as error:
        shown = str(error)
    assert "gnd.pkl" in shown
