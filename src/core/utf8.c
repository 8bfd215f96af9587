/* SPDX-License-Identifier: Apache-2.0 */
/* utf8: RFC 3629 validation and the WHATWG way of repairing what is not UTF-8. */
#include "chatstream/core.h"

#include <string.h>

typedef enum {
    CHAR_OK,
    CHAR_CUT, /* the text ends before the character does */
    CHAR_BAD
} char_state_e;

/*
 * Looks at the character that begins at p. `*len` is its length or, when it is not one, the length of the maximal part
 * that becomes one U+FFFD (Unicode 15 section 3.9, "substitution of maximal subparts").
 */
static char_state_e look(const unsigned char *p, const unsigned char *end, size_t *len)
{
    size_t want;
    unsigned char low = 0x80;
    unsigned char high = 0xbf;
    *len = 1;
    if (p[0] < 0x80) {
        return CHAR_OK;
    }
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        want = 2;
    }
    else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        want = 3;
        low = p[0] == 0xe0 ? 0xa0 : 0x80;
        high = p[0] == 0xed ? 0x9f : 0xbf;
    }
    else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        want = 4;
        low = p[0] == 0xf0 ? 0x90 : 0x80;
        high = p[0] == 0xf4 ? 0x8f : 0xbf;
    }
    else {
        return CHAR_BAD;
    }
    for (; *len < want; (*len)++) {
        if (p + *len == end) {
            return CHAR_CUT;
        }
        if (p[*len] < low || p[*len] > high) {
            return CHAR_BAD;
        }
        low = 0x80;
        high = 0xbf;
    }
    return CHAR_OK;
}

size_t cs_utf8_valid_prefix(const char *text, size_t len)
{
    const unsigned char *start = (const unsigned char *)text;
    const unsigned char *p = start;
    if (len == 0) {
        return 0;
    }
    const unsigned char *end = start + len;
    while (p < end) {
        if (end - p >= 8) {
            uint64_t word;
            memcpy(&word, p, 8);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                p += 8;
                continue;
            }
        }
        size_t step;
        if (look(p, end, &step) != CHAR_OK) {
            break;
        }
        p += step;
    }
    return (size_t)(p - start);
}

size_t cs_utf8_incomplete_suffix(const char *text, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        const unsigned char *p = (const unsigned char *)text + len - back;
        if (*p >= 0xc0) {
            size_t step;
            return look(p, p + back, &step) == CHAR_CUT ? back : 0;
        }
        if (*p < 0x80) {
            break;
        }
    }
    return 0;
}

apr_status_t cs_utf8_append_repaired(cs_buf_t *out, const char *text, size_t len)
{
    size_t before = out->len;
    while (len > 0) {
        size_t good = cs_utf8_valid_prefix(text, len);
        apr_status_t rv = cs_buf_append(out, text, good);
        text += good;
        len -= good;
        if (rv == APR_SUCCESS && len > 0) {
            size_t bad;
            look((const unsigned char *)text, (const unsigned char *)text + len, &bad);
            rv = cs_buf_append(out, "\xef\xbf\xbd", 3);
            text += bad;
            len -= bad;
        }
        if (rv != APR_SUCCESS) {
            out->len = before;
            return rv;
        }
    }
    return APR_SUCCESS;
}
