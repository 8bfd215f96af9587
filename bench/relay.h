/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay.h: chatstream-relay, the floor of the benchmark: what passing an answer on costs when nothing else is done.
 * One process, one thread, one epoll, level-triggered. Serves GET only. No log, no limits, no time-outs: not for use
 * outside the benchmark.
 *
 *   relay.c       options, listening, the loop
 *   relay_peer.c  the two ends of an exchange
 */
#ifndef BENCH_RELAY_H
#define BENCH_RELAY_H

#include "wire.h"

#include <netinet/in.h>

typedef enum { PEER_LISTENER, PEER_CLIENT, PEER_UPSTREAM } peer_kind_t;

typedef struct peer peer_t;

struct peer {
    peer_kind_t kind;
    int fd;                 /* -1: closed, waits in relay_t.dead for the end of the epoll batch */
    peer_t *other;          /* the other end while an exchange is under way */
    peer_t *next;           /* in relay_t.idle or relay_t.dead */
    char *kept;             /* client: bytes not yet written; upstream: the request, until the answer starts */
    size_t kept_len;
    char *head;             /* client: request bytes read so far */
    size_t head_len;
    bool connecting;        /* upstream */
    bool reused;            /* upstream: served an exchange before */
    bool close_after;       /* client: when all is written */
    wire_t wire;            /* upstream */
};

typedef struct {
    int epoll;
    struct sockaddr_in upstream;
    peer_t *idle;           /* upstream connections at rest */
    peer_t *dead;
} relay_t;

void relay_accept(relay_t *r, int listener);
void relay_ready(relay_t *r, peer_t *p, unsigned epoll_events);
void relay_bury(relay_t *r);        /* after each epoll batch: frees what was closed in it */

#endif
