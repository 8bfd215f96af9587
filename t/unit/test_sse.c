/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sse: the shared vectors (collected from web-platform-tests and from parsers in use), each whole, byte by byte, and,
 * when short, cut at every pair of positions; then the bounds.
 */
#include <stdlib.h>

#include <json-c/json.h>

#include "event/sse.h"
#include "tap.h"

#define BIG ((size_t)1 << 20)

/* Every frame as one line: id, name, data, each as a JSON string. */
typedef struct {
    cs_buf_t text;
    cs_sse_t *sse;
} seen_t;

static void put_event(cs_buf_t *text, const char *id, size_t id_len, const char *name, size_t name_len,
                      const char *data, size_t len)
{
    cs_buf_append_json(text, id, id_len);
    cs_buf_append_json(text, name, name_len);
    cs_buf_append_json(text, data, len);
    cs_buf_append(text, "\n", 1);
}

static apr_status_t on_frame(void *baton, const cs_frame_t *frame)
{
    seen_t *seen = baton;
    const char *name = frame->name_len > 0 ? frame->name : "message";
    put_event(&seen->text, seen->sse->id.data, seen->sse->id.len, name, frame->name_len > 0 ? frame->name_len : 7,
              frame->data, frame->len);
    return APR_SUCCESS;
}

/* From a copy of exactly this size, so that ASan sees a byte read too far. */
static apr_status_t feed(cs_sse_t *sse, const char *bytes, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, bytes, len);
    apr_status_t rv = cs_sse_feed(sse, copy, len);
    free(copy);
    return rv;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    char *input;
    size_t len;
    int64_t retry; /* -1: none */
    cs_buf_t want;
} vector_t;

static size_t decode_base64(const char *in, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t len = 0;
    unsigned bits = 0;
    int have = 0;
    for (; *in != '\0' && *in != '='; in++) {
        bits = bits << 6 | (unsigned)(strchr(alphabet, *in) - alphabet);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[len++] = (char)(bits >> have & 0xff);
        }
    }
    return len;
}

static const char *member(json_object *object, const char *key, size_t *len)
{
    json_object *value = json_object_object_get(object, key);
    *len = (size_t)json_object_get_string_len(value);
    return json_object_get_string(value);
}

static void load_vector(vector_t *vector, json_object *row)
{
    json_object *retry;
    json_object *events = json_object_object_get(row, "events");
    const char *base64 = json_object_get_string(json_object_object_get(row, "input_b64"));
    vector->name = json_object_get_string(json_object_object_get(row, "name"));
    vector->input = malloc(strlen(base64) + 1);
    vector->len = decode_base64(base64, vector->input);
    vector->retry = json_object_object_get_ex(row, "retry", &retry) ? json_object_get_int64(retry) : -1;
    cs_buf_init(&vector->want, SIZE_MAX);
    for (size_t i = 0; i < json_object_array_length(events); i++) {
        json_object *event = json_object_array_get_idx(events, i);
        size_t id_len, name_len, len;
        const char *id = member(event, "id", &id_len);
        const char *name = member(event, "event", &name_len);
        const char *data = member(event, "data", &len);
        put_event(&vector->want, id, id_len, name, name_len, data, len);
    }
}

static void start(seen_t *seen, cs_sse_t *sse)
{
    seen->text.len = 0;
    seen->sse = sse;
    cs_sse_reset(sse);
}

static int matches(const vector_t *vector, const seen_t *seen)
{
    return tap_same(seen->text.data, seen->text.len, vector->want.data, vector->want.len)
           && seen->sse->retry == vector->retry;
}

static void run_vector(const vector_t *vector)
{
    cs_sse_t sse;
    seen_t seen;
    cs_buf_init(&seen.text, SIZE_MAX);
    cs_sse_init(&sse, BIG, on_frame, &seen);

    start(&seen, &sse);
    feed(&sse, vector->input, vector->len);
    is_mem(seen.text.data, seen.text.len, vector->want.data, vector->want.len, "%s: whole", vector->name);
    is_int(sse.retry, vector->retry, "%s: retry", vector->name);

    for (size_t piece = 1; piece <= 3; piece++) {
        start(&seen, &sse);
        for (size_t at = 0; at < vector->len; at += piece) {
            feed(&sse, vector->input + at, vector->len - at < piece ? vector->len - at : piece);
        }
        ok(matches(vector, &seen), "%s: in pieces of %d", vector->name, (int)piece);
    }

    if (vector->len <= 100) {
        int wrong = 0;
        for (size_t a = 0; a <= vector->len; a++) {
            for (size_t b = a; b <= vector->len; b++) {
                start(&seen, &sse);
                feed(&sse, vector->input, a);
                feed(&sse, vector->input + a, b - a);
                feed(&sse, vector->input + b, vector->len - b);
                wrong += !matches(vector, &seen);
            }
        }
        is_int(wrong, 0, "%s: cut at every pair of positions", vector->name);
    }
    cs_sse_release(&sse);
    cs_buf_free(&seen.text);
}

