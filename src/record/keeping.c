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

typedef enum { APPLIED_NONE, APPLIED_SOME, APPLIED_LOST } applied_e;

/* ---- one batch ---------------------------------------------------------------------------------------------------- */

static void set_aside(const cs_journal_t *journal, const cs_fact_t *fact, const char *error)
{
    const cs_text_t *id = &fact->text[CS_TXT_STREAM_ID];

    atomic_fetch_add(&cs_recorder.refused, 1);
    ap_log_error(
        APLOG_MARK, APLOG_ERR, 0, cs_recorder.server,
        "chatstream: the database will not take a fact (%s of stream %.*s, journal %s): %s; it is set aside in "
        "'%s'",
        cs_fact_kind_name(fact->kind), (int)(id->data ? id->len : 1), id->data ? id->data : "-",
        cs_journal_chain(journal), error, cs_recorder.conf.state_dir);
    if (cs_refused_append(cs_recorder.conf.state_dir, cs_journal_chain(journal), fact)) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, cs_recorder.server,
                     "chatstream: and it could not be set aside: it is lost");
    }
}

/* Applies at most `max` facts as one transaction. `*count`: facts in it. */
static cs_store_e apply_some(cs_store_t *store, cs_journal_t *journal, unsigned max, unsigned *count,
                             cs_fact_t *refused, char *error, size_t size)
{
    cs_journal_place_t place;
    cs_store_e rc = CS_STORE_OK;
    int has_place = 0;
    cs_fact_t fact;

    *count = 0;
    while (rc == CS_STORE_OK && *count < max) {
        cs_journal_read_e got = cs_journal_read(journal, &fact, &place, error, size);

        if (got == CS_JOURNAL_END) {
            break;
        }
        if (got == CS_JOURNAL_CORRUPT) {
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, cs_recorder.server, "chatstream: %s", error);
            has_place |= *count > 0;
            continue;
        }
        if (!*count && (rc = cs_store_begin(store, error, size)) != CS_STORE_OK) {
            break;
        }
        rc = cs_store_apply(store, cs_journal_chain(journal), cs_recorder.node, &fact, error, size);
        *count += rc == CS_STORE_OK;
        has_place = 1;
        if (rc == CS_STORE_REFUSED && refused) {
            *refused = fact; /* borrowed from the journal's buffer until the next read */
        }
    }
    if (rc == CS_STORE_OK && *count) {
        rc = cs_store_commit(store, error, size);
    }
    if (rc != CS_STORE_OK) {
        cs_store_rollback(store);
        if (rc == CS_STORE_REFUSED && refused) {
            set_aside(journal, refused, error);
            cs_journal_applied(journal, &place);
        }
        else {
            cs_journal_rewind(journal);
        }
        return rc;
    }
    if (*count && has_place) {
        cs_journal_applied(journal, &place);
        atomic_fetch_add(&cs_recorder.saved, *count);
    }
    return CS_STORE_OK;
}

/* Somewhere in the batch is a fact that the database refuses: one by one, so that only that one stays out. */
static cs_store_e apply_singly(cs_store_t *store, cs_journal_t *journal, char *error, size_t size)
{
    unsigned i, count = 1;
    cs_store_e rc = CS_STORE_OK;
    cs_fact_t refused;

    for (i = 0; i < BATCH && count && rc != CS_STORE_LOST; i++) {
        rc = apply_some(store, journal, 1, &count, &refused, error, size);
        count |= rc == CS_STORE_REFUSED;
    }
    return rc == CS_STORE_REFUSED ? CS_STORE_OK : rc;
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
    rc = apply_some(store, journal, BATCH, &count, NULL, error, sizeof(error));
    if (rc == CS_STORE_REFUSED) {
        rc = apply_singly(store, journal, error, sizeof(error));
        count = BATCH;
    }
    if (rc == CS_STORE_LOST) {
        cs_database_lost(database, error);
        return APPLIED_LOST;
    }
    cs_database_works(database);
    return count == BATCH ? APPLIED_SOME : APPLIED_NONE; /* a few at a time would be a transaction each */
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

    if (!cs_log_purge_is_due(cs_recorder.log, cs_clock_mono(), RETENTION_ROUND)) {
        return;
    }
    store = cs_database_store(database);
    if (!store) {
        return;
    }
    switch (cs_store_purge(store, cs_recorder.journal, before, &sessions, &rows, error, sizeof(error))) {
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

static void nap(void)
{
    struct timespec until;
    apr_time_t when = apr_time_now() + NAP;

    until.tv_sec = (time_t)apr_time_sec(when);
    until.tv_nsec = (long)apr_time_usec(when) * 1000;
    pthread_mutex_lock(&cs_recorder.lock);
    if (!cs_recorder.recorder_ended) {
        pthread_cond_timedwait(&cs_recorder.store_wake, &cs_recorder.lock, &until);
    }
    pthread_mutex_unlock(&cs_recorder.lock);
}

static int all_is_told(void)
{
    int ended;

    pthread_mutex_lock(&cs_recorder.lock);
    ended = cs_recorder.recorder_ended;
    pthread_mutex_unlock(&cs_recorder.lock);
    return ended;
}

/* The last rounds of a child: as much as the database takes, but no waiting for one that is away. */
static void apply_rest(cs_database_t *database)
{
    applied_e result;

    do {
        result = apply(database, cs_recorder.journal);
    } while (result == APPLIED_SOME);
}

void *cs_keeping_run(void *baton)
{
    cs_database_t *database = baton;

    while (!all_is_told()) {
        applied_e result = apply(database, cs_recorder.journal);

        if (result != APPLIED_LOST && apply_adopted(database) == APPLIED_SOME) {
            result = APPLIED_SOME;
        }
        if (result == APPLIED_NONE) {
            purge(database);
        }
        if (result != APPLIED_SOME || atomic_load(&cs_recorder.stopping)) {
            nap();
        }
    }
    apply_rest(database);
    cs_database_close(database);
    pthread_mutex_lock(&cs_recorder.lock);
    cs_recorder.store_ended = 1;
    pthread_cond_broadcast(&cs_recorder.store_wake);
    pthread_mutex_unlock(&cs_recorder.lock);
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
    if (!cs_recorder.left_open) {
        cs_journal_close(cs_recorder.journal);
    }
}
