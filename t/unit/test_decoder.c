/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decoder: its life cycle and limits, the NDJSON framing no dialect uses yet, and the proof that the fast path says
 * what json-c says: many thousand generated and spoilt chunks, decoded both ways.
 */
#include <stdlib.h>

#include "event/dialect.h"
#include "event/json_scan.h"
#include "tap.h"
#include "transcript.h"

static const cs_decoder_limits_t roomy = {65536, 1 << 20};

/* ---- limits and life cycle --------------------------------------------------------------------------------------- */

typedef struct {
    int events;
    size_t bytes;
    apr_status_t answer; /* what the callback returns */
} counter_t;

static apr_status_t count_event(void *baton, const cs_event_t *event)
{
    counter_t *counter = baton;
    counter->events++;
    counter->bytes += event->len;
    return counter->answer;
}

static const cs_decoder_events_t counting = {count_event};

static cs_decoder_t *make(const char *dialect, cs_decode_mode_e mode, size_t max_event, size_t max_answer, counter_t *c)
{
    cs_decoder_t *decoder;
    cs_decoder_limits_t limits = {max_event, max_answer};
    memset(c, 0, sizeof(*c));
    if (cs_decoder_create(&decoder, cs_dialect_find(dialect), mode, &limits, &counting, c) != APR_SUCCESS) {
        abort();
    }
    return decoder;
}

static void test_limits(void)
{
    counter_t c;
    const char *why;
    cs_decoder_t *d = make("sse", CS_DECODE_EVENTS, 100, 10, &c);
    is_int(cs_decoder_feed(d, "data: 12345\n\ndata: 67890\n\n", 26), APR_SUCCESS, "an answer of max_answer bytes");
    is_int(cs_decoder_feed(d, "data: x\n\n", 9), APR_ENOSPC, "one byte more is refused");
    is_int(c.events, 2, "and not passed on");
    is_int(cs_decoder_feed(d, "data: [DONE]\n\n", 14), APR_ENOSPC, "nothing is accepted after that");
    is_int(cs_decoder_finish(d, &why), APR_ENOSPC, "nor is the end");
    cs_decoder_destroy(d);

    d = make("sse", CS_DECODE_RAW, 100, 10, &c);
    is_int(cs_decoder_feed(d, "data: {\"a\":1}\n\n", 15), APR_SUCCESS, "raw: all data counts");
    is_int(cs_decoder_feed(d, "data: {\"a\":1}\n\n", 15), APR_ENOSPC, "towards max_answer");
    cs_decoder_destroy(d);

    d = make("sse", CS_DECODE_EVENTS, 20, 1000, &c);
    is_int(cs_decoder_feed(d, "data: 12345678901234567890\n\n", 28), APR_ENOSPC, "a line over max_event");
    cs_decoder_destroy(d);
    d = make("text", CS_DECODE_EVENTS, 100, (size_t)1 << 30, &c);
    char *big = malloc(1 << 20);
    memset(big, '\xff', 1 << 20);
    is_int(cs_decoder_feed(d, big, 1 << 20), APR_SUCCESS, "a long read of bad text");
    ok(c.bytes == (size_t)3 << 20 && c.events > 10000, "is repaired in slices");
    cs_decoder_destroy(d);
    free(big);
    cs_decoder_destroy(NULL);
}

static void test_callback(void)
{
    counter_t c;
    const char *why;
    cs_decoder_t *d = make("sse", CS_DECODE_EVENTS, 1000, 1000, &c);
    c.answer = APR_EGENERAL;
    is_int(cs_decoder_feed(d, "data: a\n\ndata: b\n\n", 18), APR_EGENERAL, "what the callback returns is returned");
    is_int(c.events, 1, "and ends the feed");
    is_int(cs_decoder_feed(d, "data: c\n\n", 9), APR_EGENERAL, "for good");
    c.answer = APR_EOF;
    cs_decoder_reset(d, &c);
    is_int(cs_decoder_feed(d, "data: [DONE]\n\ndata: a\n\n", 23), APR_SUCCESS, "after the end nothing is decoded");
    is_int(cs_decoder_finish(d, &why), APR_SUCCESS, "and all is whole");
    is_int(c.events, 1, "no event");
    cs_decoder_reset(d, &c);
    is_int(cs_decoder_feed(d, "data: a\n\n", 9), APR_EOF, "the callback may even say APR_EOF");
    cs_decoder_destroy(d);
}

