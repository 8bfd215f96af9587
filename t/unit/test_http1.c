/* SPDX-License-Identifier: Apache-2.0 */
/* http1: every response whole, one byte at a time, and cut in two anywhere; then pauses and stops. */
#include <stdlib.h>

#include "tap.h"
#include "upstream/http1.h"

#define OK_HEAD "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK_HEAD "Transfer-Encoding: chunked\r\n\r\n"

enum { REUSABLE = 1, BY_CLOSE = 2 };

typedef struct {
    cs_buf_t body;
    int heads;
    int pauses; /* every other call of body() */
    int stop_at_head, stop_at_body;
} seen_t;

static cs_flow_e on_head(void *baton)
{
    seen_t *seen = baton;

    seen->heads++;
    return seen->stop_at_head ? CS_FLOW_STOP : CS_FLOW_ON;
}

static cs_flow_e on_body(void *baton, const char *bytes, size_t len)
{
    seen_t *seen = baton;

    if (seen->stop_at_body) {
        return CS_FLOW_STOP;
    }
    if (seen->pauses && seen->pauses++ % 2) {
        return CS_FLOW_PAUSE;
    }
    cs_buf_append(&seen->body, bytes, len);
    return CS_FLOW_ON;
}

static const cs_http1_events_t events = { on_head, on_body };

/* From a copy of exactly this size, so that ASan sees a byte read too far. */
static cs_http1_e feed(cs_http1_t *http, const char *bytes, size_t len, size_t *consumed)
{
    char *copy = malloc(len ? len : 1);
    cs_http1_e result;

    memcpy(copy, bytes, len);
    result = cs_http1_feed(http, copy, len, consumed);
    free(copy);
    return result;
}

/* Cuts at `cut`, then every `piece` bytes. Returns what the last feed did; `left` is what was not consumed. */
static cs_http1_e run(cs_http1_t *http, seen_t *seen, const char *input, size_t len, size_t cut, size_t piece, size_t *left)
{
    cs_http1_e result = CS_HTTP1_MORE;
    size_t at = 0, consumed;

    memset(http, 0, sizeof(*http));
    seen->body.len = 0;
    seen->heads = 0;
    cs_http1_init(http, &events, seen);
    while (at < len && (result == CS_HTTP1_MORE || result == CS_HTTP1_PAUSED)) {
        size_t n = at < cut ? cut - at : piece;

        result = feed(http, input + at, n < len - at ? n : len - at, &consumed);
        at += consumed;
    }
    *left = len - at;
    return result;
}

/* What must be the same however the input is cut. */
static void check(const char *name, const char *input, size_t len, cs_http1_e want, int status, const char *body,
                  int flags, size_t want_left)
{
    seen_t seen;
    size_t left, cut;
    cs_http1_t http;
    int wrong = 0, pauses;

    memset(&seen, 0, sizeof(seen));
    cs_buf_init(&seen.body, SIZE_MAX / 2);
    is_int(run(&http, &seen, input, len, len, len, &left), want, "%s", name);
    if (want != CS_HTTP1_GARBAGE) {
        is_int(seen.heads ? http.status : 0, status, "%s: status", name);
        is_int(seen.heads, status ? 1 : 0, "%s: head", name);
        is_int(left, want_left, "%s: left", name);
        is_int(cs_http1_finish(&http), flags & BY_CLOSE || want == CS_HTTP1_DONE ? CS_HTTP1_DONE : CS_HTTP1_MORE, "%s: finish",
               name);
    }
    else {
        ok(http.error != NULL, "%s: says why", name);
    }
    is_str(seen.body.len ? (cs_buf_append(&seen.body, "", 1), seen.body.data) : "", body, "%s: body", name);
    is_int(cs_http1_reusable(&http), flags & REUSABLE, "%s: reusable", name);
    cs_http1_release(&http);
    for (pauses = 0; pauses < 2; pauses++) {
        for (cut = 0; cut <= len; cut++) {
            seen.pauses = pauses;
            wrong += run(&http, &seen, input, len, cut, cut ? len : 1, &left) != want;
            wrong += !tap_same(seen.body.data, seen.body.len, body, strlen(body));
            wrong += want == CS_HTTP1_DONE && (left < want_left || cs_http1_reusable(&http) != (flags & REUSABLE));
            cs_http1_release(&http);
        }
    }
    is_int(wrong, 0, "%s: cut anywhere, with and without pauses", name);
    cs_buf_free(&seen.body);
}

#define DONE(name, input, status, body, flags, left) \
    check(name, input, sizeof(input) - 1, CS_HTTP1_DONE, status, body, flags, left)
