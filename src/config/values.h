/* SPDX-License-Identifier: Apache-2.0 */
/* How values are written in directives. All return NULL, or what is wrong with the text and what is allowed. */
#ifndef CS_CONFIG_VALUES_H
#define CS_CONFIG_VALUES_H

#include "chatstream/config.h"

/* "30", "1.5", "250ms", "2s", "5m", "1h"; without a unit: seconds. Microseconds out. */
const char *cs_value_time(apr_pool_t *pool, const char *text, apr_time_t min, apr_time_t max, apr_time_t *value);
/* "4096", "32k", "4m", "1g"; units of 1024. */
const char *cs_value_size(apr_pool_t *pool, const char *text, apr_int64_t min, apr_int64_t max, apr_int64_t *value);
const char *cs_value_number(apr_pool_t *pool, const char *text, apr_int64_t min, apr_int64_t max, apr_int64_t *value);
/* A percentage with at most two decimals, "5", "0.25"; hundredths of a percent out. */
const char *cs_value_share(apr_pool_t *pool, const char *text, int *value);
/* All of a file, and a NUL behind it. */
const char *cs_value_file(apr_pool_t *pool, const char *path, apr_size_t max, char **text, apr_size_t *len);
/* On|Off|true|false|1|0 in any case. */
const char *cs_value_flag(apr_pool_t *pool, const char *text, int *value);

#endif
