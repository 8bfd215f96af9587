/* SPDX-License-Identifier: Apache-2.0 */
/* What engine.c (the multi handle and its sockets) and transfer.c (one request) share. */
#ifndef CS_UPSTREAM_ENGINE_H
#define CS_UPSTREAM_ENGINE_H

#include <curl/curl.h>

#include "chatstream/upstream.h"

typedef struct {
    cs_fd_watch_t watch;
    cs_engine_t *engine;
    uint32_t registered; /* events epoll knows of; 0: none */
    int wanted;          /* CURL_POLL_* */
    int is_connection;   /* closes through close_socket(), so its registration may outlive a transfer */
} cs_socket_t;

struct cs_engine_t {
    cs_loop_t *loop;
    CURLM *multi;
    cs_timer_t timer;
    cs_socket_t **sockets; /* by fd */
    int sockets_size;
    cs_transfer_t *running; /* list */
    cs_transfer_t **ready;  /* by upstream index: handles with all lasting options set */
    unsigned ready_size;
};

/* engine.c */
curl_socket_t cs_engine_open_socket(void *baton, curlsocktype purpose, struct curl_sockaddr *address);
int cs_engine_close_socket(void *baton, curl_socket_t fd);
/* Ends the transfers libcurl says are done. Not from inside a callback of libcurl. */
void cs_engine_collect(cs_engine_t *engine);

/* transfer.c */
void cs_transfer_finished(CURL *easy, CURLcode code);
void cs_transfer_free(cs_transfer_t *transfer);
void cs_transfer_drop_all(cs_engine_t *engine);

#endif
