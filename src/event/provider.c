/* SPDX-License-Identifier: Apache-2.0 */
#include "event/provider.h"

#include <string.h>

#include "event/json_scan.h"

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void trim(const char **text, size_t *len)
{
    while (*len > 0 && is_space(**text)) {
        (*text)++;
        (*len)--;
    }
    while (*len > 0 && is_space((*text)[*len - 1])) {
        (*len)--;
    }
}

int cs_provider_is_done_mark(const char *data, size_t len)
{
    trim(&data, &len);
    return len == 6 && memcmp(data, "[DONE]", 6) == 0;
}

json_object *cs_provider_member(json_object *object, const char *key)
{
    json_object *value = NULL;
    if (json_object_is_type(object, json_type_object)) {
        json_object_object_get_ex(object, key, &value);
    }
    return value;
}

int cs_provider_is_void(json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_null:
        return 1;
    case json_type_string:
        return json_object_get_string_len(value) == 0;
    case json_type_object:
        return json_object_object_length(value) == 0;
    case json_type_array:
        return json_object_array_length(value) == 0;
    default:
        return 0;
    }
}

static int64_t count(json_object *usage, const char *key, const char *other_key)
{
    json_object *value = cs_provider_member(usage, key);
    if (value == NULL) {
        value = cs_provider_member(usage, other_key);
    }
    return json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : -1;
}

void cs_provider_usage(cs_decoder_t *decoder, json_object *usage)
{
    cs_decoder_usage(decoder, count(usage, "prompt_tokens", "input_tokens"),
                     count(usage, "completion_tokens", "output_tokens"));
}

void cs_provider_finish_reason(cs_decoder_t *decoder, json_object *reason)
{
    if (json_object_is_type(reason, json_type_string)) {
        cs_decoder_finish_reason(decoder, json_object_get_string(reason), (size_t)json_object_get_string_len(reason));
    }
}

typedef enum { FAILED, RATE_LIMITED, OVERLOADED, BROKEN } failure_e;

/* Providers name the kind of an error in `type`, `code` or `status`, as words or as an HTTP status. */
static failure_e failure_kind(json_object *value)
{
    static const struct {
        const char *word;
        failure_e kind;
    } words[] = {{"rate_limit", RATE_LIMITED},
                 {"too_many_requests", RATE_LIMITED},
                 {"429", RATE_LIMITED},
                 {"overloaded", OVERLOADED},
                 {"unavailable", OVERLOADED},
                 {"resource_exhausted", OVERLOADED},
                 {"503", OVERLOADED},
                 {"529", OVERLOADED},
                 {"server_error", BROKEN},
                 {"internal", BROKEN},
                 {"api_error", BROKEN},
                 {"timeout", BROKEN},
                 {"deadline_exceeded", BROKEN},
                 {"500", BROKEN},
                 {"502", BROKEN},
                 {"504", BROKEN}};
    if (!json_object_is_type(value, json_type_string) && !json_object_is_type(value, json_type_int)) {
        return FAILED;
    }
    char lower[64];
    const char *text = json_object_get_string(value);
    size_t len = 0;
    for (; len < sizeof(lower) - 1 && text[len] != '\0'; len++) {
        char c = text[len];
        lower[len] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    }
    lower[len] = '\0';
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        int number = words[i].word[0] <= '9';
        if (number ? strcmp(lower, words[i].word) == 0 : strstr(lower, words[i].word) != NULL) {
            return words[i].kind;
        }
    }
    return FAILED;
}

void cs_provider_failure(cs_decoder_t *decoder, json_object *error)
{
    static const char *const members[] = {"type", "code", "status"};
    failure_e kind = FAILED;
    for (size_t i = 0; i < 3 && kind == FAILED; i++) {
        kind = failure_kind(cs_provider_member(error, members[i]));
    }
    switch (kind) {
    case RATE_LIMITED:
        cs_decoder_fail(decoder, "upstream's rate limit was reached", 1);
        break;
    case OVERLOADED:
        cs_decoder_fail(decoder, "upstream is overloaded", 1);
        break;
    case BROKEN:
        cs_decoder_fail(decoder, "upstream had an internal error", 1);
        break;
    case FAILED:
        cs_decoder_fail(decoder, "upstream reported an error", 0);
        break;
    }
}

apr_status_t cs_provider_put_string(cs_buf_t *out, const char *key, const char *value)
{
    if (value == NULL) {
        return APR_SUCCESS;
    }
    apr_status_t rv = APR_SUCCESS;
    if (out->len > 0 && out->data[out->len - 1] != '{') {
        rv = cs_buf_append(out, ",", 1);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, key, strlen(key));
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, ":", 1);
    }
    return rv == APR_SUCCESS ? cs_buf_append_json(out, value, strlen(value)) : rv;
}

apr_status_t cs_provider_array_inside(const char *array, const char **inside, size_t *len)
{
    *inside = array;
    *len = strlen(array);
    trim(inside, len);
    /* It was checked when it came in; but a text that is spliced into another is looked at where that is done. */
    if (*len < 2 || **inside != '[' || !cs_json_valid(*inside, *len)) {
        return APR_EINVAL;
    }
    (*inside)++;
    *len -= 2;
    trim(inside, len);
    return APR_SUCCESS;
}

static apr_status_t put_history(cs_buf_t *out, const char *history)
{
    const char *inside;
    size_t len;
    if (history == NULL) {
        return APR_SUCCESS;
    }
    apr_status_t rv = cs_provider_array_inside(history, &inside, &len);
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"conversation_history\":[");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, inside, len);
    }
    return rv == APR_SUCCESS ? cs_buf_append(out, "]", 1) : rv;
}

apr_status_t cs_provider_build_plain(const cs_question_t *question, cs_buf_t *out)
{
    apr_status_t rv = cs_buf_append(out, "{", 1);
    if (rv == APR_SUCCESS) {
        rv = cs_provider_put_string(out, "message", question->message ? question->message : "");
    }
    if (rv == APR_SUCCESS) {
        rv = put_history(out, question->history);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_provider_put_string(out, "user", question->user);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_provider_put_string(out, "user_email", question->user_email);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_provider_put_string(out, "user_role", question->user_role);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_provider_put_string(out, "conversation_id", question->conversation_id);
    }
    return rv == APR_SUCCESS ? cs_buf_append_str(out, ",\"stream\":true}") : rv;
}
