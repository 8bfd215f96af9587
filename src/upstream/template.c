/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/upstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

/* A template is written by hand: anything larger is the wrong file. */
#define TEMPLATE_MAX (1024 * 1024)

typedef enum { MESSAGE, HISTORY, USER, USER_EMAIL, USER_ROLE, CONVERSATION_ID, MODEL, PLACEHOLDERS } placeholder_e;

static const char *const placeholders[PLACEHOLDERS] = {"{message}",   "{history}",         "{user}", "{user_email}",
                                                       "{user_role}", "{conversation_id}", "{model}"};

/* Literal JSON text up to a placeholder, and the placeholder. The last piece has none. */
typedef struct {
    size_t literal; /* where it begins in `literals` */
    size_t len;
    int placeholder; /* placeholder_e, or -1 */
    int is_part;     /* of a longer string */
} piece_t;

struct cs_template_t {
    cs_buf_t literals;
    cs_buf_t pieces; /* of piece_t */
    size_t begun;    /* while compiling: where the current literal begins */
};

static apr_status_t end_piece(cs_template_t *tmpl, int placeholder, int is_part)
{
    piece_t piece = {tmpl->begun, tmpl->literals.len - tmpl->begun, placeholder, is_part};
    tmpl->begun = tmpl->literals.len;
    return cs_buf_append(&tmpl->pieces, &piece, sizeof(piece));
}

/* ---- compiling --------------------------------------------------------------------------------------------------- */

/* The first placeholder in text, or -1. Strings may hold NULs, so strstr will not do. */
static int find_placeholder(const char *text, size_t len, size_t *at)
{
    for (const char *brace = text; len > 0; brace++) {
        brace = memchr(brace, '{', (size_t)(text + len - brace));
        if (brace == NULL) {
            break;
        }
        size_t rest = (size_t)(text + len - brace);
        for (int i = 0; i < PLACEHOLDERS; i++) {
            size_t want = strlen(placeholders[i]);
            if (want <= rest && memcmp(brace, placeholders[i], want) == 0) {
                *at = (size_t)(brace - text);
                return i;
            }
        }
    }
    return -1;
}

static apr_status_t compile_string(cs_template_t *tmpl, const char *text, size_t len)
{
    size_t at;
    int placeholder = find_placeholder(text, len, &at);
    if (placeholder >= 0 && len == strlen(placeholders[placeholder])) {
        return end_piece(tmpl, placeholder, 0);
    }
    apr_status_t rv = cs_buf_append(&tmpl->literals, "\"", 1);
    while (rv == APR_SUCCESS && placeholder >= 0) {
        rv = cs_buf_append_json_part(&tmpl->literals, text, at);
        if (rv == APR_SUCCESS) {
            rv = end_piece(tmpl, placeholder, 1);
        }
        at += strlen(placeholders[placeholder]);
        text += at;
        len -= at;
        placeholder = find_placeholder(text, len, &at);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json_part(&tmpl->literals, text, len);
    }
    return rv == APR_SUCCESS ? cs_buf_append(&tmpl->literals, "\"", 1) : rv;
}

static apr_status_t compile(cs_template_t *tmpl, json_object *value);

static apr_status_t compile_object(cs_template_t *tmpl, json_object *object)
{
    apr_status_t rv = cs_buf_append(&tmpl->literals, "{", 1);
    int n = 0;
    json_object_object_foreach(object, key, value) {
        if (rv == APR_SUCCESS && n++ > 0) {
            rv = cs_buf_append(&tmpl->literals, ",", 1);
        }
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append_json(&tmpl->literals, key, strlen(key));
        }
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append(&tmpl->literals, ":", 1);
        }
        if (rv == APR_SUCCESS) {
            rv = compile(tmpl, value);
        }
    }
    return rv == APR_SUCCESS ? cs_buf_append(&tmpl->literals, "}", 1) : rv;
}

static apr_status_t compile_array(cs_template_t *tmpl, json_object *array)
{
    apr_status_t rv = cs_buf_append(&tmpl->literals, "[", 1);
    size_t n = json_object_array_length(array);
    for (size_t i = 0; rv == APR_SUCCESS && i < n; i++) {
        if (i > 0) {
            rv = cs_buf_append(&tmpl->literals, ",", 1);
        }
        if (rv == APR_SUCCESS) {
            rv = compile(tmpl, json_object_array_get_idx(array, i));
        }
    }
    return rv == APR_SUCCESS ? cs_buf_append(&tmpl->literals, "]", 1) : rv;
}

static apr_status_t compile(cs_template_t *tmpl, json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_object:
        return compile_object(tmpl, value);
    case json_type_array:
        return compile_array(tmpl, value);
    case json_type_string:
        return compile_string(tmpl, json_object_get_string(value), (size_t)json_object_get_string_len(value));
    case json_type_null:
        return cs_buf_append_str(&tmpl->literals, "null");
    default:
        return cs_buf_append_str(&tmpl->literals, json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
    }
}

