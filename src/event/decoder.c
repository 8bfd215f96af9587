/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "event/dialect.h"
#include "event/json_scan.h"

#define REASON_MAX   64
#define RAW_NAME_MAX 255

static int is_over(const cs_decoder_t *decoder)
{
    return decoder->outcome.done || decoder->outcome.failure != NULL;
}

static apr_status_t emit(cs_decoder_t *decoder, const cs_event_t *event)
{
    if (event->kind != CS_EVENT_METADATA) {
        if (event->len > decoder->limits.max_answer - decoder->answer) {
            decoder->status = APR_ENOSPC;
            return APR_ENOSPC;
        }
        decoder->answer += event->len;
    }
    decoder->status = decoder->events.event(decoder->baton, event);
    return decoder->status;
}

static apr_status_t emit_raw(cs_decoder_t *decoder, const cs_frame_t *frame)
{
    size_t name_len = frame->name_len;
    if (name_len > RAW_NAME_MAX) {
        name_len = cs_utf8_valid_prefix(frame->name, RAW_NAME_MAX);
    }
    cs_event_t event = {CS_EVENT_RAW, 0, frame->name, name_len, frame->data, frame->len};
    return emit(decoder, &event);
}

/* APR_EOF makes the framing stop where the answer is over; cs_decoder_feed turns it back into success. */
static apr_status_t on_frame(void *baton, const cs_frame_t *frame)
{
    cs_decoder_t *decoder = baton;
    apr_status_t rv;
    decoder->frames++;
    decoder->outcome.is_ping = 0;
    rv = decoder->dialect->frame(decoder, frame);
    if (rv == APR_SUCCESS && decoder->mode == CS_DECODE_RAW) {
        rv = emit_raw(decoder, frame);
    }
    return rv == APR_SUCCESS && is_over(decoder) ? APR_EOF : rv;
}

static void forget_outcome(cs_decoder_t *decoder)
{
    memset(&decoder->outcome, 0, sizeof(decoder->outcome));
    decoder->outcome.prompt_tokens = -1;
    decoder->outcome.completion_tokens = -1;
    decoder->status = APR_SUCCESS;
    decoder->answer = 0;
    decoder->frames = 0;
}

apr_status_t cs_decoder_create(cs_decoder_t **out, const cs_dialect_t *dialect, cs_decode_mode_e mode,
                               const cs_decoder_limits_t *limits, const cs_decoder_events_t *events, void *baton)
{
    cs_decoder_t *decoder = calloc(1, sizeof(*decoder));
    *out = NULL;
    if (decoder == NULL) {
        return APR_ENOMEM;
    }
    decoder->dialect = dialect;
    decoder->mode = mode;
    decoder->limits = *limits;
    decoder->events = *events;
    decoder->baton = baton;
    cs_buf_init(&decoder->scratch, limits->max_event);
    cs_buf_init(&decoder->reason, REASON_MAX + 1);
    forget_outcome(decoder);
    decoder->framing = malloc(dialect->framing->size);
    if (decoder->framing == NULL) {
        cs_decoder_destroy(decoder);
        return APR_ENOMEM;
    }
    dialect->framing->init(decoder->framing, limits->max_event, on_frame, decoder);
    *out = decoder;
    return APR_SUCCESS;
}

void cs_decoder_reset(cs_decoder_t *decoder, void *baton)
{
    decoder->baton = baton;
    decoder->dialect->framing->reset(decoder->framing);
    cs_buf_recycle(&decoder->scratch);
    forget_outcome(decoder);
}

void cs_decoder_destroy(cs_decoder_t *decoder)
{
    if (decoder == NULL) {
        return;
    }
    if (decoder->framing != NULL) {
        decoder->dialect->framing->release(decoder->framing);
        free(decoder->framing);
    }
    if (decoder->tokener != NULL) {
        json_tokener_free(decoder->tokener);
    }
    cs_buf_free(&decoder->scratch);
    cs_buf_free(&decoder->reason);
    free(decoder);
}

apr_status_t cs_decoder_feed(cs_decoder_t *decoder, const char *bytes, size_t len)
{
    if (decoder->status != APR_SUCCESS || is_over(decoder)) {
        return decoder->status;
    }
    apr_status_t rv = decoder->dialect->framing->feed(decoder->framing, bytes, len);
    if (decoder->status == APR_SUCCESS && !is_over(decoder)) {
        decoder->status = rv;
    }
    return decoder->status;
}

