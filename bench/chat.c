/* WebSocket messages: `chat serve PORT...` answers every message, `chat talk PORT CONNECTIONS SECONDS` sends one
   on each connection, the next when the answer is there, and prints one `name value` per line.

   Messages are text frames of 32 bytes; the client's are masked with zeros, so that both sides may count bytes
   instead of reading them. The server also answers GET / for health checks. */
#include "net.h"

enum { PAYLOAD = 32, QUESTION = PAYLOAD + 6, ANSWER = PAYLOAD + 2, BATCH = 64 };

/* The key of RFC 6455 section 1.3, and what it asks for. */
static const char open_request[] =
    "GET /chat HTTP/1.1\r\nHost: bench.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
static const char open_answer[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char plain_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

struct connection {
    int fd;
    int open; /* it speaks WebSocket */
    size_t got;
    uint64_t sent_ns;
    char *head; /* of the request, until it is whole */
};

static void send_all(struct connection *c, const void *data, size_t size) {
    if (write(c->fd, data, size) != (ssize_t)size && errno != EPIPE && errno != ECONNRESET) die("write");
}

static void fill(char *frame, size_t head) {
    memset(frame, 0, head);
    frame[0] = (char)0x81;
    frame[1] = (char)(PAYLOAD | (head == 6 ? 0x80 : 0));
    memset(frame + head, 'x', PAYLOAD);
}

static void on_head(struct connection *c, const char *data, size_t n) {
    if (!c->head) c->head = calloc(1, 8192);
    if (c->got + n >= 8192) n = 8191 - c->got;
    memcpy(c->head + c->got, data, n);
    c->head[c->got += n] = 0;
    if (!strstr(c->head, "\r\n\r\n")) return;
    c->open = strcasestr(c->head, "\r\nupgrade:") != NULL;
    if (c->open) send_all(c, open_answer, sizeof open_answer - 1);
    else send_all(c, plain_answer, sizeof plain_answer - 1);
    free(c->head);
    c->head = NULL;
    c->got = 0;
}

_Noreturn static void serve(int doors, char **ports) {
    int ep = epoll_create1(EPOLL_CLOEXEC), *door = calloc((size_t)doors, sizeof *door), one = 1;
    for (int i = 0; i < doors; i++) watch(ep, EPOLL_CTL_ADD, door[i] = listen_on(atoi(ports[i])), EPOLLIN, &door[i]);
    static char in[65536], out[ANSWER * BATCH];
    for (int i = 0; i < BATCH; i++) fill(out + i * ANSWER, 2);
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int *d = events[i].data.ptr;
            if (d >= door && d < door + doors) {
                int fd = accept4(*d, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                struct connection *c = calloc(1, sizeof *c);
                c->fd = fd;
                watch(ep, EPOLL_CTL_ADD, fd, EPOLLIN, c);
                continue;
            }
            struct connection *c = events[i].data.ptr;
            ssize_t n = read(c->fd, in, QUESTION * BATCH);
            if (n <= 0) {
                close(c->fd);
                free(c->head);
                free(c);
            } else if (!c->open) {
                on_head(c, in, (size_t)n);
            } else {
                size_t messages = (c->got += (size_t)n) / QUESTION;
                c->got %= QUESTION;
                if (messages) send_all(c, out, ANSWER * messages);
            }
        }
    }
}

static int talk(int port, int connections, double seconds) {
    char question[QUESTION], in[8192];
    fill(question, 6);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    for (int i = 0; i < connections; i++) {
        struct connection *c = &all[i];
        c->fd = dial(port, 0);
        send_all(c, open_request, sizeof open_request - 1);
        for (size_t got = 0; got < 4 || memcmp(in + got - 4, "\r\n\r\n", 4);) {
            ssize_t n = read(c->fd, in + got, 1);
            if (n <= 0 || ++got == sizeof in) return fprintf(stderr, "no answer to the handshake\n"), 1;
        }
        if (memcmp(in + 8, " 101", 4)) return fprintf(stderr, "refused: %.12s\n", in), 1;
        watch(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    }
    size_t room = 1u << 20, messages = 0;
    uint32_t *latency_us = calloc(room, sizeof *latency_us);
    uint64_t start_ns = now_ns(), end_ns = start_ns + (uint64_t)(seconds * 1e9), now = start_ns;
    for (int i = 0; i < connections; i++) {
        all[i].sent_ns = now_ns();
        send_all(&all[i], question, QUESTION);
    }
    struct epoll_event events[256];
    while ((now = now_ns()) < end_ns) {
        int count = epoll_wait(ep, events, 256, 100);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            ssize_t n = read(c->fd, in, sizeof in);
            if (n <= 0) return fprintf(stderr, "the proxy closed a WebSocket\n"), 1;
            if ((c->got += (size_t)n) < ANSWER) continue;
            c->got = 0;
            now = now_ns();
            latency_us[messages++ % room] = (uint32_t)((now - c->sent_ns) / 1000);
            c->sent_ns = now;
            send_all(c, question, QUESTION);
        }
    }
    printf("messages %zu\nper_s %.0f\n", messages, (double)messages * 1e9 / (double)(now - start_ns));
    print_latencies(latency_us, messages < room ? messages : room);
    return 0;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 3 && !strcmp(argv[1], "serve")) serve(argc - 2, argv + 2);
    if (argc == 5 && !strcmp(argv[1], "talk")) return talk(atoi(argv[2]), atoi(argv[3]), atof(argv[4]));
    return fprintf(stderr, "usage: chat serve PORT... | chat talk PORT CONNECTIONS SECONDS\n"), 2;
}
