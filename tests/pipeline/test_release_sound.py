"""Sound in a release's `app/`: what C computes of a waveform, against the dataset's numbers in NumPy."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_assets import AudioPreprocessing
from edge_assets.core import app_samples
from edge_assets.core.sound_tables import roots_of_unity, tables_of
from edge_assets.core.variant import CHECKPOINT
from edge_assets.families.families import FAMILIES
from edge_assets.pipeline.cell import Cell
from edge_assets.pipeline.judgement import Judgement
from edge_assets.pipeline.release.app import VALUES
from edge_assets.targets.project import target
from resources import checkpoints
from resources.store import ArtifactStore
from tests.native import largest_differences, onnxruntime, run_c, run_onnx_sample
from tests.pipeline.test_release_app import SAMPLES, micro_facts, written
from tests.sounds import DECLARED, SOUNDS, assert_same
from tests.tiny.sounds import HEARD
from tests.tiny.stream import network

SOUND = """
#include <stdio.h>
#include <stdlib.h>
#include "model_values.h"

int main(int argc, char **argv) {
  static char samples[1 << 20];
  static double scratch[SOUND_SCRATCH(2048)];
  static const size_t sizes[] = {2, 4, 8};
  FILE *file = fopen(argv[argc - 1], "rb");
  const SampleType type = (SampleType)atoi(argv[1]);
  const Sound sound = {samples, fread(samples, 1, sizeof samples, file) / sizes[type], type};
  const size_t count = sound_values(sound.count, &MODEL_AUDIO);
  float *values = malloc(sizeof(float) * (count + 1));
  if (!preprocess_sound(&sound, values, &MODEL_AUDIO, scratch)) return 2;
  fwrite(values, sizeof(float), count, stdout);
  return fclose(file);
}
"""
FRAMES = """
#include <stdio.h>
#include "model_values.h"

int main(int argc, char **argv) {
  static int16_t samples[1 << 16];
  static double scratch[SOUND_SCRATCH(2048)];
  static float values[2048];
  FILE *file = fopen(argv[argc - 1], "rb");
  const size_t count = fread(samples, sizeof(int16_t), 1 << 16, file);
  AudioValues one = MODEL_AUDIO;
  one.samples = one.frames = 0;
  one.center = 0;
  for (size_t begin = 0; begin + one.n_fft <= count; begin += one.hop) {
    const Sound sound = {samples + begin, one.n_fft, SAMPLES_INT16};
    if (!preprocess_sound(&sound, values, &one, scratch)) return 2;
    fwrite(values, sizeof(float), sound_values(sound.count, &one), stdout);
  }
  return fclose(file);
}
"""
MICRO = """
#include "model_values.h"
#include "sample_values.h"

int main(void) {
  static float values[SAMPLE_LARGEST_COUNT];
  static double scratch[SAMPLE_SOUND_SCRATCH];
  Sound sound = MODEL_SOUND;
  sound.samples = SAMPLE_INPUTS[0];
  const int is_right = SAMPLE_LARGEST_COUNT == EXPECTED && MODEL_AUDIO.time_first == FIRST;
  return is_right && preprocess_sound(&sound, values, &MODEL_AUDIO, scratch) ? 0 : 1;
}
"""


TYPES = ("int16", "float32", "float64")  # as SampleType counts them


def program(folder: Path, declared: AudioPreprocessing, main: str) -> Path:
    """A program's source beside the released C of a model of sound."""
    app = written(folder, app_samples.ONNX, declared, SOUNDS["int16"][None], name="sound")
    (app / "main.c").write_text(main)
    return app / "main.c"


def printed(source: Path, sound: np.ndarray) -> np.ndarray:
    """What the program prints of a sound, float32."""
    sound.tofile(source.with_name("sound.bin"))
    found = run_c(source, str(TYPES.index(sound.dtype.name)), str(source.with_name("sound.bin")))
    return np.frombuffer(found, np.float32)


