/* SPDX-License-Identifier: Apache-2.0 */
#include "head.h"

#include <string.h>
#include <strings.h>

static int is_named(const char *header, const char *name)
{
    size_t len = strlen(name);

    return !strncasecmp(header, name, len) && header[len] == ':';
}

static int is_configured(const cs_transfer_request_t *request, const char *name)
{
    const char *const *header;

    for (header = request->headers; header && *header; header++) {
        if (is_named(*header, name)) {
            return 1;
        }
    }
    return 0;
}

static apr_status_t put(cs_buf_t *out, const char *name, const char *value)
{
    apr_status_t rv;

    if ((rv = cs_buf_append_str(out, name)) || (rv = cs_buf_append(out, ": ", 2))
        || (rv = cs_buf_append_str(out, value))) {
        return rv;
    }
    return cs_buf_append(out, "\r\n", 2);
}

static apr_status_t put_ours(cs_buf_t *out, const cs_transfer_request_t *request, const char *name, const char *value)
{
    return !value || is_configured(request, name) ? APR_SUCCESS : put(out, name, value);
}

static apr_status_t put_configured(cs_buf_t *out, const cs_transfer_request_t *request)
{
    const char *const *header;
    apr_status_t rv = APR_SUCCESS;

    for (header = request->headers; !rv && header && *header; header++) {
        const char *value = strchr(*header, ':');

        if (value && value[1 + strspn(value + 1, " \t")] && !is_named(*header, "Content-Length")
            && !is_named(*header, "Transfer-Encoding")) {
            rv = cs_buf_append_str(out, *header);
            rv = rv ? rv : cs_buf_append(out, "\r\n", 2);
        }
    }
    return rv;
}

apr_status_t cs_head_append(cs_buf_t *out, const cs_upstream_t *upstream, const cs_transfer_request_t *request)
{
    apr_status_t rv;

    if ((rv = cs_buf_append(out, "POST ", 5)) || (rv = cs_buf_append_str(out, upstream->target))
        || (rv = cs_buf_append(out, " HTTP/1.1\r\n", 11)) || (rv = put_ours(out, request, "Host", upstream->host))
        || (rv = put_ours(out, request, "User-Agent", "mod_chatstream"))
        || (rv = put_ours(out, request, "Accept", cs_dialect_accept(upstream->dialect)))
        || (rv = put_ours(out, request, "Content-Type", "application/json"))
        || (rv = put_ours(out, request, "X-Request-Id", request->stream_id))
        || (rv = put_ours(out, request, "traceparent", request->traceparent)) || (rv = put_configured(out, request))
        || (rv = cs_buf_append(out, "Content-Length: ", 16)) || (rv = cs_buf_append_u64(out, request->body_len))) {
        return rv;
    }
    return cs_buf_append(out, "\r\n\r\n", 4);
}
