/* SPDX-License-Identifier: Apache-2.0 */
/* What can only be checked when the whole configuration is known. */
#include <stdlib.h>

#include <apr_strings.h>
#include <ap_mpm.h>
#include <util_cfgtree.h>
#include <http_core.h>
#include <http_log.h>

#include "chatstream/config.h"
#include "chatstream/log.h"
#include "merge.h"

APLOG_USE_MODULE(chatstream);

typedef struct {
    apr_pool_t *pool;
    server_rec *server;
    int failed;
} check_t;

#define REPLAY_FACTOR 8 /* an event may pass the replay size, but not the arena */

static void check_sections(check_t *check, const apr_array_header_t *sections, const cs_dir_config_t *base);

static void fail(check_t *check, const char *where, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_EMERG, 0, check->server, "chatstream: %s: %s", where ? where : "server config",
                 what);
    check->failed = 1;
}

static void check_upstreams(check_t *check, const cs_dir_config_t *conf)
{
    int i;

    for (i = 0; i < conf->upstreams->nelts; i++) {
        const cs_upstream_t *upstream = &APR_ARRAY_IDX(conf->upstreams, i, cs_upstream_t);

        if (cs_dialect_needs_model(upstream->dialect) && !conf->model && !conf->template) {
            fail(check, conf->location,
                 apr_psprintf(check->pool,
                              "ChatStreamUpstream %s: its dialect needs ChatStreamModel or ChatStreamRequestTemplate",
                              upstream->name));
        }
    }
    if (APR_ARRAY_IDX(conf->upstreams, 0, cs_upstream_t).backup) {
        fail(check, conf->location, "ChatStreamUpstream: every one is a backup; one must not be");
    }
}

/*
 * The SetHandler that holds here. httpd keeps it as an expression that tells nothing before there is a request, only
 * where it stands; the configuration tree has its words.
 */
static const ap_directive_t *directive_of(const ap_directive_t *tree, const ap_expr_info_t *expr)
{
    const ap_directive_t *found = NULL;

    for (; tree && !found; tree = tree->next) {
        if (tree->line_num == (int)expr->line_number && !strcasecmp(tree->directive, "SetHandler")
            && !strcmp(tree->filename, expr->filename)) {
            return tree;
        }
        found = directive_of(tree->first_child, expr);
    }
    return found;
}

static void check_handler(check_t *check, const ap_expr_info_t *expr)
{
    const ap_directive_t *set = expr ? directive_of(ap_conftree, expr) : NULL;
    const char *args = set ? set->args : "", *handler = ap_getword_conf(check->pool, &args);

    if (!strcasecmp(handler, "chatstream") || !strcasecmp(handler, "chatstream-complete")) {
        fail(check,
             apr_psprintf(check->pool, "%s line %d%s%s%s%s", set->filename, set->line_num, set->parent ? ", " : "",
                          set->parent ? set->parent->directive : "", set->parent ? " " : "",
                          set->parent ? set->parent->args : ""),
             apr_psprintf(check->pool, "SetHandler %s needs a ChatStreamUpstream", handler));
    }
}

/* A section by itself, within what its surroundings say (`base`): requests may meet it alone. */
static void check_section(check_t *check, ap_conf_vector_t *vector, const cs_dir_config_t *base)
{
    const core_dir_config *core = ap_get_core_module_config(vector);
    /* A section that says nothing to a module has no configuration of it. */
    void *own = cs_config_dir(vector) ? cs_config_dir(vector) : cs_config_create_dir(check->pool, NULL);
    cs_dir_config_t *inherited = cs_config_merge_dir(check->pool, (void *)base, own);
    cs_dir_config_t *conf = apr_pmemdup(check->pool, inherited, sizeof(*conf));

    cs_config_fill_dir(conf);
    if (conf->upstreams) {
        check_upstreams(check, conf);
    }
    else if (core) {
        check_handler(check, core->expr_handler);
    }
    if (conf->max_event > conf->replay_bytes * REPLAY_FACTOR) {
        fail(check, conf->location,
             apr_psprintf(check->pool,
                          "ChatStreamMaxEvent: %" APR_INT64_T_FMT
                          " bytes are too many for ChatStreamReplay %" APR_INT64_T_FMT
                          "; allowed is %d times as much, %" APR_INT64_T_FMT,
                          conf->max_event, conf->replay_bytes, REPLAY_FACTOR, conf->replay_bytes * REPLAY_FACTOR));
    }
    if (core) {
        check_sections(check, core->sec_file, inherited);
        check_sections(check, core->sec_if, inherited);
    }
}

