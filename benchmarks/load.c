/* A load generator that costs little CPU: it sends prepared Kafka frames over and over and counts the answers.
 *
 *   load HOST PORT CONNECTIONS WINDOW SECONDS WARMUP BYTES RATE PATCH_AT STEP WRAP < frames
 *
 * Standard input: frames, each with its int32 length in front, as they go over the wire. Connection c starts at frame c
 * and goes round. WINDOW requests are in flight on each connection; with RATE > 0 requests are sent on a schedule instead
 * (open loop, RATE in all a second) and latency counts from the moment a request was due. With PATCH_AT >= 0 the int64 at
 * that place of the frame, a fetch offset, goes up by STEP for each request and back to 0 at WRAP.
 * Prints one line of JSON. Nothing in an answer is looked at but its length: the caller checks offsets afterwards. */
#include "common.h"

enum { MAX_CONNECTIONS = 4096, RING = 65536, RECEIVE_BYTES = 1 << 20 };

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

static struct connection connections[MAX_CONNECTIONS];
static int connection_count;
static unsigned window, ring;
static long patch_at;
static uint64_t step, wrap;
static double rate_each, measure_from;
static struct samples answers;
static uint64_t sent_bytes, total_sent_bytes, total_received_bytes, received_bytes, total_requests, bytes_limit;
static double end;
static unsigned char receive_buffer[RECEIVE_BYTES];

static void watch(struct connection *c, int write) {
    if (c->wants_write == write) return;
    c->wants_write = write;
    watch_fd(EPOLL_CTL_MOD, c->fd, c, write);
}

static void open_connection(int number, const struct sockaddr_in *address) {
    struct connection *c = &connections[number];
    c->fd = connected(address);
    c->frame = (size_t)number % frame_count;
    c->started = calloc(ring, sizeof *c->started);
    if (!c->started) fail("calloc");
    watch_fd(EPOLL_CTL_ADD, c->fd, c, 0);
}

static int may_start(struct connection *c, double t) {
    if (t >= end) return 0;
    if (rate_each > 0) return t >= c->due && c->head - c->tail < ring;
    return c->head - c->tail < window;
}

static void patch_offset(struct connection *c, struct frame *frame) {
    put_int64(frame->bytes + patch_at, c->offset);
    c->offset = c->offset + step >= wrap ? 0 : c->offset + step;
}

static void send_some(struct connection *c, double t) {
    for (;;) {
        struct frame *frame = &frames[c->frame];
        if (!c->sending) {
            if (!may_start(c, t)) { watch(c, 0); return; }
            c->started[c->head++ % ring] = rate_each > 0 ? c->due : t;
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
        c->sent += (size_t)n;
        if (c->sent < frame->size) continue;
        total_sent_bytes += frame->size;
        if (t >= measure_from) sent_bytes += frame->size;
        if (bytes_limit && total_sent_bytes >= bytes_limit && t < end) end = t;
        c->sending = 0;
        c->frame = (c->frame + (size_t)connection_count) % frame_count;
        t = now();
    }
}

static void answered(struct connection *c, double t) {
    if (c->tail == c->head) refuse("an answer to nothing");
    double started = c->started[c->tail++ % ring];
    total_requests++;
    if (started >= measure_from) add_sample(&answers, t - started);
}

static void receive_some(struct connection *c) {
    ssize_t n = recv(c->fd, receive_buffer, sizeof receive_buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) refuse("the server closed a connection");
    double t = now();
    total_received_bytes += (uint64_t)n;
    if (t >= measure_from) received_bytes += (uint64_t)n;
    for (unsigned char *at = receive_buffer, *limit = at + n; at < limit;) {
        if (c->length_got < 4) {
            c->length[c->length_got++] = *at++;
            if (c->length_got == 4) c->body_left = int32_at(c->length);
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

static double next_due(double t) {
    double soonest = t + 0.1;
    for (int i = 0; rate_each > 0 && i < connection_count; i++)
        if (connections[i].due < soonest) soonest = connections[i].due;
    return soonest;
}

static void report(double seconds) {
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"sent_bytes\": %llu, \"received_bytes\": %llu, "
           "\"total_requests\": %llu, \"total_sent_bytes\": %llu, \"total_received_bytes\": %llu, ",
           (unsigned long long)answers.count, seconds, (unsigned long long)sent_bytes,
           (unsigned long long)received_bytes, (unsigned long long)total_requests,
           (unsigned long long)total_sent_bytes, (unsigned long long)total_received_bytes);
    print_samples("ack", &answers);
    printf("\"loader_cpu_s\": %.3f}\n", cpu_s());
}

int main(int count, char **arguments) {
    if (count != 12) { fprintf(stderr, "wrong arguments\n"); return 2; }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[2]))};
    inet_pton(AF_INET, arguments[1], &address.sin_addr);
    connection_count = atoi(arguments[3]);
    window = (unsigned)atoi(arguments[4]);
    double seconds = atof(arguments[5]), warmup = atof(arguments[6]), rate = atof(arguments[8]);
    bytes_limit = strtoull(arguments[7], NULL, 10);
    patch_at = atol(arguments[9]);
    step = strtoull(arguments[10], NULL, 10);
    wrap = strtoull(arguments[11], NULL, 10);
    if (connection_count < 1 || connection_count > MAX_CONNECTIONS) { fprintf(stderr, "connections?\n"); return 2; }
    begin();
    rate_each = rate / connection_count;
    ring = rate > 0 ? RING : window; /* as a power of two: numbers wrap around */
    while (ring & (ring - 1)) ring++;
    for (int i = 0; i < connection_count; i++) open_connection(i, &address);
    double start = now();
    end = start + warmup + seconds;
    measure_from = start + warmup;
    for (int i = 0; i < connection_count; i++) connections[i].due = start + (rate > 0 ? i / rate : 0);
    struct epoll_event events[MAX_EVENTS];
    for (double t = start; t < end || (in_flight() && t < end + 30); t = now()) {
        for (int i = 0; i < connection_count; i++)
            if (connections[i].sending ? !connections[i].wants_write : may_start(&connections[i], t))
                send_some(&connections[i], t);
        int n = wait_events(events, next_due(t));
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive_some(c);
            if (events[i].events & EPOLLOUT) send_some(c, now());
        }
    }
    if (in_flight()) refuse("requests were not answered within 30 s");
    report(end - measure_from);
    return 0;
}
