/* Producers and consumers at the end of the same log, for the time from one to the other.
 *
 *   tail HOST PORT PRODUCERS WINDOW CONSUMERS SECONDS WARMUP RATE RECORDS_PER_BATCH < frames
 *
 * Standard input: Produce requests of one batch each, frame p for partition p of an empty topic, then one Fetch request
 * (version 12) of all partitions, in which MARK + p stands where the fetch offset of partition p belongs. Partition p is
 * written by connection p % PRODUCERS only, so that offset o was sent by request o / RECORDS_PER_BATCH. Each consumer
 * reads everything by one fetch after the other. With RATE > 0 that many requests in all a second are sent on a schedule
 * and times count from when a request was due; else WINDOW requests are in flight on each connection.
 * Prints one line of JSON. Exits with 1 if a consumer did not get all that was acknowledged, in order. */
#include "common.h"

enum { MAX_CONNECTIONS = 256, MAX_PARTITIONS = 1024, RING = 1 << 16 };
#define MARK 0x7071727374750000ull

struct partition { double *due; uint64_t sent, room; };

struct producer {
    int fd, sending, wants_write;
    size_t partition, sent;
    uint64_t head, tail;
    double due, *started;
};

struct consumer {
    int fd, waits;
    size_t sent, got, room;
    unsigned char *request, *answer;
    uint64_t *offsets;
    double *failing_since; /* by partition; 0: it is answered */
};

struct owner { int is_consumer; int number; };

static struct partition partitions[MAX_PARTITIONS];
static struct producer producers[MAX_CONNECTIONS];
static struct consumer consumers[MAX_CONNECTIONS];
static struct owner owners[2 * MAX_CONNECTIONS];
static size_t marks[MAX_PARTITIONS];
static size_t partition_count;
static int producer_count, consumer_count;
static uint64_t window, records_per_batch, requests, sent_bytes, total_sent_bytes, consumed_bytes, fetches;
static double rate_each, measure_from, produce_until;
static struct samples answers, ends;

static void find_marks(const struct frame *fetch) {
    size_t found = 0;
    for (size_t at = 0; at + 8 <= fetch->size; at++) {
        uint64_t value = int64_at(fetch->bytes + at);
        if (value >= MARK && value < MARK + partition_count) { marks[value - MARK] = at; found++; }
    }
    if (found != partition_count) refuse("the fetch request does not name all partitions once");
}

/* Producing. */

static int may_start(const struct producer *p, double t) {
    if (t >= produce_until) return 0;
    if (rate_each > 0) return t >= p->due && p->head - p->tail < RING;
    return p->head - p->tail < window;
}

static void note_due(struct partition *one, double due) {
    if (one->sent == one->room) {
        one->room = one->room ? 2 * one->room : 1024;
        one->due = realloc(one->due, one->room * sizeof *one->due);
        if (!one->due) fail("realloc");
    }
    one->due[one->sent++] = due;
}

static void watch_writes(struct producer *p, int number, int write) {
    if (p->wants_write == write) return;
    p->wants_write = write;
    watch_fd(EPOLL_CTL_MOD, p->fd, &owners[number], write);
}

static void produce_some(int number) {
    struct producer *p = &producers[number];
    for (;;) {
        double t = now();
        struct frame *frame = &frames[p->partition];
        if (!p->sending) {
            if (!may_start(p, t)) { watch_writes(p, number, 0); return; }
            double due = rate_each > 0 ? p->due : t;
            p->started[p->head++ % RING] = due;
            note_due(&partitions[p->partition], due);
            if (rate_each > 0) p->due += 1 / rate_each;
            p->sending = 1;
            p->sent = 0;
        }
        ssize_t n = send(p->fd, frame->bytes + p->sent, frame->size - p->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) fail("send");
            watch_writes(p, number, 1);
            return;
        }
        p->sent += (size_t)n;
        if (p->sent < frame->size) continue;
        total_sent_bytes += frame->size;
        if (t >= measure_from) sent_bytes += frame->size;
        p->sending = 0;
        p->partition += (size_t)producer_count;
        if (p->partition >= partition_count) p->partition = (size_t)number;
    }
}

