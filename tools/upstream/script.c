/* SPDX-License-Identifier: Apache-2.0 */
#include "script.h"

#include "params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPTS_MAX 1024
#define LINES_MAX   65536

typedef enum argument_t { NOTHING, TEXT, NUMBER, NAME, FIELD, FILLING } argument_t;

static const struct {
    const char *word;
    up_verb_t verb;
    argument_t argument;
    uint64_t max;
} verbs[] = {
    {"status", UP_DO_STATUS, NUMBER, 999},
    {"header", UP_DO_HEADER, FIELD, 0},
    {"length", UP_DO_LENGTH, NUMBER, 1ULL << 40},
    {"headers", UP_DO_HEADERS, NOTHING, 0},
    {"send", UP_DO_SEND, TEXT, 0},
    {"token", UP_DO_TOKEN, TEXT, 0},
    {"done", UP_DO_DONE, NOTHING, 0},
    {"raw", UP_DO_RAW, TEXT, 0},
    {"fill", UP_DO_FILL, FILLING, 1ULL << 40},
    {"sleep", UP_DO_SLEEP, NUMBER, 3600000},
    {"wait", UP_DO_WAIT, NAME, 0},
    {"signal", UP_DO_SIGNAL, NAME, 0},
    {"repeat", UP_DO_REPEAT, NUMBER, 1000000000},
    {"end", UP_DO_END, NOTHING, 0},
    {"stall", UP_DO_STALL, NOTHING, 0},
    {"cut", UP_DO_CUT, NOTHING, 0},
    {"close", UP_DO_CLOSE, NOTHING, 0},
};

static struct {
    char name[UP_NAME_MAX + 1];
    up_script_t *script;
} kept[SCRIPTS_MAX];
static size_t kept_count;

static int hex_value(const char *p)
{
    static const char digits[] = "0123456789abcdef";
    int value = 0;
    int i;

    for (i = 0; i < 2; i++) {
        const char *digit = p[i] != '\0' ? strchr(digits, p[i] >= 'A' && p[i] <= 'F' ? p[i] | 0x20 : p[i]) : NULL;

        if (digit == NULL) {
            return -1;
        }
        value = value * 16 + (int)(digit - digits);
    }
    return value;
}

/* One escape after its backslash; how many characters it has, or 0 when it is none. */
static size_t unescape(const char *p, char *c)
{
    static const char from[] = "nrt0\\";
    static const char to[] = "\n\r\t\0\\";
    const char *found = *p != '\0' ? strchr(from, *p) : NULL;
    int value;

    if (found != NULL) {
        *c = to[found - from];
        return 1;
    }
    value = *p == 'x' ? hex_value(p + 1) : -1;
    *c = (char)value;
    return value < 0 ? 0 : 3;
}

static size_t variable(const char *p, char *what)
{
    size_t len = strspn(p + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") + 1;

    *what = '\0';
    if (len == 2 && p[1] == 'n') {
        *what = 'n';
    }
    else if (len == 8 && strncmp(p, "$message", 8) == 0) {
        *what = 'm';
    }
    return *what != '\0' ? len : 0;
}

static const char *parse_text(up_line_t *line, const char *p)
{
    line->text = up_alloc(strlen(p) + 1);
    while (*p != '\0') {
        char what = *p;
        size_t len = 1;

        if (*p == '\\') {
            len = unescape(p + 1, &what);
            if (len == 0) {
                return "an escape is one of \\n \\r \\t \\0 \\\\ \\xHH";
            }
            len++;
        }
        else if (*p == '$' && (len = variable(p, &what)) > 0) {
            up_insert_t *more = realloc(line->inserts, (line->inserts_count + 1) * sizeof *more);

            if (more == NULL) {
                abort();
            }
            more[line->inserts_count].at = line->len;
            more[line->inserts_count++].what = what;
            line->inserts = more;
            p += len;
            continue;
        }
        else {
            what = *p;
            len = 1;
        }
        line->text[line->len++] = what;
        p += len;
    }
    return NULL;
}

static const char *parse_filling(up_line_t *line, char *p, uint64_t max)
{
    char *character = strchr(p, ' ');
    const char *wrong;

    if (character != NULL) {
        *character++ = '\0';
    }
    if (!up_params_number(p, max, &line->number)) {
        return "a number is expected";
    }
    wrong = parse_text(line, character != NULL ? character : "x");
    return wrong == NULL && line->len != 1 ? "one character is expected behind the number" : wrong;
}

static const char *parse_argument(up_line_t *line, argument_t kind, uint64_t max, char *p)
{
    switch (kind) {
    case NOTHING:
        return *p != '\0' ? "this step takes nothing" : NULL;
    case TEXT:
        return parse_text(line, p);
    case FILLING:
        return parse_filling(line, p, max);
    case NUMBER:
        return up_params_number(p, max, &line->number) ? NULL : "a number is expected, or a smaller one";
    case NAME:
        line->text = up_strndup(p, strlen(p));
        return up_params_name(p) ? NULL : "a name is 1 to 64 of A-Z a-z 0-9 _ . -";
    default:
        line->text = up_strndup(p, strlen(p));
        line->len = strlen(p);
        return strchr(p, ':') != NULL ? NULL : "a header is Name: value";
    }
}

static const char *parse_line(up_line_t *line, char *p)
{
    size_t word = strcspn(p, " \t");
    size_t i;

    for (i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strlen(verbs[i].word) == word && strncmp(verbs[i].word, p, word) == 0) {
            line->verb = verbs[i].verb;
            return parse_argument(line, verbs[i].argument, verbs[i].max, p + word + (p[word] != '\0'));
        }
    }
    return "no such step";
}

