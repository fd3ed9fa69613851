"""Fine-tune a PrunNet model with transformers' own Trainer, then prune it.

    python examples/transformers_trainer.py                                      # glyphs drawn for this
    python examples/transformers_trainer.py --model org/name --data_dir photos   # photos/{train,test}/<class>/<image>

The Trainer calls `model(pixel_values, labels)`, which trains the dense network alone. The subnetworks share its
weights, but the scores that choose their weights stay as they were, and no loss sees the subnetworks: the smaller they
are, the more they lose. `train_accelerate.py` trains all of them together. After any training of your own, renew:

- the running statistics of the subnetworks, with `calibrate`: the stored ones belong to the old weights;
- the id of the embedding space, with `renew_embedding_space`: galleries of the old model have to be embedded again.
  Whoever forgets it gets a new id and a warning when the model is saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from prunnet_hf import PrunNetForImageClassification, load_splits
from prunnet_hf.data.sets.glyphs import load_glyphs
from prunnet_hf.data.splits import RetrievalSplits
from prunnet_hf.retrieval.dataset_encoding import encode, pixel_batches
from prunnet_hf.retrieval.protocols import Side, leave_one_out

GLYPHS = Path(__file__).parents[1] / "model_cards" / "glyphs" / "model"
CAPACITIES = (0.1, 0.2, 0.6, 1.0)


def main() -> None:
    """Fine-tune, renew, prune, save; and evaluate at each stage."""
    arguments = parse_arguments()
    splits = load_splits("image_folder", arguments.data_dir) if arguments.data_dir else load_glyphs(100, seed=1)
    classes = dict(enumerate(splits.train.features["label"].names))
    # Everything is loaded except the classifier, which is new for these classes; transformers reports that.
    model = PrunNetForImageClassification.from_pretrained(arguments.model, id2label=classes)
    processor = model.image_processor  # saved and pruned with the model
    report("before", model, splits)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values, "labels": torch.tensor([row["label"] for row in rows])}

    options = TrainingArguments(
        output_dir=arguments.output_dir,
        num_train_epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        per_device_train_batch_size=arguments.batch_size,
        dataloader_drop_last=True,  # batch norms need more than one image
        remove_unused_columns=False,  # `collate` reads the column `image`
        save_strategy="no",  # what the Trainer saves has the old statistics
        report_to="none",
    )
    Trainer(model, options, data_collator=collate, train_dataset=splits.train).train()
    model.renew_embedding_space()
    report("fine-tuned, old statistics", model, splits)

    some = splits.train.shuffle(seed=0).select(range(min(1024, len(splits.train))))
    model.calibrate(pixel_batches(some, processor))
    report("fine-tuned, renewed", model, splits)

    for name, network in {"model": model, "subnetworks/capacity-0.20": model.prune(capacity=0.2)}.items():
        network.save_pretrained(f"{arguments.output_dir}/{name}")
    print(f"saved in {arguments.output_dir}: the dense model, and the subnetwork of capacity 0.2")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=str(GLYPHS), help="a dense PrunNet checkpoint, local or on the Hub")
    parser.add_argument(
        "--data_dir", help="a folder with train/ and test/, each with a folder of images for each class"
    )
    parser.add_argument("--output_dir", default="out/fine-tuned")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--batch_size", type=int, default=32)
    return parser.parse_args()


def report(title: str, model: PrunNetForImageClassification, splits: RetrievalSplits) -> None:
    """Print how often the nearest image is of the query's class; the dense network embeds the gallery."""
    networks = {capacity: model.prune(capacity).prunnet for capacity in CAPACITIES}
    embeddings = encode(networks, splits.gallery, progress=False)
    labels = {"label": splits.gallery["label"]}
    gallery = Side(embeddings[1.0], labels)
    recalls = {
        capacity: leave_one_out(Side(found, labels), gallery)["recall@1"] for capacity, found in embeddings.items()
    }
    print(f"{title}, space {model.config.embedding_space}: recall@1", {c: f"{r:.0%}" for c, r in recalls.items()})


if __name__ == "__main__":
    main()
