/* SPDX-License-Identifier: Apache-2.0 */
#include "identity.h"

#include <stdatomic.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

#include "params_read.h"

#define SETS_MAX     16
#define FIRST_FETCH  apr_time_from_sec(2) /* a request that comes right after the start waits this long for keys */
#define CLAIM_PREFIX "CHATSTREAM_CLAIM_"

typedef struct {
    cs_identity_t identity;
    const char *body_token;
    const char *set_user; /* r->user, when it was us */
} known_t;

/* ---- what was said ----------------------------------------------------------------------------------------------- */

/* RFC 6750 section 2.1; other schemes are other modules' business. NULL: none. */
static const char *bearer_of(const request_rec *r)
{
    const char *header = apr_table_get(r->headers_in, "Authorization");

    if (!header || strncasecmp(header, "Bearer ", 7)) {
        return NULL;
    }
    header += 7;
    while (*header == ' ') {
        header++;
    }
    return header;
}

static void collect_tokens(request_rec *r, const char *body_token, cs_credentials_t *credentials)
{
    const char *const tokens[] = {bearer_of(r), cs_params_query_token(r), body_token};
    size_t i;

    for (i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        if (tokens[i]) {
            credentials->token = tokens[i];
            credentials->tokens++;
        }
    }
}

/* ---- sets -------------------------------------------------------------------------------------------------------- */

static void acquire_sets(const cs_dir_config_t *conf, const cs_keys_t **sets, unsigned *count)
{
    int i;

    for (i = 0; i < conf->keys->nelts && *count < SETS_MAX; i++) {
        const cs_key_source_t *source = APR_ARRAY_IDX(conf->keys, i, cs_key_source_t *);

        sets[(*count)++] = source->is_url ? cs_jwks_acquire(source->jwks) : source->keys;
    }
}

static void release_sets(const cs_dir_config_t *conf, const cs_keys_t **sets, unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        const cs_key_source_t *source = APR_ARRAY_IDX(conf->keys, i, cs_key_source_t *);

        if (source->is_url) {
            cs_jwks_release(source->jwks, (cs_keys_t *)sets[i]);
        }
    }
}

/* 1: a fetch is on its way. */
static int want_sets(const cs_dir_config_t *conf, apr_time_t now)
{
    int i, wanted = 0;

    for (i = 0; i < conf->keys->nelts; i++) {
        const cs_key_source_t *source = APR_ARRAY_IDX(conf->keys, i, cs_key_source_t *);

        wanted |= source->is_url && cs_jwks_want(source->jwks, now);
    }
    return wanted;
}

/* Some set was never fetched: a moment after the start that is a matter of milliseconds, so a good token is not refused for it. */
static void await_first_fetch(const cs_dir_config_t *conf)
{
    static _Atomic apr_time_t first_request;
    apr_time_t started = 0, now = cs_clock_mono();
    int i;

    if (atomic_compare_exchange_strong(&first_request, &started, now)) {
        started = now;
    }
    for (i = 0; now < started + FIRST_FETCH && i < conf->keys->nelts; i++) {
        const cs_key_source_t *source = APR_ARRAY_IDX(conf->keys, i, cs_key_source_t *);
        cs_keys_t *keys = source->is_url ? cs_jwks_acquire(source->jwks) : NULL;

        while (source->is_url && !keys && cs_clock_mono() < started + FIRST_FETCH) {
            apr_sleep(5000);
            keys = cs_jwks_acquire(source->jwks);
        }
        if (source->is_url) {
            cs_jwks_release(source->jwks, keys);
        }
    }
}

/* ---- who --------------------------------------------------------------------------------------------------------- */

static apr_status_t destroy_claims(void *claims)
{
    cs_claims_destroy(claims);
    return APR_SUCCESS;
}

