/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream: one generation, from the claimed slot to its one end, whoever reads it or nobody. Made by a request thread, then
 * owned by the loop thread, which frees it at its end; what outlives it is in the log.
 *
 *     request thread: cs_log_claim, cs_stream_req_create, cs_stream_req_start (once the reader stands ready)
 *     loop thread:    admitted -> connecting -> active -> completed | error | timeout | cancelled | disconnected
 */
#ifndef CHATSTREAM_STREAM_H
#define CHATSTREAM_STREAM_H

#include <httpd.h>

#include "chatstream/config.h"
#include "chatstream/log.h"
#include "chatstream/upstream.h"

/* ---- the machinery of a child ------------------------------------------------------------------------------------ */

/* Attaches to the log and starts the loop thread. Once per child; the parts below exist from then on. */
apr_status_t cs_stream_child_start(apr_pool_t *pchild, server_rec *server, cs_log_t *log);
/*
 * Ends every stream with `shutting_down`, lets the readers have what there is (`readers_left` tells how many are still at it; 2 s at
 * most), stops the loop thread. Any thread but the loop's; later calls do nothing.
 */
void cs_stream_child_stop(unsigned (*readers_left)(void));
/* Graceful end: waits until the streams this child owns have ended by themselves, or `give_up` says to stop now. */
void cs_stream_child_drain(int (*give_up)(void));

/* The loop thread runs and has not been told to stop: new streams are welcome. */
int cs_stream_is_running(void);
cs_log_t *cs_stream_log(void);
uint32_t cs_stream_child(void);
cs_loop_t *cs_stream_loop(void);
cs_log_hub_t *cs_stream_hub(void);

/* ---- one stream -------------------------------------------------------------------------------------------------- */

typedef struct cs_stream_t cs_stream_t;

/*
 * Takes over the slot: from now on the stream ends it. Copies the question and builds the first upstream's request.
 * `expires_at`: mono, when the permission to read ends (0: never). `ticket`: of cs_tell_opened; its end is told by whatever ends the stream. NULL: out of memory, or the request could not be built; the slot has
 * been ended then.
 */
cs_stream_t *cs_stream_req_create(uint32_t slot, const cs_dir_config_t *conf, server_rec *server,
                                  const cs_question_t *question, const char *traceparent, apr_time_t expires_at,
                                  void *ticket);
/* Hands it to the loop thread. Do not touch it afterwards. */
void cs_stream_req_start(cs_stream_t *stream);
/* Instead of start: nothing was sent, the slot is free again. */
void cs_stream_req_discard(cs_stream_t *stream);

#endif
