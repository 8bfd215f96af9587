/* SPDX-License-Identifier: Apache-2.0 */
#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG    8192
#define PER_TURN   256
#define PAUSE_FULL (20 * UP_MS) /* out of descriptors: try again then */

typedef struct listener_t {
    up_source_t source;
    up_timer_t pause;
    int fd;
    up_tls_context_t *context;
    const up_conn_handler_t *handler;
    char *path; /* of a Unix socket */
    struct listener_t *next;
} listener_t;

static listener_t *listeners;

static void accept_some(listener_t *l)
{
    int i;

    for (i = 0; i < PER_TURN; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            up_conn_accept(fd, l->context, l->handler);
        }
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            up_loop_remove(l->fd);
            up_loop_timer_set(&l->pause, up_loop_clock() + PAUSE_FULL);
            return;
        }
        else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

static void on_event(up_source_t *source, uint32_t events)
{
    (void)events;
    accept_some(UP_CONTAINER(source, listener_t, source));
}

static void on_pause_over(up_timer_t *timer)
{
    listener_t *l = UP_CONTAINER(timer, listener_t, pause);

    up_loop_add(l->fd, EPOLLIN, &l->source);
}

static bool add(int fd, up_tls_context_t *context, const up_conn_handler_t *handler, const char *path)
{
    listener_t *l = up_alloc(sizeof *l);

    l->fd = fd;
    l->context = context;
    l->handler = handler;
    l->source.on_event = on_event;
    l->pause.on_due = on_pause_over;
    l->path = path != NULL ? up_strndup(path, strlen(path)) : NULL;
    l->next = listeners;
    listeners = l;
    return listen(fd, BACKLOG) == 0 && up_loop_add(fd, EPOLLIN, &l->source);
}

static bool split_address(const char *address, char *host, size_t host_size, const char **port)
{
    const char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : 0;

    if (colon == NULL || len >= host_size) {
        return false;
    }
    if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
        address++;
        len -= 2;
    }
    memcpy(host, address, len);
    host[len] = '\0';
    *port = colon + 1;
    return **port != '\0';
}

static int bound_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t len = sizeof address;

    if (getsockname(fd, &address.any, &len) != 0) {
        return -1;
    }
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

int up_listen_tcp(const char *address, up_tls_context_t *context, const up_conn_handler_t *handler)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const char *port;
    char host[256];
    const char *reason = NULL;
    int fd = -1;
    int on = 1;

    if (!split_address(address, host, sizeof host, &port)) {
        fprintf(stderr, "chatstream-upstream: --listen takes HOST:PORT, not %s\n", address);
        return -1;
    }
    if (getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &found) != 0) {
        reason = "cannot resolve the address";
    }
    else {
        fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0
            || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || !add(fd, context, handler, NULL)) {
            reason = strerror(errno);
        }
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    if (reason != NULL) {
        fprintf(stderr, "chatstream-upstream: --listen %s: %s\n", address, reason);
        return -1;
    }
    return bound_port(fd);
}

bool up_listen_unix(const char *path, const up_conn_handler_t *handler)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat info;
    int fd;

    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "chatstream-upstream: --unix %s: the path is too long\n", path);
        return false;
    }
    strcpy(address.sun_path, path);
    if (lstat(path, &info) == 0 && S_ISSOCK(info.st_mode)) {
        unlink(path);
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || !add(fd, NULL, handler, path)) {
        fprintf(stderr, "chatstream-upstream: --unix %s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}

void up_listen_close_all(void)
{
    while (listeners != NULL) {
        listener_t *l = listeners;

        listeners = l->next;
        if (l->path != NULL) {
            unlink(l->path);
        }
        up_loop_timer_clear(&l->pause);
        close(l->fd);
        free(l->path);
        free(l);
    }
}
