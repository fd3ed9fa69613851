"""Is any damaged embedding table, or part of one, read as other embeddings?

    python benchmarks/table_mutations.py --count 20000 --seed 0

flips bits of a table and of a part of an interrupted encoding, and overwrites, cuts, removes and inserts bytes; half
of the mutations are one flipped bit. Each file is read. It is *refused* by a ValueError that names it, or *read* as it
was written (the damage is in a place that nobody reads). Anything else is *wrong*: other embeddings, paths, labels, or
another error. The exit status is 1 if there were any. The mutations depend on the seed and their number only.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mutants
from prunnet_hf.retrieval.embedding_parts import EmbeddingParts
from prunnet_hf.retrieval.embedding_table import Embeddings, as_table, read_embeddings, table_schema, write_embeddings

ROWS, DIM = 40, 4
SPACE, MODEL = "3f9a3f9a3f9a3f9a", "org/name"
SCHEMA = table_schema(DIM, SPACE, 0.2, MODEL)
DAMAGE: list[Callable[[bytes, random.Random], bytes]] = [
    mutants.flip_bits,
    mutants.overwrite,
    mutants.cut,
    mutants.delete_slice,
    mutants.insert,
]


def main() -> None:
    """Mutate, read and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        files = seeds(Path(folder))
        for number in range(arguments.count):
            file, (whole, expected, read) = list(files.items())[number % len(files)]
            file.write_bytes(mutate(whole, random.Random(f"{arguments.seed} {number}")))
            found = outcome(file, expected, read)
            counts[f"{file.name}: {found}"] += 1
            if found.startswith("wrong"):
                print(f"{number}: {file.name}: {found}")
    for name, count in sorted(counts.items()):
        print(f"{count:7,} {name}")
    sys.exit(any(": wrong" in name for name in counts))


def seeds(folder: Path) -> dict[Path, tuple[bytes, Any, Callable[[Path], Any]]]:
    """A table and a part: their bytes, what they hold, and what reads them."""
    array = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    paths, labels = [f"{row % 3}/{row}.png" for row in range(ROWS)], [f"{row % 3}" for row in range(ROWS)]
    table = write_embeddings(folder / "table.parquet", Embeddings(array, SPACE, 0.2, paths, list(labels), MODEL))
    parts = EmbeddingParts(folder / "f.parquet", SCHEMA, {})
    parts.write(0, as_table(SCHEMA, array, paths, list(labels)), "images", ["left-out.png"])
    part = parts.folder / "part-000000.parquet"

    def read_part(_: Path) -> Any:
        return parts.check(0, "images", [*paths, "left-out.png"]), parts._read(0).to_pydict()

    return {file: (file.read_bytes(), read(file), read) for file, read in ((table, read_table), (part, read_part))}


def read_table(file: Path) -> Any:
    """Everything that a table says, as something that can be compared."""
    found = read_embeddings(file)
    facts = (found.embedding_space, found.capacity, found.model)
    return found.embeddings.tobytes(), found.paths, found.labels, facts


def mutate(blob: bytes, draw: random.Random) -> bytes:
    """One flipped bit, or another damage."""
    if draw.random() < 0.5:
        return draw.choice(DAMAGE)(blob, draw)
    bit = draw.randrange(8 * len(blob))
    return blob[: bit // 8] + bytes([blob[bit // 8] ^ 1 << bit % 8]) + blob[bit // 8 + 1 :]


def outcome(file: Path, expected: Any, read: Callable[[Path], Any]) -> str:
    """What reading a damaged file comes to."""
    try:
        return "read" if read(file) == expected else "wrong: read as something else"
    except ValueError as error:
        return "refused" if str(file) in str(error) else f"wrong: the file isn't named: {error}"
    except Exception as error:  # noqa: BLE001 - every other kind is what this looks for
        return f"wrong: {type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
