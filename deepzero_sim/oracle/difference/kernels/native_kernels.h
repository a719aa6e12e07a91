/* Kernels of native.c, written in vectors of VECTOR floats; included once for every set of instructions.
 *
 * Images lie with their channels innermost, (images, height, width, channels); channels are whole vectors. Pointers need no
 * alignment. A function that is called with constants for `rows` and `vectors` is inlined, so that its sums stay in registers.
 */

#define PASTE(name, suffix) name##_##suffix
#define EXPAND(name, suffix) PASTE(name, suffix)
#define NAME(name) EXPAND(name, SUFFIX)
#define INLINE static inline __attribute__((always_inline))

typedef float NAME(vector) __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
#define vector NAME(vector)
/* Keeps the compiler from computing many addresses ahead, for which there are no registers */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))
#define AT(pointer) (*(const vector *)(pointer))
#define PUT(pointer, value) (*(vector *)(pointer) = (value))

typedef int NAME(mask) __attribute__((vector_size(4 * VECTOR)));

/* `a` where `which` is all ones, `b` where it is zero */
INLINE vector NAME(choice)(NAME(mask) which, vector a, vector b) {
    return (vector)(((NAME(mask))a & which) | ((NAME(mask))b & ~which));
}

/* ---- Winograd's minimal filtering (image_convolution.py has the formulas) ---- */

/* Reads vectors that are `step` apart in memory */
INLINE void NAME(gather)(const float *from, size_t step, int count, vector *to) {
#pragma GCC unroll 10
    for (int i = 0; i < count; i++, from += step) {
        OPAQUE(from);
        to[i] = AT(from);
    }
}

/* Two entries of B^T d: those of a pair of points, or last those of 0 and infinity */
INLINE void NAME(input_pair)(const vector *d, const struct points *s, int pair, vector *t) {
    const float *factors = pair < s->pairs ? s->others[pair] : s->all;
    int first = pair < s->pairs ? 2 : 0, terms = pair < s->pairs ? s->pairs : s->pairs + 1;
    vector even = factors[0] * d[first], odd = factors[0] * d[1];
#pragma GCC unroll 5
    for (int k = 1; k < terms; k++) {
        even += factors[k] * d[first + 2 * k];
        odd += factors[k] * d[1 + 2 * k];
    }
    if (pair < s->pairs) {
        odd *= s->powers[pair][1];
        t[0] = even + odd;
        t[1] = even - odd;
    } else {
        t[0] = even;
        t[1] = odd;
    }
}

/* B^T d, written to places `step` apart */
INLINE void NAME(input_line)(const vector *d, float *to, size_t step, const struct points *s) {
#pragma GCC unroll 5
    for (int pair = 0; pair <= s->pairs; pair++, to += 2 * step) {
        vector t[2];
        OPAQUE(to);
        NAME(input_pair)(d, s, pair, t);
        PUT(to, t[0]);
        PUT(to + step, t[1]);
    }
}

/* B^T d B of a square of pixels, in an image with rows of `pitch` floats, written to as many places `step` apart; by pairs of
 * rows, which fit the registers */
INLINE void NAME(input_tile)(const float *image, size_t pitch, float *tiles, size_t step, int channels,
                             const struct points *s) {
    int count = 2 * s->pairs + 2;
    for (int c = 0; c < channels; c += VECTOR)
#pragma GCC unroll 5
        for (int pair = 0; pair <= s->pairs; pair++) {
            vector first[10], second[10];
            const float *from = image + c;
            float *to = tiles + (size_t)2 * pair * count * step + c;
#pragma GCC unroll 10
            for (int j = 0; j < count; j++, from += channels) {
                vector d[10], t[2];
                OPAQUE(from);
                NAME(gather)(from, pitch, count, d);
                NAME(input_pair)(d, s, pair, t);
                first[j] = t[0];
                second[j] = t[1];
            }
            NAME(input_line)(first, to, step, s);
            NAME(input_line)(second, to + count * step, step, s);
        }
}

/* Entry j of A^T m, for tiles of `tile` results */
INLINE vector NAME(output)(const vector *m, const struct points *s, int tile, int j) {
    vector sum = {0};
#pragma GCC unroll 4
    for (int i = 0; i < s->pairs; i++) sum += s->powers[i][j] * (j % 2 ? m[2 * i] - m[2 * i + 1] : m[2 * i] + m[2 * i + 1]);
    if (j == 0) sum += m[2 * s->pairs];
    if (j == tile - 1) sum += m[2 * s->pairs + 1];
    return sum;
}

