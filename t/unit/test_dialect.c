/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialects: what each makes of its frames. Every case runs whole, one byte at a time, and with the fast path off; all
 * must say the same.
 */
#include "chatstream/event.h"
#include "tap.h"
#include "transcript.h"

static const cs_decoder_limits_t limits = {65536, 1 << 20};
static int base_flags;

static void says(const char *dialect, const char *what, const char *input, const char *want)
{
    static const int flags[] = {0, TRANSCRIPT_SLOW};
    size_t len = strlen(input);
    for (int i = 0; i < 2; i++) {
        for (size_t piece = 1; piece <= len + 1; piece += len > 0 ? len : 1) {
            transcript_t t;
            transcript_run(&t, dialect, base_flags | flags[i], &limits, input, len, 0, piece);
            is_mem(t.text.data, t.text.len, want, strlen(want), "%s: %s (%s, %s)", dialect, what,
                   piece == 1 ? "byte by byte" : "whole", i ? "json-c" : "fast path");
            if (t.bad) {
                ok(0, "%s: %s: keeps the promises of event.h", dialect, what);
            }
            cs_buf_free(&t.text);
        }
    }
}

#define D(data)    "data: " data "\n\n"
#define E(name, d) "event: " name "\ndata: " d "\n\n"
#define WHOLE      "= | whole\n"
#define DONE       "= done | whole\n"

static void test_sse_texts(void)
{
    static const char *const keys[] = {"content", "token", "text", "chunk", "delta"};
    for (int i = 0; i < 5; i++) {
        char input[128];
        snprintf(input, sizeof(input), D("{\"%s\":\"Hel\"}") D("{\"type\":\"token\",\"%s\":\"lo\"}"), keys[i], keys[i]);
        says("sse", keys[i], input, "token \"Hel\"\ntoken \"lo\"\n" WHOLE);
    }
    says("sse", "delta.content, delta.text",
         D("{\"delta\":{\"content\":\"a\"}}") D("{\"delta\":{\"role\":\"x\",\"text\":\"b\"}}"),
         "token \"a\"\ntoken \"b\"\n" WHOLE);
    says("sse", "boring members",
         D("{\"type\":\"token\",\"id\":\"1\",\"object\":{},\"created\":1,\"model\":[\"m\"],\"index\":0,"
           "\"role\":\"assistant\",\"content\":\"x\",\"usage\":null,\"finish_reason\":null}"),
         "token \"x\"\n" WHOLE);
    says("sse", "escapes", D("{\"content\":\"a\\n\\\"\\u00e9\\ud83d\\ude00\\ud800\\u0000\\/\"}"),
         "token \"a\\n\\\"\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd\\u0000/\"\n" WHOLE);
    says("sse", "an empty token is no event", D("{\"content\":\"\"}") D("") D("\"\""), WHOLE);
    says("sse", "the first that is not empty", D("{\"content\":\"\",\"delta\":\"x\"}"), "token \"x\"\n" WHOLE);
    says("sse", "two texts", D("{\"text\":\"b\",\"content\":\"a\"}"), "token \"a\"\nmetadata {\"text\":\"b\"}\n" WHOLE);
    says("sse", "a member twice", D("{\"content\":\"a\",\"content\":\"b\"}"), "token \"b\"\n" WHOLE);
    says("sse", "a key with escapes", D("{\"conten\\u0074\":\"a\"}"), "token \"a\"\n" WHOLE);
    says("sse", "JSON strings", D("\"Hel\"") D("\" lo\\n\""), "token \"Hel\"\ntoken \" lo\\n\"\n" WHOLE);
    says("sse", "bare text", D("Hello") D(" world") D("42") D("true") D("null"),
         "token \"Hello\"\ntoken \" world\"\ntoken \"42\"\ntoken \"true\"\ntoken \"null\"\n" WHOLE);
    says("sse", "text of several lines", "data: a\ndata:\ndata: b\n\n", "token \"a\\n\\nb\"\n" WHOLE);
    says("sse", "text that looks like JSON",
         D("{ x") D("[link](url)") D("\"quote") D("{'a':1}") D("[NaN]") D("{\"a\":1} x"),
         "token \"{ x\"\ntoken \"[link](url)\"\ntoken \"\\\"quote\"\ntoken \"{'a':1}\"\ntoken \"[NaN]\"\n"
         "token \"{\\\"a\\\":1} x\"\n" WHOLE);
    says("sse", "JSON over several lines", "data: {\ndata: \"content\": \"x\"\ndata: }\n\n", "token \"x\"\n" WHOLE);
    says("sse", "named tokens", E("token", "{\"content\":\"x\"}") E("message", "{\"content\":\"y\"}") E("chunk", "z"),
         "token \"x\"\ntoken \"y\"\ntoken \"z\"\n" WHOLE);
    says("sse", "comments", ": hello\n\n" D("x") ": bye", "token \"x\"\n" WHOLE);
}

