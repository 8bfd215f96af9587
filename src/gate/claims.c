/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gate/strict_json.h"
#include "gate/token.h"

#define SUBJECT_MAX 255
#define TEXT_MAX    1024
#define EACH_MAX    32
#define YEAR_9999   253402300799.0 /* its end, in seconds: what is later is milliseconds, or nonsense */

struct cs_claims_t {
    json_object *json;
    apr_time_t expiry; /* 0: never */
};

typedef enum { TIME_NONE, TIME_SAID, TIME_WRONG } time_e;

/* A NumericDate may have a fraction (RFC 7519 section 2). */
static time_e read_time(json_object *json, const char *name, apr_time_t *when)
{
    json_object *value;
    if (!json_object_object_get_ex(json, name, &value)) {
        return TIME_NONE;
    }
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double)) {
        return TIME_WRONG;
    }
    double seconds = json_object_get_double(value);
    if (!isfinite(seconds) || seconds < 0 || seconds > YEAR_9999) {
        return TIME_WRONG;
    }
    *when = json_object_is_type(value, json_type_int) ? (apr_time_t)json_object_get_int64(value) * APR_USEC_PER_SEC
                                                      : (apr_time_t)(seconds * APR_USEC_PER_SEC);
    return TIME_SAID;
}

/* NULL, or why the token is not for this moment. No exp is allowed: how long a token lives is its issuer's word. */
static const char *judge_times(cs_claims_t *claims, apr_time_t leeway, apr_time_t now)
{
    apr_time_t expiry = 0, not_before = 0, issued = 0;
    time_e exp = read_time(claims->json, "exp", &expiry);
    time_e nbf = read_time(claims->json, "nbf", &not_before);
    time_e iat = read_time(claims->json, "iat", &issued);
    if (exp == TIME_WRONG || nbf == TIME_WRONG || iat == TIME_WRONG) {
        return "A time in the token is not a number of seconds.";
    }
    if (exp == TIME_SAID && now - leeway >= expiry) {
        return "The token has expired.";
    }
    if (nbf == TIME_SAID && now + leeway < not_before) {
        return "The token is not valid yet.";
    }
    if (iat == TIME_SAID && now + leeway < issued) {
        return "The token was issued in the future.";
    }
    claims->expiry = expiry;
    return NULL;
}

/* Someone's name, which goes into records and logs. The text is UTF-8; U+0080 to U+009F are control characters too. */
static int is_subject(const char *subject)
{
    size_t len = strlen(subject);
    if (len == 0 || len > SUBJECT_MAX) {
        return 0;
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)subject[i];
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)subject[i + 1] < 0xa0)) {
            return 0;
        }
    }
    return 1;
}

static int is_string(json_object *value, const char *want)
{
    return json_object_is_type(value, json_type_string) && strcmp(json_object_get_string(value), want) == 0;
}

/* A string, or an array of nothing but strings, that names us. */
static int is_audience(json_object *aud, const char *want)
{
    int found = 0;
    if (!json_object_is_type(aud, json_type_array)) {
        return is_string(aud, want);
    }
    for (size_t i = 0; i < json_object_array_length(aud); i++) {
        json_object *one = json_object_array_get_idx(aud, i);
        if (!json_object_is_type(one, json_type_string)) {
            return 0;
        }
        found |= is_string(one, want);
    }
    return found;
}

static const char *judge(cs_claims_t *claims, const cs_token_policy_t *policy, apr_time_t now)
{
    const char *subject = cs_strict_json_string(claims->json, "sub");
    if (policy->issuer != NULL && !is_string(json_object_object_get(claims->json, "iss"), policy->issuer)) {
        return "The token is from another issuer.";
    }
    if (policy->audience != NULL && !is_audience(json_object_object_get(claims->json, "aud"), policy->audience)) {
        return "The token is for another audience.";
    }
    if (subject == NULL || !is_subject(subject)) {
        return "The token names no subject.";
    }
    return judge_times(claims, policy->leeway, now);
}

int cs_claims_read(const char *payload, size_t len, const cs_token_policy_t *policy, apr_time_t wall_now,
                   cs_claims_t **claims, const char **why)
{
    cs_claims_t *made = calloc(1, sizeof(*made));
    *claims = NULL;
    if (made == NULL) {
        *why = "The token cannot be verified now.";
        return 0;
    }
    made->json = cs_strict_json_object(payload, len);
    *why = made->json != NULL ? judge(made, policy, wall_now) : "The token payload is not a JSON object.";
    if (*why != NULL) {
        cs_claims_destroy(made);
        return 0;
    }
    *claims = made;
    return 1;
}

void cs_claims_destroy(cs_claims_t *claims)
{
    if (claims != NULL) {
        json_object_put(claims->json);
        free(claims);
    }
}

/* json-c cuts an integer that does not fit to the largest that does: two accounts would have one number. */
static int is_cut(json_object *number)
{
    return json_object_get_uint64(number) == UINT64_MAX || json_object_get_int64(number) == INT64_MIN;
}

static const char *text_of(json_object *value)
{
    const char *text = NULL;
    switch (json_object_get_type(value)) {
    case json_type_int:
        text = is_cut(value) ? NULL : json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN);
        break;
    case json_type_double:
    case json_type_boolean:
        text = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN);
        break;
    case json_type_string:
        text = json_object_get_string(value);
        break;
    default:
        break;
    }
    return text != NULL && strlen(text) <= TEXT_MAX ? text : NULL;
}

const char *cs_claims_text(cs_claims_t *claims, const char *name)
{
    return text_of(json_object_object_get(claims->json, name));
}

static int is_plain_name(const char *name)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    return name[0] != '\0' && name[strspn(name, plain)] == '\0';
}

void cs_claims_each(cs_claims_t *claims, void (*fn)(void *baton, const char *name, const char *text), void *baton)
{
    int left = EACH_MAX;
    json_object_object_foreach(claims->json, name, value) {
        const char *text = is_plain_name(name) ? text_of(value) : NULL;
        if (text != NULL && left > 0) {
            left--;
            fn(baton, name, text);
        }
    }
}

apr_time_t cs_claims_expiry(const cs_claims_t *claims)
{
    return claims->expiry;
}
