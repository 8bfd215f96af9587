/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engine.c (libcurl's event loop), connection.c and transfer.c share.
 *
 * libcurl makes connections: names, addresses, TLS. What is said on them is ours. A plain connection leaves libcurl as soon as
 * it stands; one with TLS keeps its handle, and libcurl looks that connection up among all of its multi handle each time it
 * reads. Hence groups of a few handles each.
 */
#ifndef CS_UPSTREAM_ENGINE_H
#define CS_UPSTREAM_ENGINE_H

#include <curl/curl.h>

#include "chatstream/upstream.h"

#define CS_ENGINE_BUFFER 65536

typedef struct cs_pool_t cs_pool_t;

typedef struct cs_group_t {
    cs_engine_t *engine;
    CURLM *multi;
    cs_timer_t timer;
    unsigned handles;
    struct cs_group_t *next;
} cs_group_t;

struct cs_engine_t {
    cs_loop_t *loop;
    CURLSH *share; /* names and TLS sessions, for all groups */
    cs_group_t *groups;
    cs_pool_t **pools; /* by upstream index */
    unsigned pools_size;
    cs_transfer_t *running; /* list */
    cs_transfer_t *spare;   /* list: memory for the next ones */
    unsigned spare_count;
    char buffer[CS_ENGINE_BUFFER]; /* what was just read; nothing stays in it */
};

/* engine.c: a handle begins to connect; cs_connection_made follows, never from inside this. NULL: no memory. */
cs_group_t *cs_engine_add(cs_engine_t *engine, CURL *easy);
/* Closes what the handle is connected to. */
void cs_engine_remove(cs_group_t *group, CURL *easy);
curl_socket_t cs_engine_open_socket(void *baton, curlsocktype purpose, struct curl_sockaddr *address);

/* transfer.c */
void cs_transfer_drop_all(cs_engine_t *engine);

#endif
