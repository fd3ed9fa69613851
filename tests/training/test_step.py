"""The training step: accumulation, statistics, masks, scaling, repeatability, and several processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.modeling_prunnet import PrunNetClassifierOutput
from prunnet_hf.pruning.layers import scored_modules
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.runs.methods import METHODS
from prunnet_hf.training.capacities import pass_capacities
from prunnet_hf.training.gradients import projection_orders
from prunnet_hf.training.methods import Circumstances, create_objective
from prunnet_hf.training.objectives import Gradients, SumObjective
from prunnet_hf.training.passes import MaskedPasses
from prunnet_hf.training.step import MOST_OVERFLOWS, FiniteWatch, TrainingStep
from prunnet_hf.training.teachers import Teacher
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes

WITHOUT_BATCH_STATISTICS = ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 12, "num_heads": 2})
VIT_OF_UNITS = ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8})
"""As the first, with more than half of its parameters in units."""
WITH_BATCH_STATISTICS = ("resnet10t", {"channels": [4, 4, 8, 8], "stem_width": 4})


def tiny_model(
    backbone: tuple[str, dict[str, object]] = WITH_BATCH_STATISTICS, granularity: Granularity = "weight"
) -> PrunNetForImageClassification:
    torch.manual_seed(0)
    name, backbone_kwargs = backbone
    config = PrunNetConfig(
        backbone=name,
        backbone_kwargs=backbone_kwargs,
        image_size=32,
        embedding_dim=6,
        num_labels=4,
        granularity=granularity,
    )
    model = PrunNetForImageClassification(config).train()
    for module in scored_modules(model):
        module.scores.requires_grad_(False)
    return model


def training_step(
    model: PrunNetForImageClassification,
    accelerator: Accelerator,
    method: str = "prunnet",
    *capacities: float,
    teacher: Teacher | None = None,
) -> TrainingStep:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    options = TrainArguments(
        method=method, capacities=list(capacities) or [0.2, 0.5], teacher=teacher and teacher.source
    )
    objective = create_objective(model, options, Circumstances(teacher=teacher))
    passes = pass_capacities(method, options.capacities)
    return TrainingStep(model, wrapped, objective, passes, optimizer, accelerator, max_grad_norm=100.0, seed=0)


def batch(size: int = 8, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(size, 3, 32, 32, generator=generator), "labels": torch.arange(size) % 4}


def halves(whole: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    middle = len(whole["labels"]) // 2
    return [{key: value[part] for key, value in whole.items()} for part in (slice(middle), slice(middle, None))]


def in_double(whole: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**whole, "pixel_values": whole["pixel_values"].double()}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_step_moves_weights_and_scores_and_returns_the_loss_of_each_pass() -> None:
    model = tiny_model()
    step = training_step(model, Accelerator(cpu=True))
    before = state(model)
    losses = step.backward(batch(), 0)
    step.update(0)
    assert losses.shape == (3,)
    assert losses.isfinite().all()
    assert not losses.requires_grad
    layer = "prunnet.backbone.layer4.0.conv1"
    for tensor in ("weight", "scores"):
        assert not torch.equal(model.state_dict()[f"{layer}.{tensor}"], before[f"{layer}.{tensor}"])


def test_two_half_batches_make_the_step_of_the_whole() -> None:
    ends = []
    for batches in ([batch()], halves(batch())):
        model = tiny_model(WITHOUT_BATCH_STATISTICS)
        model.prunnet.projector.eval()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(batches))
        step = training_step(model, accelerator)
        for part in batches:
            with accelerator.accumulate(step.wrapped):
                step.backward(part, 0)
        step.update(0)
        ends.append(dict(model.named_parameters()))
    start = dict(tiny_model(WITHOUT_BATCH_STATISTICS).named_parameters())
    for name, parameter in ends[0].items():
        torch.testing.assert_close(ends[1][name], parameter, rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.equal(ends[0]["classifier.weight"], start["classifier.weight"])


def test_subnetworks_leave_the_dense_statistics_as_a_dense_pass_alone_leaves_them() -> None:
    models = tiny_model(), tiny_model()
    training_step(models[0], Accelerator(cpu=True)).backward(batch(), 0)
    training_step(models[1], Accelerator(cpu=True), "independent", 1.0).backward(batch(), 0)
    buffers = [dict(model.named_buffers()) for model in models]
    assert any(name.endswith("running_mean") and value.any() for name, value in buffers[0].items())
    for name, value in buffers[0].items():
        assert torch.equal(value, buffers[1][name]), name


@pytest.mark.parametrize("backbone", [WITH_BATCH_STATISTICS, VIT_OF_UNITS])
def test_steps_of_units_are_those_of_masked_passes(backbone: tuple[str, dict[str, object]]) -> None:
    ends = []
    for is_thin in (True, False):
        model = tiny_model(backbone, "channel").double()
        step = training_step(model, Accelerator(cpu=True))
        if not is_thin:
            step._make_passes = partial(MaskedPasses, model)
        for number in range(2):
            for part in halves(in_double(batch(seed=number))):
                step.backward(part, number, weight=0.5)
            step.update(number)
        ends.append(state(model))
    start = tiny_model(backbone, "channel").state_dict()
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-6, msg=name)
        if name.endswith("units.scores"):
            assert (value - start[name]).abs().max() > 1e-4, name


def test_units_that_are_trained_alone_are_the_thin_network_trained_by_itself() -> None:
    model = tiny_model(WITH_BATCH_STATISTICS, "channel").double()
    start, alone = state(model), model.prune(0.5).train()
    step = training_step(model, Accelerator(cpu=True), "independent", 0.5)
    mover = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for number in range(3):
        step.backward(in_double(batch(seed=number)), number)
        step.update(number)
        mover.zero_grad()
        alone(**in_double(batch(seed=number))).loss.backward()
        nn.utils.clip_grad_norm_(alone.parameters(), step.max_grad_norm)
        mover.step()
    assert all(torch.equal(value, start[name]) for name, value in state(model).items() if name.endswith(".scores"))
    for name, parameter in model.prune(0.5).named_parameters():
        torch.testing.assert_close(parameter, alone.get_parameter(name), rtol=1e-7, atol=1e-9, msg=name)


def test_masks_are_those_of_the_scores_when_the_step_began() -> None:
    model = tiny_model()
    step = training_step(model, Accelerator(cpu=True))
    first = step.backward(batch(), 0)
    with torch.no_grad():
        for layer in model.prunable_layers().values():
            layer.scores.copy_(1 / layer.scores)  # the opposite ranking
    assert torch.equal(step.backward(batch(), 0), first)
    step.update(0)
    assert not torch.equal(step.backward(batch(), 0)[1:], first[1:])


def test_same_seed_gives_the_same_bits() -> None:
    ends = []
    for _ in range(2):
        model = tiny_model()
        step = training_step(model, Accelerator(cpu=True))
        for number in range(3):
            step.backward(batch(seed=number), number)
            step.update(number)
        ends.append(state(model))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_orders_of_projection_change_from_step_to_step() -> None:
    ends = []
    for number in (0, 1):
        model = tiny_model()
        step = training_step(model, Accelerator(cpu=True))
        step.backward(batch(), number)
        step.update(number)
        ends.append(state(model))
    assert not all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def with_loss_scale(scale: float) -> tuple[PrunNetForImageClassification, TrainingStep]:
    """What fp16 does on a GPU: losses are scaled, and gradients scaled back by the optimiser."""
    model, accelerator = tiny_model(), Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    step = training_step(model, accelerator)
    step.max_grad_norm = float("inf")
    step.backward(batch(), 0)
    step.update(0)
    return model, step


def test_loss_scaling_changes_nothing() -> None:
    (plain, _), (scaled, _) = with_loss_scale(1.0), with_loss_scale(2.0**10)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(scaled.get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=name)


def test_overflow_skips_the_step_and_says_so() -> None:
    before = state(tiny_model())
    model, step = with_loss_scale(2.0**127)
    assert step.accelerator.optimizer_step_was_skipped
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_overflow_under_loss_scaling_is_left_out_by_the_scaler_if_nonfinite_steps_are_skipped() -> None:
    model, step = with_loss_scale(2.0**120)
    step.skip_nonfinite = True
    before, scale = state(model), step.accelerator.scaler.get_scale()
    step.backward({**batch(), "pixel_values": batch()["pixel_values"] * 1e30}, 0)
    step.update(0)
    assert step.skipped == 1
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert step.accelerator.scaler.get_scale() < scale
    step.backward(batch(), 1)
    step.update(1)  # it fails if the scaler doesn't know of the step it left out
    step.watch.check()


def test_steps_that_always_overflow_end_the_run() -> None:
    _, step = with_loss_scale(2.0**120)
    bad = {**batch(), "pixel_values": batch()["pixel_values"] * math.inf}
    step._overflows = MOST_OVERFLOWS - 1
    step.backward(bad, 1)
    step.update(1)
    step.backward(bad, 2)
    with pytest.raises(FloatingPointError, match=r"51 steps.*step 2,.*--learning_rate"):
        step.update(2)


def test_gradients_of_one_step_do_not_reach_the_next() -> None:
    model = tiny_model(WITHOUT_BATCH_STATISTICS)
    model.prunnet.projector.eval()
    start = copy.deepcopy(model)
    step = training_step(model, Accelerator(cpu=True))
    step.backward(batch(seed=5), 0)
    step.update(0)
    model.load_state_dict(start.state_dict())
    step.optimizer.state.clear()
    step.backward(batch(seed=6), 1)
    step.update(1)

    afresh = training_step(start, Accelerator(cpu=True))
    afresh.backward(batch(seed=6), 1)
    afresh.update(1)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in model.state_dict().items())


def test_label_beyond_the_classes_is_named() -> None:
    step = training_step(tiny_model(), Accelerator(cpu=True))
    with pytest.raises(ValueError, match=r"labels.*num_labels=4.*1 to 4"):
        step.backward({**batch(4), "labels": torch.tensor([1, 2, 3, 4])}, 0)


def test_other_wrappers_are_refused() -> None:
    model, accelerator = tiny_model(), Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective, passes = create_objective(model, TrainArguments(method="prunnet")), pass_capacities("prunnet", [0.2])
    with pytest.raises(ValueError, match=r"Sequential.*without FSDP"):
        TrainingStep(model, nn.Sequential(model), objective, passes, optimizer, accelerator, max_grad_norm=1.0, seed=0)


class NoBlockingCopies(TorchDispatchMode):
    """Refuses copies from the host to tensors without values that a GPU's host would wait for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            goes_over = torch.device(options.get("device") or "cpu").type == "meta"
            assert not goes_over or options.get("non_blocking"), "a blocking copy"
        if function is torch.ops.aten.copy_.default and (args[0].is_meta, args[1].is_meta) == (True, False):
            assert args[2] if len(args) > 2 else options.get("non_blocking"), "a blocking copy"
        return function(*args, **options)


