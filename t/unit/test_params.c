/* SPDX-License-Identifier: Apache-2.0 */
/* test_params: what a client may ask, and in which words; no server. */
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>

#include "request/params.h"
#include "tap.h"

#define NOT_UTF8 "A parameter is not valid UTF-8 text."
#define ENCODING "A parameter is not correctly percent-encoded."
#define TOO_LONG "A parameter is too long."
#define NO_JSON  "The body is not a JSON object."
#define TWICE    "The JSON body has two members of the same name."
#define NUL_NAME "A name in the JSON holds a NUL."
#define TOO_DEEP "The JSON is nested too deep."
#define TYPE     "A parameter in the JSON body has the wrong type."
#define TURN     "conversation_history holds something that is not {\"role\",\"content\"}."
#define ROLE     "conversation_history holds an unknown role; known are user, assistant, system."
#define NO_ARRAY "conversation_history is not a JSON array."
#define BAD_TEXT "conversation_history is not valid JSON."
#define TOO_MANY "conversation_history has too many entries."

#define A_TURN "{\"role\":\"user\",\"content\":\"a\"}"

static apr_pool_t *pool;
static cs_params_t params;
static cs_result_t result;

/* Either may be NULL. From memory of exactly this size, so that ASan sees a byte read too far. */
static void read_both(const char *json, const char *pairs)
{
    char *copy;
    memset(&params, 0, sizeof(params));
    memset(&result, 0, sizeof(result));
    if (json) {
        copy = malloc(strlen(json) + !*json);
        memcpy(copy, json, strlen(json));
        cs_params_add_json(pool, copy, strlen(json), &params, &result);
        free(copy);
    }
    if (pairs) {
        copy = malloc(strlen(pairs) + !*pairs);
        memcpy(copy, pairs, strlen(pairs));
        cs_params_add_pairs(pool, copy, strlen(pairs), &params, &result);
        free(copy);
    }
    cs_params_finish(pool, &params, &result);
}

static void is_refused(const char *message, const char *name)
{
    is_int(result.status, message ? 400 : 0, "%.60s: status", name);
    is_str(result.message, message ? message : "(null)", "%.60s: what the client is told", name);
}

static const char *repeat(const char *text, int times)
{
    char *out = apr_palloc(pool, strlen(text) * (size_t)times + 1), *at = out;
    while (times-- > 0) {
        at = apr_cpystrn(at, text, strlen(text) + 1);
    }
    *at = '\0';
    return out;
}

/* ---- name=value ---------------------------------------------------------------------------------------------------- */

static void test_all_escapes(void)
{
    static const char digits[2][17] = {"0123456789abcdef", "0123456789ABCDEF"};
    int wrong = 0;
    for (int byte = 1; byte < 0x80; byte++) {
        for (int upper = 0; upper < 2; upper++) {
            char text[] = {'q', 'u', 'e', 'r', 'y', '=', '%', digits[upper][byte / 16], digits[upper][byte % 16], 0};
            read_both(NULL, text);
            wrong += result.status != 0 || params.query[0] != (char)byte || params.query[1] != '\0';
        }
    }
    is_int(wrong, 0, "%%01 to %%7f are decoded, also %%25, %%26, %%2B, %%2F and %%3D");
    wrong = 0;
    for (int byte = 0x80; byte < 0x100; byte++) {
        read_both(NULL, apr_psprintf(pool, "query=%%%02x", (unsigned)byte));
        wrong += result.status != 400 || strcmp(result.message, NOT_UTF8) != 0;
    }
    is_int(wrong, 0, "%%80 to %%ff are bytes, and alone no UTF-8");
    wrong = 0;
    for (int byte = 1; byte < 0x100; byte++) {
        if (!strchr("0123456789abcdefABCDEF", byte) && byte != '&') {
            char first[] = {'q', 'u', 'e', 'r', 'y', '=', '%', (char)byte, '0', 0};
            char second[] = {'q', 'u', 'e', 'r', 'y', '=', '%', '4', (char)byte, 0};
            read_both(NULL, first);
            wrong += result.status != 400;
            read_both(NULL, second);
            wrong += result.status != 400;
        }
    }
    is_int(wrong, 0, "a percent sign and anything but two digits is refused");
}

