"""A small Google Landmarks v2 in the official layout."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageDraw

CLEAN_LANDMARKS = (142820, 7, 31, 200000, 1009, 9, 56, 820)
UNCLEAN_LANDMARK = 4711
TEST_LANDMARKS = ("bridge", "castle", "tower", "chapel")
SIZE = 48
TAR_SHARES = {"train": (0.2, 0.5, 0.3), "index": (0.7, 0.3), "test": (1.0,)}
"""Share of the images that each tar holds."""


@dataclass(frozen=True)
class Gldv2:
    """What a miniature says.

    Attributes:
        clean: Landmark of each image, in the order of `train_clean.csv`.
        full: The same of `train.csv`.
        index: Ids in the order of `index.csv`.
        private: Relevant ids of each query of the Private part that has an answer, in the order of the solution.
        public: The same of the Public part.
        test: Ids in the order of `test.csv`: the queries, and images without an answer.
    """

    clean: dict[str, int]
    full: dict[str, int]
    index: list[str]
    private: dict[str, list[str]]
    public: dict[str, list[str]]
    test: list[str]


def make_gldv2(root: Path, *, layout: str = "tars") -> Gldv2:
    """Write the lists, and the images in tars or (`layout="extracted"`) in folders.

    Eight landmarks of six clean and two other images each, and one of three that aren't clean; in the index five
    images of each of four landmarks and three of others; of each of these four, two private queries and a public one.
    """
    root.mkdir(parents=True, exist_ok=True)
    clean = {image_id(f"{name} clean {view}"): name for name in CLEAN_LANDMARKS for view in range(6)}
    others = {image_id(f"{name} other {view}"): name for name in CLEAN_LANDMARKS for view in range(2)}
    others |= {image_id(f"{UNCLEAN_LANDMARK} other {view}"): UNCLEAN_LANDMARK for view in range(3)}
    full = dict(sorted((clean | others).items()))
    index = {image_id(f"{name} index {view}"): name for view in range(5) for name in TEST_LANDMARKS}
    index |= {image_id(f"index alone {view}"): f"alone {view}" for view in range(3)}
    relevant = {name: [image for image, shown in index.items() if shown == name] for name in TEST_LANDMARKS}
    queries = {
        part: {image_id(f"{name} {part} {view}"): name for view in range(count) for name in TEST_LANDMARKS}
        for part, count in (("private", 2), ("public", 1))
    }
    unanswered = [image_id(f"nothing {number}") for number in range(3)]
    shown = {**full, **index, **queries["private"], **queries["public"], **dict.fromkeys(unanswered, "nothing")}
    answers = {part: {image: relevant[name] for image, name in asked.items()} for part, asked in queries.items()}
    test = sorted([*queries["private"], *queries["public"], *unanswered])
    found = Gldv2(clean, full, list(index), answers["private"], answers["public"], test)
    _write_lists(root, found, unanswered)
    for part, images in (("train", list(full)), ("index", found.index), ("test", test)):
        pictures = {image: draw(image, shown[image]) for image in images}
        write = write_tars if layout == "tars" else write_folders
        write(root / part, pictures)
    return found


def image_id(words: str) -> str:
    """Sixteen hex digits that look like an official id."""
    return sha256(words.encode()).hexdigest()[:16]


def member_name(image: str) -> str:
    """Where an image lies in its part's folder or tar."""
    return f"{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write files of these names into a tar."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_tars(folder: Path, pictures: dict[str, bytes]) -> None:
    """Spread images unevenly over the tars of a part."""
    folder.mkdir()
    images, start = sorted(pictures), 0
    shares = TAR_SHARES[folder.name]
    for number, share in enumerate(shares):
        end = len(images) if number == len(shares) - 1 else start + round(share * len(images))
        files = {member_name(image): pictures[image] for image in images[start:end]}
        write_tar(folder / f"images_{number:03d}.tar", files)
        start = end


def write_folders(folder: Path, pictures: dict[str, bytes]) -> None:
    """Write images as they lie when extracted."""
    for image, content in pictures.items():
        path = folder / member_name(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def draw(image: str, landmark: object) -> bytes:
    """A JPEG of a disc and a ground in two colours of the landmark's, at a place of the image's own."""
    colours = sha256(str(landmark).encode()).digest()
    x, y = (int(digit, 16) for digit in image[:2])
    picture = Image.new("RGB", (SIZE, SIZE), tuple(colours[:3]))
    ImageDraw.Draw(picture).ellipse((x, y, x + 30, y + 30), fill=tuple(colours[3:6]))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90)
    return content.getvalue()


def write_list(path: Path, header: str, lines: Sequence[str]) -> None:
    """Write a CSV."""
    path.write_text("".join(f"{line}\n" for line in [header, *lines]), encoding="utf-8")


def _write_lists(root: Path, found: Gldv2, unanswered: Sequence[str]) -> None:
    by_landmark = {
        landmark: " ".join(image for image, name in found.clean.items() if name == landmark)
        for landmark in CLEAN_LANDMARKS
    }
    write_list(root / "train_clean.csv", "landmark_id,images", [f"{name},{ids}" for name, ids in by_landmark.items()])
    # Addresses hold commas, which quotes protect, and letters that are no ASCII.
    address = '"https://upload.example.org/Köln,_Dom_{}.jpg"'
    full = [f"{image},{address.format(row)},{name}" for row, (image, name) in enumerate(found.full.items())]
    write_list(root / "train.csv", "id,url,landmark_id", full)
    write_list(root / "index.csv", "id", found.index)
    write_list(root / "test.csv", "id", found.test)
    private, public = (
        [f"{query},{' '.join(relevant)},{part}" for query, relevant in answers.items()]
        for part, answers in (("Private", found.private), ("Public", found.public))
    )
    nothing = [
        f"{query},None,{part}" for query, part in zip(unanswered, ("Ignored", "Private", "Public"), strict=True)
    ]
    lines = [nothing[0], *public[:2], *private[:5], nothing[1], *public[2:], *private[5:], nothing[2]]
    write_list(root / "retrieval_solution_v2.1.csv", "id,images,Usage", lines)
