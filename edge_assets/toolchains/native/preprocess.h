/* The preprocessing that every measurement of this model used, in C99: what preprocess.py computes in NumPy.

   fit_picture() makes a picture of any size and of 1 to 4 channels one of the model's, preprocess_image() makes that the
   model's input. Each step is rounded to float, as NumPy does it: compile with -ffp-contract=off, so that no compiler
   joins a product and a sum. Nothing here allocates memory. C++ includes it as it is. */
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

/* A picture as it was decoded, upright by its EXIF orientation: [height][width][channels], red first.
   Channels: 1 grey, 2 grey and alpha, 3 red, green and blue, 4 these and alpha; or as many as the model has. */
typedef struct {
  const uint8_t *pixels;
  size_t height, width, channels;
} Picture;

typedef enum { RESIZE_NONE, RESIZE_STRETCH, RESIZE_CROP, RESIZE_LETTERBOX } Resize;
typedef enum { FILTER_NEAREST, FILTER_BOX, FILTER_BILINEAR, FILTER_BICUBIC } Filter;
typedef enum { ALIGN_CENTER, ALIGN_START } Align;
typedef enum { ORDER_RGB, ORDER_BGR } Order;
typedef enum { OTHER_CHANNELS_CONVERT, OTHER_CHANNELS_COMPOSITE, OTHER_CHANNELS_REFUSE } OtherChannels;

/* How pictures become the model's input: resized, then (pixel * scale - mean) / std for each channel. */
typedef struct {
  const char *input; /* NULL: this model takes no pictures */
  size_t height, width, channels; /* of a range of sizes: the largest */
  int channels_last; /* the model's input is [height][width][channels], else [channels][height][width] */
  float scale;
  const float *mean; /* a value for each channel, in the model's order */
  const float *std;
  Resize resize;
  size_t resize_height, resize_width; /* of RESIZE_CROP; width 0: height is that of the shorter side. Of
                                         RESIZE_LETTERBOX in a range: what sized_for() found; else 0 */
  Filter filter;
  int antialias;
  const uint8_t *fill; /* of RESIZE_LETTERBOX, a value for each channel, red first */
  Align align;
  Order order;
  OtherChannels other_channels;
  const uint8_t *background; /* of OTHER_CHANNELS_COMPOSITE: red, green, blue */
  size_t least_height, least_width; /* 0: pictures have one size; else they keep their own from here on */
  size_t multiple;
} ImageValues;

/* `pixels` is [height][width][channels] of the model's size, red first; `values` gets as many floats, as the model's
   input has them. */
static inline void preprocess_image(const uint8_t *pixels, float *values, const ImageValues *image) {
  const size_t plane = image->height * image->width;
  for (size_t i = 0; i < plane; i++) {
    for (size_t channel = 0; channel < image->channels; channel++) {
      const size_t given = image->order == ORDER_BGR && channel < 3 ? 2 - channel : channel;
      const size_t to = image->channels_last ? i * image->channels + channel : channel * plane + i;
      const float scaled = (float)pixels[i * image->channels + given] * image->scale;
      const float centred = scaled - image->mean[channel];
      values[to] = centred / image->std[channel];
    }
  }
}

/* Whether a picture of the data that the model was measured on needs no fit_picture(): it has the model's size. */
static inline int is_fitted(const Picture *picture, const ImageValues *image) {
  return picture->height == image->height && picture->width == image->width && picture->channels == image->channels;
}

/* --- a picture of the model's size and channels: whole numbers alone ------------------------------------------- */

#define WEIGHT_BITS 22 /* of a weight's fraction */

/* One axis that is resized, and the part of it that the model's picture has. */
typedef struct {
  int64_t size;   /* pixels given */
  int64_t scaled; /* resized */
  int64_t offset; /* where in these the model's begin; below 0: before them */
  int64_t begin, end;
  Filter filter;
  int antialias;
  double step, widened, reach;
} Axis;

/* The nearest whole number of a fraction; of a half, the even one. */
static inline int64_t nearest_whole(int64_t numerator, int64_t denominator) {
  const int64_t whole = numerator / denominator, rest = numerator % denominator;
  return whole + (2 * rest > denominator || (2 * rest == denominator && whole % 2 == 1));
}

