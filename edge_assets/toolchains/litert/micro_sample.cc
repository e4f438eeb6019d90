// Runs the released model in TFLite Micro's interpreter: `setup_model()` once, then `run_model()`.
//
// model.h is the model's, beside model.cc; model_values.h has this model's constants, preprocess.h and preprocess_sound.h
// the preprocessing and quantization in plain C. `verify_sample()` compares with the outputs recorded at release: leave it and
// sample_values.h out of a product's firmware (-DWITHOUT_SAMPLE).
#include <cmath>
#include <cstring>

#include "model.h"
#include "model_values.h"
#include "preprocess.h"
#include "preprocess_sound.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

// Recorded in the interpreter on a 64-bit machine, where its structures are larger. Kernels of CMSIS-NN take scratch
// buffers besides: where AllocateTensors() fails, this is what to raise.
alignas(16) uint8_t arena[MODEL_ARENA_BYTES];
tflite::MicroInterpreter *interpreter = nullptr;

}  // namespace

// False, with a message in the log, where the interpreter does not take the model.
bool setup_model() {
  static tflite::MicroMutableOpResolver<MODEL_OPERATOR_COUNT> resolver;
  MODEL_ADD_OPERATORS(resolver)
  static tflite::MicroInterpreter static_interpreter(tflite::GetModel(MODEL_DATA), resolver, arena, sizeof(arena));
  if (static_interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("the model does not fit an arena of %d bytes", static_cast<int>(sizeof(arena)));
    return false;
  }
  interpreter = &static_interpreter;
  return true;
}

// One input by its place in MODEL_INPUTS. `values` are floats, as preprocess_image and preprocess_sound make them, and quantized here; of an
// input of another type than int8 they are that type's.
void set_input(int index, const void *values) {
  const TensorValues &tensor = MODEL_INPUTS[index];
  TfLiteTensor *input = interpreter->input(index);
  if (tensor.type == TYPE_INT8) {
    quantize(static_cast<const float *>(values), input->data.int8, tensor.count, tensor.scale, tensor.zero_point);
  } else {
    std::memcpy(input->data.data, values, input->bytes);
  }
}

bool run_model() { return interpreter->Invoke() == kTfLiteOk; }

// One output by its place in MODEL_OUTPUTS, as floats.
void get_output(int index, float *values) {
  const TensorValues &tensor = MODEL_OUTPUTS[index];
  const TfLiteTensor *output = interpreter->output(index);
  if (tensor.type == TYPE_INT8) {
    dequantize(output->data.int8, values, tensor.count, tensor.scale, tensor.zero_point);
    return;
  }
  for (size_t i = 0; i < tensor.count; i++) {
    values[i] = tensor.type == TYPE_INT32 ? static_cast<float>(output->data.i32[i]) : output->data.uint8[i];
  }
}

#ifndef WITHOUT_SAMPLE
#include "sample_values.h"

// The largest difference from the outputs recorded at release, or -1 where the model did not run.
float verify_sample() {
  static float values[SAMPLE_LARGEST_COUNT];
  const int inputs = static_cast<int>(sizeof(MODEL_INPUTS) / sizeof(MODEL_INPUTS[0]));
  const int outputs = static_cast<int>(sizeof(MODEL_OUTPUTS) / sizeof(MODEL_OUTPUTS[0]));
  for (int i = 0; i < inputs; i++) {
#ifdef SAMPLE_PIXELS
#ifdef SAMPLE_SCRATCH
    static uint8_t fitted[MODEL_IMAGE_BYTES];
    static int32_t scratch[SAMPLE_SCRATCH];
    Picture picture = MODEL_SAMPLE;
    picture.pixels = SAMPLE_PIXELS;
    if (!fit_picture(&picture, fitted, &MODEL_IMAGE, scratch)) return -1.0f;
    preprocess_image(fitted, values, &MODEL_IMAGE);
#else
    preprocess_image(SAMPLE_PIXELS, values, &MODEL_IMAGE);
#endif
    set_input(i, values);
#else
#ifdef SAMPLE_SOUND_SCRATCH
    if (std::strcmp(MODEL_INPUTS[i].name, MODEL_AUDIO.input) == 0) {
      static double scratch[SAMPLE_SOUND_SCRATCH];
      Sound sound = MODEL_SOUND;
      sound.samples = SAMPLE_INPUTS[i];
      if (!preprocess_sound(&sound, values, &MODEL_AUDIO, scratch)) return -1.0f;
      set_input(i, values);
      continue;
    }
#endif
    set_input(i, SAMPLE_INPUTS[i]);
#endif
  }
  if (!run_model()) return -1.0f;
  float largest = 0.0f;
  for (int i = 0; i < outputs; i++) {
    get_output(i, values);
    for (size_t j = 0; j < MODEL_OUTPUTS[i].count; j++) {
      largest = std::fmax(largest, std::fabs(values[j] - SAMPLE_OUTPUTS[i][j]));
    }
  }
  return largest;
}
#endif
