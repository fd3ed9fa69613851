"""A folder of shards: embedding tables of consecutive images, which processes and machines make independently.

The folder holds `shard-00001-of-00064.parquet`, ..., each an `embedding_table`, whole or absent, whose metadata also
have `shard` (such as `1/64`), `shards` (a digest of how all were made) and `shard_images` (one of its images' files),
and `shards.json`, which says how they are made: by which model, of which images, and how many. Processes don't talk to
each other, so none waits for a slow one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..storage.lock import locked
from .embedding_parts import agree_on_plan
from .embedding_table import Embeddings, TableFacts, read_embeddings, read_facts
from .image_sources import ImageSource
from .table_encoder import TableEncoder

PLAN, _LOCK = "shards.json", ".shards.json.lock"
_SHARD, _SHARDS, _IMAGES = "shard", "shards", "shard_images"
_NAME = re.compile(r"shard-(\d+)-of-(\d+)\.parquet", re.ASCII)
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of something, counted from 1.

    Attributes:
        number: Which one, from 1 to `count`.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str, argument: str = "shard") -> Self:
        """A shard by its text.

        Example:
            >>> Shard.parse("2/4")
            Shard(number=2, count=4)

        Raises:
            ValueError: If it isn't a number of shards, with one of them before it.
        """
        parsed = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if parsed is None or not 1 <= int(parsed[1]) <= int(parsed[2]):
            raise ValueError(f"{argument} must be i/n with i from 1 to n, such as 1/4 and 4/4; got {text!r}.")
        return cls(int(parsed[1]), int(parsed[2]))

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"shard-{self.number:05d}-of-{self.count:05d}.parquet"

    def places(self, total: int) -> range:
        """Its share of so many places; all shards together have each place once, in order.

        Example:
            >>> Shard(2, 3).places(7)
            range(2, 4)
        """
        return range((self.number - 1) * total // self.count, self.number * total // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def encode_shard(
    encoder: TableEncoder, images: ImageSource, folder: str | os.PathLike[str], shard: Shard
) -> list[str]:
    """Embed one shard, unless it is there already. A call that was killed goes on with the first missing part.

    Args:
        encoder: The model, and how images are read.
        images: All images, the same in every process.
        folder: Of the shards; created if necessary.
        shard: Which of them to make.

    Returns:
        The names of the images that were left out.

    Raises:
        BlockingIOError: If another process is making this shard.
        FileExistsError: If `folder` is a file.
        OSError: If a file can't be written.
        ValueError: If there are fewer images than shards, the shards that are there are of another model, other
            images or other settings, this one is damaged, or an image can't be decoded or embedded.
    """
    folder = Path(folder).absolute()
    check_folder(folder)
    if shard.count > len(images):
        raise ValueError(f"the number of shards must be at most that of the images, {len(images)}; got {shard.count}.")
    folder.mkdir(parents=True, exist_ok=True)
    plan = {**encoder.plan, "num_shards": shard.count, "num_images": len(images), "images": images.names_digest()}
    with locked(folder / _LOCK, f"output={str(folder)!r}", wait=True):
        agree_on_plan(folder / PLAN, plan, f"Choose another output, or remove {folder} to start again.")
    places = shard.places(len(images))
    facts = {_SHARD: str(shard), _SHARDS: _digest(plan), _IMAGES: images.digest(places)}
    if (folder / shard.file).exists():
        return _left_out(folder / shard.file, facts, [images.names[place] for place in places])
    return encoder.write(images, places, folder / shard.file, facts)


def check_folder(folder: Path) -> None:
    """Refuse a path where no folder of shards can be.

    Raises:
        FileExistsError: If it is a file.
        ValueError: If it looks like one.
    """
    if folder.is_file():
        raise FileExistsError(f"output={str(folder)!r} is a file; shards lie in a folder. Choose another name.")
    if folder.suffix == ".parquet":
        raise ValueError(
            f"output={str(folder)!r} must be a folder for the shards: choose a name without .parquet, or let one "
            "process write one file."
        )


@dataclass(frozen=True)
class Shards:
    """All shards of a folder, of one model and one space.

    Attributes:
        files: In order.
        facts: What each says of itself.
    """

    files: list[Path]
    facts: list[TableFacts]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def made(self) -> str:
        """A digest of how they were made; empty for a table that isn't a shard."""
        return self.facts[0].others.get(_SHARDS, "")

    @property
    def num_images(self) -> int:
        """The number of images in all of them."""
        return sum(facts.num_rows for facts in self.facts)

    def read(self, place: int) -> Embeddings:
        """The embeddings of one.

        Raises:
            ValueError: If it is damaged.
        """
        try:
            return read_embeddings(self.files[place])
        except ValueError as error:
            raise _damaged(self.files[place], error) from error


