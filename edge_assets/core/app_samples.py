"""What a release gives an app developer besides Python: a sample in the platform's own language, of each runtime.

A sample is static source in its toolchain's folder. What differs from model to model is written beside it at release
(`pipeline/release/app.py`): names, shapes, types, class names, preprocessing and quantization as constants.
"""

from dataclasses import dataclass
from typing import Literal

Language = Literal["c", "kotlin", "swift"]


@dataclass(frozen=True)
class AppSample:
    """Sources that a release holds in `app/`, and how the constants of a model are written for them."""

    language: Language  # of the constants; C++ reads those of C
    sources: tuple[str, ...]  # below edge_assets/toolchains
    build: str  # how it is built and run, in the released folder's `app/`; `{file}` is the artifact's name
    tested: str  # what of it was compiled and run when the product was tested, and what was not
    tokenizer: str  # the library that makes token ids from a text on that platform
    only_int32: bool = False  # the file has 32-bit integers for integers of every type, and for booleans
    has_files: bool = True  # False: the platform has no file system, so that the sample's values are constants too


@dataclass(frozen=True)
class NoAppSample:
    """Why a runtime's release has no such sample."""

    reason: str


CXX_TOKENIZER = "tokenizers-cpp, a binding of the Rust library that preprocess.py uses"
ANDROID_TOKENIZER = "DJL's `ai.djl.huggingface:tokenizers` with `ai.djl.android:tokenizer-native`"
ANDROID = "copy `app/*.kt` to the app's sources, and `{{file}}` and `app/*.bin` to its assets; dependency {dependency}"
ANDROID_TESTED = (
    "compiled, {runtime}'s part against declarations of its interface; the preprocessing was run on a PC, with "
    "NumPy's values; not run on Android"
)
C_PREPROCESSING = ("native/preprocess.h", "native/preprocess_sound.h")
KOTLIN_PREPROCESSING = ("native/Preprocess.kt", "native/PreprocessSound.kt")

ONNX = AppSample(
    language="c",
    sources=("onnx/sample.cpp", *C_PREPROCESSING, "native/sample_files.h"),
    build="`cd app && c++ -std=c++17 -O2 -ffp-contract=off -I$ORT/include sample.cpp -L$ORT/lib -lonnxruntime "
    "-o sample && ./sample ..`, where ORT is ONNX Runtime's release for C and C++",
    tested="compiled and run with ONNX Runtime on Linux",
    tokenizer=CXX_TOKENIZER,
)
TENSORRT = AppSample(
    language="c",
    sources=("tensorrt/sample.cpp", *C_PREPROCESSING, "native/sample_files.h"),
    build="`cd app && c++ -std=c++17 -O2 -ffp-contract=off -I$TRT/include -I$CUDA/include sample.cpp -L$TRT/lib "
    "-L$CUDA/lib64 -lnvinfer -lcudart -o sample && ./sample ..`; with TensorRT-RTX it is `-ltensorrt_rtx`",
    tested="the preprocessing was compiled and run, with NumPy's values; the whole was compiled once against "
    "TensorRT's headers and not run",
    tokenizer=CXX_TOKENIZER,
)
MICROCONTROLLER = AppSample(
    language="c",
    sources=("litert/micro_sample.cc", *C_PREPROCESSING),
    build="compile `micro_sample.cc` and `../{file}/model.cc` with the firmware, `-I../{file}` and "
    "TFLite Micro's tree in the include path, `-ffp-contract=off`; `sample_values.h` is for `verify_sample()` alone",
    tested="preprocessing, quantization and dequantization were compiled as C and run on a PC, with NumPy's values; "
    "the whole was compiled and run once with TFLite Micro on a PC, and on no device",
    tokenizer="none that we know of for microcontrollers: token ids have to come from elsewhere",
    has_files=False,
)
LITERT = AppSample(
    language="kotlin",
    sources=("litert/LiteRtSample.kt", *KOTLIN_PREPROCESSING, "native/SampleFiles.kt"),
    build=ANDROID.format(dependency="`com.google.ai.edge.litert:litert`"),
    tested=ANDROID_TESTED.format(runtime="LiteRT"),
    tokenizer=ANDROID_TOKENIZER,
)
EXECUTORCH = AppSample(
    language="kotlin",
    sources=("executorch/ExecuTorchSample.kt", *KOTLIN_PREPROCESSING, "native/SampleFiles.kt"),
    build=ANDROID.format(dependency="`org.pytorch:executorch-android`"),
    tested=ANDROID_TESTED.format(runtime="ExecuTorch"),
    tokenizer=ANDROID_TOKENIZER,
)
COREML = AppSample(
    language="swift",
    sources=("coreml/Sample.swift", "coreml/Preprocess.swift", "coreml/PreprocessSound.swift"),
    build="on a Mac, `cd app && swiftc -O -parse-as-library *.swift -o sample && ./sample ..`; in an app, add the "
    ".mlpackage to the Xcode project and take what you need of the sources",
    tested="neither compiled nor run: written after Apple's documentation",
    tokenizer="Tokenizers of the Swift package swift-transformers, which reads tokenizer.json",
    only_int32=True,
)
