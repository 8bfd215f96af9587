/* SPDX-License-Identifier: Apache-2.0 */
#include "params.h"

#include <json.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "chatstream/event.h"

#define BAD_REQUEST 400

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
    {"user_email", FIELD(user_email), CS_PARAMS_EMAIL_MAX},
    {"user_role", FIELD(user_role), CS_PARAMS_NAME_MAX},
    {"conversation_id", FIELD(conversation_id), CS_PARAMS_NAME_MAX},
    {"token", FIELD(token), 0},
    {"last_event_id", FIELD(last_event_id), CS_PARAMS_NAME_MAX},
    {"stream_id", FIELD(stream_id), CS_PARAMS_NAME_MAX},
};

#define FIELDS       (sizeof(fields) / sizeof(fields[0]))
#define NAME_ENCODED (3 * (sizeof("conversation_history") - 1)) /* the longest name with every byte as %XX */

static void refuse(cs_result_t *result, const char *message)
{
    *result = (cs_result_t){BAD_REQUEST, "bad_request", message, 0, NULL};
}

static const field_t *find_field(const char *name, size_t len)
{
    size_t i = 0;

    while (i < FIELDS && (strlen(fields[i].name) != len || memcmp(fields[i].name, name, len))) {
        i++;
    }
    return i < FIELDS ? &fields[i] : NULL;
}

/* Keeps the first value of a name. `value` has a NUL behind its `len` bytes. */
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

/* `message` wins over `query` wherever it stands; asked of each source, so that a later one cannot overrule an earlier. */
static void prefer_message(cs_params_t *params)
{
    if (!params->message) {
        params->message = params->query;
    }
}

/* ---- name=value&name=value ---------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    size_t name_len;
    const char *value; /* NULL: there is no '=' */
    size_t value_len;
} pair_t;

/* The next pair; nothing between two '&' is none. 0: the text ended. */
static int next_pair(const char **at, const char *end, pair_t *pair)
{
    const char *stop, *equals;

    while (*at < end && **at == '&') {
        (*at)++;
    }
    if (*at >= end) {
        return 0;
    }
    stop = memchr(*at, '&', (size_t)(end - *at));
    stop = stop ? stop : end;
    equals = memchr(*at, '=', (size_t)(stop - *at));
    pair->name = *at;
    pair->name_len = (size_t)((equals ? equals : stop) - *at);
    pair->value = equals ? equals + 1 : NULL;
    pair->value_len = equals ? (size_t)(stop - equals) - 1 : 0;
    *at = stop;
    return 1;
}

static int hex_digit(char c)
{
    return apr_isdigit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
}

/*
 * Decodes `len` bytes to `out`, which may hold as many; ap_unescape_urlencoded without a server: '+' is a blank, every %XX is a
 * byte, also %2F. -1 for what that refuses: a '%' without two digits, and %00.
 */
static int unescape(const char *text, size_t len, char *out, size_t *out_len)
{
    size_t from = 0, to = 0;

    while (from < len) {
        char c = text[from++];

        if (c == '%') {
            if (len - from < 2 || !apr_isxdigit(text[from]) || !apr_isxdigit(text[from + 1])) {
                return -1;
            }
            c = (char)(hex_digit(text[from]) * 16 + hex_digit(text[from + 1]));
            if (!c) {
                return -1;
            }
            from += 2;
        }
        else if (c == '+') {
            c = ' ';
        }
        out[to++] = c;
    }
    *out_len = to;
    return 0;
}

/* A name that cannot be decoded is unknown, like any other. */
static const field_t *field_of(const pair_t *pair)
{
    char name[NAME_ENCODED];
    size_t len;

    if (!pair->value || pair->name_len > sizeof(name) || unescape(pair->name, pair->name_len, name, &len)) {
        return NULL;
    }
    return find_field(name, len);
}

/* With a NUL behind it; NULL: not correctly encoded. */
static const char *value_of(apr_pool_t *pool, const pair_t *pair, size_t *len)
{
    char *value = apr_palloc(pool, pair->value_len + 1);

    if (unescape(pair->value, pair->value_len, value, len)) {
        return NULL;
    }
    value[*len] = '\0';
    return value;
}

