/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store thread: facts from the journals into the database, in transactions of many, and what is too old out of it. It may wait for the
 * database as long as that takes: nobody waits for it.
 */
#include <stdlib.h>
#include <string.h>

#include <httpd.h>
#include <http_log.h>

#include "recorder.h"
#include "refused.h"

APLOG_USE_MODULE(chatstream);

#define BATCH           500
#define NAP             apr_time_from_msec(100)
#define RETENTION_ROUND apr_time_from_sec(3600)
#define STORE_REST      apr_time_from_msec(1500)

typedef enum { APPLIED_NONE, APPLIED_SOME, APPLIED_LOST } applied_e;

/* What stays wrong is said now and then. */
static int is_time_to_say(void)
{
    static apr_time_t said; /* the store thread's */
    apr_time_t now = cs_clock_mono();

    if (said && now - said < apr_time_from_sec(10)) {
        return 0;
    }
    said = now;
    return 1;
}

/* ---- one batch ---------------------------------------------------------------------------------------------------- */

/* 0: it could not be, and stays where it is. */
static int set_aside(const cs_journal_t *journal, const cs_fact_t *fact, const char *error)
{
    const cs_text_t *id = &fact->text[CS_TXT_STREAM_ID];
    apr_status_t rv = cs_refused_append(cs_recorder.conf.state_dir, cs_journal_chain(journal), fact);

    if (!rv) {
        atomic_fetch_add(&cs_recorder.refused, 1);
    }
    if (!rv || is_time_to_say()) {
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, cs_recorder.server,
                     "chatstream: the database will not take a fact (%s of stream %.*s, journal %s): %s; it %s in '%s'",
                     cs_fact_kind_name(fact->kind), (int)(id->data ? id->len : 1), id->data ? id->data : "-",
                     cs_journal_chain(journal), error, rv ? "cannot be set aside and waits" : "is set aside",
                     cs_recorder.conf.state_dir);
    }
    return !rv;
}

/* One transaction. */
typedef struct {
    cs_journal_place_t place; /* behind what it has dealt with */
    int has_place;
    unsigned count; /* facts */
    cs_fact_t last; /* borrows from the journal's buffer until the next one is read */
} batch_t;

/* Reads and applies at most `max` facts, and commits them. */
static cs_store_e fill(batch_t *batch, cs_store_t *store, cs_journal_t *journal, unsigned max, char *error, size_t size)
{
    cs_store_e rc = CS_STORE_OK;

    while (rc == CS_STORE_OK && batch->count < max) {
        cs_journal_read_e got = cs_journal_read(journal, &batch->last, &batch->place, error, size);

        if (got == CS_JOURNAL_END) {
            if (*error && is_time_to_say()) {
                ap_log_error(APLOG_MARK, APLOG_ERR, 0, cs_recorder.server, "chatstream: %s", error);
            }
            break;
        }
        batch->has_place = 1;
        if (got == CS_JOURNAL_CORRUPT) {
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, cs_recorder.server, "chatstream: %s", error);
            continue;
        }
        atomic_store(&cs_recorder.asks, cs_clock_mono());
        if (!batch->count && (rc = cs_store_begin(store, error, size)) != CS_STORE_OK) {
            break;
        }
        rc = cs_store_apply(store, cs_journal_chain(journal), cs_recorder.node, &batch->last, error, size);
        batch->count++;
    }
    if (rc != CS_STORE_OK || !batch->count) {
        return rc;
    }
    atomic_store(&cs_recorder.asks, cs_clock_mono());
    return cs_store_commit(store, error, size);
}

/* `max` 1: what is refused is set aside, and then REFUSED is no failure. */
static cs_store_e apply_some(cs_store_t *store, cs_journal_t *journal, unsigned max, unsigned *count, char *error,
                             size_t size)
{
    batch_t batch = {.has_place = 0};
    cs_store_e rc;

    rc = fill(&batch, store, journal, max, error, size);
    if (rc != CS_STORE_OK && batch.count) {
        cs_store_rollback(store);
    }
    atomic_store(&cs_recorder.asks, 0);
    *count = batch.count;
    if (rc == CS_STORE_OK) {
        atomic_fetch_add(&cs_recorder.saved, batch.count);
    }
    else if (rc == CS_STORE_REFUSED && max == 1 && set_aside(journal, &batch.last, error)) {
        rc = CS_STORE_OK;
    }
    if (rc != CS_STORE_OK) {
        cs_journal_rewind(journal);
    }
    else if (batch.has_place) {
        cs_journal_applied(journal, &batch.place);
    }
    return rc;
}

/* Somewhere in the batch is a fact that the database refuses: one by one, so that only that one stays out. */
static cs_store_e apply_singly(cs_store_t *store, cs_journal_t *journal, char *error, size_t size)
{
    unsigned i, count = 1;
    cs_store_e rc = CS_STORE_OK;

    for (i = 0; i < BATCH && count && rc == CS_STORE_OK; i++) {
        rc = apply_some(store, journal, 1, &count, error, size);
    }
    return rc;
}