#define MORE(name, input, status, body, flags) check(name, input, sizeof(input) - 1, CS_HTTP1_MORE, status, body, flags, 0)
#define GARBAGE(name, input, body) check(name, input, sizeof(input) - 1, CS_HTTP1_GARBAGE, 0, body, 0, 0)

static void test_framing(void)
{
    DONE("length", OK_HEAD "Content-Length: 5\r\n\r\nhello", 200, "hello", REUSABLE, 0);
    DONE("length zero", OK_HEAD "content-length:0\r\n\r\n", 200, "", REUSABLE, 0);
    DONE("length, said twice", OK_HEAD "Content-Length: 5\r\nContent-Length: 5, 5\r\n\r\nhello", 200, "hello", REUSABLE, 0);
    DONE("bytes after the end", OK_HEAD "Content-Length: 2\r\n\r\nhiHTTP/1.1", 200, "hi", REUSABLE, 8);
    MORE("shorter than its length", OK_HEAD "Content-Length: 6\r\n\r\nhello", 200, "hello", 0);
    MORE("until close", OK_HEAD "\r\nhello", 200, "hello", BY_CLOSE);
    MORE("HTTP/1.0 until close", "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello", BY_CLOSE);
    DONE("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", 0, 0);
    DONE("HTTP/1.0 keeps alive", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx", 200, "x", REUSABLE, 0);
    DONE("closes", OK_HEAD "Connection: foo , CLOSE\r\nContent-Length: 1\r\n\r\nx", 200, "x", 0, 0);
    DONE("204 has no body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, "", REUSABLE, 0);
    DONE("304 has no body", "HTTP/1.1 304\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "", REUSABLE, 0);
    DONE("interim heads are skipped",
         "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nContent-Length: 9\r\nConnection: close\r\n\r\n" OK_HEAD
         "Content-Length: 1\r\n\r\nx",
         200, "x", REUSABLE, 0);
    MORE("only an interim head", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n", 0, "", 0);
    MORE("another protocol", "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 1\r\n\r\nraw", 101, "raw", BY_CLOSE);
    DONE("bare LF", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", 200, "x", REUSABLE, 0);
    DONE("no reason", "HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", 500, "", REUSABLE, 0);
    DONE("folded, where it is no matter", OK_HEAD "Via: a\r\n\tb\r\nContent-Length: 0\r\n\r\n", 200, "", REUSABLE, 0);
}

static void test_chunks(void)
{
    DONE("chunks", CHUNKED "5\r\nhello\r\n1;x=\"y;\";z\r\n!\r\n0\r\n\r\n", 200, "hello!", REUSABLE, 0);
    DONE("chunks, bare LF", CHUNKED "5\nhello\n0\n\n", 200, "hello", REUSABLE, 0);
    DONE("chunks, sizes padded", CHUNKED "0005 \r\nhello\r\n00\r\n\r\n", 200, "hello", REUSABLE, 0);
    DONE("chunks, trailers", CHUNKED "A\r\n0123456789\r\n0\r\nX: y\r\nContent-Length: 7\r\n\r\n", 200, "0123456789", REUSABLE, 0);
    DONE("chunks, and bytes after the end", CHUNKED "1\r\nx\r\n0\r\n\r\nmore", 200, "x", REUSABLE, 4);
    DONE("chunks and length", OK_HEAD "Content-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200, "x", 0, 0);
    DONE("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200,
         "", 0, 0);
    MORE("identity", OK_HEAD "Transfer-Encoding: identity\r\n\r\nx", 200, "x", BY_CLOSE);
    MORE("cut in a chunk", CHUNKED "5\r\nhel", 200, "hel", 0);
    MORE("cut before the last chunk", CHUNKED "1\r\nx\r\n", 200, "x", 0);
    MORE("cut in the trailers", CHUNKED "0\r\nX: y\r\n", 200, "", 0);
    GARBAGE("a chunk without size", CHUNKED "\r\nx", "");
    GARBAGE("a size that is none", CHUNKED "5x\r\nhello", "");
    GARBAGE("a negative size", CHUNKED "-1\r\nhello", "");
    GARBAGE("a size too large", CHUNKED "10000000000000000\r\nx", "");
    GARBAGE("a chunk longer than its size", CHUNKED "2\r\nhello\r\n", "he");
    GARBAGE("a bare CR after a size", CHUNKED "2\rhe", "");
    GARBAGE("a bare CR after a chunk", CHUNKED "1\r\nx\r0\r\n\r\n", "x");
}

static void test_garbage(void)
{
    MORE("nothing", "", 0, "", 0);
    MORE("half a head", OK_HEAD "Content-Ty", 0, "", 0);
    GARBAGE("another protocol speaks first", "SSH-2.0-OpenSSH_9.2", "");
    GARBAGE("HTTP/0.9", "<html>", "");
    GARBAGE("binary", "\x00\xff\xfe\n\n", "");
    GARBAGE("HTTP/2", "HTTP/2 200\r\n\r\n", "");
    GARBAGE("HTTP/2 in words of HTTP/1", "HTTP/2.0 200 OK\r\n\r\n", "");
    GARBAGE("no status", "HTTP/1.1 OK\r\n\r\n", "");
    GARBAGE("a status too short", "HTTP/1.1 20\r\n\r\n", "");
    GARBAGE("a status too long", "HTTP/1.1 2000 OK\r\n\r\n", "");
    GARBAGE("a status too small", "HTTP/1.1 099 OK\r\n\r\n", "");
    GARBAGE("empty line first", "\r\n" OK_HEAD "\r\n", "");
    GARBAGE("a header without colon", OK_HEAD "nonsense\r\n\r\n", "");
    GARBAGE("a header without name", OK_HEAD ": x\r\n\r\n", "");
    GARBAGE("a space before the colon", OK_HEAD "Content-Length : 5\r\n\r\n", "");
    GARBAGE("a bare CR in a header", OK_HEAD "X: a\rb\r\n\r\n", "");
    GARBAGE("a NUL in a header", OK_HEAD "X: a\0b\r\n\r\n", "");
    GARBAGE("a folded first line", OK_HEAD " X: a\r\n\r\n", "");
    GARBAGE("a folded length", OK_HEAD "Content-Length: 1\r\n 2\r\n\r\n", "");
    GARBAGE("two lengths", OK_HEAD "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "");
    GARBAGE("two lengths in a list", OK_HEAD "Content-Length: 1, 2\r\n\r\n", "");
    GARBAGE("an empty length", OK_HEAD "Content-Length:\r\n\r\n", "");
    GARBAGE("a length with a sign", OK_HEAD "Content-Length: +1\r\n\r\n", "");
    GARBAGE("a length too large", OK_HEAD "Content-Length: 18446744073709551616\r\n\r\n", "");
    GARBAGE("a coding we do not know", OK_HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n", "");
    GARBAGE("chunked twice", OK_HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "");
}

static void test_bounds(void)
{
    static char head[CS_HTTP1_HEAD_MAX + 100];
    seen_t seen;
    cs_http1_t http;
    size_t left, len = strlen(OK_HEAD "X: ");

    memset(&seen, 0, sizeof(seen));
    memset(head, 'x', sizeof(head));
    memcpy(head, OK_HEAD "X: ", len);
    is_int(run(&http, &seen, head, CS_HTTP1_HEAD_MAX - 1, 1, 1000, &left), CS_HTTP1_MORE, "a long header may come");
    cs_http1_release(&http);
    is_int(run(&http, &seen, head, sizeof(head), 1, 1000, &left), CS_HTTP1_GARBAGE, "but not for ever");
    cs_http1_release(&http);
    memcpy(head, CHUNKED "1;", strlen(CHUNKED "1;"));
    is_int(run(&http, &seen, head, sizeof(head), 1, 1000, &left), CS_HTTP1_GARBAGE, "nor a chunk's extension");
    cs_http1_release(&http);
}

static void test_callbacks(void)
{
    static const char input[] = "HTTP/1.1 429 Slow down\r\nRetry-After:  7 \r\nContent-Length: 5\r\n\r\nhello";
    seen_t seen;
    cs_http1_t http;
    size_t left;

    memset(&seen, 0, sizeof(seen));
    cs_buf_init(&seen.body, 100);
    seen.stop_at_head = 1;
    is_int(run(&http, &seen, input, sizeof(input) - 1, 99, 99, &left), CS_HTTP1_STOPPED, "stopped at the head");
    is_str(http.retry_after, "7", "which says when to come back");
    is_int(left, 5, "before the body");
    cs_http1_release(&http);
    seen.stop_at_head = 0;
    seen.stop_at_body = 1;
    is_int(run(&http, &seen, input, sizeof(input) - 1, 99, 99, &left), CS_HTTP1_STOPPED, "stopped in the body");
    ok(!cs_http1_reusable(&http), "its connection cannot serve again");
    cs_http1_release(&http);
    cs_buf_free(&seen.body);
}

int main(void)
{
    test_framing();
    test_chunks();
    test_garbage();
    test_bounds();
    test_callbacks();
    return done_testing();
}
