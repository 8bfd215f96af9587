/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include "gate/base64url.h"
#include "gate/keys.h"
#include "gate/strict_json.h"

#define JWKS_MAX ((size_t)1 << 20)

/* The bytes of a member; NULL: no base64url text of at most `max` bytes. free() them after cleansing what is secret. */
static unsigned char *member_bytes(json_object *jwk, const char *name, size_t max, size_t *len)
{
    const char *text = cs_strict_json_string(jwk, name);
    size_t text_len = text != NULL ? strlen(text) : 0;
    *len = CS_BASE64URL_BYTES(text_len);
    if (text == NULL || *len > max) {
        return NULL;
    }
    unsigned char *bytes = malloc(*len + 1);
    if (bytes != NULL && !cs_base64url_decode(text, text_len, bytes)) {
        OPENSSL_cleanse(bytes, *len);
        free(bytes);
        bytes = NULL;
    }
    return bytes;
}

static apr_status_t set_rsa_jwk(cs_key_t *key, json_object *jwk, const char **why)
{
    size_t n_len, e_len;
    unsigned char *n_bytes = member_bytes(jwk, "n", CS_RSA_MAX / 8 + 1, &n_len);
    unsigned char *e_bytes = member_bytes(jwk, "e", CS_RSA_MAX / 8, &e_len);
    BIGNUM *n = n_bytes != NULL ? BN_bin2bn(n_bytes, (int)n_len, NULL) : NULL;
    BIGNUM *e = e_bytes != NULL ? BN_bin2bn(e_bytes, (int)e_len, NULL) : NULL;
    apr_status_t rv = APR_EINVAL;
    if (n == NULL || e == NULL) {
        *why = "members n and e of an RSA key are missing, too long or no base64url";
    }
    else {
        rv = cs_key_set_rsa(key, n, e, why);
    }
    BN_free(n);
    BN_free(e);
    free(n_bytes);
    free(e_bytes);
    return rv;
}

static apr_status_t set_ec_jwk(cs_key_t *key, const cs_alg_t *alg, json_object *jwk, const char **why)
{
    size_t x_len, y_len;
    unsigned char *x = member_bytes(jwk, "x", alg->coordinate, &x_len);
    unsigned char *y = member_bytes(jwk, "y", alg->coordinate, &y_len);
    apr_status_t rv = APR_EINVAL;
    if (x == NULL || y == NULL || x_len != alg->coordinate || y_len != alg->coordinate) {
        *why = "members x and y of an EC key are missing, not of the curve's length or no base64url";
    }
    else {
        rv = cs_key_set_ec(key, alg, x, y, why);
    }
    free(x);
    free(y);
    return rv;
}

static apr_status_t set_oct_jwk(cs_key_t *key, json_object *jwk, const char **why)
{
    size_t len;
    unsigned char *secret = member_bytes(jwk, "k", CS_SECRET_MAX, &len);
    if (secret == NULL) {
        *why = "member k of a symmetric key is missing, too long or no base64url";
        return APR_EINVAL;
    }
    apr_status_t rv = cs_key_set_secret(key, secret, len, why);
    OPENSSL_cleanse(secret, len);
    free(secret);
    return rv;
}

static int is_kty(const cs_alg_t *alg, const char *kty, const char *curve)
{
    switch (alg->kty) {
    case CJOSE_JWK_KTY_OCT:
        return strcmp(kty, "oct") == 0;
    case CJOSE_JWK_KTY_RSA:
        return strcmp(kty, "RSA") == 0;
    default:
        return strcmp(kty, "EC") == 0 && curve != NULL && strcmp(curve, alg->curve_name) == 0;
    }
}

/* The bits of what the key verifies: its own alg when it is of this type and curve, without an alg all of those. */
static unsigned algs_of(json_object *jwk, const cs_alg_t **any)
{
    const char *kty = cs_strict_json_string(jwk, "kty");
    const char *curve = cs_strict_json_string(jwk, "crv");
    const char *alg = cs_strict_json_string(jwk, "alg");
    unsigned bits = 0;
    if (kty == NULL || (alg == NULL && json_object_object_get_ex(jwk, "alg", NULL))) {
        return 0;
    }
    for (size_t i = 0; i < CS_ALG_COUNT; i++) {
        if (is_kty(&cs_algs[i], kty, curve) && (alg == NULL || strcmp(alg, cs_algs[i].name) == 0)) {
            bits |= cs_alg_bit(&cs_algs[i]);
            *any = &cs_algs[i];
        }
    }
    return bits;
}

/* RFC 7517 sections 4.2 and 4.3: what is said must allow it, what is not said does. */
static int is_for_verifying(json_object *jwk)
{
    json_object *ops;
    const char *use = cs_strict_json_string(jwk, "use");
    if (json_object_object_get_ex(jwk, "use", NULL) && (use == NULL || strcmp(use, "sig") != 0)) {
        return 0;
    }
    if (!json_object_object_get_ex(jwk, "key_ops", &ops)) {
        return 1;
    }
    int found = 0;
    if (json_object_is_type(ops, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(ops); i++) {
            json_object *op = json_object_array_get_idx(ops, i);
            found |= json_object_is_type(op, json_type_string) && strcmp(json_object_get_string(op), "verify") == 0;
        }
    }
    return found;
}

