/* SPDX-License-Identifier: Apache-2.0 */
/*
 * token: the two halves of cs_token_verify. First the signature (token.c), which knows nothing of claims, so that test vectors with any
 * payload can be put to it; then what the payload says (claims.c). Any thread.
 */
#ifndef CHATSTREAM_GATE_TOKEN_H
#define CHATSTREAM_GATE_TOKEN_H

#include "chatstream/gate.h"
#include "gate/base64url.h"

#define CS_JWS_BYTES_MAX CS_BASE64URL_BYTES(CS_TOKEN_MAX)

/*
 * A compact JWS against the keys of all sets (entries may be NULL: never fetched). GOOD: `payload` holds the `*payload_len` bytes that
 * were signed; else it holds nothing of use and `*why` says why not.
 */
cs_token_e cs_jws_verify(const cs_keys_t *const *sets, unsigned count, const char *token, size_t len,
                         unsigned char payload[CS_JWS_BYTES_MAX], size_t *payload_len, const char **why);

/* 1 and `*claims`: the payload is a claims set, of now and for us. 0: `*claims` is NULL, and why. */
int cs_claims_read(const char *payload, size_t len, const cs_token_policy_t *policy, apr_time_t wall_now,
                   cs_claims_t **claims, const char **why);

#endif