static void test_reset(void)
{
    counter_t c, other = {0, 0, APR_SUCCESS};
    const char *why;
    cs_decoder_t *d = make("openai", CS_DECODE_EVENTS, 100000, 100000, &c);
    static const char end[] = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],"
                              "\"usage\":{\"prompt_tokens\":1}}\n\ndata: cut";
    cs_decoder_feed(d, end, sizeof(end) - 1);
    is_str(cs_decoder_outcome(d)->finish_reason, "stop", "an outcome");
    cs_decoder_reset(d, &other);
    const cs_outcome_t *o = cs_decoder_outcome(d);
    ok(!o->done && !o->finish_reason && !o->failure && o->prompt_tokens == -1, "reset forgets the outcome");
    is_int(cs_decoder_finish(d, &why), APR_INCOMPLETE, "and the half event");
    is_str(why, "upstream's answer was empty", "nothing came");
    cs_decoder_reset(d, &other);
    cs_decoder_feed(d, end, sizeof(end) - 10);
    ok(c.events == 1 && other.events == 1, "the new baton is used");
    cs_decoder_reset(d, &c);
    static const char bad[] = "data: {\"error\":1,\"choices\":[{\"finish_reason\":\"a\\u0000b\"}]}\n\n";
    is_int(cs_decoder_feed(d, bad, sizeof(bad) - 1), APR_SUCCESS, "odd members");
    ok(cs_decoder_outcome(d)->finish_reason == NULL, "a finish reason with a NUL is none");
    char text[400];
    cs_decoder_reset(d, &c);
    int n = snprintf(text, sizeof(text), "data: {\"choices\":[{\"finish_reason\":\"%0100d\"}]}\n\n", 7);
    cs_decoder_feed(d, text, (size_t)n);
    is_int(strlen(cs_decoder_outcome(d)->finish_reason), 64, "a long one is cut");
    cs_decoder_destroy(d);
}

static apr_status_t check_name(void *baton, const cs_event_t *event)
{
    *(size_t *)baton = cs_utf8_valid(event->name, event->name_len) ? event->name_len : 9999;
    return APR_SUCCESS;
}

static void test_raw_name(void)
{
    static const cs_decoder_events_t events = {check_name};
    cs_decoder_t *d;
    size_t name_len = 0;
    char text[1000] = "event: x";
    for (int i = 0; i < 100; i++) {
        strcat(text, "\xe2\x82\xac");
    }
    strcat(text, "\ndata: x\n\n");
    cs_decoder_create(&d, cs_dialect_find("sse"), CS_DECODE_RAW, &roomy, &events, &name_len);
    cs_decoder_feed(d, text, strlen(text));
    is_int(name_len, 253, "a raw name is cut between characters");
    cs_decoder_destroy(d);
}

/* 100 MB that never end: what comes back, and how much the callback saw. */
static void test_floods(void)
{
    static const char *const dialects[] = {"sse", "openai", "text"};
    char *chunk = malloc(65536);
    for (int i = 0; i < 3; i++) {
        counter_t c;
        apr_status_t rv = APR_SUCCESS;
        cs_decoder_t *d = make(dialects[i], CS_DECODE_EVENTS, 256 * 1024, 4 << 20, &c);
        size_t fed = 0;
        memset(chunk, i == 1 ? ':' : 'x', 65536);
        for (; rv == APR_SUCCESS && fed < (size_t)100 << 20; fed += 65536) {
            rv = cs_decoder_feed(d, chunk, 65536);
        }
        is_int(rv, APR_ENOSPC, "%s: 100 MB without an end", dialects[i]);
        ok(fed <= (4 << 20) + 65536, "%s: is refused early", dialects[i]);
        cs_decoder_destroy(d);
    }
    free(chunk);
}

/* ---- NDJSON ------------------------------------------------------------------------------------------------------ */

static apr_status_t note_frame(void *baton, const cs_frame_t *frame)
{
    cs_buf_append(baton, frame->data, frame->len);
    return cs_buf_append(baton, "|", 1);
}

