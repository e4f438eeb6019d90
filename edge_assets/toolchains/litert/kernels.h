/*
 * Int8 kernels in plain C99 for networks that edge-assets wrote as C. Images are NHWC, one at a time.
 *
 * They compute what TensorFlow Lite's reference kernels define, to the last bit: products are added up in 32 bits, and
 * what a layer gives is scaled by a 32-bit multiplier and a power of two, rounded twice on the way.
 */
#ifndef EDGE_ASSETS_KERNELS_H
#define EDGE_ASSETS_KERNELS_H

#include <stdint.h>

#define KERNEL static inline

/* A real factor: multiplier / 2^31 * 2^shift. */
typedef struct {
    int32_t multiplier;
    int8_t shift;
} Factor;

typedef struct {
    int32_t min, max; /* what a fused activation leaves of the output's range */
} Range;

typedef struct {
    int32_t height, width, channels;
} Image;

typedef struct {
    int32_t height, width; /* of the filter or window */
    int32_t stride_height, stride_width;
    int32_t dilation_height, dilation_width;
    int32_t pad_top, pad_left;
} Window;

typedef struct {
    Image input, output;
    Window window;
    int32_t input_zero, output_zero;
    int32_t group_channels; /* of the input, that one output channel reads; of a depthwise layer: outputs per input */
    Range range;
} Convolution;

typedef struct {
    int32_t rows, inputs, outputs;
    int32_t input_zero, output_zero;
    Range range;
} Dense;

typedef struct {
    int32_t shape[4];
    int32_t strides[2][4]; /* of both inputs, in elements; 0 where one is repeated */
    int32_t zeros[2], output_zero;
    Factor factors[2], output; /* the first two of an addition alone */
    Range range;
} Pairwise;

typedef struct {
    Image input, output;
    Window window;
    Range range;
} Pool;

typedef struct {
    int32_t kept[4], reduced[4]; /* lengths: 1 in the one where the axis is in the other */
    int32_t strides[4];
    int32_t sum_of_zeros, output_zero;
    Factor factor;
} Mean;

typedef struct {
    int32_t shape[4]; /* of the output */
    int32_t strides[4]; /* of the input, in the order of the output's axes */
} Transpose;

typedef struct {
    int32_t shape[4], before[4], after[4];
    int8_t value;
} Pad;

/* --- fixed-point numbers ------------------------------------------------------------------------------------- */

KERNEL int32_t clamped(int32_t value, Range range) {
    if (value < range.min) return range.min;
    return value > range.max ? range.max : value;
}

/* a * b / 2^31, rounded to nearest. */
KERNEL int32_t high_product(int32_t a, int32_t b) {
    if (a == INT32_MIN && b == INT32_MIN) return INT32_MAX;
    int64_t product = (int64_t)a * b;
    int64_t half = product < 0 ? 1 - ((int64_t)1 << 30) : (int64_t)1 << 30;
    return (int32_t)((product + half) / ((int64_t)1 << 31));
}

/* value / 2^bits, rounded to nearest, halves away from zero. */
KERNEL int32_t shifted_right(int32_t value, int bits) {
    int32_t mask = (int32_t)(((int64_t)1 << bits) - 1);
    int32_t threshold = (mask >> 1) + (value < 0);
    return (value >> bits) + ((value & mask) > threshold);
}

KERNEL int32_t shifted_left(int32_t value, int bits) { return (int32_t)((uint32_t)value << bits); }

/* value * 2^bits, at most what 32 bits hold. */
KERNEL int32_t saturated_left(int32_t value, int bits) {
    int32_t limit = ((int32_t)1 << (31 - bits)) - 1;
    if (value > limit) return INT32_MAX;
    return value < -limit ? INT32_MIN : shifted_left(value, bits);
}

KERNEL int32_t scaled(int32_t value, Factor factor) {
    if (factor.shift > 0) return high_product(shifted_left(value, factor.shift), factor.multiplier);
    return shifted_right(high_product(value, factor.multiplier), -factor.shift);
}

