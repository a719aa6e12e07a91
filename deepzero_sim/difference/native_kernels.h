/* The kernels of native.c, written in vectors of VECTOR floats; included once for every set of instructions.
 *
 * Images lie with their channels innermost, (images, height, width, channels); channels are whole vectors. No pointer needs
 * to be aligned. What is called with numbers for `rows` and `vectors` is inlined with them: its sums then stay in registers.
 */

#define JOINED(name, suffix) name##_##suffix
#define EXPANDED(name, suffix) JOINED(name, suffix)
#define NAME(name) EXPANDED(name, SUFFIX)
#define INLINE static inline __attribute__((always_inline))

typedef float NAME(vector) __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
#define vector NAME(vector)
#define AT(pointer) (*(const vector *)(pointer))
#define PUT(pointer, value) (*(vector *)(pointer) = (value))

typedef int NAME(mask) __attribute__((vector_size(4 * VECTOR)));

/* `a` where `which` is all ones, `b` where it is zero */
INLINE vector NAME(choice)(NAME(mask) which, vector a, vector b) {
    return (vector)(((NAME(mask))a & which) | ((NAME(mask))b & ~which));
}

/* ---- Winograd's minimal filtering, tiles of 6 x 6 (winograd.py has the formulas) ---- */

/* B^T d */
INLINE void NAME(input_line)(const vector *d, vector *t) {
    vector a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    t[0] = 4 * d[0] - 5 * d[2] + d[4];
    t[1] = a + b;
    t[2] = a - b;
    t[3] = c + e;
    t[4] = c - e;
    t[5] = 4 * d[1] - 5 * d[3] + d[5];
}

/* A^T m, for tiles of 4 or 2 outputs */
INLINE void NAME(output_line)(const vector *m, vector *y, int tile) {
    vector a = m[1] + m[2], b = m[1] - m[2], p = m[3] + m[4], q = m[3] - m[4];
    y[0] = m[0] + a + p;
    if (tile == 2) {
        y[1] = b + 2 * q + m[5];
        return;
    }
    y[1] = b + 2 * q;
    y[2] = a + 4 * p;
    y[3] = b + 8 * q + m[5];
}

/* B^T d B: a square of 6 x 6 pixels of an image with rows of `pitch` floats, to 36 places `step` apart */
static void NAME(input_tile)(const float *image, size_t pitch, float *tiles, size_t step, int channels) {
    for (int c = 0; c < channels; c += VECTOR) {
        vector t[6][6];
        for (int j = 0; j < 6; j++) {
            vector d[6], line[6];
            for (int i = 0; i < 6; i++) d[i] = AT(image + i * pitch + (size_t)j * channels + c);
            NAME(input_line)(d, line);
            for (int i = 0; i < 6; i++) t[i][j] = line[i];
        }
        for (int i = 0; i < 6; i++) {
            vector line[6];
            NAME(input_line)(t[i], line);
            for (int j = 0; j < 6; j++) PUT(tiles + (6 * i + j) * step + c, line[j]);
        }
    }
}

/* A^T m A: from 36 places `step` apart, to a square of tile x tile pixels, of which those inside are written */
INLINE void NAME(output_tile)(const float *products, size_t step, float *image, size_t pitch, int rows, int columns, int channels,
                              int tile) {
    for (int c = 0; c < channels; c += VECTOR) {
        vector t[4][6];
        for (int j = 0; j < 6; j++) {
            vector m[6], line[4];
            for (int i = 0; i < 6; i++) m[i] = AT(products + (6 * i + j) * step + c);
            NAME(output_line)(m, line, tile);
            for (int i = 0; i < tile; i++) t[i][j] = line[i];
        }
        for (int i = 0; i < tile && i < rows; i++) {
            vector line[4];
            NAME(output_line)(t[i], line, tile);
            for (int j = 0; j < tile; j++)
                if (j < columns) PUT(image + i * pitch + (size_t)j * channels + c, line[j]);
        }
    }
}

