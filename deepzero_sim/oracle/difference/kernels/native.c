/* Kernels for differences of images on CPUs: one pass over memory where torch's operations take several.
 *
 * Plain C with the vector types of GCC and Clang, on one thread, since queries are divided among workers. Called through
 * native.py, which checks shapes and types. On x86-64 the best instructions of the machine are chosen at run time.
 */

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Largest number of tiles that Winograd's method transforms together, enough to make a matrix product of them worthwhile. A
 * multiple of the 6 rows that a product has in registers. */
#define MAX_TILES 48

/* Floats of tiles and of products that fit the cache */
#define CACHE_FLOATS (1 << 17)

/* Rows of a block: moments are summed in float32 within a block and in float64 over blocks; ReLUs are computed by blocks */
#define ROWS 64

struct convolution {
    int images, height, width, inputs, outputs, kernel, stride, border;
    int points; /* of Winograd's method in each direction, 6 or 10; 0 for the direct method */
};

/* Points of Winograd's method: pairs p and -p, then 0 and infinity, which need no numbers here. `powers` are the powers of p
 * from 0 on; `others` the coefficients of the product of x^2 - q^2 over the other pairs q, `all` those over all pairs, both
 * from the constant on. */
struct points {
    int pairs;
    float powers[4][8], others[4][4], all[5];
};

#define POWERS(p) {1, p, p * p, p * p * p, p * p * p * p, p * p * p * p * p, p * p * p * p * p * p, p * p * p * p * p * p * p}
#define OTHERS(a, b, c) {-a * b * c, a * b + a * c + b * c, -(a + b + c), 1}

/* Squares of the points */
#define A 0.390625
#define B 2.25
static const struct points SIX = {
    .pairs = 2,
    .powers = {POWERS(0.625), POWERS(1.5)},
    .others = {{-B, 1}, {-A, 1}},
    .all = {A * B, -(A + B), 1},
};
#undef A
#undef B

#define A 0.140625
#define B 0.66015625
#define C 1.5625
#define D 5.0625
static const struct points TEN = {
    .pairs = 4,
    .powers = {POWERS(0.375), POWERS(0.8125), POWERS(1.25), POWERS(2.25)},
    .others = {OTHERS(B, C, D), OTHERS(A, C, D), OTHERS(A, B, D), OTHERS(A, B, C)},
    .all = {A * B * C * D, -(A * B * C + A * B * D + A * C * D + B * C * D), A * B + A * C + A * D + B * C + B * D + C * D,
            -(A + B + C + D), 1},
};
#undef A
#undef B
#undef C
#undef D

/* Rows and columns of results of a tile */
static int tile_of(const struct convolution *s) { return s->points ? s->points + 1 - s->kernel : 1; }

/* Rows or columns after a convolution */
static int rows_after(int rows, const struct convolution *s) { return (rows + 2 * s->border - s->kernel) / s->stride + 1; }

static size_t pixels_after(const struct convolution *s) { return (size_t)rows_after(s->height, s) * rows_after(s->width, s); }

/* Rows or columns with a border, rounded up to whole tiles */
static int padded_rows(int rows, const struct convolution *s) {
    int tile = tile_of(s);
    return (rows + tile - 1) / tile * tile + 2 * s->border;
}
static int padded_height(const struct convolution *s) { return padded_rows(s->height, s); }
static int padded_width(const struct convolution *s) { return padded_rows(s->width, s); }
static size_t padded_size(const struct convolution *s) { return (size_t)padded_height(s) * padded_width(s) * s->inputs; }

/* Address, in images with a border, of a line that is counted over all images without their border */
static float *padded_line(float *padded, int line, const struct convolution *s) {
    size_t down = (size_t)(line / s->height) * padded_height(s) + line % s->height + s->border;
    return padded + (down * padded_width(s) + s->border) * s->inputs;
}

/* Copies images into images with a border, which is zero already */
static void pad(const float *x, float *padded, const struct convolution *s) {
    size_t line = (size_t)s->width * s->inputs;
    for (int h = 0; h < s->images * s->height; h++, x += line) memcpy(padded_line(padded, h, s), x, sizeof(float) * line);
}

static int tiles_at_once(const struct convolution *s) {
    int most = CACHE_FLOATS / (s->points * s->points * (s->inputs + s->outputs)) / 6 * 6;
    return most < 6 ? 6 : most < MAX_TILES ? most : MAX_TILES;
}

/* Floats from one place of tiles to the next: a cache line more than the tiles take, since places that are a power of two apart
 * would share a set of the cache */
