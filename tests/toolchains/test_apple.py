"""CoreML packages: what they hold, what they take, what is shared, what is refused and what stays unverified."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge_assets.core.types import Built
from edge_assets.core.variant import BuildRequest
from edge_assets.core.verify import parity
from edge_assets.errors import EdgeAssetsError, Refused
from edge_assets.families.apple import APPLE
from edge_assets.pipeline.cell import Cell
from edge_assets.spec.model import ModelSpec, Tensor
from edge_assets.spec.preprocess import ImagePreprocessing
from edge_assets.targets.project import target
from edge_assets.toolchains.coreml import package as coreml
from edge_assets.toolchains.coreml import weights as coreml_weights
from resources import checkpoints
from resources.store import ArtifactStore
from tests.conftest import ROOT
from tests.facts import said
from tests.tiny.network import Colour, Encoder, Unsupported
from tests.tiny.spec import TINY

SPEC = replace(TINY, description="Digits, tiny", owners=("team:tests",), license="MIT")
COLOUR = replace(
    SPEC,
    name="colour",
    architecture="tests.tiny.network:Colour",
    inputs=(Tensor("image", "float32", ("batch", 3, 6, 5)),),
    outputs=(Tensor("scores", "float32", ("batch", 4)),),
    preprocessing=ImagePreprocessing("image", 6, 5, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)
ENCODER = replace(
    SPEC,
    name="encoder",
    architecture="tests.tiny.network:Encoder",
    inputs=(Tensor("ids", "int64", ("batch", "tokens")), Tensor("mask", "int64", ("batch", "tokens"))),
    outputs=(Tensor("embedding", "float32", ("batch", 32)),),
    preprocessing=None,
)


@pytest.fixture(scope="module")
def build(store: ArtifactStore, checkpoint_file: Path) -> Callable[..., Built]:
    """Builds a variant of the tiny model for a target, as a run does; memoized by the store."""

    def make(name: str, on: str, spec: ModelSpec = SPEC) -> Built:
        checkpoint = checkpoints.register(store, spec.name, str(checkpoint_file))
        return Cell(spec, APPLE, target(on), checkpoint, store, log=lambda _line: None).build(name)

    return make


def convert(spec: ModelSpec, model: nn.Module, folder: Path, on: str = "iphone-15-pro") -> dict[str, Any]:
    """The fp16 package of a model in this process, in `folder`/artifact; its facts."""
    (folder / "artifact").mkdir(parents=True)
    checkpoint = folder / "model.safetensors"
    save_file(model.state_dict(), checkpoint)
    parameters = coreml.parameters(spec, target(on))
    request = BuildRequest(spec, parameters, checkpoint, folder / "artifact", print)
    return dict(coreml.build_fp16(request))


def session(spec: ModelSpec, facts: dict[str, Any], folder: Path) -> Any:
    return coreml.open_session(
        folder / "artifact",
        threads=1,
        inputs=[tensor.name for tensor in spec.inputs],
        outputs=[tensor.name for tensor in spec.outputs],
        compute_units="ALL",
        **facts["session"],
    )


def snr_db(built: Built) -> float:
    assert built.parity is not None, built.build.refused or built.unverified
    assert built.parity.snr_db is not None
    return built.parity.snr_db


def specification(store: ArtifactStore, built: Built) -> Any:
    import coremltools

    assert built.artifact is not None
    return coremltools.utils.load_spec(str(coreml.package_in(store.checkout(built.artifact))))


def test_targets_of_one_format_share_the_conversion(build: Callable[..., Built]) -> None:
    phone, mac, old = (build("coreml_package_fp16", on) for on in ("iphone-15-pro", "mac-m-series", "iphone-12"))
    assert phone.build.recipe.sha256 == mac.build.recipe.sha256
    assert mac.reused
    assert phone.build.sha256 != old.build.sha256
    assert (said(phone)["specification_version"], said(old)["specification_version"]) == (9, 7)


def test_compute_units_enter_the_evidence_only_where_coreml_runs(
    build: Callable[..., Built], store: ArtifactStore, checkpoint_file: Path
) -> None:
    phone = target("iphone-15-pro")
    assert phone.options["compute_units"] == "ALL"
    first = build("coreml_package_fp16", phone.name).evidence
    checkpoint = checkpoints.register(store, SPEC.name, str(checkpoint_file))
    slower = replace(phone, options={**phone.options, "compute_units": "CPU_ONLY"})
    cell = Cell(SPEC, APPLE, slower, checkpoint, store, log=lambda _line: None)
    variant = next(variant for variant in APPLE.variants if variant.name == "coreml_package_fp16")
    second = cell.variants.build(variant, cell.reference.build()).evidence
    assert first is not None
    assert second is not None
    assert (first.recipe == second.recipe) == (sys.platform != "darwin")


def test_the_package_says_what_it_is(build: Callable[..., Built], store: ArtifactStore, checkpoint_file: Path) -> None:
    description = specification(store, build("coreml_package_int8", "iphone-15-pro")).description
    metadata, image = description.metadata, description.input[0]
    assert (metadata.shortDescription, metadata.author, metadata.license) == ("Digits, tiny", "team:tests", "MIT")
    own = {n.removeprefix("edge_assets."): v for n, v in metadata.userDefined.items() if n.startswith("edge_assets.")}
    assert own["recipe"] == "int8_weightonly_linear_f16s8_perchannel"
    assert own["model"] == "tiny"
    assert own["checkpoint"].startswith("tiny")
    assert own["checkpoint_sha256"].startswith(metadata.versionString)
    assert len(metadata.versionString) == 8
    assert json.loads(own["preprocessing"])["std"] == [0.35]
    assert image.type.WhichOneof("Type") == "imageType"
    assert "grayscale picture, 8 x 8 pixels" in image.shortDescription
    assert "float32 [batch, 10]" in description.output[0].shortDescription


def test_compressed_packages_are_smaller_and_say_how_much_is_compressed(build: Callable[..., Built]) -> None:
    names = ("fp16", "int8", "lut6", "lut4", "int4")
    builts = {name: build(f"coreml_package_{name}", "iphone-15-pro") for name in names}
    sizes = {name: built.artifact.size_bytes for name, built in builts.items() if built.artifact}
    assert sizes["lut4"] < sizes["lut6"] < sizes["int8"] < sizes["fp16"]
    assert sizes["int4"] < sizes["int8"]
    assert all(said(builts[name])["compressed_share"] > 0.85 for name in names[1:])
    assert snr_db(builts["fp16"]) > snr_db(builts["int8"]) > snr_db(builts["lut4"])


def test_a_palette_that_can_hold_every_value_loses_none() -> None:
    values = np.random.default_rng(0).normal(size=16).astype(np.float16)
    weight = np.random.default_rng(1).choice(values, (48, 60)).astype(np.float16)
    palette, indices = coreml_weights._palette(4, weight)
    assert np.array_equal(palette[indices].reshape(weight.shape), weight)
    assert sorted(palette) == sorted(values)


def test_palettes_of_the_first_releases_decode(build: Callable[..., Built]) -> None:
    """iOS 16 and iOS 18 store a palette in different operations."""
    old, new = (build("coreml_package_lut4", on) for on in ("iphone-12", "iphone-15-pro"))
    assert snr_db(old) == pytest.approx(snr_db(new), abs=1.0)


def test_int4_is_refused_where_the_deployment_target_cannot_decode_it(build: Callable[..., Built]) -> None:
    built = build("coreml_package_int4", "iphone-12")
    assert built.artifact is None
    assert "needs iOS 18 or macOS 15, this target deploys to iOS16; use coreml_package_lut4" in str(built.build.refused)


def test_memory_is_an_estimate_from_the_program(build: Callable[..., Built]) -> None:
    estimate = build("coreml_package_fp16", "iphone-15-pro").facts.memory_estimate
    assert estimate is not None
    weights = 2 * ((144 + 16) + (4608 + 32) + (9216 + 32) + (1280 + 10))  # fp16; batch norms are folded
    activations = 2 * (16 * 8 * 8) * 2  # the first convolution's output and its ReLU's
    assert weights + activations <= estimate.bytes <= weights + activations + 1024
    assert "peak live activations at batch 1" in estimate.how


def test_what_the_evaluator_lacks_leaves_the_variant_unverified(build: Callable[..., Built]) -> None:
    spec = replace(SPEC, architecture="tests.tiny.network:Atanh")
    built = build("coreml_package_fp16", "iphone-15-pro", spec)
    assert built.artifact is not None
    assert built.parity is None
    assert "the evaluator has no atanh, which tiny.mlpackage uses" in str(built.unverified)
    assert built.facts.memory_estimate is None


def test_an_operator_that_coreml_lacks_is_named(tmp_path: Path) -> None:
    spec = replace(SPEC, architecture="tests.tiny.network:Unsupported")
    with pytest.raises(Refused, match=r"operator special_bessel_j0 has no CoreML form; use an ONNX variant"):
        convert(spec, Unsupported(), tmp_path)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Colour()
    contents = []
    for name in ("first", "second"):
        convert(COLOUR, model, tmp_path / name)
        folder = tmp_path / name / "artifact"
        contents.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert {path.name for path in contents[0]} == {"Manifest.json", "model.mlmodel", "weight.bin"}
    assert contents[0] == contents[1]


def test_a_colour_picture_with_a_deviation_per_channel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Colour().eval()
    facts = convert(COLOUR, model, tmp_path)
    assert facts["inputs"] == {"image": "image RGB 5 x 6"}
    raw = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), np.uint8)
    feeds = COLOUR.preprocess.apply({"image": raw})
    with torch.inference_mode():
        expected = model(torch.from_numpy(feeds["image"])).numpy()
    measured = parity.measure(session(COLOUR, facts, tmp_path), feeds, {"scores": expected})
    assert parity.verdict(measured, "fp16")[0], measured.snr_db


def test_a_model_that_takes_blue_first_gets_a_picture_all_the_same(tmp_path: Path, loader: ModuleType) -> None:
    """CoreML takes red first and brings the channels into the layout: the program is in the model's order."""
    torch.manual_seed(0)
    spec = replace(COLOUR, preprocessing=replace(COLOUR.preprocess, order="BGR"))  # type: ignore[type-var]
    model = Colour().eval()
    facts = convert(spec, model, tmp_path)
    assert facts["inputs"] == {"image": "image BGR 5 x 6"}
    raw = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), np.uint8)
    feeds = spec.preprocess.apply({"image": raw})
    with torch.inference_mode():
        expected = model(torch.from_numpy(feeds["image"])).numpy()
    measured = parity.measure(session(spec, facts, tmp_path), feeds, {"scores": expected})
    assert parity.verdict(measured, "fp16")[0], measured.snr_db
    pictures = loader.pictures(feeds["image"], facts["session"]["image"])
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), raw)


