/* SPDX-License-Identifier: Apache-2.0 */
#include "limits.h"

#include <string.h>

#include <apr_strings.h>

#include "chatstream/request.h"

static cs_gate_t *gate; /* set before the fork */

void cs_request_set_gate(cs_gate_t *shared)
{
    gate = shared;
}

cs_gate_t *cs_limits_gate(void)
{
    return gate;
}

void cs_limits_flags(const cs_dir_config_t *conf, int *enabled, int *share)
{
    cs_flags_t flags;

    cs_flags_of(gate, conf->profile, &flags);
    *enabled = flags.enabled >= 0 ? flags.enabled : conf->enabled;
    *share = flags.share >= 0 ? flags.share : conf->share;
}

/* "10.0.0.1", or the /64 an IPv6 client may choose its address from: as many addresses as it likes are still one client. */
static const char *key_of(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity)
{
    char address[CS_ADDRESS_KEY_MAX];

    if (conf->rate_by == CS_RATE_BY_USER && identity->who != CS_WHO_ADDRESS) {
        return apr_pstrcat(r->pool, "u:", identity->user, NULL);
    }
    cs_rate_address_key(address, r->useragent_ip);
    return apr_pstrcat(r->pool, "a:", address, NULL);
}

static const char *group_of(request_rec *r, const cs_dir_config_t *conf)
{
    return conf->rate_group ? apr_pstrcat(r->pool, "g:", conf->rate_group, NULL)
                            : apr_psprintf(r->pool, "l:%s:%d:%s", r->server->server_hostname, (int)r->server->port,
                                           conf->location ? conf->location : "/");
}

static void apply_rate(request_rec *r, const cs_dir_config_t *conf, cs_case_t *asked)
{
    if (conf->rate_count > 0) {
        asked->rate.count = (uint32_t)conf->rate_count;
        asked->rate.window = conf->rate_window;
        asked->rate.key = key_of(r, conf, asked->identity);
        asked->rate.group = group_of(r, conf);
    }
}

void cs_limits_apply(request_rec *r, const cs_dir_config_t *conf, cs_case_t *asked)
{
    const char *email = asked->identity->who == CS_WHO_TOKEN ? cs_claims_text(asked->identity->claims, "email") : NULL;

    asked->gate = gate;
    cs_limits_flags(conf, &asked->enabled, &asked->share);
    asked->in_cohort = conf->cohort
                       && (apr_hash_get(conf->cohort, asked->identity->user, APR_HASH_KEY_STRING)
                           || (email && apr_hash_get(conf->cohort, email, APR_HASH_KEY_STRING)));
    apply_rate(r, conf, asked);
}

void cs_limits_show(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity)
{
    cs_case_t asked = {.gate = gate, .now = cs_clock_mono(), .identity = identity};

    apply_rate(r, conf, &asked);
    cs_limits_tell(r, &asked);
}

void cs_limits_tell(request_rec *r, cs_case_t *asked)
{
    if (!asked->rate.count) {
        return;
    }
    if (!asked->was_asked) {
        cs_rate_peek(gate, &asked->rate, asked->now, &asked->counted);
    }
    apr_table_setn(r->err_headers_out, "RateLimit-Limit", apr_psprintf(r->pool, "%u", asked->rate.count));
    apr_table_setn(r->err_headers_out, "RateLimit-Remaining", apr_psprintf(r->pool, "%u", asked->counted.remaining));
    apr_table_setn(r->err_headers_out, "RateLimit-Reset", apr_psprintf(r->pool, "%u", asked->counted.reset));
}

uint32_t cs_limits_seconds_until(apr_time_t when, apr_time_t now)
{
    return when > now + apr_time_from_sec(1) ? (uint32_t)((when - now + APR_USEC_PER_SEC - 1) / APR_USEC_PER_SEC) : 1;
}
