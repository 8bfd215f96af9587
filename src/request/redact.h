/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CS_REQUEST_REDACT_H
#define CS_REQUEST_REDACT_H

#include <httpd.h>

/*
 * Replaces what the user said by `[redacted]` in everything httpd may log of a request: %r, %q, the referrer, the scoreboard. After
 * the parameters have been read.
 */
void cs_redact_request(request_rec *r);
/* %r, the scoreboard and the referrer only, which nobody parses: may be done before the parameters have been read. */
void cs_redact_line(request_rec *r);
/* The referrer alone: each error_log line of a request repeats it. */
void cs_redact_referer(request_rec *r);

typedef enum { CS_HUSH_READING, CS_HUSH_READ } cs_hush_e;

/*
 * Before and again after the request was read: httpd's core writes request line and headers as they came to a log that is loud
 * enough, before any module may look at them, so those levels are kept off for this request. What other modules make of the wire
 * (mod_http2 from trace1 on and in the scoreboard, mod_dumpio, mod_log_forensic) is not ours to keep off.
 */
void cs_redact_hush(request_rec *r, cs_hush_e until);
/* The values of token, message, query and conversation_history in a URL or query string; NULL stays NULL. */
char *cs_redact_text(apr_pool_t *pool, const char *text);

#endif
