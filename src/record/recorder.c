/* SPDX-License-Identifier: Apache-2.0 */
/* The recorder of a child: its state directory, its threads, its end. */
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_dbd.h>
#include <apr_network_io.h>
#include <apr_strings.h>
#include <ap_mpm.h>
#include <httpd.h>
#include <http_log.h>
#include <unixd.h>

APLOG_USE_MODULE(chatstream);

/* The MPM's parent loses its patience after three seconds, and kills after nine. */
#define INSIDE_TIME   apr_time_from_msec(500)  /* for request threads to be done with the journal */
#define RECORDER_TIME apr_time_from_msec(2000) /* for the recorder thread to journal what was told */
#define STORE_TIME    apr_time_from_msec(2500) /* for the store thread, which stops itself after STORE_REST (keeping.c) */
#define HANGS         apr_time_from_msec(1000) /* a database that was asked so long ago does not answer */
#define CANCEL_TIME   apr_time_from_msec(500)

/* libpq waits for ever when somebody accepts and says nothing, also in mod_dbd's own child_init. DBDParams may say otherwise. */
#define PGSQL_CONNECT_TIMEOUT "2"

cs_recorder_t cs_recorder;

static struct {
    pthread_t recorder, store;
    int has_store;
    cs_database_t *database;
} threads;

/* ---- parent ------------------------------------------------------------------------------------------------------ */

static int refuse_dir(server_rec *server, const char *path, apr_status_t rv, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_EMERG, rv, server, "chatstream: ChatStreamStateDir: '%s' %s", path, what);
    return HTTP_INTERNAL_SERVER_ERROR;
}

/* What is in it tells who asked what, so it is the children's alone. */
static int make_dir(apr_pool_t *pool, server_rec *server, const char *path)
{
    apr_status_t rv = apr_dir_make_recursive(path, APR_FPROT_UREAD | APR_FPROT_UWRITE | APR_FPROT_UEXECUTE, pool);
    struct stat info;

    if (rv) {
        return refuse_dir(server, path, rv, "cannot be made");
    }
    if (stat(path, &info) || !S_ISDIR(info.st_mode)) {
        return refuse_dir(server, path, errno, "is no directory");
    }
    if (geteuid() == 0 && info.st_uid != ap_unixd_config.user_id
        && chown(path, ap_unixd_config.user_id, ap_unixd_config.group_id)) {
        return refuse_dir(server, path, errno, "cannot be given to the user the children run as");
    }
    return OK;
}

int cs_record_post_config(apr_pool_t *pconf, server_rec *server)
{
    cs_server_config_t conf;
    apr_status_t rv;

    if (!cs_config_has_records()) {
        return OK;
    }
    cs_config_records(pconf, server, &conf);
    rv = apr_dbd_init(pconf);
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, server, "chatstream: ChatStreamRecord: apr_dbd cannot be used");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    setenv("PGCONNECT_TIMEOUT", PGSQL_CONNECT_TIMEOUT, 0);
    return make_dir(pconf, server, conf.state_dir);
}

/* ---- child ------------------------------------------------------------------------------------------------------- */

/* Not even the journal can be written: then nothing may be streamed that should be recorded. */
static int refuse_everything(const cs_opened_t *what, void **ticket)
{
    *ticket = NULL;
    return !what->conf->record || cs_recorder.conf.journal_admits;
}

static void ignore_closed(void *ticket, const cs_closed_t *what)
{
    (void)ticket;
    (void)what;
}

static void ignore_incident(const cs_incident_t *what)
{
    (void)what;
}

static const cs_observer_t refusing = {refuse_everything, ignore_closed, ignore_incident};

static apr_status_t start_journal(char *error, size_t size)
{
    cs_journal_options_t options = {
        cs_recorder.conf.state_dir, cs_recorder.node, {{0}}, (cs_sync_e)cs_recorder.conf.journal_sync};
    apr_status_t rv;

    cs_log_arena_id(cs_recorder.log, &options.arena);
    rv = cs_journal_create(&cs_recorder.journal, &options, error, size);
    if (rv) {
        return rv;
    }
    rv = cs_open_list_open(&cs_recorder.open, options.dir, cs_journal_chain(cs_recorder.journal));
    if (rv) {
        apr_snprintf(error, size, "the list of open streams cannot be made");
        cs_journal_close(cs_recorder.journal);
    }
    return rv;
}