def test_pixels_come_back_exactly_and_other_inputs_are_an_error() -> None:
    raw = np.arange(256, dtype=np.uint8).repeat(3 * 6 * 5).reshape(256, 6, 5, 3)
    image = coreml.picture(COLOUR)
    assert image is not None
    found = coreml.pixels(COLOUR.preprocess.apply({"image": raw})["image"], image)
    assert np.array_equal(found.transpose(0, 2, 3, 1), raw)
    with pytest.raises(EdgeAssetsError, match="takes pixels from 0 to 255"):
        coreml.pixels(np.full((1, 3, 6, 5), 9.0, np.float32), image)


def test_a_transformer_with_flexible_batch_and_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    facts = convert(ENCODER, model, tmp_path, on="iphone-12")
    assert facts["inputs"] == dict.fromkeys(("ids", "mask"), "int32 [1..64, 1..512]")
    assert facts["outputs"]["embedding"].startswith("float32")
    ids = np.random.default_rng(0).integers(0, 50, (8, 11))
    feeds = {"ids": ids, "mask": (np.arange(11) < np.arange(4, 12)[:, None]).astype(np.int64)}
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, feeds.values())).numpy()
    measured = parity.measure(session(ENCODER, facts, tmp_path), feeds, {"embedding": expected})
    assert parity.verdict(measured, "fp16")[0], measured.snr_db


@pytest.fixture
def loader() -> ModuleType:
    path = ROOT / "edge_assets" / "toolchains" / "coreml" / "loader.py"
    found = importlib.util.spec_from_file_location("coreml_loader", path)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_released_sample_passes_the_original_pictures(loader: ModuleType) -> None:
    pytest.importorskip("PIL")
    raw = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)
    pictures = loader.pictures(COLOUR.preprocess.apply({"image": raw})["image"], coreml.picture(COLOUR))
    assert [picture.mode for picture in pictures] == ["RGB"] * 3
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), raw)


def test_the_released_sample_says_where_coreml_exists(loader: ModuleType, tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("CoreML exists here")
    with pytest.raises(SystemExit, match="macOS, iOS and iPadOS only"):
        loader.load(tmp_path, {"session": {"compute_units": "ALL"}, "inputs": [], "outputs": []})