/* A^T m, written to the pixels of a line that lie inside the image */
INLINE void NAME(output_line)(const vector *m, float *to, int columns, int channels, int tile, const struct points *s) {
#pragma GCC unroll 8
    for (int j = 0; j < tile; j++, to += channels) {
        OPAQUE(to);
        if (j < columns) PUT(to, NAME(output)(m, s, tile, j));
    }
}

/* A^T m A of places `step` apart, written to those of tile x tile pixels that lie inside the image; by pairs of rows two apart,
 * which have sums in common */
INLINE void NAME(output_tile)(const float *products, size_t step, float *image, size_t pitch, int rows, int columns,
                              int channels, int tile, const struct points *s) {
    int count = 2 * s->pairs + 2;
    for (int c = 0; c < channels; c += VECTOR)
#pragma GCC unroll 4
        for (int group = 0; group < (tile + 3) / 4 * 2; group++) {
            vector first[10], second[10];
            int row = group / 2 * 4 + group % 2;
            const float *from = products + c;
            float *to = image + row * pitch + c;
            if (row >= rows) continue;
#pragma GCC unroll 10
            for (int j = 0; j < count; j++, from += step) {
                vector m[10];
                OPAQUE(from);
                NAME(gather)(from, count * step, count, m);
                first[j] = NAME(output)(m, s, tile, row);
                if (row + 2 < tile) second[j] = NAME(output)(m, s, tile, row + 2);
            }
            NAME(output_line)(first, to, columns, channels, tile, s);
            if (row + 2 < tile && row + 2 < rows) NAME(output_line)(second, to + 2 * pitch, columns, channels, tile, s);
        }
}

/* A few rows and columns of a matrix product, in registers */
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

/* c = a b, for a (rows, inner) and b (inner, outer) */
static void NAME(product)(const float *a, const float *b, float *c, int rows, int inner, int outer) {
    int n = 0;
    for (; n + 2 * VECTOR <= outer; n += 2 * VECTOR) NAME(columns)(a, b + n, c + n, rows, inner, outer, 2);
    if (n < outer) NAME(columns)(a, b + n, c + n, rows, inner, outer, 1);
}

/* Winograd's method for tiles of `tile` results; inlined, with constants for `tile` and `points` */
INLINE void NAME(convolve_tiles)(const float *x, const float *weight, float *out, float *scratch, const struct convolution *s,
                                 int tile, const struct points *points) {
    int across = (s->width + tile - 1) / tile, down = (s->height + tile - 1) / tile, total = s->images * down * across;
    int most = tiles_at_once(s), places = s->points * s->points;
    size_t pitch = (size_t)padded_width(s) * s->inputs, out_pitch = (size_t)s->width * s->outputs;
    size_t input_step = step_of(most, s->inputs), output_step = step_of(most, s->outputs);
    float *tiles = scratch, *products = tiles + places * input_step;
    for (int first = 0; first < total; first += most) {
        int count = total - first < most ? total - first : most;
        for (int t = 0; t < count; t++) {
            int row = (first + t) / across, top = row % down * tile, left = (first + t) % across * tile;
            const float *from = x + ((size_t)row / down * padded_height(s) + top) * pitch + (size_t)left * s->inputs;
            NAME(input_tile)(from, pitch, tiles + (size_t)t * s->inputs, input_step, s->inputs, points);
        }
        for (int p = 0; p < places; p++)
            NAME(product)(tiles + p * input_step, weight + (size_t)p * s->inputs * s->outputs, products + p * output_step,
                          count, s->inputs, s->outputs);
        for (int t = 0; t < count; t++) {
            int row = (first + t) / across, top = row % down * tile, left = (first + t) % across * tile;
            float *to = out + ((size_t)row / down * s->height + top) * out_pitch + (size_t)left * s->outputs;
            NAME(output_tile)(products + (size_t)t * s->outputs, output_step, to, out_pitch, s->height - top, s->width - left,
                              s->outputs, tile, points);
        }
    }
}

static void NAME(winograd)(const float *x, const float *weight, float *out, float *scratch, const struct convolution *s) {
    if (s->points == 6 && s->kernel == 3)
        NAME(convolve_tiles)(x, weight, out, scratch, s, 4, &SIX);
    else if (s->points == 6)
        NAME(convolve_tiles)(x, weight, out, scratch, s, 2, &SIX);
    else if (s->kernel == 3)
        NAME(convolve_tiles)(x, weight, out, scratch, s, 8, &TEN);
    else
        NAME(convolve_tiles)(x, weight, out, scratch, s, 6, &TEN);
}

