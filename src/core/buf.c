/* SPDX-License-Identifier: Apache-2.0 */
/* buf: a growing byte buffer with a bound, and the JSON string escaper that every event passes through. */
#include "chatstream/core.h"

#include <stdlib.h>
#include <string.h>

/* One typical token event with its frame fits without growing. */
#define FIRST_CAP 256

void cs_buf_init(cs_buf_t *buf, size_t max)
{
    buf->data = NULL;
    buf->len = 0;
    buf->cap = 0;
    buf->max = max;
}

void cs_buf_free(cs_buf_t *buf)
{
    free(buf->data);
    buf->data = NULL;
    buf->len = 0;
    buf->cap = 0;
}

apr_status_t cs_buf_reserve(cs_buf_t *buf, size_t extra)
{
    if (extra <= buf->cap - buf->len) {
        return APR_SUCCESS;
    }
    /* len <= max always holds; both comparisons are written so that nothing can wrap. */
    if (buf->len > buf->max || extra > buf->max - buf->len) {
        return APR_ENOSPC;
    }
    size_t need = buf->len + extra;
    size_t cap = buf->cap < FIRST_CAP ? FIRST_CAP : buf->cap;
    while (cap < need) {
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    }
    if (cap > buf->max) {
        cap = buf->max;
    }
    char *data = realloc(buf->data, cap);
    if (data == NULL) {
        return APR_ENOMEM;
    }
    buf->data = data;
    buf->cap = cap;
    return APR_SUCCESS;
}

apr_status_t cs_buf_append(cs_buf_t *buf, const void *bytes, size_t len)
{
    apr_status_t rv = cs_buf_reserve(buf, len);
    if (rv == APR_SUCCESS && len > 0) {
        memcpy(buf->data + buf->len, bytes, len);
        buf->len += len;
    }
    return rv;
}

apr_status_t cs_buf_append_str(cs_buf_t *buf, const char *str)
{
    return cs_buf_append(buf, str, strlen(str));
}

apr_status_t cs_buf_append_u64(cs_buf_t *buf, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    return cs_buf_append(buf, digits + at, sizeof(digits) - at);
}

#define EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))
#define HIGH_BITS    EACH_BYTE(0x80)

/*
 * Non-zero when one of the eight bytes is `"`, `\` or a control character. The lowest bit set marks the lowest such
 * byte; bits above it may be wrong, because the subtractions borrow upwards.
 */
static inline uint64_t any_special(uint64_t word)
{
    uint64_t quote = word ^ EACH_BYTE('"');
    uint64_t slash = word ^ EACH_BYTE('\\');
    return (((quote - EACH_BYTE(1)) & ~quote) | ((slash - EACH_BYTE(1)) & ~slash) | ((word - EACH_BYTE(0x20)) & ~word))
           & HIGH_BITS;
}

size_t cs_json_plain_span(const char *text, size_t len)
{
    size_t at = 0;
    while (len - at >= 8) {
        uint64_t word;
        memcpy(&word, text + at, 8);
        uint64_t special = any_special(word);
        if (special) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            return at + ((size_t)__builtin_ctzll(special) >> 3);
#else
            break;
#endif
        }
        at += 8;
    }
    while (at < len && text[at] != '"' && text[at] != '\\' && (unsigned char)text[at] >= 0x20) {
        at++;
    }
    return at;
}

static apr_status_t append_escape(cs_buf_t *buf, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', (char)c, '0', '0', '0', '0'};
    size_t len = 2;
    switch (c) {
    case '"':
    case '\\':
        break;
    case '\b':
        escape[1] = 'b';
        break;
    case '\f':
        escape[1] = 'f';
        break;
    case '\n':
        escape[1] = 'n';
        break;
    case '\r':
        escape[1] = 'r';
        break;
    case '\t':
        escape[1] = 't';
        break;
    default:
        escape[1] = 'u';
        escape[4] = hex[c >> 4];
        escape[5] = hex[c & 15];
        len = 6;
    }
    return cs_buf_append(buf, escape, len);
}

apr_status_t cs_buf_append_json_part(cs_buf_t *buf, const char *text, size_t len)
{
    size_t before = buf->len;
    apr_status_t rv = APR_SUCCESS;
    while (len > 0) {
        size_t run = cs_json_plain_span(text, len);
        rv = cs_buf_append(buf, text, run);
        if (rv == APR_SUCCESS && run < len) {
            rv = append_escape(buf, (unsigned char)text[run]);
            run++;
        }
        if (rv != APR_SUCCESS) {
            buf->len = before;
            break;
        }
        text += run;
        len -= run;
    }
    return rv;
}

apr_status_t cs_buf_append_json(cs_buf_t *buf, const char *text, size_t len)
{
    size_t before = buf->len;
    apr_status_t rv = cs_buf_append(buf, "\"", 1);
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json_part(buf, text, len);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(buf, "\"", 1);
    }
    if (rv != APR_SUCCESS) {
        buf->len = before;
    }
    return rv;
}

char *cs_buf_detach(cs_buf_t *buf, size_t *len)
{
    char *data = buf->data;
    *len = buf->len;
    buf->data = NULL;
    buf->len = 0;
    buf->cap = 0;
    return data;
}
