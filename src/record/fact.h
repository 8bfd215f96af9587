/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fact: something that happened and is to be kept. It goes from whoever saw it into a journal, and from there into the
 * database, as often as it takes and once.
 *
 *   OPEN      a stream was admitted      -> row in streaming_sessions, the user's message, audit stream_open
 *   CLOSE     it ended, the one time     -> that row is finished, the answer, audit stream_close
 *   INCIDENT  anything else for audit    -> audit row only
 *
 * Texts are borrowed: from the caller while a fact is written, from the read buffer when it was read. All of them are UTF-8.
 */
#ifndef CS_RECORD_FACT_H
#define CS_RECORD_FACT_H

#include "chatstream/core.h"

typedef enum { CS_FACT_OPEN = 1, CS_FACT_CLOSE = 2, CS_FACT_INCIDENT = 3 } cs_fact_kind_e;

/* What ChatStreamRecord asked for; bits of CS_NUM_WANTS. */
#define CS_WANT_SESSIONS   1
#define CS_WANT_TRANSCRIPT 2
#define CS_WANT_AUDIT      4

/* Numbers in the file are the places in these lists: add at the end only. */
#define CS_FACT_TEXTS(X)                                                                                               \
    X(STREAM_ID, "stream_id")                                                                                          \
    X(PROFILE, "profile")                                                                                              \
    X(USER_KEY, "user_key")                                                                                            \
    X(USER_EMAIL, "user_email") /* of authenticated users only */                                                      \
    X(CONNECTION_ID, "connection_id")                                                                                  \
    X(RESOURCE, "resource")                                                                                            \
    X(CONVERSATION_ID, "conversation_id")                                                                              \
    X(QUERY_HASH, "query_hash")                                                                                        \
    X(UPSTREAM, "upstream")                                                                                            \
    X(NODE, "node")                                                                                                    \
    X(STATUS, "status")                                                                                                \
    X(ERROR_CODE, "error_code")                                                                                        \
    X(MESSAGE, "message") /* transcript only */                                                                        \
    X(ANSWER, "answer")   /* transcript only */                                                                        \
    X(EVENT, "event")     /* of the audit row; absent: none */                                                         \
    X(IP, "ip")           /* security and auth events only */                                                          \
    X(DETAIL, "detail")   /* JSON object text */

#define CS_FACT_NUMBERS(X)                                                                                             \
    X(WANTS, "wants")                                                                                                  \
    X(AT, "at") /* wall clock, microseconds: created_at of OPEN, completed_at of CLOSE, ts of INCIDENT */              \
    X(FIRST_CHUNK_MS, "first_chunk_latency_ms")                                                                        \
    X(DURATION_MS, "duration_ms")                                                                                      \
    X(CHUNK_COUNT, "chunk_count")                                                                                      \
    X(BYTES_SENT, "bytes_sent")                                                                                        \
    X(RECONNECTS, "reconnects")                                                                                        \
    X(PROMPT_TOKENS, "prompt_tokens")                                                                                  \
    X(COMPLETION_TOKENS, "completion_tokens")                                                                          \
    X(PARTIAL, "partial") /* 1: ANSWER is not the whole answer */

enum {
#define X(name, text) CS_TXT_##name,
    CS_FACT_TEXTS(X)
#undef X
        CS_TXT_COUNT
};

enum {
#define X(name, text) CS_NUM_##name,
    CS_FACT_NUMBERS(X)
#undef X
        CS_NUM_COUNT
};

#define CS_NUM_NONE INT64_MIN /* absent: NULL in the database */

typedef struct {
    const char *data; /* NULL: absent */
    size_t len;
} cs_text_t;

#define CS_HASH_HEX 64

/* The fact's place in its audit chain. Set by the journal when the fact has an EVENT and wants audit; seq 0: no audit row. */
typedef struct {
    uint64_t seq;      /* from 1, without gaps */
    apr_time_t ts;     /* wall clock, microseconds; never before that of the row before it */
    char salt[33];     /* random; hides what identity is hashed */
    char identity[65]; /* SHA-256 over salt, user_key, user_email, ip, query_hash: erasing them leaves it */
    char prev_hash[65];
    char hash[65];
} cs_link_t;

typedef struct {
    cs_fact_kind_e kind;
    cs_text_t text[CS_TXT_COUNT];
    int64_t number[CS_NUM_COUNT];
    cs_link_t link;
} cs_fact_t;

/* Everything absent. */
void cs_fact_init(cs_fact_t *fact, cs_fact_kind_e kind);
void cs_fact_set(cs_fact_t *fact, int text, const char *value); /* NULL: absent */

const char *cs_fact_kind_name(cs_fact_kind_e kind);
const char *cs_fact_text_name(int text);
const char *cs_fact_number_name(int number);

#define CS_FACT_MAX (64u * 1024 * 1024) /* encoded */

/*
 * Appends the bytes of one fact. APR_EINVAL: what decode would refuse (a text that is not UTF-8, or has U+0000 and is neither MESSAGE nor
 * ANSWER; larger than CS_FACT_MAX), trying again is of no use. Else errors as cs_buf_append.
 */
apr_status_t cs_fact_encode(const cs_fact_t *fact, cs_buf_t *out);
/*
 * `fact` borrows from `bytes`. APR_EINVAL: not what encode wrote (lengths, unknown kind, UTF-8). Members of a later version, with
 * larger numbers, are skipped.
 */
apr_status_t cs_fact_decode(cs_fact_t *fact, const char *bytes, size_t len);

#endif
