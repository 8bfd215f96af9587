/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "gate/keys.h"

#define FILE_MAX  65536
#define RSA_MIN   2048
#define RSA_E_MAX 64 /* bits; a longer one costs too much time, as a longer modulus does */
#define NO_CURVE  CJOSE_JWK_EC_INVALID, NULL, NULL, 0

/* ---- algorithms -------------------------------------------------------------------------------------------------- */

const cs_alg_t cs_algs[CS_ALG_COUNT] = {
    {"HS256", CJOSE_JWK_KTY_OCT, 32, NO_CURVE},
    {"HS384", CJOSE_JWK_KTY_OCT, 48, NO_CURVE},
    {"HS512", CJOSE_JWK_KTY_OCT, 64, NO_CURVE},
    {"RS256", CJOSE_JWK_KTY_RSA, 32, NO_CURVE},
    {"RS384", CJOSE_JWK_KTY_RSA, 48, NO_CURVE},
    {"RS512", CJOSE_JWK_KTY_RSA, 64, NO_CURVE},
    {"PS256", CJOSE_JWK_KTY_RSA, 32, NO_CURVE},
    {"PS384", CJOSE_JWK_KTY_RSA, 48, NO_CURVE},
    {"PS512", CJOSE_JWK_KTY_RSA, 64, NO_CURVE},
    {"ES256", CJOSE_JWK_KTY_EC, 32, CJOSE_JWK_EC_P_256, "P-256", "prime256v1", 32},
    {"ES384", CJOSE_JWK_KTY_EC, 48, CJOSE_JWK_EC_P_384, "P-384", "secp384r1", 48},
    {"ES512", CJOSE_JWK_KTY_EC, 64, CJOSE_JWK_EC_P_521, "P-521", "secp521r1", 66},
};

const char *cs_keys_algorithms(void)
{
    return "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512";
}

const cs_alg_t *cs_alg_find(const char *name)
{
    for (size_t i = 0; i < CS_ALG_COUNT; i++) {
        if (strcmp(cs_algs[i].name, name) == 0) {
            return &cs_algs[i];
        }
    }
    return NULL;
}

unsigned cs_alg_bit(const cs_alg_t *alg)
{
    return 1U << (alg - cs_algs);
}

int cs_key_verifies(const cs_key_t *key, const cs_alg_t *alg)
{
    return (key->algs & cs_alg_bit(alg)) != 0;
}

size_t cs_key_signature_len(const cs_key_t *key, const cs_alg_t *alg)
{
    switch (alg->kty) {
    case CJOSE_JWK_KTY_OCT:
        return alg->hash;
    case CJOSE_JWK_KTY_EC:
        return 2 * (size_t)alg->coordinate;
    default:
        return key->bytes;
    }
}

/* ---- one key. `why`: what is wrong with it, static text ---------------------------------------------------------- */

/*
 * ROCA (CVE-2017-15361): the primes of those keys, and so the modulus, are powers of 65537 modulo every small prime. The 38 odd primes
 * up to 167 are part of it for every key length; an honest modulus looks like this once in 2^27.
 */
static int is_roca(const BIGNUM *n)
{
    static const unsigned char primes[] = {3,   5,   7,   11,  13,  17,  19,  23,  29,  31,  37,  41,  43,
                                           47,  53,  59,  61,  67,  71,  73,  79,  83,  89,  97,  101, 103,
                                           107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167};
    for (size_t i = 0; i < sizeof(primes) / sizeof(primes[0]); i++) {
        BN_ULONG residue = BN_mod_word(n, primes[i]);
        BN_ULONG power = 1;
        do {
            power = power * 65537 % primes[i];
        } while (power != residue && power != 1);
        if (power != residue) {
            return 0;
        }
    }
    return 1;
}

static const char *judge_rsa(const BIGNUM *n, const BIGNUM *e)
{
    if (BN_num_bits(n) < RSA_MIN) {
        return "the RSA key is shorter than 2048 bits";
    }
    if (BN_num_bits(n) > CS_RSA_MAX) {
        return "the RSA key is longer than 8192 bits";
    }
    if (!BN_is_odd(n)) {
        return "the RSA modulus is even";
    }
    if (!BN_is_odd(e) || BN_is_one(e) || BN_num_bits(e) > RSA_E_MAX) {
        return "the RSA exponent is not an odd number from 3 up to 64 bits";
    }
    if (is_roca(n)) {
        return "the RSA key was made by a chip with the ROCA flaw (CVE-2017-15361)";
    }
    return NULL;
}

