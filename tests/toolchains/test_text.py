"""Models of texts: one tokenizer for every runtime, in releases and browsers too, and static programs of one length."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from edge_assets.core import data
from edge_assets.core.types import Built
from edge_assets.core.variant import CHECKPOINT
from edge_assets.core.verify import parity
from edge_assets.errors import DataError, InvalidSpec, MissingTool, Refused
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.spec import preprocess
from edge_assets.spec.model import Calibration, Dataset, Evaluation, ModelSpec, Tensor
from edge_assets.spec.preprocess import TextPreprocessing
from edge_assets.targets.project import target
from edge_assets.toolchains.onnx import fixed_batch
from edge_assets.toolchains.web import bundle as web_bundle
from edge_assets.toolchains.web.chromium import Chromium, Server
from resources import checkpoints
from resources.store import ArtifactStore, open_store
from tests.conftest import ROOT
from tests.facts import said
from tests.native import largest_differences, onnxruntime, run_onnx_sample
from tests.samples import kept
from tests.tiny import text as topics
from tests.tiny.text import LENGTH

LONG = "The ship near the harbour and the ship near the anchor and the gull with the sailor under the tide."
TEXTS = np.array(["A cloud.", "Ships and waves, salt!", "", LONG])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topics.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def spec(tokenizer: Path) -> ModelSpec:
    return ModelSpec(
        name="topics",
        architecture="tests.tiny.network:Topics",
        checkpoints="checkpoints",
        inputs=(Tensor("ids", "int64", ("batch", "tokens")), Tensor("mask", "int64", ("batch", "tokens"))),
        outputs=(Tensor("logits", "float32", ("batch", 3)),),
        preprocessing=TextPreprocessing("text", str(tokenizer), LENGTH, ("ids", "mask")),
        axis_ranges={"tokens": (1, LENGTH, 32)},
        calibration=Calibration(Dataset("tests.tiny.text:calibration")),
        evaluation=Evaluation(Dataset("tests.tiny.text:evaluation"), minimum=200),
        targets=("graviton3",),
        class_names=tuple(topics.WORDS),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    folder = tmp_path_factory.mktemp("text")
    return open_store(str(folder / "store"), folder / "cache")


@pytest.fixture(scope="module")
def checkpoint(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The topics model, trained for a second."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import cross_entropy

    from tests.tiny.network import Topics

    torch.manual_seed(0)
    model = Topics()
    raw = topics.train()
    feeds = spec.preprocess.apply(raw)
    ids, mask, labels = (torch.from_numpy(array) for array in (feeds["ids"], feeds["mask"], raw["label"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(labels)).split(50):
            loss = cross_entropy(model(ids[batch], mask[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("trained") / "topics.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cell(spec: ModelSpec, store: ArtifactStore, checkpoint: Path) -> Callable[[str], Cell]:
    def make(on: str) -> Cell:
        registered = checkpoints.register(store, spec.name, str(checkpoint))
        return Cell(spec, FAMILIES[target(on).family], target(on), registered, store, log=lambda _line: None)

    return make


@pytest.fixture(scope="module")
def build(cell: Callable[[str], Cell]) -> Callable[[str, str], Built]:
    """Builds a variant for a target, its sources first; memoized by the store."""

    def make(name: str, on: str) -> Built:
        return cell(on).build(name)

    return make


# --- preprocessing -------------------------------------------------------------------------------------


def test_tokens_are_the_tokenizers_cut_and_padded_to_one_length(tokenizer: Path) -> None:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(tokenizer))
    found = TextPreprocessing("text", str(tokenizer), LENGTH).apply({"text": TEXTS})
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (np.dtype(np.int64), (4, LENGTH))
    )
    separator = plain.token_to_id("[SEP]")
    for ids, mask, text in zip(found["input_ids"], found["attention_mask"], TEXTS.tolist(), strict=True):
        whole = plain.encode(text).ids
        expected = whole if len(whole) <= LENGTH else [*whole[: LENGTH - 1], separator]
        assert ids[mask == 1].tolist() == expected
        assert not ids[mask == 0].any()
    assert plain.encode(LONG).ids[LENGTH - 1] != separator, "or cutting is not tested"


def test_tokens_of_a_text_do_not_depend_on_the_others(tokenizer: Path) -> None:
    text = TextPreprocessing("text", str(tokenizer), LENGTH)
    together = text.apply({"text": TEXTS})["input_ids"]
    for i in range(len(TEXTS)):
        np.testing.assert_array_equal(text.apply({"text": TEXTS[i : i + 1]})["input_ids"][0], together[i])


def test_what_does_not_fit_is_named(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TextPreprocessing("text", str(tokenizer), LENGTH)
    with pytest.raises(ValueError, match="no field 'text' in the data"):
        text.apply({"title": TEXTS})
    with pytest.raises(ValueError, match="'text' must be strings of shape"):
        text.apply({"text": np.zeros(3)})
    with pytest.raises(InvalidSpec, match="inputs must name token ids"):
        replace(text, inputs=("ids",))
    shutil.copy(tokenizer, tmp_path)
    monkeypatch.setattr(preprocess, "HERE", tmp_path)
    found = preprocess.from_dict(json.loads(json.dumps(text.to_dict())))
    np.testing.assert_array_equal(found.apply({"text": TEXTS})["input_ids"], text.apply({"text": TEXTS})["input_ids"])
    with pytest.raises(ValueError, match="is not the released tokenizer: sha256"):
        preprocess.from_dict(text.to_dict() | {"sha256": "0" * 64}).apply({"text": TEXTS})


def test_a_spec_whose_length_does_not_fit_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(InvalidSpec, match="best size must be the preprocessing's max_length, 12, .* not 16"):
        replace(spec, axis_ranges={"tokens": (1, 16, 32)})
    text = spec.preprocess
    assert isinstance(text, TextPreprocessing)
    with pytest.raises(InvalidSpec, match=r"preprocessing.tokenizer: not found: nowhere/tokenizer.json"):
        replace(spec, preprocessing=replace(text, tokenizer="nowhere/tokenizer.json"))


def test_the_recipe_knows_the_tokenizers_content_and_not_its_place(
    spec: ModelSpec, cell: Callable[[str], Cell], tokenizer: Path, tmp_path: Path
) -> None:
    text = spec.preprocess
    assert isinstance(text, TextPreprocessing)
    moved, changed = (tmp_path / name / "tokenizer.json" for name in ("moved", "changed"))
    for path, content in ((moved, tokenizer.read_text()), (changed, tokenizer.read_text().replace("gull", "fish"))):
        path.parent.mkdir()
        path.write_text(content)
    place = cell("graviton3")
    recipes = {
        path: replace(place, spec=replace(spec, preprocessing=replace(text, tokenizer=str(path)))).data.check().recipe
        for path in (tokenizer, moved, changed)
    }
    assert recipes[moved].sha256 == recipes[tokenizer].sha256 != recipes[changed].sha256
    assert "tokenizers" in recipes[tokenizer].tools
    assert str(tokenizer.parent) not in json.dumps(recipes[tokenizer].parameters)


def test_without_tokenizers_the_extra_is_named(cell: Callable[[str], Cell], uninstall: Callable[[str], None]) -> None:
    uninstall("tokenizers")
    with pytest.raises(MissingTool, match=r"tokenizers is not installed: pip install 'edge-assets\[text\]'"):
        cell("graviton3").data.check()


def test_a_leaked_text_is_found_whatever_the_width_of_the_arrays(spec: ModelSpec, tmp_path: Path) -> None:
    calibration = {"text": np.array(["A ship.", "A much longer text about a ship near the harbour."])}
    evaluation = {"text": np.array(["A ship.", "A pan."])}
    with pytest.raises(DataError, match="overlap: 1 samples are in both"):
        data.check_disjoint(kept(calibration, tmp_path), kept(evaluation, tmp_path), spec.preprocess)


# --- families ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "on"),
    [
        ("onnx_model", "graviton3"),
        ("onnx_fp16", "graviton3"),
        ("tensorrt_engine_fp16", "l4"),
        ("coreml_package_fp16", "iphone-15-pro"),
        ("litert_fp32", "pixel-8"),
        ("executorch_int8_dynamic", "pixel-8"),
        ("executorch_fp32", "pixel-8"),
    ],
)
def test_every_format_gives_what_pytorch_gives(name: str, on: str, build: Callable[[str, str], Built]) -> None:
    built = build(name, on)
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert built.artifact is not None, built.build.refused or built.unverified
    assert built.parity is not None, built.build.refused or built.unverified
    passed, sentence = parity.verdict(built.parity, built.precision)
    assert passed, sentence
    assert built.accuracy is not None
    assert built.accuracy.reference > 0.9
    assert built.accuracy.samples == 200
    assert abs(built.accuracy.drop_points) <= 2.0


def test_onnx_runs_other_lengths_than_the_declared_one(
    build: Callable[[str, str], Built], cell: Callable[[str], Cell]
) -> None:
    place = cell("graviton3")
    (whole, cut) = (
        {name: array[:3, :size] for name, array in place.data.feeds(place.data.evaluation).items()}
        for size in (LENGTH, 9)
    )
    whole["mask"] = whole["mask"] * (np.arange(LENGTH) < 9)
    outputs = {}
    for name in (CHECKPOINT, "onnx_model"):
        built = build(name, "graviton3")
        session = place.verification.loadable(built.runtime, built.build).open(1)
        outputs[name] = session.run(cut)["logits"]
        np.testing.assert_allclose(outputs[name], session.run(whole)["logits"], atol=1e-4)
    np.testing.assert_allclose(outputs["onnx_model"], outputs[CHECKPOINT], atol=1e-4)


@pytest.mark.parametrize("name", ["litert_fp32", "executorch_fp32"])
def test_static_programs_have_the_best_length_and_refuse_another(
    name: str, build: Callable[[str, str], Built], cell: Callable[[str], Cell]
) -> None:
    built = build(name, "pixel-8")
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert said(built)["fixed_axes"] == {"tokens": LENGTH}
    assert [entry["shape"] for entry in said(built)["signature"]["inputs"]] == [[1, LENGTH], [1, LENGTH]]
    place = cell("pixel-8")
    short = {field: array[:1, :5] for field, array in place.data.feeds(place.data.evaluation).items()}
    variant = next(v for v in place.family.variants if v.name == name)
    with pytest.raises(Refused, match=r"input 'ids' is \[5\] per sample, and this static program takes \[12\] alone"):
        variant.call(_run, place.verification.loadable(built.runtime, built.build), short)


def _run(loadable: Any, feeds: Any) -> Any:
    return loadable.open(1).run(feeds)


def test_only_axes_of_the_inputs_are_fixed(spec: ModelSpec) -> None:
    outputs = (Tensor("hidden", "float32", ("batch", "tokens", 8)), Tensor("kept", "float32", ("batch", "found")))
    static = fixed_batch.fixed(replace(spec, outputs=outputs))
    assert [tensor.shape for tensor in static.outputs] == [("batch", LENGTH, 8), ("batch", "found")]
    assert fixed_batch.fixed(static) == static


def test_an_engines_memory_is_estimated_though_the_graph_computes_positions(build: Callable[[str, str], Built]) -> None:
    built = build("tensorrt_engine_fp16", "l4")
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert built.facts.memory_estimate is not None
    activations = built.facts.memory_estimate.bytes - 2 * 30_000  # about as many weights in fp16
    # at least the scores of 4 heads and their softmax, float16 [32, 4, 32, 32]
    assert 2 * 2 * 32 * 4 * 32 * 32 <= activations < 10_000_000


def test_coreml_axes_are_flexible_within_the_declared_sizes(build: Callable[[str, str], Built]) -> None:
    built = build("coreml_package_fp16", "iphone-15-pro")
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert said(built)["inputs"]["ids"] == "int32 [1..64, 1..32]"


# --- releases ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(build: Callable[[str, str], Built], cell: Callable[[str], Cell], store: ArtifactStore) -> Path:
    place = cell("graviton3")
    builts = {name: build(name, "graviton3") for name in (CHECKPOINT, "onnx_model")}
    result = Judgement(place, builts, place.measure(builts, "rapid")).release()
    assert result.artifact is not None
    return store.checkout(result.artifact)


def infer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "infer.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_released_folder_runs_texts_on_its_own(released: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(released, tmp_path / "released")
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    sample = infer(folder)
    assert "largest difference from the outputs recorded at release: 0" in sample.stdout, sample.stderr
    result = infer(folder, "--text", "A ship in the harbour.", "--text", "Flour and butter in the pan.")
    classes = [line for line in result.stdout.splitlines() if line.startswith("class: ")]
    assert classes == ["class: sea", "class: kitchen"], result.stderr
    wrong = infer(folder, "--image", "ship.png")
    assert wrong.returncode
    assert "--image: the inputs of this model are of the kind 'text'" in wrong.stderr
    (folder / "tokenizer.json").write_text(tokenizer.read_text().replace("gull", "fish"))
    wrong = infer(folder)
    assert wrong.returncode
    assert "tokenizer.json is not the released file" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_cpp_sample_runs_token_ids_and_the_card_names_a_library_that_makes_them(
    released: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(released, tmp_path / "released")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "- **Texts**: the sample takes token ids." in card
    assert "tokenizers-cpp" in card
    printed = run_onnx_sample(folder, onnxruntime(tmp_path / "onnxruntime"))
    differences = largest_differences(printed)
    assert differences
    assert max(differences.values()) <= 1e-5


# --- browsers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(cell: Callable[[str], Cell], store: ArtifactStore) -> Path:
    """Of the model alone, which is what the pages here load: its quantized variants are nothing of texts."""
    model = FAMILIES["browser"].variant("onnx_model")
    alone = replace(FAMILIES["browser"], variants=(model, replace(web_bundle.VARIANT, others=())))
    built = replace(cell("browser-wasm"), family=alone).build("web_bundle")
    if built.facts.unavailable:
        pytest.skip(str(built.build.refused))
    assert built.artifact is not None
    assert built.accuracy is not None
    assert built.accuracy.value > 0.9
    return store.checkout(built.artifact)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Chromium() as opened:
        yield opened.browser.new_page()


@pytest.fixture(scope="module")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bundle below /bundle/, and a page that maps what Transformers.js imports, as its documentation says."""
    runtime = "./bundle/runtime/ort.wasm.bundle.min.mjs"
    imports = {"imports": {"onnxruntime-web/webgpu": runtime, "onnxruntime-common": runtime}}
    app = tmp_path_factory.mktemp("app") / "app.html"
    app.write_text(f'<script type="importmap">{json.dumps(imports)}</script>')
    server = Server({"/bundle/": bundle, "/app.html": app})
    yield server.url
    server.close()


