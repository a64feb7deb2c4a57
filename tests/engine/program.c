/* The only program of the image without a shell; every image has it as /program. See each branch. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int code;

/* One line of evidence, on the disk when this returns; harness/payload.py writes the same. */
static void say(int oracle, const char *word) {
    char line[512];
    const char *cards = getenv("CUDA_VISIBLE_DEVICES");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%s %s %s %d %lld %s\n", word, getenv("RUNNERS_JOB_ID"),
                        getenv("RUNNERS_ATTEMPT"), (int)getpid(), now.tv_sec * 1000000000LL + now.tv_nsec,
                        cards && *cards ? cards : "-");
    if (write(oracle, line, size) != size || fsync(oracle) != 0) _exit(99);
}

static void leave(int sig) { (void)sig; _exit(code); }

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    const char *value = argc > 2 ? argv[2] : "0";
    if (!strcmp(verb, "exit")) return atoi(value);          /* at once, with that code */
    if (!strcmp(verb, "sleep")) {                           /* so many seconds, then 0; ends at SIGTERM, as pid 1 too */
        signal(SIGTERM, SIG_DFL);
        code = 143;
        if (getpid() == 1) signal(SIGTERM, leave);
        sleep(atoi(value));
        return 0;
    }
    if (!strcmp(verb, "term")) {                            /* waits; exits with that code at SIGTERM */
        code = atoi(value);
        signal(SIGTERM, leave);
        puts("ready"); fflush(stdout);
        for (;;) pause();
    }
    if (!strcmp(verb, "stubborn")) {                        /* waits; SIGTERM and SIGINT do nothing */
        signal(SIGTERM, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        puts("ready"); fflush(stdout);
        for (;;) pause();
    }
    if (!strcmp(verb, "open")) {                            /* opens that file; exits with the error's number */
        int file = open(value, O_RDWR);
        if (file < 0) { int failed = errno; perror(value); return failed; }
        return 0;
    }
    if (!strcmp(verb, "clock")) {                           /* says the machine's monotonic time in nanoseconds */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
        return 0;
    }
    if (!strcmp(verb, "memory")) {                          /* uses so many MiB, then waits */
        size_t size = (size_t)atoi(value) << 20;
        char *block = malloc(size);
        if (!block) return 12;
        for (size_t at = 0; at < size; at += 4096) block[at] = 1;
        puts("ready"); fflush(stdout);
        for (;;) pause();
    }
    if (!strcmp(verb, "witness")) {                         /* FILE SECONDS CODE: says when it starts and when it ends */
        int oracle = open(value, O_WRONLY | O_CREAT | O_APPEND, 0666);
        double seconds = argc > 3 ? atof(argv[3]) : 0;
        struct timespec left = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        if (oracle < 0) return 98;
        say(oracle, "start");
        while (nanosleep(&left, &left) != 0) continue;
        say(oracle, "end");
        return argc > 4 ? atoi(argv[4]) : 0;
    }
    fprintf(stderr, "program: what is `%s`?\n", verb);
    return 2;
}
