"""Embedding tables that grow part by part: a process may be killed at any moment, and the next one goes on.

While `F.parquet` is being made, `F.parquet.partial/` holds `plan.json` (which model makes the embeddings, and how) and
the finished parts, each with the embeddings of consecutive images. At the end they are merged into one file, which is
then moved to its place; at that moment the disk needs room for twice its size. `.F.parquet.lock` keeps a second
process away meanwhile.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..storage.json_text import load_json
from ..storage.lock import locked
from ..storage.whole_file import write_whole
from .embedding_table import EMBEDDING, LABEL, PATH, whole_table

_PLAN = "plan.json"
_IMAGES, _SKIPPED, _CONTENTS = b"images", b"skipped", b"contents"
"""Metadata of a part: a digest of its images, the paths of those that couldn't be read, and a digest of all this."""
_PARTS_A_ROW_GROUP = 64


def check_output(output: Path) -> None:
    """Refuse a path where no table can be written.

    Raises:
        FileExistsError: If the file exists already.
        FileNotFoundError: If its folder doesn't exist.
    """
    if output.exists():
        raise FileExistsError(f"output={str(output)!r} exists. Remove it, or choose another name.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output={str(output)!r}: its folder doesn't exist. Create it first.")


def claim_output(output: Path) -> AbstractContextManager[None]:
    """Keep other processes from making the same table during the block.

    Raises:
        BlockingIOError: If one is making it; the message names it.
    """
    lock = output.with_name(f".{output.name}.lock")
    remedy = "Wait until it ends, or choose another output."
    return locked(lock, f"output={str(output)!r}", remedy)