/* Line and column, counted from 1: what an editor shows. */
static void complain(char *error, size_t size, const char *text, size_t at, const char *what)
{
    size_t line = 1;
    size_t column = 1;
    for (size_t i = 0; i < at; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    snprintf(error, size, "not JSON: %s at line %lu, column %lu", what, (unsigned long)line, (unsigned long)column);
}

static json_object *parse(const char *text, size_t len, char *error, size_t error_size)
{
    json_tokener *tokener = json_tokener_new();
    if (tokener == NULL) {
        snprintf(error, error_size, "out of memory");
        return NULL;
    }
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    json_object *value = json_tokener_parse_ex(tokener, text, (int)len);
    enum json_tokener_error failure = json_tokener_get_error(tokener);
    if (failure == json_tokener_continue) {
        /* A bare number or word goes on until something else comes; a NUL is what says that nothing will. */
        value = json_tokener_parse_ex(tokener, "", 1);
        failure = json_tokener_get_error(tokener) == json_tokener_success ? json_tokener_success : failure;
    }
    if (failure == json_tokener_continue) {
        complain(error, error_size, text, len, "unexpected end of file");
    }
    else if (failure != json_tokener_success) {
        complain(error, error_size, text, json_tokener_get_parse_end(tokener), json_tokener_error_desc(failure));
    }
    else if (!cs_json_valid(text, len)) {
        /* What json-c takes beyond the standard, and would not be able to write again. */
        snprintf(error, error_size, "not JSON: single quotes, NaN, a number such as `1.` or a raw control character");
        json_object_put(value);
        value = NULL;
    }
    json_tokener_free(tokener);
    return value;
}

apr_status_t cs_template_create(cs_template_t **out, const char *text, size_t len, char *error, size_t error_size)
{
    *out = NULL;
    if (len > TEMPLATE_MAX) {
        snprintf(error, error_size, "larger than %d bytes", TEMPLATE_MAX);
        return APR_EINVAL;
    }
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3; /* Windows editors put a byte order mark there */
        len -= 3;
    }
    /* What is wrong when parse finds nothing wrong; it takes null, too. */
    snprintf(error, error_size, "not a JSON object or array");
    json_object *value = parse(text, len, error, error_size);
    if (!json_object_is_type(value, json_type_object) && !json_object_is_type(value, json_type_array)) {
        json_object_put(value);
        return APR_EINVAL;
    }
    cs_template_t *tmpl = calloc(1, sizeof(*tmpl));
    apr_status_t rv = APR_ENOMEM;
    if (tmpl != NULL) {
        cs_buf_init(&tmpl->literals, SIZE_MAX);
        cs_buf_init(&tmpl->pieces, SIZE_MAX);
        rv = compile(tmpl, value);
    }
    if (rv == APR_SUCCESS) {
        rv = end_piece(tmpl, -1, 0);
    }
    json_object_put(value);
    if (rv != APR_SUCCESS) {
        cs_template_destroy(tmpl);
        snprintf(error, error_size, "out of memory");
        return rv;
    }
    *out = tmpl;
    return APR_SUCCESS;
}

void cs_template_destroy(cs_template_t *tmpl)
{
    if (tmpl != NULL) {
        cs_buf_free(&tmpl->literals);
        cs_buf_free(&tmpl->pieces);
        free(tmpl);
    }
}

/* ---- rendering --------------------------------------------------------------------------------------------------- */

static const char *value_of(const cs_question_t *question, int placeholder)
{
    switch (placeholder) {
    case MESSAGE:
        return question->message;
    case HISTORY:
        return question->history;
    case USER:
        return question->user;
    case USER_EMAIL:
        return question->user_email;
    case USER_ROLE:
        return question->user_role;
    case CONVERSATION_ID:
        return question->conversation_id;
    default:
        return question->model;
    }
}

static apr_status_t put_value(const piece_t *piece, const cs_question_t *question, cs_buf_t *out)
{
    const char *value = value_of(question, piece->placeholder);
    if (piece->is_part) {
        return value ? cs_buf_append_json_part(out, value, strlen(value)) : APR_SUCCESS;
    }
    if (value == NULL) {
        return cs_buf_append(out, "null", 4);
    }
    if (piece->placeholder == HISTORY) {
        /* The one value that is not escaped: it was checked when it came in, and is again. */
        return cs_json_valid(value, strlen(value)) ? cs_buf_append_str(out, value) : APR_EINVAL;
    }
    return cs_buf_append_json(out, value, strlen(value));
}

apr_status_t cs_template_render(const cs_template_t *tmpl, const cs_question_t *question, cs_buf_t *out)
{
    size_t before = out->len;
    size_t n = tmpl->pieces.len / sizeof(piece_t);
    const piece_t *pieces = (const piece_t *)(const void *)tmpl->pieces.data;
    apr_status_t rv = APR_SUCCESS;
    for (size_t i = 0; rv == APR_SUCCESS && i < n; i++) {
        rv = cs_buf_append(out, tmpl->literals.data + pieces[i].literal, pieces[i].len);
        if (rv == APR_SUCCESS && pieces[i].placeholder >= 0) {
            rv = put_value(&pieces[i], question, out);
        }
    }
    if (rv != APR_SUCCESS) {
        out->len = before;
    }
    return rv;
}