static void take_answers(struct producer *p) {
    static unsigned char buffer[1 << 16];
    static size_t kept[MAX_CONNECTIONS];
    static unsigned char rest[MAX_CONNECTIONS][4096];
    size_t number = (size_t)(p - producers), have = kept[number];
    memcpy(buffer, rest[number], have);
    ssize_t n = recv(p->fd, buffer + have, sizeof buffer - have, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) refuse("the server closed a producer's connection");
    double t = now();
    size_t at = 0, end = have + (size_t)n;
    while (end - at >= 4 && end - at - 4 >= int32_at(buffer + at)) {
        at += 4 + int32_at(buffer + at);
        double started = p->started[p->tail++ % RING];
        if (started >= measure_from) { add_sample(&answers, t - started); requests++; }
    }
    kept[number] = end - at;
    if (kept[number] > sizeof rest[0]) refuse("an answer to Produce that is larger than expected");
    memcpy(rest[number], buffer + at, kept[number]);
}

/* Consuming. */

static void ask(struct consumer *c) {
    struct frame *fetch = &frames[partition_count];
    for (size_t p = 0; p < partition_count; p++) put_int64(c->request + marks[p], c->offsets[p]);
    c->sent = c->got = 0;
    c->waits = 1;
    while (c->sent < fetch->size) { /* a request is small: it fits the socket */
        ssize_t n = send(c->fd, c->request + c->sent, fetch->size - c->sent, MSG_NOSIGNAL);
        if (n < 0) fail("send");
        c->sent += (size_t)n;
    }
}

static uint64_t varint(const unsigned char **at) {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        unsigned char byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return value;
    }
}

static void skip_tags(const unsigned char **at) {
    for (uint64_t tags = varint(at); tags; tags--) { varint(at); uint64_t size = varint(at); *at += size; }
}

static void take_records(struct consumer *c, size_t partition, const unsigned char *at, const unsigned char *end, double t) {
    struct partition *one = &partitions[partition];
    while (end - at >= 61 && (uint64_t)(end - at - 12) >= int32_at(at + 8)) {
        uint64_t base = int64_at(at), size = 12 + (uint64_t)int32_at(at + 8), request = base / records_per_batch;
        if (base == c->offsets[partition]) {
            if (request >= one->sent) refuse("records that nobody sent");
            if (one->due[request] >= measure_from) add_sample(&ends, t - one->due[request]);
            if (t >= measure_from && t < produce_until) consumed_bytes += size;
            c->offsets[partition] = base + int32_at(at + 23) + 1;
        } else if (base > c->offsets[partition]) {
            refuse("a consumer missed records");
        }
        at += size;
    }
}

/* A partition may be answered with an error for a moment (Kafka's: 1, 3, 6): a client asks again, and so do we. */
static void note_error(struct consumer *c, size_t partition, int code, double t) {
    double *since = &c->failing_since[partition];
    if (!code) *since = 0;
    else if (!*since) *since = t;
    else if (t > *since + 5) refuse_code("a partition is answered with error", code);
}

static void take_fetch(struct consumer *c, double t) {
    const unsigned char *at = c->answer + 4 + 4; /* length, correlation id */
    skip_tags(&at);
    at += 4;
    if (at[0] || at[1]) refuse_code("a fetch was answered with error", at[0] << 8 | at[1]);
    at += 2 + 4;
    for (uint64_t topics = varint(&at); topics > 1; topics--) {
        uint64_t name = varint(&at) - 1;
        at += name;
        for (uint64_t rows = varint(&at); rows > 1; rows--) {
            size_t partition = int32_at(at);
            if (partition < partition_count) note_error(c, partition, at[4] << 8 | at[5], t);
            at += 4 + 2 + 8 + 8 + 8;
            for (uint64_t aborted = varint(&at); aborted > 1; aborted--) { at += 16; skip_tags(&at); }
            at += 4;
            uint64_t size = varint(&at);
            if (size) size--;
            if (partition < partition_count) take_records(c, partition, at, at + size, t);
            at += size;
            skip_tags(&at);
        }
        skip_tags(&at);
    }
    if (t >= measure_from && t < produce_until) fetches++;
    ask(c);
}

static void receive_fetch(struct consumer *c) {
    for (;;) {
        size_t wanted = c->got < 4 ? 4 : 4 + int32_at(c->answer);
        if (wanted > c->room) {
            c->room = wanted + wanted / 2;
            c->answer = realloc(c->answer, c->room);
            if (!c->answer) fail("realloc");
        }
        ssize_t n = recv(c->fd, c->answer + c->got, wanted - c->got, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) refuse("the server closed a consumer's connection");
        c->got += (size_t)n;
        if (c->got >= 4 && c->got == 4 + int32_at(c->answer)) { take_fetch(c, now()); return; }
    }
}

