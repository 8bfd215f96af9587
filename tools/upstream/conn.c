/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include "http.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCHED    (EPOLLIN | EPOLLRDHUP | EPOLLET)
#define IN_MAX     (UP_HTTP_MAX_HEAD + UP_HTTP_MAX_BODY)
#define KEEP_OUT   8192 /* a drained out buffer bigger than this is given back */
#define LINGER_FOR (2 * UP_S)

/* Every open connection, so that a clean exit can free them. */
typedef struct member_t {
    up_conn_t conn; /* first: what is freed is the member */
    struct member_t *next;
    struct member_t **link;
} member_t;

static member_t *members;
static unsigned members_count;

static char scratch[65536];

unsigned up_conn_open(void)
{
    return members_count;
}

void up_conn_drop(up_conn_t *c)
{
    member_t *member = UP_CONTAINER(c, member_t, conn);

    if (c->dead) {
        return;
    }
    c->dead = true;
    c->handler->gone(c);
    up_loop_timer_clear(&c->linger);
    up_loop_task_clear(&c->piece);
    up_tls_free(c->tls);
    close(c->fd);
    up_buf_free(&c->in);
    up_buf_free(&c->out);
    *member->link = member->next;
    if (member->next != NULL) {
        member->next->link = member->link;
    }
    members_count--;
    up_loop_free_later(member);
}

void up_conn_drop_all(void)
{
    while (members != NULL) {
        up_conn_drop(&members->conn);
    }
}

void up_conn_cut(up_conn_t *c)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};

    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    up_conn_drop(c);
}

static void linger_over(up_timer_t *timer)
{
    up_conn_drop(UP_CONTAINER(timer, up_conn_t, linger));
}

void up_conn_close(up_conn_t *c)
{
    if (c->dead || c->lingering) {
        return;
    }
    if (c->tls != NULL) {
        up_tls_goodbye(c->tls);
    }
    shutdown(c->fd, SHUT_WR);
    c->lingering = true;
    up_buf_free(&c->in);
    c->linger.on_due = linger_over;
    up_loop_timer_set(&c->linger, up_loop_clock() + LINGER_FOR);
}

static void watch_output(up_conn_t *c, bool wanted)
{
    if (c->blocked != wanted) {
        c->blocked = wanted;
        up_loop_change(c->fd, WATCHED | (wanted ? EPOLLOUT : 0), &c->source);
    }
}

static void sent_all(up_conn_t *c)
{
    watch_output(c, false);
    if (c->out.cap > KEEP_OUT) {
        up_buf_free(&c->out);
    }
}

bool up_conn_flush(up_conn_t *c)
{
    while (!c->dead && c->out.len > 0) {
        size_t piece = c->out.len;
        const char *data = c->out.data + c->out.off;
        ssize_t sent;

        if (c->piece.link != NULL) {
            return false; /* the next piece goes out in the next turn */
        }
        if (c->split > 0 && piece > c->split) {
            piece = c->split;
        }
        sent = c->tls ? up_tls_send(c->tls, data, piece) : send(c->fd, data, piece, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN) {
                watch_output(c, true);
            }
            else {
                up_conn_drop(c);
            }
            return false;
        }
        up_buf_consume(&c->out, (size_t)sent);
        if (c->split > 0) {
            up_loop_task_queue(&c->piece);
            return false;
        }
    }
    if (c->dead || c->piece.link != NULL) {
        return false;
    }
    if (c->blocked || c->out.cap > KEEP_OUT) {
        sent_all(c);
    }
    return true;
}

static void next_piece(up_task_t *task)
{
    up_conn_t *c = UP_CONTAINER(task, up_conn_t, piece);

    if (up_conn_flush(c)) {
        c->handler->drained(c);
    }
}

/* False when the connection has ended, one way or the other. */
static bool read_all(up_conn_t *c, bool expect_end)
{
    for (;;) {
        ssize_t got;

        if (c->in.len >= IN_MAX) {
            c->unread = true;
            return true;
        }
        got = c->tls ? up_tls_recv(c->tls, scratch, sizeof scratch) : recv(c->fd, scratch, sizeof scratch, 0);
        if (got > 0) {
            if (!c->lingering) {
                up_buf_add(&c->in, scratch, (size_t)got);
            }
            /* A short read from a socket has emptied it, and the next byte is a new edge. */
            if (c->tls == NULL && (size_t)got < sizeof scratch && !expect_end) {
                return true;
            }
        }
        else if (got == 0) {
            return false;
        }
        else if (errno == EAGAIN) {
            return true;
        }
        else if (errno != EINTR) {
            up_conn_drop(c);
            return false;
        }
    }
}

static void take_input(up_conn_t *c, bool expect_end)
{
    bool open = read_all(c, expect_end);

    if (!c->dead && c->in.len > 0) {
        c->handler->input(c);
    }
    /* The peer has no more to say: what is still on its way to it is not wanted any more. */
    if (!open || expect_end) {
        up_conn_drop(c);
    }
}

void up_conn_read_on(up_conn_t *c)
{
    if (c->unread && !c->dead) {
        c->unread = false;
        take_input(c, false);
    }
}

static void on_event(up_source_t *source, uint32_t events)
{
    up_conn_t *c = UP_CONTAINER(source, up_conn_t, source);

    if (c->dead) {
        return;
    }
    if (events & EPOLLERR) {
        up_conn_drop(c);
        return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) {
        take_input(c, (events & (EPOLLRDHUP | EPOLLHUP)) != 0);
    }
    if (!c->dead && c->out.len > 0 && up_conn_flush(c)) {
        c->handler->drained(c);
    }
}

void up_conn_accept(int fd, up_tls_context_t *context, const up_conn_handler_t *handler)
{
    member_t *member = up_alloc(sizeof *member);
    up_conn_t *c = &member->conn;
    int on = 1;

    c->fd = fd;
    c->handler = handler;
    c->source.on_event = on_event;
    c->piece.run = next_piece;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (context != NULL) {
        c->tls = up_tls_new(context, fd);
    }
    if ((context != NULL && c->tls == NULL) || !up_loop_add(fd, WATCHED, &c->source)) {
        up_tls_free(c->tls);
        close(fd);
        free(member);
        return;
    }
    member->next = members;
    member->link = &members;
    if (members != NULL) {
        members->link = &member->next;
    }
    members = member;
    members_count++;
    handler->opened(c);
}
