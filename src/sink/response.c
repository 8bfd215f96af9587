/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_strings.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "chatstream/sink.h"

static void send_body(request_rec *r, const char *body, size_t len)
{
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);

    apr_brigade_write(bb, NULL, NULL, body, len);
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(r->connection->bucket_alloc));
    ap_pass_brigade(r->output_filters, bb);
    apr_brigade_cleanup(bb);
}

void cs_response_json_head(request_rec *r, int status, size_t len)
{
    r->status = status;
    r->status_line = NULL;
    ap_set_content_type(r, "application/json");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    ap_set_content_length(r, (apr_off_t)len);
}

int cs_response_json(request_rec *r, int status, const char *json, size_t len)
{
    cs_response_json_head(r, status, len);
    send_body(r, json, len);
    return OK;
}

/* "502 Bad Gateway" -> "Bad Gateway" */
static const char *title_of(int status)
{
    const char *line = ap_get_status_line(status);

    return line && line[0] && line[1] && line[2] && line[3] ? line + 4 : "Error";
}

static const char *json_string(apr_pool_t *pool, const char *text)
{
    const char *json = "\"\"";
    cs_buf_t buf;

    cs_buf_init(&buf, SIZE_MAX / 2);
    if (cs_buf_append_json(&buf, text, strlen(text)) == APR_SUCCESS) {
        json = apr_pstrmemdup(pool, buf.data, buf.len);
    }
    cs_buf_free(&buf);
    return json;
}

int cs_response_problem(request_rec *r, const cs_result_t *problem)
{
    char *body = apr_psprintf(
        r->pool, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":%s,\"code\":\"%s\"}\n",
        title_of(problem->status), problem->status, json_string(r->pool, problem->message), problem->code);

    if (problem->status == AP_FILTER_ERROR) {
        return AP_FILTER_ERROR; /* an input filter has answered already */
    }
    r->status = problem->status;
    r->status_line = NULL;
    ap_set_content_type(r, "application/problem+json");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    if (problem->retry_after) {
        apr_table_setn(r->headers_out, "Retry-After", apr_itoa(r->pool, problem->retry_after));
    }
    ap_set_content_length(r, (apr_off_t)strlen(body));
    send_body(r, body, strlen(body));
    return OK;
}

void cs_response_event_stream(request_rec *r, const char *content_type)
{
    r->status = HTTP_OK;
    r->status_line = NULL;
    r->no_local_copy = 1;
    ap_set_content_type(r, content_type);
    apr_table_setn(r->headers_out, "Cache-Control", "no-cache, no-transform");
    apr_table_setn(r->headers_out, "X-Accel-Buffering", "no");
    /* A compressor holds events back until its window is worth a block. */
    apr_table_setn(r->subprocess_env, "no-gzip", "1");
    apr_table_setn(r->subprocess_env, "no-brotli", "1");
}
