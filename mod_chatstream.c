/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front door: module record, hooks, the life of a child. Everything else is a room's.
 *
 * parent: post_config makes the arena, once; a graceful restart finds it again.
 * child:  child_init attaches and starts the loop thread; child_stopping (SIGTERM, restart) ends all streams first thing;
 *         a graceful end lets them run until nobody is left, then the pool's pre-cleanup stops the loop.
 */
#include <signal.h>
#include <unistd.h>

#include <apr_signal.h>
#include <apr_strings.h>
#include <ap_mpm.h>
#include <httpd.h>
#include <http_config.h>
#include <http_core.h>
#include <http_log.h>
#include <http_main.h>
#include <mod_watchdog.h>
#include <mpm_common.h>

#include "chatstream/config.h"
#include "chatstream/log.h"
#include "chatstream/record.h"
#include "chatstream/request.h"
#include "chatstream/sink.h"
#include "chatstream/stream.h"

#define RETAINED_KEY   "mod_chatstream"
#define REAP_INTERVAL  apr_time_from_msec(500)
#define REAP_ASK       apr_time_from_msec(200)
#define SPARE_CHILDREN 16 /* old children that still serve while new ones have started */

typedef struct {
    cs_log_t *log;
    cs_gate_t *gate;
} retained_t;

static retained_t *retained;
static volatile sig_atomic_t told_to_stop;

/* ---- parent ------------------------------------------------------------------------------------------------------ */

static uint32_t max_children(void)
{
    int daemons = 0;

    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &daemons);
    return (uint32_t)(daemons > 0 ? daemons : 1) + SPARE_CHILDREN;
}

static int make_arena(server_rec *s)
{
    cs_log_geometry_t geometry = {.max_children = max_children()};
    apr_int64_t max_streams, bytes;
    apr_status_t rv;

    cs_config_server_values(s, &max_streams, &bytes);
    geometry.max_streams = (uint32_t)max_streams;
    geometry.bytes = (uint64_t)bytes;
    if (retained->log && cs_log_has_geometry(retained->log, &geometry)) {
        return OK;
    }
    if (retained->log) {
        ap_log_error(
            APLOG_MARK, APLOG_NOTICE, 0, s,
            "chatstream: ChatStreamMaxStreams or ChatStreamArena changed: streams that began before this restart end in "
            "their own children and cannot be resumed from new ones");
        cs_log_destroy(retained->log);
    }
    rv = cs_log_create(&retained->log, &geometry);
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s,
                     "chatstream: ChatStreamArena: cannot get %" APR_INT64_T_FMT " bytes of shared memory", bytes);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return OK;
}

/* Counts of starts outlive a graceful restart, unless a limit grew past what the table was made for. */
static int make_gate(server_rec *s)
{
    uint32_t rate_max = cs_config_rate_max();
    apr_status_t rv = APR_SUCCESS;

    if (!retained->gate || !cs_gate_holds(retained->gate, rate_max)) {
        cs_gate_destroy(retained->gate);
        rv = cs_gate_create(&retained->gate, rate_max);
    }
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s, "chatstream: cannot get shared memory for rate limits");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    cs_request_set_gate(retained->gate);
    cs_request_load_flags(s);
    return OK;
}

static apr_status_t reap(int state, void *data, apr_pool_t *pool)
{
    (void)pool;
    if (state == AP_WATCHDOG_STATE_RUNNING && retained && retained->log
        && cs_log_reap_is_due(retained->log, cs_clock_mono(), REAP_INTERVAL)) {
        unsigned lost = cs_log_reap(retained->log, cs_clock_mono());

        if (lost) {
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, data, "chatstream: a child was lost, and %u streams with it", lost);
        }
        cs_request_look_at_flags(data);
    }
    return APR_SUCCESS;
}

static apr_status_t fetch_keys(int state, void *data, apr_pool_t *pool)
{
    (void)pool;
    if (state != AP_WATCHDOG_STATE_STOPPING) { /* at its start too: the first token may come right after */
        cs_request_fetch_keys(data);
    }
    return APR_SUCCESS;
}

typedef APR_OPTIONAL_FN_TYPE(ap_watchdog_get_instance) watchdog_get_t;
typedef APR_OPTIONAL_FN_TYPE(ap_watchdog_register_callback) watchdog_add_t;

/* A thread for each key set: it may wait for another server for seconds, and the others' keys must not. */
static apr_status_t start_fetchers(apr_pool_t *p, watchdog_get_t *get, watchdog_add_t *add)
{
    cs_key_source_t *source;
    ap_watchdog_t *watchdog;
    apr_status_t rv = APR_SUCCESS;
    int i = 0;

    for (source = cs_config_key_sources(); source && !rv; source = source->next) {
        if (source->is_url) {
            rv = get(&watchdog, apr_psprintf(p, "_chatstream_keys_%d_", i++), 0, 0, p);
            rv = rv ? rv : add(watchdog, REAP_ASK, source, fetch_keys);
        }
    }
    return rv;
}