static void test_sse_metadata(void)
{
    says("sse", "beside a text", D("{\"content\":\"x\",\"sources\":[1],\"score\":0.50,\"none\":null,\"id\":\"9\"}"),
         "token \"x\"\nmetadata {\"sources\":[1],\"score\":0.50}\n" WHOLE);
    says("sse", "beside a text in delta", D("{\"delta\":{\"text\":\"x\",\"role\":\"a\",\"extra\":1}}"),
         "token \"x\"\nmetadata {\"delta\":{\"extra\":1}}\n" WHOLE);
    says("sse", "without a text", D("{\"type\":\"sources\",\"sources\":[{\"u\":\"/x\"}]}"),
         "metadata {\"sources\":[{\"u\":\"/x\"}],\"upstream_type\":\"sources\"}\n" WHOLE);
    says("sse", "without a text, all members", D("{\"id\":\"1\",\"model\":\"m\",\"null\":null}"),
         "metadata {\"id\":\"1\",\"model\":\"m\",\"null\":null}\n" WHOLE);
    says("sse", "named", E("sources", "{\"n\":1}"), "metadata {\"n\":1,\"upstream_event\":\"sources\"}\n" WHOLE);
    says("sse", "a type that is no string", D("{\"type\":5}"), "metadata {\"upstream_type\":5}\n" WHOLE);
    says("sse", "a text that is none", D("{\"content\":[1]}"), "metadata {\"content\":[1]}\n" WHOLE);
    says("sse", "arrays", D("[1,{\"a\":\"b\"}]") E("list", "[]"),
         "metadata {\"data\":[1,{\"a\":\"b\"}]}\nmetadata {\"data\":[],\"upstream_event\":\"list\"}\n" WHOLE);
    says("sse", "an empty object", D("{}"), WHOLE);
    says("sse", "one line", "data: {\"a\":\ndata: \"b\\nc\"}\n\n", "metadata {\"a\":\"b\\nc\"}\n" WHOLE);
}

static void test_sse_ends(void)
{
    static const char *const words[] = {"done", "complete", "completed", "end", "finish", "stop", "message_stop"};
    for (int i = 0; i < 7; i++) {
        char input[256];
        snprintf(input, sizeof(input), D("a") D("{\"type\":\"%s\"}") D("b"), words[i]);
        says("sse", words[i], input, "token \"a\"\n" DONE);
        snprintf(input, sizeof(input), D("a") E("%s", "{}") D("b"), words[i]);
        says("sse", words[i], input, "token \"a\"\n" DONE);
    }
    says("sse", "[DONE]", D("a") D("[DONE]") D("b") "data: cut", "token \"a\"\n" DONE);
    says("sse", "a text first", D("{\"type\":\"done\",\"content\":\"x\",\"finish_reason\":\"stop\"}"),
         "token \"x\"\n= done finish=stop | whole\n");
    says("sse", "fillers", D("a") E("done", "[DONE]"), "token \"a\"\n" DONE);
    says("sse", "fillers", D("a") E("end", "end"), "token \"a\"\n" DONE);
    says("sse", "a text that is none", D("a") E("done", "b"), "token \"a\"\ntoken \"b\"\n" DONE);
    says("sse", "what else the end says", D("{\"type\":\"done\",\"id\":\"7\",\"sources\":[1]}"),
         "metadata {\"sources\":[1]}\n" DONE);
    says("sse", "usage and reason",
         D("{\"type\":\"done\",\"finish_reason\":\"length\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}"),
         "= done finish=length usage=3/4 | whole\n");
    says("sse", "usage, other names", D("{\"content\":\"x\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}"),
         "token \"x\"\n= usage=3/4 | whole\n");
    says("sse", "usage alone is no event",
         D("{\"usage\":{\"input_tokens\":3}}") D("{\"finish_reason\":\"stop\",\"id\":1}"),
         "= finish=stop usage=3/-1 | whole\n");
    says("sse", "usage within",
         D("{\"type\":\"done\",\"data\":{\"finish_reason\":\"stop\",\"usage\":{\"output_tokens\":4}}}"),
         "metadata {\"data\":{\"finish_reason\":\"stop\",\"usage\":{\"output_tokens\":4}}}\n"
         "= done finish=stop usage=-1/4 | whole\n");
    says("sse", "no end at all is an end", D("a"), "token \"a\"\n" WHOLE);
    says("sse", "no event", "", "= | upstream's answer was empty\n");
    says("sse", "only comments", ": ping\n\n", "= | upstream's answer was empty\n");
    says("sse", "only pings", E("ping", "{}"), "= | upstream's answer was empty\n");
    says("sse", "cut in an event", D("a") "data: b\n",
         "token \"a\"\n= | upstream's answer was cut in the middle of an event\n");
    says("sse", "cut in a line", D("a") "data: b",
         "token \"a\"\n= | upstream's answer was cut in the middle of an event\n");
    says("sse", "cut in a comment", D("a") ": b", "token \"a\"\n" WHOLE);
}

