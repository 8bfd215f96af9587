/* SPDX-License-Identifier: Apache-2.0 */
/* params_read: params.h for a request of the server. Request thread; strings live as long as the request. */
#ifndef CS_REQUEST_PARAMS_READ_H
#define CS_REQUEST_PARAMS_READ_H

#include <httpd.h>

#include "params.h"

/* Reads the request's body, if it has one. `result->status` is 0 when all is well. */
void cs_params_read(request_rec *r, apr_int64_t max_message, cs_params_t *params, cs_result_t *result);
/* The parameter `token` of the query string alone, before anything else is read; NULL: none, or not readable. */
const char *cs_params_query_token(request_rec *r);

#endif
