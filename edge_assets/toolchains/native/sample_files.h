// The sample's files in C++17: raw little-endian values, in the order of preprocess.h's shapes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "preprocess.h"
#include "preprocess_sound.h"

using Bytes = std::vector<char>;

inline size_t element_bytes(TensorType type) {
  switch (type) {
    case TYPE_INT64: return 8;
    case TYPE_FLOAT32: case TYPE_INT32: return 4;
    default: return 1;
  }
}

inline Bytes read_file(const std::filesystem::path &path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

inline Bytes read_tensor(const std::filesystem::path &path, const TensorValues &tensor) {
  Bytes bytes = read_file(path);
  const size_t expected = tensor.count * element_bytes(tensor.type);
  if (bytes.size() == expected) return bytes;
  throw std::runtime_error(path.string() + " has " + std::to_string(bytes.size()) + " bytes, not " +
                           std::to_string(expected));
}

// A picture of any size as the model's pixels. Throws where the model takes no such picture.
inline std::vector<uint8_t> fitted(const Picture &picture, const ImageValues &image) {
  std::vector<uint8_t> pixels(image.height * image.width * image.channels);
  std::vector<int32_t> scratch(FIT_SCRATCH(picture.height, picture.width, image.width, image.channels));
  if (fit_picture(&picture, pixels.data(), &image, scratch.data())) return pixels;
  throw std::runtime_error("the model takes no picture of this size, or of these channels");
}

// The model's input of a picture, as floats. With a range of sizes sized_for() says its height and width.
inline Bytes preprocess_picture(const Picture &picture, const ImageValues &declared) {
  const ImageValues image = sized_for(&picture, &declared);
  const std::vector<uint8_t> pixels = fitted(picture, image);
  Bytes values(pixels.size() * sizeof(float));
  preprocess_image(pixels.data(), reinterpret_cast<float *>(values.data()), &image);
  return values;
}

// The model's input of a sound, as floats. Throws where it is too short.
inline Bytes sound_input(const Sound &sound, const AudioValues &audio) {
  Bytes values(sound_values(sound.count, &audio) * sizeof(float));
  std::vector<double> scratch(SOUND_SCRATCH(audio.n_fft));
  if (preprocess_sound(&sound, reinterpret_cast<float *>(values.data()), &audio, scratch.data())) return values;
  throw std::runtime_error("the sound is too short for this model");
}

inline size_t sample_bytes(SampleType type) {
  switch (type) {
    case SAMPLES_INT16: return 2;
    case SAMPLES_FLOAT32: return 4;
    case SAMPLES_FLOAT64: return 8;
  }
  throw std::logic_error("unknown type");
}

// The sample's sound, preprocessed. Of a model that takes one step at a time it is the first step.
inline Bytes sample_sound(const std::filesystem::path &path, const TensorValues &tensor, const AudioValues &audio,
                          Sound sample) {
  const Bytes samples = read_file(path);
  if (samples.size() != sample.count * sample_bytes(sample.type)) {
    throw std::runtime_error(path.string() + " is not the sample's sound");
  }
  sample.samples = samples.data();
  Bytes values = sound_input(sample, audio);
  if (values.size() < tensor.count * sizeof(float)) throw std::runtime_error(path.string() + " is too short");
  values.resize(tensor.count * sizeof(float));
  return values;
}

// The sample's value of one input of the model: its picture or sound is preprocessed here, as an app does it. `sample`
// has the picture's size, `sound` the sound's length.
inline Bytes sample_input(const std::filesystem::path &folder, const TensorValues &tensor, const ImageValues &declared,
                          Picture sample, const AudioValues &audio, const Sound &sound) {
  const ImageValues image = sized_for(&sample, &declared);
  const std::filesystem::path path = folder / (std::string("sample_") + tensor.name + ".bin");
  const bool is_sound = audio.input != nullptr && std::string(audio.input) == tensor.name;
  if (is_sound) return sample_sound(path, tensor, audio, sound);
  if (image.input == nullptr || std::string(image.input) != tensor.name) return read_tensor(path, tensor);
  const Bytes pixels = read_file(path);
  if (pixels.size() != sample.height * sample.width * sample.channels) {
    throw std::runtime_error(path.string() + " is not the sample's picture");
  }
  sample.pixels = reinterpret_cast<const uint8_t *>(pixels.data());
  if (!is_fitted(&sample, &image)) return preprocess_picture(sample, image);
  Bytes values(pixels.size() * sizeof(float));
  preprocess_image(sample.pixels, reinterpret_cast<float *>(values.data()), &image);
  return values;
}

template <typename Element>
std::vector<double> as_doubles(const void *data, size_t count) {
  const Element *elements = static_cast<const Element *>(data);
  return std::vector<double>(elements, elements + count);
}

inline std::vector<double> as_doubles(const TensorValues &tensor, const void *data) {
  switch (tensor.type) {
    case TYPE_FLOAT32: return as_doubles<float>(data, tensor.count);
    case TYPE_INT64: return as_doubles<int64_t>(data, tensor.count);
    case TYPE_INT32: return as_doubles<int32_t>(data, tensor.count);
    case TYPE_INT8: return as_doubles<int8_t>(data, tensor.count);
    default: return as_doubles<uint8_t>(data, tensor.count);
  }
}

// Prints an output and how far it is from what was recorded at release.
inline void report(const std::filesystem::path &folder, const TensorValues &tensor, const void *data,
                   const char *const *class_names, size_t classes) {
  const Bytes recorded = read_tensor(folder / (std::string("expected_") + tensor.name + ".bin"), tensor);
  const std::vector<double> found = as_doubles(tensor, data);
  const std::vector<double> expected = as_doubles(tensor, recorded.data());
  double difference = 0;
  for (size_t i = 0; i < found.size(); i++) {
    const double one = std::abs(found[i] - expected[i]);
    if (!(one <= difference)) difference = one;  // so that NaN is told too
  }
  if (classes != 0 && classes == found.size()) {
    std::printf("class: %s\n", class_names[std::max_element(found.begin(), found.end()) - found.begin()]);
  }
  std::printf("%s: largest difference from the outputs recorded at release: %.3g\n", tensor.name, difference);
}
