/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <string.h>

#include "chatstream/core.h"
#include "gate/strict_json.h"

typedef struct {
    const char *at;
    const char *end;
    size_t members; /* of all objects, however deep */
} scan_t;

static int scan_value(scan_t *scan, int depth);

static int peek(const scan_t *scan)
{
    return scan->at < scan->end ? (unsigned char)*scan->at : -1;
}

static int take(scan_t *scan, char c)
{
    if (scan->at < scan->end && *scan->at == c) {
        scan->at++;
        return 1;
    }
    return 0;
}

static void skip_space(scan_t *scan)
{
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r')) {
        scan->at++;
    }
}

static int scan_hex4(scan_t *scan, unsigned *unit)
{
    *unit = 0;
    if (scan->end - scan->at < 4) {
        return 0;
    }
    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)*scan->at++;
        unsigned lower = c | 0x20;
        if (c >= '0' && c <= '9') {
            *unit = *unit << 4 | (c - '0');
        }
        else if (lower >= 'a' && lower <= 'f') {
            *unit = *unit << 4 | (lower - 'a' + 10);
        }
        else {
            return 0;
        }
    }
    return 1;
}

/* After the backslash. */
static int scan_escape(scan_t *scan)
{
    unsigned unit, low;
    if (scan->at == scan->end) {
        return 0;
    }
    char c = *scan->at++;
    if (c != 'u') {
        return c != '\0' && strchr("\"\\/bfnrt", c) != NULL;
    }
    if (!scan_hex4(scan, &unit) || unit == 0 || (unit >= 0xdc00 && unit <= 0xdfff)) {
        return 0;
    }
    if (unit >= 0xd800 && unit <= 0xdbff) {
        return take(scan, '\\') && take(scan, 'u') && scan_hex4(scan, &low) && low >= 0xdc00 && low <= 0xdfff;
    }
    return 1;
}

static int scan_string(scan_t *scan)
{
    if (!take(scan, '"')) {
        return 0;
    }
    while (scan->at < scan->end) {
        unsigned char c = (unsigned char)*scan->at++;
        if (c == '"') {
            return 1;
        }
        if (c < 0x20 || (c == '\\' && !scan_escape(scan))) {
            return 0;
        }
    }
    return 0;
}

static int scan_digits(scan_t *scan)
{
    const char *start = scan->at;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9') {
        scan->at++;
    }
    return scan->at > start;
}

static int scan_number(scan_t *scan)
{
    take(scan, '-');
    if (!take(scan, '0') && !scan_digits(scan)) {
        return 0;
    }
    if (take(scan, '.') && !scan_digits(scan)) {
        return 0;
    }
    if (take(scan, 'e') || take(scan, 'E')) {
        if (!take(scan, '+')) {
            take(scan, '-');
        }
        return scan_digits(scan);
    }
    return 1;
}

static int scan_word(scan_t *scan, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0) {
        return 0;
    }
    scan->at += len;
    return 1;
}

static int scan_member(scan_t *scan, int depth)
{
    skip_space(scan);
    if (!scan_string(scan)) {
        return 0;
    }
    scan->members++;
    skip_space(scan);
    return take(scan, ':') && scan_value(scan, depth);
}

/* An object or an array, from its opening bracket. */
static int scan_container(scan_t *scan, char close, int depth)
{
    scan->at++;
    skip_space(scan);
    if (take(scan, close)) {
        return 1;
    }
    do {
        if (!(close == '}' ? scan_member(scan, depth) : scan_value(scan, depth))) {
            return 0;
        }
    } while (take(scan, ','));
    return take(scan, close);
}

/* With the white space on both sides. `depth`: how many containers may still be opened. */
static int scan_value(scan_t *scan, int depth)
{
    int good;
    skip_space(scan);
    switch (peek(scan)) {
    case '{':
        good = depth > 0 && scan_container(scan, '}', depth - 1);
        break;
    case '[':
        good = depth > 0 && scan_container(scan, ']', depth - 1);
        break;
    case '"':
        good = scan_string(scan);
        break;
    case 't':
        good = scan_word(scan, "true");
        break;
    case 'f':
        good = scan_word(scan, "false");
        break;
    case 'n':
        good = scan_word(scan, "null");
        break;
    default:
        good = scan_number(scan);
        break;
    }
    skip_space(scan);
    return good;
}

static size_t count_members(json_object *value)
{
    size_t sum = 0;
    if (json_object_is_type(value, json_type_object)) {
        sum = (size_t)json_object_object_length(value);
        json_object_object_foreach(value, name, member) {
            (void)name;
            sum += count_members(member);
        }
    }
    else if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            sum += count_members(json_object_array_get_idx(value, i));
        }
    }
    return sum;
}

json_object *cs_strict_json_object(const char *text, size_t len)
{
    scan_t scan = {text, text + len, 0};
    json_object *object = NULL;
    if (len > INT_MAX || !cs_utf8_valid(text, len) || !scan_value(&scan, CS_STRICT_JSON_DEPTH) || scan.at != scan.end) {
        return NULL;
    }
    json_tokener *tokener = json_tokener_new_ex(CS_STRICT_JSON_DEPTH + 2);
    if (tokener != NULL) {
        object = json_tokener_parse_ex(tokener, text, (int)len);
        json_tokener_free(tokener);
    }
    /* A second member of one name replaced the first: the tree has fewer than the text, whatever escapes the names were written with. */
    if (!json_object_is_type(object, json_type_object) || count_members(object) != scan.members) {
        json_object_put(object);
        return NULL;
    }
    return object;
}

const char *cs_strict_json_string(json_object *object, const char *name)
{
    json_object *value = json_object_object_get(object, name);
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}
