/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening sockets, TCP and Unix. They live until up_listen_close_all().
 */
#ifndef UPSTREAM_LISTEN_H
#define UPSTREAM_LISTEN_H

#include "conn.h"

/* HOST:PORT, [IPV6]:PORT; port 0 picks a free one, and the bound one is the result. -1: the reason is on stderr. */
int up_listen_tcp(const char *address, up_tls_context_t *context, const up_conn_handler_t *handler);

/* A stale socket file is replaced; the file is removed at the end. */
bool up_listen_unix(const char *path, const up_conn_handler_t *handler);

void up_listen_close_all(void);

#endif
