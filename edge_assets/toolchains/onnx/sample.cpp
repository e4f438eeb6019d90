// Runs the released ONNX model in ONNX Runtime, from C++: ./sample [THE RELEASED FOLDER]
//
// It reads the bundled sample, preprocesses it and compares the outputs with those recorded at release. An app takes
// `preprocess_picture` or `sound_input`, and what `main` does with the session; model_values.h has the constants of this model.
#include <onnxruntime_cxx_api.h>

#include "model_values.h"
#include "sample_files.h"

static ONNXTensorElementDataType element_type(TensorType type) {
  switch (type) {
    case TYPE_FLOAT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case TYPE_INT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case TYPE_INT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case TYPE_UINT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case TYPE_BOOL: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    case TYPE_INT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  }
  throw std::logic_error("unknown type");
}

static void run(const std::filesystem::path &folder) {
  const std::filesystem::path app = folder / "app";
  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, MODEL_NAME);
  Ort::SessionOptions options;  // options.SetIntraOpNumThreads(n) to use fewer threads than there are cores
  Ort::Session session(environment, (folder / MODEL_FILE).c_str(), options);
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

  std::vector<Bytes> buffers;  // an Ort::Value does not own the values that it is made of
  std::vector<const char *> input_names, output_names;
  std::vector<Ort::Value> inputs;
  for (const TensorValues &tensor : MODEL_INPUTS) {
    buffers.push_back(sample_input(app, tensor, MODEL_IMAGE, MODEL_SAMPLE, MODEL_AUDIO, MODEL_SOUND));
    Bytes &bytes = buffers.back();
    inputs.push_back(Ort::Value::CreateTensor(memory, bytes.data(), bytes.size(), tensor.shape, tensor.rank,
                                              element_type(tensor.type)));
    input_names.push_back(tensor.name);
  }
  for (const TensorValues &tensor : MODEL_OUTPUTS) output_names.push_back(tensor.name);

  std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(),
                                                inputs.size(), output_names.data(), output_names.size());
  size_t i = 0;
  for (const TensorValues &tensor : MODEL_OUTPUTS) {
    const Ort::Value &output = outputs[i++];
    if (output.GetTensorTypeAndShapeInfo().GetElementCount() != tensor.count) {
      throw std::runtime_error(std::string(tensor.name) + " has another size than at release");
    }
    report(app, tensor, output.GetTensorRawData(), MODEL_CLASSES, MODEL_CLASS_COUNT);
  }
}

int main(int argc, char **argv) {
  try {
    run(argc > 1 ? argv[1] : "..");
  } catch (const std::exception &error) {  // Ort::Exception among them
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
