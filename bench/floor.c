/* The floor: what a proxy costs that reads nothing. `floor PORT BACKEND...` joins each connection with one to
   the next backend and copies bytes both ways. One thread, one epoll, a buffer for each side that is slow. */
#include "net.h"

enum { CHUNK = 65536 };

struct side {
    int fd;
    int dead;
    char *rest; /* bytes its socket would not take yet; while there are some, the other side is not read */
    size_t length, sent;
    struct side *other, *next_dead;
};

static char chunk[CHUNK];
static int ep;
static struct side *dead; /* freed after the turn: its other events may still be in this one */

static void end(struct side *s) {
    if (s->dead) return;
    struct side *both[] = {s, s->other};
    for (int i = 0; i < 2; i++) {
        both[i]->dead = 1;
        close(both[i]->fd);
        both[i]->next_dead = dead;
        dead = both[i];
    }
}

static void flush(struct side *s) {
    ssize_t n = write(s->fd, s->rest + s->sent, s->length - s->sent);
    if (n < 0 && errno != EAGAIN) return end(s);
    if (n > 0) s->sent += (size_t)n;
    if (s->sent < s->length) return;
    free(s->rest);
    s->rest = NULL;
    watch(ep, EPOLL_CTL_MOD, s->fd, s->other->rest ? 0 : EPOLLIN, s);
    watch(ep, EPOLL_CTL_MOD, s->other->fd, EPOLLIN | (s->other->rest ? EPOLLOUT : 0), s->other);
}

static void pass_on(struct side *from) {
    struct side *to = from->other;
    ssize_t n = read(from->fd, chunk, CHUNK);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return end(from);
    ssize_t taken = write(to->fd, chunk, (size_t)n);
    if (taken == n) return;
    if (taken < 0 && errno != EAGAIN) return end(from);
    if (taken < 0) taken = 0;
    to->length = (size_t)(n - taken);
    to->sent = 0;
    to->rest = malloc(to->length);
    memcpy(to->rest, chunk + taken, to->length);
    watch(ep, EPOLL_CTL_MOD, to->fd, EPOLLOUT | (from->rest ? 0 : EPOLLIN), to);
    watch(ep, EPOLL_CTL_MOD, from->fd, from->rest ? EPOLLOUT : 0, from);
}

static void join(int client, int backend) {
    struct side *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    *a = (struct side){.fd = client, .other = b};
    *b = (struct side){.fd = backend, .other = a};
    watch(ep, EPOLL_CTL_ADD, client, EPOLLIN, a);
    watch(ep, EPOLL_CTL_ADD, backend, EPOLLIN, b);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: floor PORT BACKEND...\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    int door = listen_on(atoi(argv[1])), turn = 0, one = 1;
    ep = epoll_create1(EPOLL_CLOEXEC);
    watch(ep, EPOLL_CTL_ADD, door, EPOLLIN, NULL);
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct side *s = events[i].data.ptr;
            if (s == NULL) {
                int client = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (client < 0) continue;
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                int backend = dial(atoi(argv[2 + turn++ % (argc - 2)]), SOCK_NONBLOCK);
                if (backend < 0) close(client);
                else join(client, backend);
                continue;
            }
            if (!s->dead && s->rest && events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) flush(s);
            if (!s->dead && !s->other->rest && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) pass_on(s);
            else if (!s->dead && events[i].events & (EPOLLERR | EPOLLHUP)) end(s);
        }
        while (dead) {
            struct side *s = dead;
            dead = s->next_dead;
            free(s->rest);
            free(s);
        }
    }
}
