/* SPDX-License-Identifier: Apache-2.0 */
/* formats: the bytes clients get, and that a full buffer gets nothing at all. */
#include "chatstream/event.h"
#include "event/sse.h"
#include "tap.h"

#define ID   "0190a5c4-7e1b-7abc-8def-0123456789ab"
#define WHEN (APR_INT64_C(1771322400000000) + 123456)

static const cs_stream_info_t info = {ID, WHEN};
static cs_buf_t out;

static const cs_event_t token = {CS_EVENT_TOKEN, 42, "", 0, "Hel\"lo\n\xe2\x82\xac", 10};
static const cs_event_t metadata = {CS_EVENT_METADATA, 43, "", 0, "{\"sources\":[1]}", 15};
static const cs_event_t empty_metadata = {CS_EVENT_METADATA, 44, "", 0, "{}", 2};
static const cs_event_t raw = {CS_EVENT_RAW, 45, "sources", 7, "a\n\nb ", 5};
static const cs_event_t raw_message = {CS_EVENT_RAW, 46, "message", 7, "", 0};
static const cs_event_t raw_cr = {CS_EVENT_RAW, 47, "", 0, "a\rid: 1\r\nb\n", 11};

static const cs_ending_t complete = {NULL, NULL, 0, "stop", 1, 2, 84, 1520, 42};
static const cs_ending_t unknown = {NULL, NULL, 0, NULL, -1, -1, -1, 7, 0};
static const cs_ending_t half = {NULL, NULL, 0, "a\"b", -1, 2, 0, 0, 1};
static const cs_ending_t error = {"timeout", "the answer took \"too\" long", 1, "stop", 1, 2, 84, 1520, 42};
static const cs_ending_t final_error = {"cancelled", NULL, 0, NULL, -1, -1, -1, 0, 0};

#define WROTE(rv, want, what)                                                                                          \
    do {                                                                                                               \
        is_int((rv), APR_SUCCESS, what);                                                                               \
        is_buf(&out, want, what);                                                                                      \
        out.len = 0;                                                                                                   \
    } while (0)

static void test_native(void)
{
    const cs_format_t *f = cs_format_find("native");
    is_str(f->content_type, "text/event-stream", "native: content type");
    ok(f->mode == CS_DECODE_EVENTS && f->numbers_frame, "native: frame has numbers");
    WROTE(f->preamble(&out), "retry: 1000\n\n", "native: preamble");
    WROTE(f->start(&out, &info),
          "id: " ID ":1\nevent: message\ndata: {\"type\":\"start\",\"stream_id\":\"" ID
          "\",\"created_at\":\"2026-02-17T10:00:00.123Z\"}\n\n",
          "native: start");
    WROTE(f->event(&out, &info, &token),
          "id: " ID ":42\nevent: message\ndata: {\"type\":\"token\",\"content\":\"Hel\\\"lo\\n\xe2\x82\xac\"}\n\n",
          "native: token");
    WROTE(f->event(&out, &info, &metadata),
          "id: " ID ":43\nevent: message\ndata: {\"type\":\"metadata\",\"sources\":[1]}\n\n", "native: metadata");
    WROTE(f->event(&out, &info, &empty_metadata), "id: " ID ":44\nevent: message\ndata: {\"type\":\"metadata\"}\n\n",
          "native: metadata without members");
    WROTE(f->event(&out, &info, &raw),
          "id: " ID ":45\nevent: message\ndata: {\"type\":\"metadata\",\"upstream_event\":\"sources\",\"data\":"
          "\"a\\n\\nb \"}\n\n",
          "native: a raw event");
    WROTE(f->gap(&out, &info, 5, 17),
          "id: " ID ":17\nevent: message\ndata: {\"type\":\"gap\",\"from\":5,\"to\":17}\n\n", "native: gap");
    WROTE(f->heartbeat(&out, WHEN), "event: heartbeat\ndata: {\"ts\":\"2026-02-17T10:00:00.123Z\"}\n\n",
          "native: heartbeat");
    WROTE(f->ending(&out, &info, &complete, UINT64_MAX),
          "id: " ID
          ":18446744073709551615\nevent: message\ndata: {\"type\":\"complete\",\"finish_reason\":\"stop\",\"usage\":"
          "{\"prompt_tokens\":1,\"completion_tokens\":2},\"metrics\":{\"first_token_ms\":84,\"duration_ms\":1520,"
          "\"tokens\":42}}\n\n",
          "native: complete");
    WROTE(f->ending(&out, &info, &unknown, 2),
          "id: " ID
          ":2\nevent: message\ndata: {\"type\":\"complete\",\"finish_reason\":null,\"usage\":null,\"metrics\":"
          "{\"first_token_ms\":null,\"duration_ms\":7,\"tokens\":0}}\n\n",
          "native: complete, nothing known");
    WROTE(f->ending(&out, &info, &half, 2),
          "id: " ID
          ":2\nevent: message\ndata: {\"type\":\"complete\",\"finish_reason\":\"a\\\"b\",\"usage\":{\"prompt_tokens\":"
          "null,\"completion_tokens\":2},\"metrics\":{\"first_token_ms\":0,\"duration_ms\":0,\"tokens\":1}}\n\n",
          "native: complete, half known");
    WROTE(
        f->ending(&out, &info, &error, 9),
        "id: " ID
        ":9\nevent: message\ndata: {\"type\":\"error\",\"code\":\"timeout\",\"message\":\"the answer took \\\"too\\\" "
        "long\",\"retryable\":true}\n\n",
        "native: error");
    WROTE(f->ending(&out, &info, &final_error, 0),
          "event: message\ndata: {\"type\":\"error\",\"code\":\"cancelled\",\"message\":\"\",\"retryable\":false}\n\n",
          "native: an error of one reader has no id");
}

