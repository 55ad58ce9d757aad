/* What the two load generators share: frames from standard input, time, waiting to the microsecond, percentiles. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FRAMES = 16384, MAX_EVENTS = 256 };
#define MAX_SAMPLES (16u << 20)

struct frame { unsigned char *bytes; size_t size; };

static struct frame frames[MAX_FRAMES];
static size_t frame_count;
static int epoll_fd;

struct samples { float *us; uint64_t count; };

static void fail(const char *what) { perror(what); exit(1); }
static void refuse(const char *what) { fprintf(stderr, "%s\n", what); exit(1); }

static void refuse_code(const char *what, int code) { fprintf(stderr, "%s %d\n", what, code); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint32_t int32_at(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t int64_at(const unsigned char *at) { return (uint64_t)int32_at(at) << 32 | int32_at(at + 4); }

static void put_int64(unsigned char *at, uint64_t value) {
    for (int i = 0; i < 8; i++) at[i] = (unsigned char)(value >> (56 - 8 * i));
}

static void read_frames(void) {
    unsigned char length[4];
    while (fread(length, 1, 4, stdin) == 4) {
        size_t size = int32_at(length) + 4;
        if (frame_count == MAX_FRAMES) refuse("too many frames");
        struct frame *frame = &frames[frame_count++];
        frame->size = size;
        frame->bytes = malloc(size);
        if (!frame->bytes) fail("malloc");
        memcpy(frame->bytes, length, 4);
        if (fread(frame->bytes + 4, 1, size - 4, stdin) != size - 4) refuse("a frame is cut");
    }
    if (!frame_count) refuse("no frames");
}

static int connected(const struct sockaddr_in *address) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

static void watch_fd(int operation, int fd, void *owner, int write) {
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = owner};
    if (epoll_ctl(epoll_fd, operation, fd, &event)) fail("epoll_ctl");
}

/* A core that only waits would be missing to the server: sleeps, but wakes on time. */
static int wait_events(struct epoll_event *events, double until) {
    double left = until - now();
    if (left < 0) left = 0;
    struct timespec timeout = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
    int n = (int)syscall(SYS_epoll_pwait2, epoll_fd, events, MAX_EVENTS, &timeout, NULL, 0);
    if (n < 0 && errno != EINTR) fail("epoll_pwait2");
    return n < 0 ? 0 : n;
}

static void begin(void) {
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    epoll_fd = epoll_create1(0);
    read_frames();
}

static void add_sample(struct samples *all, double seconds) {
    if (!all->us) all->us = malloc(MAX_SAMPLES * sizeof *all->us);
    if (!all->us) fail("malloc");
    if (all->count < MAX_SAMPLES) all->us[all->count++] = (float)(seconds * 1e6);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct samples *all, double fraction) {
    return all->count ? all->us[(uint64_t)(fraction * (double)(all->count - 1))] : 0;
}

static void print_samples(const char *name, struct samples *all) {
    if (all->count) qsort(all->us, all->count, sizeof *all->us, by_value);
    printf("\"%s_p50_us\": %.1f, \"%s_p99_us\": %.1f, \"%s_p999_us\": %.1f, \"%s_max_us\": %.1f, ", name,
           percentile(all, 0.5), name, percentile(all, 0.99), name, percentile(all, 0.999), name, percentile(all, 1.0));
}

static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}