class EmbeddingParts:
    """The parts of a table that isn't finished yet. Use them while `claim_output` keeps others away.

    Args:
        output: The file to make of them.
        schema: The file's schema, from `table_schema`.
        plan: JSON values by name. They must be the same for all parts, also in a process that goes on.

    Raises:
        FileExistsError: If `output` is there already.
        ValueError: If there are parts with another plan; the message names the differences.
        OSError: If the folder can't be made.
    """

    def __init__(self, output: Path, schema: pa.Schema, plan: Mapping[str, Any]) -> None:
        check_output(output)
        self.output = output
        self.schema = schema
        self.folder = output.with_name(output.name + ".partial")
        self.folder.mkdir(exist_ok=True)
        self._check_plan(plan)

    def done(self) -> list[int]:
        """Numbers of the finished parts, ascending."""
        numbers = (file.stem.removeprefix("part-") for file in self.folder.glob("part-*.parquet"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def write(self, number: int, rows: pa.Table, images: str, skipped: list[str]) -> None:
        """Write a part, whole or not at all.

        Args:
            number: The part's number, from 0.
            rows: The images that could be read, in the file's schema.
            images: Digest of all images of the part.
            skipped: Paths of the images that couldn't be read.

        Raises:
            OSError: If it can't be written.
        """
        facts = {_IMAGES: images.encode(), _SKIPPED: json.dumps(skipped).encode()}
        facts[_CONTENTS] = _digest(rows, facts)
        schema = self.schema.with_metadata({**self.schema.metadata, **facts})
        with whole_table(self._file(number), schema) as writer:
            writer.write_table(rows.cast(schema))

    def check(self, number: int, images: str, paths: list[str]) -> list[str]:
        """Check that a finished part was made of the images that are there now.

        Args:
            number: The part's number.
            images: Digest of its images as they are now.
            paths: Their paths.

        Returns:
            The paths that couldn't be read when the part was made.

        Raises:
            ValueError: If the images differ, or the part is damaged.
        """
        rows = self._read(number)
        metadata = rows.schema.metadata or {}
        skipped: list[str] = load_json(metadata.get(_SKIPPED, "[]"))
        if metadata.get(_IMAGES) == images.encode():
            return skipped
        embedded = {*rows[PATH].to_pylist(), *skipped}
        differing = sorted(embedded.symmetric_difference(paths))
        what = f"{differing[0]} is in only one of the two" if differing else "their sizes or modification times differ"
        raise ValueError(
            f"{self._file(number)} was made of other images than data_dir holds now: {what}. {self._remedy()}"
        )

    def finish(self, num_parts: int, paths: Sequence[str], facts: Mapping[str, str] | None = None) -> None:
        """Merge the parts, check that they hold what they should, and put the file in its place.

        Args:
            num_parts: The number of parts.
            paths: The paths of all rows, in order.
            facts: Further texts for the file's metadata.

        Raises:
            FileExistsError: If somebody else has put a file there meanwhile.
            ValueError: If a part is missing, damaged or superfluous, or the rows are of other images than `paths`.
            OSError: If the file can't be written.
        """
        if self.done() != list(range(num_parts)):
            raise ValueError(f"{self.folder} must hold the parts 0 to {num_parts - 1}; it has {self.done()}.")
        # The temporary file lies in the folder, so that a killed process leaves nothing elsewhere.
        schema = self.schema.with_metadata({**self.schema.metadata, **(facts or {})})
        with whole_table(self.output, schema, self.folder) as writer:
            num_rows = 0
            for start in range(0, num_parts, _PARTS_A_ROW_GROUP):
                numbers = range(start, min(start + _PARTS_A_ROW_GROUP, num_parts))
                table = self._merged(numbers)
                self._check_rows(table[PATH].to_pylist(), paths[num_rows : num_rows + len(table)], numbers)
                writer.write_table(table)
                num_rows += len(table)
            if num_rows != len(paths):
                raise ValueError(f"{self.folder} holds {num_rows} images of {len(paths)}. {self._remedy()}")
            check_output(self.output)
        self._remove_own_files()

    def _remove_own_files(self) -> None:
        """Remove the folder, but for what somebody else has put there."""
        parts = [self._file(number) for number in self.done()]
        for file in (self.folder / _PLAN, *parts, *self.folder.glob(".*.tmp")):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _check_rows(self, found: list[str], wanted: Sequence[str], numbers: range) -> None:
        for path, expected in itertools.zip_longest(found, wanted):
            if path != expected:
                raise ValueError(
                    f"the parts {numbers[0]} to {numbers[-1]} in {self.folder} hold {path!r} where {expected!r} "
                    f"should be. {self._remedy()}"
                )

    def _merged(self, numbers: Iterable[int]) -> pa.Table:
        tables = [self._read(number).replace_schema_metadata(self.schema.metadata) for number in numbers]
        return pa.concat_tables(tables).combine_chunks()

    def _read(self, number: int) -> pa.Table:
        try:
            rows = pq.read_table(self._file(number), page_checksum_verification=True)
            facts = rows.schema.metadata or {}
            foreign = [
                name.decode() for name, value in self.schema.metadata.items() if facts.get(name, value) != value
            ]
            if foreign or not rows.schema.equals(self.schema):
                raise ValueError(f"it is a part of another table: its {', '.join(foreign) or 'columns'} differ")
            if _CONTENTS in facts and facts[_CONTENTS] != _digest(rows, facts):  # earlier versions wrote none
                raise ValueError("its contents don't have the digest that it states")
            return rows
        except (ValueError, OSError, OverflowError, LookupError, pa.ArrowException) as error:
            raise ValueError(
                f"{self._file(number)} can't be read ({error}). Remove it: the same command will make it again."
            ) from error

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def _check_plan(self, plan: Mapping[str, Any]) -> None:
        file = self.folder / _PLAN
        if not file.is_file() and self.done():
            raise ValueError(f"{file} is missing, so nobody knows which model made the parts. {self._remedy()}")
        agree_on_plan(file, plan, self._remedy())

    def _remedy(self) -> str:
        return f"To start again, remove {self.folder} or choose another output; to go on, undo the change."


def agree_on_plan(file: Path, plan: Mapping[str, Any], remedy: str) -> None:
    """Write down how the files beside `file` are made, or check that those that are there were begun in the same way.

    Args:
        file: Where it is written, in JSON.
        plan: JSON values by name.
        remedy: What to do if it differs.

    Raises:
        ValueError: If it differs; the message names the differences.
        OSError: If it can't be written.
    """
    if not file.is_file():
        write_whole(file, json.dumps(dict(plan), indent=2) + "\n")
        return
    try:
        begun = load_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). {remedy}") from error
    if not isinstance(begun, dict):
        raise ValueError(f"{file} is damaged (not a JSON object). {remedy}")
    differing = [
        f"{name} ({begun.get(name)!r} then, {plan[name]!r} now)" for name in plan if begun.get(name) != plan[name]
    ]
    if differing:
        raise ValueError(f"{file.parent} was begun with another {', '.join(differing)}. {remedy}")


def _digest(rows: pa.Table, facts: Mapping[bytes, bytes]) -> bytes:
    """A digest of a part's rows, of how they are typed, and of what its metadata says of its images."""
    digest = hashlib.sha256(facts[_IMAGES] + b"\0" + facts[_SKIPPED] + b"\0")
    names = json.dumps([str(rows.schema.remove_metadata()), rows[PATH].to_pylist(), rows[LABEL].to_pylist()])
    digest.update(names.encode())
    for embeddings in rows[EMBEDDING].chunks:
        digest.update(embeddings.flatten().to_numpy())
    return digest.hexdigest().encode()