apr_status_t cs_key_set_rsa(cs_key_t *key, const BIGNUM *n, const BIGNUM *e, const char **why)
{
    unsigned char n_bytes[CS_RSA_MAX / 8];
    unsigned char e_bytes[RSA_E_MAX / 8];
    if ((*why = judge_rsa(n, e)) != NULL) {
        return APR_EINVAL;
    }
    cjose_jwk_rsa_keyspec spec = {.n = n_bytes, .e = e_bytes};
    spec.nlen = (size_t)BN_bn2bin(n, n_bytes);
    spec.elen = (size_t)BN_bn2bin(e, e_bytes);
    key->bytes = (unsigned)spec.nlen;
    key->jwk = cjose_jwk_create_RSA_spec(&spec, NULL);
    return key->jwk != NULL ? APR_SUCCESS : APR_ENOMEM;
}

apr_status_t cs_key_set_ec(cs_key_t *key, const cs_alg_t *alg, unsigned char *x, unsigned char *y, const char **why)
{
    cjose_jwk_ec_keyspec spec = {alg->curve, NULL, 0, x, alg->coordinate, y, alg->coordinate};
    key->bytes = alg->coordinate;
    /* OpenSSL sets no point that is not on the curve; with these curves' cofactor of 1 every other is of the right order. */
    key->jwk = cjose_jwk_create_EC_spec(&spec, NULL);
    if (key->jwk == NULL) {
        *why = "the point is not on the curve";
        return APR_EINVAL;
    }
    return APR_SUCCESS;
}

static int holds(const unsigned char *bytes, size_t len, const char *text)
{
    size_t size = strlen(text);
    for (size_t i = 0; i + size <= len; i++) {
        if (memcmp(bytes + i, text, size) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Public text taken for a secret: everybody who has it could sign. */
static int looks_public(const unsigned char *secret, size_t len)
{
    return holds(secret, len, "-----BEGIN ") || holds(secret, len, "\"kty\"") || holds(secret, len, "ssh-rsa ")
           || holds(secret, len, "ssh-ed25519 ") || holds(secret, len, "ecdsa-sha2-");
}

apr_status_t cs_key_set_secret(cs_key_t *key, const unsigned char *secret, size_t len, const char **why)
{
    if (looks_public(secret, len)) {
        *why = "the secret is the text of a key, certificate or JWK, which others may know";
        return APR_EINVAL;
    }
    if (len > CS_SECRET_MAX) {
        *why = "the secret is longer than 4096 bytes";
        return APR_EINVAL;
    }
    for (size_t i = 0; i < CS_ALG_COUNT; i++) {
        if (cs_algs[i].kty == CJOSE_JWK_KTY_OCT && len < cs_algs[i].hash) {
            key->algs &= ~cs_alg_bit(&cs_algs[i]);
        }
    }
    if (key->algs == 0) {
        *why = "the secret is shorter than the algorithm's hash (32, 48 or 64 bytes)";
        return APR_EINVAL;
    }
    key->bytes = (unsigned)len;
    key->jwk = cjose_jwk_create_oct_spec(secret, len, NULL);
    return key->jwk != NULL ? APR_SUCCESS : APR_ENOMEM;
}

void cs_key_clear(cs_key_t *key)
{
    if (key->jwk != NULL && cjose_jwk_get_kty(key->jwk, NULL) == CJOSE_JWK_KTY_OCT) {
        OPENSSL_cleanse(cjose_jwk_get_keydata(key->jwk, NULL), key->bytes);
    }
    cjose_jwk_release(key->jwk);
    free(key->kid);
    memset(key, 0, sizeof(*key));
}

/* ---- a key from a file ------------------------------------------------------------------------------------------- */

/* The public key of the first block; a certificate only carries it here, nobody asks who signed it or until when it is good. */
static EVP_PKEY *read_pem(const char *bytes, size_t len, const char **why)
{
    EVP_PKEY *pkey = NULL;
    char *name = NULL;
    char *header = NULL;
    unsigned char *der = NULL;
    long der_len = 0;
    BIO *bio = BIO_new_mem_buf(bytes, (int)len);
    *why = "the file holds no PEM public key or certificate";
    if (bio == NULL || PEM_read_bio(bio, &name, &header, &der, &der_len) != 1) {
        goto cleanup;
    }
    const unsigned char *at = der;
    if (strcmp(name, PEM_STRING_PUBLIC) == 0) {
        pkey = d2i_PUBKEY(NULL, &at, der_len);
    }
    else if (strcmp(name, PEM_STRING_RSA_PUBLIC) == 0) {
        pkey = d2i_PublicKey(EVP_PKEY_RSA, NULL, &at, der_len);
    }
    else if (strcmp(name, PEM_STRING_X509) == 0) {
        X509 *certificate = d2i_X509(NULL, &at, der_len);
        pkey = certificate != NULL ? X509_get_pubkey(certificate) : NULL;
        X509_free(certificate);
    }
    else if (strstr(name, "PRIVATE KEY") != NULL) {
        *why = "the file holds a private key; verifying takes the public one";
    }
cleanup:
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_clear_free(der, der_len > 0 ? (size_t)der_len : 0);
    BIO_free(bio);
    return pkey;
}

static apr_status_t set_rsa_pkey(cs_key_t *key, EVP_PKEY *pkey, const char **why)
{
    BIGNUM *n = NULL;
    BIGNUM *e = NULL;
    apr_status_t rv = APR_EINVAL;
    if (!EVP_PKEY_is_a(pkey, "RSA") || !EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_RSA_N, &n)
        || !EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_RSA_E, &e)) {
        *why = "this is no RSA key (of the general kind, not RSASSA-PSS)";
    }
    else {
        rv = cs_key_set_rsa(key, n, e, why);
    }
    BN_free(n);
    BN_free(e);
    return rv;
}

static apr_status_t set_ec_pkey(cs_key_t *key, const cs_alg_t *alg, EVP_PKEY *pkey, const char **why)
{
    BIGNUM *x = NULL;
    BIGNUM *y = NULL;
    char group[64];
    unsigned char x_bytes[66], y_bytes[66];
    apr_status_t rv = APR_EINVAL;
    *why = "this is no EC key on the curve of the algorithm";
    if (EVP_PKEY_is_a(pkey, "EC")
        && EVP_PKEY_get_utf8_string_param(pkey, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), NULL)
        && strcmp(group, alg->group) == 0 && EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_EC_PUB_X, &x)
        && EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_EC_PUB_Y, &y)
        && BN_bn2binpad(x, x_bytes, (int)alg->coordinate) > 0 && BN_bn2binpad(y, y_bytes, (int)alg->coordinate) > 0) {
        rv = cs_key_set_ec(key, alg, x_bytes, y_bytes, why);
    }
    BN_free(x);
    BN_free(y);
    return rv;
}

