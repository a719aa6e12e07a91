/* One step of Burgers' equation with an eddy viscosity that is read from a file, for any number of states:
 *
 *     u_t + (u^2 / 2)_x = ((NU + e) u_x)_x     on a periodic line of length 2 pi
 *
 * Finite volumes: u holds the means of equal cells, e the eddy viscosity of each, 0 or more. A step of length DT is taken in
 * equal substeps by Heun's method. The flux through a face, between cells l and r,
 *
 *     F = (u_l^2 + u_l u_r + u_r^2) / 6 - (NU + (e_l + e_r) / 2) (u_r - u_l) / dx
 *
 * neither makes nor destroys energy without viscosity, so that a front that is too thin for the cells rings.
 *
 *     burgers CELLS SUBSTEPS STATES VISCOSITIES NEXT
 *
 * STATES and VISCOSITIES hold CELLS doubles a state; NEXT is written like STATES.
 *
 * cc -O2 -o burgers burgers.c -lm
 *
 * Exit status: 0; 2 if it cannot be used like that, 3 if a state left the finite numbers.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const double DT = 0.025;
static const double NU = 0.005;
static const double TURN = 6.283185307179586;

static void fail(int status, const char *what)
{
    fprintf(stderr, "burgers: %s\n", what);
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

/* Flux through the face to the left of each cell. */
static void fluxes(double *flux, const double *u, const double *eddy, long cells, double dx)
{
    for (long r = 0; r < cells; r++) {
        long l = (r + cells - 1) % cells;
        double viscosity = NU + (eddy[l] + eddy[r]) / 2;
        flux[r] = (u[l] * u[l] + u[l] * u[r] + u[r] * u[r]) / 6 - viscosity * (u[r] - u[l]) / dx;
    }
}

static void substep(double *u, double *half, double *flux, double *second, const double *eddy, long cells, double h)
{
    double dx = TURN / cells;
    fluxes(flux, u, eddy, cells, dx);
    for (long i = 0; i < cells; i++)
        half[i] = u[i] - h / dx * (flux[(i + 1) % cells] - flux[i]);
    fluxes(second, half, eddy, cells, dx);
    for (long i = 0; i < cells; i++) {
        long r = (i + 1) % cells;
        u[i] -= h / (2 * dx) * (flux[r] + second[r] - flux[i] - second[i]);
    }
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail(2, "call it as burgers CELLS SUBSTEPS STATES VISCOSITIES NEXT");
    long cells = atol(argv[1]), substeps = atol(argv[2]), numbers, others;
    if (cells < 3 || substeps < 1)
        fail(2, "there must be 3 cells and one substep at least");
    double *u = read_all(argv[3], &numbers), *eddy = read_all(argv[4], &others);
    if (numbers % cells || numbers != others)
        fail(2, "STATES and VISCOSITIES must hold CELLS numbers for each state");
    double *half = array(cells), *flux = array(cells), *second = array(cells);
    for (long i = 0; i < numbers; i++)
        if (!(eddy[i] >= 0))
            fail(2, "an eddy viscosity must not be negative");
    for (long first = 0; first < numbers; first += cells) {
        for (long n = 0; n < substeps; n++)
            substep(u + first, half, flux, second, eddy + first, cells, DT / substeps);
        for (long i = first; i < first + cells; i++)
            if (!isfinite(u[i]))
                fail(3, "a state left the finite numbers");
    }
    write_all(argv[5], u, numbers);
    return 0;
}
