/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of checks without a server: their order, what each says, what is counted and given back. Tokens, rates, flags and rollout have
 * tests of their own.
 */
#include <stdlib.h>

#include "chatstream/gate.h"
#include "tap.h"

#define SEC APR_USEC_PER_SEC

static const cs_result_t fine;
static cs_gate_t *gate;

typedef struct {
    cs_admit_e answer;
    int joined;
    uint32_t retry_after;
    int asked;
} store_t;

static cs_admit_e admit(void *baton, int *joined, uint32_t *retry_after)
{
    store_t *store = baton;

    store->asked++;
    *joined = store->joined;
    if (store->retry_after) {
        *retry_after = store->retry_after;
    }
    return store->answer;
}

/* Passes every check, until a test says otherwise. */
static cs_case_t good_case(const cs_identity_t *identity, store_t *store)
{
    return (cs_case_t){.gate = gate,
                       .now = 1000 * SEC,
                       .streaming = 1,
                       .profile = "chat",
                       .message = "hello",
                       .max_message = 5,
                       .unreadable = &fine,
                       .identity = identity,
                       .enabled = 1,
                       .share = CS_SHARE_ALL,
                       .admit = admit,
                       .baton = store};
}

static void refused(cs_case_t asked, cs_gate_list_e list, int status, const char *code, const char *what)
{
    int passed = cs_gate_pass(&asked, list);

    ok(!passed && asked.refusal.status == status && asked.refusal.code && !strcmp(asked.refusal.code, code),
       "%s: %d %s (got %d %s)", what, status, code, asked.refusal.status,
       asked.refusal.code ? asked.refusal.code : "-");
}

static void passes(cs_case_t asked, cs_gate_list_e list, const char *what)
{
    ok(cs_gate_pass(&asked, list), "%s: passes", what);
}

/* ---- order -------------------------------------------------------------------------------------------------------- */

static void test_order(void)
{
    cs_identity_t bad = {.user = "u", .refusal = {401, "unauthorized", "no", 0, NULL}};
    store_t store = {.answer = CS_ADMIT_FULL};
    cs_case_t asked = good_case(&bad, &store);

    asked.enabled = 0;
    asked.message = NULL;
    asked.share = 0;
    asked.rate = (cs_rate_rule_t){"order", "k", 1, SEC};
    asked.rate.count = 1;
    refused(asked, CS_GATE_NEW, 404, "streaming_disabled", "the flag is asked first");
    passes(good_case(&(cs_identity_t){.user = "u"}, &(store_t){.answer = CS_ADMIT_YES}), CS_GATE_NEW, "a good one");
    asked.enabled = 1;
    refused(asked, CS_GATE_NEW, 400, "bad_request", "then the input");
    asked.message = "hello";
    refused(asked, CS_GATE_NEW, 401, "unauthorized", "then who asks");
    bad.refusal = fine;
    refused(asked, CS_GATE_NEW, 404, "streaming_disabled", "then the rollout");
    asked.share = CS_SHARE_ALL;
    is_int(store.asked, 0, "nobody asked for a slot so far");
    refused(asked, CS_GATE_NEW, 503, "unavailable", "at last admission");
    refused(asked, CS_GATE_NEW, 503, "unavailable", "whose start was not counted");
    store.answer = CS_ADMIT_YES;
    passes(asked, CS_GATE_NEW, "the one start");
    refused(asked, CS_GATE_NEW, 429, "rate_limited", "the rate comes before admission");
    is_int(store.asked, 3, "which was not asked again");
}

static void test_lists(void)
{
    cs_identity_t who = {.user = "u"};
    store_t store = {.answer = CS_ADMIT_YES};
    cs_case_t asked = good_case(&who, &store);

    asked.enabled = 0;
    asked.message = NULL;
    passes(asked, CS_GATE_OLD, "resume, with the flag off");
    asked.enabled = 1;
    asked.message = "hello";
    asked.rate = (cs_rate_rule_t){"lists", "k", 1, SEC};
    passes(asked, CS_GATE_LOOK, "HEAD");
    passes(asked, CS_GATE_LOOK, "HEAD again");
    is_int(store.asked, 0, "neither counts nor claims");
    who.refusal = (cs_result_t){401, "unauthorized", "no", 0, NULL};
    refused(asked, CS_GATE_OLD, 401, "unauthorized", "resume without a good token");
}

/* ---- each ---------------------------------------------------------------------------------------------------------- */

static void test_document(void)
{
    cs_identity_t who = {.user = "u"};
    store_t store = {.answer = CS_ADMIT_YES};
    cs_case_t asked = good_case(&who, &store);

    asked.streaming = asked.enabled = asked.share = 0;
    passes(asked, CS_GATE_NEW, "the whole answer needs neither flag nor rollout");
    asked.message = " ";
    refused(asked, CS_GATE_NEW, 400, "bad_request", "but a message");
}

static void test_input(void)
{
    static const struct {
        const char *message;
        int status;
    } cases[] = {{"x", 0},
                 {"12345", 0},
                 {"123456", 413},
                 {"", 400},
                 {" \t\r\n\v\f", 400},
                 {"\xC2\xA0", 400},
                 {"\xE2\x80\x8B", 400},
                 {"\xE3\x80\x80", 400},
                 {"\xEF\xBB\xBF", 400},
                 {"\xE2\x82\xAC", 0},
                 {" \xC2\xA0x", 0},
                 {"\xC2", 0}};
    cs_identity_t who = {.user = "u"};
    store_t store = {.answer = CS_ADMIT_YES};
    const cs_result_t unreadable = {415, "unsupported_media_type", "no", 0, NULL};
    cs_case_t asked = good_case(&who, &store);
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        asked.message = cases[i].message;
        asked.refusal = fine;
        cs_gate_pass(&asked, CS_GATE_LOOK);
        is_int(asked.refusal.status, cases[i].status, "message %d", (int)i);
    }
    asked.message = "x";
    asked.unreadable = &unreadable;
    refused(asked, CS_GATE_NEW, 415, "unsupported_media_type", "what could not be read");
}

