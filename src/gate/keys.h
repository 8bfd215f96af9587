/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys: what gate's other files know of a key set; jwk_set.c makes one of JSON. A key says which algorithms it verifies, never the token: that is what keeps
 * an RSA key's public text from being used as an HMAC secret (RFC 8725 section 3.1).
 *
 * A set is made whole and then only read. cjose reads a key while it verifies, and OpenSSL guards what it computes lazily (the Montgomery
 * form of a modulus) with a lock of its own, so any number of threads may use one key; only cjose_jwk_retain and _release count
 * without a lock, and nobody calls them but make and destroy.
 */
#ifndef CHATSTREAM_GATE_KEYS_H
#define CHATSTREAM_GATE_KEYS_H

#include <cjose/cjose.h>
#include <openssl/bn.h>

#include "chatstream/gate.h"

#define CS_RSA_MAX    8192 /* bits; a larger one costs more time than a request may */
#define CS_SECRET_MAX 4096
#define CS_ALG_COUNT  12
#define CS_KEYS_MAX   64 /* keys of a set: a token without a kid is tried with each */

typedef struct {
    const char *name;
    cjose_jwk_kty_t kty;
    unsigned hash;            /* bytes; an HMAC secret is no shorter */
    cjose_jwk_ec_curve curve; /* of ES* only */
    const char *curve_name;   /* in a JWK */
    const char *group;        /* OpenSSL's name for it */
    unsigned coordinate;      /* bytes of x, y, r and s */
} cs_alg_t;

extern const cs_alg_t cs_algs[CS_ALG_COUNT];
unsigned cs_alg_bit(const cs_alg_t *alg);
/* NULL: none that we take. */
const cs_alg_t *cs_alg_find(const char *name);

typedef struct {
    cjose_jwk_t *jwk;
    char *kid;      /* NULL: has none */
    unsigned algs;  /* a bit for each that it verifies, see cs_key_verifies */
    unsigned bytes; /* of the modulus, of a coordinate, of the secret */
} cs_key_t;

struct cs_keys_t {
    unsigned refs;  /* jwks.c's, under its lock */
    int any_kid;    /* from a file: the key has no name, so the token's kid says nothing about it */
    unsigned count; /* 1 to CS_KEYS_MAX */
    cs_key_t key[CS_KEYS_MAX];
};

int cs_key_verifies(const cs_key_t *key, const cs_alg_t *alg);
/* Bytes of every signature that `key` can verify with `alg`: there is just one right length. */
size_t cs_key_signature_len(const cs_key_t *key, const cs_alg_t *alg);

/*
 * Judge what a key is made of and make it. APR_EINVAL: `*why` is static text that holds nothing of the key. `x` and `y` have the
 * coordinate's bytes; of a secret that is too short for some of the key's algs those are taken away.
 */
apr_status_t cs_key_set_rsa(cs_key_t *key, const BIGNUM *n, const BIGNUM *e, const char **why);
apr_status_t cs_key_set_ec(cs_key_t *key, const cs_alg_t *alg, unsigned char *x, unsigned char *y, const char **why);
apr_status_t cs_key_set_secret(cs_key_t *key, const unsigned char *secret, size_t len, const char **why);
void cs_key_clear(cs_key_t *key);
/* Writes the line that says why, and returns `rv`. */
apr_status_t cs_keys_fail(apr_status_t rv, const char *why, char *error, size_t size);

#endif