/* ---- Direct convolution ---- */

/* A few pixels of a line, a few vectors of output channels; `x` is the beginning of the first pixel's window */
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

static void NAME(direct)(const float *x, const float *weight, float *out, const struct convolution *s) {
    size_t pitch = (size_t)padded_width(s) * s->inputs, image = pitch * padded_height(s);
    int height = rows_after(s->height, s), width = rows_after(s->width, s);
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
            NAME(add_moments)(d + r * channels + c, y + r * channels + c, rows - r < ROWS ? rows - r : ROWS, channels,
                              sums + c);
}

/* ---- Convolution of images without a border, a few at a time ---- */

/* Convolution of images with a border, and the moments of the results if `sums` is not NULL */
INLINE void NAME(convolve_padded)(const float *x, const float *weight, const float *next, float *out, double *sums,
                                  float *scratch, const struct convolution *s) {
    if (s->points)
        NAME(winograd)(x, weight, out, scratch, s);
    else
        NAME(direct)(x, weight, out, s);
    if (sums) NAME(moments)(out, next, s->images * pixels_after(s), s->outputs, sums);
}

static void NAME(convolution)(const float *x, const float *weight, const float *next, float *out, double *sums, float *scratch,
                              const struct convolution *all) {
    struct convolution s = *all;
    int most = images_at_once(all);
    size_t size = (size_t)s.height * s.width * s.inputs, out_size = pixels_after(all) * s.outputs;
    float *padded = scratch, *rest = padded + most * padded_size(all);
    memset(padded, 0, sizeof(float) * most * padded_size(all));
    for (int first = 0; first < all->images; first += most) {
        s.images = all->images - first < most ? all->images - first : most;
        pad(x + first * size, padded, &s);
        NAME(convolve_padded)(padded, weight, sums ? next + first * out_size : NULL, out + first * out_size, sums, rest, &s);
    }
}

/* ---- Convolution of at most four channels to at most four: a vector holds several pixels of four channels ---- */

#define PIXELS (VECTOR / 4)

/* Channel k of every pixel, in all four channels of that pixel */
INLINE vector NAME(broadcast_channel)(vector x, int k) {
    NAME(mask) from;
    for (int i = 0; i < VECTOR; i++) from[i] = i / 4 * 4 + k;
    return __builtin_shuffle(x, from);
}

/* Four vectors of pixels of a line; `x` is the beginning of the first one's window */
INLINE void NAME(quartet)(const float *x, size_t pitch, const float *weight, vector *sum, int kernel, int inputs) {
    for (int r = 0; r < 4; r++) sum[r] = (vector){0};
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel; j++, weight += inputs * VECTOR)
#pragma GCC unroll 4
            for (int k = 0; k < inputs; k++) /* unrolled, so that every shuffle is one instruction */
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++)
                    sum[r] += NAME(broadcast_channel)(AT(x + i * pitch + 4 * j + r * VECTOR), k) * AT(weight + k * VECTOR);
}

