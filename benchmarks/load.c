/* A load generator that costs little CPU: it sends prepared Kafka frames over and over and counts the answers.
 *
 *   load HOST PORT CONNECTIONS WINDOW SECONDS WARMUP RATE PATCH_AT STEP WRAP < frames
 *
 * Standard input: frames, each with its int32 length in front, as they go over the wire. Connection c starts at frame c
 * and goes round. WINDOW requests are in flight on each connection; with RATE > 0 requests are sent on a schedule instead
 * (open loop, RATE in all a second) and latency counts from the moment a request was due. With PATCH_AT >= 0 the int64 at
 * that place of the frame, a fetch offset, goes up by STEP for each request and back to 0 at WRAP.
 * Prints one line of JSON. Nothing in an answer is looked at but its length: the caller checks offsets afterwards. */
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
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 4096, MAX_FRAMES = 4096, RING = 65536, RECEIVE_BYTES = 1 << 20 };
#define MAX_SAMPLES (16u << 20)

struct frame { unsigned char *bytes; size_t size; };

struct connection {
    int fd;
    size_t frame, sent;          /* which frame is being sent, and how much of it went */
    int sending, wants_write;
    unsigned head, tail;         /* of the ring of starting times: tail is the oldest in flight */
    double *started;
    unsigned char length[4];
    unsigned length_got;
    uint64_t body_left;
    uint64_t offset;
    double due;                  /* open loop: when the next request ought to go */
};

static struct frame frames[MAX_FRAMES];
static struct connection connections[MAX_CONNECTIONS];
static size_t frame_count;
static int connection_count, window, epoll_fd;
static long patch_at;
static uint64_t step, wrap;
static double rate_each, measure_from;
static float *samples;
static uint64_t sample_count, sent_bytes, received_bytes;
static unsigned char receive_buffer[RECEIVE_BYTES];

static void fail(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void read_frames(void) {
    unsigned char length[4];
    while (fread(length, 1, 4, stdin) == 4) {
        size_t size = ((size_t)length[0] << 24 | length[1] << 16 | length[2] << 8 | length[3]) + 4;
        if (frame_count == MAX_FRAMES) { fprintf(stderr, "too many frames\n"); exit(1); }
        struct frame *frame = &frames[frame_count++];
        frame->size = size;
        frame->bytes = malloc(size);
        if (!frame->bytes) fail("malloc");
        memcpy(frame->bytes, length, 4);
        if (fread(frame->bytes + 4, 1, size - 4, stdin) != size - 4) { fprintf(stderr, "a frame is cut\n"); exit(1); }
    }
    if (!frame_count) { fprintf(stderr, "no frames\n"); exit(1); }
}

static void watch(struct connection *c, int write) {
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (c->wants_write == write) return;
    c->wants_write = write;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event)) fail("epoll_ctl");
}

static void open_connection(int number, struct sockaddr_in *address) {
    struct connection *c = &connections[number];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)address, sizeof *address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    c->frame = number % frame_count;
    c->started = calloc(RING, sizeof *c->started);
    if (!c->started) fail("calloc");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
}

static int may_start(struct connection *c, double t, double end) {
    if (t >= end) return 0;
    if (rate_each > 0) return t >= c->due && c->head - c->tail < RING;
    return c->head - c->tail < (unsigned)window;
}

static void patch_offset(struct connection *c, struct frame *frame) {
    for (int i = 0; i < 8; i++) frame->bytes[patch_at + i] = (unsigned char)(c->offset >> (56 - 8 * i));
    c->offset = c->offset + step >= wrap ? 0 : c->offset + step;
}

static void send_some(struct connection *c, double t, double end) {
    for (;;) {
        struct frame *frame = &frames[c->frame];
        if (!c->sending) {
            if (!may_start(c, t, end)) { watch(c, 0); return; }
            c->started[c->head++ % RING] = rate_each > 0 ? c->due : t;
            if (rate_each > 0) c->due += 1 / rate_each;
            if (patch_at >= 0) patch_offset(c, frame);
            c->sending = 1;
            c->sent = 0;
        }
        ssize_t n = send(c->fd, frame->bytes + c->sent, frame->size - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) fail("send");
            watch(c, 1);
            return;
        }
        c->sent += n;
        if (c->sent < frame->size) continue;
        if (t >= measure_from) sent_bytes += frame->size;
        c->sending = 0;
        c->frame = (c->frame + connection_count) % frame_count;
        t = now();
    }
}