static void test_raw(void)
{
    const cs_format_t *f = cs_format_find("raw");
    ok(f->mode == CS_DECODE_RAW && !f->numbers_frame, "raw: frame has no numbers");
    WROTE(f->preamble(&out), "retry: 1000\n\n", "raw: preamble");
    WROTE(f->start(&out, &info), "", "raw: no start");
    WROTE(f->event(&out, &info, &raw), "id: " ID ":45\nevent: sources\ndata: a\ndata:\ndata: b \n\n",
          "raw: several lines");
    WROTE(f->event(&out, &info, &raw_message), "id: " ID ":46\ndata:\n\n", "raw: empty data, default name");
    WROTE(f->event(&out, &info, &raw_cr), "id: " ID ":47\ndata: a\ndata: id: 1\ndata: b\ndata:\n\n",
          "raw: no CR gets out to end a line of ours");
    WROTE(f->heartbeat(&out, WHEN), ": heartbeat\n\n", "raw: heartbeat");
    WROTE(f->gap(&out, &info, 5, 17), "id: " ID ":17\nevent: gap\ndata: {\"type\":\"gap\",\"from\":5,\"to\":17}\n\n",
          "raw: gap");
    WROTE(f->ending(&out, &info, &complete, 9), "", "raw: the upstream's own end is the end");
    WROTE(
        f->ending(&out, &info, &error, 9),
        "event: error\ndata: {\"type\":\"error\",\"code\":\"timeout\",\"message\":\"the answer took \\\"too\\\" long\","
        "\"retryable\":true}\n\n",
        "raw: error");
}

/* ---- what a parser makes of it ----------------------------------------------------------------------------------- */

static apr_status_t check_frame(void *baton, const cs_frame_t *frame)
{
    const cs_event_t **want = baton;
    is_mem(frame->data, frame->len, (*want)->data, (*want)->len, "raw: an event comes back as it went");
    return APR_SUCCESS;
}

