/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration and the flag file say about a request at this moment, and what a client is told about its limits. */
#ifndef CS_REQUEST_LIMITS_H
#define CS_REQUEST_LIMITS_H

#include <httpd.h>

#include "chatstream/config.h"
#include "chatstream/gate.h"

/* Fills in what holds here: flag, share, cohort, rate. `asked` has its identity and profile already. */
void cs_limits_apply(request_rec *r, const cs_dir_config_t *conf, cs_case_t *asked);
/* The RateLimit headers, on every answer under a limit: counted or not. */
void cs_limits_tell(request_rec *r, cs_case_t *asked);
/* The same for an answer that comes before the gate, or without it. */
void cs_limits_show(request_rec *r, const cs_dir_config_t *conf, const cs_identity_t *identity);
/* Whole seconds, rounded up, at least 1; `when` 0: 1. */
uint32_t cs_limits_seconds_until(apr_time_t when, apr_time_t now);
/* The flag and the share in force for a location. */
void cs_limits_flags(const cs_dir_config_t *conf, int *enabled, int *share);
cs_gate_t *cs_limits_gate(void);

#endif
