/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "connection.h"

#define GROUP_MAX 32 /* handles of a group */

/* A socket libcurl waits for: one that is connecting, or its resolver's. */
typedef struct {
    cs_fd_watch_t watch;
    cs_group_t *group;
} waiting_t;

/* ---- libcurl's sockets and timers in our loop -------------------------------------------------------------------- */

static void collect(cs_group_t *group)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(group->multi, &left)) != NULL) {
        if (message->msg == CURLMSG_DONE) {
            cs_connection_made(message->easy_handle, message->data.result);
        }
    }
}

static void socket_ready(void *baton, uint32_t events)
{
    waiting_t *waiting = baton;
    cs_group_t *group = waiting->group;
    int action = 0, running;

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        action |= CURL_CSELECT_IN;
    }
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        action |= CURL_CSELECT_OUT;
    }
    curl_multi_socket_action(group->multi, waiting->watch.fd, action, &running); /* may free `waiting` */
    collect(group);
}

static void stop_waiting(cs_group_t *group, waiting_t *waiting)
{
    if (waiting) {
        curl_multi_assign(group->multi, waiting->watch.fd, NULL);
        cs_loop_unwatch_fd(group->engine->loop, &waiting->watch);
        free(waiting);
    }
}

static int start_waiting(cs_group_t *group, curl_socket_t fd, uint32_t events)
{
    waiting_t *waiting = calloc(1, sizeof(*waiting));

    if (!waiting) {
        return -1;
    }
    waiting->group = group;
    waiting->watch.fd = fd;
    waiting->watch.ready = socket_ready;
    waiting->watch.baton = waiting;
    if (cs_loop_watch_fd(group->engine->loop, &waiting->watch, events) != APR_SUCCESS) {
        free(waiting);
        return -1;
    }
    curl_multi_assign(group->multi, fd, waiting);
    return 0;
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *baton, void *socket_baton)
{
    cs_group_t *group = baton;
    waiting_t *waiting = socket_baton;
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        stop_waiting(group, waiting);
        return 0;
    }
    if (waiting) {
        return cs_loop_rewatch_fd(group->engine->loop, &waiting->watch, events) == APR_SUCCESS ? 0 : -1;
    }
    return start_waiting(group, fd, events);
}

static void timed_out(void *baton)
{
    cs_group_t *group = baton;
    int running;

    curl_multi_socket_action(group->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(group);
}

static int want_timer(CURLM *multi, long timeout_ms, void *baton)
{
    cs_group_t *group = baton;

    (void)multi;
    if (timeout_ms < 0) {
        cs_loop_timer_clear(group->engine->loop, &group->timer);
    }
    else {
        cs_loop_timer_set(group->engine->loop, &group->timer, cs_clock_mono() + timeout_ms * 1000);
    }
    return 0;
}

curl_socket_t cs_engine_open_socket(void *baton, curlsocktype purpose, struct curl_sockaddr *address)
{
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);

    (void)baton;
    (void)purpose;
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static cs_group_t *make_group(cs_engine_t *engine)
{
    cs_group_t *group = calloc(1, sizeof(*group));

    if (!group) {
        return NULL;
    }
    group->multi = curl_multi_init();
    if (!group->multi) {
        free(group);
        return NULL;
    }
    group->engine = engine;
    group->timer.fire = timed_out;
    group->timer.baton = group;
    curl_multi_setopt(group->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(group->multi, CURLMOPT_SOCKETDATA, group);
    curl_multi_setopt(group->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(group->multi, CURLMOPT_TIMERDATA, group);
    group->next = engine->groups;
    engine->groups = group;
    return group;
}

static void destroy_group(cs_group_t *group)
{
    curl_multi_setopt(group->multi, CURLMOPT_SOCKETFUNCTION, NULL);
    curl_multi_setopt(group->multi, CURLMOPT_TIMERFUNCTION, NULL);
    cs_loop_timer_clear(group->engine->loop, &group->timer);
    curl_multi_cleanup(group->multi);
    free(group);
}

cs_group_t *cs_engine_add(cs_engine_t *engine, CURL *easy)
{
    cs_group_t *group = engine->groups;

    while (group && group->handles >= GROUP_MAX) {
        group = group->next;
    }
    if (!group) {
        group = make_group(engine);
    }
    if (!group || curl_multi_add_handle(group->multi, easy) != CURLM_OK) {
        return NULL;
    }
    group->handles++;
    return group;
}

void cs_engine_remove(cs_group_t *group, CURL *easy)
{
    curl_multi_remove_handle(group->multi, easy);
    group->handles--;
}

/* ---- engine ------------------------------------------------------------------------------------------------------ */

apr_status_t cs_engine_create(cs_engine_t **out, cs_loop_t *loop)
{
    cs_engine_t *engine = calloc(1, sizeof(*engine));

    *out = NULL;
    if (!engine || curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK) {
        free(engine);
        return APR_ENOMEM;
    }
    engine->loop = loop;
    engine->share = curl_share_init();
    if (!engine->share || !make_group(engine)) {
        cs_engine_destroy(engine);
        return APR_ENOMEM;
    }
    /* No locks: all of it belongs to the loop thread. */
    curl_share_setopt(engine->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
    curl_share_setopt(engine->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    *out = engine;
    return APR_SUCCESS;
}

void cs_engine_destroy(cs_engine_t *engine)
{
    if (!engine) {
        return;
    }
    cs_transfer_drop_all(engine);
    cs_connection_drop_all(engine);
    while (engine->groups) {
        cs_group_t *group = engine->groups;

        engine->groups = group->next;
        destroy_group(group);
    }
    curl_share_cleanup(engine->share);
    free(engine->pools);
    free(engine);
}
