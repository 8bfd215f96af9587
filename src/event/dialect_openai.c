/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialect openai: chat.completion.chunk events, ended by [DONE]. Spoken by many servers besides OpenAI's, each with
 * members of its own in `delta` and beside it; whatever says something is passed on as metadata.
 */
#include "event/dialect.h"
#include "event/json_scan.h"
#include "event/provider.h"

#define MALFORMED "upstream sent malformed data"

static const char *const chunk_members[] = {
    "id",      "object", "created", "model", "system_fingerprint", "service_tier", "obfuscation",
    "choices", "usage",  "error",   NULL};
static const char *const choice_members[] = {"index", "delta", "finish_reason", NULL};
static const char *const delta_members[] = {"role", NULL};

static int is_known(const char *const *known, const char *key)
{
    for (; *known != NULL; known++) {
        if (strcmp(*known, key) == 0) {
            return 1;
        }
    }
    return 0;
}

/* ---- fast path: one choice with role and content and nothing else that says something ---------------------------- */

/*
 * The scanners return 0 to leave the chunk to json-c. A member that comes twice is left to it, too: the last one wins.
 */

static int scan_delta(cs_json_scan_t *scan, cs_json_str_t *content)
{
    cs_json_str_t key;
    int more;
    int seen = 0;
    if (!cs_json_scan_enter(scan, '{')) {
        return 0;
    }
    while ((more = cs_json_scan_member(scan, &key)) > 0) {
        if (key.escaped) {
            return 0;
        }
        if (CS_JSON_STR_IS(&key, "content")) {
            if (seen++ || (!cs_json_scan_string(scan, content) && !cs_json_scan_null(scan))) {
                return 0;
            }
        }
        else if (CS_JSON_STR_IS(&key, "role")) {
            if (!cs_json_scan_skip(scan)) {
                return 0;
            }
        }
        else if (!cs_json_scan_null(scan)) {
            return 0;
        }
    }
    return more == 0;
}

static int scan_choice(cs_json_scan_t *scan, cs_json_str_t *content)
{
    cs_json_str_t key;
    int more;
    int deltas = 0;
    if (!cs_json_scan_enter(scan, '{')) {
        return 0;
    }
    while ((more = cs_json_scan_member(scan, &key)) > 0) {
        if (key.escaped) {
            return 0;
        }
        if (CS_JSON_STR_IS(&key, "delta")) {
            if (deltas++ || !scan_delta(scan, content)) {
                return 0;
            }
        }
        else if (CS_JSON_STR_IS(&key, "index")) {
            if (cs_json_scan_peek(scan) != '0' || !cs_json_scan_skip(scan) || scan->at[-1] != '0') {
                return 0;
            }
        }
        else if (!cs_json_scan_null(scan)) {
            return 0;
        }
    }
    return more == 0;
}

static int scan_chunk(const cs_frame_t *frame, cs_json_str_t *content)
{
    cs_json_scan_t scan = {frame->data, frame->data + frame->len, 0};
    cs_json_str_t key;
    int more;
    int choices = 0;
    if (!cs_json_scan_enter(&scan, '{')) {
        return 0;
    }
    while ((more = cs_json_scan_member(&scan, &key)) > 0) {
        if (key.escaped) {
            return 0;
        }
        if (CS_JSON_STR_IS(&key, "choices")) {
            if (choices++ || !cs_json_scan_enter(&scan, '[') || cs_json_scan_element(&scan) <= 0
                || !scan_choice(&scan, content) || cs_json_scan_element(&scan) != 0) {
                return 0;
            }
        }
        else if (CS_JSON_STR_IS(&key, "id") || CS_JSON_STR_IS(&key, "object") || CS_JSON_STR_IS(&key, "created")
                 || CS_JSON_STR_IS(&key, "model") || CS_JSON_STR_IS(&key, "system_fingerprint")
                 || CS_JSON_STR_IS(&key, "service_tier") || CS_JSON_STR_IS(&key, "obfuscation")) {
            if (!cs_json_scan_skip(&scan)) {
                return 0;
            }
        }
        else if (!cs_json_scan_null(&scan)) {
            return 0;
        }
    }
    return more == 0 && choices == 1 && cs_json_scan_end(&scan);
}

/* ---- the whole of it, by json-c ---------------------------------------------------------------------------------- */

static void add_unknown(json_object *to, json_object *from, const char *const *known)
{
    if (!json_object_is_type(from, json_type_object)) {
        return;
    }
    json_object_object_foreach(from, key, value) {
        if (!is_known(known, key) && !cs_provider_is_void(value) && !json_object_object_get_ex(to, key, NULL)) {
            json_object_object_add(to, key, json_object_get(value));
        }
    }
}

static int is_first_choice(json_object *choice)
{
    json_object *index = cs_provider_member(choice, "index");
    return index == NULL || json_object_get_int64(index) == 0;
}

