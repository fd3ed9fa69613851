"""Checkpoints that earlier versions wrote: the same tensors bit for bit, and trainings that go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prunnet_hf import PrunNetModel
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.training.dense_phase import has_dense_phase
from prunnet_hf.training.earlier_defaults import keep_earlier_defaults
from tests.training.tiny_run import arguments, make_photos, train_quietly, weights

CHECKPOINTS = Path(__file__).parent / "checkpoints_0_1"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CHECKPOINTS / "expected.json").read_text(encoding="utf-8"))


def digest(model: PrunNetModel) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + str(tensor.dtype).encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("case", EXPECTED)
def test_they_load_with_the_same_bits(case: str) -> None:
    expected = EXPECTED[case]
    options = {"capacity": expected["capacity"]} if "capacity" in expected else {}
    model = PrunNetModel.from_pretrained(CHECKPOINTS / expected["folder"], **options).eval()
    assert digest(model) == expected["state_sha256"]
    assert model.config.embedding_space == expected["embedding_space"]
    assert (model.config.granularity, model.config.kept_units) == ("weight", None)
    images = (torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).reshape(2, 3, 32, 32) % 97 - 48) / 32
    with torch.inference_mode():
        embeddings = model(images).pooler_output
    # Another processor may add in another order; expected.json has six decimals.
    torch.testing.assert_close(embeddings, torch.tensor(expected["embeddings"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"capacity": 0.2}], ids=["whole", "pruned"])
def test_the_form_that_is_gone_says_so(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"rank16.*no longer.*bands="):
        PrunNetModel.from_pretrained(CHECKPOINTS / "rank16", **options)


def test_a_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CHECKPOINTS / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # the recipe in the checkpoint names folders as they were given
    run = arguments(make_photos(Path("photos")), Path("run"), epochs=4, checkpoint_every=2, resume=True)
    run.model.backbone_kwargs = '{"channels": [4, 4, 8, 8], "stem_width": 4, "drop_rate": 0.1}'
    train_quietly(run)
    found, expected = weights(Path("run/model")), weights(CHECKPOINTS / "plain")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_training_goes_on_by_the_method_and_with_the_network_it_began_with(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "run", tmp_path / "run")
    flags = ["--output_dir", str(tmp_path / "run"), "--resume"]
    run = parse_arguments(flags)
    assert (run.train.method, run.model.granularity, run.model.classifier) == ("distilled", "weight", "cosface")
    keep_earlier_defaults(run)
    assert (run.train.method, run.model.granularity, run.model.classifier) == ("prunnet", "weight", "softmax")
    assert (run.train.score_learning_rate, run.train.score_weight_decay) == (run.train.learning_rate, 5e-4)
    assert not has_dense_phase(run.train)
    assert (run.train.dense_epochs, run.train.dense_learning_rate) == (None, None)
    assert (run.train.capacities, run.train.eval_capacities) == ([0.2, 0.5], [0.3])
    given = parse_arguments([*flags, "--method", "joint", "--capacities", "0.1"])
    keep_earlier_defaults(given)
    assert (given.train.method, given.train.capacities) == ("joint", [0.1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.1, False, 0.1, "softmax")),
        ({"learning_rate": 0.05}, (0.05, False, 0.05, "softmax")),
        ({"scale_dense_gradients": True, "score_learning_rate": 0.2}, (0.1, True, 0.2, "softmax")),
    ],
)
def test_a_training_keeps_the_defaults_it_began_with_but_not_what_is_given_now(
    given: dict[str, float], expected: tuple[object, ...], tmp_path: Path
) -> None:
    shutil.copytree(CHECKPOINTS / "run", tmp_path / "run")
    # This method has a default of its own for each of these, among them rates of scores that follow another argument.
    run = arguments(tmp_path, tmp_path / "run", method="paper", **{"learning_rate": None, **given})
    keep_earlier_defaults(run)
    options = run.train
    found = (options.learning_rate, options.scale_dense_gradients, options.score_learning_rate, run.model.classifier)
    assert found == expected
