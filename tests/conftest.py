"""What every test relies on: no network, one thread a process, and no deadline on a busy machine."""

from __future__ import annotations

import os

from hypothesis import settings

# Read when torch, matplotlib and huggingface_hub are first imported, which is after this file.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("prunnet", deadline=None)
settings.load_profile("prunnet")
