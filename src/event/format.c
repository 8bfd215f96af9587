/* SPDX-License-Identifier: Apache-2.0 */
/* format: the table, and the JSON that several formats share. */
#include "event/format.h"

#include <string.h>

#define ROW(name) &cs_format_##name,
static const cs_format_t *const formats[] = {CS_FORMATS(ROW)};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

#define NAME(name) ", " #name
static const char names[] = CS_FORMATS(NAME);

const cs_format_t *cs_format_find(const char *name)
{
    for (size_t i = 0; i < FORMATS; i++) {
        if (strcmp(formats[i]->name, name) == 0) {
            return formats[i];
        }
    }
    return NULL;
}

const char *cs_format_names(void)
{
    return names + 2; /* the first comma */
}

const cs_format_t *cs_format_by_index(unsigned index)
{
    return index < FORMATS ? formats[index] : NULL;
}

unsigned cs_format_index(const cs_format_t *format)
{
    unsigned i = 0;
    while (i < FORMATS && formats[i] != format) {
        i++;
    }
    return i;
}

/* ---- small steps; each does nothing once `*rv` is a failure, so that callers check once -------------------------- */

static void put(apr_status_t *rv, cs_buf_t *out, const char *text)
{
    if (*rv == APR_SUCCESS) {
        *rv = cs_buf_append_str(out, text);
    }
}

static void put_u64(apr_status_t *rv, cs_buf_t *out, uint64_t value)
{
    if (*rv == APR_SUCCESS) {
        *rv = cs_buf_append_u64(out, value);
    }
}

/* Negative: not known. */
static void put_known(apr_status_t *rv, cs_buf_t *out, int64_t value)
{
    if (value < 0) {
        put(rv, out, "null");
    }
    else {
        put_u64(rv, out, (uint64_t)value);
    }
}

static void put_json(apr_status_t *rv, cs_buf_t *out, const char *text)
{
    if (text == NULL) {
        put(rv, out, "null");
    }
    else if (*rv == APR_SUCCESS) {
        *rv = cs_buf_append_json(out, text, strlen(text));
    }
}

/* All or nothing, whatever was put before it failed. */
static apr_status_t settle(apr_status_t rv, cs_buf_t *out, size_t before)
{
    if (rv != APR_SUCCESS) {
        out->len = before;
    }
    return rv;
}

apr_status_t cs_format_put_id(cs_buf_t *out, const cs_stream_info_t *info, uint64_t seq)
{
    size_t before = out->len;
    apr_status_t rv = cs_buf_append(out, "id: ", 4);
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append(out, info->stream_id, CS_UUID_LEN);
    }
    put(&rv, out, ":");
    put_u64(&rv, out, seq);
    put(&rv, out, "\n");
    return settle(rv, out, before);
}

apr_status_t cs_format_put_gap(cs_buf_t *out, uint64_t from, uint64_t to)
{
    size_t before = out->len;
    apr_status_t rv = cs_buf_append_str(out, "{\"type\":\"gap\",\"from\":");
    put_u64(&rv, out, from);
    put(&rv, out, ",\"to\":");
    put_u64(&rv, out, to);
    put(&rv, out, "}");
    return settle(rv, out, before);
}

apr_status_t cs_format_put_error(cs_buf_t *out, const cs_ending_t *ending)
{
    size_t before = out->len;
    apr_status_t rv = cs_buf_append_str(out, "{\"type\":\"error\",\"code\":");
    put_json(&rv, out, ending->error_code);
    put(&rv, out, ",\"message\":");
    put_json(&rv, out, ending->error_message ? ending->error_message : "");
    put(&rv, out, ending->retryable ? ",\"retryable\":true}" : ",\"retryable\":false}");
    return settle(rv, out, before);
}

static void put_usage(apr_status_t *rv, cs_buf_t *out, const cs_ending_t *ending)
{
    if (ending->prompt_tokens < 0 && ending->completion_tokens < 0) {
        put(rv, out, "null");
        return;
    }
    put(rv, out, "{\"prompt_tokens\":");
    put_known(rv, out, ending->prompt_tokens);
    put(rv, out, ",\"completion_tokens\":");
    put_known(rv, out, ending->completion_tokens);
    put(rv, out, "}");
}

apr_status_t cs_format_put_outcome(cs_buf_t *out, const cs_ending_t *ending)
{
    size_t before = out->len;
    apr_status_t rv = cs_buf_append_str(out, "\"finish_reason\":");
    put_json(&rv, out, ending->finish_reason);
    put(&rv, out, ",\"usage\":");
    put_usage(&rv, out, ending);
    put(&rv, out, ",\"metrics\":{\"first_token_ms\":");
    put_known(&rv, out, ending->first_token_ms);
    put(&rv, out, ",\"duration_ms\":");
    put_known(&rv, out, ending->duration_ms);
    put(&rv, out, ",\"tokens\":");
    put_u64(&rv, out, ending->tokens);
    put(&rv, out, "}");
    return settle(rv, out, before);
}

apr_status_t cs_format_put_retry(cs_buf_t *out)
{
    return cs_buf_append_str(out, "retry: 1000\n\n");
}
