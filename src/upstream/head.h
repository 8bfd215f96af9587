/* SPDX-License-Identifier: Apache-2.0 */
/* head: the bytes of a request before its body. */
#ifndef CS_UPSTREAM_HEAD_H
#define CS_UPSTREAM_HEAD_H

#include "chatstream/upstream.h"

/*
 * Appends request line and headers. A configured header takes the place of ours of the same name; one without a value only
 * takes ours away. Those that frame the message stay ours. APR_ENOMEM, APR_ENOSPC: `out` is unfinished.
 */
apr_status_t cs_head_append(cs_buf_t *out, const cs_upstream_t *upstream, const cs_transfer_request_t *request);

#endif
