/* SPDX-License-Identifier: Apache-2.0 */
#include "machine.h"

#include <stdlib.h>
#include <string.h>

#define BODY_MAX (32u * 1024 * 1024)

/* The request is gone long before a detached stream is: one block of memory holds all of the question. */
static int copy_question(cs_stream_t *stream, const cs_question_t *from, const char *traceparent)
{
    const char *const in[] = {from->message,   from->history,         from->user,  from->user_email,
                              from->user_role, from->conversation_id, from->model, traceparent};
    const char *out[sizeof(in) / sizeof(in[0])];
    size_t i, size = 0;
    char *at;

    for (i = 0; i < sizeof(in) / sizeof(in[0]); i++) {
        size += in[i] ? strlen(in[i]) + 1 : 0;
    }
    at = stream->strings = malloc(size + 1);
    if (!at) {
        return 0;
    }
    for (i = 0; i < sizeof(in) / sizeof(in[0]); i++) {
        out[i] = in[i] ? at : NULL;
        if (in[i]) {
            size_t len = strlen(in[i]) + 1;

            memcpy(at, in[i], len);
            at += len;
        }
    }
    stream->question = (cs_question_t){out[0], out[1], out[2], out[3], out[4], out[5], out[6]};
    stream->traceparent = (char *)out[7];
    return 1;
}

apr_status_t cs_stream_build_body(cs_stream_t *stream)
{
    const cs_upstream_t *upstream = &APR_ARRAY_IDX(stream->conf.upstreams, stream->attempt, cs_upstream_t);

    stream->body.len = 0;
    if (stream->conf.template) {
        return cs_template_render(stream->conf.template, &stream->question, &stream->body);
    }
    return cs_dialect_build_request(upstream->dialect, &stream->question, &stream->body);
}

void cs_stream_free(cs_stream_t *stream)
{
    cs_buf_free(&stream->body);
    cs_buf_free(&stream->answer);
    cs_decoder_destroy(stream->decoder);
    cs_decoder_destroy(stream->reader);
    free(stream->strings);
    free(stream);
}

static void forget_slot(uint32_t slot, void *ticket)
{
    cs_log_ending_t ending = {.state = CS_STATE_ERROR,
                              .http_status = 503,
                              .code = "unavailable",
                              .prompt_tokens = -1,
                              .completion_tokens = -1,
                              .first_token_ms = -1};
    const cs_closed_t closed = {&ending, NULL, NULL, 0};

    cs_log_end(cs_stream_log(), slot, &ending, CS_LOG_FORGET);
    cs_tell_closed(ticket, &closed);
}

cs_stream_t *cs_stream_req_create(uint32_t slot, const cs_dir_config_t *conf, server_rec *server,
                                  const cs_question_t *question, const char *traceparent, apr_time_t expires_at,
                                  void *ticket)
{
    cs_stream_t *stream = calloc(1, sizeof(*stream));
    cs_uuid_t id;
    uint32_t format;

    if (!stream) {
        forget_slot(slot, ticket);
        return NULL;
    }
    cs_buf_init(&stream->body, BODY_MAX);
    stream->slot = slot;
    stream->conf = *conf;
    stream->server = server;
    stream->created = cs_clock_mono();
    stream->expires_at = expires_at;
    stream->ticket = ticket;
    cs_buf_init(&stream->answer, (size_t)conf->max_answer + 1);
    cs_log_slot_info(cs_stream_log(), slot, &id, &stream->created_at, &format);
    cs_uuid_format(stream->id, &id);
    stream->conf.format =
        cs_format_by_index(format); /* chatstream-complete gathers tokens, whatever its location streams */
    if (!copy_question(stream, question, traceparent) || cs_stream_build_body(stream)) {
        forget_slot(slot, ticket);
        cs_stream_free(stream);
        return NULL;
    }
    return stream;
}

void cs_stream_req_start(cs_stream_t *stream)
{
    stream->start.run = cs_stream_loop_run;
    stream->start.baton = stream;
    cs_stream_count(1);
    cs_loop_post(cs_stream_loop(), &stream->start);
}

void cs_stream_req_discard(cs_stream_t *stream)
{
    forget_slot(stream->slot, stream->ticket);
    cs_stream_free(stream);
}
