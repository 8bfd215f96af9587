/* SPDX-License-Identifier: Apache-2.0 */
/*
 * framing: bytes cut anywhere -> frames. A framing knows where a frame begins and ends and nothing of what it means;
 * that is the dialect's part. Each is a row of functions over a state the decoder allocates once:
 *
 *     void *state = malloc(framing->size);
 *     framing->init(state, max_event, on_frame, baton);
 *     rv = framing->feed(state, bytes, len);      any number of times
 *     rv = framing->finish(state, &why);          the bytes ended in an orderly way
 *     framing->release(state);
 *
 * Whatever is cut, memory stays below a small multiple of max_event: a line or a frame that is longer is APR_ENOSPC,
 * after which only reset and release are allowed. The same holds after the callback failed.
 */
#ifndef CHATSTREAM_EVENT_FRAMING_H
#define CHATSTREAM_EVENT_FRAMING_H

#include "chatstream/core.h"

/* All text is valid UTF-8; pointers are valid during the callback. */
typedef struct {
    const char *name; /* SSE: the event field, never NULL; empty means "message" */
    size_t name_len;
    const char *data;
    size_t len;
} cs_frame_t;

typedef apr_status_t cs_frame_fn(void *baton, const cs_frame_t *frame);

typedef struct {
    size_t size;
    void (*init)(void *state, size_t max_event, cs_frame_fn *fn, void *baton);
    void (*reset)(void *state);   /* as after init, memory kept */
    void (*release)(void *state); /* frees what init and feed took, not the state itself */
    apr_status_t (*feed)(void *state, const char *bytes, size_t len);
    /* APR_INCOMPLETE: the last frame was cut; `*why` is static text. Other failures come from the callback. */
    apr_status_t (*finish)(void *state, const char **why);
} cs_framing_t;

extern const cs_framing_t cs_framing_sse;
extern const cs_framing_t cs_framing_ndjson;
extern const cs_framing_t cs_framing_text;

/* Empties a reused buffer; one that a huge event blew up is given back, or idle decoders would keep it for ever. */
static inline void cs_buf_recycle(cs_buf_t *buf)
{
    buf->len = 0;
    if (buf->cap > 16 * 1024) {
        cs_buf_free(buf);
    }
}

/* Appends text that usually is, but need not be, valid UTF-8. */
static inline apr_status_t cs_buf_append_utf8(cs_buf_t *buf, const char *text, size_t len)
{
    return cs_utf8_valid(text, len) ? cs_buf_append(buf, text, len) : cs_utf8_append_repaired(buf, text, len);
}

#endif
