/* SPDX-License-Identifier: Apache-2.0 */
/* What happened to a request, told to those who keep records (chatstream/observe.h), and to the client when it was refused. */
#ifndef CS_REQUEST_TELLING_H
#define CS_REQUEST_TELLING_H

#include <httpd.h>

#include "chatstream/config.h"
#include "chatstream/observe.h"
#include "identity.h"

/* Borrows from request and identity. */
cs_person_t cs_telling_person(request_rec *r, const cs_identity_t *identity);
void cs_telling_incident(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity, cs_incident_e kind,
                         const char *stream_id, const char *code);
/* Answers with a refusal of the gate: with the challenge when it is about the token, and a line in the audit trail when it is about the person. */
int cs_telling_refuse(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity,
                      const cs_result_t *refusal);

#endif
