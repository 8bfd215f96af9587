/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event: bytes in, events out; events in, bytes out. Knows core and json-c only: no httpd, no curl, no shared memory,
 * so unit tests and fuzzers link it alone. Nothing here is shared between threads: a decoder or encoder belongs to
 * whoever created it.
 *
 * Upstream bytes walk through framing (SSE, NDJSON, text) and a dialect (what one provider means by its frames) into
 * the callbacks of cs_decoder_events_t. On the other side an encoder (native, raw, document) turns records of the log
 * into what the client reads.
 */
#ifndef CHATSTREAM_EVENT_H
#define CHATSTREAM_EVENT_H

#include "chatstream/core.h"

/* ---- what a log record is ---------------------------------------------------------------------------------------- */

typedef enum {
    CS_EVENT_TOKEN = 1,    /* data: text of the answer, valid UTF-8, unescaped */
    CS_EVENT_METADATA = 2, /* data: one JSON object as text, without a member "type" */
    CS_EVENT_RAW = 3       /* name and data: the upstream's own event, valid UTF-8; data may hold LF */
} cs_event_kind_e;

typedef struct {
    cs_event_kind_e kind;
    uint64_t seq; /* 1 for the first event of a stream; native streams give 1 to `start` */
    const char *name;
    size_t name_len; /* RAW only; 0: "message"; at most 255 */
    const char *data;
    size_t len;
} cs_event_t;

/* ---- decoder: upstream bytes -> events --------------------------------------------------------------------------- */

typedef struct cs_dialect_t cs_dialect_t;
typedef struct cs_decoder_t cs_decoder_t;

typedef enum {
    CS_DECODE_EVENTS, /* tokens and metadata */
    CS_DECODE_RAW     /* the upstream's events as they are; the dialect still watches for the end, usage and errors */
} cs_decode_mode_e;

/* Called in stream order. Pointers are valid during the call. Anything but APR_SUCCESS stops the feed and is returned. */
typedef struct {
    apr_status_t (*event)(void *baton, const cs_event_t *event); /* seq is 0 here */
} cs_decoder_events_t;

typedef struct {
    size_t max_event;  /* bytes of one line and of one event: ChatStreamMaxEvent */
    size_t max_answer; /* bytes of all tokens (mode RAW: of all data) together: ChatStreamMaxAnswer */
} cs_decoder_limits_t;

/* What the upstream said about the whole answer. Strings live as long as the decoder. */
typedef struct {
    int done;                  /* an end marker came: [DONE], finish event; nothing after it is decoded */
    const char *finish_reason; /* NULL: it did not say */
    int64_t prompt_tokens;     /* -1: it did not say */
    int64_t completion_tokens;
    const char *failure;   /* the upstream reported an error: a static, client-safe reason; NULL: it did not. Ends
                              decoding as done does */
    int is_ping;           /* mode RAW, during event(): it only keeps the connection alive */
    int failure_retryable; /* overload and rate limits are, bad requests are not */
} cs_outcome_t;

/* The dialect of that name, or NULL. Names: sse, openai, text. */
const cs_dialect_t *cs_dialect_find(const char *name);
/* Names of all dialects, "openai, sse, text": for messages of the configuration check. */
const char *cs_dialect_names(void);
/* What the upstream should be told to send: "text/event-stream", ... */
const char *cs_dialect_accept(const cs_dialect_t *dialect);
/* True when the dialect cannot build a request without ChatStreamModel or a template. */
int cs_dialect_needs_model(const cs_dialect_t *dialect);

/* `*out` is freed with cs_decoder_destroy (NULL is fine). APR_ENOMEM only. */
apr_status_t cs_decoder_create(cs_decoder_t **out, const cs_dialect_t *dialect, cs_decode_mode_e mode,
                               const cs_decoder_limits_t *limits, const cs_decoder_events_t *events, void *baton);
/* Ready for another answer, same settings, memory kept. `baton` replaces the old one. */
void cs_decoder_reset(cs_decoder_t *decoder, void *baton);
void cs_decoder_destroy(cs_decoder_t *decoder);
/*
 * Takes bytes as they come, cut anywhere. APR_SUCCESS: all consumed; look at the outcome: done or failure may be set.
 * APR_ENOSPC: a line, an event or the answer passed its limit. Other values come from the callback. After either the
 * decoder accepts nothing more.
 */
apr_status_t cs_decoder_feed(cs_decoder_t *decoder, const char *bytes, size_t len);
/*
 * The upstream ended its answer in an orderly way (its transfer was complete). APR_SUCCESS: the answer is whole.
 * APR_INCOMPLETE: it was cut: in mid-event, in mid-character, without the end marker the dialect promises, or without a
 * single event where the dialect has framing; `*why` is then static text for log and client. The last line of an NDJSON
 * answer may be decoded only now: the callback can be called, and what it returns, or APR_ENOSPC, is returned here.
 */
