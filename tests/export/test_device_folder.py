"""Folders for devices: what is in them, that every file gives torch's embeddings, and that bad ones are left out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import prunnet_hf
from prunnet_hf import PrunNetImageProcessor, PrunNetPreTrainedModel
from prunnet_hf.export.device_folder import ExportedFile, export_folder, find_calibration_images, refuse_filled
from tests.processes import die_at_rename
from tests.tiny_models import images, tiny_of_units

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)).resize((50, 40))
    for seed in range(40)
]


@pytest.fixture(scope="module")
def thin() -> PrunNetPreTrainedModel:
    """A subnetwork, with an image processor of its own. No test may change it."""
    dense = tiny_of_units()
    dense.image_processor = PrunNetImageProcessor.for_image_size(32)
    return dense.prune(0.5)


@pytest.fixture(scope="module")
def exported(thin: PrunNetPreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportedFile, ...]:
    output = tmp_path_factory.mktemp("devices") / "new" / "phone"
    return export_folder(thin, output, processing="inside", precisions=["fp32", "fp16", "int8"], images=PICTURES)


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["pooler_output"], inputs)
    return found


def test_the_layout_is_that_of_repositories_for_transformers_js(exported: tuple[ExportedFile, ...]) -> None:
    folder = exported[0].path.parents[1]
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "config.json",
        "onnx/model.onnx",
        "onnx/model_fp16.onnx",
        "onnx/model_quantized.onnx",
        "onnx/model_with_processing.onnx",
        "onnx/model_with_processing_fp16.onnx",
        "onnx/model_with_processing_quantized.onnx",
        "preprocessor_config.json",
    ]
    assert {file.path: file.size for file in exported} == {
        path: path.stat().st_size for path in (folder / "onnx").iterdir()
    }
    assert [file.precision for file in exported] == ["fp32", "fp32", "fp16", "fp16", "int8", "int8"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    config = json.loads((folder / "config.json").read_text())
    expected = {"model_type": "prunnet", "capacity": 0.5, "architectures": ["PrunNetModel"]}
    assert {name: config[name] for name in expected} == expected
    assert config["transformers.js_config"] == {"dtype": "fp32"}
    assert "id2label" not in config
    processor = PrunNetImageProcessor.from_pretrained(folder)
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (37, 32)


def test_embeddings_are_those_of_torch_with_unit_length(
    thin: PrunNetPreTrainedModel, exported: tuple[ExportedFile, ...]
) -> None:
    for count in (1, 5):
        with torch.inference_mode():
            expected = normalize(thin.base_model(images(count)).pooler_output).numpy()
        found = run(exported[0].path, pixel_values=images(count).numpy())
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("place", "tolerance"), [(1, 1e-3), (3, 1e-3), (5, 2e-2)], ids=["fp32", "fp16", "int8"])
@pytest.mark.parametrize("shape", [(32, 32), (200, 30), (40, 333), (3, 2)])
def test_a_picture_of_any_size_is_embedded_as_encode_embeds_it(
    shape: tuple[int, int],
    place: int,
    tolerance: float,
    thin: PrunNetPreTrainedModel,
    exported: tuple[ExportedFile, ...],
) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    picture = Image.fromarray(drawn).resize(shape)
    found = run(exported[place].path, image=np.array(picture))
    assert found.shape == (1, 8)
    np.testing.assert_allclose(np.linalg.norm(found), 1, atol=1e-6)
    assert 1 - (found @ thin.encode(picture).T).item() <= tolerance


def test_a_file_is_about_as_large_as_its_weights_and_names_no_folder_of_this_machine(
    thin: PrunNetPreTrainedModel, exported: tuple[ExportedFile, ...]
) -> None:
    weights = 4 * sum(parameter.numel() for parameter in thin.base_model.parameters())
    for file in exported:
        share, more = {"fp32": (1, 15_000), "fp16": (1 / 2, 15_000), "int8": (1 / 4, 40_000)}[file.precision]
        assert share * weights * 0.9 < file.size < share * weights + more  # the graph, the scales of int8
        assert str(Path(prunnet_hf.__file__).parent).encode() not in file.path.read_bytes()


OPENVINO = """
import sys, numpy, openvino
for file in sys.argv[1:]:
    network = openvino.Core().compile_model(file, "CPU")
    given = numpy.load("image.npy" if "with_processing" in file else "pixel_values.npy")
    numpy.save(file + ".npy", network([given])["pooler_output"])
