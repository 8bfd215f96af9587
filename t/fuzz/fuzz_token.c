/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_token: the first byte says what the rest is: a token; a header, a line end and a payload, which are signed here, so that what lies
 * behind the signature is reached; a JWK Set; a key file, for an algorithm that the upper bits choose.
 */
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "gate/keys.h"
#include "gate/strict_json.h"
#include "gate/token.h"
#include "fuzz.h"

#define NOW apr_time_from_sec(1700000000)

static const char SECRET[] = "0123456789abcdef0123456789abcdef";
static const char SET[] = "{\"keys\":["
                          "{\"kty\":\"EC\",\"crv\":\"P-256\",\"alg\":\"ES256\",\"kid\":\"kid-ec-sign\","
                          "\"x\":\"04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY\","
                          "\"y\":\"UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw\"}]}";
static const cs_keys_t *sets[2];

static void check_error(const char *error)
{
    size_t len = strlen(error);
    FUZZ_CHECK(len > 0);
    for (size_t i = 0; i < len; i++) {
        FUZZ_CHECK(error[i] >= 0x20 && error[i] < 0x7f);
    }
}

static void make_sets(void)
{
    cs_keys_t *made;
    char error[256];
    if (sets[0] == NULL) {
        FUZZ_CHECK(cs_keys_from_file(&made, "HS256", SECRET, sizeof(SECRET) - 1, error, sizeof(error)) == APR_SUCCESS);
        sets[0] = made;
        FUZZ_CHECK(cs_keys_from_jwks(&made, SET, sizeof(SET) - 1, error, sizeof(error)) == APR_SUCCESS);
        sets[1] = made;
    }
}

static void see_claim(void *baton, const char *name, const char *text)
{
    FUZZ_CHECK(++*(int *)baton <= 32);
    FUZZ_CHECK(name[0] != '\0' && strlen(text) <= 1024 && cs_utf8_valid(text, strlen(text)));
}

/* From memory of exactly this size. */
static cs_token_e verify(const char *token, size_t len)
{
    static const cs_token_policy_t policy = {NULL, NULL, 0};
    cs_claims_t *claims = NULL;
    const char *why = NULL;
    char *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, token, len);
    cs_token_e result = cs_token_verify(sets, 2, copy, len, &policy, NOW, &claims, &why);
    free(copy);
    FUZZ_CHECK((result == CS_TOKEN_GOOD) == (claims != NULL));
    FUZZ_CHECK(ERR_peek_error() == 0);
    if (claims == NULL) {
        check_error(why);
        FUZZ_CHECK(strpbrk(why, "\"\\") == NULL);
        return result;
    }
    int count = 0;
    const char *subject = cs_claims_text(claims, "sub");
    FUZZ_CHECK(subject != NULL && subject[0] != '\0' && strlen(subject) <= 255);
    FUZZ_CHECK(cs_claims_expiry(claims) == 0 || cs_claims_expiry(claims) > NOW);
    cs_claims_each(claims, see_claim, &count);
    cs_claims_destroy(claims);
    return result;
}

static void fuzz_token(const char *data, size_t size)
{
    if (verify(data, size) == CS_TOKEN_GOOD) {
        FUZZ_CHECK(size <= CS_TOKEN_MAX);
        FUZZ_CHECK(verify(data, size - 1) != CS_TOKEN_GOOD);
        FUZZ_CHECK(verify(data + 1, size - 1) != CS_TOKEN_GOOD);
    }
}

static size_t encode(const char *data, size_t len, char *out)
{
    int made = EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)data, (int)len);
    while (made > 0 && out[made - 1] == '=') {
        made--;
    }
    for (int i = 0; i < made; i++) {
        out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
    }
    return (size_t)made;
}

/* What was understood and written again is understood in the same way. */
static void check_json(const char *text, size_t len)
{
    json_object *object = cs_strict_json_object(text, len);
    if (object != NULL) {
        const char *again = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN);
        json_object *second = cs_strict_json_object(again, strlen(again));
        FUZZ_CHECK(second != NULL && json_object_equal(object, second));
        json_object_put(second);
        json_object_put(object);
    }
}

static void fuzz_signed(const char *data, size_t size)
{
    const char *line = memchr(data, '\n', size);
    size_t header = line != NULL ? (size_t)(line - data) : size;
    const char *payload = line != NULL ? line + 1 : data + size;
    size_t payload_len = (size_t)(data + size - payload);
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned mac_len;
    char *token = malloc(size * 2 + 128);
    size_t len = encode(data, header, token);
    token[len++] = '.';
    len += encode(payload, payload_len, token + len);
    HMAC(EVP_sha256(), SECRET, sizeof(SECRET) - 1, (unsigned char *)token, len, mac, &mac_len);
    token[len++] = '.';
    len += encode((char *)mac, mac_len, token + len);
    fuzz_token(token, len);
    check_json(data, header);
    check_json(payload, payload_len);
    free(token);
}

static void check_keys(apr_status_t rv, cs_keys_t *keys, const char *error)
{
    FUZZ_CHECK((rv == APR_SUCCESS) == (keys != NULL));
    FUZZ_CHECK(ERR_peek_error() == 0);
    if (keys == NULL) {
        check_error(error);
        return;
    }
    FUZZ_CHECK(cs_keys_count(keys) >= 1 && cs_keys_count(keys) <= CS_KEYS_MAX);
    for (unsigned i = 0; i < cs_keys_count(keys); i++) {
        const cs_key_t *key = &keys->key[i];
        FUZZ_CHECK(key->jwk != NULL && key->algs != 0 && key->bytes >= 32);
        for (unsigned k = 0; k < i && key->kid != NULL; k++) {
            FUZZ_CHECK(keys->key[k].kid == NULL || strcmp(keys->key[k].kid, key->kid) != 0);
        }
    }
    cs_keys_destroy(keys);
}

static void fuzz_keys(const char *data, size_t size, const char *alg)
{
    cs_keys_t *keys = NULL;
    char error[256] = "";
    char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, data, size);
    apr_status_t rv = alg != NULL ? cs_keys_from_file(&keys, alg, copy, size, error, sizeof(error))
                                  : cs_keys_from_jwks(&keys, copy, size, error, sizeof(error));
    free(copy);
    check_keys(rv, keys, error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"HS256", "HS512", "RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"};
    if (size == 0) {
        return 0;
    }
    make_sets();
    const char *rest = (const char *)data + 1;
    switch (data[0] & 3) {
    case 0:
        fuzz_token(rest, size - 1);
        break;
    case 1:
        fuzz_signed(rest, size - 1);
        break;
    case 2:
        fuzz_keys(rest, size - 1, NULL);
        break;
    default:
        fuzz_keys(rest, size - 1, names[data[0] >> 2 & 7]);
        break;
    }
    return 0;
}
