/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CS_REQUEST_REDACT_H
#define CS_REQUEST_REDACT_H

#include <httpd.h>

/*
 * Replaces what the user said by `[redacted]` in everything httpd may log of a request: %r, %q, the referrer, the scoreboard. After
 * the parameters have been read.
 */
void cs_redact_request(request_rec *r);
/* The referrer alone: error_log lines repeat it, also those of modules that run before the handler. */
void cs_redact_referer(request_rec *r);
/* The values of token, message, query and conversation_history in a URL or query string; NULL stays NULL. */
char *cs_redact_text(apr_pool_t *pool, const char *text);

#endif
