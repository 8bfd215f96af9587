/* SPDX-License-Identifier: Apache-2.0 */
/* observe: what an operator sees. Request threads only. */
#ifndef CHATSTREAM_OBSERVE_H
#define CHATSTREAM_OBSERVE_H

#include <httpd.h>

#include "chatstream/log.h"

/* Answers chatstream-health. `log` NULL: this child cannot serve. `enabled`: the flag of the location that was asked. */
int cs_observe_health(request_rec *r, cs_log_t *log, int enabled);

#endif
