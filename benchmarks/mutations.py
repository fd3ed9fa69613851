"""Thousands of damaged and forged checkpoints: each must load as it was saved, or give a clear error.

    python benchmarks/mutations.py --files packed bands units --mutations 10000

A tiny model is saved in each form, and its weight files and index are mutated (`mutants.py`). Each result is loaded in
a child process that may allocate little beyond what it holds. Allowed are the tensors that were saved, an error that
this package (or transformers, where it reads the file) raises itself, and, where checksums were forged, other
well-formed tensors. Anything else is a failure: a crash, a failed allocation, an error from the depths, other weights
without a word. Failures are listed, to be repeated by `--only FORM NUMBER`, and the exit status is 1.
"""

import argparse
import collections
import linecache
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils import logging

from mutants import mutate
from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.storage.form import Source
from prunnet_hf.storage.forms import read_weights

FORMS = ("packed", "bands", "bands-0.3", "units", "units-0.3")
ALLOWANCE = 512 * 2**20
"""Bytes of address space that loading a model of some kilobytes may take beyond what the process has."""
ACCEPTED = ("same tensors", "forged tensors", "clear ")


def main() -> None:
    """Print the outcomes of each form; end with status 1 if one of them must not be."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", choices=FORMS, default=FORMS, help="forms of a checkpoint")
    parser.add_argument("--mutations", type=int, default=10_000, help="of each form")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs=2, metavar=("FORM", "NUMBER"), help="repeat one mutation, with its traceback")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        form, start, stop = arguments.child
        run_child(form, range(int(start), int(stop)), arguments.seed)
        return
    if arguments.only:
        form, number = arguments.only
        run_child(form, range(int(number), int(number) + 1), arguments.seed, verbose=True)
        return
    failures = [failure for form in arguments.files for failure in report(form, arguments.mutations, arguments.seed)]
    print(f"\n{len(failures)} failures" + "".join(f"\n  {line}" for line in failures[:30]))
    sys.exit(1 if failures else 0)


def report(form: str, count: int, seed: int) -> list[str]:
    """Print how often each outcome came; return those that must not be."""
    outcomes = list(outcomes_of(form, count, seed))
    print(f"\n{form}: {len(outcomes)} mutations")
    for outcome, times in collections.Counter(outcome for outcome, _ in outcomes).most_common():
        print(f"  {times:6} {outcome}", flush=True)
    bad = [(number, *outcome) for number, outcome in enumerate(outcomes) if not outcome[0].startswith(ACCEPTED)]
    return [f"--seed {seed} --only {form} {number}: {outcome}; {what}" for number, outcome, what in bad]


def outcomes_of(form: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """The outcome of each mutation and what it was; a child that dies is replaced, and its last mutation failed."""
    done = 0
    while done < count:
        command = [sys.executable, __file__, "--seed", str(seed), "--child", form, str(done), str(count)]
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            for line in child.stdout or ():
                if line.startswith("outcome\t"):
                    _, outcome, what = line.rstrip("\n").split("\t")
                    yield outcome, what
                    done += 1
        if done < count:
            yield f"CRASH with status {child.returncode}", "unknown"
            done += 1


def run_child(form: str, numbers: range, seed: int, verbose: bool = False) -> None:
    """Mutate and load, one line an outcome."""
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        saved, mutated = Path(folder, "saved"), Path(folder, "mutated")
        save(form, saved)
        expected = PrunNetModel.from_pretrained(saved, **capacity_of(form)).state_dict()
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + ALLOWANCE, held + ALLOWANCE))
        for number in numbers:
            shutil.rmtree(mutated, ignore_errors=True)
            shutil.copytree(saved, mutated)
            what, is_forged = mutate(mutated, random.Random(f"{seed} {number}"))
            outcome = outcome_of(mutated, form, expected, is_forged, verbose)
            print("outcome", outcome, what, sep="\t", flush=True)


def save(form: str, folder: Path) -> None:
    """Save a tiny model, the same each time, in a form."""
    torch.manual_seed(0)
    has_units = form.startswith("units")
    backbone_kwargs = {"channels": [4, 4, 4, 16] if has_units else [4, 4, 8, 8], "stem_width": 4}
    model = PrunNetModel(
        PrunNetConfig(
            backbone="resnet10t",
            backbone_kwargs=backbone_kwargs,
            image_size=32,
            embedding_dim=6,
            granularity="channel" if has_units else "weight",
        )
    )
    if form == "packed":
        model.prune(0.2).save_pretrained(folder)
    else:
        model.save_pretrained(folder, bands=[0.2, 0.4])


def capacity_of(form: str) -> dict[str, float]:
    """What `from_pretrained` is asked for: `bands-0.3` stands for a subnetwork, which needs ranks of one band."""
    return {"capacity": 0.3} if form.endswith("-0.3") else {}


def outcome_of(folder: Path, form: str, expected: dict[str, torch.Tensor], is_forged: bool, verbose: bool) -> str:
    """What comes of loading a mutated checkpoint."""
    try:
        found = load(folder, form, expected)
    except (MemoryError, RuntimeError) as error:
        return failed(
            error, "MEMORY" if "alloc" in str(error) or isinstance(error, MemoryError) else "UNCLEAR", verbose
        )
    except (ValueError, OSError) as error:
        if verbose:
            traceback.print_exc()
        return f"clear {type(error).__name__}" if is_raised_on_purpose(error) else failed(error, "UNCLEAR", verbose)
    except Exception as error:  # noqa: BLE001  # whatever it is, it must be counted
        return failed(error, "UNCLEAR", verbose)
    if same(found, expected):
        return "same tensors"
    return "forged tensors" if is_forged else "OTHER TENSORS without an error"


def load(folder: Path, form: str, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that a user gets; the model is only built where that can change them."""
    capacity = capacity_of(form).get("capacity")
    weights = read_weights(PrunNetModel, Source(folder, {}), None, capacity)
    if weights is not None and same(weights.state_dict, expected):
        return weights.state_dict
    return PrunNetModel.from_pretrained(folder, **capacity_of(form)).state_dict()


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors agree, bit for bit."""
    return found.keys() == expected.keys() and all(bits(found[name]) == bits(expected[name]) for name in expected)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """All that makes a tensor what it is."""
    data = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return tensor.dtype, tensor.shape, data


def is_raised_on_purpose(error: BaseException) -> bool:
    """Whether the error comes from a `raise` of this package or transformers, not from what a call inside ran into."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = "prunnet_hf" in Path(frame.filename).parts or "transformers" in Path(frame.filename).parts
    return ours and linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise")


def failed(error: BaseException, kind: str, verbose: bool) -> str:
    """Name a failure by its error and place."""
    if verbose:
        traceback.print_exc()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:80]
    return f"{kind} {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {text}"


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/mutations.py", main))
