/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handlers chatstream and chatstream-complete, top to bottom: parameters, resume or new, admission, the stream, the reader.
 */
#include "chat.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>

#include "chatstream/sink.h"
#include "chatstream/stream.h"
#include "redact.h"

APLOG_USE_MODULE(chatstream);

#define FULL_RETRY_AFTER 2 /* seconds; streams end all the time */

typedef struct {
    request_rec *r;
    const cs_dir_config_t *conf;
    cs_kind_e kind;
    cs_params_t params;
    const char *user;
    cs_stream_t *stream; /* one of our own; NULL: reads another's */
    cs_cursor_t cursor;
    uint64_t after_seq;
    uint64_t gap_to;
} chat_t;

static int refuse(request_rec *r, int status, const char *code, const char *message, int retry_after)
{
    const cs_result_t problem = {status, code, message, retry_after, NULL};

    return cs_response_problem(r, &problem);
}

const char *cs_request_user(const request_rec *r)
{
    return r->user ? r->user : r->useragent_ip;
}

/* ---- the answer's headers ---------------------------------------------------------------------------------------- */

static int is_plain_token(const char *text, size_t max)
{
    size_t len = 0;

    while (text[len] > 32 && text[len] < 127 && len <= max) {
        len++;
    }
    return len && len <= max && !text[len];
}

static void name_stream(chat_t *chat)
{
    const char *connection_id = apr_table_get(chat->r->headers_in, "X-Connection-Id");
    char id[CS_UUID_LEN + 1];
    apr_time_t created_at;
    cs_uuid_t uuid;
    uint32_t format;

    cs_log_slot_info(cs_stream_log(), chat->cursor.slot, &uuid, &created_at, &format);
    cs_uuid_format(id, &uuid);
    apr_table_set(chat->r->headers_out, "X-Stream-Id", id);
    apr_table_set(chat->r->headers_out, "X-Connection-Id",
                  connection_id && is_plain_token(connection_id, 128) ? connection_id : id);
}

static const cs_format_t *format_of(const chat_t *chat)
{
    cs_uuid_t id;
    apr_time_t created_at;
    uint32_t format;

    if (chat->kind == CS_KIND_DOCUMENT) {
        return NULL;
    }
    cs_log_slot_info(cs_stream_log(), chat->cursor.slot, &id, &created_at, &format);
    return cs_format_by_index(format);
}

/* HEAD asks what GET would say, and must cost neither a generation nor a reader. */
static int answer_head(chat_t *chat)
{
    const cs_format_t *format = chat->conf->format;

    if (chat->cursor.slot != CS_LOG_NONE) {
        name_stream(chat);
        format = format_of(chat);
        cs_log_cursor_close(&chat->cursor);
    }
    if (chat->kind == CS_KIND_DOCUMENT) {
        ap_set_content_type(chat->r, "application/json");
    }
    else {
        cs_response_event_stream(chat->r, format->content_type);
    }
    return OK;
}

/* ---- serving ----------------------------------------------------------------------------------------------------- */

static void start_stream(void *baton)
{
    cs_stream_req_start(baton);
}

static int serve(chat_t *chat)
{
    cs_sink_spec_t spec = {
        .cursor = &chat->cursor,
        .format = format_of(chat),
        .max_answer = (size_t)chat->conf->max_answer,
        .heartbeat = chat->conf->heartbeat,
        .commit_after = chat->conf->commit_after,
        .after_seq = chat->after_seq,
        .gap_to = chat->gap_to,
        .ready = chat->stream ? start_stream : NULL,
        .baton = chat->stream,
    };
    int status;

    name_stream(chat);
    status = cs_sink_serve(chat->r, &spec);
    if (status == HTTP_INTERNAL_SERVER_ERROR) {
        cs_log_cursor_close(&chat->cursor);
        if (chat->stream) {
            cs_stream_req_discard(chat->stream);
        }
    }
    return status;
}

/* ---- resume ------------------------------------------------------------------------------------------------------ */

/* A reconnect never starts a second generation: whatever the id names, nothing below this asks an upstream. */
static int resume(chat_t *chat, const char *event_id)
{
    cs_uuid_t id;
    cs_open_e opened = CS_OPEN_UNKNOWN;

    if (cs_event_id_parse(event_id, strlen(event_id), &id, &chat->after_seq) == APR_SUCCESS) {
        opened = cs_log_open(cs_stream_log(), cs_stream_child(), &id, chat->user, chat->after_seq, &chat->cursor,
                             &chat->gap_to);
    }
    switch (opened) {
    case CS_OPEN_OK:
        return chat->r->header_only ? answer_head(chat) : serve(chat);
    case CS_OPEN_SEEN:
        return HTTP_NO_CONTENT;
    case CS_OPEN_READERS:
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "The stream has too many readers.",
                      FULL_RETRY_AFTER);
    default:
        return refuse(chat->r, HTTP_GONE, "gone", "The stream is not kept any more.", 0);
    }
}

/* ---- a new stream ------------------------------------------------------------------------------------------------ */

static void question_of(const chat_t *chat, cs_question_t *question)
{
    question->message = chat->params.message;
    question->history = chat->params.history;
    question->user = chat->user;
    question->user_email = chat->params.user_email;
    question->user_role = chat->params.user_role;
    question->conversation_id = chat->params.conversation_id;
    question->model = chat->conf->model;
}

/* Where an Idempotency-Key counts: profiles may be shared by locations that ask different upstreams. */
static uint32_t scope_of(const chat_t *chat)
{
    const char *scope =
        apr_psprintf(chat->r->pool, "%s %d %d %s", chat->r->server->server_hostname, chat->r->server->port,
                     (int)chat->kind, chat->conf->location ? chat->conf->location : "/");

    return (uint32_t)cs_hash64(scope, strlen(scope));
}