/* 1 / (1 + x) of an x in [0, 1), both with 31 bits behind the point, by Newton's method. */
KERNEL int32_t reciprocal_of_one_plus(int32_t x) {
    const int32_t one = (int32_t)1 << 29; /* with 2 bits before the point, as all below */
    int32_t half_denominator = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
    int32_t found = 1515870810 + high_product(half_denominator, -1010580540); /* 48/17 - 32/17 d */
    for (int i = 0; i < 3; i++) {
        int32_t rest = one - high_product(half_denominator, found);
        found += saturated_left(high_product(found, rest), 2);
    }
    return saturated_left(found, 1);
}

/* --- layers -------------------------------------------------------------------------------------------------- */

KERNEL void convolve(const Convolution *layer, const int8_t *input, const int8_t *weights, const int32_t *bias,
                     const Factor *factors, int8_t *output) {
    const Window window = layer->window;
    const int32_t filters_per_group = layer->output.channels / (layer->input.channels / layer->group_channels);
    for (int32_t y = 0; y < layer->output.height; y++) {
        const int32_t top = y * window.stride_height - window.pad_top;
        for (int32_t x = 0; x < layer->output.width; x++) {
            const int32_t left = x * window.stride_width - window.pad_left;
            const int8_t *weight = weights;
            for (int32_t channel = 0; channel < layer->output.channels; channel++) {
                const int32_t first = channel / filters_per_group * layer->group_channels;
                int32_t sum = bias ? bias[channel] : 0;
                for (int32_t i = 0; i < window.height; i++) {
                    const int32_t row = top + i * window.dilation_height;
                    for (int32_t j = 0; j < window.width; j++, weight += layer->group_channels) {
                        const int32_t column = left + j * window.dilation_width;
                        if (row < 0 || row >= layer->input.height || column < 0 || column >= layer->input.width)
                            continue;
                        const int8_t *pixel =
                            input + (row * layer->input.width + column) * layer->input.channels + first;
                        for (int32_t k = 0; k < layer->group_channels; k++)
                            sum += weight[k] * (pixel[k] - layer->input_zero);
                    }
                }
                sum = scaled(sum, factors[channel]) + layer->output_zero;
                *output++ = (int8_t)clamped(sum, layer->range);
            }
        }
    }
}

KERNEL void convolve_depthwise(const Convolution *layer, const int8_t *input, const int8_t *weights,
                               const int32_t *bias, const Factor *factors, int8_t *output) {
    const Window window = layer->window;
    for (int32_t y = 0; y < layer->output.height; y++) {
        const int32_t top = y * window.stride_height - window.pad_top;
        for (int32_t x = 0; x < layer->output.width; x++) {
            const int32_t left = x * window.stride_width - window.pad_left;
            for (int32_t channel = 0; channel < layer->output.channels; channel++) {
                int32_t sum = bias ? bias[channel] : 0;
                for (int32_t i = 0; i < window.height; i++) {
                    const int32_t row = top + i * window.dilation_height;
                    if (row < 0 || row >= layer->input.height) continue;
                    for (int32_t j = 0; j < window.width; j++) {
                        const int32_t column = left + j * window.dilation_width;
                        if (column < 0 || column >= layer->input.width) continue;
                        const int32_t pixel = (row * layer->input.width + column) * layer->input.channels;
                        const int32_t value = input[pixel + channel / layer->group_channels] - layer->input_zero;
                        sum += weights[(i * window.width + j) * layer->output.channels + channel] * value;
                    }
                }
                sum = scaled(sum, factors[channel]) + layer->output_zero;
                *output++ = (int8_t)clamped(sum, layer->range);
            }
        }
    }
}

KERNEL void connect(const Dense *layer, const int8_t *input, const int8_t *weights, const int32_t *bias,
                    const Factor *factors, int8_t *output) {
    for (int32_t row = 0; row < layer->rows; row++, input += layer->inputs) {
        const int8_t *weight = weights;
        for (int32_t channel = 0; channel < layer->outputs; channel++, weight += layer->inputs) {
            int32_t sum = bias ? bias[channel] : 0;
            for (int32_t k = 0; k < layer->inputs; k++) sum += weight[k] * (input[k] - layer->input_zero);
            sum = scaled(sum, factors[channel]) + layer->output_zero;
            *output++ = (int8_t)clamped(sum, layer->range);
        }
    }
}

