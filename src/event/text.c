/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text: bytes as they come, except that a character is never cut: its beginning waits here for the rest. What is not
 * UTF-8 becomes U+FFFD.
 */
#include "event/framing.h"

#include <string.h>

/* Frames are at most this long, also when a read is longer. */
#define SLICE_MAX ((size_t)16 * 1024)

typedef struct {
    cs_frame_fn *fn;
    void *baton;
    size_t slice;
    char cut[4]; /* the beginning of a character */
    size_t cut_len;
    cs_buf_t text; /* what could not be passed on in place */
} text_t;

static void init(void *state, size_t max_event, cs_frame_fn *fn, void *baton)
{
    text_t *text = state;
    text->fn = fn;
    text->baton = baton;
    /* Repair makes three bytes of one, and the frame is to stay below max_event after it. */
    text->slice = max_event / 3 < SLICE_MAX ? max_event / 3 : SLICE_MAX;
    if (text->slice < 4) {
        text->slice = 4;
    }
    text->cut_len = 0;
    cs_buf_init(&text->text, (text->slice + sizeof(text->cut)) * 3);
}

static void reset(void *state)
{
    text_t *text = state;
    text->cut_len = 0;
    cs_buf_recycle(&text->text);
}

static void release(void *state)
{
    text_t *text = state;
    cs_buf_free(&text->text);
}

static apr_status_t pass(text_t *text, const char *bytes, size_t len)
{
    cs_frame_t frame = {"", 0, bytes, len};
    return len > 0 ? text->fn(text->baton, &frame) : APR_SUCCESS;
}

/* `bytes` holds whole characters only, though some may be ill-formed. */
static apr_status_t pass_repaired(text_t *text, const char *bytes, size_t len)
{
    if (cs_utf8_valid(bytes, len)) {
        return pass(text, bytes, len);
    }
    text->text.len = 0;
    apr_status_t rv = cs_utf8_append_repaired(&text->text, bytes, len);
    return rv == APR_SUCCESS ? pass(text, text->text.data, text->text.len) : rv;
}

/* Adds bytes to the waiting beginning one at a time, until it is a character or can no longer become one. */
static size_t complete_cut(text_t *text, const char *bytes, size_t len)
{
    size_t used = 0;
    while (used < len && text->cut_len < sizeof(text->cut)) {
        text->cut[text->cut_len++] = bytes[used++];
        if (cs_utf8_incomplete_suffix(text->cut, text->cut_len) != text->cut_len) {
            break;
        }
    }
    return used;
}

static apr_status_t take_slice(text_t *text, const char *bytes, size_t len)
{
    while (text->cut_len > 0 && len > 0) {
        size_t used = complete_cut(text, bytes, len);
        bytes += used;
        len -= used;
        /* The byte that spoilt a character may itself begin one. */
        size_t again = cs_utf8_incomplete_suffix(text->cut, text->cut_len);
        if (again == text->cut_len) {
            return APR_SUCCESS;
        }
        char whole[sizeof(text->cut)];
        size_t whole_len = text->cut_len - again;
        memcpy(whole, text->cut, sizeof(whole));
        memmove(text->cut, text->cut + whole_len, again);
        text->cut_len = again;
        apr_status_t rv = pass_repaired(text, whole, whole_len);
        if (rv != APR_SUCCESS) {
            return rv;
        }
    }
    size_t cut = cs_utf8_incomplete_suffix(bytes, len);
    if (cut > 0) {
        memcpy(text->cut, bytes + len - cut, cut);
        text->cut_len = cut;
    }
    return pass_repaired(text, bytes, len - cut);
}

static apr_status_t feed(void *state, const char *bytes, size_t len)
{
    text_t *text = state;
    apr_status_t rv = APR_SUCCESS;
    while (rv == APR_SUCCESS && len > 0) {
        size_t slice = len < text->slice ? len : text->slice;
        rv = take_slice(text, bytes, slice);
        bytes += slice;
        len -= slice;
    }
    return rv;
}

static apr_status_t finish(void *state, const char **why)
{
    const text_t *text = state;
    if (text->cut_len > 0) {
        *why = "upstream's answer was cut in the middle of a character";
        return APR_INCOMPLETE;
    }
    return APR_SUCCESS;
}

const cs_framing_t cs_framing_text = {sizeof(text_t), init, reset, release, feed, finish};