/* What only the order of the lines can tell. */
static const char *check_order(const up_line_t *line, unsigned *depth, bool *head_sent)
{
    switch (line->verb) {
    case UP_DO_STATUS:
    case UP_DO_HEADER:
    case UP_DO_LENGTH:
        if (line->verb == UP_DO_STATUS && line->number < 200) {
            return "a status below 200 is sent with raw";
        }
        return *head_sent ? "the head was sent before" : NULL;
    case UP_DO_HEADERS:
    case UP_DO_SEND:
    case UP_DO_TOKEN:
    case UP_DO_DONE:
    case UP_DO_FILL:
        *head_sent = true;
        return NULL;
    case UP_DO_REPEAT:
        return ++*depth > UP_REPEAT_DEPTH ? "repeat is nested too deeply" : NULL;
    case UP_DO_END:
        return (*depth)-- == 0 ? "end without repeat" : NULL;
    default:
        return NULL;
    }
}

void up_script_release(up_script_t *script)
{
    size_t i;

    if (script == NULL || --script->users > 0) {
        return;
    }
    for (i = 0; i < script->count; i++) {
        free(script->lines[i].text);
        free(script->lines[i].inserts);
    }
    free(script->lines);
    free(script);
}

static const char *add_line(up_script_t *script, size_t *cap, char *p, unsigned *depth, bool *head_sent)
{
    up_line_t *line;
    const char *wrong;

    if (script->count == LINES_MAX) {
        return "too many steps";
    }
    if (script->count == *cap) {
        *cap = *cap * 2 + 16;
        line = realloc(script->lines, *cap * sizeof *line);
        if (line == NULL) {
            abort();
        }
        script->lines = line;
    }
    line = &script->lines[script->count++];
    memset(line, 0, sizeof *line);
    wrong = parse_line(line, p);
    return wrong != NULL ? wrong : check_order(line, depth, head_sent);
}

static const char *parse(up_script_t *script, char *text, unsigned *number)
{
    const char *wrong = NULL;
    unsigned depth = 0;
    bool head_sent = false;
    size_t cap = 0;

    for (*number = 1; wrong == NULL && *text != '\0'; ++*number) {
        size_t len = strcspn(text, "\n");
        char *next = text + len + (text[len] != '\0');

        text[len] = '\0';
        if (len > 0 && text[len - 1] == '\r') {
            text[len - 1] = '\0';
        }
        text += strspn(text, " \t");
        if (*text != '\0' && *text != '#') {
            wrong = add_line(script, &cap, text, &depth, &head_sent);
        }
        text = next;
    }
    --*number;
    return wrong == NULL && depth > 0 ? "repeat without end" : wrong;
}

static void keep(size_t i, const char *name, up_script_t *script)
{
    if (i == kept_count) {
        strcpy(kept[kept_count++].name, name);
    }
    else {
        up_script_release(kept[i].script);
    }
    kept[i].script = script;
}

static size_t find(const char *name)
{
    size_t i;

    for (i = 0; i < kept_count; i++) {
        if (strcmp(kept[i].name, name) == 0) {
            break;
        }
    }
    return i;
}

bool up_script_put(const char *name, const char *text, size_t len, char *wrong, size_t wrong_size)
{
    up_script_t *script = up_alloc(sizeof *script);
    char *copy = up_strndup(text, len);
    const char *reason = len != strlen(copy) ? "a script has no NUL bytes" : NULL;
    unsigned number = 0;
    size_t i = find(name);

    script->users = 1;
    if (reason == NULL) {
        reason = i == SCRIPTS_MAX ? "too many scripts" : parse(script, copy, &number);
    }
    free(copy);
    if (reason != NULL) {
        snprintf(wrong, wrong_size, "script %s, line %u: %s", name, number, reason);
        up_script_release(script);
        return false;
    }
    keep(i, name, script);
    return true;
}

up_script_t *up_script_use(const char *name)
{
    size_t i = find(name);

    if (i == kept_count) {
        return NULL;
    }
    kept[i].script->users++;
    return kept[i].script;
}

void up_script_forget_all(void)
{
    while (kept_count > 0) {
        up_script_release(kept[--kept_count].script);
    }
}