KERNEL int32_t sum_of(const Pairwise *layer, int32_t a, int32_t b) {
    const int bits = 20; /* headroom, so that little is lost when both come to one scale */
    int32_t sum = scaled(shifted_left(a, bits), layer->factors[0]) + scaled(shifted_left(b, bits), layer->factors[1]);
    return scaled(sum, layer->output);
}

KERNEL int32_t product_of(const Pairwise *layer, int32_t a, int32_t b) { return scaled(a * b, layer->output); }

KERNEL void combine(const Pairwise *layer, const int8_t *a, const int8_t *b, int8_t *output,
                    int32_t (*combined)(const Pairwise *, int32_t, int32_t)) {
    const int32_t *shape = layer->shape;
    for (int32_t i = 0; i < shape[0]; i++)
        for (int32_t j = 0; j < shape[1]; j++)
            for (int32_t k = 0; k < shape[2]; k++)
                for (int32_t l = 0; l < shape[3]; l++) {
                    int32_t at[2];
                    for (int side = 0; side < 2; side++) {
                        const int32_t *strides = layer->strides[side];
                        at[side] = i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3];
                    }
                    int32_t value = combined(layer, a[at[0]] - layer->zeros[0], b[at[1]] - layer->zeros[1]);
                    *output++ = (int8_t)clamped(value + layer->output_zero, layer->range);
                }
}

KERNEL void add(const Pairwise *layer, const int8_t *a, const int8_t *b, int8_t *output) {
    combine(layer, a, b, output, sum_of);
}

KERNEL void multiply(const Pairwise *layer, const int8_t *a, const int8_t *b, int8_t *output) {
    combine(layer, a, b, output, product_of);
}

KERNEL void pool_average(const Pool *layer, const int8_t *input, int8_t *output) {
    const Window window = layer->window;
    for (int32_t y = 0; y < layer->output.height; y++)
        for (int32_t x = 0; x < layer->output.width; x++)
            for (int32_t channel = 0; channel < layer->output.channels; channel++) {
                int32_t sum = 0, count = 0;
                for (int32_t i = 0; i < window.height; i++)
                    for (int32_t j = 0; j < window.width; j++) {
                        const int32_t row = y * window.stride_height - window.pad_top + i;
                        const int32_t column = x * window.stride_width - window.pad_left + j;
                        if (row < 0 || row >= layer->input.height || column < 0 || column >= layer->input.width)
                            continue;
                        sum += input[(row * layer->input.width + column) * layer->input.channels + channel];
                        count++;
                    }
                sum = (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
                *output++ = (int8_t)clamped(sum, layer->range);
            }
}

KERNEL void pool_max(const Pool *layer, const int8_t *input, int8_t *output) {
    const Window window = layer->window;
    for (int32_t y = 0; y < layer->output.height; y++)
        for (int32_t x = 0; x < layer->output.width; x++)
            for (int32_t channel = 0; channel < layer->output.channels; channel++) {
                int32_t largest = INT8_MIN;
                for (int32_t i = 0; i < window.height; i++)
                    for (int32_t j = 0; j < window.width; j++) {
                        const int32_t row = y * window.stride_height - window.pad_top + i;
                        const int32_t column = x * window.stride_width - window.pad_left + j;
                        if (row < 0 || row >= layer->input.height || column < 0 || column >= layer->input.width)
                            continue;
                        const int32_t value =
                            input[(row * layer->input.width + column) * layer->input.channels + channel];
                        if (value > largest) largest = value;
                    }
                *output++ = (int8_t)clamped(largest, layer->range);
            }
}

KERNEL int32_t sum_over(const Mean *layer, const int8_t *input) {
    const int32_t *lengths = layer->reduced, *strides = layer->strides;
    int32_t sum = 0;
    for (int32_t i = 0; i < lengths[0]; i++)
        for (int32_t j = 0; j < lengths[1]; j++)
            for (int32_t k = 0; k < lengths[2]; k++)
                for (int32_t l = 0; l < lengths[3]; l++)
                    sum += input[i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3]];
    return sum;
}

