/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client asks: the same names from the query string, a JSON object or a form. Everything is checked here: UTF-8, lengths,
 * roles. Bytes in, strings out: no server is needed, so unit tests and fuzzers link this alone; params_read.h is for a request.
 * Any thread.
 *
 *     cs_params_t params = {0};
 *     cs_result_t result = {0};
 *     cs_params_add_json(pool, body, body_len, &params, &result);
 *     cs_params_add_pairs(pool, query, query_len, &params, &result);
 *     cs_params_finish(pool, &params, &result);
 *     if (result.status) { ... refuse ... }
 *
 * What was added first wins. Strings live in `pool`, absent ones are NULL. `result->status` stays 0 when all is well; once it is
 * set, the functions do nothing more.
 */
#ifndef CS_REQUEST_PARAMS_H
#define CS_REQUEST_PARAMS_H

#include <apr_pools.h>

#include "chatstream/core.h"

#define CS_PARAMS_EMAIL_MAX   320  /* bytes */
#define CS_PARAMS_NAME_MAX    128  /* bytes; roles and ids */
#define CS_PARAMS_PAIRS_MAX   256  /* in a query string or form, known or not */
#define CS_PARAMS_HISTORY_MAX 1000 /* entries */
#define CS_PARAMS_DEPTH_MAX   32   /* of JSON, in the body or as a string */

typedef struct {
    const char *message; /* `message`, else `query` */
    const char *query;   /* as it came */
    const char *history; /* JSON text of the checked array */
    const char *user_email;
    const char *user_role;
    const char *conversation_id;
    const char *token;      /* of the body, else of the query string */
    const char *body_token; /* of the body; set by cs_params_read */
    const char *last_event_id;
    const char *stream_id;
} cs_params_t;

/* name=value&name=value, percent-encoded: a query string or a form. `text` may be NULL when `len` is 0. */
void cs_params_add_pairs(apr_pool_t *pool, const char *text, size_t len, cs_params_t *params, cs_result_t *result);
/* A JSON object. */
void cs_params_add_json(apr_pool_t *pool, const char *text, size_t len, cs_params_t *params, cs_result_t *result);
/* When all sources are in: writes the history anew. */
void cs_params_finish(apr_pool_t *pool, cs_params_t *params, cs_result_t *result);

/* The history as the upstream gets it: JSON for sure, and only known roles. NULL and `result` set: it is none. */
const char *cs_params_history(apr_pool_t *pool, const char *text, size_t len, cs_result_t *result);

/*
 * The parameter `token` alone, before anything else is read; NULL: none, empty, or not readable. `text` as for
 * cs_params_add_pairs.
 */
const char *cs_params_token_in(apr_pool_t *pool, const char *text, size_t len);

#endif
