// Runs the released TensorRT engine, from C++: ./sample [THE RELEASED FOLDER]
//
// It reads the bundled sample, preprocesses it and compares the outputs with those recorded at release. An engine runs
// on the kind of GPU and the TensorRT release that the kit's kit.json names, and nowhere else: where it cannot be
// loaded, build one there with the kit's build_engine.py. The same source is for TensorRT and for TensorRT-RTX.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "model_values.h"
#include "sample_files.h"

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char *message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
  }
};

static void check(cudaError_t status, const char *what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

static void require(bool succeeded, const std::string &what) {
  if (!succeeded) throw std::runtime_error(what);
}

// Memory of the GPU, freed with its owner.
class GpuBuffer {
 public:
  explicit GpuBuffer(size_t bytes) : bytes_(bytes) { check(cudaMalloc(&pointer_, bytes), "cudaMalloc"); }
  GpuBuffer(const GpuBuffer &) = delete;
  GpuBuffer &operator=(const GpuBuffer &) = delete;
  ~GpuBuffer() { cudaFree(pointer_); }
  void *get() const { return pointer_; }
  size_t size() const { return bytes_; }

 private:
  void *pointer_ = nullptr;
  size_t bytes_;
};

static nvinfer1::Dims dims_of(const TensorValues &tensor) {
  require(tensor.rank <= static_cast<size_t>(nvinfer1::Dims::MAX_DIMS), std::string(tensor.name) + " has too many axes");
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int32_t>(tensor.rank);
  for (size_t i = 0; i < tensor.rank; i++) dims.d[i] = tensor.shape[i];
  return dims;
}

static void run(const std::filesystem::path &folder) {
  const std::filesystem::path app = folder / "app";
  const Bytes plan = read_file(folder / MODEL_FILE / "model.engine");
  Logger logger;
  std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  require(runtime != nullptr, "TensorRT does not start here");
  std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
  require(engine != nullptr, "the engine is for another GPU or TensorRT: python build_engine.py builds one here");
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  require(context != nullptr, "there is no room for the engine on this GPU");
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");

  std::vector<std::unique_ptr<GpuBuffer>> inputs, outputs;
  for (const TensorValues &tensor : MODEL_INPUTS) {
    const Bytes bytes = sample_input(app, tensor, MODEL_IMAGE, MODEL_SAMPLE, MODEL_AUDIO, MODEL_SOUND);
    inputs.push_back(std::make_unique<GpuBuffer>(bytes.size()));
    check(cudaMemcpy(inputs.back()->get(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    require(context->setInputShape(tensor.name, dims_of(tensor)), std::string(tensor.name) + " does not fit the profile");
    require(context->setTensorAddress(tensor.name, inputs.back()->get()), "setTensorAddress");
  }
  for (const TensorValues &tensor : MODEL_OUTPUTS) {
    outputs.push_back(std::make_unique<GpuBuffer>(tensor.count * element_bytes(tensor.type)));
    require(context->setTensorAddress(tensor.name, outputs.back()->get()), "setTensorAddress");
  }
  require(context->enqueueV3(stream), "the engine did not run");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");

  size_t i = 0;
  for (const TensorValues &tensor : MODEL_OUTPUTS) {
    const GpuBuffer &buffer = *outputs[i++];
    Bytes bytes(buffer.size());
    check(cudaMemcpy(bytes.data(), buffer.get(), bytes.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    report(app, tensor, bytes.data(), MODEL_CLASSES, MODEL_CLASS_COUNT);
  }
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

int main(int argc, char **argv) {
  try {
    run(argc > 1 ? argv[1] : "..");
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