def find_shards(source: str | os.PathLike[str]) -> Shards:
    """Find all shards of a folder.

    Args:
        source: The folder; or one embedding table, which is taken for a single shard.

    Raises:
        FileNotFoundError: If there are no shards, or some are missing.
        ValueError: If one is damaged, or they are of several spaces or were made in several ways.
    """
    source = Path(source)
    files = [source] if source.is_file() else _complete(source)
    facts = []
    for file in files:
        try:
            facts.append(read_facts(file))
        except ValueError as error:
            raise _damaged(file, error) from error
    for file, found in zip(files, facts, strict=True):
        for what, own, first in (
            ("the embedding space", found.embedding_space, facts[0].embedding_space),
            ("dimension", found.embedding_dim, facts[0].embedding_dim),
            ("a model, images or settings", found.others.get(_SHARDS), facts[0].others.get(_SHARDS)),
        ):
            if own != first:
                raise ValueError(
                    f"{file} is of {what} {own!r}, and {files[0].name} of {first!r}: shards of a folder must be made "
                    "by one model from the same images. Embed those that differ again, into a folder of their own."
                )
    return Shards(files, facts)


def _complete(folder: Path) -> list[Path]:
    named = {file: _NAME.fullmatch(file.name) for file in sorted(folder.glob("shard-*-of-*.parquet"))}
    found = {file: Shard(int(match[1]), int(match[2])) for file, match in named.items() if match}
    if not found:
        raise FileNotFoundError(
            f"{str(folder)!r} has no shards. `prunnet embed --num_shards N --output {folder}` makes a folder of them."
        )
    counts = sorted({shard.count for shard in found.values()})
    if len(counts) > 1:
        raise ValueError(f"{folder} holds shards of {counts[0]} and of {counts[1]}: remove those of one kind.")
    numbers = {shard.number for shard in found.values()}
    missing = [Shard(n, counts[0]) for n in range(1, counts[0] + 1) if n not in numbers]
    if missing:
        names = ", ".join(map(str, missing[:_NAMES_SHOWN])) + (", ..." if len(missing) > _NAMES_SHOWN else "")
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of its {counts[0]} shards: {names}. Give the command that embeds them "
            f"again (--shard {missing[0]}), or copy them there."
        )
    return list(found)


def _left_out(file: Path, facts: dict[str, str], names: list[str]) -> list[str]:
    """The images that a finished shard lacks, after checking that it is whole and of these images."""
    try:
        stored, found = read_facts(file), read_embeddings(file)
    except ValueError as error:
        raise _damaged(file, error) from error
    if any(stored.others.get(key) != value for key, value in facts.items()):
        raise ValueError(
            f"{file} was made of other images than there are now: their names, sizes or modification times differ. "
            "Remove it, and the same command will make it again."
        )
    there = set(found.paths)
    return [name for name in names if name not in there]


def _damaged(file: Path, error: ValueError) -> ValueError:
    return ValueError(f"{error} Remove it, and give the command that embeds it again, or copy it again ({file.name}).")


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
