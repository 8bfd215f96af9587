/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenSSL in the shape of recv() and send() on a non-blocking socket. A context is made once at start and lives as long
 * as the process; a session belongs to its connection.
 */
#ifndef UPSTREAM_TLS_H
#define UPSTREAM_TLS_H

#include <stddef.h>
#include <sys/types.h>

typedef struct ssl_ctx_st up_tls_context_t;
typedef struct ssl_st up_tls_t;

/* NULL when certificate or key cannot be used; the reason is on stderr. */
up_tls_context_t *up_tls_context(const char *cert_file, const char *key_file);
void up_tls_context_free(up_tls_context_t *context);

/* A server session on the socket; the handshake happens inside the first reads. NULL when out of memory. */
up_tls_t *up_tls_new(up_tls_context_t *context, int fd);
void up_tls_free(up_tls_t *tls);

/* Like recv() and send(): count, 0 at the peer's end, -1 with errno EAGAIN or ECONNRESET. */
ssize_t up_tls_recv(up_tls_t *tls, void *data, size_t len);
ssize_t up_tls_send(up_tls_t *tls, const void *data, size_t len);

/* Tells the peer that nothing more comes. */
void up_tls_goodbye(up_tls_t *tls);

#endif