static void export_claim(void *baton, const char *name, const char *text)
{
    request_rec *r = baton;
    char *variable = apr_pstrcat(r->pool, CLAIM_PREFIX, name, NULL), *at;
    size_t i;

    for (i = 0; text[i]; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            return; /* somebody might put it into a header */
        }
    }

    for (at = variable + sizeof(CLAIM_PREFIX) - 1; *at; at++) {
        *at = *at == '-' ? '_' : (char)apr_toupper(*at);
    }
    apr_table_set(r->subprocess_env, variable, text);
}

/* Where AuthType names another module, that one decides who the user is. */
static void tell_httpd(request_rec *r, known_t *known)
{
    if (known->identity.claims) {
        cs_claims_each(known->identity.claims, export_claim, r);
    }
    if (known->identity.who == CS_WHO_TOKEN && !r->user && !ap_auth_type(r)) {
        r->user = apr_pstrdup(r->pool, known->identity.user);
        r->ap_auth_type = "Bearer";
        known->set_user = r->user;
    }
}

static void identify(request_rec *r, const cs_dir_config_t *conf, known_t *known)
{
    static const cs_result_t fetching = {HTTP_SERVICE_UNAVAILABLE, "unavailable",
                                         "The key of the token is not known yet.", 2, NULL};
    cs_identity_t *identity = &known->identity;
    const cs_keys_t *sets[SETS_MAX];
    cs_credentials_t credentials = {
        .httpd_user = r->user != known->set_user ? r->user : NULL,
        .header = conf->user_header ? apr_table_get(r->headers_in, conf->user_header) : NULL,
        .address = r->useragent_ip,
        .required = conf->auth == CS_AUTH_REQUIRED,
        .sets = sets,
        .policy = {conf->issuer, conf->audience, conf->leeway},
    };

    if (conf->keys && conf->auth != CS_AUTH_OFF) {
        collect_tokens(r, known->body_token, &credentials);
        if (credentials.tokens) {
            await_first_fetch(conf);
            acquire_sets(conf, sets, &credentials.set_count);
        }
    }
    cs_identify(&credentials, apr_time_now(), identity);
    if (credentials.set_count) {
        release_sets(conf, sets, credentials.set_count);
    }
    if (identity->unknown_key && want_sets(conf, cs_clock_mono())) {
        identity->refusal = fetching;
        identity->challenge = NULL;
    }
    if (identity->claims) {
        apr_pool_cleanup_register(r->pool, identity->claims, destroy_claims, apr_pool_cleanup_null);
    }
    tell_httpd(r, known);
}

const cs_identity_t *cs_identity_of(request_rec *r, const cs_dir_config_t *conf, const char *body_token)
{
    known_t *known = ap_get_module_config(r->request_config, &chatstream_module);

    /* Also when another module has named a user since. */
    if (!known || (body_token && !known->body_token)
        || (r->user && r->user != known->identity.user && r->user != known->set_user)) {
        known_t *before = known;

        known = apr_pcalloc(r->pool, sizeof(*known));
        known->body_token = body_token;
        known->set_user = before ? before->set_user : NULL;
        ap_set_module_config(r->request_config, &chatstream_module, known);
        identify(r, conf, known);
    }
    return &known->identity;
}

const char *cs_identity_key(request_rec *r, const cs_identity_t *identity)
{
    return identity->who == CS_WHO_ADDRESS ? apr_pstrcat(r->pool, "\x1f", identity->user, NULL) : identity->user;
}

void cs_identity_challenge(request_rec *r, const cs_identity_t *identity)
{
    const char *value;

    if (!identity->challenge) {
        return;
    }
    value = *identity->challenge
                ? apr_psprintf(r->pool, "Bearer %s, error_description=\"%s\"", identity->challenge,
                               identity->refusal.message)
                : apr_psprintf(r->pool, "Bearer realm=\"%s\"", ap_escape_quotes(r->pool, r->server->server_hostname));
    apr_table_setn(r->err_headers_out, "WWW-Authenticate", value);
}
