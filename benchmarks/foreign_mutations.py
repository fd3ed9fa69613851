"""Does any damaged pickle, tar, list, recipe or record hang, crash, fill the memory, or raise what nobody expects?

    python benchmarks/foreign_mutations.py --count 100000 --seed 0

damages what this package reads and other people write: pickled ground truth of every protocol, tars of every format
(their checksums made to fit half of the time), lists of Google Landmarks and In-shop, YAML recipes, JSON records. Each
is then read. It either gives data, or a ValueError of one line that names the file. Anything else is an *escape*, also
more memory than `--memory` GB or more than `--seconds`. The exit status is 1 if there were any.
"""

import argparse
import io
import json
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import mutants
from prunnet_hf.data.plain_pickle import load_plain_pickle
from prunnet_hf.data.sets.gldv2_lists import read_ids, read_train
from prunnet_hf.data.tar_stream import read_members
from prunnet_hf.runs.recipes import read_recipe
from prunnet_hf.runs.record import RunRecord

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))[:4]
ALLOWED = {key for file in RECIPES for key in yaml.safe_load(file.read_text())}
BLOCK = tarfile.BLOCKSIZE
NUMBERS = (
    b"-1",
    b"0",
    b"99999999999",
    b"9" * 5000,
    b"1e999",
    b".nan",
    b"NaN",
    b"[" * 2000,
    b"&a [*a]",
    b"{}",
    b"null",
)


def main() -> None:
    """Mutate, read and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=float, default=2.0, help="address space that reading may add, in GB")
    parser.add_argument("--seconds", type=int, default=10, help="time for each file")
    arguments = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(arguments.memory * 2**30),) * 2)
    signal.signal(signal.SIGALRM, _too_slow)
    counts: Counter[str] = Counter()
    escapes: Counter[str] = Counter()
    whole = seeds()
    with tempfile.TemporaryDirectory() as folder:
        if {outcome(kind, blob, Path(folder)) for kind, blob in whole.items()} != {"read"}:
            raise AssertionError("an undamaged file is refused")
        for number in range(arguments.count):
            kind, blob = mutate(whole, random.Random(f"{arguments.seed} {number}"))
            signal.alarm(arguments.seconds)
            try:
                counts[f"{kind.partition(' ')[0]} {outcome(kind, blob, Path(folder))}"] += 1
            except (Exception, _TooSlow) as error:  # noqa: BLE001 - what escapes is what is counted
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(frame.filename).name}:{frame.lineno}"
                escapes[f"{kind}: {type(error).__name__} at {where}: {str(error)[:80]} (number {number})"] += 1
            finally:
                signal.alarm(0)
    total = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    print(f"{arguments.count} damaged files: {total}; {escapes.total()} escapes")
    for escape, count in escapes.most_common():
        print(f"  {count} x {escape}")
    sys.exit(bool(escapes))


def outcome(kind: str, blob: bytes, folder: Path) -> str:
    """Read a damaged file: `read` or `refused`; any other error is raised."""
    name, read = READERS[kind.partition(" ")[0]]
    (folder / name).write_bytes(blob)
    try:
        read(folder / name)
    except ValueError as error:
        if name not in str(error) or "\n" in str(error):
            raise AssertionError(f"no one line that names the file: {error}") from error
        return "refused"
    return "read"


def mutate(whole: dict[str, bytes], draw: random.Random) -> tuple[str, bytes]:
    """Damage one of the files in one to three ways; return its kind and the damaged file."""
    kind = draw.choice(sorted(whole))
    blob = whole[kind]
    ways: list[Callable[[bytes, random.Random], bytes]]
    ways = [mutants.flip_bits, mutants.overwrite, mutants.delete_slice, mutants.insert, mutants.cut, _repeat, _number]
    for _ in range(draw.choice((1, 1, 2, 3))):
        blob = draw.choice(ways)(blob, draw) or blob
    return kind, _signed(blob) if kind.startswith("tar") and draw.random() < 0.5 else blob


def _repeat(blob: bytes, draw: random.Random) -> bytes:
    """Repeat some bytes many times, as nested or doubled parts are described."""
    begin, size = draw.randrange(len(blob)), draw.randint(1, 4)
    return blob[:begin] + blob[begin : begin + size] * draw.choice((30, 300, 3000)) + blob[begin:]


def _number(blob: bytes, draw: random.Random) -> bytes:
    """Put an extreme value in the place of some bytes."""
    begin = draw.randrange(len(blob))
    return blob[:begin] + draw.choice(NUMBERS) + blob[begin + draw.randint(0, 4) :]


def _signed(blob: bytes) -> bytes:
    """A tar whose headers have the checksums of their bytes."""
    changed = bytearray(blob)
    for begin in range(0, len(blob) - BLOCK + 1, BLOCK):
        block = blob[begin : begin + BLOCK]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
            changed[begin + 148 : begin + 156] = b"%06o\0 " % total
    return bytes(changed)


def seeds() -> dict[str, bytes]:
    """Whole files by kind."""
    truth = {"imlist": ["a", "b"], "gnd": [{"bbx": np.array([1.5, 2, 3, 4]), "easy": [0], "hard": np.arange(3)}]}
    texts = {**truth, "names": np.array(["ab", "c"]), "scalars": [np.float32(2), 2**70, b"\xff", None, (True,)]}
    lines = "\n".join(f"{number:016x}" for number in range(30))
    classes = "\n".join(f"{number},{number:016x} {number + 99:016x}" for number in range(30))
    return {
        **{f"pickle {protocol}": pickle.dumps(texts, protocol) for protocol in range(6)},
        **{f"tar {form}": _tar(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)},
        "ids": f"id\n{lines}\n".encode(),
        "classes": f"landmark_id,images\n{classes}\n".encode(),
        **{f"recipe {file.stem}": file.read_bytes() for file in RECIPES},
        "record": (ROOT / "model_cards" / "glyphs" / "metrics.json").read_bytes(),
    }


def _tar(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in ("0/1/2/a.jpg", f"{'long/' * 25}é.jpg", "b.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 700
            archive.addfile(member, io.BytesIO(b"x" * 700))
    return file.getvalue()[: 12 * BLOCK] + bytes(2 * BLOCK) if form == tarfile.USTAR_FORMAT else file.getvalue()


def _read_recipe(path: Path) -> Any:
    return json.dumps(read_recipe(path, ALLOWED), default=str)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pickle": ("gnd.pkl", lambda path: repr(load_plain_pickle(path))),
    "tar": ("images_000.tar", lambda path: list(read_members(path, lambda name: True))),
    "ids": ("index.csv", lambda path: read_ids(path.parent, "index")),
    "classes": ("train_clean.csv", lambda path: read_train(path.parent, "clean", None, None)),
    "recipe": ("recipe.yaml", _read_recipe),
    "record": ("metrics.json", RunRecord.read),
}


class _TooSlow(BaseException):
    """Not an Exception, so that no one takes it for an error of reading."""


def _too_slow(number: int, frame: object) -> None:
    raise _TooSlow("takes too long")


if __name__ == "__main__":
    main()