static int begin_stream(chat_t *chat)
{
    cs_question_t question;

    question_of(chat, &question);
    chat->stream = cs_stream_req_create(chat->cursor.slot, chat->conf, chat->r->server, &question,
                                        apr_table_get(chat->r->headers_in, "traceparent"));
    if (!chat->stream) {
        cs_log_cursor_close(&chat->cursor);
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "The server is out of memory.",
                      FULL_RETRY_AFTER);
    }
    return serve(chat);
}

/* The cursor stands before the first event that is still kept; a stream says what is missing, a document cannot. */
static int join_stream(chat_t *chat)
{
    chat->gap_to = chat->cursor.seq;
    if (chat->kind == CS_KIND_DOCUMENT && chat->gap_to > 1) {
        cs_log_cursor_close(&chat->cursor);
        return refuse(chat->r, HTTP_GONE, "gone", "The beginning of the answer is not kept any more.", 0);
    }
    return serve(chat);
}

static int admit(chat_t *chat)
{
    cs_log_spec_t spec = {
        .user = chat->user,
        .idem_key = apr_table_get(chat->r->headers_in, "Idempotency-Key"),
        .scope = scope_of(chat),
        .format = cs_format_index(chat->kind == CS_KIND_DOCUMENT ? cs_format_find("native") : chat->conf->format),
        .max_per_user = (uint32_t)chat->conf->max_per_user,
        .replay_bytes = (uint32_t)chat->conf->replay_bytes,
        .replay_keep = chat->conf->replay_keep,
        .created_at = apr_time_now()};

    if (spec.idem_key && !is_plain_token(spec.idem_key, CS_LOG_KEY_MAX)) {
        return refuse(chat->r, HTTP_BAD_REQUEST, "bad_request", "Idempotency-Key is not 1 to 127 visible characters.",
                      0);
    }
    if (cs_uuid7_make(&spec.id, spec.created_at)) {
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "No stream id could be made.", 0);
    }
    switch (cs_log_claim(cs_stream_log(), cs_stream_child(), &spec, &chat->cursor)) {
    case CS_CLAIM_NEW:
        return begin_stream(chat);
    case CS_CLAIM_USER:
        return refuse(chat->r, HTTP_TOO_MANY_REQUESTS, "too_many_streams", "You have as many streams as you may have.",
                      FULL_RETRY_AFTER);
    case CS_CLAIM_JOINED:
        return join_stream(chat);
    case CS_CLAIM_READERS:
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "The stream has too many readers.",
                      FULL_RETRY_AFTER);
    default:
        ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, chat->r, "chatstream: refused, all ChatStreamMaxStreams are in use");
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "All streams are in use.", FULL_RETRY_AFTER);
    }
}

/* ---- the handler ------------------------------------------------------------------------------------------------- */

int cs_request_chat(request_rec *r, const cs_dir_config_t *conf, cs_kind_e kind)
{
    chat_t chat = {.r = r, .conf = conf, .kind = kind, .user = cs_request_user(r), .cursor = {.slot = CS_LOG_NONE}};
    const char *event_id = apr_table_get(r->headers_in, "Last-Event-ID");
    cs_result_t result;

    cs_params_read(r, conf->max_message, &chat.params, &result);
    cs_redact_request(r);
    if (!conf->upstreams) {
        /* A handler set where the start-up check does not see it: <If>, .htaccess, another module. */
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "chatstream: there is no ChatStreamUpstream here");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (result.status) {
        return cs_response_problem(r, &result);
    }
    if (!event_id || !*event_id) {
        event_id = chat.params.last_event_id;
    }
    if (event_id && *event_id && kind == CS_KIND_STREAM) {
        return resume(&chat, event_id);
    }
    if (!conf->enabled && kind == CS_KIND_STREAM) {
        return refuse(r, HTTP_NOT_FOUND, "streaming_disabled", "Streaming is not offered here.", 0);
    }
    cs_params_check_message(&chat.params, conf->max_message, &result);
    if (result.status) {
        return cs_response_problem(r, &result);
    }
    return r->header_only ? answer_head(&chat) : admit(&chat);
}

/* Leaving is not cancelling; this is. Asking twice is asking once. */
int cs_request_cancel(request_rec *r, const cs_dir_config_t *conf)
{
    const char *stream_id, *json;
    cs_params_t params;
    cs_result_t result;
    cs_state_e state;
    cs_uuid_t id;

    cs_params_read(r, conf->max_message, &params, &result);
    cs_redact_request(r);
    if (result.status) {
        return cs_response_problem(r, &result);
    }
    stream_id = params.stream_id ? params.stream_id : apr_table_get(r->headers_in, "X-Stream-Id");
    if (!stream_id || cs_uuid_parse(&id, stream_id, strlen(stream_id))) {
        return refuse(r, HTTP_BAD_REQUEST, "bad_request", "stream_id is missing or is not an id.", 0);
    }
    if (cs_log_cancel(cs_stream_log(), &id, cs_request_user(r), &state)) {
        return refuse(r, HTTP_GONE, "gone", "The stream is not kept any more.", 0);
    }
    json = apr_psprintf(r->pool, "{\"stream_id\":\"%s\",\"status\":\"%s\"}\n", apr_pstrdup(r->pool, stream_id),
                        cs_state_is_end(state) ? cs_state_name(state) : "cancelled");
    return cs_response_json(r, HTTP_OK, json, strlen(json));
}
