/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. */
#ifndef CS_SINK_SINK_H
#define CS_SINK_SINK_H

#include "delivery.h"

/* How the output filter makes events leave. */
typedef enum {
    CS_PUSH_FLUSH, /* a FLUSH bucket: blocks until the client has taken it; request threads only */
    CS_PUSH_MARK /* a metadata bucket of our own, which filters pass on at once; the loop then sends without blocking */
} cs_push_e;

/* filter.c */
void cs_filter_register(void);
/* `push` is looked at for each brigade; it must live as long as the request. */
void cs_filter_add(request_rec *r, const cs_push_e *push);
/* The filters of this request are known not to block or to hold data back. */
int cs_filter_chain_is_plain(const request_rec *r);
/* Passes `out` on and empties it. APR_ECONNABORTED and the like when the client is gone. */
apr_status_t cs_filter_send(request_rec *r, apr_bucket_brigade *bb, cs_buf_t *out);

/* direct.c: loop thread */
typedef struct {
    int fd;
    int on; /* headers are out, and nothing but httpd's own framing stands between an event and the socket */
    int chunked;
    apr_off_t body_bytes; /* sent and not yet told to httpd: its structs are not touched for each event */
    apr_off_t wire_bytes;
} cs_direct_t;

typedef enum { CS_DIRECT_ALL, CS_DIRECT_PART, CS_DIRECT_GONE } cs_direct_e;

void cs_direct_register(void); /* child_init or later: optional functions are known */
/* Asked after the first bytes went through the filters. */
void cs_direct_look(cs_direct_t *direct, const request_rec *r);
/* Sends `out` as one chunk and empties it, without blocking. PART: the rest is in the core filter now. */
cs_direct_e cs_direct_send(cs_direct_t *direct, request_rec *r, apr_bucket_brigade *bb, cs_buf_t *out);
/* Tells httpd what was sent: before the access log line, and before anything goes through the filters again. */
void cs_direct_settle(cs_direct_t *direct, request_rec *r);

/* suspended.c */
int cs_suspended_possible(const request_rec *r);
int cs_suspended_serve(request_rec *r, const cs_sink_spec_t *spec);
void cs_suspended_register(void);
void cs_suspended_close_all(void);

/* blocking.c */
int cs_blocking_serve(request_rec *r, const cs_sink_spec_t *spec);

/* serve.c */
cs_log_t *cs_sink_log(void);
cs_log_hub_t *cs_sink_hub(void);
cs_loop_t *cs_sink_loop(void);
void cs_sink_counted(int by);

#endif