#define FAILED(why) "= failure=" why " | " why "\n"
#define RETRY(why)  "= failure=" why " (retry) | " why "\n"

static void test_sse_others(void)
{
    says("sse", "error by type", D("a") D("{\"type\":\"error\",\"message\":\"secret\"}") D("b"),
         "token \"a\"\n" FAILED("upstream reported an error"));
    says("sse", "error by name", E("error", "secret"), FAILED("upstream reported an error"));
    says("sse", "error by name, JSON", E("error", "{\"code\":\"rate_limit_exceeded\"}"),
         RETRY("upstream's rate limit was reached"));
    says("sse", "error by name, array", E("error", "[1]"), FAILED("upstream reported an error"));
    says("sse", "an error's text is no token", D("{\"type\":\"error\",\"content\":\"secret\"}"),
         FAILED("upstream reported an error"));
    says("sse", "error member", D("{\"error\":\"secret\"}"), FAILED("upstream reported an error"));
    says("sse", "error object", D("{\"error\":{\"type\":\"overloaded_error\",\"message\":\"secret\"}}"),
         RETRY("upstream is overloaded"));
    says("sse", "errors that are none", D("{\"content\":\"x\",\"error\":\"\"}") D("{\"content\":\"y\",\"error\":null}"),
         "token \"x\"\ntoken \"y\"\n" WHOLE);
    says("sse", "an error beside a text stays here", D("{\"content\":\"x\",\"error\":\"secret\"}"),
         "token \"x\"\n" WHOLE);
    says("sse", "pings",
         D("a") E("ping", "1") E("heartbeat", "{\"ts\":1}") D("{\"type\":\"keepalive\"}") E("ping", "[]")
             D("{\"type\":\"start\"}") E("start", "go") E("start", "{}"),
         "token \"a\"\n" WHOLE);
    says("sse", "start with members", D("{\"type\":\"start\",\"id\":\"7\"}"),
         "metadata {\"id\":\"7\",\"upstream_type\":\"start\"}\n" WHOLE);
    says("sse", "a ping with a text", E("ping", "{\"content\":\"x\"}"), "token \"x\"\n" WHOLE);
}

#define CHUNK(rest) D("{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\"," rest "}")
#define DELTA(delta, reason)                                                                                           \
    CHUNK("\"choices\":[{\"index\":0,\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" reason "}]")

