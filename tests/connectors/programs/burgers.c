/* A step of Burgers' equation on 16 points, u.raw to v.raw; without a file named "go" in the folder named by GO it fails. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define N 16

int main(void) {
    double u[N], v[N], dx = 6.283185307179586 / N;
    FILE *in = fopen("u.raw", "rb"), *out;
    if (getenv("GO") && access(getenv("GO"), F_OK)) return 3;
    if (!in || fread(u, sizeof *u, N, in) != N) return 1;
    for (int i = 0; i < N; i++) {
        double left = u[(i + N - 1) % N], right = u[(i + 1) % N];
        double slope = (u[i] > 0 ? u[i] - left : right - u[i]) / dx;
        v[i] = u[i] - 0.01 * (u[i] * slope - 0.05 * (left - 2 * u[i] + right) / (dx * dx));
    }
    return !(out = fopen("v.raw", "wb")) || fwrite(v, sizeof *v, N, out) != N || fclose(out);
}
