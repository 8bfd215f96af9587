/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CS_REQUEST_CHAT_H
#define CS_REQUEST_CHAT_H

#include <httpd.h>

#include "chatstream/config.h"
#include "params.h"

typedef enum { CS_KIND_STREAM, CS_KIND_DOCUMENT } cs_kind_e;

/* GET, HEAD and POST. Returns what the handler must return. */
int cs_request_chat(request_rec *r, const cs_dir_config_t *conf, cs_kind_e kind);
/* DELETE. */
int cs_request_cancel(request_rec *r, const cs_dir_config_t *conf);

#endif
