/* SPDX-License-Identifier: Apache-2.0 */
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define IDLE_MAX    512 /* of an upstream */
#define IDLE_TIME   apr_time_from_sec(60)
#define HANDLES_MAX 32 /* of an upstream, that wait for the next connection */

#define IDLE_EVENTS (EPOLLIN | EPOLLRDHUP)

struct cs_connection_t {
    cs_pool_t *pool;
    CURL *easy;        /* while connecting, and with TLS */
    cs_group_t *group; /* of `easy`; NULL: it is on none */
    cs_fd_watch_t watch;
    uint32_t watched;
    const cs_connection_events_t *events;
    void *baton; /* NULL: idle */
    cs_timer_t again;
    apr_time_t idle_since;
    cs_connection_t *newer, *older; /* idle */
    int is_tls, is_reused;
};

/* What is kept for an upstream. */
struct cs_pool_t {
    cs_engine_t *engine;
    const cs_upstream_t *upstream;
    cs_connection_t *newest, *oldest; /* idle; the newest is taken first, so those too many grow old */
    unsigned idle;
    cs_timer_t timer; /* for the oldest */
    CURL *handles[HANDLES_MAX];
    unsigned handle_count;
};

/* ---- handles ----------------------------------------------------------------------------------------------------- */

static CURL *make_handle(const cs_pool_t *pool)
{
    const cs_upstream_t *upstream = pool->upstream;
    CURL *easy = curl_easy_init();

    if (!easy) {
        return NULL;
    }
    curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(easy, CURLOPT_SHARE, pool->engine->share);
    curl_easy_setopt(easy, CURLOPT_URL, upstream->url);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, cs_engine_open_socket);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* an abort never waits for a name server */
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)apr_time_as_msec(upstream->connect_timeout));
    curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, 60L);
    if (upstream->unix_socket) {
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, upstream->unix_socket);
    }
    if (upstream->ca_file) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, upstream->ca_file);
    }
    return easy;
}

/* Closes what the handle was connected to. */
static void put_handle(cs_connection_t *conn)
{
    cs_pool_t *pool = conn->pool;

    if (!conn->easy) {
        return;
    }
    if (conn->group) {
        cs_engine_remove(conn->group, conn->easy);
    }
    if (pool->handle_count < HANDLES_MAX) {
        pool->handles[pool->handle_count++] = conn->easy;
    }
    else {
        curl_easy_cleanup(conn->easy);
    }
    conn->easy = NULL;
    conn->group = NULL;
}

/* ---- pools ------------------------------------------------------------------------------------------------------- */

static void unlink_idle(cs_connection_t *conn)
{
    cs_pool_t *pool = conn->pool;

    *(conn->newer ? &conn->newer->older : &pool->newest) = conn->older;
    *(conn->older ? &conn->older->newer : &pool->oldest) = conn->newer;
    conn->newer = conn->older = NULL;
    pool->idle--;
}

static void drop_old(void *baton)
{
    cs_pool_t *pool = baton;
    cs_loop_t *loop = pool->engine->loop;

    while (pool->oldest && pool->oldest->idle_since + IDLE_TIME <= cs_loop_now(loop)) {
        cs_connection_close(pool->oldest);
    }
    if (pool->oldest) {
        cs_loop_timer_set(loop, &pool->timer, pool->oldest->idle_since + IDLE_TIME);
    }
}

static cs_pool_t *pool_of(cs_engine_t *engine, const cs_upstream_t *upstream)
{
    unsigned index = upstream->index;
    cs_pool_t *pool;

    if (index >= engine->pools_size) {
        cs_pool_t **pools = realloc(engine->pools, (index + 1) * sizeof(*pools));

        if (!pools) {
            return NULL;
        }
        memset(pools + engine->pools_size, 0, (index + 1 - engine->pools_size) * sizeof(*pools));
        engine->pools = pools;
        engine->pools_size = index + 1;
    }
    if (!engine->pools[index] && (pool = calloc(1, sizeof(*pool))) != NULL) {
        pool->engine = engine;
        pool->upstream = upstream;
        pool->timer.fire = drop_old;
        pool->timer.baton = pool;
        engine->pools[index] = pool;
    }
    return engine->pools[index];
}