"""


def test_openvino_reads_every_file_and_gives_torchs_embeddings(
    thin: PrunNetPreTrainedModel, exported: tuple[ExportedFile, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "image.npy", np.array(PICTURES[0]))
    np.save(tmp_path / "pixel_values.npy", thin.image_processor(PICTURES[0], return_tensors="np")["pixel_values"])
    files = [shutil.copy(file.path, tmp_path) for file in exported]
    # In a process of its own: threads that OpenVINO leaves behind don't meet those that other tests fork.
    subprocess.run([sys.executable, "-c", OPENVINO, *files], cwd=tmp_path, check=True, timeout=120)
    expected = thin.encode(PICTURES[0])
    for file, copied in zip(exported, files, strict=True):
        found = np.load(f"{copied}.npy")
        assert found.shape == (1, 8)
        assert 1 - (found @ expected.T).item() <= (2e-2 if file.precision == "int8" else 1e-3), file.path.name


def test_embeddings_that_differ_leave_nothing(tmp_path: Path) -> None:
    model = tiny_of_units()
    with torch.no_grad():
        model.prunnet.projector[0].bias.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"model\.onnx' isn't written.*differ"):
        export_folder(model, tmp_path)
    assert [*tmp_path.iterdir()] == []


class Mirroring(PrunNetImageProcessor):
    """Does something that no setting says."""

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().process_image(image, *args, **kwargs).flip(-1)


def test_processing_that_differs_leaves_nothing(tmp_path: Path) -> None:
    model = tiny_of_units()
    model.image_processor = Mirroring.for_image_size(32)
    with pytest.raises(RuntimeError, match=r"processing='inside' is refused.*distance.*0\.001.*Leave out"):
        export_folder(model, tmp_path / "new", processing="inside")
    assert [*tmp_path.iterdir()] == []


class MirroringOfOneSize(PrunNetImageProcessor):
    """Does with images of 50 x 40 pixels what no setting says."""

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        pixels = super().process_image(image, *args, **kwargs)
        return pixels.flip(-1) if image.size == (50, 40) else pixels


def test_images_that_are_given_are_compared_as_a_whole(tmp_path: Path) -> None:
    model = tiny_of_units()
    model.image_processor = MirroringOfOneSize.for_image_size(32)
    with pytest.raises(RuntimeError, match=r"processing='inside' is refused.*images\[[0-9]+\].*0\.001.*Leave out"):
        export_folder(model, tmp_path / "new", processing="inside", images=PICTURES[:3])
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path, thin: PrunNetPreTrainedModel) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for output in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(FileExistsError, match=f"output='{output}' exists.*Choose another name"):
            export_folder(thin, output)
    assert [*tmp_path.iterdir()] == [tmp_path / "mine.txt"]


def test_an_export_that_was_killed_leaves_a_free_folder(tmp_path: Path, thin: PrunNetPreTrainedModel) -> None:
    output = tmp_path / "phone"
    die_at_rename(
        2, lambda: export_folder(thin, output)
    )  # of the list of files, of onnx/, of preprocessor_config.json
    assert (output / "onnx").exists()
    assert not (output / "config.json").exists()
    refuse_filled(output)
    assert [*output.iterdir()] == []


def test_processing_is_inside_or_outside(tmp_path: Path, thin: PrunNetPreTrainedModel) -> None:
    with pytest.raises(ValueError, match="processing must be one of 'outside', 'inside'; got 'within'"):
        export_folder(thin, tmp_path / "new", processing="within")  # type: ignore[arg-type]
    assert [*tmp_path.iterdir()] == []


def test_int8_that_moves_embeddings_is_refused(tmp_path: Path, thin: PrunNetPreTrainedModel) -> None:
    """A feature that is huge, and that the projector doesn't use, takes all levels of the others."""
    model = deepcopy(thin)
    with torch.no_grad():
        model.base_model.backbone.layer4[-1].bn2.bias[0] = 1e5
        model.base_model.projector[0].weight[:, 0] = 0
    with pytest.raises(
        RuntimeError, match=r"precision 'int8' is refused at capacity 0\.50.*where 0\.02 is allowed.*more images"
    ):
        export_folder(model, tmp_path, precisions=["int8"], images=PICTURES)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("precisions", "message"),
    [
        (["fp8"], "precisions must be one or more of 'fp32', 'fp16', 'int8'; got 'fp8'"),
        ([], r"precisions must be .*; got \[\]"),
        (["fp32", "int8"], "'int8' needs images.*--data_dir"),
    ],
)
def test_precisions_that_are_refused(
    precisions: list[Any], message: str, tmp_path: Path, thin: PrunNetPreTrainedModel
) -> None:
    with pytest.raises(ValueError, match=message):
        export_folder(thin, tmp_path / "new", precisions=precisions)
    assert [*tmp_path.iterdir()] == []


def test_calibration_takes_some_of_the_images_of_a_folder_always_the_same(tmp_path: Path) -> None:
    for place, picture in enumerate(PICTURES[:5]):
        (tmp_path / f"class-{place % 2}").mkdir(exist_ok=True)
        picture.save(tmp_path / f"class-{place % 2}" / f"{place}.png")
    found = find_calibration_images(tmp_path, 3)
    assert len(set(found)) == 3
    assert set(found) < set(tmp_path.rglob("*.png"))
    assert find_calibration_images(tmp_path, 3) == found
    assert len(find_calibration_images(tmp_path, 9)) == 5
    with pytest.raises(ValueError, match="calibration_images must be at least 1; got 0"):
        find_calibration_images(tmp_path, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data_dir=.*empty' holds no images"):
        find_calibration_images(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"data_dir.*missing"):
        find_calibration_images(tmp_path / "missing")