static void answered(struct connection *c, double t) {
    if (c->tail == c->head) { fprintf(stderr, "an answer to nothing\n"); exit(1); }
    double started = c->started[c->tail++ % RING];
    if (started >= measure_from && sample_count < MAX_SAMPLES) samples[sample_count++] = (float)((t - started) * 1e6);
}

static void receive_some(struct connection *c) {
    ssize_t n = recv(c->fd, receive_buffer, sizeof receive_buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { fprintf(stderr, "the server closed a connection\n"); exit(1); }
    double t = now();
    if (t >= measure_from) received_bytes += n;
    for (unsigned char *at = receive_buffer, *limit = at + n; at < limit;) {
        if (c->length_got < 4) {
            c->length[c->length_got++] = *at++;
            if (c->length_got == 4)
                c->body_left = (uint64_t)c->length[0] << 24 | c->length[1] << 16 | c->length[2] << 8 | c->length[3];
        } else {
            uint64_t take = (uint64_t)(limit - at) < c->body_left ? (uint64_t)(limit - at) : c->body_left;
            c->body_left -= take;
            at += take;
        }
        if (c->length_got == 4 && !c->body_left) {
            c->length_got = 0;
            answered(c, t);
        }
    }
}

static int in_flight(void) {
    for (int i = 0; i < connection_count; i++)
        if (connections[i].head != connections[i].tail) return 1;
    return 0;
}

static int wait_ms(double t) {
    if (rate_each <= 0) return 100;
    double soonest = t + 0.1;
    for (int i = 0; i < connection_count; i++)
        if (connections[i].due < soonest) soonest = connections[i].due;
    return soonest <= t ? 0 : (int)((soonest - t) * 1000); /* below a millisecond: spin, so as to be on time */
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(double fraction) {
    return sample_count ? samples[(uint64_t)(fraction * (sample_count - 1))] : 0;
}

static void report(double seconds) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    qsort(samples, sample_count, sizeof *samples, by_value);
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"sent_bytes\": %llu, \"received_bytes\": %llu, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, \"loader_cpu_s\": %.3f}\n",
           (unsigned long long)sample_count, seconds, (unsigned long long)sent_bytes, (unsigned long long)received_bytes,
           percentile(0.5), percentile(0.99), percentile(0.999), percentile(1.0), cpu);
}

int main(int count, char **arguments) {
    if (count != 11) { fprintf(stderr, "wrong arguments\n"); return 2; }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[2]))};
    inet_pton(AF_INET, arguments[1], &address.sin_addr);
    connection_count = atoi(arguments[3]);
    window = atoi(arguments[4]);
    double seconds = atof(arguments[5]), warmup = atof(arguments[6]), rate = atof(arguments[7]);
    patch_at = atol(arguments[8]);
    step = strtoull(arguments[9], NULL, 10);
    wrap = strtoull(arguments[10], NULL, 10);
    if (connection_count < 1 || connection_count > MAX_CONNECTIONS) { fprintf(stderr, "connections?\n"); return 2; }
    read_frames();
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < connection_count; i++) open_connection(i, &address);
    double start = now(), end = start + warmup + seconds;
    measure_from = start + warmup;
    rate_each = rate / connection_count;
    for (int i = 0; i < connection_count; i++) connections[i].due = start + (rate > 0 ? i / rate : 0);
    struct epoll_event events[256];
    for (double t = start; t < end || (in_flight() && t < end + 10); t = now()) {
        for (int i = 0; i < connection_count; i++)
            if (connections[i].sending ? !connections[i].wants_write : may_start(&connections[i], t, end))
                send_some(&connections[i], t, end);
        int n = epoll_wait(epoll_fd, events, 256, wait_ms(now()));
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive_some(c);
            if (events[i].events & EPOLLOUT) send_some(c, now(), end);
        }
    }
    if (in_flight()) { fprintf(stderr, "requests were not answered within 10 s\n"); return 1; }
    report(seconds);
    return 0;
}
