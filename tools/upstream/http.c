/* SPDX-License-Identifier: Apache-2.0 */
#include "http.h"

#include <string.h>
#include <strings.h>

enum { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, DONE };

static up_http_t fail(up_request_t *r, int status)
{
    r->error = status;
    return UP_HTTP_ERROR;
}

/* Where the head ends, looking only at what the last `added` bytes can have completed; 0: not yet. */
static size_t find_head_end(const up_buf_t *head, size_t added)
{
    const char *data = head->data + head->off;
    size_t back = added + 3 < head->len ? added + 3 : head->len;
    const char *end = memmem(data + head->len - back, back, "\r\n\r\n", 4);

    return end ? (size_t)(end - data) + 4 : 0;
}

static bool token_has(const char *value, size_t len, const char *word)
{
    size_t word_len = strlen(word);
    size_t i;

    for (i = 0; i + word_len <= len; i++) {
        if (strncasecmp(value + i, word, word_len) == 0) {
            return true;
        }
    }
    return false;
}

static bool parse_request_line(up_request_t *r)
{
    char *line = r->head.data + r->head.off;
    char *end = memchr(line, '\r', r->head.len);
    char *target;
    char *version;
    char *query;

    if (memchr(line, '\0', r->head.len) != NULL) {
        return false;
    }
    *end = '\0';
    r->fields = (size_t)(end - line) + 2;
    target = strchr(line, ' ');
    version = target ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || target == line || target[1] != '/') {
        return false;
    }
    *target++ = '\0';
    *version++ = '\0';
    if (strncmp(version, "HTTP/1.", 7) != 0 || (version[7] != '0' && version[7] != '1') || version[8] != '\0') {
        return false;
    }
    r->minor = version[7] - '0';
    query = strchr(target, '?');
    if (query != NULL) {
        *query++ = '\0';
    }
    r->method = line;
    r->path = target;
    r->query = query ? query : "";
    return true;
}

static bool parse_length(const char *value, size_t len, uint64_t *length)
{
    size_t i;

    *length = 0;
    if (len == 0 || len > 15) {
        return false;
    }
    for (i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9') {
            return false;
        }
        *length = *length * 10 + (uint64_t)(value[i] - '0');
    }
    return true;
}

static up_http_t parse_head(up_request_t *r)
{
    const char *value;
    size_t len;

    if (!parse_request_line(r)) {
        return fail(r, 400);
    }
    value = up_http_header(r, "connection", &len);
    r->keep_alive = r->minor == 1 && (value == NULL || !token_has(value, len, "close"));
    value = up_http_header(r, "transfer-encoding", &len);
    r->state = DONE;
    if (value != NULL) {
        if (!token_has(value, len, "chunked")) {
            return fail(r, 501);
        }
        r->state = CHUNK_SIZE;
    }
    else if ((value = up_http_header(r, "content-length", &len)) != NULL) {
        if (!parse_length(value, len, &r->left)) {
            return fail(r, 400);
        }
        if (r->left > UP_HTTP_MAX_BODY) {
            return fail(r, 413);
        }
        r->state = r->left > 0 ? BODY : DONE;
    }
    if (r->state == DONE) {
        return UP_HTTP_DONE;
    }
    value = up_http_header(r, "expect", &len);
    return value != NULL && token_has(value, len, "100-continue") ? UP_HTTP_CONTINUE : UP_HTTP_MORE;
}

