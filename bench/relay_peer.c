/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exchange joins a client and an upstream connection. Bytes of the answer go from one recv to one send; only what
 * the client's socket does not take is kept, and then the upstream is not read until it is gone.
 */
#include "relay.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_MAX 16384

static char buffer[65536];

static void peer_watch(relay_t *r, peer_t *p, unsigned events, int op)
{
    struct epoll_event ev = {.events = events, .data.ptr = p};

    epoll_ctl(r->epoll, op, p->fd, &ev);
}

static peer_t *peer_new(relay_t *r, peer_kind_t kind, int fd, unsigned events)
{
    peer_t *p = calloc(1, sizeof(*p));
    int one = 1;

    if (!p) {
        close(fd);
        return NULL;
    }
    p->kind = kind;
    p->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    peer_watch(r, p, events, EPOLL_CTL_ADD);
    return p;
}

static void kept_drop(peer_t *p)
{
    free(p->kept);
    p->kept = NULL;
    p->kept_len = 0;
}

static bool kept_add(peer_t *p, const char *data, size_t n)
{
    char *grown = realloc(p->kept, p->kept_len + n);

    if (!grown)
        return false;
    memcpy(grown + p->kept_len, data, n);
    p->kept = grown;
    p->kept_len += n;
    return true;
}

static void peer_close(relay_t *r, peer_t *p)
{
    if (!p || p->fd < 0)
        return;
    close(p->fd);
    p->fd = -1;
    kept_drop(p);
    free(p->head);
    p->head = NULL;
    p->next = r->dead;
    r->dead = p;
}

static void exchange_abort(relay_t *r, peer_t *p)
{
    peer_close(r, p->other);
    peer_close(r, p);
}

void relay_bury(relay_t *r)
{
    while (r->dead) {
        peer_t *p = r->dead;

        r->dead = p->next;
        free(p);
    }
}

void relay_accept(relay_t *r, int listener)
{
    /* A few per turn, so that a crowd of newcomers does not delay the streams. */
    for (int i = 0; i < 16; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0)
            return;
        peer_new(r, PEER_CLIENT, fd, EPOLLIN);
    }
}

/* ---- towards the upstream ---- */

static void upstream_ask(relay_t *r, peer_t *up)
{
    ssize_t n = send(up->fd, up->kept, up->kept_len, MSG_NOSIGNAL);

    up->connecting = false;
    if (n != (ssize_t)up->kept_len)
        exchange_abort(r, up);
}

static peer_t *upstream_connect(relay_t *r)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    peer_t *up;

    if (fd < 0)
        return NULL;
    if (connect(fd, (struct sockaddr *)&r->upstream, sizeof(r->upstream)) < 0 && errno != EINPROGRESS) {
        close(fd);
        return NULL;
    }
    up = peer_new(r, PEER_UPSTREAM, fd, EPOLLIN | EPOLLOUT);
    if (up)
        up->connecting = true;
    return up;
}

static void exchange_start(relay_t *r, peer_t *client, char *request, size_t len)
{
    peer_t *up = r->idle;

    if (up)
        r->idle = up->next;
    else
        up = upstream_connect(r);
    if (!up) {
        free(request);
        peer_close(r, client);
        return;
    }
    up->next = NULL;
    up->other = client;
    client->other = up;
    up->kept = request;
    up->kept_len = len;
    wire_reset(&up->wire);
    if (!up->connecting)
        upstream_ask(r, up);
}

static void upstream_rest(relay_t *r, peer_t *up)
{
    peer_t *client = up->other;

    up->other = client->other = NULL;
    kept_drop(up);
    up->reused = true;
    if (up->wire.keep) {
        up->next = r->idle;
        r->idle = up;
    }
    else {
        client->close_after = true;
        peer_close(r, up);
    }
}

/* ---- towards the client ---- */

static void client_settle(relay_t *r, peer_t *client)
{
    if (client->fd >= 0 && client->close_after && client->kept_len == 0 && !client->other)
        peer_close(r, client);
}

