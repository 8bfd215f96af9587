/* SPDX-License-Identifier: Apache-2.0 */
#include "buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die_of_hunger(void)
{
    fputs("chatstream-upstream: out of memory\n", stderr);
    abort();
}

void *up_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);

    if (p == NULL) {
        die_of_hunger();
    }
    return p;
}

char *up_strndup(const char *text, size_t len)
{
    char *copy = up_alloc(len + 1);

    if (len > 0) {
        memcpy(copy, text, len);
    }
    return copy;
}

char *up_buf_room(up_buf_t *b, size_t more)
{
    size_t want = b->len + more;

    if (b->off + want <= b->cap) {
        return b->data + b->off + b->len;
    }
    if (b->off > 0) {
        memmove(b->data, b->data + b->off, b->len);
        b->off = 0;
    }
    if (want > b->cap) {
        size_t cap = b->cap ? b->cap : 256;
        char *data;

        while (cap < want) {
            cap *= 2;
        }
        data = realloc(b->data, cap);
        if (data == NULL) {
            die_of_hunger();
        }
        b->data = data;
        b->cap = cap;
    }
    return b->data + b->len;
}

void up_buf_grew(up_buf_t *b, size_t added)
{
    b->len += added;
}

void up_buf_add(up_buf_t *b, const void *data, size_t len)
{
    if (len > 0) {
        memcpy(up_buf_room(b, len), data, len);
        b->len += len;
    }
}

void up_buf_str(up_buf_t *b, const char *text)
{
    up_buf_add(b, text, strlen(text));
}

void up_buf_fill(up_buf_t *b, char c, size_t count)
{
    if (count > 0) {
        memset(up_buf_room(b, count), c, count);
        b->len += count;
    }
}

void up_buf_printf(up_buf_t *b, const char *format, ...)
{
    va_list args;
    va_list again;
    int need;

    va_start(args, format);
    va_copy(again, args);
    need = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (need > 0) {
        char *room = up_buf_room(b, (size_t)need + 1);

        vsnprintf(room, (size_t)need + 1, format, again);
        b->len += (size_t)need;
    }
    va_end(again);
}

/* The length of the well-formed UTF-8 sequence at p, or 0. */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
    static const unsigned char lowest[5] = {0, 0, 0, 0xa0, 0x90};
    size_t need = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    size_t i;

    if (p[0] < 0xc2 || p[0] > 0xf4 || need > left) {
        return 0;
    }
    for (i = 1; i < need; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
    if ((p[0] == 0xe0 || p[0] == 0xf0) && p[1] < lowest[need]) {
        return 0;
    }
    if ((p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f)) {
        return 0;
    }
    return need;
}

static size_t json_escape(up_buf_t *b, const unsigned char *p, size_t left)
{
    size_t sequence;

    switch (*p) {
    case '"':
        up_buf_add(b, "\\\"", 2);
        return 1;
    case '\\':
        up_buf_add(b, "\\\\", 2);
        return 1;
    case '\n':
        up_buf_add(b, "\\n", 2);
        return 1;
    case '\r':
        up_buf_add(b, "\\r", 2);
        return 1;
    case '\t':
        up_buf_add(b, "\\t", 2);
        return 1;
    default:
        break;
    }
    if (*p < 0x20 || *p == 0x7f) {
        up_buf_printf(b, "\\u%04x", *p);
        return 1;
    }
    sequence = utf8_sequence(p, left);
    if (sequence == 0) {
        up_buf_str(b, "\\ufffd");
        return 1;
    }
    up_buf_add(b, p, sequence);
    return sequence;
}

void up_buf_json(up_buf_t *b, const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;

    while (i < len) {
        size_t plain = i;

        while (plain < len && p[plain] >= 0x20 && p[plain] < 0x7f && p[plain] != '"' && p[plain] != '\\') {
            plain++;
        }
        up_buf_add(b, p + i, plain - i);
        i = plain;
        if (i < len) {
            i += json_escape(b, p + i, len - i);
        }
    }
}

void up_buf_consume(up_buf_t *b, size_t count)
{
    b->off += count;
    b->len -= count;
    if (b->len == 0) {
        b->off = 0;
    }
}

void up_buf_clear(up_buf_t *b)
{
    b->off = 0;
    b->len = 0;
}

void up_buf_free(up_buf_t *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

const char *up_buf_data(const up_buf_t *b)
{
    return b->data != NULL ? b->data + b->off : "";
}

const char *up_buf_cstr(up_buf_t *b)
{
    *up_buf_room(b, 1) = '\0';
    return b->data + b->off;
}