apr_status_t cs_decoder_finish(cs_decoder_t *decoder, const char **why)
{
    *why = NULL;
    if (decoder->status != APR_SUCCESS) {
        return decoder->status;
    }
    if (!is_over(decoder)) {
        apr_status_t rv = decoder->dialect->framing->finish(decoder->framing, why);
        if (decoder->status != APR_SUCCESS) {
            return decoder->status;
        }
        if (!is_over(decoder) && rv != APR_SUCCESS) {
            return rv;
        }
    }
    if (!decoder->outcome.done) {
        *why = decoder->outcome.failure ? decoder->outcome.failure : decoder->dialect->missing(decoder);
    }
    return *why ? APR_INCOMPLETE : APR_SUCCESS;
}

const cs_outcome_t *cs_decoder_outcome(const cs_decoder_t *decoder)
{
    return &decoder->outcome;
}

apr_status_t cs_decoder_token(cs_decoder_t *decoder, const char *text, size_t len)
{
    if (len == 0 || decoder->mode == CS_DECODE_RAW) {
        return APR_SUCCESS;
    }
    cs_event_t event = {CS_EVENT_TOKEN, 0, "", 0, text, len};
    return emit(decoder, &event);
}

apr_status_t cs_decoder_metadata(cs_decoder_t *decoder, json_object *object)
{
    apr_status_t rv = APR_SUCCESS;
    if (decoder->mode == CS_DECODE_EVENTS) {
        json_object *type;
        size_t len;
        if (json_object_object_get_ex(object, "type", &type)) {
            json_object_object_add(object, "upstream_type", json_object_get(type));
            json_object_object_del(object, "type");
        }
        const char *text =
            json_object_to_json_string_length(object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
        if (text == NULL) {
            rv = decoder->status = APR_ENOMEM;
        }
        else if (len > decoder->limits.max_event) {
            rv = decoder->status = APR_ENOSPC;
        }
        else {
            cs_event_t event = {CS_EVENT_METADATA, 0, "", 0, text, len};
            rv = emit(decoder, &event);
        }
    }
    json_object_put(object);
    return rv;
}

void cs_decoder_done(cs_decoder_t *decoder)
{
    decoder->outcome.done = 1;
}

void cs_decoder_fail(cs_decoder_t *decoder, const char *reason, int retryable)
{
    decoder->outcome.failure = reason;
    decoder->outcome.failure_retryable = retryable;
}

void cs_decoder_finish_reason(cs_decoder_t *decoder, const char *text, size_t len)
{
    if (len > REASON_MAX) {
        len = cs_utf8_valid_prefix(text, REASON_MAX);
    }
    /* It is handed on as a C string: one with a NUL in it is no finish reason. */
    if (len == 0 || memchr(text, '\0', len) != NULL) {
        return;
    }
    decoder->outcome.finish_reason = NULL;
    decoder->reason.len = 0;
    if (cs_buf_append(&decoder->reason, text, len) == APR_SUCCESS
        && cs_buf_append(&decoder->reason, "", 1) == APR_SUCCESS) {
        decoder->outcome.finish_reason = decoder->reason.data;
    }
}

void cs_decoder_usage(cs_decoder_t *decoder, int64_t prompt_tokens, int64_t completion_tokens)
{
    if (prompt_tokens >= 0) {
        decoder->outcome.prompt_tokens = prompt_tokens;
    }
    if (completion_tokens >= 0) {
        decoder->outcome.completion_tokens = completion_tokens;
    }
}

void cs_decoder_ping(cs_decoder_t *decoder)
{
    decoder->frames--;
    decoder->outcome.is_ping = 1;
}

json_object *cs_decoder_parse(cs_decoder_t *decoder, const char *text, size_t len)
{
    /* json-c takes an int; and it is not asked about what the stricter scanner refuses. */
    if (len > INT32_MAX || !cs_json_valid(text, len)) {
        return NULL;
    }
    if (decoder->tokener == NULL) {
        decoder->tokener = json_tokener_new_ex(CS_JSON_DEPTH_MAX + 4);
        if (decoder->tokener == NULL) {
            return NULL;
        }
        json_tokener_set_flags(decoder->tokener, JSON_TOKENER_STRICT);
    }
    json_tokener_reset(decoder->tokener);
    json_object *value = json_tokener_parse_ex(decoder->tokener, text, (int)len);
    if (json_tokener_get_error(decoder->tokener) == json_tokener_continue) {
        /* A bare number goes on until something else comes. */
        value = json_tokener_parse_ex(decoder->tokener, "", 1);
    }
    if (json_tokener_get_error(decoder->tokener) != json_tokener_success) {
        json_object_put(value);
        return NULL;
    }
    return value;
}
