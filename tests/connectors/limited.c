/* A solver that moves N numbers a little towards their mean, u.raw to v.npy, and fails on a state beyond a limit.

   limited MODE LIMIT TIMES FOLDER MARK: it fails the first TIMES times, which it counts by files in FOLDER. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N 8

/* A file of numpy's format 1.0, with a header of 128 bytes. */
static void write_npy(const char *shape, const double *values, size_t bytes) {
    char header[129];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    int length = snprintf(header + 10, 118, "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }", shape);
    header[10 + length] = ' ';
    header[127] = '\n';
    FILE *file = fopen("v.npy", "wb");
    if (!file || fwrite(header, 1, 128, file) != 128 || fwrite(values, 1, bytes, file) != bytes || fclose(file)) exit(9);
}

/* Whether this is one of the first times. */
static int first_times(int times, const char *folder) {
    for (int i = 0; i < times; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%d", folder, i);
        int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (file >= 0) return close(file), 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return 7;
    const char *mode = argv[1], *shape = "(1, 8)";
    double u[N], largest = 0, mean = 0;
    FILE *in = fopen("u.raw", "rb");
    if (!in || fread(u, sizeof *u, N, in) != N) return 8;
    fclose(in);
    for (int i = 0; i < N; i++) largest = fmax(largest, fabs(u[i])), mean += u[i] / N;
    for (int i = 0; i < N; i++) u[i] += 0.1 * (mean - u[i]);
    size_t bytes = sizeof u;

#define IS(name) (!strcmp(mode, name))
    if (largest > atof(argv[2]) && first_times(atoi(argv[3]), argv[4])) {
        if (IS("hang")) { /* with children, one of them deaf and in a group of its own */
            if (!fork()) setpgid(0, 0), signal(SIGTERM, SIG_IGN);
            fork();
            for (;;) pause();
        }
        if (IS("segfault")) raise(SIGSEGV);
        if (IS("trap")) raise(SIGFPE);
        if (IS("exit")) return 3;
        if (IS("missing")) return 0;
        if (IS("truncated")) bytes -= 5;
        if (IS("garbage")) {
            FILE *file = fopen("v.npy", "wb");
            return !file || fputs("no array at all", file) < 0 || fclose(file);
        }
        if (IS("shape")) shape = "(8, 1)";
        if (IS("nan")) u[3] = NAN;
        if (IS("disk")) {
            char block[4096] = {1};
            FILE *file = fopen("big", "wb");
            while (file && fwrite(block, 1, sizeof block, file) == sizeof block && !fflush(file)) {}
            return 4;
        }
    }
    write_npy(shape, u, bytes);
    return 0;
}
