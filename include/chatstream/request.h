/* SPDX-License-Identifier: Apache-2.0 */
/* request: one request's story, from the handler's call to the reader that serves it. Request threads only, unless said otherwise. */
#ifndef CHATSTREAM_REQUEST_H
#define CHATSTREAM_REQUEST_H

#include <httpd.h>

#include "chatstream/config.h"
#include "chatstream/gate.h"

/* Handlers, access control and the redaction of logs; in the module's register_hooks. */
void cs_request_register_hooks(void);
/* Parent, before the fork: what the gate shares, and the keys of tokens. HTTP_INTERNAL_SERVER_ERROR: logged. */
void cs_request_set_gate(cs_gate_t *gate);
int cs_request_load_keys(apr_pool_t *pconf, server_rec *server);
/* Parent: the flag file at start-up. */
void cs_request_load_flags(server_rec *server);
/* Watchdog, about twice a second in one of the children: has the flag file changed? */
void cs_request_look_at_flags(server_rec *server);
/* A watchdog thread for each source that is a URL, about twice a second: fetches it when that is due, which may take seconds. */
void cs_request_fetch_keys(cs_key_source_t *source);

#endif
