/* SPDX-License-Identifier: Apache-2.0 */
#include "body.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <util_filter.h>

#define PIECE 8192

static void too_large(cs_result_t *result)
{
    *result = (cs_result_t){HTTP_REQUEST_ENTITY_TOO_LARGE, "too_large", "The request is too large.", 0, NULL};
}

/* LimitRequestBody, a time-out, or a client that went away in the middle. */
static void read_failed(apr_status_t rv, cs_result_t *result)
{
    int status = ap_map_http_request_error(rv, HTTP_BAD_REQUEST);

    if (status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
        too_large(result);
        return;
    }
    *result = (cs_result_t){status, "bad_request", "The request's body did not come whole.", 0, NULL};
}

/* Takes the brigade's bytes; 1 when the body's end is among them. */
static int take(apr_bucket_brigade *bb, cs_buf_t *buf, cs_result_t *result)
{
    apr_bucket *bucket;

    for (bucket = APR_BRIGADE_FIRST(bb); bucket != APR_BRIGADE_SENTINEL(bb); bucket = APR_BUCKET_NEXT(bucket)) {
        const char *bytes;
        apr_size_t len;
        apr_status_t rv;

        if (APR_BUCKET_IS_EOS(bucket)) {
            return 1;
        }
        if (APR_BUCKET_IS_METADATA(bucket)) {
            continue;
        }
        rv = apr_bucket_read(bucket, &bytes, &len, APR_BLOCK_READ);
        if (rv) {
            read_failed(rv, result);
            return 1;
        }
        if (cs_buf_append(buf, bytes, len)) {
            too_large(result);
            return 1;
        }
    }
    return 0;
}

/* Not ap_get_client_block: it tells any failure as -1, and the client shall learn which it was. */
static void read_all(request_rec *r, cs_buf_t *buf, cs_result_t *result)
{
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    int ended = 0;

    while (!ended && !result->status) {
        apr_status_t rv = ap_get_brigade(r->input_filters, bb, AP_MODE_READBYTES, APR_BLOCK_READ, PIECE);

        if (rv) {
            read_failed(rv, result);
        }
        else {
            ended = take(bb, buf, result);
        }
        apr_brigade_cleanup(bb);
    }
    apr_brigade_destroy(bb);
    if (result->status) {
        r->connection->keepalive = AP_CONN_CLOSE;
    }
}

void cs_body_read(request_rec *r, size_t max, char **body, size_t *len, cs_result_t *result)
{
    cs_buf_t buf;
    int status = ap_setup_client_block(r, REQUEST_CHUNKED_DECHUNK);

    *body = NULL;
    *len = 0;
    if (status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
        too_large(result);
        return;
    }
    if (status != OK) {
        *result = (cs_result_t){status, "bad_request", "The request's body cannot be read.", 0, NULL};
        return;
    }
    if (r->remaining > (apr_off_t)max) {
        too_large(result);
        return;
    }
    if (!ap_should_client_block(r)) {
        return;
    }
    cs_buf_init(&buf, max);
    read_all(r, &buf, result);
    if (!result->status) {
        *body = apr_pstrmemdup(r->pool, buf.data ? buf.data : "", buf.len);
        *len = buf.len;
    }
    cs_buf_free(&buf);
}
