/* SPDX-License-Identifier: Apache-2.0 */
#include "arrival.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

#include "chatstream/observe.h"
#include "chatstream/sink.h"
#include "identity.h"
#include "limits.h"

#define ALLOW_HEADERS_MAX 1024

/* ---- CORS -------------------------------------------------------------------------------------------------------- */

/* In err_headers_out: a page must be able to read failures too, whoever makes them. */
static void set_cors(request_rec *r, const cs_cors_t *cors)
{
    if (cors->vary) {
        apr_table_mergen(r->err_headers_out, "Vary", "Origin");
    }
    if (cors->allow_origin) {
        apr_table_setn(r->err_headers_out, "Access-Control-Allow-Origin", cors->allow_origin);
        if (cors->credentials) {
            apr_table_setn(r->err_headers_out, "Access-Control-Allow-Credentials", "true");
        }
    }
}

static int answer_preflight(request_rec *r, const cs_cors_t *cors)
{
    char *headers = apr_palloc(r->pool, ALLOW_HEADERS_MAX);

    if (cors->allow_origin) {
        cs_cors_allow_headers(headers, ALLOW_HEADERS_MAX,
                              apr_table_get(r->headers_in, "Access-Control-Request-Headers"));
        apr_table_setn(r->headers_out, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
        apr_table_setn(r->headers_out, "Access-Control-Allow-Headers", headers);
        apr_table_setn(r->headers_out, "Access-Control-Max-Age", "600");
    }
    ap_discard_request_body(r);
    r->status = HTTP_NO_CONTENT;
    return DONE;
}

/* A preflight carries no credentials (Fetch, section "CORS-preflight fetch"), so it is answered before anybody asks for them. */
static int arrive_across(request_rec *r, const cs_dir_config_t *conf)
{
    const char *origin = apr_table_get(r->headers_in, "Origin");
    cs_cors_t cors;

    cs_cors_decide((const char *const *)conf->cors->elts, (unsigned)conf->cors->nelts, origin, &cors);
    set_cors(r, &cors);
    if (origin && r->method_number == M_OPTIONS && apr_table_get(r->headers_in, "Access-Control-Request-Method")) {
        return answer_preflight(r, &cors);
    }
    if (cors.allow_origin) {
        apr_table_setn(r->err_headers_out, "Access-Control-Expose-Headers", cs_cors_expose);
    }
    return DECLINED;
}

/* ---- hooks ------------------------------------------------------------------------------------------------------- */

static int takes_tokens(const cs_dir_config_t *conf)
{
    return conf->keys && conf->auth != CS_AUTH_OFF;
}

static int arrive(request_rec *r)
{
    const cs_dir_config_t *merged = cs_config_dir(r->per_dir_config);
    cs_dir_config_t conf;

    if (!merged || (!merged->cors && !merged->keys)) {
        return DECLINED; /* every request of the server comes by here */
    }
    cs_config_of(r, &conf);
    if (conf.cors && conf.cors->nelts && arrive_across(r, &conf) == DONE) {
        return DONE;
    }
    if (takes_tokens(&conf)) {
        cs_identity_of(r, &conf, NULL); /* a bad token is told by whoever answers: an order of the gate */
    }
    return DECLINED;
}

/* Some `Require` wants a user. Where no AuthType names another module, the token is how one says who he is. */
static int authenticate(request_rec *r)
{
    static const cs_result_t missing = {HTTP_UNAUTHORIZED, "unauthorized", "A token is needed here.", 0, NULL};
    cs_identity_t identity;
    cs_dir_config_t conf;

    cs_config_of(r, &conf);
    if (!takes_tokens(&conf) || ap_auth_type(r)) {
        return DECLINED;
    }
    identity = *cs_identity_of(r, &conf, NULL);
    if (!identity.refusal.status) {
        if (r->user) {
            return OK;
        }
        identity.refusal = missing;
        identity.challenge = "";
    }
    if (identity.refusal.status != HTTP_SERVICE_UNAVAILABLE) {
        const cs_incident_t failed = {CS_INCIDENT_AUTH_FAILED, &conf, {NULL, NULL, r->useragent_ip}, NULL,
                                      identity.refusal.code,   NULL};

        cs_tell_incident(&failed);
    }
    cs_limits_show(r, &conf, &identity);
    cs_identity_challenge(r, &identity);
    cs_response_problem(r, &identity.refusal);
    return DONE;
}

void cs_arrival_register_hooks(void)
{
    ap_hook_header_parser(arrive, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_check_authn(authenticate, NULL, NULL, APR_HOOK_MIDDLE, AP_AUTH_INTERNAL_PER_CONF);
}
