/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_decoder: the first byte chooses dialect, mode and cut, the rest is the upstream's answer. Whole, cut, and with
 * the fast path off, the decoder must say the same; and what it says must survive the formats.
 */
#include "fuzz.h"
#include "transcript.h"

static void same(const transcript_t *a, const transcript_t *b)
{
    if (a->text.len != b->text.len || memcmp(a->text.data, b->text.data, a->text.len) != 0) {
        fprintf(stderr, "one way:\n%.*s\nthe other:\n%.*s\n", (int)a->text.len, a->text.data, (int)b->text.len,
                b->text.data);
        abort();
    }
    FUZZ_CHECK(!a->bad && !b->bad);
}

/* ---- what went through a format comes back from the parser ------------------------------------------------------- */

typedef struct {
    cs_buf_t native;
    cs_buf_t raw;
    uint64_t seq;
} formatted_t;

static apr_status_t format_event(void *baton, const cs_event_t *event)
{
    static const cs_stream_info_t info = {"0190a5c4-7e1b-7abc-8def-0123456789ab", 0};
    formatted_t *formatted = baton;
    cs_event_t numbered = *event;
    numbered.seq = ++formatted->seq;
    FUZZ_CHECK(cs_format_find("native")->event(&formatted->native, &info, &numbered) == APR_SUCCESS);
    FUZZ_CHECK(cs_format_find("raw")->event(&formatted->raw, &info, &numbered) == APR_SUCCESS);
    return APR_SUCCESS;
}

/* Native output is read by dialect openai's framing in raw mode: every event one object on one line, none lost. */
static apr_status_t check_native(void *baton, const cs_event_t *event)
{
    FUZZ_CHECK(event->kind == CS_EVENT_RAW);
    FUZZ_CHECK(event->data[0] == '{' && cs_json_valid(event->data, event->len));
    FUZZ_CHECK(event->name_len == 7 && memcmp(event->name, "message", 7) == 0);
    ++*(uint64_t *)baton;
    return APR_SUCCESS;
}

static apr_status_t count_raw(void *baton, const cs_event_t *event)
{
    (void)event;
    ++*(uint64_t *)baton;
    return APR_SUCCESS;
}

static uint64_t read_back(const cs_buf_t *text, apr_status_t (*check)(void *, const cs_event_t *))
{
    static const cs_decoder_limits_t limits = {SIZE_MAX / 8, SIZE_MAX / 8};
    cs_decoder_events_t events = {check};
    uint64_t seen = 0;
    cs_decoder_t *decoder;
    if (text->len == 0) {
        return 0;
    }
    /* One event at a time: the dialect would stop at an end marker. */
    const char *at = text->data;
    const char *end = at + text->len;
    FUZZ_CHECK(cs_decoder_create(&decoder, cs_dialect_find("sse"), CS_DECODE_RAW, &limits, &events, &seen)
               == APR_SUCCESS);
    while (at < end) {
        const char *blank = memmem(at, (size_t)(end - at), "\n\n", 2);
        FUZZ_CHECK(blank != NULL);
        uint64_t before = seen;
        FUZZ_CHECK(cs_decoder_feed(decoder, at, (size_t)(blank + 2 - at)) == APR_SUCCESS);
        FUZZ_CHECK(seen == before + 1);
        cs_decoder_reset(decoder, &seen);
        at = blank + 2;
    }
    cs_decoder_destroy(decoder);
    return seen;
}

static void check_formats(const char *dialect, int raw, const cs_decoder_limits_t *limits, const char *input,
                          size_t len)
{
    static const cs_decoder_events_t events = {format_event};
    formatted_t formatted = {.seq = 0};
    cs_decoder_t *decoder;
    cs_buf_init(&formatted.native, SIZE_MAX);
    cs_buf_init(&formatted.raw, SIZE_MAX);
    FUZZ_CHECK(cs_decoder_create(&decoder, cs_dialect_find(dialect), raw ? CS_DECODE_RAW : CS_DECODE_EVENTS, limits,
                                 &events, &formatted)
               == APR_SUCCESS);
    (void)cs_decoder_feed(decoder, input, len);
    cs_decoder_destroy(decoder);
    FUZZ_CHECK(read_back(&formatted.native, check_native) == formatted.seq);
    FUZZ_CHECK(read_back(&formatted.raw, count_raw) == formatted.seq);
    cs_buf_free(&formatted.native);
    cs_buf_free(&formatted.raw);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const dialects[] = {"sse", "openai", "text"};
    static const cs_decoder_limits_t roomy = {1 << 20, 1 << 20};
    static const cs_decoder_limits_t tight = {48, 24};
    if (size == 0) {
        return 0;
    }
    const char *dialect = dialects[data[0] % 3];
    int raw = data[0] & 0x40;
    const cs_decoder_limits_t *limits = data[0] & 0x80 ? &tight : &roomy;
    int is_text = data[0] % 3 == 2;
    /* How a text is cut depends on the cuts, so that a bound in mid-text is no matter for comparison. */
    if (is_text) {
        limits = &roomy;
        raw = 0;
    }
    int flags = (raw ? TRANSCRIPT_RAW : 0) | (is_text ? TRANSCRIPT_MERGE : 0);
    const char *input = (const char *)data + 1;
    size_t len = size - 1;
    transcript_t whole, other;
    transcript_run(&whole, dialect, flags, limits, input, len, len, 1);
    transcript_run(&other, dialect, flags, limits, input, len, data[0] / 3 % 16, 1);
    same(&whole, &other);
    cs_buf_free(&other.text);
    transcript_run(&other, dialect, flags | TRANSCRIPT_SLOW, limits, input, len, len, 1);
    same(&whole, &other);
    cs_buf_free(&other.text);
    cs_buf_free(&whole.text);
    check_formats(dialect, raw, limits, input, len);
    return 0;
}
