/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handlers chatstream and chatstream-complete, top to bottom: parameters, resume or new, the gate, the stream, the reader.
 */
#include "chat.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>

#include "chatstream/observe.h"
#include "chatstream/sink.h"
#include "chatstream/stream.h"
#include "identity.h"
#include "limits.h"
#include "params_read.h"
#include "redact.h"
#include "telling.h"

APLOG_USE_MODULE(chatstream);

#define READERS_RETRY_AFTER    2 /* seconds; readers leave all the time */
#define UNRECORDED_RETRY_AFTER 5 /* seconds */

typedef struct {
    request_rec *r;
    const cs_dir_config_t *conf;
    cs_kind_e kind;
    cs_params_t params;
    const cs_identity_t *identity;
    const char *user_key; /* whose streams */
    const char *idem_key;
    cs_case_t asked;
    cs_stream_t *stream; /* one of our own; NULL: reads another's */
    cs_cursor_t cursor;
    uint64_t after_seq;
    uint64_t gap_to;
    int joined;
} chat_t;

static int refuse(request_rec *r, int status, const char *code, const char *message, int retry_after)
{
    const cs_result_t problem = {status, code, message, retry_after, NULL};

    return cs_response_problem(r, &problem);
}

static int is_plain_token(const char *text, size_t max)
{
    size_t len = 0;

    while (text[len] > 32 && text[len] < 127 && len <= max) {
        len++;
    }
    return len && len <= max && !text[len];
}

/* The client's own id, when it sent a good one: what it reconnects with. */
static const char *connection_of(const request_rec *r)
{
    const char *id = apr_table_get(r->headers_in, "X-Connection-Id");

    return id && is_plain_token(id, 128) ? id : NULL;
}

/* ---- the answer's headers ---------------------------------------------------------------------------------------- */

static void name_stream(chat_t *chat)
{
    const char *connection_id = connection_of(chat->r);
    char id[CS_UUID_LEN + 1];
    apr_time_t created_at;
    cs_uuid_t uuid;
    uint32_t format;

    cs_log_slot_info(cs_stream_log(), chat->cursor.slot, &uuid, &created_at, &format);
    cs_uuid_format(id, &uuid);
    apr_table_set(chat->r->headers_out, "X-Stream-Id", id);
    apr_table_set(chat->r->headers_out, "X-Connection-Id", connection_id ? connection_id : id);
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

static void tell_reconnect(const chat_t *chat)
{
    apr_time_t created_at;
    char id[CS_UUID_LEN + 1];
    cs_uuid_t uuid;
    uint32_t format;

    cs_log_count_reconnect(cs_stream_log(), chat->cursor.slot);
    cs_log_slot_info(cs_stream_log(), chat->cursor.slot, &uuid, &created_at, &format);
    cs_uuid_format(id, &uuid);
    cs_telling_incident(chat->r, chat->conf, chat->identity, CS_INCIDENT_RECONNECT, id, NULL);
}

/* ---- resume ------------------------------------------------------------------------------------------------------ */

/* A reconnect never starts a second generation: whatever the id names, nothing below this asks an upstream. */
static int resume(chat_t *chat, const char *event_id)
{
    cs_uuid_t id;
    cs_open_e opened = CS_OPEN_UNKNOWN;

    if (cs_event_id_parse(event_id, strlen(event_id), &id, &chat->after_seq) == APR_SUCCESS) {
        opened = cs_log_open(cs_stream_log(), cs_stream_child(), &id, chat->user_key, chat->after_seq, &chat->cursor,
                             &chat->gap_to);
    }
    switch (opened) {
    case CS_OPEN_OK:
        if (chat->r->header_only) {
            return answer_head(chat);
        }
        tell_reconnect(chat);
        return serve(chat);
    case CS_OPEN_SEEN:
        return HTTP_NO_CONTENT;
    case CS_OPEN_READERS:
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "The stream has too many readers.",
                      READERS_RETRY_AFTER);
    default:
        return refuse(chat->r, HTTP_GONE, "gone", "The stream is not kept any more.", 0);
    }
}