static void test_rollout(void)
{
    cs_identity_t who = {.user = "u"};
    store_t store = {.answer = CS_ADMIT_YES};
    cs_case_t asked = good_case(&who, &store);

    asked.share = 0;
    refused(asked, CS_GATE_NEW, 404, "streaming_disabled", "nobody is in");
    asked.in_cohort = 1;
    passes(asked, CS_GATE_NEW, "but the cohort");
    asked.enabled = 0;
    refused(asked, CS_GATE_NEW, 404, "streaming_disabled", "not when the flag is off");
}

static void test_admission(void)
{
    cs_identity_t who = {.user = "u"};
    store_t store = {.answer = CS_ADMIT_USER, .retry_after = 17};
    cs_case_t asked = good_case(&who, &store);

    asked.rate = (cs_rate_rule_t){"admission", "k", 2, 60 * SEC};
    ok(!cs_gate_pass(&asked, CS_GATE_NEW), "as many as he may have");
    is_int(asked.refusal.retry_after, 17, "with the time when one ends");
    is_int(asked.was_counted, 0, "the start was given back");
    store.answer = CS_ADMIT_READERS;
    refused(asked, CS_GATE_NEW, 503, "unavailable", "too many readers");
    store = (store_t){.answer = CS_ADMIT_YES, .joined = 1};
    passes(asked, CS_GATE_NEW, "joined");
    store.joined = 0;
    asked.was_counted = 0;
    ok(cs_gate_pass(&asked, CS_GATE_NEW) && asked.was_counted, "the first start counts");
    is_int(asked.counted.remaining, 1, "as the first: joining did not");
}

static void test_identity(void)
{
    cs_credentials_t said = {.address = "192.0.2.1"};
    cs_identity_t who;

    cs_identify(&said, 0, &who);
    ok(who.who == CS_WHO_ADDRESS && !strcmp(who.user, "192.0.2.1") && !who.refusal.status, "nobody said who");
    said.header = "alice";
    cs_identify(&said, 0, &who);
    ok(who.who == CS_WHO_HEADER && !strcmp(who.user, "alice"), "the trusted header");
    said.httpd_user = "bob";
    cs_identify(&said, 0, &who);
    ok(who.who == CS_WHO_HTTPD && !strcmp(who.user, "bob"), "another auth module comes first");
    said.httpd_user = NULL;
    said.header = "a\nb";
    cs_identify(&said, 0, &who);
    is_int(who.refusal.status, 400, "a line break is no name");
    said.header = NULL;
    said.required = 1;
    cs_identify(&said, 0, &who);
    ok(who.refusal.status == 401 && who.challenge && !*who.challenge, "required: 401 without an error code");
    said.set_count = 1;
    said.sets = (const cs_keys_t *const[]){NULL};
    said.token = "x.y.z";
    said.tokens = 2;
    cs_identify(&said, 0, &who);
    ok(who.refusal.status == 400 && strstr(who.challenge, "invalid_request"), "two tokens: 400 invalid_request");
    said.tokens = 1;
    cs_identify(&said, 0, &who);
    ok(who.refusal.status == 401 && strstr(who.challenge, "invalid_token"), "garbage is refused, keys or no keys");
    ok(!who.claims, "and no claims");
}

static void test_cors(void)
{
    static const char *const exact[] = {"https://a.example", "http://b.example:8080"}, *const any[] = {"*"};
    char headers[1024];
    cs_cors_t cors;

    cs_cors_decide(exact, 2, "http://b.example:8080", &cors);
    ok(cors.allow_origin && !strcmp(cors.allow_origin, exact[1]) && cors.credentials && cors.vary, "an exact origin");
    cs_cors_decide(exact, 2, "https://a.example.evil", &cors);
    ok(!cors.allow_origin && !cors.credentials && cors.vary, "one that begins like it");
    cs_cors_decide(exact, 2, NULL, &cors);
    ok(!cors.allow_origin && cors.vary, "none at all");
    cs_cors_decide(any, 1, "https://x.example", &cors);
    ok(cors.allow_origin && !strcmp(cors.allow_origin, "*") && !cors.credentials && !cors.vary, "everybody");
    cs_cors_allow_headers(headers, sizeof(headers), "authorization, X-Stainless-Lang,x-stainless-os, X-Evil\r\n: 1");
    ok(strstr(headers, ", X-Stainless-Lang, x-stainless-os") && !strstr(headers, "Evil"), "the SDKs' headers only");
    cs_cors_allow_headers(
        headers, 300,
        "x-stainless-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    ok(strlen(headers) < 300 && !strstr(headers, "stainless"), "as many as fit");
}

int main(void)
{
    if (cs_gate_create(&gate, 100)) {
        return 1;
    }
    test_order();
    test_lists();
    test_document();
    test_input();
    test_rollout();
    test_admission();
    test_identity();
    test_cors();
    cs_gate_destroy(gate);
    return done_testing();
}