static void add_pair(apr_pool_t *pool, const pair_t *pair, cs_params_t *params, cs_result_t *result)
{
    const field_t *field = field_of(pair);
    const char *value;
    size_t len;

    if (field) {
        value = value_of(pool, pair, &len);
        if (value) {
            take(params, field, value, len, result);
        }
        else {
            refuse(result, "A parameter is not correctly percent-encoded.");
        }
    }
}

void cs_params_add_pairs(apr_pool_t *pool, const char *text, size_t len, cs_params_t *params, cs_result_t *result)
{
    const char *at = text, *end = len ? text + len : text;
    int count = 0;
    pair_t pair;

    while (!result->status && next_pair(&at, end, &pair)) {
        if (++count > CS_PARAMS_PAIRS_MAX) {
            refuse(result, "There are too many parameters.");
            break;
        }
        add_pair(pool, &pair, params, result);
    }
    prefer_message(params);
}

/* Looks at names only: messages may be long, and are read once, later. */
const char *cs_params_token_in(apr_pool_t *pool, const char *text, size_t len)
{
    const char *at = text, *end = len ? text + len : text;
    pair_t pair;

    while (next_pair(&at, end, &pair)) {
        const field_t *field = field_of(&pair);

        if (field && field->offset == FIELD(token)) {
            const char *value = value_of(pool, &pair, &len);

            return value && *value ? value : NULL;
        }
    }
    return NULL;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

/* What json-c does not tell: it keeps the last member of a name, and cuts names at \u0000. */
typedef struct {
    size_t depth;
    size_t members; /* of the outermost object */
    int nul_name;
} shape_t;

/* Right for JSON; of other text it says something that does no harm. */
static shape_t shape_of(const char *text, size_t len)
{
    shape_t shape = {0};
    size_t depth = 0, i;
    int in_string = 0, nul = 0;

    for (i = 0; i < len; i++) {
        char c = text[i];

        if (in_string) {
            if (c == '\\') {
                nul |= len - i >= 6 && !memcmp(text + i, "\\u0000", 6);
                i++;
            }
            in_string = c != '"';
        }
        else if (c == '"') {
            in_string = 1;
            nul = 0;
        }
        else if (c == '[' || c == '{') {
            depth++;
            shape.depth = depth > shape.depth ? depth : shape.depth;
        }
        else if (c == ']' || c == '}') {
            depth -= depth > 0;
        }
        else if (c == ':') {
            shape.members += depth == 1;
            shape.nul_name |= nul;
        }
    }
    return shape;
}

static struct json_object *tokenize(const char *text, size_t len)
{
    /* json-c counts a scalar as a level, and refuses the last one. */
    struct json_tokener *tokener = json_tokener_new_ex(CS_PARAMS_DEPTH_MAX + 2);
    struct json_object *object = NULL;

    if (tokener) {
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        object = json_tokener_parse_ex(tokener, text, (int)len);
        if (!object && json_tokener_get_error(tokener) == json_tokener_continue) {
            object = json_tokener_parse_ex(tokener, "", 1); /* a number or literal at the very end */
        }
        if (json_tokener_get_error(tokener) != json_tokener_success) {
            json_object_put(object);
            object = NULL;
        }
        json_tokener_free(tokener);
    }
    return object;
}

/* NULL: not JSON, or null; or `result` says what else is wrong with it. */
static struct json_object *parse_json(const char *text, size_t len, shape_t *shape, cs_result_t *result)
{
    *shape = shape_of(text, len);
    if (shape->depth > CS_PARAMS_DEPTH_MAX) {
        refuse(result, "The JSON is nested too deep.");
        return NULL;
    }
    /* json-c takes more than JSON, also in its strict mode. */
    if (len > INT32_MAX || !cs_utf8_valid(text, len) || !cs_json_valid(text, len)) {
        return NULL;
    }
    if (shape->nul_name) {
        refuse(result, "A name in the JSON holds a NUL.");
        return NULL;
    }
    return tokenize(text, len);
}

static int is_known_role(struct json_object *role)
{
    const char *text = json_object_get_string(role);

    return strlen(text) == (size_t)json_object_get_string_len(role)
           && (!strcmp(text, "user") || !strcmp(text, "assistant") || !strcmp(text, "system"));
}

static void check_turn(struct json_object *turn, cs_result_t *result)
{
    struct json_object *role = NULL, *content = NULL;

    if (!json_object_is_type(turn, json_type_object) || !json_object_object_get_ex(turn, "role", &role)
        || !json_object_is_type(role, json_type_string) || !json_object_object_get_ex(turn, "content", &content)
        || !json_object_is_type(content, json_type_string)) {
        refuse(result, "conversation_history holds something that is not {\"role\",\"content\"}.");
    }
    else if (!is_known_role(role)) {
        refuse(result, "conversation_history holds an unknown role; known are user, assistant, system.");
    }
}

/* Its text when it is a history. */
static const char *checked_history(apr_pool_t *pool, struct json_object *history, cs_result_t *result)
{
    size_t i, count;

    if (!json_object_is_type(history, json_type_array)) {
        refuse(result, "conversation_history is not a JSON array.");
        return NULL;
    }
    count = json_object_array_length(history);
    if (count > CS_PARAMS_HISTORY_MAX) {
        refuse(result, "conversation_history has too many entries.");
    }
    for (i = 0; i < count && !result->status; i++) {
        check_turn(json_object_array_get_idx(history, i), result);
    }
    return result->status ? NULL
                          : apr_pstrdup(pool, json_object_to_json_string_ext(
                                                  history, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void take_json(apr_pool_t *pool, cs_params_t *params, const field_t *field, struct json_object *value,
                      cs_result_t *result)
{
    int is_string = json_object_is_type(value, json_type_string);

    if (field->offset == FIELD(history) && !is_string) {
        if (!params->history) {
            params->history = checked_history(pool, value, result);
        }
    }
    else if (is_string || json_object_is_type(value, json_type_int)) {
        const char *text = json_object_get_string(value);
        size_t len = is_string ? (size_t)json_object_get_string_len(value) : strlen(text);

        take(params, field, apr_pstrmemdup(pool, text, len), len, result);
    }
    else {
        refuse(result, "A parameter in the JSON body has the wrong type.");
    }
}

void cs_params_add_json(apr_pool_t *pool, const char *text, size_t len, cs_params_t *params, cs_result_t *result)
{
    struct json_object *body, *value;
    shape_t shape;
    size_t i;

    if (result->status) {
        return;
    }
    body = parse_json(text, len, &shape, result);
    if (!result->status && !json_object_is_type(body, json_type_object)) {
        refuse(result, "The body is not a JSON object.");
    }
    if (!result->status && (size_t)json_object_object_length(body) != shape.members) {
        refuse(result, "The JSON body has two members of the same name.");
    }
    for (i = 0; i < FIELDS && !result->status; i++) {
        if (json_object_object_get_ex(body, fields[i].name, &value) && value) {
            take_json(pool, params, &fields[i], value, result);
        }
    }
    json_object_put(body);
    prefer_message(params);
}

const char *cs_params_history(apr_pool_t *pool, const char *text, size_t len, cs_result_t *result)
{
    shape_t shape;
    struct json_object *history = parse_json(text, len, &shape, result);
    const char *checked = NULL;

    if (history) {
        checked = checked_history(pool, history, result);
    }
    else if (!result->status) {
        refuse(result, "conversation_history is not valid JSON.");
    }
    json_object_put(history);
    return checked;
}

/* A history that came as a string is parsed and written anew: what the upstream gets is JSON for sure. */
void cs_params_finish(apr_pool_t *pool, cs_params_t *params, cs_result_t *result)
{
    const char *history = params->history;

    if (!result->status && history) {
        params->history = *history ? cs_params_history(pool, history, strlen(history), result) : NULL;
    }
}