/* ---- a new stream ------------------------------------------------------------------------------------------------ */

/*
 * Who has a token is who the token says, also to the upstream: what the request says beside it about the user is hearsay, and hearsay
 * that contradicts a token is worse than none. Without a token the upstream gets what was said, as parameters and no more.
 */
static void question_of(const chat_t *chat, cs_question_t *question)
{
    cs_claims_t *claims = cs_identity_claims(chat->identity);

    question->message = chat->params.message;
    question->history = chat->params.history;
    question->user = chat->identity->user;
    question->user_email = claims ? cs_claims_text(claims, "email") : chat->params.user_email;
    question->user_role = claims ? cs_claims_text(claims, "role") : chat->params.user_role;
    question->conversation_id = chat->params.conversation_id;
    question->model = chat->conf->model;
}

/* Mono; 0: the stream may outlive its token. */
static apr_time_t expiry_of(const chat_t *chat)
{
    const cs_claims_t *claims = cs_identity_claims(chat->identity);
    apr_time_t expiry = claims ? cs_claims_expiry(claims) : 0;

    return chat->conf->auth_expires && expiry ? cs_clock_mono() + (expiry + chat->conf->leeway - apr_time_now()) : 0;
}

/* A slot that was claimed and must not become a stream. */
static void forget_claim(chat_t *chat)
{
    const cs_log_ending_t ending = {.state = CS_STATE_ERROR, .http_status = 503, .code = "unavailable"};

    cs_log_end(cs_stream_log(), chat->cursor.slot, &ending, CS_LOG_FORGET);
    cs_log_cursor_close(&chat->cursor);
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
    const cs_upstream_t *first = &APR_ARRAY_IDX(chat->conf->upstreams, 0, cs_upstream_t);
    const char *connection_id = connection_of(chat->r);
    cs_opened_t opened = {
        .slot = chat->cursor.slot,
        .conf = chat->conf,
        .server = chat->r->server,
        .person = cs_telling_person(chat->r, chat->identity),
        .connection_id = connection_id,
        .conversation_id = chat->params.conversation_id,
        .message = chat->params.message,
        .upstream = apr_pstrndup(chat->r->pool, first->name, 255),
    };
    cs_question_t question;
    void *ticket;

    if (!cs_tell_opened(&opened, &ticket)) {
        forget_claim(chat);
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "What is streamed cannot be recorded now.",
                      UNRECORDED_RETRY_AFTER);
    }
    if (connection_id && cs_log_seen(cs_stream_log(), chat->user_key, connection_id)) {
        tell_reconnect(chat);
    }
    question_of(chat, &question);
    chat->stream = cs_stream_req_create(chat->cursor.slot, chat->conf, chat->r->server, &question,
                                        apr_table_get(chat->r->headers_in, "traceparent"), expiry_of(chat), ticket);
    if (!chat->stream) {
        cs_log_cursor_close(&chat->cursor);
        return refuse(chat->r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "The server is out of memory.",
                      READERS_RETRY_AFTER);
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

/* The gate's last question. One step, under the log's lock: how many this user has, and one more. */
static cs_admit_e claim(void *baton, int *joined, uint32_t *retry_after)
{
    chat_t *chat = baton;
    cs_log_t *log = cs_stream_log();
    cs_log_spec_t spec = {
        .user = chat->user_key,
        .idem_key = chat->idem_key,
        .scope = scope_of(chat),
        .format = cs_format_index(chat->kind == CS_KIND_DOCUMENT ? cs_format_find("native") : chat->conf->format),
        .max_per_user = (uint32_t)chat->conf->max_per_user,
        .replay_bytes = (uint32_t)chat->conf->replay_bytes,
        .replay_keep = chat->conf->replay_keep,
        .created_at = apr_time_now(),
        .ends_by = chat->asked.now + chat->conf->timeout_total,
    };
    apr_time_t ends_by;

    if (cs_uuid7_make(&spec.id, spec.created_at)) {
        return CS_ADMIT_FULL;
    }
    switch (cs_log_claim(log, cs_stream_child(), &spec, &chat->cursor)) {
    case CS_CLAIM_NEW:
        return CS_ADMIT_YES;
    case CS_CLAIM_JOINED:
        *joined = chat->joined = 1;
        return CS_ADMIT_YES;
    case CS_CLAIM_USER:
        ends_by = cs_log_user_ends_by(log, chat->user_key);
        *retry_after = cs_limits_seconds_until(ends_by, chat->asked.now);
        return CS_ADMIT_USER;
    case CS_CLAIM_READERS:
        return CS_ADMIT_READERS;
    default:
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, chat->r->server,
                     "chatstream: refused, all ChatStreamMaxStreams are in use");
        return CS_ADMIT_FULL;
    }
}

