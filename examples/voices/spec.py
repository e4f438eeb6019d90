"""The speaker encoder, registered: EDGE_ASSETS_MODELS=examples.voices.spec:VOICES."""

from edge_assets import AudioPreprocessing, Automation, Calibration, Dataset, Evaluation, Gates, ModelSpec, Tensor

FRAMES = 160  # of 10 ms: the 1.6 seconds that the encoder was trained with

PREPROCESSING = AudioPreprocessing(
    input="sound",
    sampling_rate=16_000,
    samples=25_600,
    n_fft=400,
    hop=160,
    n_mels=40,
    mel_scale="slaney",
    mel_norm="slaney",
    frames=FRAMES,
    axes=("time", "mel"),
)

VOICES = ModelSpec(
    name="voices",
    description="Resemblyzer's speaker encoder as a streaming LSTM of 1.4 M parameters: a frame of 10 ms a step.",
    architecture="examples.voices.network:VoiceEncoder",
    checkpoints="examples/voices/checkpoints",
    inputs=(
        Tensor("sound", "float32", ("batch", 40)),
        Tensor("h", "float32", (3, "batch", 256)),
        Tensor("c", "float32", (3, "batch", 256)),
    ),
    outputs=(
        Tensor("embedding", "float32", ("batch", 256)),
        Tensor("h_next", "float32", (3, "batch", 256)),
        Tensor("c_next", "float32", (3, "batch", 256)),
    ),
    states={"h": "h_next", "c": "c_next"},
    preprocessing=PREPROCESSING,
    calibration=Calibration(Dataset("examples.voices.data:calibration"), minimum=30),
    evaluation=Evaluation(
        Dataset("examples.voices.data:evaluation"),
        metric="examples.voices.data:reciprocal_rank",
        minimum=120,
    ),
    gates=Gates(max_accuracy_drop_points=1.0, max_size_bytes=16 * 2**20, max_memory_bytes=2**29),
    targets=(
        *("x86-64-avx2", "x86-64-vnni", "raspberry-pi-5", "graviton3"),
        *("iphone-15-pro", "mac-m-series"),
        *("pixel-8", "android-midrange"),
        "browser-wasm",
        "l4",
    ),
    owners=("team:edge-assets",),
    license="Apache-2.0",
    automation=Automation(on_checkpoint=False, nightly=False),  # an example is built when somebody asks for it
)