void cs_connection_drop_all(cs_engine_t *engine)
{
    unsigned i;

    for (i = 0; i < engine->pools_size; i++) {
        cs_pool_t *pool = engine->pools[i];

        if (!pool) {
            continue;
        }
        while (pool->newest) {
            cs_connection_close(pool->newest);
        }
        while (pool->handle_count) {
            curl_easy_cleanup(pool->handles[--pool->handle_count]);
        }
        cs_loop_timer_clear(engine->loop, &pool->timer);
        free(pool);
    }
    engine->pools_size = 0;
}

/* ---- what epoll says --------------------------------------------------------------------------------------------- */

/* An idle connection has nothing to say, but TLS may still have something to say to itself, a session ticket for one. */
static int says_something(cs_connection_t *conn)
{
    size_t len;
    char byte;

    return cs_connection_recv(conn, &byte, 1, &len) != CS_IO_AGAIN;
}

static void hear_idle(cs_connection_t *conn)
{
    if (!conn->is_tls || says_something(conn)) {
        cs_connection_close(conn);
    }
}

static void ready(void *baton, uint32_t events)
{
    cs_connection_t *conn = baton;

    if (!conn->baton) {
        hear_idle(conn);
        return;
    }
    if (events & EPOLLOUT) {
        conn->events->writable(conn->baton);
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        conn->events->readable(conn->baton);
    }
}

static void again(void *baton)
{
    cs_connection_t *conn = baton;

    conn->events->readable(conn->baton);
}

void cs_connection_again(cs_connection_t *conn)
{
    cs_loop_t *loop = conn->pool->engine->loop;

    /* A moment later than now: timers that are due now still run in this round. */
    cs_loop_timer_set(loop, &conn->again, cs_loop_now(loop) + 1);
}

