/* Kernels for differences of images on CPUs: what single operations of torch would take several passes over memory for.
 *
 * Plain C with the vectors of GCC and Clang, on one thread: queries are dealt out to workers. Called through native.py, which
 * holds shapes and types to what is expected here. On x86-64 the best instructions of the machine are chosen when it runs.
 */

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Tiles of Winograd's method that are transformed together: so many that a matrix of them is worth a product, and few enough
 * that 36 of those stay in the cache. A multiple of the 6 rows that a product keeps in registers. */
#define BLOCK 48

/* Rows that are summed up in float32 before they go into a sum in float64. */
#define ROWS 64

struct convolution {
    int images, height, width, inputs, outputs, kernel, stride, border;
};

struct normalisation {
    size_t rows;
    int channels;
    const float *y, *deviation, *weight, *before; /* (rows, channels), (channels), (channels), (rows, channels) */
};

/* The difference of batch normalisation as `a d + b y + c`, from the sums of d, y d and d^2 over all rows */
static void factors_of(const double *sums, float *factors, const struct normalisation *s) {
    for (int i = 0; i < s->channels; i++) {
        double mean = sums[i] / s->rows, mixed = sums[s->channels + i] / s->rows, square = sums[2 * s->channels + i] / s->rows;
        double deviation = s->deviation[i], variance = 2 * deviation * mixed + square - mean * mean;
        double moved = sqrt(deviation * deviation + variance), a = s->weight[i] / moved;
        factors[i] = (float)a;
        factors[s->channels + i] = (float)(-a * variance / (deviation + moved));
        factors[2 * s->channels + i] = (float)(-a * mean);
    }
}

#define VECTOR 8
#define SUFFIX plain
#include "native_kernels.h"
#undef SUFFIX
#undef VECTOR

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CHOICE 1

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VECTOR 8
#define SUFFIX avx2
#include "native_kernels.h"
#undef SUFFIX
#undef VECTOR
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512")
#define VECTOR 16
#define SUFFIX avx512
#include "native_kernels.h"
#undef SUFFIX
#undef VECTOR
#pragma GCC pop_options

static int found(void) {
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw");
    return wide ? 2 : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
#define CHOICE 0
static int found(void) { return 0; }
#endif

static int most = 2;

/* Sets of instructions: 0 those that every machine of its kind has, 1 AVX2, 2 AVX-512. Uses none beyond `limit` from now on, and
 * tells the one that is used. */
int dz_instructions(int limit) {
    most = limit;
    int best = found();
    return best < most ? best : most;
}

/* Calls a kernel in the widest form that the machine has and that divides the channels */
#if CHOICE
#define BEST(kernel, whole, ...)                         \
    do {                                                 \
        int level = dz_instructions(most);               \
        if (level == 2 && (whole) % 16 == 0)             \
            kernel##_avx512(__VA_ARGS__);                \
        else if (level)                                  \
            kernel##_avx2(__VA_ARGS__);                  \
        else                                             \
            kernel##_plain(__VA_ARGS__);                 \
    } while (0)
#else
#define BEST(kernel, whole, ...) kernel##_plain(__VA_ARGS__)
#endif

/* Floats of scratch memory that convolutions need. */
size_t dz_winograd_scratch(int inputs, int outputs) {
    return (size_t)(inputs + outputs) * (1 + 36 * BLOCK) + (size_t)2 * 36 * 16;
}
size_t dz_summed_scratch(int height, int width, int inputs, int border) {
    return (size_t)(height + 2 * border) * (width + 2 * border) * inputs;
}

size_t dz_narrow_scratch(int height, int width, int inputs, int kernel, int border) {
    return (size_t)kernel * kernel * inputs * 16 + (size_t)4 * (height + 2 * border) * (width + 2 * border) + 4 * 16;
}

/* A convolution that keeps the size of the images: x (images, height, width, inputs), weight (36, inputs, outputs) as
 * transformed for a kernel of 3 or 5, out (images, height, width, outputs). Inputs and outputs are multiples of 8. */
void dz_winograd(const float *x, const float *weight, float *out, float *scratch, int images, int height, int width, int inputs,
                 int outputs, int kernel) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, 1, kernel / 2};
    BEST(winograd, inputs | outputs, x, weight, out, scratch, &s);
}

/* Any convolution with a border of zeros: weight (kernel, kernel, inputs, outputs), outputs a multiple of 8. */
void dz_summed(const float *x, const float *weight, float *out, float *scratch, int images, int height, int width, int inputs,
               int outputs, int kernel, int stride, int border) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, stride, border};
    BEST(summed, outputs, x, weight, out, scratch, &s);
}

/* Any convolution with stride 1 of at most four channels to at most four, arguments as above. */
void dz_narrow(const float *x, const float *weight, float *out, float *scratch, int images, int height, int width, int inputs,
               int outputs, int kernel, int border) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, 1, border};
    BEST(narrow, 16, x, weight, out, scratch, &s);
}

/* What `queries` differences d of `count` numbers each change behind max(x, slope x); `out` may be `d`. */
void dz_bent(const float *d, const float *x, float *out, int queries, size_t count, float slope) {
    for (int query = 0; query < queries; query++, d += count, out += count) BEST(bent, 16, d, x, out, count, slope);
}

/* What a difference d (rows, channels) changes behind batch normalisation in training mode, a sum with a difference `skip` if
 * it is not NULL, and a ReLU. `out` may be `d`. Scratch is 9 floats a channel. */
void dz_normalised_relu(const float *d, const float *skip, float *out, float *scratch, size_t rows, int channels, const float *y,
                        const float *deviation, const float *weight, const float *before) {
    struct normalisation s = {rows, channels, y, deviation, weight, before};
    BEST(normalised_relu, channels, d, skip, out, scratch, &s);
}
