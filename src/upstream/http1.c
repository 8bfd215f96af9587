/* SPDX-License-Identifier: Apache-2.0 */
#include "http1.h"

#include <string.h>
#include <strings.h>

#define CHUNK_LINE_MAX 4096 /* size and extensions */
#define SPAN_MAX       8192 /* of the body in one call: whoever takes it looks for room before each */

enum {
    STATUS_LINE,
    HEADER_LINE,
    BODY,
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_END,
    CHUNK_END_LF,
    TRAILER,
    DONE
};

enum { HEADER_NONE, HEADER_ANY, HEADER_THAT_MATTERS };

static cs_http1_e garbage(cs_http1_t *http, const char *why)
{
    http->error = why;
    return CS_HTTP1_GARBAGE;
}

static void begin_head(cs_http1_t *http)
{
    http->state = STATUS_LINE;
    http->header = HEADER_NONE;
    http->retry_after[0] = '\0';
    http->left = http->length = 0;
    http->has_length = http->chunked = http->says_close = http->says_keep = http->until_close = 0;
}

void cs_http1_init(cs_http1_t *http, const cs_http1_events_t *events, void *baton)
{
    http->events = events;
    http->baton = baton;
    http->error = NULL;
    http->status = 0;
    http->line.max = CS_HTTP1_HEAD_MAX;
    http->line.len = 0;
    http->head_len = 0;
    begin_head(http);
}

void cs_http1_release(cs_http1_t *http)
{
    cs_buf_free(&http->line);
}

/* ---- header fields ----------------------------------------------------------------------------------------------- */

static int is_token(const char *text, size_t len)
{
    static const char others[] = "!#$%&'*+-.^_`|~"; /* RFC 9110 section 5.6.2 */
    size_t i;

    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (!((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr(others, c)))) {
            return 0;
        }
    }
    return len > 0;
}

static void trim(const char **text, size_t *len)
{
    while (*len && (**text == ' ' || **text == '\t')) {
        ++*text;
        --*len;
    }
    while (*len && ((*text)[*len - 1] == ' ' || (*text)[*len - 1] == '\t')) {
        --*len;
    }
}

/* The next element of a comma-separated list, which may be empty; 0: there is none. */
static int next_element(const char **list, size_t *list_len, const char **element, size_t *len)
{
    const char *comma;

    if (!*list) {
        return 0;
    }
    comma = memchr(*list, ',', *list_len);
    *element = *list;
    *len = comma ? (size_t)(comma - *list) : *list_len;
    *list = comma ? comma + 1 : NULL;
    *list_len -= comma ? *len + 1 : 0;
    trim(element, len);
    return 1;
}

static int is_word(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && !strncasecmp(text, word, len);
}

/* A list of the same number is what a careless proxy makes of a repeated field (RFC 9110 section 8.6). */
static cs_http1_e take_length(cs_http1_t *http, const char *value, size_t value_len)
{
    const char *element;
    size_t len, i;

    while (next_element(&value, &value_len, &element, &len)) {
        uint64_t number = 0;

        for (i = 0; i < len; i++) {
            unsigned digit = (unsigned char)element[i] - '0';

            if (digit > 9 || number > (UINT64_MAX - digit) / 10) {
                return garbage(http, "its Content-Length is no number");
            }
            number = number * 10 + digit;
        }
        if (!len) {
            return garbage(http, "its Content-Length is no number");
        }
        if (http->has_length && number != http->length) {
            return garbage(http, "it has two different Content-Lengths");
        }
        http->has_length = 1;
        http->length = number;
    }
    return CS_HTTP1_MORE;
}

static cs_http1_e take_coding(cs_http1_t *http, const char *value, size_t value_len)
{
    const char *element;
    size_t len;

    while (next_element(&value, &value_len, &element, &len)) {
        if (is_word(element, len, "chunked") && !http->chunked) {
            http->chunked = 1;
        }
        else if (len && (http->chunked || !is_word(element, len, "identity"))) {
            return garbage(http, "its Transfer-Encoding is not chunked");
        }
    }
    return CS_HTTP1_MORE;
}

static void take_connection(cs_http1_t *http, const char *value, size_t value_len)
{
    const char *element;
    size_t len;

    while (next_element(&value, &value_len, &element, &len)) {
        http->says_close |= is_word(element, len, "close");
        http->says_keep |= is_word(element, len, "keep-alive");
    }
}

