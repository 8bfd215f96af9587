/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static cs_socket_t *socket_of(cs_engine_t *engine, int fd)
{
    if (fd < 0) {
        return NULL;
    }
    if (fd >= engine->sockets_size) {
        int size = fd + 64;
        cs_socket_t **sockets = realloc(engine->sockets, (size_t)size * sizeof(*sockets));

        if (!sockets) {
            return NULL;
        }
        memset(sockets + engine->sockets_size, 0, (size_t)(size - engine->sockets_size) * sizeof(*sockets));
        engine->sockets = sockets;
        engine->sockets_size = size;
    }
    if (!engine->sockets[fd]) {
        engine->sockets[fd] = calloc(1, sizeof(cs_socket_t));
        if (engine->sockets[fd]) {
            engine->sockets[fd]->engine = engine;
            engine->sockets[fd]->watch.fd = -1;
        }
    }
    return engine->sockets[fd];
}

static void unregister(cs_socket_t *sock)
{
    cs_loop_unwatch_fd(sock->engine->loop, &sock->watch);
    sock->registered = 0;
}

void cs_engine_collect(cs_engine_t *engine)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(engine->multi, &left)) != NULL) {
        if (message->msg == CURLMSG_DONE) {
            cs_transfer_finished(message->easy_handle, message->data.result);
        }
    }
}

static void socket_ready(void *baton, uint32_t events)
{
    cs_socket_t *sock = baton;
    cs_engine_t *engine = sock->engine;
    int action = 0, running;

    if (!sock->wanted) {
        unregister(sock); /* an idle connection: the server closed it; libcurl will find out when it wants it */
        return;
    }
    /* Telling libcurl what is ready saves it a poll() for each event. */
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
        action |= CURL_CSELECT_IN;
    }
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        action |= CURL_CSELECT_OUT;
    }
    curl_multi_socket_action(engine->multi, sock->watch.fd, action, &running);
    cs_engine_collect(engine);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *baton, void *socket_baton)
{
    cs_engine_t *engine = baton;
    cs_socket_t *sock = socket_of(engine, fd);
    uint32_t events = 0;

    (void)easy;
    (void)socket_baton;
    if (!sock) {
        return -1;
    }
    if (what == CURL_POLL_REMOVE) {
        /* The connection usually serves again at once: leave epoll alone until it speaks up or is closed. */
        sock->wanted = 0;
        if (!sock->is_connection) {
            unregister(sock);
        }
        return 0;
    }
    sock->wanted = what;
    events |= what & CURL_POLL_IN ? EPOLLIN : 0;
    events |= what & CURL_POLL_OUT ? EPOLLOUT : 0;
    if (sock->registered != events) {
        int known = sock->registered != 0;

        sock->watch.fd = fd;
        sock->watch.ready = socket_ready;
        sock->watch.baton = sock;
        if ((known ? cs_loop_rewatch_fd(engine->loop, &sock->watch, events)
                   : cs_loop_watch_fd(engine->loop, &sock->watch, events)) != APR_SUCCESS) {
            sock->watch.fd = -1;
            return -1;
        }
        sock->registered = events;
    }
    return 0;
}

curl_socket_t cs_engine_open_socket(void *baton, curlsocktype purpose, struct curl_sockaddr *address)
{
    cs_engine_t *engine = baton;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    cs_socket_t *sock = socket_of(engine, fd);

    (void)purpose;
    if (sock) {
        sock->is_connection = 1;
    }
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

int cs_engine_close_socket(void *baton, curl_socket_t fd)
{
    cs_engine_t *engine = baton;

    if (fd < engine->sockets_size && engine->sockets[fd]) {
        unregister(engine->sockets[fd]);
        engine->sockets[fd]->is_connection = 0;
        engine->sockets[fd]->wanted = 0;
    }
    return close(fd);
}

static void timed_out(void *baton)
{
    cs_engine_t *engine = baton;
    int running;

    curl_multi_socket_action(engine->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    cs_engine_collect(engine);
}

static int want_timer(CURLM *multi, long timeout_ms, void *baton)
{
    cs_engine_t *engine = baton;

    (void)multi;
    if (timeout_ms < 0) {
        cs_loop_timer_clear(engine->loop, &engine->timer);
    }
    else {
        cs_loop_timer_set(engine->loop, &engine->timer, cs_clock_mono() + timeout_ms * 1000);
    }
    return 0;
}

apr_status_t cs_engine_create(cs_engine_t **out, cs_loop_t *loop)
{
    cs_engine_t *engine = calloc(1, sizeof(*engine));

    *out = NULL;
    if (!engine || curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK) {
        free(engine);
        return APR_ENOMEM;
    }
    engine->loop = loop;
    engine->timer.fire = timed_out;
    engine->timer.baton = engine;
    engine->multi = curl_multi_init();
    if (!engine->multi) {
        free(engine);
        return APR_ENOMEM;
    }
    curl_multi_setopt(engine->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(engine->multi, CURLMOPT_SOCKETDATA, engine);
    curl_multi_setopt(engine->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(engine->multi, CURLMOPT_TIMERDATA, engine);
    *out = engine;
    return APR_SUCCESS;
}

void cs_engine_destroy(cs_engine_t *engine)
{
    int i;

    if (!engine) {
        return;
    }
    cs_transfer_drop_all(engine);
    curl_multi_cleanup(engine->multi);
    for (i = 0; i < engine->sockets_size; i++) {
        free(engine->sockets[i]);
    }
    free(engine->sockets);
    free(engine->ready);
    free(engine);
}