static void test_values(void)
{
    static const struct {
        const char *pairs;
        const char *message; /* NULL: none */
        const char *refused; /* NULL: not */
    } cases[] = {
        {"", NULL, NULL},
        {"message", NULL, NULL},
        {"message=", "", NULL},
        {"message=a", "a", NULL},
        {"message=a=b=", "a=b=", NULL},
        {"message=a+b++", "a b  ", NULL},
        {"message=%2B+%20", "+  ", NULL},
        {"message=%2F%2f/", "///", NULL},
        {"message=%2541", "%41", NULL},
        {"message=a%26message=b", "a&message=b", NULL},
        {"message=%C3%BC\xc3\xbc", "\xc3\xbc\xc3\xbc", NULL},
        {"message=%F0%9f%98%80", "\xf0\x9f\x98\x80", NULL},
        {"message=%EF%BF%BF%F4%8F%BF%BF", "\xef\xbf\xbf\xf4\x8f\xbf\xbf", NULL},
        {"message=%", NULL, ENCODING},
        {"message=%2", NULL, ENCODING},
        {"message=%2&4=", NULL, ENCODING},
        {"message=%zz", NULL, ENCODING},
        {"message=%4z", NULL, ENCODING},
        {"message=%%41", NULL, ENCODING},
        {"message=%+1", NULL, ENCODING},
        {"message=%00", NULL, ENCODING},
        {"message=a%00b", NULL, ENCODING},
        {"message=%FF", NULL, NOT_UTF8},
        {"message=%C0%AF", NULL, NOT_UTF8},
        {"message=%C1%BF", NULL, NOT_UTF8},
        {"message=%E0%9F%BF", NULL, NOT_UTF8},
        {"message=%F0%8F%BF%BF", NULL, NOT_UTF8},
        {"message=%C0%80", NULL, NOT_UTF8},
        {"message=%ED%A0%80", NULL, NOT_UTF8},
        {"message=%ED%A0%BD%ED%B8%80", NULL, NOT_UTF8},
        {"message=%ED%BF%BF", NULL, NOT_UTF8},
        {"message=%F4%90%80%80", NULL, NOT_UTF8},
        {"message=%E2%82", NULL, NOT_UTF8},
        {"message=a&user_role=%FF", "a", NOT_UTF8},
        /* names */
        {"mess%61ge=a", "a", NULL},
        {"%6d%65%73%73%61%67%65=a", "a", NULL},
        {"message%3Da", NULL, NULL},
        {"message+=a", NULL, NULL},
        {"Message=a", NULL, NULL},
        {"message%00=a", NULL, NULL},
        {"%=1&x=%zz&messag%6=b&%zzmessage=b&message=a", "a", NULL},
        {"&&=&=x&flag&message=a&", "a", NULL},
        /* which one */
        {"message=a&message=b", "a", NULL},
        {"message=&message=b", "", NULL},
        {"message=a&message=%FF", "a", NULL},
        {"message=a&message=%zz", "a", ENCODING},
        {"query=q", "q", NULL},
        {"query=q&message=m", "m", NULL},
        {"message=m&query=q", "m", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        read_both(NULL, cases[i].pairs);
        is_refused(cases[i].refused, cases[i].pairs);
        is_str(params.message, cases[i].message ? cases[i].message : "(null)", "'%s': message", cases[i].pairs);
    }
}

static void test_bytes(void)
{
    static const char nul[] = "user_role=r&message=a\0b";
    static const char nul_name[] = "mess\0age=a&message=b";
    memset(&params, 0, sizeof(params));
    memset(&result, 0, sizeof(result));
    cs_params_add_pairs(pool, NULL, 0, &params, &result);
    ok(!result.status && !params.message, "no text at all");
    cs_params_add_pairs(pool, nul, sizeof(nul) - 1, &params, &result);
    is_refused(NOT_UTF8, "a NUL in a value");
    memset(&params, 0, sizeof(params));
    memset(&result, 0, sizeof(result));
    cs_params_add_pairs(pool, nul_name, sizeof(nul_name) - 1, &params, &result);
    is_refused(NULL, "a NUL in a name");
    is_str(params.message, "b", "is an unknown name");
    cs_params_add_json(pool, "{\"message\":\"c\0\"}", 16, &params, &result);
    is_refused(NO_JSON, "a NUL in JSON");
    cs_params_add_pairs(pool, "user_role=x", 11, &params, &result);
    ok(!params.user_role, "after a refusal nothing is read");
}

static void test_bounds(void)
{
    static const struct {
        const char *name;
        size_t offset;
        int max;
    } cases[] = {
        {"user_email", offsetof(cs_params_t, user_email), 320},
        {"user_role", offsetof(cs_params_t, user_role), 128},
        {"conversation_id", offsetof(cs_params_t, conversation_id), 128},
        {"last_event_id", offsetof(cs_params_t, last_event_id), 128},
        {"stream_id", offsetof(cs_params_t, stream_id), 128},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *name = cases[i].name;
        const char *const *value = (const char *const *)((const char *)&params + cases[i].offset);
        read_both(NULL, apr_psprintf(pool, "%s=%s", name, repeat("%78", cases[i].max)));
        is_refused(NULL, name);
        is_str(*value, repeat("x", cases[i].max), "%s of %d bytes", name, cases[i].max);
        read_both(NULL, apr_psprintf(pool, "%s=%s", name, repeat("x", cases[i].max + 1)));
        is_refused(TOO_LONG, name);
        read_both(apr_psprintf(pool, "{\"%s\":\"%s\"}", name, repeat("x", cases[i].max + 1)), NULL);
        is_refused(TOO_LONG, name);
        read_both(NULL, apr_psprintf(pool, "%s=&%s=x", name, name));
        is_str(*value, "x", "an empty %s is none", name);
    }
    read_both(NULL, apr_pstrcat(pool, repeat("a&", 255), "message=m", NULL));
    is_str(params.message, "m", "256 parameters");
    read_both(NULL, apr_pstrcat(pool, repeat("a&", 256), "message=m", NULL));
    is_refused("There are too many parameters.", "257 parameters");
    read_both(NULL, apr_pstrcat(pool, repeat("&", 5000), "message=m", NULL));
    is_str(params.message, "m", "nothing between two & does not count");
    read_both(NULL, apr_pstrcat(pool, "message=", repeat("%41", 100000), NULL));
    is_int(params.message ? strlen(params.message) : 0, 100000, "a long message");
}

static void test_token(void)
{
    static const struct {
        const char *text;
        const char *token;
    } cases[] = {
        {"", NULL},
        {"token", NULL},
        {"token=", NULL},
        {"token=t", "t"},
        {"a=b&token=t+%2B&x", "t +"},
        {"token=t&token=u", "t"},
        {"token=&token=u", NULL},
        {"token=%zz&token=u", NULL},
        {"token=%00", NULL},
        {"tokens=a&xtoken=b&=token&token=c", "c"},
        {"%74%6f%6B%65%6e=t", "t"},
        {"%zzken=a&token%00=b&token%=c&t%6Fken=d", "d"},
        {"message=%zz&token=t", "t"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        is_str(cs_params_token_in(pool, cases[i].text, strlen(cases[i].text)),
               cases[i].token ? cases[i].token : "(null)", "token in '%s'", cases[i].text);
    }
    ok(!cs_params_token_in(pool, NULL, 0), "token in nothing");
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------- */

static void test_json(void)
{
    static const struct {
        const char *json;
        const char *message;
        const char *refused;
    } cases[] = {
        {"{}", NULL, NULL},
        {" {\"message\":\"a\"}\t ", "a", NULL},
        {"{\"m\\u0065ssage\":\"a\"}", "a", NULL},
        {"{\"query\":\"q\",\"message\":\"m\"}", "m", NULL},
        {"{\"query\":\"q\"}", "q", NULL},
        {"{\"message\":null,\"query\":\"q\"}", "q", NULL},
        {"{\"message\":12}", "12", NULL},
        {"{\"message\":-12}", "-12", NULL},
        {"{\"message\":\"%41+\"}", "%41+", NULL},
        {"{\"message\":\"\\ud83d\\ude00\\n\\/\"}", "\xf0\x9f\x98\x80\n/", NULL},
        {"{\"message\":\"\\ud800\"}", "\xef\xbf\xbd", NULL},
        {"{\"message\":\"a\",\"x\":{\"message\":1,\"y\":{}},\"z\":[{\"x\":1}]}", "a", NULL},
        {"{\"message\":\"{\\\"x\\\":[:\\\\\"}", "{\"x\":[:\\", NULL},
        {"{\"message\":\"\\\\u0000\"}", "\\u0000", NULL},
        {"{\"message\":true}", NULL, TYPE},
        {"{\"message\":1.5}", NULL, TYPE},
        {"{\"message\":[]}", NULL, TYPE},
        {"{\"message\":{}}", NULL, TYPE},
        {"{\"message\":\"a\\u0000b\"}", NULL, NOT_UTF8},
        {"{\"message\":\"a\xff\"}", NULL, NO_JSON},
        {"{\"message\":\"\xed\xa0\x80\"}", NULL, NO_JSON},
        {"{\"message\":\"a\x01\"}", NULL, NO_JSON},
        {"", NULL, NO_JSON},
        {"[]", NULL, NO_JSON},
        {"null", NULL, NO_JSON},
        {"12", NULL, NO_JSON},
        {"\"a\"", NULL, NO_JSON},
        {"{\"message\":\"a\"", NULL, NO_JSON},
        {"{\"message\":\"a\",}", NULL, NO_JSON},
        {"{\"message\":\"a\"} x", NULL, NO_JSON},
        {"{'message':'a'}", NULL, NO_JSON},
        {"{\"message\":NaN}", NULL, NO_JSON},
        {"{\"message\":\"a\"}{}", NULL, NO_JSON},
        {"{\"message\":\"a\",\"message\":\"b\"}", NULL, TWICE},
        {"{\"message\":\"a\",\"mess\\u0061ge\":\"a\"}", NULL, TWICE},
        {"{\"x\":1,\"message\":\"a\",\"x\":{\"y\":1}}", NULL, TWICE},
        {"{\"message\\u0000\":\"a\"}", NULL, NUL_NAME},
        {"{\"message\":\"a\",\"x\":{\"\\u0000\" : 1}}", NULL, NUL_NAME},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        read_both(cases[i].json, NULL);
        is_refused(cases[i].refused, cases[i].json);
        is_str(params.message, cases[i].message ? cases[i].message : "(null)", "%s: message", cases[i].json);
    }
}

static void test_depth(void)
{
    static const char *const parts[][2] = {{"[", "]"}, {"{\"a\":", "}"}};
    for (int i = 0; i < 2; i++) {
        for (int depth = 29; depth < 5000; depth += depth < 70 ? 1 : 1000) {
            /* With the body and, in text, with array and turn. */
            const char *nested =
                apr_pstrcat(pool, repeat(parts[i][0], depth), i ? "1" : "", repeat(parts[i][1], depth), NULL);
            const char *turn = apr_psprintf(pool, "[{\"role\":\"user\",\"content\":\"\",\"x\":%s}]", nested);
            cs_result_t refused = {0};
            read_both(apr_psprintf(pool, "{\"x\":%s,\"message\":\"[[\"}", nested), NULL);
            is_refused(depth + 1 <= CS_PARAMS_DEPTH_MAX ? NULL : TOO_DEEP,
                       apr_psprintf(pool, "%s, %d deep", nested, depth));
            const char *history = cs_params_history(pool, turn, strlen(turn), &refused);
            is_str(depth + 2 <= CS_PARAMS_DEPTH_MAX ? history : refused.message,
                   depth + 2 <= CS_PARAMS_DEPTH_MAX ? turn : TOO_DEEP, "history, %d deep", depth);
        }
    }
}

static void test_sources(void)
{
    read_both("{\"message\":\"body\"}", "message=url&user_role=r&token=t");
    is_str(params.message, "body", "the body wins");
    is_str(params.user_role, "r", "what the body lacks comes from the query string");
    is_str(params.token, "t", "the token too");
    read_both("{\"query\":\"body\"}", "message=url");
    is_str(params.message, "body", "the body wins, whatever its name");
    read_both("{\"conversation_history\":[]}", "conversation_history=x");
    is_str(params.history, "[]", "a history is first come, too");
    read_both("{\"conversation_history\":\"\"}", "conversation_history=x");
    ok(!result.status && !params.history, "also an empty one, which is none");
    read_both("{\"message\":1.5}", "user_role=r");
    ok(!params.user_role, "after a refusal nothing is read");
    cs_params_add_json(pool, "{\"user_role\":\"r\"}", 17, &params, &result);
    ok(!params.user_role, "in JSON neither");
    read_both(NULL, "conversation_history=[]");
    const char *second = "{\"conversation_history\":[" A_TURN "]}";
    cs_params_add_json(pool, second, strlen(second), &params, &result);
    is_refused(NULL, "a second history");
    is_str(params.history, "[]", "a second history is not looked at");
}

/* ---- history ------------------------------------------------------------------------------------------------------- */

static void test_history(void)
{
    static const struct {
        const char *text;
        const char *history; /* NULL: refused */
        const char *refused;
    } cases[] = {
        {"[]", "[]", NULL},
        {"[" A_TURN "]", "[" A_TURN "]", NULL},
        {" [ { \"content\" : \"\", \"role\" : \"syst\\u0065m\" } ]\t", "[{\"content\":\"\",\"role\":\"system\"}]",
         NULL},
        {"[{\"role\":\"assistant\",\"content\":\"\\u00e9\\/\\u0000\"}]",
         "[{\"role\":\"assistant\",\"content\":\"\xc3\xa9/\\u0000\"}]", NULL},
        {"[{\"role\":\"root\",\"role\":\"user\",\"content\":\"a\"}]", "[" A_TURN "]", NULL},
        {"[{\"role\":\"user\",\"role\":\"root\",\"content\":\"a\"}]", NULL, ROLE},
        {"[{\"role\":\"user\",\"content\":\"a\",\"name\":[null,1.50]}]",
         "[{\"role\":\"user\",\"content\":\"a\",\"name\":[null,1.50]}]", NULL},
        {"[{\"role\":\"user\\u0000x\",\"content\":\"a\"}]", NULL, ROLE},
        {"[{\"role\":\"User\",\"content\":\"a\"}]", NULL, ROLE},
        {"[{\"role\":\"\",\"content\":\"a\"}]", NULL, ROLE},
        {"[" A_TURN ",{\"role\":\"tool\",\"content\":\"a\"}]", NULL, ROLE},
        {"[{\"role\\u0000\":\"user\",\"content\":\"a\"}]", NULL, NUL_NAME},
        {"[{\"role\":\"user\"}]", NULL, TURN},
        {"[{\"content\":\"a\"}]", NULL, TURN},
        {"[{\"role\":1,\"content\":\"a\"}]", NULL, TURN},
        {"[{\"role\":\"user\",\"content\":null}]", NULL, TURN},
        {"[\"hi\"]", NULL, TURN},
        {"[null]", NULL, TURN},
        {"[[]]", NULL, TURN},
        {"{}", NULL, NO_ARRAY},
        {"\"[]\"", NULL, NO_ARRAY},
        {"1", NULL, NO_ARRAY},
        {"null", NULL, BAD_TEXT},
        {"[", NULL, BAD_TEXT},
        {" ", NULL, BAD_TEXT},
        {"[] x", NULL, BAD_TEXT},
        {"['a']", NULL, BAD_TEXT},
        {"[\"\xff\"]", NULL, BAD_TEXT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cs_result_t refused = {0};
        const char *text = cases[i].text, *want = cases[i].refused;
        const char *history = cs_params_history(pool, text, strlen(text), &refused);
        is_str(history, cases[i].history ? cases[i].history : "(null)", "%s", text);
        is_str(refused.message, want ? want : "(null)", "%s: what the client is told", text);
        if (cases[i].history) {
            read_both(apr_psprintf(pool, "{\"conversation_history\":%s}", text), NULL);
            is_refused(NULL, text);
            is_str(params.history, cases[i].history, "%s in JSON", text);
        }
    }
}

static void test_history_bound(void)
{
    const char *full = apr_pstrcat(pool, "[", repeat(A_TURN ",", CS_PARAMS_HISTORY_MAX - 1), A_TURN "]", NULL);
    const char *over = apr_pstrcat(pool, "[", repeat(A_TURN ",", CS_PARAMS_HISTORY_MAX), A_TURN "]", NULL);
    read_both(apr_psprintf(pool, "{\"conversation_history\":%s}", full), NULL);
    is_refused(NULL, "1000 entries");
    ok(params.history && strcmp(params.history, full) == 0, "1000 entries are taken as they are");
    read_both(apr_psprintf(pool, "{\"conversation_history\":%s}", over), NULL);
    is_refused(TOO_MANY, "1001 entries");
    ok(!params.history, "1001 entries are no history");
    read_both(NULL, apr_psprintf(pool, "conversation_history=%s", over));
    is_refused(TOO_MANY, "1001 entries in a string");
}

int main(void)
{
    if (apr_initialize() != APR_SUCCESS || apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        return 1;
    }
    test_all_escapes();
    test_values();
    test_bytes();
    test_bounds();
    test_token();
    test_json();
    test_depth();
    test_sources();
    test_history();
    test_history_bound();
    apr_pool_destroy(pool);
    apr_terminate();
    return done_testing();
}
