"""A web page that searches characters in the browser, by the small trained model of this repository: `make page`.

    python examples/page_of_glyphs.py
    prunnet page --output out/page/site --serve

It draws the test characters as PNG files, embeds 18 pictures of each by the dense network, keeps two of each as
queries, and makes the page. Further flags are those of `prunnet page`.
"""

import argparse
import sys
from pathlib import Path

from prunnet_hf import Gallery, PrunNetModel
from prunnet_hf.cli.main import main as prunnet
from prunnet_hf.data.sets.glyphs import load_glyphs

MODEL = Path(__file__).parents[1] / "model_cards" / "glyphs"
IN_GALLERY, QUERIES = 18, 2


def draw_characters(folder: Path) -> None:
    """Write `gallery/<character>/<number>.png` and `queries/<character>/<number>.png`."""
    images = load_glyphs(images_per_class=IN_GALLERY + QUERIES).gallery
    characters = images.features["label"].names
    for place, row in enumerate(images):
        number = place % (IN_GALLERY + QUERIES)
        path = folder / ("gallery" if number < IN_GALLERY else "queries") / characters[row["label"]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(path)


def main() -> int:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/page"), help="Folder of everything that is made.")
    arguments, further = parser.parse_known_args()
    out = arguments.output
    draw_characters(out / "images")
    server = PrunNetModel.from_pretrained(MODEL / "model")
    Gallery.from_folder(server, out / "images" / "gallery").save(out / "gallery")
    words = ["page", MODEL, "--gallery", out / "gallery", "--examples", out / "images" / "queries"]
    words += ["--title", "Find the character", "--output", out / "site", *further]
    return prunnet(list(map(str, words)))


if __name__ == "__main__":
    sys.exit(main())