@pytest.mark.slow
def test_the_bundle_holds_the_tokenizer_in_the_layout_of_transformers_js(bundle: Path, tokenizer: Path) -> None:
    folder = bundle / "models" / "topics"
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "topics"}
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == LENGTH
    listed = {file["path"] for file in json.loads((bundle / "manifest.json").read_text())["shell"]}
    assert {"models/topics/tokenizer.json", "runtime/tokenizers.min.mjs"} <= listed, "or it does not work offline"


def test_the_pages_tokens_are_pythons(spec: ModelSpec, served: str, page: Page) -> None:
    page.goto(f"{served}/bundle/manifest.json")
    found = page.evaluate(
        """async (texts) => {
            const { fromTexts, openTokenizer } = await import("/bundle/text.js");
            const base = new URL("/bundle/", location.href).href;
            const manifest = await (await fetch("/bundle/manifest.json")).json();
            const feeds = fromTexts(texts, await openTokenizer(base, manifest), manifest.preprocessing);
            const plain = ({ dims, data }) => [dims, Array.from(data, Number)];
            return Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, plain(tensor)]));
        }""",
        TEXTS.tolist(),
    )
    for name, array in spec.preprocess.apply({"text": TEXTS}).items():
        assert found[name] == [list(array.shape), array.ravel().tolist()]


