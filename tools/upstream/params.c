/* SPDX-License-Identifier: Apache-2.0 */
#include "params.h"

#include <stdio.h>
#include <string.h>

#define HOUR_MS 3600000

bool up_params_number(const char *text, uint64_t max, uint64_t *number)
{
    uint64_t value = 0;

    if (*text == '\0') {
        return false;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') {
            return false;
        }
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > max) {
            return false;
        }
    }
    *number = value;
    return true;
}

bool up_params_name(const char *text)
{
    size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

    return len > 0 && len <= UP_NAME_MAX && text[len] == '\0';
}

static bool small(const char *text, uint32_t max, uint32_t *out)
{
    uint64_t number;

    if (!up_params_number(text, max, &number)) {
        return false;
    }
    *out = (uint32_t)number;
    return true;
}

static bool flag(const char *text, bool *out)
{
    *out = text[0] == '1';
    return (text[0] == '0' || text[0] == '1') && text[1] == '\0';
}

static bool word(const char *text, const char *expected, bool *out)
{
    *out = true;
    return strcmp(text, expected) == 0;
}

static bool set(up_params_t *p, const char *name, const char *value)
{
    switch (name[0]) {
    case 'b':
        return strcmp(name, "burst") == 0 && flag(value, &p->burst);
    case 'c':
        return strcmp(name, "close") == 0 && flag(value, &p->close);
    case 'd':
        if (strcmp(name, "done") == 0) {
            return flag(value, &p->done);
        }
        return strcmp(name, "delay") == 0 && small(value, HOUR_MS, &p->delay);
    case 'f':
        return strcmp(name, "first") == 0 && small(value, HOUR_MS, &p->first);
    case 'r':
        if (strcmp(name, "rate") == 0) {
            return small(value, 1000000, &p->rate);
        }
        if (strcmp(name, "retry_after") == 0) {
            uint64_t seconds;

            if (!up_params_number(value, UINT32_MAX, &seconds)) {
                return false;
            }
            p->retry_after = (int64_t)seconds;
            return true;
        }
        return strcmp(name, "reply") == 0 && word(value, "echo", &p->echo);
    case 's':
        if (strcmp(name, "size") == 0) {
            return small(value, 1 << 20, &p->size);
        }
        if (strcmp(name, "stamp") == 0) {
            return flag(value, &p->stamp);
        }
        if (strcmp(name, "split") == 0) {
            return small(value, 1 << 20, &p->split);
        }
        if (strcmp(name, "status") == 0) {
            return small(value, 599, &p->status) && p->status >= 200;
        }
        if (strcmp(name, "script") == 0 && up_params_name(value)) {
            strcpy(p->script, value);
            return true;
        }
        return false;
    case 't':
        if (strcmp(name, "tokens") == 0) {
            return small(value, 100000000, &p->tokens);
        }
        if (strcmp(name, "text") == 0 && strcmp(value, "ascii") == 0) {
            p->utf8 = false;
            return true;
        }
        return strcmp(name, "text") == 0 && word(value, "utf8", &p->utf8);
    case 'u':
        return strcmp(name, "usage") == 0 && flag(value, &p->usage);
    default:
        return false;
    }
}

bool up_params_parse(up_params_t *p, const char *query, char *wrong, size_t wrong_size)
{
    static const up_params_t defaults = {
        .tokens = 20,
        .size = 8,
        .status = 200,
        .retry_after = -1,
        .usage = true,
        .done = true,
    };
    char pair[160];

    *p = defaults;
    while (*query != '\0') {
        size_t len = strcspn(query, "&");
        char *value;

        if (len >= sizeof pair) {
            snprintf(wrong, wrong_size, "a query parameter is too long");
            return false;
        }
        memcpy(pair, query, len);
        pair[len] = '\0';
        query += len + (query[len] == '&');
        value = strchr(pair, '=');
        if (value != NULL) {
            *value++ = '\0';
        }
        if (len > 0 && !set(p, pair, value ? value : "")) {
            snprintf(wrong, wrong_size, "query parameter not understood: %s=%s", pair, value ? value : "");
            return false;
        }
    }
    if (p->burst) {
        p->rate = 0;
    }
    return true;
}
