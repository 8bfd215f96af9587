/* SPDX-License-Identifier: Apache-2.0 */
#include "telling.h"

#include <string.h>

#include "chatstream/sink.h"
#include "params.h"

cs_person_t cs_telling_person(request_rec *r, const cs_identity_t *identity)
{
    cs_person_t person = {NULL, NULL, r->useragent_ip};

    if (identity->who != CS_WHO_ADDRESS) {
        person.name = identity->user;
        person.email = cs_identity_claims(identity) ? cs_claims_text(cs_identity_claims(identity), "email") : NULL;
        if (person.email && strlen(person.email) > CS_PARAMS_EMAIL_MAX) {
            person.email = NULL; /* no address is that long, and no column that wide */
        }
    }
    return person;
}

void cs_telling_incident(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity, cs_incident_e kind,
                         const char *stream_id, const char *code)
{
    const cs_incident_t incident = {kind, conf, cs_telling_person(r, identity), stream_id, code, NULL};

    cs_tell_incident(&incident);
}

/* What a refusal by the gate is in the audit trail; failures of our own and of the request's form are none. */
static void tell_refusal(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity,
                         const cs_result_t *refusal)
{
    static const struct {
        const char *code;
        cs_incident_e kind;
    } kinds[] = {
        {"rate_limited", CS_INCIDENT_RATE_LIMITED},
        {"too_many_streams", CS_INCIDENT_DENIED},
        {"streaming_disabled", CS_INCIDENT_DENIED},
    };
    size_t i;

    if (identity->refusal.status && refusal->code == identity->refusal.code
        && refusal->status != HTTP_SERVICE_UNAVAILABLE) {
        cs_telling_incident(r, conf, identity, CS_INCIDENT_AUTH_FAILED, NULL, refusal->code);
        return;
    }
    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!strcmp(refusal->code, kinds[i].code)) {
            cs_telling_incident(r, conf, identity, kinds[i].kind, NULL, refusal->code);
        }
    }
}

int cs_telling_refuse(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity,
                      const cs_result_t *refusal)
{
    if (refusal->status == identity->refusal.status && refusal->code == identity->refusal.code) {
        cs_identity_challenge(r, identity);
    }
    tell_refusal(r, conf, identity, refusal);
    return cs_response_problem(r, refusal);
}
