/* Requests at a fixed rate: `pace PORT RATE CONNECTIONS SECONDS < request`.

   An open loop: requests fall due by the clock, whether or not earlier ones have been answered, and a latency
   runs from the moment a request fell due. So a proxy that stalls pays for all who would have asked
   meanwhile (no coordinated omission). Prints one `name value` per line. */
#include "net.h"

#include <sys/prctl.h>

enum { ROOM = 65536 };

struct connection {
    int fd;
    uint64_t due_ns;
    size_t got;
    char in[8192];
};

static char request[ROOM];
static size_t request_bytes;
static uint32_t *latency_us;
static uint64_t *waiting; /* due times of requests for which no connection was free, in order */
static size_t answered, errors, first_waiting, last_waiting;

static void ask(struct connection *c, uint64_t due_ns) {
    c->due_ns = due_ns;
    c->got = 0;
    if (write(c->fd, request, request_bytes) != (ssize_t)request_bytes) die("write");
}

/* Return whether the answer is whole. The answers measured here are small and have a Content-Length. */
static int whole(struct connection *c) {
    c->in[c->got] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (!length || length > end) return fprintf(stderr, "no Content-Length:\n%s", c->in), exit(1), 0;
    return c->got >= (size_t)(end + 4 - c->in) + strtoul(length + 17, NULL, 10);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: pace PORT RATE CONNECTIONS SECONDS < request\n"), 2;
    int port = atoi(argv[1]), connections = atoi(argv[3]);
    double rate = atof(argv[2]);
    size_t total = (size_t)(rate * atof(argv[4])), begun = 0;
    request_bytes = fread(request, 1, ROOM, stdin);
    latency_us = calloc(total + 1, sizeof *latency_us);
    waiting = calloc(total + 1, sizeof *waiting);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct connection **idle = calloc((size_t)connections, sizeof *idle);
    size_t idle_count = 0;
    int ep = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < connections; i++) {
        all[i].fd = dial(port, 0);
        watch(ep, EPOLL_CTL_ADD, all[i].fd, EPOLLIN, &all[i]);
        idle[idle_count++] = &all[i];
    }
    prctl(PR_SET_TIMERSLACK, 1ul); /* the kernel rounds a wait by 50 us otherwise */
    struct epoll_event events[256];
    uint64_t start_ns = now_ns() + 10000000u, give_up_ns = start_ns + (uint64_t)((atof(argv[4]) + 5) * 1e9);
    while (answered < total) {
        uint64_t now = now_ns();
        if (now > give_up_ns) break;
        for (; begun < total; begun++) {
            uint64_t due_ns = start_ns + (uint64_t)((double)begun * 1e9 / rate);
            if (due_ns > now) break;
            if (idle_count) ask(idle[--idle_count], due_ns);
            else waiting[last_waiting++] = due_ns;
        }
        uint64_t next_ns = begun < total ? start_ns + (uint64_t)((double)begun * 1e9 / rate) : now + 100000000u;
        now = now_ns();
        uint64_t wait_ns = next_ns > now ? next_ns - now : 0;
        struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000u), .tv_nsec = (long)(wait_ns % 1000000000u)};
        int count = epoll_pwait2(ep, events, 256, &wait, NULL);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            ssize_t n = read(c->fd, c->in + c->got, sizeof c->in - 1 - c->got);
            if (n <= 0) return fprintf(stderr, "the proxy closed a connection\n"), 1;
            c->got += (size_t)n;
            if (!whole(c)) continue;
            errors += strncmp(c->in + 8, " 200", 4) != 0;
            latency_us[answered++] = (uint32_t)((now_ns() - c->due_ns) / 1000);
            if (first_waiting < last_waiting) ask(c, waiting[first_waiting++]);
            else idle[idle_count++] = c;
        }
    }
    printf("requests %zu\nerrors %zu\nlate %zu\n", answered, errors + (total - answered), last_waiting);
    print_latencies(latency_us, answered);
}