static inline void place_inside(const Picture *picture, const ImageValues *image, int64_t *height, int64_t *width) {
  const int64_t given_height = (int64_t)picture->height, given_width = (int64_t)picture->width;
  *height = (int64_t)image->height;
  *width = (int64_t)image->width;
  if (*height * given_width <= *width * given_height) {
    *width = nearest_whole(given_width * *height, given_height);
    if (*width < 1) *width = 1;
  } else {
    *height = nearest_whole(given_height * *width, given_width);
    if (*height < 1) *height = 1;
  }
}

/* The least size of the range, with the picture's proportions. */
static inline void place_around(const Picture *picture, const ImageValues *image, int64_t *height, int64_t *width) {
  const int64_t given_height = (int64_t)picture->height, given_width = (int64_t)picture->width;
  *height = (int64_t)image->least_height;
  *width = (int64_t)image->least_width;
  if (*height * given_width >= *width * given_height) {
    *width = nearest_whole(given_width * *height, given_height);
  } else {
    *height = nearest_whole(given_height * *width, given_width);
  }
}

static inline size_t stepped(int64_t side, size_t least, size_t largest, const ImageValues *image) {
  const int64_t multiple = (int64_t)image->multiple;
  const int64_t steps = image->resize == RESIZE_LETTERBOX ? (side + multiple - 1) / multiple : nearest_whole(side, multiple);
  const size_t whole = (size_t)(steps * multiple);
  return whole < least ? least : whole > largest ? largest : whole;
}

/* How a picture of that size becomes the model's input: with a range of sizes, its height and width are the picture's
   own in it, as every other function wants it. The result is for this picture and others of its size. */
static inline ImageValues sized_for(const Picture *picture, const ImageValues *image) {
  ImageValues sized = *image;
  if (image->least_height == 0 || picture->height < 1 || picture->width < 1) return sized;
  int64_t height = (int64_t)picture->height, width = (int64_t)picture->width;
  if (picture->height < image->least_height || picture->width < image->least_width) {
    place_around(picture, image, &height, &width);
  }
  if (height > (int64_t)image->height || width > (int64_t)image->width) place_inside(picture, image, &height, &width);
  sized.height = stepped(height, image->least_height, image->height, image);
  sized.width = stepped(width, image->least_width, image->width, image);
  sized.least_height = sized.least_width = 0;
  if (image->resize != RESIZE_LETTERBOX) return sized;
  sized.resize_height = (size_t)height;
  sized.resize_width = (size_t)width;
  return sized;
}

static inline Axis make_axis(size_t size, int64_t scaled, int64_t offset, size_t length, const ImageValues *image) {
  static const double reaches[] = {0.5, 0.5, 1.0, 2.0};
  Axis axis;
  const int64_t end = offset + (int64_t)length;
  axis.size = (int64_t)size;
  axis.scaled = scaled;
  axis.offset = offset;
  axis.begin = offset > 0 ? offset : 0;
  axis.end = end < scaled ? end : scaled;
  axis.filter = image->filter;
  axis.antialias = image->antialias;
  axis.step = (double)size / (double)scaled;
  axis.widened = image->antialias && axis.step > 1.0 ? axis.step : 1.0;
  axis.reach = reaches[image->filter] * axis.widened;
  return axis;
}

static inline void place_crop(const Picture *picture, const ImageValues *image, int64_t *height, int64_t *width) {
  const int64_t shorter = (int64_t)image->resize_height;
  *height = shorter;
  *width = (int64_t)image->resize_width;
  if (image->resize_width != 0) return;
  if (picture->width <= picture->height) {
    *height = shorter * (int64_t)picture->height / (int64_t)picture->width;
    *width = shorter;
  } else {
    *width = shorter * (int64_t)picture->width / (int64_t)picture->height;
  }
}