static cs_http1_e take_field(cs_http1_t *http, const char *name, size_t name_len, const char *value, size_t len)
{
    http->header = HEADER_THAT_MATTERS;
    if (is_word(name, name_len, "Content-Length")) {
        return take_length(http, value, len);
    }
    if (is_word(name, name_len, "Transfer-Encoding")) {
        return take_coding(http, value, len);
    }
    if (is_word(name, name_len, "Connection")) {
        take_connection(http, value, len);
    }
    else if (is_word(name, name_len, "Retry-After")) {
        len = len < sizeof(http->retry_after) ? len : 0;
        memcpy(http->retry_after, value, len);
        http->retry_after[len] = '\0';
    }
    else {
        http->header = HEADER_ANY;
    }
    return CS_HTTP1_MORE;
}

static cs_http1_e take_header(cs_http1_t *http, const char *line, size_t len)
{
    const char *colon, *value;
    size_t value_len;

    if (memchr(line, '\r', len) || memchr(line, '\0', len)) {
        return garbage(http, "a header has a CR or NUL in it");
    }
    if (*line == ' ' || *line == '\t') {
        /* Folded lines are history; they are let pass where they cannot change what we make of the head. */
        return http->header == HEADER_ANY ? CS_HTTP1_MORE : garbage(http, "a header is folded");
    }
    colon = memchr(line, ':', len);
    if (!colon || !is_token(line, (size_t)(colon - line))) {
        return garbage(http, "a header has no name");
    }
    value = colon + 1;
    value_len = len - (size_t)(value - line);
    trim(&value, &value_len);
    return take_field(http, line, (size_t)(colon - line), value, value_len);
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

static cs_http1_e take_status(cs_http1_t *http, const char *line, size_t len)
{
    int i;

    if (len < 12 || memcmp(line, "HTTP/1.", 7) || line[7] < '0' || line[7] > '9' || line[8] != ' '
        || (len > 12 && line[12] != ' ')) {
        return garbage(http, "its status line is not HTTP/1");
    }
    http->minor = (unsigned char)(line[7] - '0');
    http->status = 0;
    for (i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9') {
            return garbage(http, "its status is no number");
        }
        http->status = http->status * 10 + (line[i] - '0');
    }
    if (http->status < 100) {
        return garbage(http, "its status is no number");
    }
    http->state = HEADER_LINE;
    return CS_HTTP1_MORE;
}

static cs_http1_e end_head(cs_http1_t *http)
{
    if (http->status < 200 && http->status != 101) {
        begin_head(http);
        return CS_HTTP1_MORE;
    }
    http->left = http->length;
    http->chunk_line = 0;
    if (http->status == 204 || http->status == 304) {
        http->state = DONE;
    }
    else if (http->status == 101) {
        http->until_close = 1;
        http->state = BODY;
    }
    else if (http->chunked) {
        http->left = 0;
        http->state = CHUNK_SIZE;
    }
    else {
        http->until_close = !http->has_length;
        http->state = http->has_length && !http->length ? DONE : BODY;
    }
    if (http->events->head(http->baton) == CS_FLOW_STOP) {
        return CS_HTTP1_STOPPED;
    }
    return http->state == DONE ? CS_HTTP1_DONE : CS_HTTP1_MORE;
}

static cs_http1_e take_line(cs_http1_t *http, const char *line, size_t len)
{
    if (len && line[len - 1] == '\r') {
        len--;
    }
    if (http->state == STATUS_LINE) {
        return take_status(http, line, len);
    }
    if (http->state == TRAILER) {
        http->state = len ? TRAILER : DONE;
        return len ? CS_HTTP1_MORE : CS_HTTP1_DONE;
    }
    return len ? take_header(http, line, len) : end_head(http);
}

/* What speaks first and never ends its line is found out before a clock does. */
static int may_be_http(const cs_http1_t *http)
{
    static const char start[] = "HTTP/1.";
    size_t len = http->line.len < sizeof(start) - 1 ? http->line.len : sizeof(start) - 1;

    return http->state != STATUS_LINE || !memcmp(http->line.data, start, len);
}

