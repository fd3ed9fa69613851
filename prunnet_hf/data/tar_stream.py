"""Tar files read from front to back without extraction; what was cut short, or describes too much, is refused."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .official_files import join_inside

LARGEST_MEMBER = 256 * 2**20
"""In bytes; a member is read into memory, and images are far smaller."""
LARGEST_HEADER = 64 * 2**10
"""In bytes: what extends a header, with long names and other records, is read into memory too."""
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


def read_members(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of an uncompressed tar, in its order; the bytes of others are skipped.

    Args:
        path: The tar.
        is_wanted: Whether to read the member of this name.

    Yields:
        Name and content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the tar is damaged or cut short (even if only the blocks that mark its end are missing), if a
            member's name leaves the folder, or if a wanted member is not a regular file, is stored with holes, or is
            too large.
    """
    with path.open("rb") as file:
        with _opened(file, path) as archive:
            for member in _members(archive, path):
                if _is_file(member, path) and is_wanted(member.name):
                    yield member.name, _content(archive, member, path)
        with _naming(path):
            _check_end(file)


class _Header(tarfile.TarInfo):
    """A member's header. Sizes are checked as soon as they are read, because tarfile trusts them."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Parse a block.

        Raises:
            ValueError: If a size is negative, or an extension is larger than any in use.
        """
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > LARGEST_HEADER):
            raise ValueError(f"a header tells a size of {header.size} bytes")
        return header


def _opened(file: BinaryIO, path: Path) -> tarfile.TarFile:
    with _naming(path):
        # Mode "r|" reads unwanted members too, and took three to four times as long even for wanted ones.
        return tarfile.open(fileobj=file, mode="r:", tarinfo=_Header)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn any error of tarfile into one that names the tar: damage makes it raise nearly anything.

    Only tarfile runs inside. What says nothing of the file passes through.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        shown = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is not a whole, uncompressed tar ({shown}). It is damaged or was cut short: compare its "
            "checksum, and download it again."
        ) from error


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members one by one; only one of them is kept in memory."""
    place = -1
    while True:
        with _naming(path):
            member = archive.next()
            archive.members.clear()  # type: ignore[attr-defined]
            if member is not None and (member.offset <= place or member.size < 0):
                raise tarfile.ReadError("its headers lead in a circle")
        if member is None:
            return
        place = member.offset
        yield member


def _is_file(member: tarfile.TarInfo, path: Path) -> bool:
    """Whether a member is not a folder; refuses names that lead out of the tar's folder."""
    if member.name != ".":
        join_inside(path.parent, member.name, where=str(path))
    return not member.isdir()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if not member.isreg() or member.issparse():
        raise ValueError(
            f"{path}: {member.name!r} is a link, a device, or stored with holes, not a plain file. Don't use this tar."
        )
    if member.size > LARGEST_MEMBER:
        raise ValueError(
            f"{path}: {member.name!r} has {member.size} bytes; an image may have up to {LARGEST_MEMBER}. Don't use "
            "this tar."
        )
    with _naming(path):
        reader = archive.extractfile(member)
        return b"" if reader is None else reader.read()


def _check_end(file: BinaryIO) -> None:
    """Refuse a tar that doesn't end in two blocks of zeros. The first of them has just been read.

    tarfile takes any header that is missing, short or invalid for the end.
    """
    file.seek(-tarfile.BLOCKSIZE, os.SEEK_CUR)
    if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the blocks that mark its end are missing")