static size_t step_of(int tiles, int channels) { return (size_t)tiles * channels + 16; }

static size_t winograd_scratch(const struct convolution *s) {
    int most = tiles_at_once(s);
    return (size_t)s->points * s->points * (step_of(most, s->inputs) + step_of(most, s->outputs));
}

/* Number of images with about as many tiles as are transformed together; tiles of 4 x 4 pixels for the direct method */
static int images_at_once(const struct convolution *s) {
    int tile = s->points ? tile_of(s) : 4, tiles = ((s->height + tile - 1) / tile) * ((s->width + tile - 1) / tile);
    int together = s->points ? tiles_at_once(s) : MAX_TILES, most = tiles < together ? together / tiles : 1;
    return most < s->images ? most : s->images;
}

struct normalisation {
    size_t rows;
    int channels;
    const float *y, *deviation, *weight, *before; /* native.BaseActivation */
};

/* Differences that are added before a ReLU, (queries, rows, channels), or (queries, rows) of one channel a query if `channel`
 * is not NULL; nothing if `values` is NULL */
struct skip {
    const float *values;
    const int *channel;
};

/* Those of `rows` rows from `first` on: in place, or written out in `buffer` */
static const float *skip_rows(const struct skip *s, const struct normalisation *norm, int query, size_t first, size_t rows,
                          float *buffer) {
    if (!s->values) return NULL;
    size_t row = query * norm->rows + first;
    if (!s->channel) return s->values + row * norm->channels;
    memset(buffer, 0, sizeof(float) * rows * norm->channels);
    for (size_t r = 0; r < rows; r++) buffer[r * norm->channels + s->channel[query]] = s->values[row + r];
    return buffer;
}

struct layer {
    int queries;
    struct normalisation norm;
    struct skip skip;
    struct convolution convolution;
    const float *weight, *next; /* weight of the convolution, and normalised values of the norm after it */
};

/* Factors a, b, c of batch normalisation's difference, `a d + b y + c`, from the sums of d, y d and d^2 over all rows */
static void norm_factors(const double *sums, float *factors, const struct normalisation *s) {
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

static int best_level(void) {
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw");
    return wide ? 2 : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
#define CHOICE 0
static int best_level(void) { return 0; }
#endif

static int level_limit = 2;

/* Limits the level of instructions from now on, and returns the level in use: 0 the instructions of every machine of its kind,
 * 1 AVX2, 2 AVX-512. */
int dz_instructions(int limit) {
    level_limit = limit;
    int best = best_level();
    return best < limit ? best : limit;
}

/* Calls a kernel in the widest form that the machine has and whose vectors divide `whole`, its number of channels */
#if CHOICE
#define DISPATCH(kernel, whole, ...)                     \
    do {                                                 \
        int level = dz_instructions(level_limit);        \
        if (level == 2 && (whole) % 16 == 0)             \
            kernel##_avx512(__VA_ARGS__);                \
        else if (level)                                  \
            kernel##_avx2(__VA_ARGS__);                  \
        else                                             \
            kernel##_plain(__VA_ARGS__);                 \
    } while (0)
#else
#define DISPATCH(kernel, whole, ...) kernel##_plain(__VA_ARGS__)
#endif

/* Floats of scratch memory for a convolution, and for one of at most four channels */
size_t dz_convolution_scratch(int images, int height, int width, int inputs, int outputs, int kernel, int border, int points) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, 1, border, points};
    return images_at_once(&s) * padded_size(&s) + (points ? winograd_scratch(&s) : 0);
}
size_t dz_narrow_convolution_scratch(int height, int width, int inputs, int kernel, int border) {
    return (size_t)kernel * kernel * inputs * 16 + (size_t)4 * (height + 2 * border) * (width + 2 * border) + 4 * 16;
}

/* Convolution with a border of zeros: x (images, height, width, inputs), out (images, height', width', outputs), outputs a
 * multiple of 8. With `points` 6 or 10, Winograd's method is used: the size of the images stays, inputs too are a multiple of
 * 8, and weight is (points^2, inputs, outputs), transformed for a kernel of 3 or 5. With 0, weight is (kernel, kernel, inputs,
 * outputs). If `sums` is not NULL, the moments of `out` with `next`, the normalised values of the norm after it, are added to
 * it. */
void dz_convolution(const float *x, const float *weight, const float *next, float *out, double *sums, float *scratch,
                    int images, int height, int width, int inputs, int outputs, int kernel, int stride, int border,
                    int points) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, stride, border, points};
    DISPATCH(convolution, points ? inputs | outputs : outputs, x, weight, next, out, sums, scratch, &s);
}

