/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialect sse: what hand-written backends send. Nothing about them is fixed, so this is a list of habits met in the
 * field: JSON objects with the text under one of several names, JSON strings, bare text, an end said in one of several
 * words, or not said at all.
 */
#include "event/dialect.h"
#include "event/json_scan.h"
#include "event/provider.h"

#define REPORTED "upstream reported an error"

/* In the order in which they are looked for. */
static const char *const text_keys[] = {"content", "token", "text", "chunk", "delta"};
#define TEXT_KEYS (sizeof(text_keys) / sizeof(text_keys[0]))

/* ---- what the event's name or its member "type" says ------------------------------------------------------------- */

typedef enum { ORDINARY, PING, START, END, ERROR } meaning_e; /* of two that differ, the greater counts */

static meaning_e word_meaning(const char *word, size_t len)
{
    static const struct {
        const char *word;
        meaning_e meaning;
    } words[] = {{"done", END},   {"complete", END},   {"completed", END},    {"end", END},
                 {"finish", END}, {"stop", END},       {"message_stop", END}, {"error", ERROR},
                 {"ping", PING},  {"heartbeat", PING}, {"keepalive", PING},   {"start", START}};
    if (len < 3 || len > 12) {
        return ORDINARY;
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (words[i].word[0] == word[0] && strlen(words[i].word) == len && memcmp(words[i].word, word, len) == 0) {
            return words[i].meaning;
        }
    }
    return ORDINARY;
}

static int is_named(const cs_frame_t *frame)
{
    return frame->name_len > 0 && !(frame->name_len == 7 && memcmp(frame->name, "message", 7) == 0);
}

static meaning_e name_meaning(const cs_frame_t *frame)
{
    return is_named(frame) ? word_meaning(frame->name, frame->name_len) : ORDINARY;
}

/* ---- fast path: an object with a text and nothing else that says something --------------------------------------- */

static int is_text_key(const cs_json_str_t *key)
{
    return CS_JSON_STR_IS(key, "content") || CS_JSON_STR_IS(key, "token") || CS_JSON_STR_IS(key, "text")
           || CS_JSON_STR_IS(key, "chunk") || CS_JSON_STR_IS(key, "delta");
}

static int is_void_key(const cs_json_str_t *key)
{
    return CS_JSON_STR_IS(key, "id") || CS_JSON_STR_IS(key, "object") || CS_JSON_STR_IS(key, "created")
           || CS_JSON_STR_IS(key, "model") || CS_JSON_STR_IS(key, "index") || CS_JSON_STR_IS(key, "role");
}

/* 0 leaves the object to json-c: anything nested, a member that says something, or one that comes twice. */
static int scan_object(const cs_frame_t *frame, cs_json_str_t *text)
{
    cs_json_scan_t scan = {frame->data, frame->data + frame->len, 0};
    cs_json_str_t key;
    cs_json_str_t type;
    int more;
    int texts = 0;
    int types = 0;
    if (!cs_json_scan_enter(&scan, '{')) {
        return 0;
    }
    while ((more = cs_json_scan_member(&scan, &key)) > 0) {
        char first = cs_json_scan_peek(&scan);
        if (key.escaped || first == '{' || first == '[') {
            return 0;
        }
        if (is_text_key(&key)) {
            if (texts++ || !cs_json_scan_string(&scan, text)) {
                return 0;
            }
        }
        else if (CS_JSON_STR_IS(&key, "type")) {
            if (types++ || !cs_json_scan_string(&scan, &type) || type.escaped
                || word_meaning(type.text, type.len) != ORDINARY) {
                return 0;
            }
        }
        else if (is_void_key(&key) ? !cs_json_scan_skip(&scan) : !cs_json_scan_null(&scan)) {
            return 0;
        }
    }
    return more == 0 && texts == 1 && cs_json_scan_end(&scan);
}

static int scan_string(const cs_frame_t *frame, cs_json_str_t *text)
{
    cs_json_scan_t scan = {frame->data, frame->data + frame->len, 0};
    return cs_json_scan_string(&scan, text) && cs_json_scan_end(&scan);
}

static apr_status_t pass_string(cs_decoder_t *decoder, const cs_json_str_t *text)
{
    if (!text->escaped) {
        return cs_decoder_token(decoder, text->text, text->len);
    }
    decoder->scratch.len = 0;
    apr_status_t rv = cs_json_unescape(text, &decoder->scratch);
    return rv == APR_SUCCESS ? cs_decoder_token(decoder, decoder->scratch.data, decoder->scratch.len) : rv;
}

/* ---- objects, by json-c ------------------------------------------------------------------------------------------ */

/* Where an object keeps its text. */
typedef struct {
    json_object *text;  /* NULL: it has none */
    const char *key;    /* the member that is or holds it */
    const char *within; /* the member of "delta" that is it, or NULL */
} place_t;

static int is_string(json_object *value)
{
    return json_object_is_type(value, json_type_string);
}