static void test_openai(void)
{
    says("openai", "an answer",
         DELTA("{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}", "null")
             DELTA("{\"content\":\"Hel\"}", "null") DELTA("{\"content\":\"l\\u00f6\"}", "null") DELTA("{}", "\"stop\"")
                 CHUNK("\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}")
                     D("[DONE]") D("garbage"),
         "token \"Hel\"\ntoken \"l\xc3\xb6\"\n= done finish=stop usage=1/2 | whole\n");
    says("openai", "a finish reason is an end", DELTA("{\"content\":\"x\"}", "\"length\""),
         "token \"x\"\n= finish=length | whole\n");
    says("openai", "no end", DELTA("{\"content\":\"x\"}", "null"),
         "token \"x\"\n= | upstream's answer ended without an end marker\n");
    says("openai", "nothing", "", "= | upstream's answer was empty\n");
    says("openai", "cut", DELTA("{\"content\":\"x\"}", "\"stop\"") "data: [DO",
         "token \"x\"\n= finish=stop | upstream's answer was cut in the middle of an event\n");
    says("openai", "reasoning", DELTA("{\"content\":null,\"reasoning_content\":\"hm\"}", "null") D("[DONE]"),
         "metadata {\"reasoning_content\":\"hm\"}\n" DONE);
    says("openai", "empty reasoning", DELTA("{\"content\":\"x\",\"reasoning\":\"\"}", "null") D("[DONE]"),
         "token \"x\"\n" DONE);
    says("openai", "tool calls",
         DELTA("{\"content\":\"x\",\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]}", "null")
             D("[DONE]"),
         "token \"x\"\nmetadata {\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]}\n" DONE);
    says("openai", "other choices",
         CHUNK("\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}},{\"index\":0,\"delta\":{\"content\":\"a\"}}]")
             D("[DONE]"),
         "token \"a\"\nmetadata {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}}]}\n" DONE);
    says("openai", "no index", D("{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}") D("[DONE]"), "token \"a\"\n" DONE);
    says("openai", "members of the chunk", CHUNK("\"choices\":[],\"citations\":[\"u\"],\"type\":\"t\"") D("[DONE]"),
         "metadata {\"citations\":[\"u\"],\"upstream_type\":\"t\"}\n" DONE);
    says("openai", "a member twice",
         D("{\"choices\":[{\"delta\":{\"content\":\"a\",\"content\":\"b\"}}],"
           "\"usage\":null,\"usage\":{\"prompt_tokens\":1}}") D("[DONE]"),
         "token \"b\"\n= done usage=1/-1 | whole\n");
    says("openai", "comments and pings", ": OPENROUTER PROCESSING\n\n" E("ping", "{}") "data:\n\n" D("[DONE]"), DONE);

    says("openai", "no JSON", D("hello"), FAILED("upstream sent malformed data"));
    says("openai", "cut JSON", D("{\"choices\":["), FAILED("upstream sent malformed data"));
    says("openai", "no object", D("[1]"), FAILED("upstream sent malformed data"));
    says("openai", "an error",
         D("{\"error\":{\"message\":\"secret\",\"type\":\"invalid_request_error\",\"code\":null}}"),
         FAILED("upstream reported an error"));
    says("openai", "rate limit",
         D("{\"error\":{\"message\":\"secret\",\"type\":\"requests\",\"code\":\"rate_limit_exceeded\"}}"),
         RETRY("upstream's rate limit was reached"));
    says("openai", "no quota", D("{\"error\":{\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}"),
         FAILED("upstream reported an error"));
    says("openai", "server error", D("{\"error\":{\"type\":\"server_error\"}}"),
         RETRY("upstream had an internal error"));
    says("openai", "numeric code", D("{\"error\":{\"code\":503}}"), RETRY("upstream is overloaded"));
    says("openai", "another number", D("{\"error\":{\"code\":400}}"), FAILED("upstream reported an error"));
    says("openai", "an error as a string", D("{\"error\":\"secret\"}"), FAILED("upstream reported an error"));
    says("openai", "an error event", E("error", "{\"code\":\"server_error\"}"),
         RETRY("upstream had an internal error"));
}

