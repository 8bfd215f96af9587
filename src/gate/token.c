/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <json-c/json.h>
#include <openssl/err.h>

#include "gate/keys.h"
#include "gate/strict_json.h"
#include "gate/token.h"

typedef struct {
    const char *text;
    size_t len;
} part_t;

typedef struct {
    part_t header;
    part_t payload;
    part_t signature;
} parts_t;

typedef struct {
    json_object *json;
    const cs_alg_t *alg;
    const char *kid; /* NULL: none */
} header_t;

/* ---- what the token is ------------------------------------------------------------------------------------------- */

/*
 * Exactly three parts, strict base64url: after this nothing that cjose would forgive is left (it stops at padding) and nothing that
 * its assertions forbid. An empty payload is a matter of the claims.
 */
static int split(const char *token, size_t len, parts_t *parts)
{
    const char *end = token + len;
    const char *first = memchr(token, '.', len);
    const char *second = first != NULL ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;
    if (second == NULL) {
        return 0;
    }
    parts->header = (part_t){token, (size_t)(first - token)};
    parts->payload = (part_t){first + 1, (size_t)(second - first - 1)};
    parts->signature = (part_t){second + 1, (size_t)(end - second - 1)};
    return parts->header.len > 0 && cs_base64url_decode(parts->signature.text, parts->signature.len, NULL);
}

/* Keys that the token brings itself (jwk, jku, x5c, x5u) are never looked at. NULL, or why the header is refused. */
static const char *read_header(header_t *header, const unsigned char *bytes, size_t len)
{
    json_object *b64;
    header->json = cs_strict_json_object((const char *)bytes, len);
    if (header->json == NULL) {
        return "The token header is not a JSON object.";
    }
    /* We understand no extension, so each that must be understood is one too many (RFC 7515 section 4.1.11). */
    if (json_object_object_get_ex(header->json, "crit", NULL)) {
        return "The token needs an extension that is not supported.";
    }
    if (json_object_object_get_ex(header->json, "b64", &b64)
        && (!json_object_is_type(b64, json_type_boolean) || !json_object_get_boolean(b64))) {
        return "The token payload is not encoded.";
    }
    const char *alg = cs_strict_json_string(header->json, "alg");
    header->alg = alg != NULL ? cs_alg_find(alg) : NULL;
    if (header->alg == NULL) {
        return "The token algorithm is not accepted.";
    }
    header->kid = cs_strict_json_string(header->json, "kid");
    if (header->kid == NULL && json_object_object_get_ex(header->json, "kid", NULL)) {
        return "The token header has a key id that is not a string.";
    }
    return NULL;
}

/* ---- which keys -------------------------------------------------------------------------------------------------- */

/*
 * A token with a kid is only for the key of that name; without, for each of the algorithm. A key from a file has no name: who
 * configured it meant it, whatever its issuer calls it, so it is tried whenever the algorithm is its own.
 */
static int is_candidate(const cs_keys_t *set, const cs_key_t *key, const header_t *header)
{
    if (!cs_key_verifies(key, header->alg)) {
        return 0;
    }
    return set->any_kid || header->kid == NULL || (key->kid != NULL && strcmp(key->kid, header->kid) == 0);
}

/*
 * Could a newer set have the key? When one was never fetched, or the token names a key that no fetched set has. Sets from files do
 * not get newer.
 */
static int is_key_unknown(const cs_keys_t *const *sets, unsigned count, const header_t *header)
{
    int files = 0;
    for (unsigned s = 0; s < count; s++) {
        const cs_keys_t *set = sets[s];
        if (set == NULL) {
            return 1;
        }
        files += set->any_kid;
        for (unsigned k = 0; header->kid != NULL && k < set->count; k++) {
            if (set->key[k].kid != NULL && strcmp(set->key[k].kid, header->kid) == 0) {
                return 0;
            }
        }
    }
    return count == 0 || (header->kid != NULL && files < (int)count);
}

/* ---- the signature ----------------------------------------------------------------------------------------------- */

