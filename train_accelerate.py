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

from prunnet_hf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