/* Only what is public is taken of a private key. APR_EINVAL: not a key for us, and why. */
static apr_status_t set_from_jwk(cs_key_t *key, json_object *jwk, const char **why)
{
    const cs_alg_t *alg = NULL;
    const char *kid = NULL;
    apr_status_t rv;
    if (!json_object_is_type(jwk, json_type_object)) {
        *why = "a key is no object";
        return APR_EINVAL;
    }
    if (!is_for_verifying(jwk)) {
        *why = "the key's use or key_ops is not verifying";
        return APR_EINVAL;
    }
    key->algs = algs_of(jwk, &alg);
    if (key->algs == 0) {
        *why = "the key's kty, crv and alg are none that are supported together";
        return APR_EINVAL;
    }
    if (json_object_object_get_ex(jwk, "kid", NULL)) {
        kid = cs_strict_json_string(jwk, "kid");
        if (kid == NULL) {
            *why = "the key's kid is no string";
            return APR_EINVAL;
        }
        if ((key->kid = strdup(kid)) == NULL) {
            return APR_ENOMEM;
        }
    }
    switch (alg->kty) {
    case CJOSE_JWK_KTY_OCT:
        rv = set_oct_jwk(key, jwk, why);
        break;
    case CJOSE_JWK_KTY_RSA:
        rv = set_rsa_jwk(key, jwk, why);
        break;
    default:
        rv = set_ec_jwk(key, alg, jwk, why);
        break;
    }
    return rv;
}

/*
 * What makes a set ambiguous as a whole. Every key that is meant for us counts, also one that turns out to be weak or broken; one for
 * encryption does not, and may share a kid with one that signs. NULL: nothing.
 */
static const char *judge_set(json_object *array)
{
    const char *kids[CS_KEYS_MAX];
    unsigned count = 0, secrets = 0;
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        json_object *jwk = json_object_array_get_idx(array, i);
        const cs_alg_t *alg = NULL;
        if (!json_object_is_type(jwk, json_type_object) || !is_for_verifying(jwk) || algs_of(jwk, &alg) == 0) {
            continue;
        }
        if (count == CS_KEYS_MAX) {
            return "the set has more than 64 keys for verifying";
        }
        kids[count] = cs_strict_json_string(jwk, "kid");
        for (unsigned k = 0; k < count && kids[count] != NULL; k++) {
            if (kids[k] != NULL && strcmp(kids[k], kids[count]) == 0) {
                return "two keys of the set have the same kid";
            }
        }
        count++;
        secrets += alg->kty == CJOSE_JWK_KTY_OCT;
    }
    return secrets > 0 && secrets < count ? "the set mixes symmetric and public keys" : NULL;
}

/* A key that is weak or strange is left out and not an end to the others: the set is another party's, and it is live. */
static apr_status_t set_from_array(cs_keys_t *keys, json_object *array, const char **why)
{
    *why = judge_set(array);
    if (*why != NULL) {
        return APR_EINVAL;
    }
    *why = "the set is empty";
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        cs_key_t key = {NULL, NULL, 0, 0};
        apr_status_t rv = set_from_jwk(&key, json_object_array_get_idx(array, i), why);
        if (rv == APR_SUCCESS) {
            keys->key[keys->count++] = key; /* judge_set has counted: there is room */
            continue;
        }
        cs_key_clear(&key);
        if (rv != APR_EINVAL) {
            return rv;
        }
    }
    return keys->count > 0 ? APR_SUCCESS : APR_EINVAL;
}

apr_status_t cs_keys_from_jwks(cs_keys_t **out, const char *json, size_t len, char *error, size_t size)
{
    json_object *array;
    const char *why = NULL;
    *out = NULL;
    if (len > JWKS_MAX) {
        return cs_keys_fail(APR_EINVAL, "the key set is longer than 1 MiB", error, size);
    }
    json_object *set = cs_strict_json_object(json, len);
    if (set == NULL || !json_object_object_get_ex(set, "keys", &array)
        || !json_object_is_type(array, json_type_array)) {
        json_object_put(set);
        return cs_keys_fail(APR_EINVAL, "this is no JWK Set: a JSON object, no member twice, with an array keys", error,
                            size);
    }
    apr_status_t rv = APR_ENOMEM;
    cs_keys_t *keys = calloc(1, sizeof(*keys));
    if (keys != NULL) {
        ERR_set_mark(); /* as in cs_keys_from_file */
        rv = set_from_array(keys, array, &why);
        ERR_pop_to_mark();
    }
    json_object_put(set);
    if (rv != APR_SUCCESS) {
        cs_keys_destroy(keys);
        return cs_keys_fail(rv, why, error, size);
    }
    *out = keys;
    return APR_SUCCESS;
}
