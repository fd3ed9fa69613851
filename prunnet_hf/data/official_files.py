"""The files that a data set's owners publish: found, read and checked, with errors that name file and line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from .splits import listed

LONGEST_LINE = 10**7
"""In letters. The longest line of the official lists names the images of a class, some ten thousand, by 17 letters."""
_SHOWN = 200


def require_folder(argument: str, path: str | os.PathLike[str], remedy: str) -> Path:
    """A folder as an absolute path: images are opened later, perhaps from another working directory.

    Args:
        argument: The argument's name, for the error.
        path: As the user gave it.
        remedy: What the folder must hold or where to find it, in whole sentences.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"{argument}={os.fspath(path)!r} is not a folder. {remedy}")
    return folder


def require_root(root: str | os.PathLike[str], name: str, source: str) -> Path:
    """The folder of a data set, see `require_folder`.

    Args:
        root: As the user gave it.
        name: The data set's name.
        source: A sentence that says where to get it.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    return require_folder("root", root, f"It must hold {name}. {source}")


def find_file(root: Path, *candidates: str, source: str) -> Path:
    """The first of several places that exists, as owners and mirrors put the same file into different folders.

    Args:
        root: The folder of the data set.
        *candidates: Relative paths of a file or a folder, the usual one first.
        source: A sentence that says where to get it.

    Raises:
        FileNotFoundError: If none exists.
    """
    for candidate in candidates:
        # A pipe or a device among files that were unpacked would be waited for, for ever.
        if (root / candidate).is_file() or (root / candidate).is_dir():
            return root / candidate
    also = f" (nor as {', '.join(candidates[1:])})" if candidates[1:] else ""
    raise FileNotFoundError(f"{root / candidates[0]} is missing{also}. {source}")


def numbered_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without surrounding spaces, each with its number from 1.

    Raises:
        ValueError: If the file is not text in this encoding, or a line has more than `LONGEST_LINE` letters.
    """
    with path.open(encoding=encoding) as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), start=1):
                if len(line) > LONGEST_LINE:
                    raise ValueError(
                        f"{path}, line {number}, has more than {LONGEST_LINE} letters, which no list of images needs. "
                        "Download it again."
                    )
                if line.strip():
                    yield number, line.strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in {encoding}: {error}. Download it again.") from error


def bad_line(path: Path, number: int, line: str, expected: str) -> ValueError:
    """The error for a line that can't be parsed."""
    shown = repr(line) if len(line) <= _SHOWN else f"{line[:_SHOWN]!r} and {len(line) - _SHOWN} letters more"
    return ValueError(f"{path}, line {number}: expected {expected}; got {shown}.")


def join_inside(root: Path, relative: str, *, where: str) -> Path:
    """`root / relative`, if that lies inside `root`.

    Args:
        root: The folder.
        relative: A path with forward slashes, as lists and archives write it.
        where: What holds the path (a file and a line, or an archive), for the error.

    Raises:
        ValueError: If the path is absolute, empty, or leaves the folder.
    """
    path = PurePosixPath(relative)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in relative or "\0" in relative:
        raise ValueError(
            f"{where}: {relative[:_SHOWN]!r} is not a path inside {root}. Don't use this file: it may be an attack."
        )
    return root / path


def refuse_repeats(names: Sequence[str], where: Path) -> None:
    """Refuse a list that names an image twice: the image would be trained on or counted twice.

    Raises:
        ValueError: If a name is repeated; the message shows the first few.
    """
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"{where} names {len(repeated)} images more than once: {listed(repeated)}.")


def require_images(folder: Path, names: Sequence[str], *, where: Path, source: str) -> None:
    """Refuse a list whose images aren't all on disk. Each folder is listed once, which is faster than checking files.

    Args:
        folder: The images' folder.
        names: Their paths in it, with forward slashes.
        where: The list, for the error.
        source: A sentence that says where to get the images.

    Raises:
        FileNotFoundError: If images are missing; the message counts them and shows the first few.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, base = name.rpartition("/")
        if parent not in present:
            present[parent] = _files(folder / parent)
        if base not in present[parent]:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} images that {where} names are not in {folder}: {listed(missing)}. "
            f"{source}"
        )


def check_identities(
    train: Sequence[str], query: Sequence[str], gallery: Sequence[str], *, what: str, where: Path
) -> None:
    """Refuse lists that test on classes of the training images, or query a class that the gallery lacks.

    Args:
        train: The class of each training image.
        query: The class of each query.
        gallery: The class of each gallery image.
        what: What the classes are, in the plural.
        where: The list or the folder of the lists, for the error.

    Raises:
        ValueError: If training and test share a class, or a query's class is missing from the gallery; the message
            shows the first few.
    """
    seen = sorted(set(train) & {*query, *gallery})
    if seen:
        raise ValueError(
            f"{where}: {len(seen)} {what} are both trained and tested on: {listed(seen)}. The official lists share "
            "none; download them again."
        )
    lost = sorted(set(query) - set(gallery))
    if lost:
        raise ValueError(
            f"{where}: {len(lost)} {what} of queries are missing from the gallery: {listed(lost)}. Download the "
            "official lists again, or take these queries out."
        )


def _files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
