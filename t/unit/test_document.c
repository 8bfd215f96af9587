/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/event.h"
#include "tap.h"

#define ID "0190a5c4-7e1b-7abc-8def-0123456789ab"

static const cs_stream_info_t info = {ID, APR_INT64_C(1771322400000000)};
static const cs_ending_t ending = {NULL, NULL, 0, "stop", 1, 2, 84, 1520, 2};

static apr_status_t add(cs_document_t *document, cs_event_kind_e kind, const char *data)
{
    cs_event_t event = {kind, 1, "", 0, data, strlen(data)};
    return cs_document_add(document, &event);
}

#define TAIL                                                                                                           \
    "\"finish_reason\":\"stop\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2},\"metrics\":"                  \
    "{\"first_token_ms\":84,\"duration_ms\":1520,\"tokens\":2},"
#define HEAD "{\"stream_id\":\"" ID "\",\"created_at\":\"2026-02-17T10:00:00.000Z\",\"content\":"

int main(void)
{
    cs_document_t *document;
    cs_buf_t out;
    cs_buf_init(&out, 4096);
    is_int(cs_document_create(&document, 40), APR_SUCCESS, "create");
    is_int(cs_document_write(document, &info, &ending, &out), APR_SUCCESS, "an empty document");
    is_buf(&out, HEAD "\"\"," TAIL "\"metadata\":[]}", "has empty content");
    out.len = 0;

    add(document, CS_EVENT_TOKEN, "Hel");
    add(document, CS_EVENT_METADATA, "{\"a\":1}");
    add(document, CS_EVENT_TOKEN, "\"lo\"\n");
    add(document, CS_EVENT_METADATA, "{\"b\":[2]}");
    is_int(cs_document_write(document, &info, &ending, &out), APR_SUCCESS, "a document");
    is_buf(&out, HEAD "\"Hel\\\"lo\\\"\\n\"," TAIL "\"metadata\":[{\"a\":1},{\"b\":[2]}]}", "has text and metadata");
    ok(cs_json_valid(out.data, out.len), "and is JSON");

    is_int(add(document, CS_EVENT_TOKEN, "123456789012345678901234567890123"), APR_ENOSPC, "an answer past max_answer");
    is_int(add(document, CS_EVENT_METADATA, "{\"c\":\"123456789012345678\"}"), APR_ENOSPC, "metadata past max_answer");
    is_int(add(document, CS_EVENT_RAW, "x"), APR_EINVAL, "a raw event has no place here");
    size_t full = out.len;
    cs_buf_free(&out);
    cs_buf_init(&out, 4096);
    cs_document_write(document, &info, &ending, &out);
    is_int(out.len, full, "what was refused is not in it");
    cs_buf_free(&out);

    int wrong = 0;
    for (size_t room = 0; room <= full; room++) {
        cs_buf_init(&out, room);
        apr_status_t rv = cs_document_write(document, &info, &ending, &out);
        wrong += rv != (room < full ? APR_ENOSPC : APR_SUCCESS) || out.len != (room < full ? 0 : full);
        cs_buf_free(&out);
    }
    is_int(wrong, 0, "all or nothing, at every size");
    cs_document_destroy(document);
    cs_document_destroy(NULL);
    return done_testing();
}
