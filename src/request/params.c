/* SPDX-License-Identifier: Apache-2.0 */
#include "params.h"

#include <json.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_protocol.h>

#include "body.h"
#include "chatstream/event.h"

#define EMAIL_MAX    320
#define NAME_MAX_LEN 128

typedef struct {
    const char *name;
    size_t offset;
    size_t max; /* 0: checked elsewhere */
} field_t;

#define FIELD(member) offsetof(cs_params_t, member)

static const field_t fields[] = {
    {"message", FIELD(message), 0},
    {"query", FIELD(query), 0},
    {"conversation_history", FIELD(history), 0},
    {"user_email", FIELD(user_email), EMAIL_MAX},
    {"user_role", FIELD(user_role), NAME_MAX_LEN},
    {"conversation_id", FIELD(conversation_id), NAME_MAX_LEN},
    {"token", FIELD(token), 0},
    {"last_event_id", FIELD(last_event_id), NAME_MAX_LEN},
    {"stream_id", FIELD(stream_id), NAME_MAX_LEN},
};

#define FIELDS (sizeof(fields) / sizeof(fields[0]))

static void refuse(cs_result_t *result, const char *message)
{
    *result = (cs_result_t){HTTP_BAD_REQUEST, "bad_request", message, 0, NULL};
}

static const field_t *find_field(const char *name)
{
    size_t i = 0;

    while (i < FIELDS && strcmp(fields[i].name, name)) {
        i++;
    }
    return i < FIELDS ? &fields[i] : NULL;
}

/* Keeps the first value of a name. */
static void take(cs_params_t *params, const field_t *field, const char *value, size_t len, cs_result_t *result)
{
    const char **slot = (const char **)((char *)params + field->offset);

    if (*slot) {
        return;
    }
    if (!cs_utf8_valid(value, len) || strlen(value) != len) {
        refuse(result, "A parameter is not valid UTF-8 text.");
    }
    else if (field->max && len > field->max) {
        refuse(result, "A parameter is too long.");
    }
    else if (*value || !field->max) {
        *slot = value;
    }
}

/* ---- name=value&name=value ---------------------------------------------------------------------------------------- */