/* A few rows and columns of a matrix product, kept in registers */
INLINE void NAME(panel)(const float *a, const float *b, float *c, int inner, int outer, int rows, int vectors) {
    vector sum[6][2];
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) sum[r][n] = (vector){0};
    for (int k = 0; k < inner; k++) {
        vector right[2];
        for (int n = 0; n < vectors; n++) right[n] = AT(b + (size_t)k * outer + n * VECTOR);
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < vectors; n++) sum[r][n] += a[(size_t)r * inner + k] * right[n];
    }
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) PUT(c + (size_t)r * outer + n * VECTOR, sum[r][n]);
}

INLINE void NAME(columns)(const float *a, const float *b, float *c, int rows, int inner, int outer, int vectors) {
    for (; rows >= 6; rows -= 6, a += (size_t)6 * inner, c += (size_t)6 * outer) NAME(panel)(a, b, c, inner, outer, 6, vectors);
    switch (rows) {
    case 5: NAME(panel)(a, b, c, inner, outer, 5, vectors); break;
    case 4: NAME(panel)(a, b, c, inner, outer, 4, vectors); break;
    case 3: NAME(panel)(a, b, c, inner, outer, 3, vectors); break;
    case 2: NAME(panel)(a, b, c, inner, outer, 2, vectors); break;
    case 1: NAME(panel)(a, b, c, inner, outer, 1, vectors); break;
    default: break;
    }
}

/* c = a b, of (rows, inner) and (inner, outer) */
static void NAME(product)(const float *a, const float *b, float *c, int rows, int inner, int outer) {
    int n = 0;
    for (; n + 2 * VECTOR <= outer; n += 2 * VECTOR) NAME(columns)(a, b + n, c + n, rows, inner, outer, 2);
    if (n < outer) NAME(columns)(a, b + n, c + n, rows, inner, outer, 1);
}

static void NAME(winograd)(const float *x, const float *weight, float *out, float *scratch, const struct convolution *s) {
    int tile = 7 - s->kernel, down = (s->height + tile - 1) / tile, across = (s->width + tile - 1) / tile, each = down * across;
    size_t pitch = (size_t)padded_width(s) * s->inputs, image = pitch * padded_height(s), total = (size_t)s->images * each;
    size_t out_pitch = (size_t)s->width * s->outputs, out_image = out_pitch * s->height;
    /* a cache line more than the tiles take: places a power of two apart would share a set of the cache */
    size_t input_step = (size_t)BLOCK * s->inputs + 16, output_step = (size_t)BLOCK * s->outputs + 16;
    float *tiles = scratch, *products = tiles + 36 * input_step;
    for (size_t first = 0; first < total; first += BLOCK) {
        int count = total - first < BLOCK ? (int)(total - first) : BLOCK;
        for (int t = 0; t < count; t++) {
            int place = (int)((first + t) % each), top = place / across * tile, left = place % across * tile;
            NAME(input_tile)(x + (first + t) / each * image + top * pitch + (size_t)left * s->inputs, pitch,
                             tiles + (size_t)t * s->inputs, input_step, s->inputs);
        }
        for (int p = 0; p < 36; p++)
            NAME(product)(tiles + p * input_step, weight + (size_t)p * s->inputs * s->outputs, products + p * output_step, count,
                          s->inputs, s->outputs);
        for (int t = 0; t < count; t++) {
            int place = (int)((first + t) % each), top = place / across * tile, left = place % across * tile;
            const float *from = products + (size_t)t * s->outputs;
            float *to = out + (first + t) / each * out_image + top * out_pitch + (size_t)left * s->outputs;
            if (tile == 4)
                NAME(output_tile)(from, output_step, to, out_pitch, s->height - top, s->width - left, s->outputs, 4);
            else
                NAME(output_tile)(from, output_step, to, out_pitch, s->height - top, s->width - left, s->outputs, 2);
        }
    }
}

/* ---- Convolution by summation ---- */

