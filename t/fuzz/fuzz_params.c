/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_params: the first byte says what the rest is: a query string, a form, a JSON body, or a JSON body with a query string in
 * the last line. What is let through is text within its bounds, and the same when it is read again.
 */
#include <json.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>

#include "chatstream/event.h"
#include "fuzz.h"
#include "request/params.h"

typedef enum { QUERY, FORM, JSON, JSON_AND_QUERY } source_e;

typedef struct {
    cs_params_t params;
    cs_result_t result;
} answer_t;

static answer_t parse(apr_pool_t *pool, source_e source, const char *text, size_t len)
{
    answer_t answer = {0};
    size_t body_len = len;
    if (source == JSON_AND_QUERY) {
        while (body_len > 0 && text[body_len - 1] != '\n') {
            body_len--;
        }
    }
    if (source == JSON || source == JSON_AND_QUERY) {
        cs_params_add_json(pool, text, body_len, &answer.params, &answer.result);
        text += body_len;
        len -= body_len;
    }
    if (source != JSON) {
        cs_params_add_pairs(pool, text, len, &answer.params, &answer.result);
    }
    cs_params_finish(pool, &answer.params, &answer.result);
    return answer;
}

static void check_text(const char *text, size_t max)
{
    if (text) {
        size_t len = strlen(text);
        FUZZ_CHECK(cs_utf8_valid(text, len));
        FUZZ_CHECK(len <= max);
    }
}

static void check_turn(struct json_object *turn)
{
    static const char *const roles[] = {"user", "assistant", "system"};
    struct json_object *role, *content;
    int known = 0;
    FUZZ_CHECK(json_object_object_get_ex(turn, "role", &role) && json_object_is_type(role, json_type_string));
    FUZZ_CHECK(json_object_object_get_ex(turn, "content", &content) && json_object_is_type(content, json_type_string));
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        known |= (size_t)json_object_get_string_len(role) == strlen(roles[i])
                 && strcmp(json_object_get_string(role), roles[i]) == 0;
    }
    FUZZ_CHECK(known);
}

static void check_history(const char *text)
{
    if (!text) {
        return;
    }
    FUZZ_CHECK(cs_json_valid(text, strlen(text)));
    struct json_object *history = json_tokener_parse(text);
    FUZZ_CHECK(json_object_is_type(history, json_type_array));
    FUZZ_CHECK(json_object_array_length(history) <= CS_PARAMS_HISTORY_MAX);
    for (size_t i = 0; i < json_object_array_length(history); i++) {
        check_turn(json_object_array_get_idx(history, i));
    }
    json_object_put(history);
}

/* `size`: what decoding may make of all the bytes at most. */
static void check_params(const cs_params_t *params, size_t size)
{
    check_text(params->message, size);
    check_text(params->query, size);
    check_text(params->token, size);
    check_text(params->history, SIZE_MAX);
    check_text(params->user_email, CS_PARAMS_EMAIL_MAX);
    check_text(params->user_role, CS_PARAMS_NAME_MAX);
    check_text(params->conversation_id, CS_PARAMS_NAME_MAX);
    check_text(params->last_event_id, CS_PARAMS_NAME_MAX);
    check_text(params->stream_id, CS_PARAMS_NAME_MAX);
    check_history(params->history);
    FUZZ_CHECK(!params->query || params->message);
}

static int same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void check_same(const answer_t *a, const answer_t *b)
{
    FUZZ_CHECK(a->result.status == b->result.status && same(a->result.message, b->result.message));
    FUZZ_CHECK(same(a->params.message, b->params.message) && same(a->params.query, b->params.query));
    FUZZ_CHECK(same(a->params.history, b->params.history) && same(a->params.token, b->params.token));
    FUZZ_CHECK(same(a->params.user_email, b->params.user_email) && same(a->params.user_role, b->params.user_role));
    FUZZ_CHECK(same(a->params.conversation_id, b->params.conversation_id));
    FUZZ_CHECK(same(a->params.last_event_id, b->params.last_event_id));
    FUZZ_CHECK(same(a->params.stream_id, b->params.stream_id));
}

/* Looking for the token alone finds the one that reading all finds. */
static void check_token(apr_pool_t *pool, const cs_params_t *params, const char *text, size_t len)
{
    const char *token = params->token && *params->token ? params->token : NULL;
    FUZZ_CHECK(same(cs_params_token_in(pool, text, len), token));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int initialized;
    apr_pool_t *pool;
    if (!initialized) {
        initialized = apr_initialize() == APR_SUCCESS;
    }
    if (size == 0 || apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        return 0;
    }
    source_e source = (source_e)(data[0] % 4);
    const char *text = (const char *)data + 1;
    size_t len = size - 1;
    answer_t answer = parse(pool, source, text, len);
    answer_t again = parse(pool, source, text, len);
    check_same(&answer, &again);
    if (answer.result.status) {
        FUZZ_CHECK(answer.result.status == 400 && answer.result.message);
        cs_params_token_in(pool, text, len);
    }
    else {
        check_params(&answer.params, len);
        if (source == QUERY || source == FORM) {
            check_token(pool, &answer.params, text, len);
        }
    }
    apr_pool_destroy(pool);
    return 0;
}
