"""Mutations of a saved checkpoint: flipped bits, moved bytes, edited headers and JSON.

`mutations.py` loads thousands of them, tests some hundreds.

    python benchmarks/mutants.py FOLDER NUMBER

changes one file of FOLDER, in the way that NUMBER stands for. Edits of headers and JSON have other sizes, types,
offsets, shapes, names and values; half of them are *forged*: the checksums are made to fit, as by someone who
wants the file to be believed.
"""

import argparse
import hashlib
import json
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunnet_hf.commands import CommandParser, run_command

HOSTILE: list[Any] = [
    -1,
    0,
    1,
    2,
    7,
    2**31,
    2**53,
    2**60,
    2**63,
    2**64,
    1e308,
    0.5,
    True,
    None,
    "",
    "F64",
    [],
    {},
    [[]],
]
TEXT = '0123456789-,:.[]{}"\\ FIBUe'


def main() -> None:
    """Mutate one file of a folder."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()
    print(mutate(arguments.folder, random.Random(arguments.number))[0])


def mutate(folder: Path, draw: random.Random) -> tuple[str, bool]:
    """Change one file; return how, and whether the checksums were made to fit."""
    files = sorted(file for file in folder.iterdir() if file.name != "config.json")
    file = draw.choice(files)
    is_json = file.suffix == ".json"
    damage = [flip_bits, overwrite, cut, delete_slice, insert, edit_text]
    edit: Callable[[bytes, random.Random], bytes] = edit_json if is_json else edit_header
    change = draw.choice([*damage, *[edit] * len(damage)])
    file.write_bytes(change(file.read_bytes(), draw))
    is_forged = change is edit and draw.random() < 0.5
    if is_forged:
        sign(file)
    if len(files) > 1 and draw.random() < 0.02:
        other = draw.choice(files)
        other.write_bytes(file.read_bytes())
        return f"{change.__name__} {file.name}, copied to {other.name}", is_forged
    return f"{change.__name__} {file.name}{', forged' if is_forged else ''}", is_forged


def flip_bits(blob: bytes, draw: random.Random) -> bytes:
    """Flip one to four bits."""
    changed = bytearray(blob)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(blob: bytes, draw: random.Random) -> bytes:
    """Put other bytes in the place of some."""
    begin, size = draw.randrange(len(blob)), draw.randint(1, 16)
    return (blob[:begin] + draw.randbytes(size) + blob[begin + size :])[: len(blob)]


def cut(blob: bytes, draw: random.Random) -> bytes:
    """Leave out the end."""
    return blob[: draw.randrange(len(blob))]


def delete_slice(blob: bytes, draw: random.Random) -> bytes:
    """Leave out some bytes."""
    begin = draw.randrange(len(blob))
    return blob[:begin] + blob[begin + draw.randint(1, 64) :]


def insert(blob: bytes, draw: random.Random) -> bytes:
    """Add bytes somewhere, perhaps at the end."""
    begin = draw.randint(0, len(blob))
    return blob[:begin] + draw.randbytes(draw.randint(1, 64)) + blob[begin:]


def edit_text(blob: bytes, draw: random.Random) -> bytes:
    """Change characters of the header, or of the index, so that it often remains text."""
    begin = draw.randrange(min(len(blob), 4000))
    text = "".join(draw.choice(TEXT) for _ in range(draw.randint(0, 4)))
    return blob[:begin] + text.encode() + blob[begin + draw.randint(0, 4) :]


def edit_json(blob: bytes, draw: random.Random) -> bytes:
    """Change, remove or double a member anywhere in a JSON object."""
    content = json.loads(blob)
    places = list(members(content))
    # Of hundreds of members those of the metadata say the most.
    metadata = list(members(content.get("__metadata__") if isinstance(content, dict) else None))
    container, key = draw.choice(metadata if metadata and draw.random() < 0.4 else places)
    action = draw.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1:
        other, other_key = draw.choice(places)
        container[key] = json.loads(json.dumps(other[other_key]))
    elif action == 2 and isinstance(container, dict):
        name = draw.choice([*(k for c, k in places if isinstance(c, dict)), "x.weight", "__metadata__"])
        container[name] = container.pop(key)
    elif action in (3, 4) and isinstance(container[key], str) and container[key].startswith(("{", "[")):
        container[key] = edit_json(container[key].encode(), draw).decode()  # JSON within JSON: the manifest
    elif action == 4 and isinstance(container[key], int | float):
        container[key] += draw.choice([-1, 1, 8, 2**32, -(2**32)])
    else:
        container[key] = draw.choice(HOSTILE)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    if draw.random() < 0.05:  # a name twice
        text = text[:-1] + "," + text[1:]
    return text.encode()


def members(content: Any) -> Iterator[tuple[Any, Any]]:
    """All places in parsed JSON where a value stands, as container and key."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield content, key
            yield from members(value)


def edit_header(blob: bytes, draw: random.Random) -> bytes:
    """Edit the JSON header of a safetensors file, and nearly always keep its length right."""
    start = 8 + int.from_bytes(blob[:8], "little")
    header = edit_json(blob[8:start], draw)
    length = len(header) if draw.random() < 0.95 else draw.choice([0, 2**20, 2**63, 2**64 - 1])
    return length.to_bytes(8, "little") + header + blob[start:]


def sign(file: Path) -> None:
    """Make the checksums that cover a file fit, if it is still well formed enough to have any."""
    if file.name == "model.packed.safetensors":
        try:
            file.write_bytes(with_crc32(file.read_bytes()))
        except (KeyError, TypeError, ValueError, AttributeError):
            return
    index = file.with_name("bands.index.json")
    if index.exists():
        sign_bands(index, file)


def with_crc32(blob: bytes) -> bytes:
    """A packed file with the checksum of its contents, by the description of the layout."""
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:start])
    metadata = header.pop("__metadata__")
    crc32 = zlib.crc32(metadata.get("packed", "").encode())
    for name in sorted(header):
        begin, end = header[name]["data_offsets"]
        dimensions = ",".join(map(str, header[name]["shape"]))
        crc32 = zlib.crc32(f"{name} {header[name]['dtype']} {dimensions}\n".encode(), crc32)
        crc32 = zlib.crc32(blob[start + begin : start + end], crc32)
    metadata["crc32"] = f"{crc32:08x}"
    text = json.dumps({"__metadata__": metadata, **header}, sort_keys=True, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + blob[start:]


def sign_bands(index: Path, file: Path) -> None:
    """Let the index and its copy in band 1 agree again, then the sizes and hashes of the files."""
    try:
        content = json.loads(index.read_bytes())
        if file == index:
            first = next(index.parent.glob("band-00001-of-*[0-9].safetensors"))
            blob = first.read_bytes()
            start = 8 + int.from_bytes(blob[:8], "little")
            header = json.loads(blob[8:start])
            repeated = ("capacities", "statistics", "tensors", *(["units"] if content["version"] == 2 else []))
            contents = {name: content[name] for name in repeated}
            header["__metadata__"]["contents"] = json.dumps(contents, sort_keys=True, separators=(",", ":"))
            text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
            first.write_bytes(len(text).to_bytes(8, "little") + text + blob[start:])
            file = first
        blob = file.read_bytes()
        content["files"][file.name] = {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    except (KeyError, TypeError, ValueError):
        return
    index.write_text(json.dumps(content))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/mutants.py", main))
