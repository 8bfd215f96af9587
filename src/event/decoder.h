/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decoder: what dialects see of it. A dialect is given frames and says through the functions below what they meant; it
 * keeps no state of its own. Only tests and this room include this header.
 */
#ifndef CHATSTREAM_EVENT_DECODER_H
#define CHATSTREAM_EVENT_DECODER_H

#include <json-c/json.h>

#include "chatstream/event.h"
#include "event/framing.h"

struct cs_decoder_t {
    const cs_dialect_t *dialect;
    cs_decode_mode_e mode;
    cs_decoder_limits_t limits;
    cs_decoder_events_t events;
    void *baton;
    cs_outcome_t outcome;
    apr_status_t status;   /* the failure that ended decoding */
    size_t answer;         /* bytes, against limits.max_answer */
    uint64_t frames;       /* frames that were more than a sign of life */
    cs_buf_t scratch;      /* the dialect's, for one frame */
    cs_buf_t reason;       /* outcome.finish_reason, with its NUL */
    json_tokener *tokener; /* made when a frame first needs it */
    void *framing;
    int no_fast_path; /* for the differential test: let json-c read everything */
};

/* An empty token is no event. In mode RAW these two do nothing: the frame itself has been passed on already. */
apr_status_t cs_decoder_token(cs_decoder_t *decoder, const char *text, size_t len);
/* Serialises `object`; a member "type" of it is passed on as "upstream_type". Takes the reference. */
apr_status_t cs_decoder_metadata(cs_decoder_t *decoder, json_object *object);

/* The end marker. The rest of the bytes is ignored. */
void cs_decoder_done(cs_decoder_t *decoder);
/* `reason` is static, client-safe text. Ends decoding like cs_decoder_done. */
void cs_decoder_fail(cs_decoder_t *decoder, const char *reason, int retryable);
void cs_decoder_finish_reason(cs_decoder_t *decoder, const char *text, size_t len);
/* Negative: not said; what was said before stays. */
void cs_decoder_usage(cs_decoder_t *decoder, int64_t prompt_tokens, int64_t completion_tokens);
/* This frame was a ping: it does not count as part of an answer. */
void cs_decoder_ping(cs_decoder_t *decoder);

/* The value of a JSON text, or NULL when it is not JSON (json_scan.h says what is). The caller puts it. */
json_object *cs_decoder_parse(cs_decoder_t *decoder, const char *text, size_t len);

#endif
