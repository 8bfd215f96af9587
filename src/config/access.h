/* SPDX-License-Identifier: Apache-2.0 */
/* The directives that say who may stream, how much and how often. All return NULL, or the whole message. */
#ifndef CS_CONFIG_ACCESS_H
#define CS_CONFIG_ACCESS_H

#include "chatstream/config.h"

const char *cs_access_rollout(cmd_parms *cmd, void *dir, const char *percent);
const char *cs_access_cohort(cmd_parms *cmd, void *dir, const char *name);
const char *cs_access_auth(cmd_parms *cmd, void *dir, const char *mode, const char *expire);
const char *cs_access_jwt_key(cmd_parms *cmd, void *dir, const char *algorithm, const char *path);
const char *cs_access_jwks(cmd_parms *cmd, void *dir, const char *place, const char *ca);
const char *cs_access_leeway(cmd_parms *cmd, void *dir, const char *text);
const char *cs_access_user_header(cmd_parms *cmd, void *dir, const char *name);
const char *cs_access_rate_limit(cmd_parms *cmd, void *dir, const char *rate, const char *one, const char *two);
const char *cs_access_cors(cmd_parms *cmd, void *dir, const char *origin);

/* directives.c: NULL, or why this process cannot read the file. */
const char *cs_config_readable(apr_pool_t *pool, const char *path);
int cs_config_is_header_name(const char *name);

#endif
