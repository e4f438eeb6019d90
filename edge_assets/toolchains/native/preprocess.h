/* The preprocessing that every measurement of this model used, in C99: what preprocess.py computes in NumPy.

   Each step is rounded to float, as NumPy does it: compile with -ffp-contract=off, so that no compiler joins a product
   and a sum. Nothing here allocates memory. C++ includes it as it is. */
#ifndef PREPROCESS_H
#define PREPROCESS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { TYPE_FLOAT32, TYPE_INT64, TYPE_INT32, TYPE_UINT8, TYPE_BOOL, TYPE_INT8 } TensorType;

/* One input or output of the model, as its file has it. */
typedef struct {
  const char *name;
  TensorType type;
  const int64_t *shape; /* of one sample: the batch is 1 */
  size_t rank;
  size_t count;       /* elements */
  float scale;        /* of TYPE_INT8: value = scale * (q - zero_point); else 0 */
  int32_t zero_point;
} TensorValues;

/* How pictures become the model's input: (pixel * scale - mean) / std for each channel. */
typedef struct {
  const char *input; /* NULL: this model takes no pictures */
  size_t height, width, channels;
  int channels_last; /* the model's input is [height][width][channels], else [channels][height][width] */
  float scale;
  const float *mean; /* a value for each channel */
  const float *std;
} ImageValues;

/* `pixels` is [height][width][channels], 0 to 255; `values` gets as many floats, in the layout of the model's input. */
static inline void preprocess_image(const uint8_t *pixels, float *values, const ImageValues *image) {
  const size_t plane = image->height * image->width;
  for (size_t i = 0; i < plane; i++) {
    for (size_t channel = 0; channel < image->channels; channel++) {
      const size_t from = i * image->channels + channel;
      const size_t to = image->channels_last ? from : channel * plane + i;
      const float scaled = (float)pixels[from] * image->scale;
      const float centred = scaled - image->mean[channel];
      values[to] = centred / image->std[channel];
    }
  }
}

/* q = round(value / scale) + zero point, halves to even, saturated at -128 and 127. */
static inline void quantize(const float *values, int8_t *quantized, size_t count, float scale, int32_t zero_point) {
  for (size_t i = 0; i < count; i++) {
    const float rounded = rintf(values[i] / scale);
    const float q = rounded + (float)zero_point;
    quantized[i] = (int8_t)(q < -128.0f ? -128.0f : q > 127.0f ? 127.0f : q);
  }
}

/* value = scale * (q - zero point) */
static inline void dequantize(const int8_t *quantized, float *values, size_t count, float scale, int32_t zero_point) {
  for (size_t i = 0; i < count; i++) {
    const float difference = (float)quantized[i] - (float)zero_point;
    values[i] = scale * difference;
  }
}

#endif