@pytest.mark.parametrize("runtime", SAMPLES)
def test_every_sample_has_the_tables_that_python_computed(runtime: str, tmp_path: Path) -> None:
    declared = DECLARED["whisper"]
    sample = SAMPLES[runtime]
    facts = None
    if not sample.has_files:
        facts = micro_facts([1, 80, 110], "NCHW")
        facts["signature"]["inputs"][0]["name"] = "sound"
    app = written(tmp_path, sample, declared, SOUNDS["int16"][None], facts, name="sound")
    constants = (app / VALUES[sample.language]).read_text()
    found = np.array([float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", constants)])
    tables = tables_of(declared)
    assert tables is not None
    for table in (tables.window, tables.cosines, tables.sines, tables.mel_weights):
        places = np.flatnonzero(found == table[0])
        assert any(np.array_equal(found[place : place + len(table)], table) for place in places)
    if sample.has_files:
        assert (app / "sample_sound.bin").read_bytes() == SOUNDS["int16"].tobytes()


@pytest.mark.parametrize("name", DECLARED)
def test_sound_in_c_is_numpys(name: str, tmp_path: Path) -> None:
    source = program(tmp_path, DECLARED[name], SOUND)
    for sound in SOUNDS.values():
        assert_same(printed(source, sound), DECLARED[name], sound)


def test_a_frame_as_it_arrives_is_the_whole_sounds(tmp_path: Path) -> None:
    declared = replace(DECLARED["voices"], frames=None, center=False)
    source = program(tmp_path, declared, FRAMES)
    assert_same(printed(source, SOUNDS["int16"]), declared, SOUNDS["int16"])


@pytest.mark.parametrize("center", [True, False])
def test_a_sound_that_numpy_finds_too_short_c_refuses(center: bool, tmp_path: Path) -> None:
    declared = replace(DECLARED["spectrogram"], center=center)
    sound = SOUNDS["int16"][: 256 if center else 511]
    with pytest.raises(ValueError, match=r"too few to reflect 256|less than one frame of 512"):
        declared.features(sound)
    with pytest.raises(subprocess.CalledProcessError) as error:
        printed(program(tmp_path, declared, SOUND), sound)
    assert error.value.returncode == 2


def test_a_microcontroller_has_the_sound_among_its_constants(tmp_path: Path) -> None:
    """And a file with its channels last gets its axes in that order."""
    facts = micro_facts([1, 40, 60, 1], "NHWC")
    facts["signature"]["inputs"][0]["name"] = "sound"
    for axes, is_time_first in ((("channel", "mel", "time"), 0), (("mel", "time"), 1), (("time", "mel"), 0)):
        folder = tmp_path / "-".join(axes)
        folder.mkdir()
        declared = replace(DECLARED["voices"], axes=axes)  # type: ignore[arg-type]
        app = written(folder, app_samples.MICROCONTROLLER, declared, SOUNDS["int16"][None], facts, name="sound")
        (app / "main.c").write_text(MICRO.replace("EXPECTED", "40 * 60").replace("FIRST", str(is_time_first)))
        run_c(app / "main.c")


def test_the_cpp_sample_of_a_streaming_model_hears_the_first_step(store: ArtifactStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(network().state_dict(), tmp_path / "heard.safetensors")
    checkpoint = checkpoints.register(store, HEARD.name, str(tmp_path / "heard.safetensors"))
    on = target("graviton3")
    cell = Cell(HEARD, FAMILIES[on.family], on, checkpoint, store, log=lambda _line: None)
    builts = {name: cell.build(name) for name in (CHECKPOINT, "onnx_model")}
    artifact = Judgement(cell, builts, cell.measure(builts, "rapid")).release().artifact
    assert artifact is not None
    folder = Path(shutil.copytree(store.checkout(artifact), tmp_path / "released"))
    assert (folder / "app" / "sample_frame.bin").stat().st_size == 600, "the sound, not its features"
    ort = onnxruntime(tmp_path / "onnxruntime")
    found = largest_differences(run_onnx_sample(folder, ort))
    assert max(found.values()) <= 1e-5
    samples = folder / "app" / "sample_frame.bin"
    samples.write_bytes(bytes(600))
    assert largest_differences(run_onnx_sample(folder, ort))["scores"] > 0.01, "silence gives something else"


@pytest.mark.parametrize("count", [1, 2, 3, 8, 127, 400, 1000])
def test_roots_of_unity_are_exact_at_quarters_and_correct_within_a_unit(count: int) -> None:
    cosines, sines = roots_of_unity(count)
    turns = np.arange(count, dtype=np.longdouble) * 2 * np.longdouble("3.14159265358979323846264338") / count
    assert np.abs(cosines - np.cos(turns)).max() <= 2.0**-52
    assert np.abs(sines + np.sin(turns)).max() <= 2.0**-52
    for quarter, (real, imaginary) in enumerate([(1, 0), (0, -1), (-1, 0), (0, 1)]):
        if count % 4 == 0:
            assert (cosines[quarter * count // 4], sines[quarter * count // 4]) == (real, imaginary)
