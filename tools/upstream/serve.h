/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes to answers: what happens on a connection, request after request.
 */
#ifndef UPSTREAM_SERVE_H
#define UPSTREAM_SERVE_H

#include "conn.h"

/* The handler every accepted connection gets. */
extern const up_conn_handler_t up_serve_handler;

#endif
