/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/upstream.h"

#include <pthread.h>
#include <stdlib.h>

#include "tap.h"

static const cs_question_t all = {
    "say \"hi\"\n{user}", "[{\"role\":\"user\",\"content\":\"x\"}]", "u\\1", "e@x", "admin", "c1", "gpt"};
static const cs_question_t only = {.message = "hi"};

static void renders(const char *text, const cs_question_t *question, const char *want, const char *what)
{
    cs_template_t *tmpl;
    char error[200] = "";
    cs_buf_t out;
    cs_buf_init(&out, 10000);
    is_int(cs_template_create(&tmpl, text, strlen(text), error, sizeof(error)), APR_SUCCESS, "create: %s", what);
    if (tmpl == NULL) {
        printf("# %s\n", error);
        return;
    }
    is_int(cs_template_render(tmpl, question, &out), APR_SUCCESS, "render: %s", what);
    is_mem(out.data, out.len, want, strlen(want), "%s", what);
    ok(cs_json_valid(out.data, out.len), "%s: is JSON", what);
    size_t full = out.len;
    cs_buf_free(&out);
    int wrong = 0;
    for (size_t room = 0; room <= full; room++) {
        cs_buf_init(&out, room + 2);
        cs_buf_append(&out, "ab", 2);
        apr_status_t rv = cs_template_render(tmpl, question, &out);
        wrong += rv != (room < full ? APR_ENOSPC : APR_SUCCESS) || out.len != (room < full ? 2 : full + 2);
        cs_buf_free(&out);
    }
    is_int(wrong, 0, "%s: all or nothing, at every size", what);
    cs_template_destroy(tmpl);
}

static void test_render(void)
{
    renders("{\"m\":\"{message}\",\"h\":\"{history}\","
            "\"l\":[\"{user}\",\"{user_email}\",\"{user_role}\",\"{conversation_id}\","
            "\"{model}\"]}",
            &all,
            "{\"m\":\"say \\\"hi\\\"\\n{user}\",\"h\":[{\"role\":\"user\",\"content\":\"x\"}],"
            "\"l\":[\"u\\\\1\",\"e@x\",\"admin\","
            "\"c1\",\"gpt\"]}",
            "every placeholder");
    renders("{\"m\":\"{message}\",\"h\":\"{history}\",\"u\":\"{user}\",\"e\":\"<{user_email}>\"}", &only,
            "{\"m\":\"hi\",\"h\":null,\"u\":null,\"e\":\"<>\"}", "absent values");
    renders("{\"p\":\"Answer: {message}! For {user}{user}.\",\"h\":\"H: {history}\"}", &all,
            "{\"p\":\"Answer: say \\\"hi\\\"\\n{user}! For u\\\\1u\\\\1.\","
            "\"h\":\"H: [{\\\"role\\\":\\\"user\\\",\\\"content\\\":"
            "\\\"x\\\"}]\"}",
            "parts of strings");
    renders("{\"{message}\":1,\"{user}\":\"{usr}\",\"x\":\"{message\",\"y\":\"{{message}}\"}", &only,
            "{\"{message}\":1,\"{user}\":\"{usr}\",\"x\":\"{message\",\"y\":\"{hi}\"}",
            "keys and what is no placeholder");
    renders(" { \"a\" : [ 1 , 2.50 , true , null , -3e5 ] , \"b\" : { } , \"c\" : \"\\u00e9\\\"\\u0000/\" }\n", &only,
            "{\"a\":[1,2.50,true,null,-3e5],\"b\":{},\"c\":\"\xc3\xa9\\\"\\u0000/\"}",
            "everything else stays as it is");
    renders("\xef\xbb\xbf[\"{message}\"]", &only, "[\"hi\"]", "a byte order mark");
    renders("[]", &only, "[]", "nothing to fill in");
}

static void refuses(const char *text, size_t len, const char *want, const char *what)
{
    cs_template_t *tmpl = (cs_template_t *)1;
    char error[200] = "";
    is_int(cs_template_create(&tmpl, text, len, error, sizeof(error)), APR_EINVAL, "refused: %s", what);
    ok(tmpl == NULL, "and nothing made of it");
    if (!ok(strstr(error, want) != NULL, "the error says: %s", want)) {
        printf("# got: %s\n", error);
    }
}

#define REFUSES(text, want, what) refuses(text, sizeof(text) - 1, want, what)

static void test_errors(void)
{
    REFUSES("", "unexpected end", "an empty file");
    REFUSES("{\"a\":\n  {message}}", "line 2", "a placeholder without quotes");
    REFUSES("{\"a\":1", "unexpected end", "a cut file");
    REFUSES("{\"a\":1} x", "not JSON", "something behind");
    REFUSES("{'a':1}", "not JSON", "single quotes");
    REFUSES("{\"a\":NaN}", "not JSON", "NaN");
    REFUSES("{\"a\":\"\xff\"}", "not JSON", "not UTF-8");
    REFUSES("null", "not a JSON object", "null");
    REFUSES("\"{message}\"", "not a JSON object", "a string");
    REFUSES("{\"a\":1}\0", "not JSON", "a NUL");
    cs_template_destroy(NULL);

    cs_template_t *tmpl;
    char error[200];
    cs_buf_t out;
    cs_question_t bad = {.message = "x", .history = "[1],\"injected\":[2]"};
    cs_buf_init(&out, 1000);
    cs_template_create(&tmpl, "[\"{history}\"]", 13, error, sizeof(error));
    is_int(cs_template_render(tmpl, &bad, &out), APR_EINVAL, "a history that is no JSON is not spliced in");
    is_int(out.len, 0, "nothing is written");
    cs_template_destroy(tmpl);
    cs_buf_free(&out);
}

/* ---- several threads, one template ------------------------------------------------------------------------------- */

typedef struct {
    const cs_template_t *tmpl;
    char message[32];
    int wrong;
} worker_t;

static void *work(void *baton)
{
    worker_t *worker = baton;
    cs_question_t question = {.message = worker->message};
    char want[128];
    snprintf(want, sizeof(want), "{\"m\":\"%s\",\"p\":\"<%s>\"}", worker->message, worker->message);
    for (int i = 0; i < 5000; i++) {
        cs_buf_t out;
        cs_buf_init(&out, 1000);
        worker->wrong += cs_template_render(worker->tmpl, &question, &out) != APR_SUCCESS
                         || !tap_same(out.data, out.len, want, strlen(want));
        cs_buf_free(&out);
    }
    return NULL;
}

static void test_threads(void)
{
    cs_template_t *tmpl;
    char error[200];
    pthread_t threads[4];
    worker_t workers[4];
    static const char text[] = "{\"m\":\"{message}\",\"p\":\"<{message}>\"}";
    cs_template_create(&tmpl, text, sizeof(text) - 1, error, sizeof(error));
    for (int i = 0; i < 4; i++) {
        workers[i].tmpl = tmpl;
        workers[i].wrong = 0;
        snprintf(workers[i].message, sizeof(workers[i].message), "message of %d", i);
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0) {
            abort();
        }
    }
    int wrong = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        wrong += workers[i].wrong;
    }
    is_int(wrong, 0, "four threads render one template");
    cs_template_destroy(tmpl);
}

int main(void)
{
    test_render();
    test_errors();
    test_threads();
    return done_testing();
}
