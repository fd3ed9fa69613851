"""Tars read as a stream: what is wanted, all of it, and nothing from a tar that isn't whole."""

from __future__ import annotations

import io
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunnet_hf.data.tar_stream import LARGEST_MEMBER, read_members
from tests.miniatures.gldv2 import write_tar

BLOCK = 512
FILES = {"0/1/2/first.jpg": b"a" * 700, "0/1/2/second.jpg": b"b" * 3, "f/f/f/third.jpg": b"c" * BLOCK}


def everything(name: str) -> bool:
    return True


def nothing(name: str) -> bool:
    return False


def write_members(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "0/1/2/first.jpg"
    return info


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "images_000.tar"
    write_tar(path, FILES)
    return path.read_bytes()


def test_members_come_whole_and_in_order(tmp_path):
    write_tar(tmp_path / "images_000.tar", FILES)
    assert list(read_members(tmp_path / "images_000.tar", everything)) == list(FILES.items())


def test_only_wanted_members_are_read(tmp_path):
    write_tar(tmp_path / "images_000.tar", FILES)
    wanted = read_members(tmp_path / "images_000.tar", lambda name: name.endswith("second.jpg"))
    assert list(wanted) == [("0/1/2/second.jpg", b"bbb")]
    assert list(read_members(tmp_path / "images_000.tar", nothing)) == []


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read(tmp_path, form):
    # A name over 100 letters, and one that is no ASCII, are what the formats write differently.
    names = [f"{'long/' * 25}é.jpg", "0/1/2/é.jpg"]
    with tarfile.open(tmp_path / "some.tar", "w", format=form) as archive:
        for name in names:
            archive.addfile(member(name, size=5), io.BytesIO(b"12345"))
    assert list(read_members(tmp_path / "some.tar", everything)) == [(name, b"12345") for name in names]


def test_folders_are_passed_over(tmp_path):
    # As `tar -cf images_000.tar .` writes them.
    members = [member(".", tarfile.DIRTYPE), member("./0", tarfile.DIRTYPE), member("./0/a.jpg", size=2)]
    path = write_members(tmp_path / "some.tar", *members)
    assert list(read_members(path, everything)) == [("./0/a.jpg", b"xx")]


def test_empty_tar_has_no_members(tmp_path):
    assert list(read_members(write_members(tmp_path / "some.tar"), everything)) == []


@pytest.mark.parametrize("wanted", [everything, nothing])
@pytest.mark.parametrize("block", range(9))
def test_tar_cut_in_any_block_is_refused(tmp_path, whole, block, wanted):
    # Header 0, data 1-2 | header 3, data 4 | header 5, data 6 | end 7-8; the rest is padding.
    assert whole[6 * BLOCK : 7 * BLOCK] == b"c" * BLOCK
    assert not any(whole[7 * BLOCK :])
    path = tmp_path / "images_000.tar"
    for cut in (0, 1, 3, BLOCK // 2, BLOCK - 1):
        path.write_bytes(whole[: block * BLOCK + cut])
        with pytest.raises(ValueError, match=r"images_000\.tar.*uncompressed tar"):
            list(read_members(path, wanted))


def test_padding_behind_the_end_is_not_needed(tmp_path, whole):
    (tmp_path / "images_000.tar").write_bytes(whole[: 9 * BLOCK])
    assert list(read_members(tmp_path / "images_000.tar", everything)) == list(FILES.items())


@pytest.mark.parametrize(("blocks", "complete"), [(2, 0), (3, 1), (4, 1), (5, 2), (7, 3), (8, 3)])
def test_what_is_whole_comes_before_the_error(tmp_path, whole, blocks, complete):
    path = tmp_path / "images_000.tar"
    path.write_bytes(whole[: blocks * BLOCK])
    read = []
    with pytest.raises(ValueError, match=r"cut short: compare.*checksum.*download.*again"):  # noqa: PT012
        for found in read_members(path, everything):
            read.append(found)
    assert read == list(FILES.items())[:complete]


@settings(max_examples=50)
# Bytes 148-155 are the sum of the others; of these, some carry nothing.
@given(
    place=st.integers(0, BLOCK - 1).filter(lambda place: place not in range(148, 156)),
    header=st.sampled_from([0, 3, 5]),
    byte=st.integers(0, 255),
)
def test_header_with_a_wrong_byte_is_refused(tmp_path_factory, whole, place, header, byte):
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    damaged = bytearray(whole)
    damaged[header * BLOCK + place] = byte
    path.write_bytes(damaged)
    is_harmless = byte == whole[header * BLOCK + place]
    with nullcontext() if is_harmless else pytest.raises(ValueError, match=r"damaged\.tar"):
        assert list(read_members(path, everything)) == list(FILES.items())


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\x1f\x8b" + bytes(2 * BLOCK)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "images_000.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"images_000\.tar.*uncompressed tar"):
        list(read_members(tmp_path / "images_000.tar", everything))


def test_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "some.tar", "w:gz") as archive:
        archive.addfile(member("a.jpg", size=2), io.BytesIO(b"xx"))
    with pytest.raises(ValueError, match="uncompressed tar"):
        list(read_members(tmp_path / "some.tar", everything))


