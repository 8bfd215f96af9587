/* SPDX-License-Identifier: Apache-2.0 */
/* observe: what an operator sees. Request threads only. */
#ifndef CHATSTREAM_OBSERVE_H
#define CHATSTREAM_OBSERVE_H

#include <httpd.h>

#include "chatstream/log.h"

/* As in force for the location that was asked. */
typedef struct {
    int enabled;
    int share;  /* hundredths of a percent */
    int broken; /* the flag file is, and an older state holds */
} cs_observed_flags_t;

/* Answers chatstream-health. `log` NULL: this child cannot serve. */
int cs_observe_health(request_rec *r, cs_log_t *log, const cs_observed_flags_t *flags);

#endif
