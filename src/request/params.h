/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client asks: the same names from the query string, a JSON object or a form. Everything is checked here: UTF-8, lengths,
 * roles. Strings live as long as the request; absent ones are NULL.
 */
#ifndef CS_REQUEST_PARAMS_H
#define CS_REQUEST_PARAMS_H

#include <httpd.h>

#include "chatstream/core.h"

typedef struct {
    const char *message; /* `message`, else `query` */
    const char *query;   /* as it came */
    const char *history; /* JSON text of the checked array */
    const char *user_email;
    const char *user_role;
    const char *conversation_id;
    const char *token;      /* of the body, else of the query string */
    const char *body_token; /* of the body */
    const char *last_event_id;
    const char *stream_id;
} cs_params_t;

/* Reads the request's body, if it has one. `result->status` is 0 when all is well. */
void cs_params_read(request_rec *r, apr_int64_t max_message, cs_params_t *params, cs_result_t *result);
/* The parameter `token` of the query string alone, before anything else is read; NULL: none, or not readable. */
const char *cs_params_query_token(request_rec *r);

#endif