/* The first text that is not empty; if all are, the first. */
static place_t find_text(json_object *object)
{
    static const char *const within[] = {"content", "text"};
    place_t found = {NULL, NULL, NULL};
    for (size_t i = 0; i < TEXT_KEYS + 2; i++) {
        place_t place = {NULL, i < TEXT_KEYS ? text_keys[i] : "delta", i < TEXT_KEYS ? NULL : within[i - TEXT_KEYS]};
        place.text = cs_provider_member(object, place.key);
        if (place.within != NULL) {
            place.text = cs_provider_member(place.text, place.within);
        }
        if (is_string(place.text) && (found.text == NULL || cs_provider_is_void(found.text))) {
            found = place;
            if (!cs_provider_is_void(place.text)) {
                break;
            }
        }
    }
    return found;
}

static int is_one_of(const char *key, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(key, keys[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Members that say nothing about the answer beside its text. */
static int is_boring(const char *key)
{
    static const char *const keys[] = {"type",  "id",   "object", "created",       "model",
                                       "index", "role", "usage",  "finish_reason", "error"};
    return is_one_of(key, keys, sizeof(keys) / sizeof(keys[0]));
}

/*
 * What else an object with a text says. "error" is not among it: with a text beside it it is no failure, but its words
 * are still the upstream's to its operator.
 */
static void add_beside_text(json_object *metadata, json_object *object, const place_t *place)
{
    json_object_object_foreach(object, key, value) {
        if (is_boring(key) || value == NULL) {
            continue;
        }
        if (strcmp(key, place->key) == 0) {
            if (place->within == NULL) {
                continue;
            }
            json_object_object_del(value, place->within);
            json_object_object_del(value, "role");
        }
        if (is_one_of(key, text_keys, TEXT_KEYS) && cs_provider_is_void(value)) {
            continue;
        }
        json_object_object_add(metadata, key, json_object_get(value));
    }
}

static int has_only_boring(json_object *object)
{
    json_object_object_foreach(object, key, value) {
        (void)value;
        if (!is_boring(key)) {
            return 0;
        }
    }
    return 1;
}

/* An object without a text is passed on whole, save what the outcome has taken from it. */
static void add_all(json_object *metadata, json_object *object, const cs_frame_t *frame)
{
    json_object *usage = cs_provider_member(object, "usage");
    json_object *reason = cs_provider_member(object, "finish_reason");
    int taken = usage != NULL || reason != NULL;
    if (taken && has_only_boring(object)) {
        return;
    }
    json_object_object_foreach(object, key, value) {
        if (strcmp(key, "usage") != 0 && strcmp(key, "finish_reason") != 0) {
            json_object_object_add(metadata, key, json_object_get(value));
        }
    }
    if (is_named(frame)) {
        json_object_object_add(metadata, "upstream_event",
                               json_object_new_string_len(frame->name, (int)frame->name_len));
    }
}

/* The answer's end is told in the object itself or in one member of it, as in {"type":"done","data":{"usage":{…}}}. */
static void note_outcome(cs_decoder_t *decoder, json_object *object)
{
    json_object_object_foreach(object, key, value) {
        (void)key;
        cs_provider_finish_reason(decoder, cs_provider_member(value, "finish_reason"));
        cs_provider_usage(decoder, cs_provider_member(value, "usage"));
    }
    cs_provider_finish_reason(decoder, cs_provider_member(object, "finish_reason"));
    cs_provider_usage(decoder, cs_provider_member(object, "usage"));
}

static int has_failed(json_object *object, meaning_e meaning, const place_t *place)
{
    json_object *error = cs_provider_member(object, "error");
    int reported = json_object_is_type(error, json_type_object) || (is_string(error) && !cs_provider_is_void(error));
    return meaning == ERROR || (reported && place->text == NULL);
}

static json_object *gather(json_object *object, const cs_frame_t *frame, const place_t *place, meaning_e meaning)
{
    json_object *metadata = json_object_new_object();
    if (place->text != NULL) {
        add_beside_text(metadata, object, place);
    }
    else if (meaning == END) {
        const place_t nowhere = {NULL, "", NULL};
        add_beside_text(metadata, object, &nowhere);
    }
    else if (meaning != START
             || json_object_object_length(object) > (json_object_object_get_ex(object, "type", NULL))) {
        add_all(metadata, object, frame);
    }
    return metadata;
}

static apr_status_t read_object(cs_decoder_t *decoder, const cs_frame_t *frame, json_object *object)
{
    meaning_e meaning = name_meaning(frame);
    json_object *type = cs_provider_member(object, "type");
    if (is_string(type)) {
        meaning_e said = word_meaning(json_object_get_string(type), (size_t)json_object_get_string_len(type));
        meaning = said > meaning ? said : meaning;
    }
    place_t place = find_text(object);
    if (has_failed(object, meaning, &place)) {
        json_object *error = cs_provider_member(object, "error");
        cs_provider_failure(decoder, json_object_is_type(error, json_type_object) ? error : object);
        return APR_SUCCESS;
    }
    note_outcome(decoder, object);
    if (meaning == PING && place.text == NULL) {
        cs_decoder_ping(decoder);
        return APR_SUCCESS;
    }
    apr_status_t rv = APR_SUCCESS;
    if (place.text != NULL) {
        rv = cs_decoder_token(decoder, json_object_get_string(place.text),
                              (size_t)json_object_get_string_len(place.text));
    }
    if (rv == APR_SUCCESS) {
        json_object *metadata = gather(object, frame, &place, meaning);
        if (json_object_object_length(metadata) > 0) {
            rv = cs_decoder_metadata(decoder, metadata);
        }
        else {
            json_object_put(metadata);
        }
    }
    if (meaning == END) {
        cs_decoder_done(decoder);
    }
    return rv;
}

/* ---- everything else --------------------------------------------------------------------------------------------- */

static apr_status_t read_array(cs_decoder_t *decoder, const cs_frame_t *frame, json_object *array)
{
    meaning_e meaning = name_meaning(frame);
    if (meaning == ERROR) {
        cs_decoder_fail(decoder, REPORTED, 0);
        return APR_SUCCESS;
    }
    if (meaning == PING) {
        cs_decoder_ping(decoder);
        return APR_SUCCESS;
    }
    json_object *metadata = json_object_new_object();
    json_object_object_add(metadata, "data", json_object_get(array));
    if (is_named(frame)) {
        json_object_object_add(metadata, "upstream_event",
                               json_object_new_string_len(frame->name, (int)frame->name_len));
    }
    if (meaning == END) {
        cs_decoder_done(decoder);
    }
    return cs_decoder_metadata(decoder, metadata);
}

/* `event: done` needs some data to be dispatched at all, so many put a word there that is no part of the answer. */
static int is_filler(const cs_json_str_t *text)
{
    return word_meaning(text->text, text->len) == END || CS_JSON_STR_IS(text, "null") || CS_JSON_STR_IS(text, "true")
           || CS_JSON_STR_IS(text, "[DONE]") || CS_JSON_STR_IS(text, "DONE") || CS_JSON_STR_IS(text, "[END]");
}

static apr_status_t read_text(cs_decoder_t *decoder, const cs_frame_t *frame, const cs_json_str_t *text)
{
    switch (name_meaning(frame)) {
    case ERROR:
        cs_decoder_fail(decoder, REPORTED, 0);
        return APR_SUCCESS;
    case PING:
    case START:
        cs_decoder_ping(decoder);
        return APR_SUCCESS;
    case END:
        cs_decoder_done(decoder);
        return is_filler(text) ? APR_SUCCESS : pass_string(decoder, text);
    case ORDINARY:
        break;
    }
    return pass_string(decoder, text);
}

static char first_char(const cs_frame_t *frame)
{
    for (size_t i = 0; i < frame->len; i++) {
        if (frame->data[i] != ' ' && frame->data[i] != '\t' && frame->data[i] != '\n') {
            return frame->data[i];
        }
    }
    return '\0';
}

static apr_status_t read_structured(cs_decoder_t *decoder, const cs_frame_t *frame, const cs_json_str_t *as_text)
{
    json_object *value = cs_decoder_parse(decoder, frame->data, frame->len);
    apr_status_t rv;
    switch (json_object_get_type(value)) {
    case json_type_object:
        rv = read_object(decoder, frame, value);
        break;
    case json_type_array:
        rv = read_array(decoder, frame, value);
        break;
    default: /* text that merely begins like JSON, such as a [link] or a line of code */
        rv = read_text(decoder, frame, as_text);
        break;
    }
    json_object_put(value);
    return rv;
}

static apr_status_t frame_sse(cs_decoder_t *decoder, const cs_frame_t *frame)
{
    const cs_json_str_t as_text = {frame->data, frame->len, 0};
    cs_json_str_t text;
    switch (first_char(frame)) {
    case '{':
        if (!decoder->no_fast_path && name_meaning(frame) == ORDINARY && scan_object(frame, &text)) {
            return pass_string(decoder, &text);
        }
        return read_structured(decoder, frame, &as_text);
    case '[':
        if (cs_provider_is_done_mark(frame->data, frame->len)) {
            cs_decoder_done(decoder);
            return APR_SUCCESS;
        }
        return read_structured(decoder, frame, &as_text);
    case '"':
        return read_text(decoder, frame, scan_string(frame, &text) ? &text : &as_text);
    default:
        return read_text(decoder, frame, &as_text);
    }
}

static const char *missing(const cs_decoder_t *decoder)
{
    return decoder->frames == 0 ? "upstream's answer was empty" : NULL;
}

const cs_dialect_t cs_dialect_sse = {
    "sse", "text/event-stream", &cs_framing_sse, 0, frame_sse, missing, cs_provider_build_plain,
};