/* Parts the answer's own choice from those of n > 1, which clients of one stream know nothing of. */
static json_object *pick_choice(json_object *chunk, json_object *metadata)
{
    json_object *choices = cs_provider_member(chunk, "choices");
    json_object *first = NULL;
    json_object *others = NULL;
    size_t n = json_object_is_type(choices, json_type_array) ? json_object_array_length(choices) : 0;
    for (size_t i = 0; i < n; i++) {
        json_object *choice = json_object_array_get_idx(choices, i);
        if (first == NULL && json_object_is_type(choice, json_type_object) && is_first_choice(choice)) {
            first = choice;
        }
        else if (!cs_provider_is_void(choice)) {
            if (others == NULL) {
                others = json_object_new_array();
                json_object_object_add(metadata, "choices", others);
            }
            json_object_array_add(others, json_object_get(choice));
        }
    }
    return first;
}

static apr_status_t read_chunk(cs_decoder_t *decoder, json_object *chunk)
{
    json_object *metadata = json_object_new_object();
    json_object *choice = pick_choice(chunk, metadata);
    json_object *delta = cs_provider_member(choice, "delta");
    json_object *content = cs_provider_member(delta, "content");
    apr_status_t rv = APR_SUCCESS;
    cs_provider_finish_reason(decoder, cs_provider_member(choice, "finish_reason"));
    cs_provider_usage(decoder, cs_provider_member(chunk, "usage"));
    if (json_object_is_type(content, json_type_string)) {
        rv = cs_decoder_token(decoder, json_object_get_string(content), (size_t)json_object_get_string_len(content));
        json_object_object_del(delta, "content");
    }
    add_unknown(metadata, delta, delta_members);
    add_unknown(metadata, choice, choice_members);
    add_unknown(metadata, chunk, chunk_members);
    if (rv != APR_SUCCESS || json_object_object_length(metadata) == 0) {
        json_object_put(metadata);
        return rv;
    }
    return cs_decoder_metadata(decoder, metadata);
}

static int name_is(const cs_frame_t *frame, const char *name)
{
    return frame->name_len == strlen(name) && memcmp(frame->name, name, frame->name_len) == 0;
}

static apr_status_t read_frame(cs_decoder_t *decoder, const cs_frame_t *frame)
{
    apr_status_t rv = APR_SUCCESS;
    json_object *chunk = cs_decoder_parse(decoder, frame->data, frame->len);
    json_object *error = cs_provider_member(chunk, "error");
    int error_event = name_is(frame, "error");
    if (error_event || json_object_is_type(error, json_type_object)
        || (json_object_is_type(error, json_type_string) && !cs_provider_is_void(error))) {
        cs_provider_failure(decoder, error ? error : chunk);
    }
    else if (!json_object_is_type(chunk, json_type_object)) {
        cs_decoder_fail(decoder, MALFORMED, 0);
    }
    else {
        rv = read_chunk(decoder, chunk);
    }
    json_object_put(chunk);
    return rv;
}

static apr_status_t frame_openai(cs_decoder_t *decoder, const cs_frame_t *frame)
{
    cs_json_str_t content = {NULL, 0, 0};
    if (frame->name_len == 0 && !decoder->no_fast_path && scan_chunk(frame, &content)) {
        if (!content.escaped) {
            return cs_decoder_token(decoder, content.text, content.len);
        }
        decoder->scratch.len = 0;
        apr_status_t rv = cs_json_unescape(&content, &decoder->scratch);
        return rv == APR_SUCCESS ? cs_decoder_token(decoder, decoder->scratch.data, decoder->scratch.len) : rv;
    }
    if (cs_provider_is_done_mark(frame->data, frame->len)) {
        cs_decoder_done(decoder);
        return APR_SUCCESS;
    }
    if (name_is(frame, "ping") || frame->len == 0) {
        cs_decoder_ping(decoder);
        return APR_SUCCESS;
    }
    return read_frame(decoder, frame);
}

static const char *missing(const cs_decoder_t *decoder)
{
    if (decoder->outcome.finish_reason != NULL) {
        return NULL;
    }
    return decoder->frames == 0 ? "upstream's answer was empty" : "upstream's answer ended without an end marker";
}

/* ---- request ----------------------------------------------------------------------------------------------------- */

static apr_status_t put_history(cs_buf_t *out, const char *history)
{
    const char *inside;
    size_t len;
    if (history == NULL) {
        return APR_SUCCESS;
    }
    apr_status_t rv = cs_provider_array_inside(history, &inside, &len);
    if (rv == APR_SUCCESS && len > 0) {
        rv = cs_buf_append(out, inside, len);
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append(out, ",", 1);
        }
    }
    return rv;
}

static apr_status_t build_request(const cs_question_t *question, cs_buf_t *out)
{
    const char *message = question->message ? question->message : "";
    apr_status_t rv = cs_buf_append(out, "{", 1);
    if (rv == APR_SUCCESS) {
        rv = cs_provider_put_string(out, "model", question->model);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, question->model ? ",\"messages\":[" : "\"messages\":[");
    }
    if (rv == APR_SUCCESS) {
        rv = put_history(out, question->history);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, "{\"role\":\"user\",\"content\":");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, message, strlen(message));
    }
    return rv == APR_SUCCESS ? cs_buf_append_str(out, "}],\"stream\":true,\"stream_options\":{\"include_usage\":true}}")
                             : rv;
}

const cs_dialect_t cs_dialect_openai = {
    "openai", "text/event-stream", &cs_framing_sse, 1, frame_openai, missing, build_request,
};