typedef struct {
    const char *token;
    size_t len;
    cjose_jws_t *jws; /* NULL until a key needs it */
} cjose_t;

/*
 * cjose hashes and compares; MACs in constant time (its cjose_const_memcmp goes through all bytes), though it reads as many of them as
 * the hash has before it looks how many came: the caller has made sure of the length.
 */
static int verify_with(cjose_t *cjose, const cs_key_t *key, const cs_alg_t *alg)
{
    if (cjose->jws == NULL) {
        cjose->jws = cjose_jws_import(cjose->token, cjose->len, NULL);
        if (cjose->jws == NULL) {
            return 0;
        }
    }
    /* Its JSON parser and ours must have read the same algorithm: it goes by what the token says, we by the key. */
    const char *seen = cjose_header_get(cjose_jws_get_protected(cjose->jws), CJOSE_HDR_ALG, NULL);
    return seen != NULL && strcmp(seen, alg->name) == 0 && cjose_jws_verify(cjose->jws, key->jwk, NULL);
}

static int verify_with_any(const cs_keys_t *const *sets, unsigned count, const char *token, size_t len,
                           const header_t *header, size_t signature_len)
{
    cjose_t cjose = {token, len, NULL};
    int good = 0;
    /* A signature that is wrong leaves notes with OpenSSL that mod_ssl would take for its own on the next read. */
    ERR_set_mark();
    for (unsigned s = 0; s < count; s++) {
        for (unsigned k = 0; sets[s] != NULL && k < sets[s]->count && !good; k++) {
            const cs_key_t *key = &sets[s]->key[k];
            good = is_candidate(sets[s], key, header) && cs_key_signature_len(key, header->alg) == signature_len
                   && verify_with(&cjose, key, header->alg);
        }
    }
    ERR_pop_to_mark();
    cjose_jws_release(cjose.jws);
    return good;
}

cs_token_e cs_jws_verify(const cs_keys_t *const *sets, unsigned count, const char *token, size_t len,
                         unsigned char payload[CS_JWS_BYTES_MAX], size_t *payload_len, const char **why)
{
    parts_t parts;
    header_t header = {NULL, NULL, NULL};
    cs_token_e result = CS_TOKEN_BAD;
    if (len > CS_TOKEN_MAX) {
        *why = "The token is too long.";
        return CS_TOKEN_BAD;
    }
    /* The header passes through the payload's room; its parsed form keeps nothing there. */
    if (!split(token, len, &parts) || !cs_base64url_decode(parts.header.text, parts.header.len, payload)) {
        *why = "The token is not a JWT in compact form.";
        return CS_TOKEN_BAD;
    }
    *why = read_header(&header, payload, CS_BASE64URL_BYTES(parts.header.len));
    if (*why == NULL && !cs_base64url_decode(parts.payload.text, parts.payload.len, payload)) {
        *why = "The token is not a JWT in compact form.";
    }
    if (*why == NULL) {
        *payload_len = CS_BASE64URL_BYTES(parts.payload.len);
        if (verify_with_any(sets, count, token, len, &header, CS_BASE64URL_BYTES(parts.signature.len))) {
            result = CS_TOKEN_GOOD;
        }
        else if (is_key_unknown(sets, count, &header)) {
            *why = "The token was signed with an unknown key.";
            result = CS_TOKEN_UNKNOWN_KEY;
        }
        else {
            *why = "The token signature is not valid.";
        }
    }
    json_object_put(header.json);
    return result;
}

cs_token_e cs_token_verify(const cs_keys_t *const *sets, unsigned count, const char *token, size_t len,
                           const cs_token_policy_t *policy, apr_time_t wall_now, cs_claims_t **claims, const char **why)
{
    unsigned char payload[CS_JWS_BYTES_MAX];
    size_t payload_len;
    *claims = NULL;
    cs_token_e result = cs_jws_verify(sets, count, token, len, payload, &payload_len, why);
    if (result == CS_TOKEN_GOOD && !cs_claims_read((const char *)payload, payload_len, policy, wall_now, claims, why)) {
        result = CS_TOKEN_BAD;
    }
    return result;
}
