/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transcript: everything a decoder says about some input, as one text, so that two runs can be compared:
 *
 *     token "Hel"
 *     metadata {"sources":[]}
 *     raw done "bye"
 *     = done finish=stop usage=1/2 | whole
 *
 * Tokens that follow each other are one line: a text may be cut anywhere.
 */
#ifndef T_UNIT_TRANSCRIPT_H
#define T_UNIT_TRANSCRIPT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatstream/event.h"
#include "event/decoder.h"

enum { TRANSCRIPT_SLOW = 1, TRANSCRIPT_RAW = 2, TRANSCRIPT_MERGE = 4 };

typedef struct {
    cs_buf_t text;
    int flags;
    int last_kind;
    int bad; /* an event broke a promise of the header */
} transcript_t;

static inline void transcript_put(transcript_t *t, const char *text)
{
    if (cs_buf_append_str(&t->text, text) != APR_SUCCESS) {
        abort();
    }
}

static inline void transcript_json(transcript_t *t, const char *text, size_t len)
{
    if (cs_buf_append_json(&t->text, text, len) != APR_SUCCESS) {
        abort();
    }
}

static inline apr_status_t transcript_event(void *baton, const cs_event_t *event)
{
    transcript_t *t = baton;
    if (!cs_utf8_valid(event->data, event->len) || !cs_utf8_valid(event->name, event->name_len) || event->name_len > 255
        || (event->kind != CS_EVENT_RAW && event->len == 0)) {
        t->bad = 1;
    }
    switch (event->kind) {
    case CS_EVENT_TOKEN:
        if ((t->flags & TRANSCRIPT_MERGE) && t->last_kind == CS_EVENT_TOKEN) {
            t->text.len -= 2;
            size_t quote = t->text.len;
            transcript_json(t, event->data, event->len);
            memmove(t->text.data + quote, t->text.data + quote + 1, t->text.len - quote - 1);
            t->text.len--;
        }
        else {
            transcript_put(t, "token ");
            transcript_json(t, event->data, event->len);
        }
        break;
    case CS_EVENT_METADATA:
        if (!cs_json_valid(event->data, event->len) || event->data[0] != '{'
            || memchr(event->data, '\n', event->len) != NULL) {
            t->bad = 1;
        }
        transcript_put(t, "metadata ");
        if (cs_buf_append(&t->text, event->data, event->len) != APR_SUCCESS) {
            abort();
        }
        break;
    case CS_EVENT_RAW:
        transcript_put(t, "raw ");
        if (cs_buf_append(&t->text, event->name, event->name_len) != APR_SUCCESS) {
            abort();
        }
        transcript_put(t, " ");
        transcript_json(t, event->data, event->len);
        break;
    }
    t->last_kind = (int)event->kind;
    transcript_put(t, "\n");
    return APR_SUCCESS;
}

static inline void transcript_outcome(transcript_t *t, const cs_outcome_t *outcome)
{
    char line[512];
    transcript_put(t, outcome->done ? "= done" : "=");
    if (outcome->finish_reason != NULL) {
        transcript_put(t, " finish=");
        transcript_put(t, outcome->finish_reason);
    }
    if (outcome->prompt_tokens >= 0 || outcome->completion_tokens >= 0) {
        snprintf(line, sizeof(line), " usage=%lld/%lld", (long long)outcome->prompt_tokens,
                 (long long)outcome->completion_tokens);
        transcript_put(t, line);
    }
    if (outcome->failure != NULL) {
        snprintf(line, sizeof(line), " failure=%s%s", outcome->failure, outcome->failure_retryable ? " (retry)" : "");
        transcript_put(t, line);
    }
}

/* Feeds `input` in pieces of `piece` bytes, each in memory of its own so that ASan sees every byte read too far. */
static inline apr_status_t transcript_feed(cs_decoder_t *decoder, const char *input, size_t len, size_t piece)
{
    apr_status_t rv = APR_SUCCESS;
    while (rv == APR_SUCCESS && len > 0) {
        size_t n = piece < len ? piece : len;
        char *copy = malloc(n);
        if (copy == NULL) {
            abort();
        }
        memcpy(copy, input, n);
        rv = cs_decoder_feed(decoder, copy, n);
        free(copy);
        input += n;
        len -= n;
    }
    return rv;
}

static inline void transcript_finish(transcript_t *t, cs_decoder_t *decoder, apr_status_t rv)
{
    const char *why = NULL;
    apr_status_t end = cs_decoder_finish(decoder, &why);
    transcript_outcome(t, cs_decoder_outcome(decoder));
    transcript_put(t, " | ");
    if (rv != APR_SUCCESS && rv != end) {
        t->bad = 1;
    }
    if ((end == APR_INCOMPLETE) != (why != NULL)) {
        t->bad = 1;
    }
    transcript_put(t, end == APR_SUCCESS ? "whole" : end == APR_ENOSPC ? "too large" : why ? why : "?");
    transcript_put(t, "\n");
}

/* The whole run; free t->text with cs_buf_free. `first` bytes are fed at once, the rest in pieces. */
static inline void transcript_run(transcript_t *t, const char *dialect, int flags, const cs_decoder_limits_t *limits,
                                  const char *input, size_t len, size_t first, size_t piece)
{
    static const cs_decoder_events_t events = {transcript_event};
    cs_decoder_t *decoder;
    memset(t, 0, sizeof(*t));
    cs_buf_init(&t->text, SIZE_MAX);
    t->flags = flags;
    if (cs_decoder_create(&decoder, cs_dialect_find(dialect), flags & TRANSCRIPT_RAW ? CS_DECODE_RAW : CS_DECODE_EVENTS,
                          limits, &events, t)
        != APR_SUCCESS) {
        abort();
    }
    decoder->no_fast_path = flags & TRANSCRIPT_SLOW;
    first = first < len ? first : len;
    apr_status_t rv = transcript_feed(decoder, input, first, len + 1);
    if (rv == APR_SUCCESS) {
        rv = transcript_feed(decoder, input + first, len - first, piece);
    }
    transcript_finish(t, decoder, rv);
    cs_decoder_destroy(decoder);
}

#endif
