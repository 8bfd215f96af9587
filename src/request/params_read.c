/* SPDX-License-Identifier: Apache-2.0 */
#include "params_read.h"

#include <string.h>

#include <apr_lib.h>
#include <http_protocol.h>

#include "body.h"

static int is_type(const char *header, const char *type)
{
    size_t len = strlen(type);

    return header && !strncasecmp(header, type, len)
           && (!header[len] || header[len] == ';' || apr_isspace(header[len]));
}

static size_t query_len(request_rec *r)
{
    return r->args ? strlen(r->args) : 0;
}

void cs_params_read(request_rec *r, apr_int64_t max_message, cs_params_t *params, cs_result_t *result)
{
    const char *type = apr_table_get(r->headers_in, "Content-Type");
    char *body = NULL;
    size_t len = 0;

    memset(params, 0, sizeof(*params));
    memset(result, 0, sizeof(*result));
    cs_body_read(r, (size_t)max_message * 4 + 1024 * 1024, &body, &len, result);
    /* The body comes first, so it wins over the query string. */
    if (!result->status && len) {
        if (is_type(type, "application/json")) {
            cs_params_add_json(r->pool, body, len, params, result);
        }
        else if (is_type(type, "application/x-www-form-urlencoded")) {
            cs_params_add_pairs(r->pool, body, strlen(body), params, result); /* a form ends at a NUL */
        }
        else {
            *result = (cs_result_t){HTTP_UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type",
                                    "The body must be application/json or application/x-www-form-urlencoded.", 0, NULL};
        }
    }
    params->body_token = params->token;
    cs_params_add_pairs(r->pool, r->args, query_len(r), params, result);
    cs_params_finish(r->pool, params, result);
}

const char *cs_params_query_token(request_rec *r)
{
    return cs_params_token_in(r->pool, r->args, query_len(r));
}