static int start_watchdogs(apr_pool_t *p, server_rec *s)
{
    APR_OPTIONAL_FN_TYPE(ap_watchdog_get_instance) *get = APR_RETRIEVE_OPTIONAL_FN(ap_watchdog_get_instance);
    APR_OPTIONAL_FN_TYPE(ap_watchdog_register_callback) *add = APR_RETRIEVE_OPTIONAL_FN(ap_watchdog_register_callback);
    ap_watchdog_t *watchdog;
    apr_status_t rv = APR_ENOTIMPL;

    /*
     * Not a singleton: when the child that holds one is killed, mod_watchdog waits ten seconds before another takes over, and
     * it is the killed child's streams that want reaping. Each child asks; the arena says whose turn it is.
     */
    if (!get || !add || (rv = get(&watchdog, "_chatstream_", 0, 0, p)) || (rv = add(watchdog, REAP_ASK, s, reap))) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s, "chatstream: mod_watchdog is needed: LoadModule watchdog_module");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    rv = start_fetchers(p, get, add);
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s, "chatstream: cannot start the watchdogs that fetch keys");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return OK;
}

static int check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    int rc = cs_config_check(ptemp, s, max_children());

    (void)plog;
    return rc == OK ? cs_request_load_keys(pconf, s) : rc; /* here, so that httpd -t says what is wrong with a key */
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    (void)plog;
    (void)ptemp;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK; /* the first of two readings of the configuration */
    }
    retained = ap_retained_data_get(RETAINED_KEY);
    if (!retained) {
        retained = ap_retained_data_create(RETAINED_KEY, sizeof(*retained));
    }
    if (make_arena(s) != OK || make_gate(s) != OK || cs_record_post_config(pconf, s) != OK) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return start_watchdogs(pconf, s);
}

/* ---- child ------------------------------------------------------------------------------------------------------- */

/* On prefork this runs in the signal handler of the very thread that reads: waiting for it would be in vain. */
static unsigned readers_to_wait_for(void)
{
    int threaded = 0;

    return ap_mpm_query(AP_MPMQ_IS_THREADED, &threaded) == APR_SUCCESS && threaded ? cs_sink_count() : 0;
}

static void stop_now(void)
{
    cs_stream_child_stop(readers_to_wait_for);
    cs_sink_close_all();
    cs_record_child_stop();
}

static void note_signal(int sig)
{
    (void)sig;
    told_to_stop = 1;
}

static int give_up(void)
{
    /* The parent may die meanwhile: then nobody will tell us any more. */
    return told_to_stop || getppid() == 1;
}

/*
 * The child's last act. After a graceful end no connection is left, but detached streams and those in their grace time
 * are; SIGTERM cuts the wait short.
 */
static apr_status_t child_exit(void *data)
{
    (void)data;
    apr_signal(SIGTERM, note_signal);
    cs_stream_child_drain(give_up);
    stop_now();
    return APR_SUCCESS;
}

static void child_init(apr_pool_t *pchild, server_rec *s)
{
    if (!retained || !retained->log || cs_stream_child_start(pchild, s, retained->log)) {
        return; /* logged; handlers answer 503 */
    }
    cs_record_child_start(pchild, s, cs_stream_log(), cs_stream_child());
    cs_sink_child_init(cs_stream_log(), cs_stream_hub(), cs_stream_loop());
    apr_pool_pre_cleanup_register(pchild, NULL, child_exit);
}

static void child_stopping(apr_pool_t *pchild, int graceful)
{
    (void)pchild;
    if (!graceful) {
        stop_now();
    }
}

/* ---- module ------------------------------------------------------------------------------------------------------ */

static void register_hooks(apr_pool_t *pool)
{
    static const char *const after[] = {"mod_dbd.c", NULL}; /* the recorder asks it for a connection at once */

    (void)pool;
    ap_hook_check_config(check_config, NULL, NULL, APR_HOOK_LAST);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(child_init, after, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_MIDDLE);
    cs_request_register_hooks();
    cs_sink_register_hooks();
}

AP_DECLARE_MODULE(chatstream) = {
    STANDARD20_MODULE_STUFF, cs_config_create_dir, cs_config_merge_dir, cs_config_create_server,
    cs_config_merge_server,  cs_config_directives, register_hooks,      AP_MODULE_FLAG_NONE,
};