static void lines(const char *input, const char *want)
{
    size_t len = strlen(input);
    void *state = malloc(cs_framing_ndjson.size);
    for (size_t piece = 1; piece <= len; piece++) {
        cs_buf_t out;
        const char *why;
        cs_buf_init(&out, 10000);
        cs_framing_ndjson.init(state, 1000, note_frame, &out);
        for (size_t at = 0; at < len; at += piece) {
            cs_framing_ndjson.feed(state, input + at, len - at < piece ? len - at : piece);
        }
        apr_status_t rv = cs_framing_ndjson.finish(state, &why);
        if (rv != APR_SUCCESS || !tap_same(out.data, out.len, want, strlen(want)) || piece == len) {
            is_mem(out.data, out.len, want, strlen(want), "ndjson: lines (pieces of %d)", (int)piece);
        }
        cs_framing_ndjson.release(state);
        cs_buf_free(&out);
    }
    free(state);
}

static void test_ndjson(void)
{
    lines("{\"a\":1}\n{\"b\":2}\r\n\n \r\n{\"c\":\"\xe2\x82\xac\xff\"}\n{\"last\":1}",
          "{\"a\":1}|{\"b\":2}|{\"c\":\"\xe2\x82\xac\xef\xbf\xbd\"}|{\"last\":1}|");
    lines("\n", "");
    void *state = malloc(cs_framing_ndjson.size);
    cs_buf_t out;
    cs_buf_init(&out, 10000);
    cs_framing_ndjson.init(state, 10, note_frame, &out);
    is_int(cs_framing_ndjson.feed(state, "1234567890\n", 11), APR_SUCCESS, "ndjson: a line of max_event bytes");
    is_int(cs_framing_ndjson.feed(state, "12345678901\n", 12), APR_ENOSPC, "ndjson: a longer one");
    cs_framing_ndjson.reset(state);
    is_int(cs_framing_ndjson.feed(state, "12345678901", 11), APR_ENOSPC, "ndjson: also without its end");
    cs_framing_ndjson.release(state);
    cs_buf_free(&out);
    free(state);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void test_json(void)
{
    static const char *const good[] = {"0",
                                       "-0",
                                       "1.5e+3",
                                       "1E9",
                                       "\"\"",
                                       "\"\\u12aF\"",
                                       "[]",
                                       "{}",
                                       " [ 1 , 2 ] ",
                                       "null",
                                       "{\"a\":{\"b\":[{}]}}",
                                       "[[],{}]",
                                       "true",
                                       "{\"a\":1,\"a\":2}",
                                       "\"\x7f\""};
    static const char *const bad[] = {"",      " ",       "01",       "1.",    ".5",      "-",           "1e",
                                      "+1",    "NaN",     "'a'",      "[1,]",  "[,1]",    "{\"a\":1,}",  "{,}",
                                      "{a:1}", "{\"a\"}", "{\"a\":}", "[1 2]", "\"\\x\"", "\"\\u12g4\"", "\"\t\"",
                                      "\"a",   "[",       "{",        "[}",    "{]",      "tru",         "nul",
                                      "1 2",   "{} {}",   "[1]]",     "\"\\",  "\"\\u1"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        ok(cs_json_valid(good[i], strlen(good[i])), "is JSON: %s", good[i]);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ok(!cs_json_valid(bad[i], strlen(bad[i])), "is not JSON: %s", bad[i]);
    }
    ok(!cs_json_valid("1\0", 2), "a NUL is not JSON");
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    ok(cs_json_valid(deep + 40, 120), "60 levels");
    ok(!cs_json_valid(deep + 39, 122), "61 levels are refused");
}

/* ---- the fast path against json-c -------------------------------------------------------------------------------- */

static uint64_t rng = 88172645463325252;

static unsigned pick(unsigned n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (unsigned)(rng >> 33) % n;
}

static void put(cs_buf_t *out, const char *text)
{
    if (cs_buf_append_str(out, text) != APR_SUCCESS) {
        abort();
    }
}

#define PICK(list) list[pick(sizeof(list) / sizeof(list[0]))]

static void put_string(cs_buf_t *out)
{
    static const char *const parts[] = {"a",
                                        "Hello",
                                        " ",
                                        "\xc3\xa9",
                                        "\xf0\x9f\x98\x80",
                                        "\\n",
                                        "\\\"",
                                        "\\\\",
                                        "\\/",
                                        "\\b",
                                        "\\u0000",
                                        "\\u0041",
                                        "\\u00e9",
                                        "\\u20AC",
                                        "\\ud83d\\ude00",
                                        "\\ud83d",
                                        "\\ude00",
                                        "\\ud83d\\ud83d\\ude00",
                                        "\\ud83d\\n",
                                        "a long run of plain text",
                                        "{",
                                        "}",
                                        "[DONE]",
                                        "\\ud83d\\u0041",
                                        "\\f\\r\\t"};
    put(out, "\"");
    for (unsigned n = pick(5); n > 0; n--) {
        put(out, PICK(parts));
    }
    put(out, "\"");
}

static void put_value(cs_buf_t *out, int depth)
{
    static const char *const scalars[] = {
        "0",    "1",     "-1",       "1.5",       "1e3",      "null",      "null",
        "true", "false", "\"stop\"", "\"error\"", "\"done\"", "\"token\"", "12345678901234567890",
        "\"\"", "0.0",   "-0"};
    unsigned kind = pick(depth > 2 ? 6 : 10);
    if (kind < 3) {
        put_string(out);
    }
    else if (kind < 8) {
        put(out, PICK(scalars));
    }
    else {
        put(out, kind == 8 ? "[" : "{");
        for (unsigned i = 0, n = pick(3); i < n; i++) {
            put(out, i > 0 ? "," : "");
            put(out, kind == 8 ? "" : i > 0 ? "\"text\":" : "\"content\":");
            put_value(out, depth + 1);
        }
        put(out, kind == 8 ? "]" : "}");
    }
}

static void put_space(cs_buf_t *out)
{
    static const char *const spaces[] = {"", "", "", "", "", " ", "  ", "\t"};
    put(out, PICK(spaces));
}

static void put_object(cs_buf_t *out)
{
    static const char *const keys[] = {"content", "token",         "text",    "chunk",   "delta",         "type",
                                       "id",      "object",        "created", "model",   "index",         "role",
                                       "usage",   "finish_reason", "error",   "sources", "conten\\u0074", "x"};
    put(out, "{");
    for (unsigned i = 0, n = pick(5); i < n; i++) {
        put(out, i > 0 ? "," : "");
        put_space(out);
        put(out, "\"");
        put(out, PICK(keys));
        put(out, "\"");
        put_space(out);
        put(out, ":");
        put_space(out);
        put_value(out, 0);
        put_space(out);
    }
    put(out, "}");
}

static void put_delta(cs_buf_t *out)
{
    static const char *const keys[] = {"content", "content",           "content",   "role",
                                       "refusal", "reasoning_content", "tool_calls"};
    put(out, "{");
    for (unsigned i = 0, n = pick(3); i < n; i++) {
        put(out, i > 0 ? ",\"" : "\"");
        put(out, PICK(keys));
        put(out, "\":");
        if (pick(3) > 0) {
            put_string(out);
        }
        else {
            put_value(out, 1);
        }
    }
    put(out, "}");
}

static void put_chunk(cs_buf_t *out)
{
    static const char *const heads[] = {
        "\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",", "", "\"id\":{\"a\":[1]},",
        "\"error\":null,", "\"obfuscation\":\"x\","};
    static const char *const tails[] = {"",
                                        "",
                                        "",
                                        ",\"usage\":null",
                                        ",\"usage\":{\"prompt_tokens\":4}",
                                        ",\"citations\":[1]",
                                        ",\"choices\":[]",
                                        ",\"error\":\"\"",
                                        ",\"service_tier\":null",
                                        ",\"type\":null"};
    static const char *const ends[] = {",\"finish_reason\":null",
                                       ",\"finish_reason\":\"stop\"",
                                       "",
                                       ",\"logprobs\":null",
                                       ",\"logprobs\":{}",
                                       ",\"index\":0",
                                       ",\"index\":1",
                                       ",\"index\":0.5",
                                       ",\"index\":null",
                                       ",\"delta\":{}",
                                       ",\"index\":\"0\"",
                                       ",\"x\":null"};
    put(out, "{");
    put(out, PICK(heads));
    put(out, "\"choices\":[");
    for (unsigned i = 0, n = pick(8); i < (n == 0 ? 0u : n == 1 ? 2u : 1u); i++) {
        put(out, i > 0 ? "," : "");
        put(out, pick(2) ? "{\"index\":0,\"delta\":" : "{\"delta\":");
        put_delta(out);
        put(out, PICK(ends));
        put(out, PICK(ends));
        put(out, "}");
    }
    put(out, "]");
    put(out, PICK(tails));
    put(out, "}");
}

/* A few bytes changed, dropped or doubled. Line ends would make other frames of it, not other JSON. */
static void spoil(cs_buf_t *out)
{
    static const char bytes[] = "\"\\{}[]:,0e.-unull \x01\x80\xff"
                                "a";
    for (unsigned n = 1 + pick(3); n > 0 && out->len > 1; n--) {
        size_t at = pick((unsigned)out->len);
        switch (pick(3)) {
        case 0:
            out->data[at] = bytes[pick(sizeof(bytes) - 1)];
            break;
        case 1:
            memmove(out->data + at, out->data + at + 1, out->len - at - 1);
            out->len--;
            break;
        default:
            out->len = at + 1;
            break;
        }
    }
}

static int compare(const char *dialect, const cs_buf_t *input, int *fast)
{
    transcript_t a, b;
    transcript_run(&a, dialect, 0, &roomy, input->data, input->len, input->len, 1);
    transcript_run(&b, dialect, TRANSCRIPT_SLOW, &roomy, input->data, input->len, input->len, 1);
    int same = tap_same(a.text.data, a.text.len, b.text.data, b.text.len) && !a.bad && !b.bad;
    if (!same) {
        tap_show("input", input->data, input->len);
        tap_show(" fast", a.text.data, a.text.len);
        tap_show(" slow", b.text.data, b.text.len);
    }
    *fast += a.text.len > 5 && memcmp(a.text.data, "token", 5) == 0;
    cs_buf_free(&a.text);
    cs_buf_free(&b.text);
    return same;
}

static void test_differential(void)
{
    int wrong = 0;
    int tokens = 0;
    cs_buf_t input;
    cs_buf_init(&input, SIZE_MAX);
    for (int i = 0; i < 120000 && wrong < 5; i++) {
        unsigned kind = pick(5);
        input.len = 0;
        put(&input, "data:");
        size_t head = input.len;
        if (kind == 0) {
            put_string(&input);
        }
        else if (kind < 3) {
            put_object(&input);
        }
        else {
            put_chunk(&input);
        }
        if (pick(3) == 0) {
            spoil(&input);
        }
        if (input.len < head) {
            continue;
        }
        put(&input, "\n\n");
        wrong += !compare(kind < 3 ? "sse" : "openai", &input, &tokens);
    }
    is_int(wrong, 0, "the fast path says what json-c says");
    ok(tokens > 20000, "and many of the inputs were tokens (%d)", tokens);
    cs_buf_free(&input);
}

/* Equality alone would also hold if everything went to json-c: its parser is made when first needed, and here is not. */
static void test_fast_path_taken(void)
{
    static const char *const usual[][2] = {
        {"sse",
         "data: {\"content\":\"a\"}\n\nevent: message\ndata: {\"type\":\"token\",\"token\":\"\\u00e9\",\"id\":1}\n\n"},
        {"sse", "data: \"a\\n\"\n\ndata: plain\n\n"},
        {"openai",
         "data: {\"id\":\"c\",\"object\":\"o\",\"created\":1,\"model\":\"m\",\"system_fingerprint\":null,"
         "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"},\"logprobs\":null,"
         "\"finish_reason\":null}],\"usage\":null}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n"}};
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
        counter_t c;
        cs_decoder_t *d = make(usual[i][0], CS_DECODE_EVENTS, 1000, 1000, &c);
        is_int(cs_decoder_feed(d, usual[i][1], strlen(usual[i][1])), APR_SUCCESS, "%s: the usual shapes", usual[i][0]);
        is_int(c.events, 2, "%s: two tokens", usual[i][0]);
        ok(d->tokener == NULL, "%s: are read without json-c", usual[i][0]);
        cs_decoder_destroy(d);
    }
}

int main(void)
{
    test_fast_path_taken();
    test_limits();
    test_callback();
    test_reset();
    test_raw_name();
    test_floods();
    test_ndjson();
    test_json();
    test_differential();
    return done_testing();
}