/* Convolution with stride 1 of at most four channels to at most four, arguments as above */
void dz_narrow_convolution(const float *x, const float *weight, float *out, float *scratch, int images, int height, int width,
                           int inputs, int outputs, int kernel, int border) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, 1, border, 0};
    DISPATCH(narrow_convolution, 16, x, weight, out, scratch, &s);
}

/* Differences of max(x, slope x) from `queries` differences d of `count` numbers each; `out` may be `d` */
void dz_leaky_relu(const float *d, const float *x, float *out, int queries, size_t count, float slope) {
    for (int query = 0; query < queries; query++, d += count, out += count) DISPATCH(leaky_relu, 16, d, x, out, count, slope);
}

/* Adds the sums over all rows of d, y d and d^2 to `sums` (queries, 3, channels), for d (queries, rows, channels) */
void dz_moments(const float *d, const float *y, double *sums, int queries, size_t rows, int channels) {
    for (int query = 0; query < queries; query++, d += rows * channels, sums += 3 * channels)
        DISPATCH(moments, channels, d, y, rows, channels, sums);
}

/* Differences after batch normalisation in training mode, a sum with differences `skip` unless that is NULL, and a ReLU, from
 * differences d (queries, rows, channels) and their moments `sums`. If `skip_channel` is not NULL, `skip` holds only that
 * channel of each query. `out` may be `d`. Scratch is 3 + ROWS floats a channel. */
void dz_norm_relu(const float *d, const double *sums, const float *skip, const int *skip_channel, float *out, float *scratch,
                  int queries, size_t rows, int channels, const float *y, const float *deviation, const float *weight,
                  const float *before) {
    struct normalisation s = {rows, channels, y, deviation, weight, before};
    struct skip added = {skip, skip_channel};
    float *buffer = scratch + 3 * channels;
    for (int query = 0; query < queries; query++) {
        norm_factors(sums + 3 * query * channels, scratch, &s);
        for (size_t first = 0; first < rows; first += ROWS) {
            size_t count = rows - first < ROWS ? rows - first : ROWS, at = (query * rows + first) * channels;
            const float *more = skip_rows(&added, &s, query, first, count, buffer);
            DISPATCH(norm_relu, channels, d + at, more, out + at, first, count, scratch, &s);
        }
    }
}

/* The same, averaged over the pixels of each image: out (queries, images, channels) for d (queries, images, pixels, channels).
 * Scratch is 3 + pixels floats a channel. */
void dz_norm_relu_mean(const float *d, const double *sums, const float *skip, const int *skip_channel, float *out,
                       float *scratch, int queries, int images, size_t pixels, int channels, const float *y,
                       const float *deviation, const float *weight, const float *before) {
    struct normalisation s = {images * pixels, channels, y, deviation, weight, before};
    struct skip added = {skip, skip_channel};
    float *buffer = scratch + 3 * channels;
    for (int query = 0; query < queries; query++) {
        norm_factors(sums + 3 * query * channels, scratch, &s);
        for (int image = 0; image < images; image++, d += pixels * channels, out += channels) {
            const float *more = skip_rows(&added, &s, query, image * pixels, pixels, buffer);
            DISPATCH(norm_relu_mean, channels, d, more, out, image * pixels, pixels, scratch, &s);
        }
    }
}

/* dz_norm_relu followed by a convolution of a multiple of 8 channels. The ReLU's differences are written to `activation`
 * unless that is NULL; it may be `skip` if that has all channels. `next` and `next_sums` are `next` and `sums` of
 * dz_convolution. `out` may be `d` if they have the same size. Scratch is that of the convolution, 3 floats per query and
 * channel, and one per channel and pixel of a row. */
void dz_layer(const float *d, const double *sums, const float *skip, const int *skip_channel, float *activation, float *out,
              double *next_sums, float *scratch, const float *y, const float *deviation, const float *norm_weight,
              const float *before, const float *weight, const float *next, int queries, int images, int height, int width,
              int inputs, int outputs, int kernel, int stride, int border, int points) {
    struct normalisation norm = {(size_t)images * height * width, inputs, y, deviation, norm_weight, before};
    struct convolution convolution = {images, height, width, inputs, outputs, kernel, stride, border, points};
    struct layer s = {queries, norm, {skip, skip_channel}, convolution, weight, next};
    DISPATCH(layer, inputs | outputs, &s, d, sums, activation, out, next_sums, scratch);
}