/* ---- the handler ------------------------------------------------------------------------------------------------- */

/* What the gate is asked, whichever list it goes through. */
static void ask(chat_t *chat, const cs_result_t *unreadable)
{
    cs_case_t *asked = &chat->asked;

    asked->now = cs_clock_mono();
    asked->streaming = chat->kind == CS_KIND_STREAM;
    asked->profile = chat->conf->profile;
    asked->message = chat->params.message;
    asked->max_message = (size_t)chat->conf->max_message;
    asked->unreadable = unreadable;
    asked->identity = chat->identity;
    asked->admit = claim;
    asked->baton = chat;
    cs_limits_apply(chat->r, chat->conf, asked);
}

static int pass(chat_t *chat, cs_gate_list_e list)
{
    int passed = cs_gate_pass(&chat->asked, list);

    cs_limits_tell(chat->r, &chat->asked);
    if (passed && chat->identity->claims) {
        cs_telling_incident(chat->r, chat->conf, chat->identity, CS_INCIDENT_AUTH_OK, NULL, NULL);
    }
    return passed;
}

static int ask_anew(chat_t *chat)
{
    if (!pass(chat, chat->r->header_only ? CS_GATE_LOOK : CS_GATE_NEW)) {
        return cs_telling_refuse(chat->r, chat->conf, chat->identity, &chat->asked.refusal);
    }
    if (chat->r->header_only) {
        return answer_head(chat);
    }
    return chat->joined ? join_stream(chat) : begin_stream(chat);
}

static void check_idempotency_key(const char *key, cs_result_t *result)
{
    if (!result->status && key && !is_plain_token(key, CS_LOG_KEY_MAX)) {
        *result = (cs_result_t){HTTP_BAD_REQUEST, "bad_request", "Idempotency-Key is not 1 to 127 visible characters.",
                                0, NULL};
    }
}

int cs_request_chat(request_rec *r, const cs_dir_config_t *conf, cs_kind_e kind)
{
    chat_t chat = {.r = r, .conf = conf, .kind = kind, .cursor = {.slot = CS_LOG_NONE}};
    const char *event_id = apr_table_get(r->headers_in, "Last-Event-ID");
    cs_result_t result;

    cs_params_read(r, conf->max_message, &chat.params, &result);
    chat.identity = cs_identity_of(r, conf, chat.params.body_token);
    chat.user_key = cs_identity_key(r, chat.identity);
    chat.idem_key = apr_table_get(r->headers_in, "Idempotency-Key");
    cs_redact_request(r);
    if (!conf->upstreams) {
        /* A handler set where the start-up check does not see it: <If>, .htaccess, another module. */
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, r->server, "chatstream: there is no ChatStreamUpstream here");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    check_idempotency_key(chat.idem_key, &result);
    ask(&chat, &result);
    if (!event_id || !*event_id) {
        event_id = chat.params.last_event_id;
    }
    if (event_id && *event_id && kind == CS_KIND_STREAM && !result.status) {
        return pass(&chat, CS_GATE_OLD) ? resume(&chat, event_id)
                                        : cs_telling_refuse(r, conf, chat.identity, &chat.asked.refusal);
    }
    return ask_anew(&chat);
}
