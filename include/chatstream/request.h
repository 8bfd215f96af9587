/* SPDX-License-Identifier: Apache-2.0 */
/* request: one request's story, from the handler's call to the reader that serves it. Request threads only. */
#ifndef CHATSTREAM_REQUEST_H
#define CHATSTREAM_REQUEST_H

#include <httpd.h>

/* Handlers and the redaction of logs; in the module's register_hooks. */
void cs_request_register_hooks(void);

#endif
