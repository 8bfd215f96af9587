/* SPDX-License-Identifier: Apache-2.0 */
/* document: a stream gathered into the one JSON object of chatstream-complete. */
#include <stdlib.h>
#include <string.h>

#include "event/format.h"

/* Both are bounded by max_answer: metadata is the upstream's to send, and no less able to fill memory. */
struct cs_document_t {
    cs_buf_t content;  /* unescaped */
    cs_buf_t metadata; /* objects, each with a comma before it but the first */
};

apr_status_t cs_document_create(cs_document_t **out, size_t max_answer)
{
    cs_document_t *document = malloc(sizeof(*document));
    *out = document;
    if (document == NULL) {
        return APR_ENOMEM;
    }
    cs_buf_init(&document->content, max_answer);
    cs_buf_init(&document->metadata, max_answer);
    return APR_SUCCESS;
}

void cs_document_destroy(cs_document_t *document)
{
    if (document != NULL) {
        cs_buf_free(&document->content);
        cs_buf_free(&document->metadata);
        free(document);
    }
}

static apr_status_t add_metadata(cs_buf_t *metadata, const char *object, size_t len)
{
    size_t before = metadata->len;
    apr_status_t rv = before > 0 ? cs_buf_append(metadata, ",", 1) : APR_SUCCESS;
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(metadata, object, len);
    }
    if (rv != APR_SUCCESS) {
        metadata->len = before;
    }
    return rv;
}

apr_status_t cs_document_add(cs_document_t *document, const cs_event_t *event)
{
    switch (event->kind) {
    case CS_EVENT_TOKEN:
        return cs_buf_append(&document->content, event->data, event->len);
    case CS_EVENT_METADATA:
        return add_metadata(&document->metadata, event->data, event->len);
    case CS_EVENT_RAW: /* documents are made of decoded streams */
        break;
    }
    return APR_EINVAL;
}

apr_status_t cs_document_write(const cs_document_t *document, const cs_stream_info_t *info, const cs_ending_t *ending,
                               cs_buf_t *out)
{
    size_t before = out->len;
    char created[CS_ISO8601_LEN + 1];
    cs_clock_iso8601(created, info->created_at);
    apr_status_t rv = cs_buf_append_str(out, "{\"stream_id\":");
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, info->stream_id, CS_UUID_LEN);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"created_at\":");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, created, CS_ISO8601_LEN);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"content\":");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, document->content.data, document->content.len);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, ",", 1);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_format_put_outcome(out, ending);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"metadata\":[");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, document->metadata.data, document->metadata.len);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, "]}");
    }
    if (rv != APR_SUCCESS) {
        out->len = before;
    }
    return rv;
}