static cs_http1_e collect_line(cs_http1_t *http, const char **at, const char *end)
{
    const char *line = *at, *lf = memchr(line, '\n', (size_t)(end - line));
    size_t len = (size_t)((lf ? lf : end) - line);
    cs_http1_e result;

    http->head_len += len + 1;
    if (http->head_len > CS_HTTP1_HEAD_MAX) {
        return garbage(http, "its head is too large");
    }
    *at = lf ? lf + 1 : end;
    if (lf && !http->line.len) {
        return take_line(http, line, len);
    }
    http->head_len -= lf ? 0 : 1;
    if (cs_buf_append(&http->line, line, len)) {
        return garbage(http, "there is no memory for its head");
    }
    if (!lf) {
        return may_be_http(http) ? CS_HTTP1_MORE : garbage(http, "it does not begin with HTTP/1");
    }
    result = take_line(http, http->line.data, http->line.len);
    http->line.len = 0;
    return result;
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

static cs_http1_e hand_on(cs_http1_t *http, const char **at, const char *end)
{
    size_t len = (size_t)(end - *at);

    if (!http->until_close && len > http->left) {
        len = (size_t)http->left;
    }
    len = len < SPAN_MAX ? len : SPAN_MAX;
    switch (http->events->body(http->baton, *at, len)) {
    case CS_FLOW_PAUSE:
        return CS_HTTP1_PAUSED;
    case CS_FLOW_STOP:
        return CS_HTTP1_STOPPED;
    case CS_FLOW_ON:
        break;
    }
    *at += len;
    if (http->until_close) {
        return CS_HTTP1_MORE;
    }
    http->left -= len;
    if (!http->left) {
        http->state = http->chunked ? CHUNK_END : DONE;
    }
    return http->state == DONE ? CS_HTTP1_DONE : CS_HTTP1_MORE;
}

static cs_http1_e end_size_line(cs_http1_t *http)
{
    http->state = http->left ? BODY : TRAILER;
    http->chunk_line = 0;
    return CS_HTTP1_MORE;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static cs_http1_e take_size(cs_http1_t *http, char c)
{
    int digit = hex_digit(c);

    if (digit >= 0) {
        if (http->left >> 60) {
            return garbage(http, "a chunk's size is too large");
        }
        http->left = http->left << 4 | (unsigned)digit;
        return CS_HTTP1_MORE;
    }
    if (http->chunk_line == 1) {
        return garbage(http, "a chunk has no size");
    }
    switch (c) {
    case '\n':
        return end_size_line(http);
    case '\r':
        http->state = CHUNK_SIZE_LF;
        return CS_HTTP1_MORE;
    case ';':
    case ' ':
    case '\t':
        http->state = CHUNK_EXTENSION;
        return CS_HTTP1_MORE;
    default:
        return garbage(http, "a chunk's size is no number");
    }
}

/* The bytes around a chunk. A bare LF passes for CR LF, as it does in libcurl. */
static cs_http1_e take_frame(cs_http1_t *http, char c)
{
    switch (http->state) {
    case CHUNK_SIZE:
    case CHUNK_EXTENSION:
        if (++http->chunk_line > CHUNK_LINE_MAX) {
            return garbage(http, "a chunk's size line is too long");
        }
        if (http->state == CHUNK_SIZE) {
            return take_size(http, c);
        }
        if (c == '\n') {
            return end_size_line(http);
        }
        http->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
        return CS_HTTP1_MORE;
    case CHUNK_SIZE_LF:
        return c == '\n' ? end_size_line(http) : garbage(http, "a chunk's size line has a bare CR");
    case CHUNK_END:
        if (c == '\r') {
            http->state = CHUNK_END_LF;
            return CS_HTTP1_MORE;
        }
        /* fall through */
    default: /* CHUNK_END_LF */
        http->state = CHUNK_SIZE;
        return c == '\n' ? CS_HTTP1_MORE : garbage(http, "a chunk is longer than its size");
    }
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */

cs_http1_e cs_http1_feed(cs_http1_t *http, const char *bytes, size_t len, size_t *consumed)
{
    const char *at = bytes, *end = bytes + len;
    cs_http1_e result = http->error ? CS_HTTP1_GARBAGE : http->state == DONE ? CS_HTTP1_DONE : CS_HTTP1_MORE;

    while (result == CS_HTTP1_MORE && at < end) {
        switch (http->state) {
        case STATUS_LINE:
        case HEADER_LINE:
        case TRAILER:
            result = collect_line(http, &at, end);
            break;
        case BODY:
            result = hand_on(http, &at, end);
            break;
        default:
            result = take_frame(http, *at++);
            break;
        }
    }
    *consumed = (size_t)(at - bytes);
    return result;
}

cs_http1_e cs_http1_finish(const cs_http1_t *http)
{
    return http->state == DONE || (http->state == BODY && http->until_close) ? CS_HTTP1_DONE : CS_HTTP1_MORE;
}

int cs_http1_reusable(const cs_http1_t *http)
{
    if (http->state != DONE || http->says_close || (http->chunked && (http->has_length || !http->minor))) {
        return 0;
    }
    return http->minor || http->says_keep;
}
