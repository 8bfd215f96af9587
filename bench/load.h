/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h: the parts of chatstream-load. One process, one thread, one epoll: it shares two cores with what it measures.
 *
 *   load.c        options, phases of a run, the loop
 *   load_conn.c   one connection: connect, ask, read, ask again
 *   load_sse.c    counts events in a body and finds the stamps
 *   load_hist.c   histogram of delays
 *   load_report.c CPU clocks and the JSON line
 *   wire.h        HTTP/1.1 framing
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "wire.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NS_PER_S 1000000000ULL

/* ---- histogram: log-linear, 1/128 of the value wide, nanoseconds up to 2^43 (two hours) ---- */

#define HIST_SUB_BITS 7
#define HIST_SLOTS ((43 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

typedef struct {
    uint64_t count;
    uint64_t sum;
    uint64_t max;
    uint32_t slot[HIST_SLOTS];
} hist_t;

void hist_add(hist_t *h, uint64_t ns);
uint64_t hist_quantile(const hist_t *h, double q);      /* upper edge of the slot, 0 when empty */

/* ---- events of one stream ---- */

typedef struct {
    char text[64];
    uint8_t len;
    uint8_t fail[64];       /* Knuth-Morris-Pratt: where to go on after a mismatch */
} marker_t;

typedef struct {
    uint32_t events;        /* events with data, as an EventSource would dispatch them */
    uint32_t tokens;        /* stamps seen: one per token */
    uint64_t stamp;
    uint8_t stamp_pos;      /* 0 outside, 1 after '@', 20 after all digits */
    uint8_t marker_pos;
    bool marker_seen;
    bool in_line;
    bool has_data;
} sse_t;

void marker_set(marker_t *m, const char *text);
/* hist may be NULL: count only. now is CLOCK_MONOTONIC at the read, in ns. */
void sse_feed(sse_t *s, const marker_t *m, const char *p, size_t n, uint64_t now, hist_t *hist);

/* ---- what a run is, and what came of it ---- */

typedef enum { MODE_STEADY, MODE_BURST, MODE_IDLE } load_mode_t;

typedef struct {
    load_mode_t mode;
    struct sockaddr_in to;
    const char *path;
    const char *header;     /* one more request header line or NULL */
    uint32_t conns;         /* streams at once, or clients */
    uint32_t each;          /* streams per connection slot, one after the other */
    uint32_t expect;        /* tokens per stream; 0: any number */
    marker_t marker;        /* must appear before the end; empty: not asked for */
    uint32_t sources;       /* 127.0.0.2 and up */
    bool fresh;             /* a connection of its own for every stream */
    double rate;            /* what the upstream was told, per stream; for the report only */
    double ramp, settle, seconds, timeout;
    pid_t server_pids[64];
    unsigned n_server_pids;
    pid_t upstream_pids[16];
    unsigned n_upstream_pids;
} load_opts_t;

typedef struct {
    uint64_t at;                /* CLOCK_MONOTONIC */
    uint64_t server, upstream, self, busy, steal;       /* CPU time so far, ns */
    uint64_t tokens, events, bytes;
} load_mark_t;

typedef struct conn conn_t;

typedef struct {
    load_opts_t opt;
    int epoll;
    char request[2048];
    size_t request_len;
    conn_t *conns;
    bool measuring;             /* delays go to the histogram */
    uint32_t launched;          /* slots started */
    uint32_t open_now;          /* streams with a 200 head, not ended */
    uint32_t slots_done;        /* slots that will not start another stream */
    uint64_t opened, completed, failed, retried, connects;
    uint64_t fail_connect, fail_status, fail_short, fail_cut, fail_marker;
    uint64_t tokens, events, bytes;
    uint64_t last_end;
    char first_failure[160];
    hist_t delay;
    hist_t whole;               /* request sent to end of body */
    load_mark_t from, to;       /* the measured window */
} load_t;

/* load_conn.c */
bool load_conns_init(load_t *l);
void load_conn_launch(load_t *l, uint32_t slot);
void load_conn_ready(load_t *l, void *ptr, uint32_t epoll_events);
uint32_t load_conns_unfinished(const load_t *l);

/* load_report.c */
uint64_t load_now(void);
void load_mark(load_t *l, load_mark_t *m);
void load_report(load_t *l, const char *state);

#endif
