/* The least that any broker does with Produce requests, in one thread: what this machine lets a broker reach.
 *
 *   floor FILE FILE_BYTES
 *
 * Listens on a port of 127.0.0.1, which it prints. Receives frames, takes the CRC-32C of their bytes, writes them into the
 * page cache of FILE, from whose end it goes on at its beginning, and answers each with a frame of ANSWER_BYTES. Nothing is
 * looked at, no order is kept over connections, nobody can read it back: a broker costs more. */
#include "common.h"

#include <netinet/in.h>
#include <sys/socket.h>

enum { BUFFER_BYTES = 2 << 20, ANSWER_BYTES = 60, MAX_ANSWERS = 512 };

struct client {
    int fd;
    size_t filled;
    unsigned char bytes[BUFFER_BYTES];
};

static unsigned char answers[MAX_ANSWERS * ANSWER_BYTES];
static volatile uint32_t checksum;
static int file;
static size_t file_bytes, position;

#ifdef __x86_64__
#include <nmmintrin.h>
__attribute__((target("sse4.2"))) static uint32_t crc32c(const unsigned char *at, size_t size) {
    uint64_t crc = ~0u, word;
    for (; size >= 8; at += 8, size -= 8) {
        memcpy(&word, at, 8);
        crc = _mm_crc32_u64(crc, word);
    }
    for (; size; size--) crc = _mm_crc32_u8((uint32_t)crc, *at++);
    return ~(uint32_t)crc;
}
#else
static uint32_t crc32c(const unsigned char *at, size_t size) {
    uint32_t crc = ~0u;
    for (; size; size--) {
        crc ^= *at++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1)));
    }
    return ~crc;
}
#endif

static void accept_one(int listener) {
    int one = 1, fd = accept(listener, NULL, NULL);
    if (fd < 0) fail("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct client *client = malloc(sizeof *client);
    if (!client) fail("malloc");
    client->fd = fd;
    client->filled = 0;
    watch_fd(EPOLL_CTL_ADD, fd, client, 0);
}

static void write_all(const unsigned char *bytes, size_t size) {
    if (position + size > file_bytes) position = 0;
    if (pwrite(file, bytes, size, (off_t)position) != (ssize_t)size) fail("pwrite");
    position += size;
}

static void serve(struct client *client) {
    ssize_t n = recv(client->fd, client->bytes + client->filled, BUFFER_BYTES - client->filled, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        close(client->fd);
        free(client);
        return;
    }
    client->filled += (size_t)n;
    size_t at = 0, count = 0;
    while (count < MAX_ANSWERS && client->filled - at >= 4) {
        size_t size = int32_at(client->bytes + at);
        if (size > BUFFER_BYTES - 4) refuse("a frame is too large");
        if (client->filled - at - 4 < size) break;
        checksum = crc32c(client->bytes + at + 4, size);
        at += 4 + size;
        count++;
    }
    if (!count) return;
    write_all(client->bytes, at);
    memmove(client->bytes, client->bytes + at, client->filled - at);
    client->filled -= at;
    if (send(client->fd, answers, count * ANSWER_BYTES, MSG_NOSIGNAL) < 0) refuse("a client has gone");
}

int main(int count, char **arguments) {
    if (count != 3) refuse("floor FILE FILE_BYTES");
    file = open(arguments[1], O_RDWR | O_CREAT, 0644);
    file_bytes = strtoull(arguments[2], NULL, 10);
    if (file < 0) fail(arguments[1]);
    for (size_t i = 0; i < MAX_ANSWERS; i++) answers[i * ANSWER_BYTES + 3] = ANSWER_BYTES - 4;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 512)) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    epoll_fd = epoll_create1(0);
    watch_fd(EPOLL_CTL_ADD, listener, NULL, 0);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr) serve(events[i].data.ptr);
            else accept_one(listener);
    }
}