/* A few pixels in a line, a few vectors of output channels; `x` is where the first pixel's window begins */
INLINE void NAME(window)(const float *x, size_t pitch, const float *weight, float *out, const struct convolution *s, int pixels,
                         int vectors) {
    size_t step = (size_t)s->stride * s->inputs;
    vector sum[6][2];
    for (int r = 0; r < pixels; r++)
        for (int n = 0; n < vectors; n++) sum[r][n] = (vector){0};
    for (int i = 0; i < s->kernel; i++)
        for (int k = 0; k < s->kernel * s->inputs; k++, weight += s->outputs) {
            vector right[2];
            for (int n = 0; n < vectors; n++) right[n] = AT(weight + n * VECTOR);
            for (int r = 0; r < pixels; r++)
                for (int n = 0; n < vectors; n++) sum[r][n] += x[i * pitch + k + r * step] * right[n];
        }
    for (int r = 0; r < pixels; r++)
        for (int n = 0; n < vectors; n++) PUT(out + (size_t)r * s->outputs + n * VECTOR, sum[r][n]);
}

INLINE void NAME(line)(const float *x, size_t pitch, const float *weight, float *out, const struct convolution *s, int width,
                       int vectors) {
    size_t step = (size_t)s->stride * s->inputs;
    int w = 0;
    for (; w + 4 <= width; w += 4)
        NAME(window)(x + w * step, pitch, weight, out + (size_t)w * s->outputs, s, 4, vectors);
    for (; w < width; w++) NAME(window)(x + w * step, pitch, weight, out + (size_t)w * s->outputs, s, 1, vectors);
}

static void NAME(summed)(const float *x, const float *weight, float *out, const struct convolution *s) {
    size_t pitch = (size_t)padded_width(s) * s->inputs, image = pitch * padded_height(s);
    int height = rows_behind(s->height, s), width = rows_behind(s->width, s);
    for (int i = 0; i < s->images; i++, x += image)
        for (int h = 0; h < height; h++, out += (size_t)width * s->outputs) {
            const float *from = x + (size_t)h * s->stride * pitch;
            int n = 0;
            for (; n + 2 * VECTOR <= s->outputs; n += 2 * VECTOR) NAME(line)(from, pitch, weight + n, out + n, s, width, 2);
            if (n < s->outputs) NAME(line)(from, pitch, weight + n, out + n, s, width, 1);
        }
}

/* ---- Moments of a difference (norms.py) ---- */

/* Adds the sums over some rows of d, y d and d^2, for a vector of channels */
INLINE void NAME(add_moments)(const float *d, const float *y, size_t rows, int channels, double *sums) {
    vector first = {0}, mixed = {0}, second = {0};
    for (size_t r = 0; r < rows; r++, d += channels, y += channels) {
        vector value = AT(d);
        first += value;
        mixed += value * AT(y);
        second += value * value;
    }
    for (int i = 0; i < VECTOR; i++) {
        sums[i] += first[i];
        sums[channels + i] += mixed[i];
        sums[2 * channels + i] += second[i];
    }
}

static void NAME(moments)(const float *d, const float *y, size_t rows, int channels, double *sums) {
    for (size_t r = 0; r < rows; r += ROWS)
        for (int c = 0; c < channels; c += VECTOR)
            NAME(add_moments)(d + r * channels + c, y + r * channels + c, rows - r < ROWS ? rows - r : ROWS, channels, sums + c);
}

/* ---- Convolution of images that have no border yet, a few at a time ---- */

/* Of images with their border, and the moments of what it gives */
INLINE void NAME(convolved)(const float *x, const float *weight, const float *next, float *out, double *sums, float *scratch,
                            const struct convolution *s) {
    if (s->tiled)
        NAME(winograd)(x, weight, out, scratch, s);
    else
        NAME(summed)(x, weight, out, s);
    if (sums) NAME(moments)(out, next, s->images * pixels_behind(s), s->outputs, sums);
}

static void NAME(convolution)(const float *x, const float *weight, const float *next, float *out, double *sums, float *scratch,
                              const struct convolution *all) {
    struct convolution s = *all;
    int most = images_at_once(all);
    size_t size = (size_t)s.height * s.width * s.inputs, out_size = pixels_behind(all) * s.outputs;
    float *padded = scratch, *rest = padded + most * padded_size(all);
    memset(padded, 0, sizeof(float) * most * padded_size(all));
    for (int first = 0; first < all->images; first += most) {
        s.images = all->images - first < most ? all->images - first : most;
        pad(x + first * size, padded, &s);
        NAME(convolved)(padded, weight, sums ? next + first * out_size : NULL, out + first * out_size, sums, rest, &s);
    }
}

