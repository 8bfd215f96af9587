/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_http1: the first byte says how the rest, an upstream's response, is cut, and how often its body is not taken at
 * once. Whole, cut and paused, the parser must say the same.
 */
#include <string.h>

#include "fuzz.h"
#include "upstream/http1.h"

typedef struct {
    cs_buf_t body;
    int heads;
    unsigned calls, pause_every; /* 0: never */
    const char *from, *to;       /* what was fed: body spans lie in it */
} seen_t;

static cs_flow_e on_head(void *baton)
{
    seen_t *seen = baton;

    FUZZ_CHECK(!seen->heads++);
    return CS_FLOW_ON;
}

static cs_flow_e on_body(void *baton, const char *bytes, size_t len)
{
    seen_t *seen = baton;

    FUZZ_CHECK(seen->heads == 1 && len > 0);
    FUZZ_CHECK(bytes >= seen->from && bytes + len <= seen->to);
    if (seen->pause_every && ++seen->calls % seen->pause_every == 0) {
        return CS_FLOW_PAUSE;
    }
    FUZZ_CHECK(cs_buf_append(&seen->body, bytes, len) == APR_SUCCESS);
    return CS_FLOW_ON;
}

typedef struct {
    seen_t seen;
    cs_http1_t http;
    cs_http1_e result;
    size_t consumed;
} run_t;

static void run(run_t *it, const uint8_t *data, size_t size, size_t piece, unsigned pause_every)
{
    static const cs_http1_events_t events = { on_head, on_body };

    memset(it, 0, sizeof(*it));
    cs_buf_init(&it->seen.body, SIZE_MAX / 2);
    it->seen.pause_every = pause_every;
    cs_http1_init(&it->http, &events, &it->seen);
    while (it->consumed < size && (it->result == CS_HTTP1_MORE || it->result == CS_HTTP1_PAUSED)) {
        size_t n = piece < size - it->consumed ? piece : size - it->consumed, consumed;
        char *copy = malloc(n);

        memcpy(copy, data + it->consumed, n);
        it->seen.from = copy;
        it->seen.to = copy + n;
        it->result = cs_http1_feed(&it->http, copy, n, &consumed);
        free(copy);
        FUZZ_CHECK(consumed <= n && (it->result != CS_HTTP1_MORE || consumed == n));
        it->consumed += consumed;
    }
    FUZZ_CHECK((it->result == CS_HTTP1_GARBAGE) == (it->http.error != NULL));
    FUZZ_CHECK(it->result != CS_HTTP1_DONE || it->seen.heads == 1);
    FUZZ_CHECK(!cs_http1_reusable(&it->http) || it->result == CS_HTTP1_DONE);
}

static void forget(run_t *it)
{
    cs_http1_release(&it->http);
    cs_buf_free(&it->seen.body);
}

static void same(const run_t *a, const run_t *b)
{
    FUZZ_CHECK(a->result == b->result);
    FUZZ_CHECK(a->seen.heads == b->seen.heads && a->http.status == b->http.status);
    FUZZ_CHECK(a->seen.body.len == b->seen.body.len);
    FUZZ_CHECK(!a->seen.body.len || !memcmp(a->seen.body.data, b->seen.body.data, a->seen.body.len));
    FUZZ_CHECK(a->result != CS_HTTP1_DONE || a->consumed == b->consumed);
    FUZZ_CHECK(cs_http1_reusable(&a->http) == cs_http1_reusable(&b->http));
    FUZZ_CHECK(cs_http1_finish(&a->http) == cs_http1_finish(&b->http) || a->result == CS_HTTP1_GARBAGE);
    FUZZ_CHECK(!strcmp(a->http.retry_after, b->http.retry_after) || a->result == CS_HTTP1_GARBAGE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    run_t whole, cut;

    if (size < 2) {
        return 0;
    }
    run(&whole, data + 1, size - 1, size, 0);
    run(&cut, data + 1, size - 1, 1 + data[0] % 16, 0);
    same(&whole, &cut);
    forget(&cut);
    run(&cut, data + 1, size - 1, 1 + data[0] / 16, 2 + data[0] % 3);
    same(&whole, &cut);
    forget(&cut);
    forget(&whole);
    return 0;
}
