/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CS_REQUEST_BODY_H
#define CS_REQUEST_BODY_H

#include <httpd.h>

#include "chatstream/core.h"

/*
 * Reads the request's body whole, at most `max` bytes; `*body` is NUL-terminated and lives as long as the request. On failure
 * `result->status` is set: 413, 400, 408.
 */
void cs_body_read(request_rec *r, size_t max, char **body, size_t *len, cs_result_t *result);

#endif