def test_a_blocking_copy_is_noticed() -> None:
    with NoBlockingCopies(), pytest.raises(AssertionError, match="a blocking copy"):
        torch.ones(2).to("meta")


def without_values(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("backbone", "granularity", "optimizer"),
    [
        (WITH_BATCH_STATISTICS, "weight", torch.optim.SGD),
        (WITHOUT_BATCH_STATISTICS, "weight", torch.optim.AdamW),
        (WITH_BATCH_STATISTICS, "channel", torch.optim.SGD),
        (VIT_OF_UNITS, "channel", torch.optim.AdamW),
    ],
)
def test_nothing_in_a_step_waits_for_a_device(
    backbone: tuple[str, dict[str, object]],
    granularity: Granularity,
    optimizer: type[torch.optim.Optimizer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which doesn't know such tensors
    # Tensors without values stand for a GPU's: to ask for one, which makes a GPU's host wait, is an error here.
    model, accelerator = tiny_model(backbone, granularity).to("meta"), Accelerator(cpu=True)
    accelerator.state.device = torch.device("meta")
    objective, passes = (
        create_objective(model, TrainArguments(method="prunnet")),
        pass_capacities("prunnet", [0.2, 0.5]),
    )
    moves = optimizer(model.parameters(), lr=0.1, foreach=True)
    step = TrainingStep(model, model, objective, passes, moves, accelerator, max_grad_norm=100.0, seed=0)
    for number in range(2):
        inputs = without_values(batch())
        with NoBlockingCopies():
            losses = step.backward(inputs, number)
            step.update(number)
    assert losses.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        step.watch.check()  # which does ask


@pytest.mark.parametrize("num_draws", [1, 2])
def test_drawn_capacities_stay_for_all_batches_of_a_step(num_draws: int) -> None:
    model = tiny_model()
    step = training_step(model, Accelerator(cpu=True))
    step.capacities = pass_capacities("prunnet", [0.2], sampling="sandwich", num_draws=num_draws)
    step = TrainingStep(
        model, model, step.objective, step.capacities, step.optimizer, step.accelerator, max_grad_norm=1.0, seed=0
    )
    first = step.backward(batch(), 3)
    assert first.shape == (2 + num_draws,)
    assert torch.equal(step.backward(batch(), 3), first)
    step.update(3)


@pytest.fixture
def compiled() -> Iterator[Accelerator]:
    """Accelerate as `--dynamo_backend aot_eager` launches it: traced as for inductor, run without a C++ compiler."""
    torch._dynamo.reset()
    yield Accelerator(cpu=True, dynamo_backend="aot_eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_compiled_passes_make_the_same_steps_from_two_graphs(compiled: Accelerator, granularity: Granularity) -> None:
    ends = []
    counters = torch._dynamo.utils.counters
    counters.clear()
    for is_compiled in (True, False):
        if not is_compiled:
            reset_accelerate()
        model = tiny_model(granularity=granularity)
        step = training_step(model, compiled if is_compiled else Accelerator(cpu=True))
        assert isinstance(step.wrapped, OptimizedModule) == is_compiled
        for number in range(2):
            step.backward(batch(seed=number), number)
            step.update(number)
        ends.append(state(model))
    # One for the dense pass, one for the subnetworks', whatever their number; and no break within them.
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    for name, value in ends[1].items():
        torch.testing.assert_close(ends[0][name], value, rtol=1e-4, atol=1e-5, msg=name)


def another_network(accelerator: Accelerator) -> Teacher:
    """The same on all processes."""
    model = tiny_model(WITHOUT_BATCH_STATISTICS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    return Teacher("out/dense", model.requires_grad_(False).eval(), accelerator)


def several_updates(granularity: Granularity = "weight", method: str = "prunnet") -> dict[str, Tensor]:
    """The state after three updates of two batches each, which all processes share."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = tiny_model(VIT_OF_UNITS if granularity == "channel" else WITHOUT_BATCH_STATISTICS, granularity)
    model.prunnet.projector.eval()
    model.classifier.requires_grad_(METHODS[method].has_classifier)
    teacher = another_network(accelerator) if METHODS[method].needs_teacher else None
    step = training_step(model, accelerator, method, *([0.5] if teacher else []), teacher=teacher)
    if method == "distilled":
        step.objective.teacher = another_network(accelerator).logits
    rank, world_size = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(rank)  # nothing in a step may hang on the random state of a process
    for number in range(6):
        share = {name: tensor[rank::world_size] for name, tensor in batch(12, seed=number).items()}
        is_update = number % 2 == 1
        with nullcontext() if is_update else accelerator.no_sync(step.wrapped):
            step.backward(share, number // 2)
        if is_update:
            step.update(number // 2)
    return state(model)


def updates_of_units() -> dict[str, Tensor]:
    """As `several_updates`, with capacities of whole units."""
    return several_updates("channel")


def compiled_update() -> dict[str, Tensor]:
    """The state after a step with compiled passes, under data parallelism where there are several processes."""
    torch._dynamo.reset()
    accelerator = Accelerator(cpu=True, dynamo_backend="aot_eager")
    model = tiny_model(WITHOUT_BATCH_STATISTICS)
    model.prunnet.projector.eval()
    step = training_step(model, accelerator)
    assert isinstance(step.wrapped, OptimizedModule)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    assert isinstance(step.wrapped._orig_mod, DistributedDataParallel) == (world_size > 1)
    step.backward({name: tensor[rank::world_size] for name, tensor in batch(12).items()}, 0)
    step.update(0)
    return state(model)


def updates_by_uncertainty() -> dict[str, Tensor]:
    """As `several_updates`, with passes that are weighed by what they noted about their own images."""
    return several_updates(method="sfsc")


def updates_by_bct() -> dict[str, Tensor]:
    """As `several_updates`, of one network towards the classifier of another."""
    return several_updates(method="bct")


def updates_by_regression() -> dict[str, Tensor]:
    """As `several_updates`, of one network towards the embeddings of another."""
    return several_updates(method="regression")


def updates_by_distillation() -> dict[str, Tensor]:
    """As `several_updates`, with a teacher of all passes."""
    return several_updates(method="distilled")


def orders_of_two_steps() -> list[Tensor]:
    """A process's first random order of each step, whose own random state is its own."""
    accelerator = Accelerator(cpu=True)
    step = training_step(tiny_model(), accelerator)
    torch.manual_seed(accelerator.process_index)
    merge, orders = step.objective.merge, []

    def note_and_merge(passes: Sequence[Gradients], generator: torch.Generator) -> None:
        orders.append(projection_orders(64, per_row=True, generator=generator.clone_state())[0])
        merge(passes, generator)

    step.objective.merge = note_and_merge
    for number in range(2):
        step.backward(batch(seed=accelerator.process_index), number)
        step.update(number)
    return orders


def two_processes() -> dict[str, Any]:
    """What each of two processes has to show, from a single start of them."""
    found: dict[str, Any] = {}
    towards_teachers = (updates_by_bct, updates_by_regression, updates_by_distillation)
    functions = (several_updates, updates_of_units, updates_by_uncertainty, *towards_teachers)
    for function in (*functions, orders_of_two_steps, compiled_update):
        found[function.__name__] = function()
        reset_accelerate()
    return found


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(2, two_processes, folder=tmp_path_factory.mktemp("by_two"))


def test_compiled_processes_make_the_steps_of_one(by_two: list[dict[str, Any]]) -> None:
    first, second = (rank["compiled_update"] for rank in by_two)
    for name, value in compiled_update().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_agree_bit_by_bit_and_make_the_steps_of_one(
    world_size: int, by_two: list[dict[str, Any]], tmp_path: Path
) -> None:
    by_three = world_size == 3
    ranks = run_processes(3, several_updates, folder=tmp_path) if by_three else [r["several_updates"] for r in by_two]
    first, *others = ranks
    alone, start = several_updates(), state(tiny_model(WITHOUT_BATCH_STATISTICS))
    for name, value in alone.items():
        assert all(torch.equal(first[name], other[name]) for other in others), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)
    moved = [name for name, value in alone.items() if (value - start[name]).abs().max() > 1e-3]
    assert len(moved) > len(alone) / 3  # far more than the tolerance: they do agree about moves


def test_processes_that_train_units_make_the_steps_of_one(by_two: list[dict[str, Any]]) -> None:
    first, second = (rank["updates_of_units"] for rank in by_two)
    start = state(tiny_model(VIT_OF_UNITS, "channel"))
    for name, value in updates_of_units().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)
        if name.endswith("units.scores"):
            assert (value - start[name]).abs().max() > 1e-3, name


def test_processes_weigh_passes_by_the_uncertainty_over_all_their_images(by_two: list[dict[str, Any]]) -> None:
    first, second = (rank["updates_by_uncertainty"] for rank in by_two)
    for name, value in updates_by_uncertainty().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("updates", [updates_by_bct, updates_by_regression, updates_by_distillation])
def test_processes_that_train_towards_a_teacher_make_the_steps_of_one(
    updates: Callable[[], dict[str, Tensor]], by_two: list[dict[str, Any]]
) -> None:
    first, second = (rank[updates.__name__] for rank in by_two)
    start = state(tiny_model(WITHOUT_BATCH_STATISTICS))
    for name, value in updates().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)
        if name.startswith("classifier.") and updates is updates_by_regression:
            assert torch.equal(value, start[name]), name
        elif name.endswith(("mlp.fc1.weight", "classifier.weight", "projector.0.weight")):
            assert (value - start[name]).abs().max() > 1e-3, name


def test_random_orders_are_alike_on_all_processes_and_others_in_each_step(by_two: list[dict[str, Any]]) -> None:
    mine, others = (rank["orders_of_two_steps"] for rank in by_two)
    assert all(torch.equal(order, other) for order, other in zip(mine, others, strict=True))
    assert mine[0].sort().values.tolist() == list(range(64))
    assert not torch.equal(mine[0], mine[1])


ONE = torch.tensor(1.0)


def watch() -> FiniteWatch:
    return FiniteWatch(pass_capacities("prunnet", [0.2, 0.5]), torch.device("cpu"))


def test_finite_steps_pass() -> None:
    found = watch()
    for step in range(3):
        found.note(step, torch.tensor([3.0, 1e30, 0.0]), ONE)
    found.check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_is_named_with_its_step_and_capacity(value: float) -> None:
    found = watch()
    found.note(6, torch.ones(3), ONE)
    found.note(7, torch.tensor([1.0, value, 1.0]), torch.tensor(value))
    with pytest.raises(FloatingPointError, match=r"loss of capacity 0\.20 .*step 7"):
        found.check()


def test_first_bad_step_is_the_one_remembered() -> None:
    found = watch()
    found.note(0, torch.tensor([math.nan, math.nan, 1.0]), ONE)
    found.note(1, torch.tensor([1.0, 1.0, math.nan]), ONE)
    found.note(2, torch.ones(3), ONE)
    with pytest.raises(FloatingPointError, match=r"capacity 1\.00, 0\.20 .*step 0"):
        found.check()


def test_gradient_alone() -> None:
    found = watch()
    found.note(4, torch.ones(3), torch.tensor(math.inf))
    with pytest.raises(FloatingPointError, match=r"merged gradient .*step 4.*--learning_rate"):
        found.check()


class Twice(SumObjective):
    """Twice the model's own loss; notes which passes of which steps it was asked about."""

    def __init__(self, model: PrunNetForImageClassification) -> None:
        super().__init__(model)
        self.asked: list[tuple[int, int]] = []

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        self.asked.append((index, step))
        return 2 * F.cross_entropy(outputs.logits, inputs["labels"])


def test_an_objective_may_have_a_loss_of_its_own() -> None:
    model = tiny_model()
    step = training_step(model, Accelerator(cpu=True), "joint")
    usual = step.backward(batch(), 7)
    passes, step._gradients = step._gradients, [{}, {}, {}]
    step.objective = Twice(model)
    torch.testing.assert_close(step.backward(batch(), 7), 2 * usual)
    assert step.objective.asked == [(0, 7), (1, 7), (2, 7)]
    for once, twice in zip(passes, step._gradients, strict=True):
        for parameter, gradient in once.items():
            torch.testing.assert_close(twice[parameter], 2 * gradient, rtol=1e-4, atol=1e-6)
