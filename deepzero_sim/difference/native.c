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
    int tiled; /* whether it goes by Winograd's method */
};

/* Rows or columns behind a convolution */
static int rows_behind(int rows, const struct convolution *s) { return (rows + 2 * s->border - s->kernel) / s->stride + 1; }

static size_t pixels_behind(const struct convolution *s) { return (size_t)rows_behind(s->height, s) * rows_behind(s->width, s); }

/* Rows or columns with a border, and up to whole tiles */
static int padded_rows(int rows, const struct convolution *s) {
    int tile = s->tiled ? 7 - s->kernel : 1;
    return (rows + tile - 1) / tile * tile + 2 * s->border;
}
static int padded_height(const struct convolution *s) { return padded_rows(s->height, s); }
static int padded_width(const struct convolution *s) { return padded_rows(s->width, s); }
static size_t padded_size(const struct convolution *s) { return (size_t)padded_height(s) * padded_width(s) * s->inputs; }

/* Where a line of images without a border, counted over all of them, begins among those with one */
static float *line_of(float *padded, int line, const struct convolution *s) {
    size_t down = (size_t)(line / s->height) * padded_height(s) + line % s->height + s->border;
    return padded + (down * padded_width(s) + s->border) * s->inputs;
}

/* Writes images into those with a border, which is zero already */
static void pad(const float *x, float *padded, const struct convolution *s) {
    size_t line = (size_t)s->width * s->inputs;
    for (int h = 0; h < s->images * s->height; h++, x += line) memcpy(line_of(padded, h, s), x, sizeof(float) * line);
}

/* So many images that they have about a block of tiles of 4 x 4 */
static int images_at_once(const struct convolution *s) {
    int tiles = ((s->height + 3) / 4) * ((s->width + 3) / 4), most = tiles < BLOCK ? BLOCK / tiles : 1;
    return most < s->images ? most : s->images;
}

struct normalisation {
    size_t rows;
    int channels;
    const float *y, *deviation, *weight, *before; /* (rows, channels), (channels), (channels), (rows, channels) */
};

struct layer {
    int queries;
    struct normalisation norm;
    struct convolution convolution;
    const float *weight, *next; /* what is normalised behind the convolution */
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

/* Floats of scratch memory that a convolution needs, and one of at most four channels. */
size_t dz_convolution_scratch(int images, int height, int width, int inputs, int outputs, int kernel, int border, int tiled) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, 1, border, tiled};
    return images_at_once(&s) * padded_size(&s) + (tiled ? (size_t)36 * (BLOCK * (inputs + outputs) + 32) : 0);
}
size_t dz_narrow_scratch(int height, int width, int inputs, int kernel, int border) {
    return (size_t)kernel * kernel * inputs * 16 + (size_t)4 * (height + 2 * border) * (width + 2 * border) + 4 * 16;
}

/* Any convolution with a border of zeros: x (images, height, width, inputs), out (images, height', width', outputs), outputs a
 * multiple of 8. If `tiled`, it goes by Winograd's method and keeps the size of the images, of a multiple of 8 channels, and weight
 * is (36, inputs, outputs), transformed for a kernel of 3 or 5; else weight is (kernel, kernel, inputs, outputs). If `sums` are not
 * NULL, the moments of `out` with `next`, what a norm behind it gives in the base network, are added to them. */
void dz_convolution(const float *x, const float *weight, const float *next, float *out, double *sums, float *scratch, int images, int height, int width, int inputs,
                    int outputs, int kernel, int stride, int border, int tiled) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, stride, border, tiled};
    BEST(convolution, tiled ? inputs | outputs : outputs, x, weight, next, out, sums, scratch, &s);
}

/* Any convolution with stride 1 of at most four channels to at most four, arguments as above. */
void dz_narrow(const float *x, const float *weight, float *out, float *scratch, int images, int height, int width, int inputs,
               int outputs, int kernel, int border) {
    struct convolution s = {images, height, width, inputs, outputs, kernel, 1, border, 0};
    BEST(narrow, 16, x, weight, out, scratch, &s);
}

/* What `queries` differences d of `count` numbers each change behind max(x, slope x); `out` may be `d`. */
void dz_bent(const float *d, const float *x, float *out, int queries, size_t count, float slope) {
    for (int query = 0; query < queries; query++, d += count, out += count) BEST(bent, 16, d, x, out, count, slope);
}

/* Adds the sums over all rows of d, y d and d^2 to `sums` (queries, 3, channels), for d (queries, rows, channels). */
void dz_moments(const float *d, const float *y, double *sums, int queries, size_t rows, int channels) {
    for (int query = 0; query < queries; query++, d += rows * channels, sums += 3 * channels)
        BEST(moments, channels, d, y, rows, channels, sums);
}

/* What differences d (queries, rows, channels) change behind batch normalisation in training mode, a sum with differences `skip`
 * if they are not NULL, and a ReLU; `sums` are the moments of d. `out` may be `d`. Scratch is 3 floats a channel. */
void dz_normalised_relu(const float *d, const double *sums, const float *skip, float *out, float *scratch, int queries, size_t rows,
                        int channels, const float *y, const float *deviation, const float *weight, const float *before) {
    struct normalisation s = {rows, channels, y, deviation, weight, before};
    size_t size = rows * channels;
    for (int query = 0; query < queries; query++, d += size, sums += 3 * channels, out += size) {
        factors_of(sums, scratch, &s);
        BEST(normalised_relu, channels, d, skip ? skip + query * size : NULL, out, 0, rows, scratch, &s);
    }
}

/* The same, and a convolution behind it as above, of a multiple of 8 channels. What the ReLU gives is written to `kept`, if it is
 * not NULL, which may be `skip`. `next` and `next_sums` are as there. `out` may be `d` if they are of one size. Scratch is that of the convolution, and 3 floats a
 * query and channel. */
void dz_layer(const float *d, const double *sums, const float *skip, float *kept, float *out, double *next_sums, float *scratch,
              const float *y, const float *deviation, const float *norm_weight, const float *before, const float *weight,
              const float *next, int queries, int images, int height, int width, int inputs, int outputs, int kernel, int stride,
              int border, int tiled) {
    struct normalisation norm = {(size_t)images * height * width, inputs, y, deviation, norm_weight, before};
    struct convolution convolution = {images, height, width, inputs, outputs, kernel, stride, border, tiled};
    struct layer s = {queries, norm, convolution, weight, next};
    BEST(layer, inputs | outputs, &s, d, sums, skip, kept, out, next_sums, scratch);
}
