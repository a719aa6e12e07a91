/* A solver that doubles a state of N numbers, u.raw to v.raw, or fails in the way that its first argument says.
   Further arguments are only there to find its processes by. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define N 8

static void write_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) exit(9);
}

static void sleep_on(void) {
    for (;;) pause();
}

static void child(int own_group, int own_session, int deaf) {
    if (fork()) return;
    if (own_group) setpgid(0, 0);
    if (own_session) setsid();
    if (deaf) signal(SIGTERM, SIG_IGN);
    if (fork()) sleep_on();
    sleep_on();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "well";
    double u[2 * N];
    FILE *in = fopen("u.raw", "rb");
    if (!in || fread(u, sizeof *u, N, in) != N) return 8;
    fclose(in);
    for (int i = 0; i < N; i++) u[N + i] = u[i] *= 2;

#define IS(name) (!strcmp(mode, name))
    if (IS("children")) child(0, 0, 0), child(1, 0, 1), child(0, 1, 1);
    if (IS("children-fail")) child(1, 0, 1), child(0, 1, 1), exit(3);
    if (IS("children-well")) child(0, 0, 1);
    if (IS("daemon")) child(0, 1, 1), usleep(200000); /* for its session to begin before this one ends */
    if (IS("hang") || IS("children")) sleep_on();
    if (IS("deaf")) signal(SIGTERM, SIG_IGN), sleep_on();
    if (IS("segfault")) raise(SIGSEGV);
    if (IS("divides")) raise(SIGFPE);
    if (IS("status")) {
        for (int i = 0; i < 1000; i++) fprintf(stderr, "line %d\n", i);
        fprintf(stderr, "the pressure is negative\n");
        return 3;
    }
    if (IS("first") && u[0] > 2) return 3;
    if (IS("missing")) return 0;
    if (IS("nan")) u[3] = NAN;
    if (IS("fifo")) return mkfifo("v.raw", 0600);
    if (IS("folder")) return mkdir("v.raw", 0700);
    if (IS("locked")) return mkdir("a", 0700) || mkdir("a/b", 0700) || chmod("a", 0) ? 9 : 3;
    if (IS("link-out")) return symlink(argv[2], "v.raw");
    if (IS("folder-out")) {
        rmdir("out");
        return symlink(argv[2], "out");
    }
    if (IS("link-in")) {
        write_file("other", u, sizeof u / 2);
        return symlink("other", "v.raw");
    }
    if (IS("swap")) { /* a link in place of the folder itself */
        char here[4096], away[4200];
        if (!getcwd(here, sizeof here)) return 9;
        snprintf(away, sizeof away, "%s.away", here);
        return rename(here, away) || symlink(argv[2], here);
    }
    if (IS("huge")) {
        int file = open("v.raw", O_CREAT | O_WRONLY, 0600);
        return ftruncate(file, (off_t)1 << 40);
    }
    if (IS("writes-link")) {
        FILE *file = fopen("linked", "a");
        if (!file || fputs("changed", file) < 0 || fclose(file)) return 9;
    }
    if (IS("fills")) {
        char block[4096] = {1};
        FILE *file = fopen("big", "wb");
        while (file && fwrite(block, 1, sizeof block, file) == sizeof block && !fflush(file)) {}
        perror("big");
        return 4;
    }
    if (IS("deep")) {
        write_file("v.raw", u, sizeof u / 2);
        for (int i = 0; i < 1500; i++) if (mkdir("d", 0700) || chdir("d")) return 9;
        return 0;
    }
    size_t size = IS("short") ? 5 * sizeof *u + 3 : IS("long") ? sizeof u : sizeof u / 2;
    if (IS("garbage")) {
        memset(u, 'x', sizeof u);
        size = 3;
    }
    write_file("v.raw", u, size);
    return 0;
}