static json_object *read_vectors(const char *program)
{
    const char *dir = getenv("CHATSTREAM_VECTORS");
    const char *srcdir = getenv("srcdir");
    char path[4096];
    const char *places[] = {"../shared/vectors", "../../shared/vectors", "../../../shared/vectors"};
    json_object *vectors = NULL;
    if (dir != NULL) {
        snprintf(path, sizeof(path), "%s/sse-vectors.json", dir);
        return json_object_from_file(path);
    }
    for (size_t i = 0; vectors == NULL && i < 3; i++) {
        snprintf(path, sizeof(path), "%s/sse-vectors.json", places[i]);
        vectors = json_object_from_file(path);
    }
    if (vectors == NULL && srcdir != NULL) {
        snprintf(path, sizeof(path), "%s/../shared/vectors/sse-vectors.json", srcdir);
        vectors = json_object_from_file(path);
    }
    /* Built in place, the program lies in t/unit/. */
    const char *slash = strrchr(program, '/');
    if (vectors == NULL && slash != NULL) {
        snprintf(path, sizeof(path), "%.*s/../../../shared/vectors/sse-vectors.json", (int)(slash - program), program);
        vectors = json_object_from_file(path);
    }
    return vectors;
}

static void test_vectors(const char *program)
{
    json_object *vectors = read_vectors(program);
    if (!ok(vectors != NULL, "sse-vectors.json was found (CHATSTREAM_VECTORS names its directory)")) {
        return;
    }
    size_t n = json_object_array_length(vectors);
    ok(n >= 36, "it holds all cases");
    for (size_t i = 0; i < n; i++) {
        vector_t vector;
        load_vector(&vector, json_object_array_get_idx(vectors, i));
        run_vector(&vector);
        free(vector.input);
        cs_buf_free(&vector.want);
    }
    json_object_put(vectors);
}

/* ---- what the vectors leave out ---------------------------------------------------------------------------------- */

static void parses(const char *input, size_t len, const char *want, const char *what)
{
    for (size_t piece = 1; piece <= len + 1; piece += len > 0 ? len : 1) {
        cs_sse_t sse;
        seen_t seen;
        cs_buf_init(&seen.text, SIZE_MAX);
        cs_sse_init(&sse, BIG, on_frame, &seen);
        start(&seen, &sse);
        for (size_t at = 0; at < len; at += piece) {
            feed(&sse, input + at, len - at < piece ? len - at : piece);
        }
        is_mem(seen.text.data, seen.text.len, want, strlen(want), "%s (pieces of %d)", what, (int)piece);
        cs_sse_release(&sse);
        cs_buf_free(&seen.text);
    }
}

#define PARSES(input, want, what) parses((input), sizeof(input) - 1, (want), (what))

static void test_repair(void)
{
    PARSES("data:a\xff\n\n", "\"\"\"message\"\"a\xef\xbf\xbd\"\n", "a byte that is no UTF-8");
    PARSES("data:a\xe2\x82\ndata:b\n\n", "\"\"\"message\"\"a\xef\xbf\xbd\\nb\"\n", "a character cut by the line's end");
    PARSES("event:\xc3\nid:\xff\ndata:x\n\n", "\"\xef\xbf\xbd\"\"\xef\xbf\xbd\"\"x\"\n", "in names and ids");
    PARSES("\xef\xbb"
           "data:x\n\ndata:y\n\n",
           "\"\"\"message\"\"y\"\n", "two thirds of a byte order mark belong to the line");
    PARSES("\xef\xbb\xbf\n\ndata:x\n\n", "\"\"\"message\"\"x\"\n", "a byte order mark before a blank line");
    PARSES("event:a\nevent:b\ndata:x\n\n", "\"\"\"b\"\"x\"\n", "the last name counts");
    PARSES("event:a\n\ndata:x\n\n", "\"\"\"message\"\"x\"\n", "a name without data is forgotten");
    PARSES("data: \xf0\x9f\x98\x80\r\n\r\n", "\"\"\"message\"\"\xf0\x9f\x98\x80\"\n", "four-byte characters");
}

static void finishes(const char *input, apr_status_t want, const char *what)
{
    cs_sse_t sse;
    seen_t seen;
    const char *why = NULL;
    cs_buf_init(&seen.text, SIZE_MAX);
    cs_sse_init(&sse, BIG, on_frame, &seen);
    start(&seen, &sse);
    feed(&sse, input, strlen(input));
    is_int(cs_sse_finish(&sse, &why), want, "finish: %s", what);
    is_int(why != NULL, want != APR_SUCCESS, "finish: %s: reason", what);
    cs_sse_release(&sse);
    cs_buf_free(&seen.text);
}