static applied_e apply(cs_database_t *database, cs_journal_t *journal)
{
    char error[512] = "";
    unsigned count;
    cs_store_t *store;
    cs_store_e rc;

    if (!cs_journal_pending(journal, NULL)) {
        cs_journal_tick(journal);
        return APPLIED_NONE;
    }
    store = cs_database_store(database);
    if (!store) {
        return APPLIED_LOST;
    }
    rc = apply_some(store, journal, BATCH, &count, error, sizeof(error));
    if (rc == CS_STORE_REFUSED) {
        rc = apply_singly(store, journal, error, sizeof(error));
        count = BATCH;
    }
    switch (rc) {
    case CS_STORE_LOST:
        cs_database_lost(database, error);
        return APPLIED_LOST;
    case CS_STORE_REFUSED: /* and there is no room to set it aside */
        return APPLIED_NONE;
    default:
        if (count) {
            cs_database_works(database);
        }
        return count == BATCH ? APPLIED_SOME : APPLIED_NONE; /* a few at a time would be a transaction each */
    }
}

/* ---- adopted chains ----------------------------------------------------------------------------------------------- */

/* Off the list when nobody stands on its open list any more and the database has all of it. */
static int is_done(const cs_adopted_t *adopted)
{
    return !adopted->open && !cs_journal_pending(adopted->journal, NULL);
}

static applied_e apply_adopted(cs_database_t *database)
{
    cs_adopted_t **link = &cs_recorder.adopted, *adopted;
    applied_e result = APPLIED_NONE;

    pthread_mutex_lock(&cs_recorder.lock);
    adopted = *link;
    pthread_mutex_unlock(&cs_recorder.lock);
    while (adopted && result != APPLIED_LOST) {
        applied_e now = apply(database, adopted->journal);

        result = now > result ? now : result;
        pthread_mutex_lock(&cs_recorder.lock);
        if (is_done(adopted)) {
            for (link = &cs_recorder.adopted; *link != adopted; link = &(*link)->next) {}
            *link = adopted->next;
            pthread_mutex_unlock(&cs_recorder.lock);
            cs_journal_close(adopted->journal);
            free(adopted);
            return APPLIED_SOME; /* look again from the beginning */
        }
        adopted = adopted->next;
        pthread_mutex_unlock(&cs_recorder.lock);
    }
    return result;
}

/* ---- retention ---------------------------------------------------------------------------------------------------- */

static void purge(cs_database_t *database)
{
    apr_time_t before = apr_time_now() - apr_time_from_sec(86400) * cs_recorder.conf.retention_days;
    uint64_t sessions = 0, rows = 0;
    char error[512] = "";
    cs_store_t *store;

    cs_store_e rc;

    store = cs_database_store(database); /* before the turn is taken, which nobody else takes for an hour */
    if (!store || !cs_log_purge_is_due(cs_recorder.log, cs_clock_mono(), RETENTION_ROUND)) {
        return;
    }
    atomic_store(&cs_recorder.asks, cs_clock_mono());
    rc = cs_store_purge(store, cs_recorder.journal, before, &sessions, &rows, error, sizeof(error));
    atomic_store(&cs_recorder.asks, 0);
    switch (rc) {
    case CS_STORE_OK:
        if (sessions || rows) {
            ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, cs_recorder.server,
                         "chatstream: removed what is older than ChatStreamRetention: %" APR_UINT64_T_FMT
                         " sessions, %" APR_UINT64_T_FMT " rows of the audit trail",
                         sessions, rows);
        }
        break;
    case CS_STORE_LOST:
        cs_database_lost(database, error);
        break;
    default:
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, cs_recorder.server, "chatstream: ChatStreamRetention: %s", error);
    }
}

/* ---- the thread --------------------------------------------------------------------------------------------------- */

/* The last rounds of a child: as much as the database takes in this time, but no waiting for one that is away. */
static void apply_rest(cs_database_t *database)
{
    apr_time_t until = cs_clock_mono() + STORE_REST;

    while (apply(database, cs_recorder.journal) == APPLIED_SOME && cs_clock_mono() < until) {}
}

/* At the start, and after it was away, with nothing to write that would show. */
static void look_for_it(cs_database_t *database)
{
    if (atomic_load(&cs_recorder.database) != CS_DATABASE_OK && cs_database_store(database)) {
        cs_database_works(database);
    }
}

void *cs_keeping_run(void *baton)
{
    cs_database_t *database = baton;

    while (!atomic_load(&cs_recorder.recorder_ended)) {
        applied_e result = apply(database, cs_recorder.journal);

        if (result != APPLIED_LOST) {
            applied_e adopted = apply_adopted(database);

            result = adopted > result ? adopted : result;
        }
        if (result == APPLIED_NONE) {
            look_for_it(database);
            purge(database);
        }
        if (result != APPLIED_SOME || atomic_load(&cs_recorder.stopping)) {
            cs_recorder_nap(&cs_recorder.store_wake, NAP);
        }
    }
    apply_rest(database);
    cs_database_close(database);
    return NULL;
}

void cs_recorder_give_up(void)
{
    while (cs_recorder.adopted) {
        cs_adopted_t *adopted = cs_recorder.adopted;

        cs_recorder.adopted = adopted->next;
        cs_open_list_close(adopted->open, 0);
        cs_journal_close(adopted->journal);
        free(adopted);
    }
    /* Streams that could not be closed in the journal (a full disk) stand on the list still: then all of it is left to be adopted. */
    cs_open_list_close(cs_recorder.open, !cs_recorder.left_open);
    cs_journal_close(cs_recorder.journal);
}
