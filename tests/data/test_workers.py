"""Workers that are left when a process exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXITS = """
import sys, time
from multiprocessing import util

from torch.utils.data import DataLoader

from prunnet_hf.data.workers import batches_of, ignore_stopping

print("imported", file=sys.stderr, flush=True)  # other packages may have warned of each other until here
batches = batches_of(DataLoader(range(1000), batch_size=1, num_workers=2, worker_init_fn=ignore_stopping))
next(batches)
# The signal that a worker has ended comes while its end is still to be noticed, as on a busy machine.
util.Finalize(None, time.sleep, args=(0.2,), exitpriority=99)
sys.exit(143)
"""


def test_a_process_that_exits_with_workers_left_ends_them_and_says_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EXITS], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stderr.partition("imported\n")[1:]) == (143, ("imported\n", ""))
