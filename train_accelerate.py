r"""Train a PrunNet model.

    # the built-in data set
    accelerate launch train_accelerate.py --config recipes/demo.yaml

    # your own photos: photos/train/<class>/<image>, photos/test/<class>/<image>
    accelerate launch train_accelerate.py --dataset image_folder --data_dir photos --output_dir out/photos

    # several GPUs, bf16; flags win over the recipe
    accelerate launch --multi_gpu --mixed_precision bf16 train_accelerate.py --config recipes/grocery.yaml \
        --data_dir DIR

    # fine-tune a checkpoint, local or on the Hub, on other classes
    accelerate launch train_accelerate.py --model_name_or_path org/name --dataset image_folder --data_dir photos

    # evaluate a finished run again
    python train_accelerate.py --config out/photos/config.yaml --eval_only

All arguments: python train_accelerate.py --help
"""

import sys

from transformers.utils.logging import disable_progress_bar

from prunnet_hf.commands import run_command
from prunnet_hf.hub.card import write_card
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.training.engine import train
from prunnet_hf.training.processes import Interruption


def main() -> int:
    """Train as the command line says and return 0; or print in one line why it failed and return 1."""
    return run_command("train_accelerate.py", train_and_describe)


def train_and_describe() -> None:
    """Train as the command line says, then write the model card."""
    disable_progress_bar()  # transformers shows one for every model saved
    result = train(parse_arguments())
    if result.is_main_process:
        with Interruption("only the model card is missing, which --eval_only writes."):
            print(write_card(result.directory))


if __name__ == "__main__":
    sys.exit(main())