static void test_text(void)
{
    base_flags = TRANSCRIPT_MERGE;
    says("text", "bytes", "Hello\r\n{\"content\":1}\n", "token \"Hello\\r\\n{\\\"content\\\":1}\\n\"\n" WHOLE);
    says("text", "nothing is whole", "", WHOLE);
    says("text", "characters", "\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9",
         "token \"\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9\"\n" WHOLE);
    says(
        "text", "ill-formed", "a\xff\xe2\x82z\xf0\x9f\xf0\x9f\x98\x80\xed\xa0\x80",
        "token \"a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"\n" WHOLE);
    says("text", "cut in a character", "a\xe2\x82",
         "token \"a\"\n= | upstream's answer was cut in the middle of a character\n");
    base_flags = 0;
}

static void test_raw(void)
{
    base_flags = TRANSCRIPT_RAW;
    says("sse", "raw",
         E("sources", "{\"a\":1}") D("x") "data:\n\n" D("{\"type\":\"done\",\"usage\":{\"input_tokens\":1}}") D("y"),
         "raw sources \"{\\\"a\\\":1}\"\nraw  \"x\"\nraw  \"\"\n"
         "raw  \"{\\\"type\\\":\\\"done\\\",\\\"usage\\\":{\\\"input_tokens\\\":1}}\"\n= done usage=1/-1 | whole\n");
    says("openai", "raw", DELTA("{}", "\"stop\"") D("[DONE]") D("x"),
         "raw  \"{\\\"id\\\":\\\"c1\\\",\\\"object\\\":\\\"chat.completion.chunk\\\","
         "\\\"created\\\":1,\\\"model\\\":\\\"m\\\","
         "\\\"choices\\\":[{\\\"index\\\":0,\\\"delta\\\":{},\\\"logprobs\\\":null,"
         "\\\"finish_reason\\\":\\\"stop\\\"}]}\"\n"
         "raw  \"[DONE]\"\n= done finish=stop | whole\n");
    says("openai", "raw failure", D("oops") D("x"), "raw  \"oops\"\n" FAILED("upstream sent malformed data"));
    base_flags = 0;
}

/* ---- requests and the table -------------------------------------------------------------------------------------- */

static void asks(const char *dialect, const cs_question_t *question, const char *want, const char *what)
{
    cs_buf_t out;
    cs_buf_init(&out, 4096);
    is_int(cs_dialect_build_request(cs_dialect_find(dialect), question, &out), APR_SUCCESS, "%s: %s", dialect, what);
    is_mem(out.data, out.len, want, strlen(want), "%s: %s", dialect, what);
    ok(cs_json_valid(out.data, out.len), "%s: %s is JSON", dialect, what);
    size_t full = out.len;
    cs_buf_free(&out);
    cs_buf_init(&out, full + 1);
    cs_buf_append(&out, "ab", 2);
    is_int(cs_dialect_build_request(cs_dialect_find(dialect), question, &out), APR_ENOSPC, "%s: %s, no room", dialect,
           what);
    is_buf(&out, "ab", "leaves nothing behind");
    cs_buf_free(&out);
}

static void test_requests(void)
{
    cs_question_t all = {"say \"hi\"\n", " [{\"role\":\"user\",\"content\":\"x\"}] ", "u", "e@x", "admin", "c1", "gpt"};
    cs_question_t only = {.message = "hi"};
    cs_question_t empty = {.message = "hi", .history = "[ ]", .model = "m"};
    asks("sse", &all,
         "{\"message\":\"say \\\"hi\\\"\\n\",\"conversation_history\":[{\"role\":\"user\",\"content\":\"x\"}],"
         "\"user\":\"u\","
         "\"user_email\":\"e@x\",\"user_role\":\"admin\",\"conversation_id\":\"c1\",\"stream\":true}",
         "everything");
    asks("text", &only, "{\"message\":\"hi\",\"stream\":true}", "a message");
    asks("openai", &all,
         "{\"model\":\"gpt\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":"
         "\"say \\\"hi\\\"\\n\"}],\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
         "everything");
    asks("openai", &empty,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true,"
         "\"stream_options\":{\"include_usage\":true}}",
         "no history");
    cs_question_t broken = {.message = "hi", .history = "],\"x\":[1"};
    cs_buf_t out;
    cs_buf_init(&out, 4096);
    is_int(cs_dialect_build_request(cs_dialect_find("sse"), &broken, &out), APR_EINVAL, "a history that is no array");
    is_int(out.len, 0, "leaves nothing behind");
    cs_buf_free(&out);
}

int main(void)
{
    is_str(cs_dialect_names(), "openai, sse, text", "names");
    ok(cs_dialect_find("nope") == NULL, "an unknown name");
    ok(cs_dialect_needs_model(cs_dialect_find("openai")) && !cs_dialect_needs_model(cs_dialect_find("sse")), "models");
    is_str(cs_dialect_accept(cs_dialect_find("sse")), "text/event-stream", "accept");
    test_sse_texts();
    test_sse_metadata();
    test_sse_ends();
    test_sse_others();
    test_openai();
    test_text();
    test_raw();
    test_requests();
    return done_testing();
}
