/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who asks, found out once per request. Early, from headers and query string, so that httpd's own access control and logs can use it: r->user,
 * CHATSTREAM_CLAIM_<NAME>; and once more by the handlers, when a body has brought a token.
 */
#ifndef CS_REQUEST_IDENTITY_H
#define CS_REQUEST_IDENTITY_H

#include <httpd.h>

#include "chatstream/config.h"
#include "chatstream/gate.h"

/* `body_token`: NULL when there is none, or the body is not read yet. Lives as long as the request. */
const cs_identity_t *cs_identity_of(request_rec *r, const cs_dir_config_t *conf, const char *body_token);
/* NULL: the user is not whom a token names. One of another user may have come along (AuthType Basic, and a token as parameter). */
static inline cs_claims_t *cs_identity_claims(const cs_identity_t *identity)
{
    return identity->who == CS_WHO_TOKEN ? identity->claims : NULL;
}
/* Whose streams: as one key for the slot table. An address can never be somebody's name. */
const char *cs_identity_key(request_rec *r, const cs_identity_t *identity);
/* Sets WWW-Authenticate, when the refusal calls for it. */
void cs_identity_challenge(request_rec *r, const cs_identity_t *identity);

#endif