def test_a_damaged_tokenizer_is_not_used(bundle: Path, page: Page, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    path = folder / "models" / "topics" / "tokenizer.json"
    path.write_text(path.read_text().replace("gull", "fish"))
    server = Server({"/bundle/": folder})
    try:
        page.goto(f"{server.url}/bundle/")
        expect(page.locator("#error")).to_contain_text("tokenizer.json is corrupt: sha256", timeout=60_000)
    finally:
        server.close()


def test_transformers_js_tokenizes_and_runs_the_bundle(
    build: Callable[[str, str], Built], cell: Callable[[str], Cell], spec: ModelSpec, served: str, page: Page
) -> None:
    page.goto(f"{served}/app.html")
    logits = page.evaluate(
        """async ([texts, length]) => {
            const { open } = await import("/bundle/transformers.js");
            const { AutoModel, AutoTokenizer } = await open("/bundle/");
            const tokenizer = await AutoTokenizer.from_pretrained("topics");
            const model = await AutoModel.from_pretrained("topics", { dtype: "fp32", device: "wasm" });
            const { input_ids, attention_mask } = tokenizer(texts, { padding: true });
            const { logits } = await model({ ids: input_ids, mask: attention_mask });
            return Array.from(logits.data);
        }""",
        [TEXTS[:2].tolist(), LENGTH],
    )
    built = build("onnx_model", "graviton3")
    session = cell("graviton3").verification.loadable(built.runtime, built.build).open(1)
    expected = session.run(spec.preprocess.apply({"text": TEXTS[:2]}))["logits"]
    np.testing.assert_allclose(np.array(logits).reshape(2, 3), expected, atol=1e-4)


def test_the_demo_page_takes_a_text(served: str, page: Page) -> None:
    page.goto(f"{served}/bundle/")
    expect(page.locator("#work")).to_be_visible(timeout=60_000)
    assert not page.locator("#drawing").is_visible()
    assert not page.locator("#candidates").is_visible()
    page.locator("#text").fill("Flour and butter in the oven")
    expect(page.locator("#answer")).to_have_text("kitchen")
    page.locator("#text").fill("A storm with rain and wind")
    expect(page.locator("#answer")).to_have_text("sky")
    (ROOT / "test-screenshots").mkdir(exist_ok=True)
    page.screenshot(path=ROOT / "test-screenshots" / "browser-demo-text.png", full_page=True)
