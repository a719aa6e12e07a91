/* One step of the Kuramoto-Sivashinsky equation, for any number of states:
 *
 *     u_t + (u^2 / 2)_x + u_xx + u_xxxx = 0     on a ring of length L
 *
 * Finite volumes: u holds the means of equal cells. A step of length DT is taken in equal substeps h, the linear terms
 * implicitly, the flux explicitly, from the mean of its two neighbours at every face:
 *
 *     (1 + h D2 + h D4) u' = u - h (F_right - F_left) / dx,     F = ((u_left + u_right) / 2)^2 / 2
 *
 * D2 and D4 = D2 D2 are the usual differences. Their matrix is the same all around the ring, so that its inverse is too: a
 * kernel, found once a state by a sum of cosines, with which the right-hand side is convolved.
 *
 *     kuramoto CELLS SUBSTEPS STATES LENGTHS NEXT
 *
 * STATES holds CELLS doubles a state, LENGTHS one double a state, L; NEXT is written like STATES.
 *
 * cc -O2 -o kuramoto kuramoto.c -lm
 *
 * Exit status: 0; 2 if it cannot be used like that, 3 if a state left the finite numbers.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const double DT = 0.25;
static const double TURN = 6.283185307179586;

static void fail(int status, const char *what)
{
    fprintf(stderr, "kuramoto: %s\n", what);
    exit(status);
}

static double *array(long count)
{
    double *values = malloc((count > 0 ? count : 1) * sizeof *values);
    if (!values)
        fail(2, "there is not enough memory");
    return values;
}

/* All numbers of a file. */
static double *read_all(const char *path, long *count)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail(2, "an input file cannot be read");
    *count = ftell(file) / (long)sizeof(double);
    rewind(file);
    double *values = array(*count);
    if (fread(values, sizeof *values, *count, file) != (size_t)*count)
        fail(2, "an input file ended early");
    fclose(file);
    return values;
}

static void write_all(const char *path, const double *values, long count)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(values, sizeof *values, count, file) != (size_t)count || fclose(file))
        fail(2, "the output file cannot be written");
}

/* The first column of the inverse of 1 + h D2 + h D4. */
static void inverse(double *kernel, long cells, double dx, double h)
{
    double *share = array(cells);
    for (long k = 0; k < cells; k++) {
        double d2 = -(2 - 2 * cos(TURN * k / cells)) / (dx * dx);
        share[k] = 1 / (1 + h * d2 + h * d2 * d2) / cells;
    }
    for (long j = 0; j < cells; j++) {
        kernel[j] = 0;
        for (long k = 0; k < cells; k++)
            kernel[j] += share[k] * cos(TURN * (j * k % cells) / cells);
    }
    free(share);
}

static void substep(double *u, double *right, const double *kernel, long cells, double dx, double h)
{
    for (long i = 0; i < cells; i++) {
        double before = u[(i + cells - 1) % cells] + u[i], after = u[i] + u[(i + 1) % cells];
        right[i] = u[i] - h * (after * after - before * before) / (8 * dx);
    }
    for (long i = 0; i < cells; i++) {
        u[i] = 0;
        for (long j = 0; j < cells; j++)
            u[i] += kernel[i < j ? i - j + cells : i - j] * right[j];
    }
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail(2, "call it as kuramoto CELLS SUBSTEPS STATES LENGTHS NEXT");
    long cells = atol(argv[1]), substeps = atol(argv[2]), numbers, states;
    if (cells < 5 || substeps < 1)
        fail(2, "there must be 5 cells and one substep at least");
    double *u = read_all(argv[3], &numbers), *lengths = read_all(argv[4], &states);
    if (numbers != states * cells)
        fail(2, "STATES must hold CELLS numbers for each of LENGTHS");
    double *kernel = array(cells), *right = array(cells), h = DT / substeps;
    for (long s = 0; s < states; s++) {
        double *state = u + s * cells, dx = lengths[s] / cells;
        if (!(lengths[s] > 0))
            fail(2, "a length must be positive");
        inverse(kernel, cells, dx, h);
        for (long n = 0; n < substeps; n++)
            substep(state, right, kernel, cells, dx, h);
        for (long i = 0; i < cells; i++)
            if (!isfinite(state[i]))
                fail(3, "a state left the finite numbers");
    }
    write_all(argv[5], u, numbers);
    return 0;
}
