/* What the small C programs of the benchmark share: sockets of loopback, time, and how to give up. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

__attribute__((unused)) static void die(const char *what) {
    perror(what);
    exit(1);
}

__attribute__((unused)) static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static int tcp(int flags) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

__attribute__((unused)) static int listen_on(int port) {
    int one = 1, fd = tcp(SOCK_NONBLOCK);
    struct sockaddr_in a = loopback(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    return fd;
}

/* Return a socket that is connected; with SOCK_NONBLOCK one that soon will be, or -1. */
static int dial(int port, int flags) {
    int fd = tcp(flags);
    struct sockaddr_in a = loopback(port);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) {
        if (!flags) die("connect");
        close(fd);
        return -1;
    }
    return fd;
}

static void watch(int epoll, int op, int fd, uint32_t events, void *of) {
    struct epoll_event e = {.events = events, .data.ptr = of};
    if (epoll_ctl(epoll, op, fd, &e)) die("epoll_ctl");
}

__attribute__((unused)) static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Print latencies (us, any order) the way harness.py reads them. */
__attribute__((unused)) static void print_latencies(uint32_t *us, size_t count) {
    qsort(us, count, sizeof *us, by_size);
    const double at[] = {0.5, 0.9, 0.99, 0.999, 1.0};
    const char *names[] = {"p50_us", "p90_us", "p99_us", "p999_us", "max_us"};
    for (size_t i = 0; i < 5 && count; i++) printf("%s %u\n", names[i], us[(size_t)(at[i] * (double)(count - 1))]);
}