static void read_pairs(request_rec *r, const char *text, cs_params_t *params, cs_result_t *result)
{
    char *copy = apr_pstrdup(r->pool, text ? text : ""), *pair, *last;

    for (pair = apr_strtok(copy, "&", &last); pair && !result->status; pair = apr_strtok(NULL, "&", &last)) {
        char *value = strchr(pair, '=');
        const field_t *field;

        if (!value) {
            continue;
        }
        *value++ = '\0';
        if (ap_unescape_urlencoded(pair)) {
            continue;
        }
        field = find_field(pair);
        if (field) {
            if (ap_unescape_urlencoded(value)) {
                refuse(result, "A parameter is not correctly percent-encoded.");
                return;
            }
            take(params, field, value, strlen(value), result);
        }
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static struct json_object *parse_json(const char *text, size_t len)
{
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *object = NULL;

    /* json-c takes more than JSON, also in its strict mode. */
    if (tokener && len <= INT32_MAX && cs_utf8_valid(text, len) && cs_json_valid(text, len)) {
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        object = json_tokener_parse_ex(tokener, text, (int)len);
        if (!object && json_tokener_get_error(tokener) == json_tokener_continue) {
            object = json_tokener_parse_ex(tokener, "", 1); /* a number or literal at the very end */
        }
        if (json_tokener_get_error(tokener) != json_tokener_success) {
            json_object_put(object);
            object = NULL;
        }
    }
    if (tokener) {
        json_tokener_free(tokener);
    }
    return object;
}

static int is_known_role(const char *role)
{
    return !strcmp(role, "user") || !strcmp(role, "assistant") || !strcmp(role, "system");
}

static void check_history(struct json_object *history, cs_result_t *result)
{
    size_t i;

    if (!json_object_is_type(history, json_type_array)) {
        refuse(result, "conversation_history is not a JSON array.");
        return;
    }
    for (i = 0; i < json_object_array_length(history); i++) {
        struct json_object *turn = json_object_array_get_idx(history, i), *role = NULL, *content = NULL;

        if (!json_object_is_type(turn, json_type_object) || !json_object_object_get_ex(turn, "role", &role)
            || !json_object_is_type(role, json_type_string) || !json_object_object_get_ex(turn, "content", &content)
            || !json_object_is_type(content, json_type_string)) {
            refuse(result, "conversation_history holds something that is not {\"role\",\"content\"}.");
            return;
        }
        if (!is_known_role(json_object_get_string(role))) {
            refuse(result, "conversation_history holds an unknown role; known are user, assistant, system.");
            return;
        }
    }
}

static const char *json_text(request_rec *r, struct json_object *object)
{
    return apr_pstrdup(r->pool,
                       json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void take_json(request_rec *r, cs_params_t *params, const field_t *field, struct json_object *value,
                      cs_result_t *result)
{
    if (field->offset == FIELD(history) && !json_object_is_type(value, json_type_string)) {
        check_history(value, result);
        params->history = json_text(r, value);
    }
    else if (json_object_is_type(value, json_type_string) || json_object_is_type(value, json_type_int)) {
        const char *text = json_object_get_string(value);
        size_t len =
            json_object_is_type(value, json_type_string) ? (size_t)json_object_get_string_len(value) : strlen(text);

        take(params, field, apr_pstrmemdup(r->pool, text, len), len, result);
    }
    else {
        refuse(result, "A parameter in the JSON body has the wrong type.");
    }
}

static void read_json(request_rec *r, const char *text, size_t len, cs_params_t *params, cs_result_t *result)
{
    struct json_object *body = parse_json(text, len), *value;
    size_t i;

    if (!json_object_is_type(body, json_type_object)) {
        refuse(result, "The body is not a JSON object.");
    }
    for (i = 0; i < FIELDS && !result->status; i++) {
        if (json_object_object_get_ex(body, fields[i].name, &value) && value) {
            take_json(r, params, &fields[i], value, result);
        }
    }
    json_object_put(body);
}

/* A history that came as a string is parsed and written anew: what the upstream gets is JSON for sure. */
static void normalize_history(request_rec *r, cs_params_t *params, cs_result_t *result)
{
    struct json_object *history;

    if (!params->history) {
        return;
    }
    if (!*params->history) {
        params->history = NULL;
        return;
    }
    history = parse_json(params->history, strlen(params->history));
    if (!history) {
        refuse(result, "conversation_history is not valid JSON.");
        return;
    }
    check_history(history, result);
    params->history = json_text(r, history);
    json_object_put(history);
}

/* `message` wins over `query` wherever it stands; asked of each source, so that a later one cannot overrule an earlier. */
static void prefer_message(cs_params_t *params)
{
    if (!params->message) {
        params->message = params->query;
    }
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static int is_type(const char *header, const char *type)
{
    size_t len = strlen(type);

    return header && !strncasecmp(header, type, len)
           && (!header[len] || header[len] == ';' || apr_isspace(header[len]));
}

void cs_params_read(request_rec *r, apr_int64_t max_message, cs_params_t *params, cs_result_t *result)
{
    const char *type = apr_table_get(r->headers_in, "Content-Type");
    cs_params_t from_body = {0};
    char *body = NULL;
    size_t len = 0;

    memset(params, 0, sizeof(*params));
    memset(result, 0, sizeof(*result));
    cs_body_read(r, (size_t)max_message * 4 + 1024 * 1024, &body, &len, result);
    if (!result->status && len) {
        if (is_type(type, "application/json")) {
            read_json(r, body, len, &from_body, result);
        }
        else if (is_type(type, "application/x-www-form-urlencoded")) {
            read_pairs(r, body, &from_body, result);
        }
        else {
            *result = (cs_result_t){HTTP_UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type",
                                    "The body must be application/json or application/x-www-form-urlencoded.", 0, NULL};
        }
    }
    from_body.body_token = from_body.token;
    *params = from_body; /* the body wins over the query string */
    prefer_message(params);
    if (!result->status) {
        read_pairs(r, r->args, params, result);
        prefer_message(params);
    }
    if (!result->status) {
        normalize_history(r, params, result);
    }
}

/* Looks at names only: messages may be long, and are read once, later. */
const char *cs_params_query_token(request_rec *r)
{
    const char *at = r->args;

    while (at && *at) {
        size_t len = strcspn(at, "&"), name_len = strcspn(at, "&=");

        if (at[name_len] == '=' && name_len >= 5 && name_len <= 15) {
            char *name = apr_pstrmemdup(r->pool, at, name_len);

            if (!ap_unescape_urlencoded(name) && !strcmp(name, "token")) {
                char *value = apr_pstrmemdup(r->pool, at + name_len + 1, len - name_len - 1);

                return ap_unescape_urlencoded(value) || !*value ? NULL : value;
            }
        }
        at += len + (at[len] == '&');
    }
    return NULL;
}
