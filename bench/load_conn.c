/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One slot is one simulated client: it connects, asks, reads to the end of the body, judges what it got, and asks again
 * until its share of streams is done. Every stream ends in exactly one of completed and failed.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct conn {
    int fd;                 /* -1: closed */
    uint32_t slot;
    uint32_t streams;       /* ended, well or not */
    bool connecting;
    bool reused;            /* this stream runs on a connection that served one before */
    bool open;              /* a 200 head was read */
    uint64_t asked_at;
    wire_t wire;
    sse_t sse;
};

static void conn_start(load_t *l, conn_t *c);

bool load_conns_init(load_t *l)
{
    l->conns = calloc(l->opt.conns, sizeof(conn_t));
    if (!l->conns)
        return false;
    for (uint32_t i = 0; i < l->opt.conns; i++) {
        l->conns[i].fd = -1;
        l->conns[i].slot = i;
    }
    return true;
}

uint32_t load_conns_unfinished(const load_t *l)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < l->launched; i++)
        n += l->conns[i].fd >= 0;
    return n;
}

static void conn_close(conn_t *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->connecting = false;
}

static void stream_reset(conn_t *c)
{
    wire_reset(&c->wire);
    memset(&c->sse, 0, sizeof(c->sse));
    c->open = false;
}

/* The stream is over, failed or not: leave the books right and go on with the next. */
static void stream_over(load_t *l, conn_t *c, bool keep)
{
    if (c->open)
        l->open_now--;
    l->last_end = load_now();
    c->streams++;
    stream_reset(c);
    if (!keep || c->streams >= l->opt.each)
        conn_close(c);
    if (c->streams >= l->opt.each)
        l->slots_done++;
    else
        conn_start(l, c);
}

static void stream_failed(load_t *l, conn_t *c, uint64_t *kind, const char *what, long value)
{
    l->failed++;
    ++*kind;
    if (!l->first_failure[0])
        snprintf(l->first_failure, sizeof(l->first_failure), "%s (%ld); status %d, %u tokens, %u events", what, value,
                 c->wire.status, c->sse.tokens, c->sse.events);
    stream_over(l, c, false);
}

static void stream_ended(load_t *l, conn_t *c, bool keep)
{
    const load_opts_t *o = &l->opt;

    if (o->mode == MODE_IDLE)
        stream_failed(l, c, &l->fail_cut, "ended, was to be held", 0);
    else if (c->wire.status != 200)
        stream_failed(l, c, &l->fail_status, "status", c->wire.status);
    else if (o->expect && c->sse.tokens != o->expect)
        stream_failed(l, c, &l->fail_short, "wrong number of tokens, expected", (long)o->expect);
    else if (o->marker.len && !c->sse.marker_seen)
        stream_failed(l, c, &l->fail_marker, "end without the end marker", 0);
    else {
        l->completed++;
        hist_add(&l->whole, load_now() - c->asked_at);
        stream_over(l, c, keep && !o->fresh);
    }
}

static bool conn_ask(load_t *l, conn_t *c)
{
    stream_reset(c);
    c->asked_at = load_now();
    /* A request fits any fresh socket buffer: less than all of it is a failure, not a reason for a write queue. */
    return send(c->fd, l->request, l->request_len, MSG_NOSIGNAL) == (ssize_t)l->request_len;
}

static bool conn_connect(load_t *l, conn_t *c)
{
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return false;
    from.sin_addr.s_addr = htonl(0x7f000002u + c->slot % l->opt.sources);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(c->fd, (struct sockaddr *)&from, sizeof(from)) < 0)
        return false;
    if (connect(c->fd, (struct sockaddr *)&l->opt.to, sizeof(l->opt.to)) < 0 && errno != EINPROGRESS)
        return false;
    c->connecting = true;
    l->connects++;
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &ev) == 0;
}

static void conn_start(load_t *l, conn_t *c)
{
    c->reused = c->fd >= 0;
    if (c->reused && conn_ask(l, c))
        return;
    if (c->reused) {
        l->retried++;
        c->reused = false;
        conn_close(c);
    }
    if (!conn_connect(l, c))
        stream_failed(l, c, &l->fail_connect, "connect", errno);
}

void load_conn_launch(load_t *l, uint32_t slot)
{
    l->launched++;
    conn_start(l, &l->conns[slot]);
}

static void conn_connected(load_t *l, conn_t *c)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    int err = 0;
    socklen_t len = sizeof(err);

    c->connecting = false;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err || !conn_ask(l, c) || epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &ev) < 0)
        stream_failed(l, c, &l->fail_connect, "connect", err ? err : errno);
}

/* The peer closed or reset. Between two requests on one connection that is its right: ask again on a new one. */
static void conn_eof(load_t *l, conn_t *c, int err)
{
    if (c->reused && !c->wire.started) {
        l->retried++;
        conn_close(c);
        conn_start(l, c);
    }
    else if (err == 0 && wire_eof(&c->wire))
        stream_ended(l, c, false);
    else
        stream_failed(l, c, &l->fail_cut, "connection cut, errno", err);
}

static void conn_feed(load_t *l, conn_t *c, const char *p, size_t n)
{
    uint64_t now = load_now();
    uint32_t tokens = c->sse.tokens, events = c->sse.events;
    const char *body;
    size_t body_len;

    l->bytes += n;
    while (n > 0 && c->wire.state != WIRE_DONE && c->wire.state != WIRE_BAD) {
        size_t used = wire_next(&c->wire, p, n, &body, &body_len);

        if (body_len)
            sse_feed(&c->sse, &l->opt.marker, body, body_len, now, l->measuring ? &l->delay : NULL);
        p += used;
        n -= used;
    }
    l->tokens += c->sse.tokens - tokens;
    l->events += c->sse.events - events;
    if (!c->open && c->wire.status == 200 && c->wire.state != WIRE_HEAD) {
        c->open = true;
        l->opened++;
        l->open_now++;
    }
    if (c->wire.state == WIRE_BAD)
        stream_failed(l, c, &l->fail_cut, "not HTTP", 0);
    else if (c->wire.state == WIRE_DONE)
        stream_ended(l, c, c->wire.keep && n == 0);
}

static void conn_read(load_t *l, conn_t *c)
{
    static char buf[65536];
    ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

    /* Level-triggered: whatever is left after one portion comes back with the next epoll_wait. */
    if (n > 0)
        conn_feed(l, c, buf, (size_t)n);
    else if (n == 0)
        conn_eof(l, c, 0);
    else if (errno != EAGAIN && errno != EINTR)
        conn_eof(l, c, errno);
}

void load_conn_ready(load_t *l, void *ptr, uint32_t epoll_events)
{
    conn_t *c = ptr;

    if (c->fd < 0)
        return;
    if (c->connecting)
        conn_connected(l, c);
    else if (epoll_events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        conn_read(l, c);
}