KERNEL void average(const Mean *layer, const int8_t *input, int8_t *output) {
    const int32_t *lengths = layer->kept, *strides = layer->strides;
    const Range range = {INT8_MIN, INT8_MAX};
    for (int32_t i = 0; i < lengths[0]; i++)
        for (int32_t j = 0; j < lengths[1]; j++)
            for (int32_t k = 0; k < lengths[2]; k++)
                for (int32_t l = 0; l < lengths[3]; l++) {
                    const int8_t *first = input + i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3];
                    int32_t value = scaled(sum_over(layer, first) - layer->sum_of_zeros, layer->factor);
                    *output++ = (int8_t)clamped(value + layer->output_zero, range);
                }
}

KERNEL void transpose(const Transpose *layer, const int8_t *input, int8_t *output) {
    const int32_t *shape = layer->shape, *strides = layer->strides;
    for (int32_t i = 0; i < shape[0]; i++)
        for (int32_t j = 0; j < shape[1]; j++)
            for (int32_t k = 0; k < shape[2]; k++)
                for (int32_t l = 0; l < shape[3]; l++)
                    *output++ = input[i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3]];
}

KERNEL int is_outside(int32_t position, int32_t before, int32_t length) {
    return position < before || position >= before + length;
}

KERNEL void pad(const Pad *layer, const int8_t *input, int8_t *output) {
    int32_t padded[4];
    for (int axis = 0; axis < 4; axis++) padded[axis] = layer->before[axis] + layer->shape[axis] + layer->after[axis];
    for (int32_t i = 0; i < padded[0]; i++)
        for (int32_t j = 0; j < padded[1]; j++)
            for (int32_t k = 0; k < padded[2]; k++)
                for (int32_t l = 0; l < padded[3]; l++) {
                    const int32_t *before = layer->before, *shape = layer->shape;
                    int outside = is_outside(i, before[0], shape[0]) || is_outside(j, before[1], shape[1]) ||
                                  is_outside(k, before[2], shape[2]) || is_outside(l, before[3], shape[3]);
                    *output++ = outside ? layer->value : *input++;
                }
}

KERNEL void copy(const int8_t *input, int8_t *output, int32_t count) {
    for (int32_t i = 0; i < count; i++) output[i] = input[i];
}

/* Any function of one int8 value: a table of what it gives for -128, -127, ..., 127. */
KERNEL void look_up(const int8_t table[256], const int8_t *input, int8_t *output, int32_t count) {
    for (int32_t i = 0; i < count; i++) output[i] = table[input[i] + 128];
}

/* `exponentials`: of 0, -1, ..., -255 steps of the input, with 31 bits behind the point. */
KERNEL void softmax(const int32_t exponentials[256], const int8_t *input, int8_t *output, int32_t rows,
                    int32_t length) {
    const Range range = {INT8_MIN, INT8_MAX};
    for (int32_t row = 0; row < rows; row++, input += length, output += length) {
        int32_t largest = INT8_MIN, sum = 0, headroom = 0;
        for (int32_t i = 0; i < length; i++)
            if (input[i] > largest) largest = input[i];
        for (int32_t i = 0; i < length; i++) sum += shifted_right(exponentials[largest - input[i]], 12);
        while (!((uint32_t)sum << headroom & 0x80000000u)) headroom++;
        const int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - 0x80000000u));
        for (int32_t i = 0; i < length; i++) {
            int32_t value = high_product(scale, exponentials[largest - input[i]]);
            value = shifted_right(value, 12 - headroom + 31 - 8);
            output[i] = (int8_t)clamped(value + INT8_MIN, range);
        }
    }
}

/* The nearest integer, halves away from zero. */
KERNEL void quantize(float scale, int32_t zero, const float *input, int8_t *output, int32_t count) {
    const Range range = {INT8_MIN, INT8_MAX};
    for (int32_t i = 0; i < count; i++) {
        float steps = input[i] / scale;
        if (steps > 512) steps = 512;
        if (steps < -512) steps = -512;
        int32_t whole = (int32_t)steps;
        if (steps - (float)whole >= 0.5f) whole++;
        if (steps - (float)whole <= -0.5f) whole--;
        output[i] = (int8_t)clamped(whole + zero, range);
    }
}

KERNEL void dequantize(float scale, int32_t zero, const int8_t *input, float *output, int32_t count) {
    for (int32_t i = 0; i < count; i++) output[i] = (float)((double)scale * (input[i] - zero));
}

#endif
