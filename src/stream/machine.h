/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share: the stream itself. Fields say who writes them. */
#ifndef CS_STREAM_MACHINE_H
#define CS_STREAM_MACHINE_H

#include "chatstream/observe.h"
#include "chatstream/stream.h"

struct cs_stream_t {
    cs_task_t start;
    /* req: set before the hand-over, constant afterwards */
    uint32_t slot;
    cs_dir_config_t conf; /* a copy: what was merged for the request goes with the request */
    server_rec *server;
    cs_question_t question; /* its strings are in `strings` */
    char *strings;
    char *traceparent;
    char id[CS_UUID_LEN + 1];
    void *ticket; /* of those who want to know how it ends */
    apr_time_t created;    /* mono */
    apr_time_t created_at; /* wall */
    apr_time_t expires_at; /* mono; 0: never */
    /* loop: */
    cs_stream_t *next, **prev;
    cs_log_watch_t watch;
    cs_timer_t timer;
    unsigned attempt; /* index of the upstream */
    cs_buf_t body;
    cs_transfer_t *transfer;
    cs_decoder_t *decoder;
    cs_buf_t answer;      /* its text so far, when a transcript is kept */
    cs_decoder_t *reader; /* finds it, where the decoder passes the upstream's own events on */
    apr_time_t attempt_at, headers_at, first_at, last_at; /* mono; 0: not yet */
    apr_time_t left_at;                                   /* since when nobody reads; 0: somebody does */
    uint64_t tokens;
    int paused;
    int appended;        /* something new in this read */
    cs_result_t failure; /* why the transfer was stopped */
    int failure_retryable;
    int refused_with; /* a status that is not 2xx */
    char refusal[24]; /* and failure.log for it */
};

/* child.c */
cs_engine_t *cs_stream_engine(void);
void cs_stream_count(int by);

/* create.c */
apr_status_t cs_stream_build_body(cs_stream_t *stream);
void cs_stream_free(cs_stream_t *stream);

/* machine.c */
void cs_stream_loop_run(void *stream);
void cs_stream_loop_end_all(void);

#endif