static up_http_t take_head(up_request_t *r, const char *data, size_t len, size_t *used)
{
    size_t before = r->head.len;
    size_t take = len < UP_HTTP_MAX_HEAD - before ? len : UP_HTTP_MAX_HEAD - before;
    size_t end;

    up_buf_add(&r->head, data, take);
    end = find_head_end(&r->head, take);
    if (end == 0) {
        *used = take;
        return r->head.len >= UP_HTTP_MAX_HEAD ? fail(r, 431) : UP_HTTP_MORE;
    }
    *used = end - before;
    r->head.len = end;
    return parse_head(r);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte of the lines between the chunks. r->line counts the bytes of the line; extensions are skipped over. */
static up_http_t take_framing(up_request_t *r, char c)
{
    if (++r->line > 4096) {
        return fail(r, 400);
    }
    if (r->state == CHUNK_SIZE && c != '\n') {
        int digit = hex_digit(c);

        if (c == '\r' || c == ';' || c == ' ' || r->size_over) {
            r->size_over = true;
            return r->line == 1 ? fail(r, 400) : UP_HTTP_MORE;
        }
        if (digit < 0) {
            return fail(r, 400);
        }
        r->left = r->left * 16 + (uint64_t)digit;
        return r->left > UP_HTTP_MAX_BODY - r->body.len ? fail(r, 413) : UP_HTTP_MORE;
    }
    if (c != '\n') {
        return UP_HTTP_MORE;
    }
    switch (r->state) {
    case CHUNK_SIZE:
        if (r->line == 1) {
            return fail(r, 400);
        }
        r->size_over = false;
        r->state = r->left > 0 ? CHUNK_DATA : TRAILER;
        break;
    case CHUNK_END:
        r->state = CHUNK_SIZE;
        break;
    default:
        if (r->line <= 2) {
            r->state = DONE;
        }
        break;
    }
    r->line = 0;
    return r->state == DONE ? UP_HTTP_DONE : UP_HTTP_MORE;
}

static size_t take_body(up_request_t *r, const char *data, size_t len)
{
    size_t take = len < r->left ? len : (size_t)r->left;

    up_buf_add(&r->body, data, take);
    r->left -= take;
    if (r->left == 0) {
        r->state = r->state == BODY ? DONE : CHUNK_END;
    }
    return take;
}

up_http_t up_http_parse(up_request_t *r, const char *data, size_t len, size_t *used)
{
    up_http_t result = UP_HTTP_MORE;

    *used = 0;
    if (r->state == HEAD) {
        /* Empty lines before a request are skipped, as RFC 9112 asks. */
        while (r->head.len == 0 && *used < len && (data[*used] == '\r' || data[*used] == '\n')) {
            ++*used;
        }
        if (*used < len) {
            size_t taken = 0;

            result = take_head(r, data + *used, len - *used, &taken);
            *used += taken;
        }
    }
    while ((result == UP_HTTP_MORE || result == UP_HTTP_CONTINUE) && *used < len && r->state != HEAD) {
        if (r->state == BODY || r->state == CHUNK_DATA) {
            *used += take_body(r, data + *used, len - *used);
            result = r->state == DONE ? UP_HTTP_DONE : UP_HTTP_MORE;
        }
        else {
            result = take_framing(r, data[(*used)++]);
        }
    }
    return result;
}

bool up_http_field(const up_request_t *r, size_t *at, const char **name, size_t *name_len, const char **value,
                   size_t *value_len)
{
    const char *base = r->head.data + r->head.off;
    const char *line = base + r->fields + *at;
    const char *limit = base + r->head.len;
    const char *end = memchr(line, '\r', (size_t)(limit - line));
    const char *colon;

    if (end == NULL || end == line) {
        return false;
    }
    *at = (size_t)(end - base) + 2 - r->fields;
    colon = memchr(line, ':', (size_t)(end - line));
    *name = line;
    *name_len = (size_t)((colon ? colon : end) - line);
    line = colon ? colon + 1 : end;
    while (line < end && (*line == ' ' || *line == '\t')) {
        line++;
    }
    while (end > line && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    *value = line;
    *value_len = (size_t)(end - line);
    return true;
}

const char *up_http_header(const up_request_t *r, const char *name, size_t *len)
{
    const char *field;
    const char *value;
    size_t field_len;
    size_t at = 0;

    while (up_http_field(r, &at, &field, &field_len, &value, len)) {
        if (field_len == strlen(name) && strncasecmp(field, name, field_len) == 0) {
            return value;
        }
    }
    return NULL;
}

void up_http_reset(up_request_t *r)
{
    up_buf_free(&r->head);
    up_buf_free(&r->body);
    memset(r, 0, sizeof *r);
}

const char *up_http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } known[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {402, "Payment Required"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {418, "I'm a teapot"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {529, "Overloaded"},
    };
    size_t i;

    for (i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].status == status) {
            return known[i].reason;
        }
    }
    return "Unknown";
}
