/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_sse: the first byte says how the rest is cut and how large an event may be. Cut anywhere, the parser says the
 * same as whole, and the same as a slow one written straight from the standard's words.
 */
#include <string.h>

#include "event/sse.h"
#include "fuzz.h"

static apr_status_t put_frame(void *baton, const cs_frame_t *frame)
{
    cs_buf_t *seen = baton;
    FUZZ_CHECK(cs_utf8_valid(frame->data, frame->len));
    FUZZ_CHECK(cs_utf8_valid(frame->name, frame->name_len));
    FUZZ_CHECK(memchr(frame->data, '\r', frame->len) == NULL);
    cs_buf_append_json(seen, frame->name, frame->name_len);
    cs_buf_append_json(seen, frame->data, frame->len);
    return cs_buf_append(seen, "\n", 1);
}

static apr_status_t run(const uint8_t *data, size_t size, size_t piece, size_t max_event, cs_buf_t *seen)
{
    cs_sse_t sse;
    const char *why = NULL;
    apr_status_t rv = APR_SUCCESS;
    cs_buf_init(seen, SIZE_MAX);
    cs_sse_init(&sse, max_event, put_frame, seen);
    while (rv == APR_SUCCESS && size > 0) {
        size_t n = piece < size ? piece : size;
        char *copy = malloc(n);
        memcpy(copy, data, n);
        rv = cs_sse_feed(&sse, copy, n);
        free(copy);
        data += n;
        size -= n;
    }
    FUZZ_CHECK(sse.line.len <= max_event && sse.data.len <= max_event + 1);
    if (rv == APR_SUCCESS) {
        rv = cs_sse_finish(&sse, &why);
        FUZZ_CHECK((rv == APR_INCOMPLETE) == (why != NULL));
    }
    cs_sse_release(&sse);
    return rv;
}

/* ---- the standard, word for word: decode, split into lines, then fields ------------------------------------------ */

typedef struct {
    cs_buf_t data;
    cs_buf_t name;
    cs_buf_t *seen;
} model_t;

static void model_line(model_t *model, const char *line, size_t len)
{
    if (len == 0) {
        if (model->data.len > 0) {
            cs_frame_t frame = {model->name.len ? model->name.data : "", model->name.len, model->data.data,
                                model->data.len - 1};
            put_frame(model->seen, &frame);
        }
        model->data.len = 0;
        model->name.len = 0;
        return;
    }
    const char *colon = memchr(line, ':', len);
    size_t field = colon ? (size_t)(colon - line) : len;
    const char *value = colon ? colon + 1 : line + len;
    size_t value_len = (size_t)(line + len - value);
    if (value_len > 0 && value[0] == ' ') {
        value++;
        value_len--;
    }
    if (field == 4 && memcmp(line, "data", 4) == 0) {
        cs_buf_append(&model->data, value, value_len);
        cs_buf_append(&model->data, "\n", 1);
    }
    else if (field == 5 && memcmp(line, "event", 5) == 0) {
        model->name.len = 0;
        cs_buf_append(&model->name, value, value_len);
    }
}

static void run_model(const uint8_t *data, size_t size, cs_buf_t *seen)
{
    cs_buf_t text;
    model_t model = {.seen = seen};
    cs_buf_init(seen, SIZE_MAX);
    cs_buf_init(&text, SIZE_MAX);
    cs_buf_init(&model.data, SIZE_MAX);
    cs_buf_init(&model.name, SIZE_MAX);
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) {
        data += 3;
        size -= 3;
    }
    cs_utf8_append_repaired(&text, (const char *)data, size);
    size_t start = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '\n' || text.data[i] == '\r') {
            model_line(&model, text.data + start, i - start);
            if (text.data[i] == '\r' && i + 1 < text.len && text.data[i + 1] == '\n') {
                i++;
            }
            start = i + 1;
        }
    }
    cs_buf_free(&text);
    cs_buf_free(&model.data);
    cs_buf_free(&model.name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cs_buf_t whole, cut, model;
    if (size == 0) {
        return 0;
    }
    size_t piece = 1 + data[0] % 16;
    size_t max_event = data[0] & 0x80 ? 8 + (size_t)(data[0] >> 4 & 7) * 8 : (size_t)1 << 20;
    data++;
    size--;
    apr_status_t rv = run(data, size, size + 1, max_event, &whole);
    apr_status_t cut_rv = run(data, size, piece, max_event, &cut);
    FUZZ_CHECK(rv == cut_rv);
    FUZZ_CHECK(whole.len == cut.len && (whole.len == 0 || memcmp(whole.data, cut.data, cut.len) == 0));
    run_model(data, size, &model);
    /* With a bound, the parser may stop early, but never say something else. */
    FUZZ_CHECK(whole.len <= model.len && (whole.len == 0 || memcmp(whole.data, model.data, whole.len) == 0));
    FUZZ_CHECK(rv == APR_ENOSPC || whole.len == model.len);
    cs_buf_free(&whole);
    cs_buf_free(&cut);
    cs_buf_free(&model);
    return 0;
}