static void test_finish(void)
{
    finishes("", APR_SUCCESS, "nothing");
    finishes("data: x\n\n", APR_SUCCESS, "an event");
    finishes("data: x\n", APR_INCOMPLETE, "an event without its blank line");
    finishes("data: x\n\nda", APR_INCOMPLETE, "the beginning of a field");
    finishes("data: x\n\nevent: y\n", APR_INCOMPLETE, "an event's name");
    finishes("data: x\n\n: comment", APR_SUCCESS, "a cut comment is no loss");
    finishes("data: x\n\nid: 7\nretry: 1\n", APR_SUCCESS, "nor are an id and a retry");
    finishes("data: x\r\r", APR_SUCCESS, "CR at the very end");
}

static apr_status_t count_frame(void *baton, const cs_frame_t *frame)
{
    (void)frame;
    ++*(int *)baton;
    return APR_SUCCESS;
}

/*
 * Feeds `chunk` again and again after `head`: how many bytes until it is refused; `*kept` is what the parser then
 * holds.
 */
static size_t flood(const char *head, const char *chunk, size_t total, size_t max_event, size_t *kept)
{
    cs_sse_t sse;
    int frames = 0;
    size_t fed = 0;
    cs_sse_init(&sse, max_event, count_frame, &frames);
    apr_status_t rv = cs_sse_feed(&sse, head, strlen(head));
    while (rv == APR_SUCCESS && fed < total) {
        rv = cs_sse_feed(&sse, chunk, strlen(chunk));
        fed += strlen(chunk);
    }
    *kept = sse.line.cap + sse.data.cap + sse.name.cap + sse.id.cap;
    cs_sse_release(&sse);
    return rv == APR_ENOSPC ? fed : total;
}

static void test_bounds(void)
{
    static const char *const heads[] = {"data: ", ": ", "id: ", "event: ", "retry: 1", "unknown", "\xef\xbb"};
    size_t total = (size_t)100 << 20;
    size_t kept;
    char chunk[8193];
    memset(chunk, 'x', 8192);
    chunk[8192] = '\0';
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        size_t fed = flood(heads[i], chunk, total, 65536, &kept);
        ok(fed <= 65536 + 8192, "'%s' without a line end is refused at the bound, not after 100 MB", heads[i]);
        ok(kept <= 4 * 65537, "and held no more than that");
    }
    ok(flood("", "data: x\n", total, 65536, &kept) <= 65536 * 5, "an event of many lines is refused at the bound");
    ok(flood("", "data\n", total, 65536, &kept) <= 65536 * 6, "also when they are empty");
    is_int(flood("", ": ping\n", total / 20, 65536, &kept), total / 20, "comments never add up");
    is_int(flood("", "event: abc\nid: 5\n", total / 20, 65536, &kept), total / 20, "nor do names and ids");

    /* The bound is the same wherever the line is cut. */
    for (size_t len = 9; len <= 11; len++) {
        for (size_t piece = 1; piece <= 16; piece++) {
            cs_sse_t sse;
            int frames = 0;
            char line[16];
            apr_status_t rv = APR_SUCCESS;
            memset(line, 'x', sizeof(line));
            memcpy(line, "data:", 5);
            memcpy(line + len, "\n\n", 2);
            cs_sse_init(&sse, 10, count_frame, &frames);
            for (size_t at = 0; rv == APR_SUCCESS && at < len + 2; at += piece) {
                rv = feed(&sse, line + at, len + 2 - at < piece ? len + 2 - at : piece);
            }
            if ((rv == APR_SUCCESS) != (len <= 10) || (frames == 1) != (len <= 10)) {
                ok(0, "a line of %d bytes in pieces of %d against a bound of 10", (int)len, (int)piece);
            }
            cs_sse_release(&sse);
        }
    }
}

static apr_status_t refuse(void *baton, const cs_frame_t *frame)
{
    (void)baton;
    (void)frame;
    return APR_EGENERAL;
}

int main(int argc, char **argv)
{
    (void)argc;
    test_vectors(argv[0]);
    test_repair();
    test_finish();
    test_bounds();

    cs_sse_t sse;
    cs_sse_init(&sse, BIG, refuse, NULL);
    is_int(cs_sse_feed(&sse, "data: x\n\ndata: y\n\n", 18), APR_EGENERAL, "a callback's failure stops the feed");
    cs_sse_release(&sse);
    return done_testing();
}