void cs_connection_watch(cs_connection_t *conn, uint32_t events)
{
    cs_loop_t *loop = conn->pool->engine->loop;

    if (events == conn->watched) {
        return;
    }
    if (!events) {
        int fd = conn->watch.fd;

        /* epoll reports a hang-up to whoever is registered, so being registered for nothing would spin. */
        cs_loop_unwatch_fd(loop, &conn->watch);
        conn->watch.fd = fd;
    }
    else if (conn->watched ? cs_loop_rewatch_fd(loop, &conn->watch, events)
                           : cs_loop_watch_fd(loop, &conn->watch, events)) {
        shutdown(conn->watch.fd,
                 SHUT_RDWR); /* the kernel is out of memory: the transfer is told rather than left hanging */
        cs_connection_again(conn);
        return;
    }
    conn->watched = events;
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

static cs_connection_t *connect_new(cs_pool_t *pool)
{
    cs_connection_t *conn = calloc(1, sizeof(*conn));

    if (!conn) {
        return NULL;
    }
    conn->pool = pool;
    conn->is_tls = pool->upstream->is_tls;
    conn->watch.fd = -1;
    conn->watch.ready = ready;
    conn->watch.baton = conn;
    conn->again.fire = again;
    conn->again.baton = conn;
    conn->easy = pool->handle_count ? pool->handles[--pool->handle_count] : make_handle(pool);
    if (conn->easy) {
        curl_easy_setopt(conn->easy, CURLOPT_PRIVATE, conn);
        conn->group = cs_engine_add(pool->engine, conn->easy);
    }
    if (!conn->group) {
        cs_connection_close(conn);
        return NULL;
    }
    return conn;
}

cs_connection_t *cs_connection_take(cs_engine_t *engine, const cs_upstream_t *upstream, cs_connection_which_e which,
                                    const cs_connection_events_t *events, void *baton)
{
    cs_pool_t *pool = pool_of(engine, upstream);
    cs_connection_t *conn;

    if (!pool) {
        return NULL;
    }
    conn = which == CS_CONNECTION_ANY ? pool->newest : NULL;
    if (conn) {
        unlink_idle(conn);
        conn->is_reused = 1;
    }
    else {
        conn = connect_new(pool);
        if (!conn) {
            return NULL;
        }
    }
    conn->events = events;
    conn->baton = baton;
    return conn;
}

int cs_connection_is_open(const cs_connection_t *conn)
{
    return conn->watch.fd >= 0;
}

int cs_connection_is_reused(const cs_connection_t *conn)
{
    return conn->is_reused;
}

int cs_connection_hides_bytes(const cs_connection_t *conn)
{
    return conn->is_tls;
}

void cs_connection_close(cs_connection_t *conn)
{
    cs_loop_t *loop = conn->pool->engine->loop;
    int fd = conn->watch.fd;

    cs_loop_timer_clear(loop, &conn->again);
    if (!conn->baton && (conn->newer || conn->older || conn->pool->newest == conn)) {
        unlink_idle(conn);
    }
    if (conn->easy) { /* libcurl's socket: it lives a little longer than its registration */
        cs_connection_watch(conn, 0);
        put_handle(conn);
    }
    else if (fd >= 0) {
        cs_loop_forget_fd(loop, &conn->watch);
        close(fd);
    }
    free(conn);
}

void cs_connection_keep(cs_connection_t *conn)
{
    cs_pool_t *pool = conn->pool;
    cs_loop_t *loop = pool->engine->loop;

    cs_loop_timer_clear(loop, &conn->again);
    if (conn->is_tls && says_something(conn)) { /* epoll would not show what lies inside TLS already */
        cs_connection_close(conn);
        return;
    }
    conn->baton = NULL;
    cs_connection_watch(conn, IDLE_EVENTS);
    if (conn->watched != IDLE_EVENTS) {
        cs_connection_close(conn);
        return;
    }
    if (pool->idle >= IDLE_MAX) {
        cs_connection_close(pool->oldest);
    }
    conn->idle_since = cs_loop_now(loop);
    conn->older = pool->newest;
    *(pool->newest ? &pool->newest->newer : &pool->oldest) = conn;
    pool->newest = conn;
    pool->idle++;
    if (!pool->timer.index) {
        cs_loop_timer_set(loop, &pool->timer, pool->oldest->idle_since + IDLE_TIME);
    }
}

void cs_connection_made(CURL *easy, CURLcode code)
{
    cs_connection_t *conn = NULL;
    const cs_connection_events_t *events;
    curl_socket_t fd = CURL_SOCKET_BAD;
    void *baton;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &conn);
    events = conn->events;
    baton = conn->baton;
    if (code == CURLE_OK) {
        curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd);
        if (fd != CURL_SOCKET_BAD && !conn->is_tls) {
            /* libcurl closes its own socket with the handle; the connection goes on in ours. */
            fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
            put_handle(conn);
        }
        code = fd == CURL_SOCKET_BAD ? CURLE_COULDNT_CONNECT : CURLE_OK;
    }
    if (code != CURLE_OK) {
        cs_connection_close(conn);
        events->failed(baton, code);
        return;
    }
    conn->watch.fd = fd;
    cs_connection_watch(conn, IDLE_EVENTS);
    events->opened(baton);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static cs_io_e send_tls(cs_connection_t *conn, const struct iovec *bytes, int count, size_t *len)
{
    cs_io_e result = CS_IO_OK;
    int i;

    for (i = 0; i < count && result == CS_IO_OK; i++) {
        size_t sent = 0;
        CURLcode code = curl_easy_send(conn->easy, bytes[i].iov_base, bytes[i].iov_len, &sent);

        *len += sent;
        if (code != CURLE_OK && code != CURLE_AGAIN) {
            return CS_IO_FAILED;
        }
        if (sent < bytes[i].iov_len) {
            result = CS_IO_AGAIN;
        }
    }
    return *len ? CS_IO_OK : result;
}

cs_io_e cs_connection_send(cs_connection_t *conn, const struct iovec *bytes, int count, size_t *len)
{
    struct msghdr message = {.msg_iov = (struct iovec *)bytes, .msg_iovlen = (size_t)count};
    ssize_t sent;

    *len = 0;
    if (conn->is_tls) {
        return send_tls(conn, bytes, count, len);
    }
    do {
        sent = sendmsg(conn->watch.fd, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? CS_IO_AGAIN : CS_IO_FAILED;
    }
    *len = (size_t)sent;
    return CS_IO_OK;
}

cs_io_e cs_connection_recv(cs_connection_t *conn, char *buffer, size_t size, size_t *len)
{
    ssize_t got;

    *len = 0;
    if (conn->is_tls) {
        CURLcode code = curl_easy_recv(conn->easy, buffer, size, len);

        if (code != CURLE_OK) {
            return code == CURLE_AGAIN ? CS_IO_AGAIN : CS_IO_FAILED;
        }
        return *len ? CS_IO_OK : CS_IO_END;
    }
    do {
        got = recv(conn->watch.fd, buffer, size, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno == EAGAIN || errno == EWOULDBLOCK ? CS_IO_AGAIN : CS_IO_FAILED;
    }
    *len = (size_t)got;
    return got ? CS_IO_OK : CS_IO_END;
}