static void client_send(relay_t *r, peer_t *client, const char *data, size_t n)
{
    ssize_t sent = send(client->fd, data, n, MSG_NOSIGNAL);

    if (sent < 0 && errno != EAGAIN) {
        exchange_abort(r, client);
        return;
    }
    sent = sent < 0 ? 0 : sent;
    if ((size_t)sent == n)
        return;
    if (!kept_add(client, data + sent, n - (size_t)sent)) {
        exchange_abort(r, client);
        return;
    }
    peer_watch(r, client, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    peer_watch(r, client->other, 0, EPOLL_CTL_MOD);
}

static void client_flush(relay_t *r, peer_t *client)
{
    ssize_t n = send(client->fd, client->kept, client->kept_len, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN) {
        exchange_abort(r, client);
        return;
    }
    if (n > 0) {
        memmove(client->kept, client->kept + n, client->kept_len - (size_t)n);
        client->kept_len -= (size_t)n;
    }
    if (client->kept_len > 0)
        return;
    kept_drop(client);
    peer_watch(r, client, EPOLLIN, EPOLL_CTL_MOD);
    if (client->other)
        peer_watch(r, client->other, EPOLLIN, EPOLL_CTL_MOD);
    client_settle(r, client);
}

/* "Connection: close" is between the client and us: the upstream connection is kept all the same. */
static size_t take_close(peer_t *client, char *head, size_t len)
{
    static const char field[] = "\r\nConnection: close";
    char *at = memmem(head, len, field, sizeof(field) - 1);

    if (!at)
        return len;
    client->close_after = true;
    len -= sizeof(field) - 1;
    memmove(at, at + sizeof(field) - 1, len - (size_t)(at - head));
    return len;
}

static void client_read(relay_t *r, peer_t *client)
{
    ssize_t n = recv(client->fd, buffer, sizeof(buffer), 0);
    char *grown;

    if (n < 0 && errno == EAGAIN)
        return;
    grown = n > 0 && client->head_len + (size_t)n <= HEAD_MAX ? realloc(client->head, client->head_len + (size_t)n)
                                                              : NULL;
    if (!grown) {
        exchange_abort(r, client);
        return;
    }
    memcpy(grown + client->head_len, buffer, (size_t)n);
    client->head = grown;
    client->head_len += (size_t)n;
    if (client->other || client->head_len < 4 || memcmp(grown + client->head_len - 4, "\r\n\r\n", 4) != 0)
        return;
    client->head = NULL;
    n = (ssize_t)client->head_len;
    client->head_len = 0;
    if (memcmp(grown, "GET ", 4) == 0)
        exchange_start(r, client, grown, take_close(client, grown, (size_t)n));
    else {
        free(grown);
        exchange_abort(r, client);
    }
}

/* ---- from the upstream ---- */

static void upstream_eof(relay_t *r, peer_t *up)
{
    peer_t *client = up->other;

    if (!client) {
        for (peer_t **p = &r->idle; *p; p = &(*p)->next) {
            if (*p == up) {
                *p = up->next;
                break;
            }
        }
        peer_close(r, up);
    }
    else if (up->reused && !up->wire.started) {
        char *request = up->kept;
        size_t len = up->kept_len;

        up->kept = NULL;
        up->other = client->other = NULL;
        peer_close(r, up);
        exchange_start(r, client, request, len);
    }
    else if (wire_eof(&up->wire)) {
        upstream_rest(r, up);
        client_settle(r, client);
    }
    else
        exchange_abort(r, up);
}

static void upstream_read(relay_t *r, peer_t *up)
{
    peer_t *client = up->other;
    ssize_t n = recv(up->fd, buffer, sizeof(buffer), 0);
    const char *p = buffer, *body;
    size_t body_len;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || !client) {
        upstream_eof(r, up);
        return;
    }
    kept_drop(up);
    for (size_t left = (size_t)n; left > 0 && up->wire.state < WIRE_DONE;) {
        size_t used = wire_next(&up->wire, p, left, &body, &body_len);

        p += used;
        left -= used;
    }
    client_send(r, client, buffer, (size_t)n);
    if (up->fd < 0)
        return;
    if (up->wire.state == WIRE_DONE) {
        upstream_rest(r, up);
        client_settle(r, client);
    }
    else if (up->wire.state == WIRE_BAD)
        exchange_abort(r, up);
}

static void upstream_connected(relay_t *r, peer_t *up)
{
    int err = 0;
    socklen_t len = sizeof(err);

    getsockopt(up->fd, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err) {
        exchange_abort(r, up);
        return;
    }
    peer_watch(r, up, EPOLLIN, EPOLL_CTL_MOD);
    upstream_ask(r, up);
}

void relay_ready(relay_t *r, peer_t *p, unsigned events)
{
    if (p->fd < 0)
        return;
    if (p->kind == PEER_UPSTREAM) {
        if (p->connecting)
            upstream_connected(r, p);
        else
            upstream_read(r, p);
        return;
    }
    if (events & EPOLLOUT && p->kept_len)
        client_flush(r, p);
    if (p->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        client_read(r, p);
}
