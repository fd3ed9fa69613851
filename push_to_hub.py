r"""Publish a finished run on the Hub, so that each device downloads what its capacity needs.

    # list every file with its size and place, without uploading; needs neither token nor network
    python push_to_hub.py out/photos --repo_id org/photos --dry_run

    # the dense progressive model with the card, and a branch for each trained capacity
    hf auth login
    python push_to_hub.py out/photos --repo_id org/photos

    # other capacities that the run evaluated, in repositories of their own, in a collection
    python push_to_hub.py out/photos --repo_id org/photos --capacities 0.2 0.5 --layout repos --collection Photos

    # for machines without prunnet_hf: upload its code too, which runs there if trust_remote_code=True is given
    python push_to_hub.py out/photos --repo_id org/photos --with_code

    # a page that prunnet page has made, as a static Space that names the model
    python push_to_hub.py site --space org/photos-search --repo_id org/photos

    # each network as ONNX, too, for devices and browsers; int8 is made with the images of a folder
    python push_to_hub.py out/photos --repo_id org/photos --onnx --data_dir photos/train

Publishing again uploads what has changed, and keeps what was written by hand in the README on the Hub.
All arguments: python push_to_hub.py --help
"""

import sys

from prunnet_hf.cli.push import main, parse_arguments, push

__all__ = ["main", "parse_arguments", "push"]

if __name__ == "__main__":
    sys.exit(main())