static apr_status_t set_from_file(cs_key_t *key, const cs_alg_t *alg, const char *bytes, size_t len, const char **why)
{
    if (len > FILE_MAX) {
        *why = "the file is longer than 65536 bytes";
        return APR_EINVAL;
    }
    key->algs = cs_alg_bit(alg);
    if (alg->kty == CJOSE_JWK_KTY_OCT) {
        if (len > 0 && bytes[len - 1] == '\n') {
            len--;
            len -= len > 0 && bytes[len - 1] == '\r';
        }
        return cs_key_set_secret(key, (const unsigned char *)bytes, len, why);
    }
    EVP_PKEY *pkey = read_pem(bytes, len, why);
    if (pkey == NULL) {
        return APR_EINVAL;
    }
    apr_status_t rv = alg->kty == CJOSE_JWK_KTY_RSA ? set_rsa_pkey(key, pkey, why) : set_ec_pkey(key, alg, pkey, why);
    EVP_PKEY_free(pkey);
    return rv;
}

apr_status_t cs_keys_fail(apr_status_t rv, const char *why, char *error, size_t size)
{
    snprintf(error, size, "%s", rv == APR_ENOMEM || why == NULL ? "there is no memory" : why);
    return rv;
}

apr_status_t cs_keys_from_file(cs_keys_t **out, const char *alg_name, const char *bytes, size_t len, char *error,
                               size_t size)
{
    const char *why = NULL;
    const cs_alg_t *alg = cs_alg_find(alg_name);
    *out = NULL;
    if (strcmp(alg_name, "EdDSA") == 0) {
        return cs_keys_fail(APR_EINVAL, "EdDSA is not supported: cjose, which verifies tokens here, does not know it",
                            error, size);
    }
    if (alg == NULL) {
        snprintf(error, size, "the algorithm is none of %s", cs_keys_algorithms());
        return APR_EINVAL;
    }
    cs_keys_t *keys = calloc(1, sizeof(*keys));
    if (keys == NULL) {
        return cs_keys_fail(APR_ENOMEM, NULL, error, size);
    }
    keys->any_kid = 1;
    keys->count = 1;
    /* Whatever OpenSSL notes about a bad key must not be found by mod_ssl, which asks the same thread's queue. */
    ERR_set_mark();
    apr_status_t rv = set_from_file(&keys->key[0], alg, bytes, len, &why);
    ERR_pop_to_mark();
    if (rv != APR_SUCCESS) {
        cs_keys_destroy(keys);
        return cs_keys_fail(rv, why, error, size);
    }
    *out = keys;
    return APR_SUCCESS;
}

/* ---- sets -------------------------------------------------------------------------------------------------------- */

unsigned cs_keys_count(const cs_keys_t *keys)
{
    return keys->count;
}

void cs_keys_destroy(cs_keys_t *keys)
{
    for (unsigned i = 0; keys != NULL && i < keys->count; i++) {
        cs_key_clear(&keys->key[i]);
    }
    free(keys);
}
