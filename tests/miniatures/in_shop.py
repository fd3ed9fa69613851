"""A small In-shop benchmark in the official layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

TRAIN_ITEMS = (4801, 2, 77, 4510, 300, 1250)
TEST_ITEMS = (78, 1, 5000, 640)
SIZE = 48
PARTITION_HEADER = "image_name item_id evaluation_status"
BOX_HEADER = "image_name clothes_type pose_type x_1 y_1 x_2 y_2"


def make_in_shop(
    root: Path, *, train_images: int = 4, query_images: int = 2, gallery_images: int = 8
) -> list[tuple[str, str, str]]:
    """Write the images, `Eval/list_eval_partition.txt` and `Anno/list_bbox_inshop.txt` of six and four items.

    Args:
        root: Where `img/`, `Eval/` and `Anno/` go.
        train_images: How many a training item has.
        query_images: How many queries a test item has.
        gallery_images: How many gallery images a test item has.

    Returns:
        The image names, item ids and statuses in the order of the list, which mixes training and test items.
    """
    wanted = [(item, "train", train_images) for item in TRAIN_ITEMS]
    wanted += [(item, "query", query_images) for item in TEST_ITEMS]
    wanted += [(item, "gallery", gallery_images) for item in TEST_ITEMS]
    rows = []
    for item, status, count in sorted(wanted, key=lambda row: row[0] % 10):
        for view in range(1, count + 1):
            name = f"img/WOMEN/Dresses/id_{item:08d}/{view:02d}_{status}.jpg"
            _draw(root / name, item, view)
            rows.append((name, f"id_{item:08d}", status))
    write_list(root / "Eval" / "list_eval_partition.txt", PARTITION_HEADER, rows)
    boxes = [(name, "3", "1", "4", "2", "44", "46") for name, _, _ in reversed(rows)]
    write_list(root / "Anno" / "list_bbox_inshop.txt", BOX_HEADER, boxes)
    return rows


def write_list(path: Path, header: str, rows: Sequence[Sequence[str]]) -> None:
    """Write a list as the owners do: the count, the header, and columns padded by runs of spaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    padded = [" ".join([row[0].ljust(70), *(word.ljust(8) for word in row[1:])]) for row in rows]
    path.write_text("".join(f"{line}\n" for line in (str(len(rows)), header, *padded)))


def _draw(path: Path, item: int, view: int) -> None:
    """Stripes whose colour and width are the item's, moved by the view."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (SIZE, SIZE), (230, 230, 230))
    draw = ImageDraw.Draw(image)
    width = 3 + item % 5
    for left in range(view % 5, SIZE, 2 * width):
        colour = (item * 37 % 256, item * 91 % 256, item * 53 % 256)
        draw.rectangle((left, 0, left + width - 1, SIZE - 1), fill=colour)
    image.save(path, quality=90)