/* How rows and columns of a picture are resized. */
static inline void place(const Picture *picture, const ImageValues *image, Axis *rows, Axis *columns) {
  int64_t height = (int64_t)image->height, width = (int64_t)image->width, top = 0, left = 0;
  if (image->resize == RESIZE_CROP) {
    place_crop(picture, image, &height, &width);
    top = nearest_whole(height - (int64_t)image->height, 2);
    left = nearest_whole(width - (int64_t)image->width, 2);
  } else if (image->resize == RESIZE_LETTERBOX) {
    if (image->resize_height == 0) {
      place_inside(picture, image, &height, &width);
    } else {
      height = (int64_t)image->resize_height;
      width = (int64_t)image->resize_width;
    }
    if (image->align == ALIGN_CENTER) {
      top = -(((int64_t)image->height - height) / 2);
      left = -(((int64_t)image->width - width) / 2);
    }
  }
  *rows = make_axis(picture->height, height, top, image->height, image);
  *columns = make_axis(picture->width, width, left, image->width, image);
}

static inline size_t taps_of(const Axis *axis) {
  return axis->filter == FILTER_NEAREST ? 1 : (size_t)ceil(axis->reach) * 2 + 1;
}

static inline double filter_value(Filter filter, double distance, int antialias) {
  const double x = fabs(distance), a = antialias ? -0.5 : -0.75;
  if (filter == FILTER_BOX) return distance > -0.5 && distance <= 0.5 ? 1.0 : 0.0;
  if (filter == FILTER_BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

/* How much of the pixel at `position` is in the resized one around `center`, before all are made 1 together. */
static inline double amount_of(const Axis *axis, int64_t position, double center) {
  const int is_outside = position < 0 || position >= axis->size;
  if (position >= (int64_t)floor(center + axis->reach + 0.5)) return 0.0;
  if (axis->antialias && is_outside) return 0.0; /* else it is the pixel at the edge */
  return filter_value(axis->filter, ((double)position - center + 0.5) * (1.0 / axis->widened), axis->antialias);
}

/* The weights of the resized pixel `at`, as many as taps_of(axis). Returns the position that the first is of. */
static inline int64_t weigh(const Axis *axis, int64_t at, int32_t *weights) {
  if (axis->filter == FILTER_NEAREST) {
    double position = 0.5 * axis->step;
    for (int64_t i = 0; i < at; i++) position += axis->step;
    weights[0] = (int32_t)1 << WEIGHT_BITS;
    return (int64_t)position;
  }
  const double center = ((double)at + 0.5) * axis->step;
  const int64_t first = (int64_t)floor(center - axis->reach + 0.5);
  const int64_t taps = (int64_t)taps_of(axis);
  double total = 0.0;
  for (int64_t tap = 0; tap < taps; tap++) total += amount_of(axis, first + tap, center);
  for (int64_t tap = 0; tap < taps; tap++) {
    const double share = amount_of(axis, first + tap, center) / total * (double)(1L << WEIGHT_BITS);
    weights[tap] = (int32_t)(share + (share < 0.0 ? -0.5 : 0.5));
  }
  return first;
}

static inline size_t clamped(int64_t position, int64_t size) {
  return (size_t)(position < 0 ? 0 : position >= size ? size - 1 : position);
}

static inline uint8_t byte_of(int32_t total) {
  if (total < 0) return 0;
  total >>= WEIGHT_BITS;
  return (uint8_t)(total > 255 ? 255 : total);
}

/* Red, green or blue of a pixel, over the background where that is asked for. */
static inline uint8_t colour_of(const uint8_t *pixel, size_t given, size_t channel, const ImageValues *image) {
  const uint32_t value = given < 3 ? pixel[0] : pixel[channel];
  const int has_alpha = given == 2 || given == 4;
  if (!has_alpha || image->channels == 4 || image->other_channels != OTHER_CHANNELS_COMPOSITE) return (uint8_t)value;
  const uint32_t alpha = pixel[given - 1], behind = image->background[channel];
  return (uint8_t)((2 * (value * alpha + behind * (255 - alpha)) + 255) / 510);
}

/* One of the model's channels, red first, of a pixel with `given` channels. */
static inline uint8_t channel_of(const uint8_t *pixel, size_t given, size_t channel, const ImageValues *image) {
  if (given == image->channels) return pixel[channel];
  if (channel == 3) return given == 2 ? pixel[1] : 255;
  if (image->channels != 1) return colour_of(pixel, given, channel, image);
  const uint32_t red = colour_of(pixel, given, 0, image);
  const uint32_t green = colour_of(pixel, given, 1, image);
  const uint32_t blue = colour_of(pixel, given, 2, image);
  return (uint8_t)((red * 19595u + green * 38470u + blue * 7471u + 0x8000u) >> 16);
}

static inline int are_channels_taken(const Picture *picture, const ImageValues *image) {
  const size_t channels = image->channels;
  if (picture->channels == channels) return 1;
  if (image->other_channels == OTHER_CHANNELS_REFUSE || picture->channels < 1 || picture->channels > 4) return 0;
  return channels == 1 || channels == 3 || channels == 4;
}

/* Along the rows: `narrow` gets [picture's height][columns that are seen][model's channels]. */
static inline void resize_rows(const Picture *picture, const Axis *columns, uint8_t *narrow, const ImageValues *image,
                               int32_t *weights) {
  const size_t seen = (size_t)(columns->end - columns->begin), taps = taps_of(columns);
  for (size_t x = 0; x < seen; x++) {
    const int64_t first = weigh(columns, columns->begin + (int64_t)x, weights);
    for (size_t y = 0; y < picture->height; y++) {
      for (size_t channel = 0; channel < image->channels; channel++) {
        int32_t total = (int32_t)1 << (WEIGHT_BITS - 1);
        for (size_t tap = 0; tap < taps; tap++) {
          const size_t at = y * picture->width + clamped(first + (int64_t)tap, columns->size);
          total += channel_of(picture->pixels + at * picture->channels, picture->channels, channel, image) * weights[tap];
        }
        narrow[(y * seen + x) * image->channels + channel] = byte_of(total);
      }
    }
  }
}

/* Along the columns of `narrow`, into the model's picture. */
static inline void resize_columns(const uint8_t *narrow, const Axis *rows, const Axis *columns, uint8_t *pixels,
                                  const ImageValues *image, int32_t *weights) {
  const size_t seen = (size_t)(columns->end - columns->begin), taps = taps_of(rows);
  const size_t line = seen * image->channels;
  const size_t left = (size_t)(columns->begin - columns->offset);
  for (int64_t y = rows->begin; y < rows->end; y++) {
    const int64_t first = weigh(rows, y, weights);
    uint8_t *to = pixels + ((size_t)(y - rows->offset) * image->width + left) * image->channels;
    for (size_t i = 0; i < line; i++) {
      int32_t total = (int32_t)1 << (WEIGHT_BITS - 1);
      for (size_t tap = 0; tap < taps; tap++) {
        total += narrow[clamped(first + (int64_t)tap, rows->size) * line + i] * weights[tap];
      }
      to[i] = byte_of(total);
    }
  }
}

/* int32_t values of scratch that fit_picture() needs for a picture of that height and width; none for RESIZE_NONE. */
#define FIT_SCRATCH(height, width, image_width, channels) \
  (4 * ((height) > (width) ? (height) : (width)) + 3 + ((height) * (image_width) * (channels) + 3) / 4)

/* The picture as the model's [height][width][channels], red first, in `pixels`. Returns 0 where it is refused: its
   channels, or its size with RESIZE_NONE. */
static inline int fit_picture(const Picture *picture, uint8_t *pixels, const ImageValues *image, int32_t *scratch) {
  const size_t plane = image->height * image->width;
  if (!are_channels_taken(picture, image) || picture->height < 1 || picture->width < 1) return 0;
  if (image->resize == RESIZE_NONE) {
    if (picture->height != image->height || picture->width != image->width) return 0;
    for (size_t i = 0; i < plane * image->channels; i++) {
      const uint8_t *pixel = picture->pixels + i / image->channels * picture->channels;
      pixels[i] = channel_of(pixel, picture->channels, i % image->channels, image);
    }
    return 1;
  }
  Axis rows, columns;
  place(picture, image, &rows, &columns);
  int32_t *weights = scratch; /* at most four for each pixel of the longer side, and three */
  const size_t longer = picture->height > picture->width ? picture->height : picture->width;
  uint8_t *narrow = (uint8_t *)(scratch + 4 * longer + 3);
  resize_rows(picture, &columns, narrow, image, weights);
  for (size_t i = 0; i < plane * image->channels; i++) pixels[i] = image->fill[i % image->channels];
  resize_columns(narrow, &rows, &columns, pixels, image, weights);
  return 1;
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