INLINE void NAME(narrow_line)(const float *x, size_t pitch, const float *weight, float *out, const struct convolution *s,
                              int width, int inputs) {
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

static void NAME(narrow_convolution)(const float *x, const float *weight, float *out, float *scratch,
                                     const struct convolution *s) {
    int taps = s->kernel * s->kernel * s->inputs;
    int height = rows_after(s->height, s), width = rows_after(s->width, s);
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

/* ---- Leaky ReLU (activations.py has the formulas) ---- */

static void NAME(leaky_relu)(const float *d, const float *x, float *out, size_t count, float slope) {
    size_t n = 0;
    vector zero = {0};
    for (; n + VECTOR <= count; n += VECTOR) {
        vector value = AT(x + n), change = AT(d + n);
        vector below = change + (1 - slope) * NAME(choice)(value < 0, value, zero);
        vector above = slope * change - (1 - slope) * NAME(choice)(value > 0, value, zero);
        PUT(out + n, NAME(choice)(above > below, above, below)); /* NaN stays NaN */
    }
    for (; n < count; n++) {
        float below = d[n] + (1 - slope) * (x[n] < 0 ? x[n] : 0), above = slope * d[n] - (1 - slope) * (x[n] > 0 ? x[n] : 0);
        out[n] = above > below ? above : below;
    }
}

/* ---- Batch normalisation in training mode and a ReLU (norms.py and activations.py have the formulas) ---- */

/* Difference after norm, sum and ReLU, for a vector of channels from `c` on; pointers are those of the row */
INLINE vector NAME(activate)(const float *d, const float *skip, const float *y, const float *before, const float *factors,
                              int channels, int c) {
    vector z = AT(factors + c) * AT(d + c) + AT(factors + channels + c) * AT(y + c) + AT(factors + 2 * channels + c);
    if (skip) z += AT(skip + c);
    vector zero = {0}, x = AT(before + c), least = NAME(choice)(x > 0, -x, zero);
    z += NAME(choice)(x < 0, x, zero);
    return NAME(choice)(least > z, least, z); /* NaN stays NaN */
}

/* The same for some rows; `first` is the first of them in the base network */
INLINE void NAME(activate_rows)(const float *d, const float *skip, float *out, size_t first, size_t rows, const float *factors,
                        const struct normalisation *s) {
    int channels = s->channels;
    const float *y = s->y + first * channels, *before = s->before + first * channels;
    for (size_t r = 0; r < rows; r++, d += channels, y += channels, before += channels, out += channels) {
        for (int c = 0; c < channels; c += VECTOR) PUT(out + c, NAME(activate)(d, skip, y, before, factors, channels, c));
        if (skip) skip += channels;
    }
}

static void NAME(norm_relu)(const float *d, const float *skip, float *out, size_t first, size_t rows, const float *factors,
                                  const struct normalisation *s) {
    if (skip)
        NAME(activate_rows)(d, skip, out, first, rows, factors, s);
    else
        NAME(activate_rows)(d, NULL, out, first, rows, factors, s);
}

/* Mean over some rows; arguments as above */
static void NAME(norm_relu_mean)(const float *d, const float *skip, float *out, size_t first, size_t rows, const float *factors,
                                  const struct normalisation *s) {
    int channels = s->channels;
    const float *y = s->y + first * channels, *before = s->before + first * channels;
    memset(out, 0, sizeof(float) * channels);
    for (size_t r = 0; r < rows; r++, d += channels, y += channels, before += channels) {
        for (int c = 0; c < channels; c += VECTOR)
            PUT(out + c, AT(out + c) + NAME(activate)(d, skip, y, before, factors, channels, c));
        if (skip) skip += channels;
    }
    for (int c = 0; c < channels; c += VECTOR) PUT(out + c, AT(out + c) / (float)rows);
}

/* ---- Batch normalisation, a sum, a ReLU and a convolution, for a few images at a time: intermediate results stay in the
 * cache, and so does what the queries share of the base network ---- */

static void NAME(layer)(const struct layer *s, const float *d, const double *sums, float *activation, float *out,
                        double *next_sums, float *scratch) {
    struct convolution c = s->convolution;
    size_t pixels = (size_t)c.height * c.width, results = pixels_after(&c);
    size_t line = (size_t)c.width * c.inputs, size = c.images * pixels * c.inputs, out_size = c.images * results * c.outputs;
    int all = c.images, most = images_at_once(&c);
    float *factors = scratch, *buffer = factors + (size_t)s->queries * 3 * c.inputs, *padded = buffer + line;
    float *rest = padded + most * padded_size(&c);
    memset(padded, 0, sizeof(float) * most * padded_size(&c));
    for (int q = 0; q < s->queries; q++)
        norm_factors(sums + (size_t)q * 3 * c.inputs, factors + (size_t)q * 3 * c.inputs, &s->norm);
    for (int first = 0; first < all; first += most) {
        c.images = all - first < most ? all - first : most;
        for (int q = 0; q < s->queries; q++) {
            size_t from = q * size + first * pixels * c.inputs, row = (size_t)first * c.height;
            for (int h = 0; h < c.images * c.height; h++) {
                const float *more = skip_rows(&s->skip, &s->norm, q, (row + h) * c.width, c.width, buffer);
                float *to = activation ? activation + from + h * line : padded_line(padded, h, &c);
                NAME(norm_relu)(d + from + h * line, more, to, (row + h) * c.width, c.width, factors + (size_t)q * 3 * c.inputs,
                                &s->norm);
            }
            if (activation) pad(activation + from, padded, &c);
            size_t to = first * results * c.outputs;
            NAME(convolve_padded)(padded, s->weight, next_sums ? s->next + to : NULL, out + q * out_size + to,
                            next_sums ? next_sums + (size_t)q * 3 * c.outputs : NULL, rest, &c);
        }
    }
}

#undef PIXELS
#undef vector
#undef AT
#undef OPAQUE
#undef PUT
#undef INLINE
#undef NAME
#undef EXPAND
#undef PASTE