apr_status_t cs_decoder_finish(cs_decoder_t *decoder, const char **why);
const cs_outcome_t *cs_decoder_outcome(const cs_decoder_t *decoder);

/*
 * Is all of `text` one JSON value, by the whole grammar of RFC 8259 and nothing beside it, nested at most 60 deep?
 * (json-c, also in its strict mode, takes single quotes, NaN, `1.` and raw control characters.) `text` must be valid
 * UTF-8.
 */
int cs_json_valid(const char *text, size_t len);

/* ---- the question ------------------------------------------------------------------------------------------------ */

/* All strings are valid UTF-8 and NUL-terminated; NULL: absent. */
typedef struct {
    const char *message;
    const char *history; /* text of a JSON array of {"role","content"}, checked */
    const char *user;
    const char *user_email;
    const char *user_role;
    const char *conversation_id;
    const char *model; /* ChatStreamModel */
} cs_question_t;

/* Appends the dialect's own request body (JSON). APR_ENOSPC when `out` is full. */
apr_status_t cs_dialect_build_request(const cs_dialect_t *dialect, const cs_question_t *question, cs_buf_t *out);

/* ---- encoder: events -> what the client reads -------------------------------------------------------------------- */

/* How a stream ended. All strings static or owned by the caller. */
typedef struct {
    const char *error_code;    /* NULL: complete */
    const char *error_message; /* client-safe text, with error_code */
    int retryable;
    const char *finish_reason;
    int64_t prompt_tokens; /* -1: null */
    int64_t completion_tokens;
    int64_t first_token_ms; /* -1: there was none */
    int64_t duration_ms;
    uint64_t tokens; /* token events */
} cs_ending_t;

typedef struct {
    const char *stream_id; /* 36 characters */
    apr_time_t created_at; /* wall clock */
} cs_stream_info_t;

/*
 * One row per ChatStreamFormat. All functions append whole events to `out` and return APR_SUCCESS, APR_ENOSPC, APR_ENOMEM;
 * on failure `out` is as before. `first_seq` of a format: native 1 (the start event has it), raw 0 (no start event).
 */
typedef struct {
    const char *name;
    const char *content_type;
    cs_decode_mode_e mode;                   /* what the log of such a stream holds */
    int numbers_frame;                       /* start and ending are events with a seq of their own */
    apr_status_t (*preamble)(cs_buf_t *out); /* "retry: 1000" */
    /* Seq 1, or nothing. */
    apr_status_t (*start)(cs_buf_t *out, const cs_stream_info_t *info);
    apr_status_t (*event)(cs_buf_t *out, const cs_stream_info_t *info, const cs_event_t *event);
    /* What the log no longer holds; its id is that of `to`. */
    apr_status_t (*gap)(cs_buf_t *out, const cs_stream_info_t *info, uint64_t from, uint64_t to);
    apr_status_t (*heartbeat)(cs_buf_t *out, apr_time_t now);
    /* Seq 0: no id, for the error of one reader. */
    apr_status_t (*ending)(cs_buf_t *out, const cs_stream_info_t *info, const cs_ending_t *ending, uint64_t seq);
} cs_format_t;

/* The format of that name, or NULL. Names: native, raw. */
const cs_format_t *cs_format_find(const char *name);
const char *cs_format_names(void);
/* Formats have small numbers, so that shared memory can hold them. */
const cs_format_t *cs_format_by_index(unsigned index);
unsigned cs_format_index(const cs_format_t *format);

/* `<stream_id>:<seq>` as it stands in id: lines and Last-Event-ID. APR_EINVAL for anything else. */
apr_status_t cs_event_id_parse(const char *text, size_t len, cs_uuid_t *stream_id, uint64_t *seq);

/* The document of chatstream-complete: text gathered from TOKEN and METADATA events. */
typedef struct cs_document_t cs_document_t;

apr_status_t cs_document_create(cs_document_t **out, size_t max_answer);
void cs_document_destroy(cs_document_t *document);
/* APR_ENOSPC when the answer passes max_answer. */
apr_status_t cs_document_add(cs_document_t *document, const cs_event_t *event);
/*
 * {"stream_id","created_at","content","finish_reason","usage":{…}|null,"metrics":{"first_token_ms","duration_ms","tokens"},
 * "metadata":[…]}; `ending` is a complete one.
 */
apr_status_t cs_document_write(const cs_document_t *document, const cs_stream_info_t *info, const cs_ending_t *ending,
                               cs_buf_t *out);

#endif
