/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record: what is kept. Facts go into the child's journal (observer.c, closing.c) and from there into the database (keeping.c).
 * The data path writes to a file at most; it never waits for SQL.
 *
 *   request thread:  opened, incidents  -> journal
 *   loop thread:     closed             -> queue
 *   recorder thread: queue, streams of dead children -> journals; fsync
 *   store thread:    journals -> mod_dbd -> database; retention
 */
#ifndef CHATSTREAM_RECORD_H
#define CHATSTREAM_RECORD_H

#include <httpd.h>

#include "chatstream/log.h"
#include "chatstream/observe.h"

/* Parent: the state directory, for the user the children run as. HTTP_INTERNAL_SERVER_ERROR: logged. */
int cs_record_post_config(apr_pool_t *pconf, server_rec *server);
/* Child, before the first request. Nothing is recorded when no location asks for it. */
void cs_record_child_start(apr_pool_t *pchild, server_rec *server, cs_log_t *log, uint32_t child);
/* The loop thread has ended: journals what is told already, gives the database a moment, leaves the rest to whoever adopts it. */
void cs_record_child_stop(void);

typedef enum { CS_DATABASE_OFF, CS_DATABASE_OK, CS_DATABASE_DOWN } cs_database_e;

typedef struct {
    cs_database_e database;  /* as this child sees it */
    uint64_t journal_bytes;  /* of all children, not in the database yet */
    apr_int64_t oldest_s;    /* since when the oldest of them waits */
    int refuses;             /* new streams that are to be recorded */
    int journal_full;        /* new streams are refused, or not recorded */
    uint64_t unrecorded;     /* streams admitted although the journal was full */
    uint64_t saved, refused; /* facts of this child that the database took, and that it will never take */
} cs_record_health_t;

void cs_record_health(cs_record_health_t *health);
/* Answers chatstream-audit. */
int cs_record_audit(request_rec *r);

#endif
