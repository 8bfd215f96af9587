/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts events and tokens in a stream that arrives in any portions. A token is recognised by its stamp, `@` 19 digits
 * `@`, so the same count holds for the upstream's own events and for events a server has written anew.
 */
#include "load.h"

#define STAMP_FULL 20

void marker_set(marker_t *m, const char *text)
{
    unsigned k = 0;
    size_t len = strlen(text);

    if (len > sizeof(m->text) - 1)
        len = sizeof(m->text) - 1;
    memcpy(m->text, text, len);
    m->text[len] = '\0';
    m->len = (uint8_t)len;
    m->fail[0] = 0;
    for (unsigned i = 1; i < len; i++) {
        while (k > 0 && m->text[i] != m->text[k])
            k = m->fail[k - 1];
        if (m->text[i] == m->text[k])
            k++;
        m->fail[i] = (uint8_t)k;
    }
}

static inline void stamp_byte(sse_t *s, char c, uint64_t now, hist_t *hist)
{
    if (c == '@') {
        if (s->stamp_pos == STAMP_FULL) {
            s->tokens++;
            s->stamp_pos = 0;
            if (hist)
                hist_add(hist, now > s->stamp ? now - s->stamp : 0);
            return;
        }
        s->stamp_pos = 1;
        s->stamp = 0;
    }
    else if (s->stamp_pos) {
        if (s->stamp_pos < STAMP_FULL && c >= '0' && c <= '9') {
            s->stamp = s->stamp * 10 + (uint64_t)(c - '0');
            s->stamp_pos++;
        }
        else
            s->stamp_pos = 0;
    }
}

static inline void marker_byte(sse_t *s, const marker_t *m, char c)
{
    while (s->marker_pos > 0 && c != m->text[s->marker_pos])
        s->marker_pos = m->fail[s->marker_pos - 1];
    if (c == m->text[s->marker_pos] && ++s->marker_pos == m->len) {
        s->marker_seen = true;
        s->marker_pos = m->fail[m->len - 1];
    }
}

void sse_feed(sse_t *s, const marker_t *m, const char *p, size_t n, uint64_t now, hist_t *hist)
{
    for (const char *end = p + n; p < end; p++) {
        char c = *p;

        if (c == '\n') {
            if (!s->in_line && s->has_data) {
                s->events++;
                s->has_data = false;
            }
            s->in_line = false;
        }
        else if (c != '\r' && !s->in_line) {
            s->in_line = true;
            if (c == 'd')
                s->has_data = true;
        }
        stamp_byte(s, c, now, hist);
        if (m->len)
            marker_byte(s, m, c);
    }
}
