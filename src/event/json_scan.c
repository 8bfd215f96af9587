/* SPDX-License-Identifier: Apache-2.0 */
#include "event/json_scan.h"

static int is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

char cs_json_scan_peek(cs_json_scan_t *scan)
{
    while (scan->at < scan->end && is_space(*scan->at)) {
        scan->at++;
    }
    return scan->at < scan->end ? *scan->at : '\0';
}

int cs_json_scan_end(cs_json_scan_t *scan)
{
    cs_json_scan_peek(scan);
    return scan->at == scan->end;
}

int cs_json_scan_enter(cs_json_scan_t *scan, char open)
{
    if (cs_json_scan_peek(scan) != open) {
        return 0;
    }
    scan->at++;
    scan->started = 0;
    return 1;
}

/* To the next item of an object or array: past the comma, or past the closing bracket. */
static int next_item(cs_json_scan_t *scan, char close)
{
    char c = cs_json_scan_peek(scan);
    if (c == close) {
        scan->at++;
        scan->started = 1; /* what was stepped into was an item of what is open now */
        return 0;
    }
    if (!scan->started) {
        scan->started = 1;
        return 1;
    }
    if (c != ',') {
        return -1;
    }
    scan->at++;
    return 1;
}

int cs_json_scan_element(cs_json_scan_t *scan)
{
    return next_item(scan, ']');
}

int cs_json_scan_member(cs_json_scan_t *scan, cs_json_str_t *key)
{
    int more = next_item(scan, '}');
    if (more <= 0) {
        return more;
    }
    if (!cs_json_scan_string(scan, key) || cs_json_scan_peek(scan) != ':') {
        return -1;
    }
    scan->at++;
    return 1;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hex digits, or -1. */
static int hex4(const char *p, const char *end)
{
    int value = 0;
    if (end - p < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

/* Length of the escape at p, which points at its backslash; 0: it is none. */
static size_t escape_len(const char *p, const char *end)
{
    if (end - p < 2) {
        return 0;
    }
    switch (p[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return 2;
    case 'u':
        return hex4(p + 2, end) >= 0 ? 6 : 0;
    default:
        return 0;
    }
}

int cs_json_scan_string(cs_json_scan_t *scan, cs_json_str_t *str)
{
    if (cs_json_scan_peek(scan) != '"') {
        return 0;
    }
    const char *p = scan->at + 1;
    str->text = p;
    str->escaped = 0;
    for (;;) {
        p += cs_json_plain_span(p, (size_t)(scan->end - p));
        if (p == scan->end) {
            return 0;
        }
        if (*p == '"') {
            break;
        }
        size_t escape = *p == '\\' ? escape_len(p, scan->end) : 0;
        if (escape == 0) {
            return 0;
        }
        str->escaped = 1;
        p += escape;
    }
    str->len = (size_t)(p - str->text);
    scan->at = p + 1;
    return 1;
}

static int skip_word(cs_json_scan_t *scan, const char *word, size_t len)
{
    if ((size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0) {
        return 0;
    }
    scan->at += len;
    return 1;
}

int cs_json_scan_null(cs_json_scan_t *scan)
{
    return cs_json_scan_peek(scan) == 'n' && skip_word(scan, "null", 4);
}

static int skip_digits(cs_json_scan_t *scan)
{
    const char *start = scan->at;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9') {
        scan->at++;
    }
    return scan->at > start;
}

static int skip_char(cs_json_scan_t *scan, char c)
{
    if (scan->at == scan->end || *scan->at != c) {
        return 0;
    }
    scan->at++;
    return 1;
}

static int skip_number(cs_json_scan_t *scan)
{
    skip_char(scan, '-');
    if (!skip_char(scan, '0') && !skip_digits(scan)) {
        return 0;
    }
    if (skip_char(scan, '.') && !skip_digits(scan)) {
        return 0;
    }
    if (skip_char(scan, 'e') || skip_char(scan, 'E')) {
        if (!skip_char(scan, '+')) {
            skip_char(scan, '-');
        }
        return skip_digits(scan);
    }
    return 1;
}

static int skip_scalar(cs_json_scan_t *scan, char first)
{
    cs_json_str_t ignored;
    switch (first) {
    case '"':
        return cs_json_scan_string(scan, &ignored);
    case 't':
        return skip_word(scan, "true", 4);
    case 'f':
        return skip_word(scan, "false", 5);
    case 'n':
        return skip_word(scan, "null", 4);
    default:
        return skip_number(scan);
    }
}

/* Iterative, because the depth is the sender's choice; one bit per level says whether it is an object. */
int cs_json_scan_skip(cs_json_scan_t *scan)
{
    uint64_t objects = 0;
    int depth = 0;
    for (;;) {
        char c = cs_json_scan_peek(scan);
        if (c == '{' || c == '[') {
            if (depth == CS_JSON_DEPTH_MAX) {
                return 0;
            }
            cs_json_scan_enter(scan, c);
            depth++;
            objects = objects << 1 | (c == '{');
        }
        else if (!skip_scalar(scan, c)) {
            return 0;
        }
        else {
            scan->started = 1;
        }
        /* Leave what ends here; stop at the next value to come. */
        for (;;) {
            cs_json_str_t key;
            if (depth == 0) {
                return 1;
            }
            int more = objects & 1 ? cs_json_scan_member(scan, &key) : cs_json_scan_element(scan);
            if (more < 0) {
                return 0;
            }
            if (more > 0) {
                break;
            }
            depth--;
            objects >>= 1;
        }
    }
}

int cs_json_valid(const char *text, size_t len)
{
    if (len == 0) {
        return 0;
    }
    cs_json_scan_t scan = {text, text + len, 0};
    return cs_json_scan_skip(&scan) && cs_json_scan_end(&scan);
}

static size_t put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* The character of the \u escape at p; `*used` is 12 when a surrogate pair made it. */
static unsigned unicode_escape(const char *p, const char *end, size_t *used)
{
    unsigned c = (unsigned)hex4(p + 2, end);
    *used = 6;
    if (c < 0xd800 || c > 0xdfff) {
        return c;
    }
    if (c <= 0xdbff && end - p >= 12 && p[6] == '\\' && p[7] == 'u') {
        unsigned low = (unsigned)hex4(p + 8, end);
        if (low >= 0xdc00 && low <= 0xdfff) {
            *used = 12;
            return 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return 0xfffd;
}

static char plain_escape(char c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return c;
    }
}

apr_status_t cs_json_unescape(const cs_json_str_t *str, cs_buf_t *out)
{
    /* The value is never longer than its escaped form: \ud800 is six bytes, U+FFFD three. */
    apr_status_t rv = cs_buf_reserve(out, str->len);
    if (rv != APR_SUCCESS || str->len == 0) {
        return rv;
    }
    const char *p = str->text;
    const char *end = p + str->len;
    char *to = out->data + out->len;
    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        size_t run = slash ? (size_t)(slash - p) : (size_t)(end - p);
        memcpy(to, p, run);
        to += run;
        p += run;
        if (p == end) {
            break;
        }
        size_t used = 2;
        if (p[1] == 'u') {
            to += put_utf8(to, unicode_escape(p, end, &used));
        }
        else {
            *to++ = plain_escape(p[1]);
        }
        p += used;
    }
    out->len = (size_t)(to - out->data);
    return APR_SUCCESS;
}