/* All together. */

static int incomplete(void) {
    for (int i = 0; i < producer_count; i++)
        if (producers[i].head != producers[i].tail) return 1;
    for (int i = 0; i < consumer_count; i++)
        for (size_t p = 0; p < partition_count; p++)
            if (consumers[i].offsets[p] != partitions[p].sent * records_per_batch) return 1;
    return 0;
}

static double next_due(double t) {
    double soonest = t + 0.1;
    for (int i = 0; rate_each > 0 && t < produce_until && i < producer_count; i++)
        if (producers[i].due < soonest) soonest = producers[i].due;
    return soonest;
}

static void open_all(const struct sockaddr_in *address, double start, double rate) {
    for (int i = 0; i < producer_count; i++) {
        struct producer *p = &producers[i];
        p->fd = connected(address);
        p->partition = (size_t)i;
        p->due = start + (rate > 0 ? i / rate : 0);
        p->started = calloc(RING, sizeof *p->started);
        owners[i] = (struct owner){0, i};
        watch_fd(EPOLL_CTL_ADD, p->fd, &owners[i], 0);
    }
    for (int i = 0; i < consumer_count; i++) {
        struct consumer *c = &consumers[i];
        struct frame *fetch = &frames[partition_count];
        c->fd = connected(address);
        c->request = malloc(fetch->size);
        memcpy(c->request, fetch->bytes, fetch->size);
        c->offsets = calloc(partition_count, sizeof *c->offsets);
        c->failing_since = calloc(partition_count, sizeof *c->failing_since);
        owners[MAX_CONNECTIONS + i] = (struct owner){1, i};
        watch_fd(EPOLL_CTL_ADD, c->fd, &owners[MAX_CONNECTIONS + i], 0);
        ask(c);
    }
}

int main(int count, char **arguments) {
    if (count != 10) { fprintf(stderr, "wrong arguments\n"); return 2; }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[2]))};
    inet_pton(AF_INET, arguments[1], &address.sin_addr);
    producer_count = atoi(arguments[3]);
    window = strtoull(arguments[4], NULL, 10);
    consumer_count = atoi(arguments[5]);
    double seconds = atof(arguments[6]), warmup = atof(arguments[7]), rate = atof(arguments[8]);
    records_per_batch = strtoull(arguments[9], NULL, 10);
    begin();
    partition_count = frame_count - 1;
    if (producer_count < 1 || producer_count > MAX_CONNECTIONS || consumer_count > MAX_CONNECTIONS ||
        partition_count < (size_t)producer_count || partition_count > MAX_PARTITIONS || !records_per_batch)
        refuse("wrong numbers of connections or partitions");
    find_marks(&frames[partition_count]);
    rate_each = rate / producer_count;
    double start = now();
    open_all(&address, start, rate);
    measure_from = start + warmup;
    produce_until = measure_from + seconds;
    struct epoll_event events[MAX_EVENTS];
    for (double t = start; t < produce_until || incomplete(); t = now()) {
        if (t > produce_until + 30) refuse("not everything was acknowledged and consumed within 30 s");
        for (int i = 0; i < producer_count; i++)
            if (producers[i].sending ? !producers[i].wants_write : may_start(&producers[i], t)) produce_some(i);
        int n = wait_events(events, next_due(t));
        for (int i = 0; i < n; i++) {
            struct owner *owner = events[i].data.ptr;
            if (owner->is_consumer) receive_fetch(&consumers[owner->number]);
            else {
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) take_answers(&producers[owner->number]);
                if (events[i].events & EPOLLOUT) produce_some(owner->number);
            }
        }
    }
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"sent_bytes\": %llu, \"received_bytes\": %llu, \"fetches\": %llu, "
           "\"total_sent_bytes\": %llu, ",
           (unsigned long long)requests, seconds, (unsigned long long)sent_bytes, (unsigned long long)consumed_bytes,
           (unsigned long long)fetches, (unsigned long long)total_sent_bytes);
    print_samples("ack", &answers);
    print_samples("end_to_end", &ends);
    printf("\"loader_cpu_s\": %.3f}\n", cpu_s());
    return 0;
}
