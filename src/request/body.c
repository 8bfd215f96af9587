/* SPDX-License-Identifier: Apache-2.0 */
#include "body.h"

#include <apr_strings.h>
#include <http_protocol.h>

static void too_large(cs_result_t *result)
{
    *result = (cs_result_t){ HTTP_REQUEST_ENTITY_TOO_LARGE, "too_large", "The request is too large.", 0, NULL };
}

void cs_body_read(request_rec *r, size_t max, char **body, size_t *len, cs_result_t *result)
{
    char chunk[8192];
    cs_buf_t buf;
    long got;
    int status = ap_setup_client_block(r, REQUEST_CHUNKED_DECHUNK);

    *body = NULL;
    *len = 0;
    if (status != OK) {
        *result = (cs_result_t){ status, "bad_request", "The request's body cannot be read.", 0, NULL };
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
    while ((got = ap_get_client_block(r, chunk, sizeof(chunk))) > 0) {
        if (cs_buf_append(&buf, chunk, (size_t)got)) {
            too_large(result);
            break;
        }
    }
    if (got < 0) {
        /* LimitRequestBody, a time-out, or a client that went away in the middle */
        *result = (cs_result_t){ HTTP_BAD_REQUEST, "bad_request", "The request's body ended too early.", 0, NULL };
        if (r->status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
            too_large(result);
        }
    }
    if (!result->status) {
        *body = apr_pstrmemdup(r->pool, buf.data ? buf.data : "", buf.len);
        *len = buf.len;
    }
    cs_buf_free(&buf);
}