/* ---- Convolution of at most four channels to at most four: a vector holds several pixels of four ---- */

#define PIXELS (VECTOR / 4)

/* Channel k of every pixel, in all four places of that pixel */
INLINE vector NAME(spread)(vector x, int k) {
    NAME(mask) from;
    for (int i = 0; i < VECTOR; i++) from[i] = i / 4 * 4 + k;
    return __builtin_shuffle(x, from);
}

/* Four vectors of pixels in a line; `x` is where the first one's window begins */
INLINE void NAME(quartet)(const float *x, size_t pitch, const float *weight, vector *sum, int kernel, int inputs) {
    for (int r = 0; r < 4; r++) sum[r] = (vector){0};
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel; j++, weight += inputs * VECTOR)
#pragma GCC unroll 4
            for (int k = 0; k < inputs; k++) /* unrolled, so that every shuffle is one instruction */
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++)
                    sum[r] += NAME(spread)(AT(x + i * pitch + 4 * j + r * VECTOR), k) * AT(weight + k * VECTOR);
}

INLINE void NAME(narrow_line)(const float *x, size_t pitch, const float *weight, float *out, const struct convolution *s, int width,
                              int inputs) {
    for (int w = 0; w < width; w += 4 * PIXELS) {
        vector sum[4];
        int left = width - w < 4 * PIXELS ? width - w : 4 * PIXELS;
        NAME(quartet)(x + 4 * (size_t)w, pitch, weight, sum, s->kernel, inputs);
        if (s->outputs == 4 && left == 4 * PIXELS)
            for (int r = 0; r < 4; r++) PUT(out + r * VECTOR, sum[r]);
        else
            for (int r = 0; r < left; r++)
                for (int o = 0; o < s->outputs; o++) out[r * s->outputs + o] = sum[r / PIXELS][r % PIXELS * 4 + o];
        out += (size_t)left * s->outputs;
    }
}

static void NAME(narrow)(const float *x, const float *weight, float *out, float *scratch, const struct convolution *s) {
    int taps = s->kernel * s->kernel * s->inputs;
    int height = rows_behind(s->height, s), width = rows_behind(s->width, s);
    size_t pitch = (size_t)4 * (s->width + 2 * s->border);
    float *weights = scratch, *padded = scratch + (size_t)taps * VECTOR;
    for (int t = 0; t < taps; t++)
        for (int i = 0; i < VECTOR; i++) weights[t * VECTOR + i] = i % 4 < s->outputs ? weight[t * s->outputs + i % 4] : 0;
    memset(padded, 0, sizeof(float) * (pitch * (s->height + 2 * s->border) + 4 * VECTOR));
    for (int image = 0; image < s->images; image++) {
        for (int h = 0; h < s->height; h++) {
            float *row = padded + (h + s->border) * pitch + 4 * s->border;
            if (s->inputs == 4)
                memcpy(row, x, sizeof(float) * 4 * s->width);
            else
                for (int w = 0; w < s->width; w++)
                    for (int k = 0; k < s->inputs; k++) row[4 * w + k] = x[w * s->inputs + k];
            x += (size_t)s->width * s->inputs;
        }
        for (int h = 0; h < height; h++, out += (size_t)width * s->outputs) {
            const float *from = padded + h * pitch;
            switch (s->inputs) {
            case 1: NAME(narrow_line)(from, pitch, weights, out, s, width, 1); break;
            case 2: NAME(narrow_line)(from, pitch, weights, out, s, width, 2); break;
            case 3: NAME(narrow_line)(from, pitch, weights, out, s, width, 3); break;
            default: NAME(narrow_line)(from, pitch, weights, out, s, width, 4); break;
            }
        }
    }
}

/* ---- ReLU, with any slope below zero (activations.py has the formulas) ---- */