@pytest.mark.parametrize("name", ["../a.jpg", "0/../../a.jpg", "/etc/a.jpg", "0\\..\\a.jpg"])
@pytest.mark.parametrize("wanted", [everything, nothing])
def test_name_that_leaves_the_folder_is_refused_even_unread(tmp_path, name, wanted):
    path = write_members(tmp_path / "some.tar", member(name, size=2))
    with pytest.raises(ValueError, match=r"some\.tar.*path inside.*attack"):
        list(read_members(path, wanted))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_link_or_device_is_refused_where_a_file_is_wanted(tmp_path, kind):
    path = write_members(tmp_path / "some.tar", member("0/1/2/a.jpg", kind), member("b.jpg", size=2))
    with pytest.raises(ValueError, match=r"some\.tar: '0/1/2/a\.jpg'.*link.*device.*file"):
        list(read_members(path, everything))
    assert list(read_members(path, lambda name: name == "b.jpg")) == [("b.jpg", b"xx")]


def header(name: str, kind: bytes, size: int) -> bytes:
    """A header with a size that tarfile itself would not write, and the checksum that fits."""
    block = bytearray(member(name, kind).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True) if size < 0 else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_file_with_holes_is_refused_as_it_may_have_any_size(tmp_path):
    hollow = member("a.jpg", size=1)
    hollow.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "1"}
    with tarfile.open(tmp_path / "some.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(hollow, io.BytesIO(b"x"))
    assert list(read_members(tmp_path / "some.tar", nothing)) == []
    with pytest.raises(ValueError, match=r"some\.tar: 'a\.jpg'.*holes.*not a plain file"):
        list(read_members(tmp_path / "some.tar", everything))


def test_member_larger_than_any_image_is_refused_unread(tmp_path):
    with (tmp_path / "some.tar").open("wb") as file:
        file.write(header("a.jpg", tarfile.REGTYPE, LARGEST_MEMBER + 1))
        file.truncate(2 * LARGEST_MEMBER)  # takes no room on disk
    with pytest.raises(ValueError, match=r"some\.tar: 'a\.jpg' has 268435457 bytes.*up to 268435456"):
        list(read_members(tmp_path / "some.tar", everything))


@pytest.mark.parametrize(
    ("blocks", "named"),
    [
        ([header("a.jpg", tarfile.REGTYPE, -1024), b"x" * BLOCK], "size of -1024 bytes"),
        ([header("a.jpg", tarfile.GNUTYPE_LONGNAME, 8**11 - 1), b"x" * BLOCK], "size of 8589934591 bytes"),
        ([header("a.jpg", tarfile.XHDTYPE, 65537), b"x" * 65 * 1024], "size of 65537 bytes"),
        ([header("a.jpg", tarfile.XGLTYPE, 8**11 - 1), b"x" * BLOCK], "size of 8589934591 bytes"),
        ([header("a.jpg", tarfile.XHDTYPE, 0)] * 2000, "recursion"),
        (
            [
                header("first.jpg", tarfile.REGTYPE, 0),
                header("pax", tarfile.XHDTYPE, 14),
                b"14 size=-1536\n".ljust(BLOCK, b"\0"),
                header("a.jpg", tarfile.REGTYPE, 0),
            ],
            "circle",
        ),
    ],
)
@pytest.mark.parametrize("wanted", [everything, nothing])
def test_header_that_would_fill_the_memory_or_lead_in_circles_is_refused(tmp_path, blocks, named, wanted):
    (tmp_path / "some.tar").write_bytes(b"".join(blocks) + bytes(2 * BLOCK))
    with pytest.raises(ValueError, match=rf"some\.tar is not a whole.*({named}).*download it again"):
        list(read_members(tmp_path / "some.tar", wanted))


def test_missing_tar_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images_000\.tar"):
        list(read_members(tmp_path / "images_000.tar", everything))