/* The MPM's signals are for the threads that expect them; on prefork a handler would end the child from within ours. */
static apr_status_t start_threads(void)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    apr_status_t rv = cs_database_create(&threads.database, cs_recorder.pool);
    sigset_t blocked, before;
    size_t i;

    if (rv) {
        return rv;
    }
    sigfillset(&blocked);
    for (i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        sigdelset(&blocked, own[i]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    rv = pthread_create(&threads.recorder, NULL, cs_recorder_run, NULL);
    if (!rv) {
        rv = pthread_create(&threads.store, NULL, cs_keeping_run, threads.database);
        threads.has_store = rv == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rv;
}

void cs_record_child_start(apr_pool_t *pchild, server_rec *server, cs_log_t *log, uint32_t child)
{
    char error[512] = "";
    apr_status_t rv;

    if (!cs_config_has_records()) {
        return;
    }
    cs_recorder.server = server;
    cs_recorder.log = log;
    cs_recorder.child = child;
    cs_config_records(pchild, server, &cs_recorder.conf);
    pthread_mutex_init(&cs_recorder.lock, NULL);
    sem_init(&cs_recorder.wake, 0, 0);
    sem_init(&cs_recorder.store_wake, 0, 0);
    if (apr_gethostname(cs_recorder.node, sizeof(cs_recorder.node), pchild)) {
        memcpy(cs_recorder.node, "localhost", sizeof("localhost"));
    }
    /* Of nobody: a driver that hangs may still use it when everything else goes. */
    rv = apr_pool_create_unmanaged(&cs_recorder.pool);
    if (!rv) {
        rv = start_journal(error, sizeof(error));
    }
    if (!rv) {
        rv = start_threads();
    }
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, server, "chatstream: the recorder cannot start: %s; streams are %s",
                     error, cs_recorder.conf.journal_admits ? "not recorded" : "refused");
        cs_observer_set(&refusing);
        return;
    }
    atomic_store(&cs_recorder.on, 1);
    cs_observer_set(&cs_record_observer);
}

static int join(pthread_t thread, apr_time_t patience)
{
    apr_time_t when = apr_time_now() + patience;
    struct timespec until = {(time_t)apr_time_sec(when), (long)apr_time_usec(when) * 1000};

    return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

static int hangs(void)
{
    apr_time_t asks = atomic_load(&cs_recorder.asks);

    return asks && cs_clock_mono() - asks >= HANGS;
}

/*
 * The store thread may hang in its driver for as long as the database does. 1: it has ended in order. One that was cancelled may have held
 * a lock, so nothing of ours is touched any more, and whoever adopts the chain finishes what it was at.
 */
static int end_store_thread(void)
{
    apr_time_t until = cs_clock_mono() + STORE_TIME;

    do {
        if (join(threads.store, apr_time_from_msec(50))) {
            return 1;
        }
    } while (cs_clock_mono() < until && !hangs());
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, cs_recorder.server,
                 "chatstream: the database does not answer; what it has not taken waits in '%s'",
                 cs_recorder.conf.state_dir);
    if (cs_database_may_be_cancelled(threads.database) && !pthread_cancel(threads.store)
        && join(threads.store, CANCEL_TIME)) {
        cs_database_close(threads.database); /* mod_dbd's pool wants back what it lent */
    }
    return 0;
}

/*
 * On prefork this may run in a signal handler over the one thread that serves requests, which may be inside, with the journal's lock: then
 * there is nothing to wait for, and others finish, as after a kill.
 */
static int wait_for_leaving(void)
{
    apr_time_t until = cs_clock_mono() + INSIDE_TIME;
    int threaded = 0;

    if (ap_mpm_query(AP_MPMQ_IS_THREADED, &threaded) || !threaded) {
        return !atomic_load(&cs_recorder.inside);
    }
    while (atomic_load(&cs_recorder.inside) && cs_clock_mono() < until) {
        apr_sleep(1000);
    }
    return !atomic_load(&cs_recorder.inside);
}

void cs_record_child_stop(void)
{
    int all_left, all_told;

    if (!atomic_exchange(&cs_recorder.on, 0)) {
        return;
    }
    all_left = wait_for_leaving();
    atomic_store(&cs_recorder.stopping, 1);
    sem_post(&cs_recorder.wake);
    all_told = join(threads.recorder, RECORDER_TIME);
    atomic_store(&cs_recorder.recorder_ended, 1);
    sem_post(&cs_recorder.store_wake);
    if (end_store_thread() && all_told && all_left) {
        cs_recorder_give_up();
    }
}

/* ---- health ------------------------------------------------------------------------------------------------------ */

void cs_record_health(cs_record_health_t *health)
{
    apr_time_t oldest = atomic_load(&cs_recorder.oldest);

    memset(health, 0, sizeof(*health));
    if (!cs_recorder_enter()) { /* it could not start, or has ended already; or there is nothing to record */
        health->refuses = cs_recorder.server && !cs_recorder.conf.journal_admits;
        return;
    }
    health->database = (cs_database_e)atomic_load(&cs_recorder.database);
    health->journal_bytes = atomic_load(&cs_recorder.usage);
    health->oldest_s = oldest ? apr_time_sec(apr_time_now() - oldest) : 0;
    health->journal_full = cs_recorder_is_full(1);
    health->refuses = health->journal_full && !cs_recorder.conf.journal_admits;
    health->unrecorded = atomic_load(&cs_recorder.unrecorded);
    health->saved = atomic_load(&cs_recorder.saved);
    health->refused = atomic_load(&cs_recorder.refused);
    cs_recorder_leave();
}