static void NAME(bent)(const float *d, const float *x, float *out, size_t count, float slope) {
    size_t n = 0;
    vector zero = {0};
    for (; n + VECTOR <= count; n += VECTOR) {
        vector value = AT(x + n), change = AT(d + n);
        vector below = change + (1 - slope) * NAME(choice)(value < 0, value, zero);
        vector above = slope * change - (1 - slope) * NAME(choice)(value > 0, value, zero);
        PUT(out + n, NAME(choice)(above > below, above, below)); /* what is not a number stays so */
    }
    for (; n < count; n++) {
        float below = d[n] + (1 - slope) * (x[n] < 0 ? x[n] : 0), above = slope * d[n] - (1 - slope) * (x[n] > 0 ? x[n] : 0);
        out[n] = above > below ? above : below;
    }
}

/* ---- Batch normalisation in training mode and a ReLU (norms.py and activations.py have the formulas) ---- */

/* Some rows behind norm, sum and ReLU; `first` is where they begin in the base network */
INLINE void NAME(apply)(const float *d, const float *skip, float *out, size_t first, size_t rows, const float *factors,
                        const struct normalisation *s) {
    int channels = s->channels;
    const float *y = s->y + first * channels, *before = s->before + first * channels;
    for (size_t r = 0; r < rows; r++)
        for (int c = 0; c < channels; c += VECTOR) {
            size_t at = r * channels + c;
            vector z = AT(factors + c) * AT(d + at) + AT(factors + channels + c) * AT(y + at) + AT(factors + 2 * channels + c);
            if (skip) z += AT(skip + at);
            vector zero = {0}, x = AT(before + at), least = NAME(choice)(x > 0, -x, zero);
            z += NAME(choice)(x < 0, x, zero);
            PUT(out + at, NAME(choice)(least > z, least, z)); /* what is not a number stays so */
        }
}

static void NAME(normalised_relu)(const float *d, const float *skip, float *out, size_t first, size_t rows, const float *factors,
                                  const struct normalisation *s) {
    if (skip)
        NAME(apply)(d, skip, out, first, rows, factors, s);
    else
        NAME(apply)(d, NULL, out, first, rows, factors, s);
}

/* ---- Batch normalisation, a sum, a ReLU and a convolution, for a few images at a time: what lies between stays in the cache,
 * and so does what the queries share of the base network ---- */

static void NAME(layer)(const struct layer *s, const float *d, const double *sums, const float *skip, float *kept, float *out,
                        double *next_sums, float *scratch) {
    struct convolution c = s->convolution;
    size_t pixels = (size_t)c.height * c.width, results = pixels_behind(&c);
    size_t line = (size_t)c.width * c.inputs, size = c.images * pixels * c.inputs, out_size = c.images * results * c.outputs;
    int all = c.images, most = images_at_once(&c);
    float *factors = scratch, *padded = factors + (size_t)s->queries * 3 * c.inputs, *rest = padded + most * padded_size(&c);
    memset(padded, 0, sizeof(float) * most * padded_size(&c));
    for (int q = 0; q < s->queries; q++)
        factors_of(sums + (size_t)q * 3 * c.inputs, factors + (size_t)q * 3 * c.inputs, &s->norm);
    for (int first = 0; first < all; first += most) {
        c.images = all - first < most ? all - first : most;
        for (int q = 0; q < s->queries; q++) {
            size_t from = q * size + first * pixels * c.inputs, row = (size_t)first * c.height;
            for (int h = 0; h < c.images * c.height; h++)
                NAME(normalised_relu)(d + from + h * line, skip ? skip + from + h * line : NULL,
                                      kept ? kept + from + h * line : line_of(padded, h, &c), (row + h) * c.width, c.width,
                                      factors + (size_t)q * 3 * c.inputs, &s->norm);
            if (kept) pad(kept + from, padded, &c);
            size_t to = first * results * c.outputs;
            NAME(convolved)(padded, s->weight, next_sums ? s->next + to : NULL, out + q * out_size + to,
                            next_sums ? next_sums + (size_t)q * 3 * c.outputs : NULL, rest, &c);
        }
    }
}

#undef PIXELS
#undef vector
#undef AT
#undef PUT
#undef INLINE
#undef NAME
#undef EXPANDED
#undef JOINED