static void check_sections(check_t *check, const apr_array_header_t *sections, const cs_dir_config_t *base)
{
    int i;

    for (i = 0; sections && i < sections->nelts; i++) {
        check_section(check, APR_ARRAY_IDX(sections, i, ap_conf_vector_t *), base);
    }
}

static void check_server(check_t *check, server_rec *server)
{
    const core_server_config *core = ap_get_core_module_config(server->module_config);
    const cs_dir_config_t *base = cs_config_dir(server->lookup_defaults);

    check->server = server;
    check_section(check, server->lookup_defaults, base);
    check_sections(check, core->sec_url, base);
    check_sections(check, core->sec_dir, base);
}

static void check_arena(check_t *check, server_rec *main_server, uint32_t max_children)
{
    apr_int64_t max_streams, bytes, needed;

    cs_config_server_values(main_server, &max_streams, &bytes);
    needed = (apr_int64_t)cs_log_bytes_needed((uint32_t)max_streams, max_children);
    if (bytes < needed) {
        check->server = main_server;
        fail(check, NULL,
             apr_psprintf(check->pool,
                          "ChatStreamArena: %" APR_INT64_T_FMT
                          " bytes are too small for ChatStreamMaxStreams %" APR_INT64_T_FMT
                          "; allowed is %" APR_INT64_T_FMT "k or more",
                          bytes, max_streams, needed / 1024 + 1));
    }
}

/* The MPM keeps the value to itself, the configuration tree has it. */
static double async_factor(void)
{
    const ap_directive_t *directive;
    double factor = 2; /* the MPM's default */

    for (directive = ap_conftree; directive; directive = directive->next) {
        if (!strcasecmp(directive->directive, "AsyncRequestWorkerFactor")) {
            factor = strtod(directive->args, NULL);
        }
    }
    return factor;
}

/* A child of the event MPM stops accepting when it holds threads + idle threads * factor connections, suspended ones too. */
static void warn_about_mpm(server_rec *main_server)
{
    apr_int64_t max_streams, bytes;
    int async = 0, daemons = 0, threads = 0;
    double room;

    cs_config_server_values(main_server, &max_streams, &bytes);
    if (ap_mpm_query(AP_MPMQ_IS_ASYNC, &async) || !async || ap_mpm_query(AP_MPMQ_MAX_DAEMONS, &daemons)
        || ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads) || daemons < 1 || threads < 1) {
        return;
    }
    room = (double)daemons * threads * (1 + async_factor());
    if (room < (double)max_streams) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, main_server,
                     "chatstream: the MPM holds about %.0f connections, ChatStreamMaxStreams is %" APR_INT64_T_FMT
                     ": set AsyncRequestWorkerFactor to %.0f or more",
                     room, max_streams, (double)max_streams / daemons / threads);
    }
}

int cs_config_check(apr_pool_t *temporary, server_rec *main_server, uint32_t max_children)
{
    check_t check = {temporary, main_server, 0};
    server_rec *server;

    for (server = main_server; server; server = server->next) {
        check_server(&check, server);
    }
    check_arena(&check, main_server, max_children);
    warn_about_mpm(main_server);
    return check.failed ? HTTP_INTERNAL_SERVER_ERROR : OK;
}

void cs_config_of(const request_rec *r, cs_dir_config_t *conf)
{
    *conf = *cs_config_dir(r->per_dir_config);
    cs_config_fill_dir(conf);
}