static void test_round_trip(void)
{
    static const char *const texts[] = {
        "", "a", "\n", "a\n", "\na", "\n\n", " a", "  ", ": x", "data: x\n\ndata: y", "a\nb\n\nc"};
    const cs_format_t *f = cs_format_find("raw");
    cs_sse_t sse;
    const cs_event_t *current;
    cs_sse_init(&sse, 1000, check_frame, &current);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        cs_event_t event = {CS_EVENT_RAW, 1, "", 0, texts[i], strlen(texts[i])};
        current = &event;
        int before = tap_run;
        f->event(&out, &info, &event);
        cs_sse_feed(&sse, out.data, out.len);
        is_int(tap_run, before + 1, "raw: and as one event");
        out.len = 0;
    }
    cs_sse_release(&sse);
}

/* ---- a buffer that is too small, by every number of bytes -------------------------------------------------------- */

static apr_status_t call(const cs_format_t *f, int which, cs_buf_t *to)
{
    switch (which) {
    case 0:
        return f->preamble(to);
    case 1:
        return f->start(to, &info);
    case 2:
        return f->event(to, &info, &token);
    case 3:
        return f->event(to, &info, &metadata);
    case 4:
        return f->event(to, &info, &raw);
    case 5:
        return f->gap(to, &info, 1, 2);
    case 6:
        return f->heartbeat(to, WHEN);
    case 7:
        return f->ending(to, &info, &complete, 3);
    default:
        return f->ending(to, &info, &error, 3);
    }
}

static void test_full(const char *name)
{
    const cs_format_t *f = cs_format_find(name);
    int wrong = 0;
    for (int which = 0; which < 9; which++) {
        cs_buf_t to;
        cs_buf_init(&to, 4096);
        wrong += call(f, which, &to) != APR_SUCCESS;
        size_t full = to.len;
        cs_buf_free(&to);
        for (size_t room = 0; room <= full; room++) {
            cs_buf_init(&to, room + 3);
            cs_buf_append(&to, "abc", 3);
            apr_status_t rv = call(f, which, &to);
            wrong += rv != (room < full ? APR_ENOSPC : APR_SUCCESS) || to.len != (room < full ? 3 : full + 3);
            cs_buf_free(&to);
        }
    }
    is_int(wrong, 0, "%s: all or nothing, at every size", name);
}

static void test_ids(void)
{
    cs_uuid_t uuid;
    uint64_t seq = 0;
    static const char *const bad[] = {"",
                                      ID,
                                      ID ":",
                                      ID ":x",
                                      ID ":-1",
                                      ID ":01",
                                      ID ":1 ",
                                      ID " :1",
                                      ID ":18446744073709551616",
                                      "x" ID ":1",
                                      ID ":99999999999999999999999",
                                      "0190a5c4-7e1b-7abc-8def-0123456789az:1"};
    is_int(cs_event_id_parse(ID ":42", 39, &uuid, &seq), APR_SUCCESS, "an event id");
    is_int(seq, 42, "its seq");
    char text[CS_UUID_LEN + 1];
    cs_uuid_format(text, &uuid);
    is_str(text, ID, "its stream");
    is_int(cs_event_id_parse(ID ":18446744073709551615", 57, &uuid, &seq), APR_SUCCESS, "the largest seq");
    ok(seq == UINT64_MAX, "is kept");
    is_int(cs_event_id_parse(ID ":0", 38, &uuid, &seq), APR_SUCCESS, "before the first event");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        is_int(cs_event_id_parse(bad[i], strlen(bad[i]), &uuid, &seq), APR_EINVAL, "no event id: '%s'", bad[i]);
    }
    is_int(cs_event_id_parse(ID ":1\0", 39, &uuid, &seq), APR_EINVAL, "nor one with a NUL");
}

int main(void)
{
    cs_buf_init(&out, 4096);
    is_str(cs_format_names(), "native, raw", "names");
    ok(cs_format_find("nope") == NULL && cs_format_by_index(99) == NULL, "unknown formats");
    for (unsigned i = 0; i < 2; i++) {
        is_int(cs_format_index(cs_format_by_index(i)), i, "%s has number %d", cs_format_by_index(i)->name, (int)i);
    }
    test_native();
    test_raw();
    test_round_trip();
    test_full("native");
    test_full("raw");
    test_ids();
    cs_buf_free(&out);
    return done_testing();
}
