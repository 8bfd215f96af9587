/* SPDX-License-Identifier: Apache-2.0 */
#include <apr_strings.h>
#include <httpd.h>
#include <http_config.h>

#include "merge.h"

void *cs_config_create_dir(apr_pool_t *pool, char *path)
{
    cs_dir_config_t *conf = apr_pcalloc(pool, sizeof(*conf));

    conf->enabled = CS_UNSET;
    conf->upstreams = NULL;
    conf->headers = NULL;
    conf->template = NULL;
    conf->model = NULL;
    conf->format = NULL;
    conf->timeout_total = CS_UNSET;
    conf->timeout_headers = CS_UNSET;
    conf->timeout_first_token = CS_UNSET;
    conf->timeout_idle = CS_UNSET;
    conf->heartbeat = CS_UNSET;
    conf->commit_after = CS_UNSET;
    conf->replay_bytes = CS_UNSET;
    conf->replay_keep = CS_UNSET;
    conf->on_disconnect = CS_LEAVE_UNSET;
    conf->grace = CS_UNSET;
    conf->share = CS_UNSET;
    conf->cohort = NULL;
    conf->auth = CS_AUTH_UNSET;
    conf->auth_expires = CS_UNSET;
    conf->keys = NULL;
    conf->issuer = NULL;
    conf->audience = NULL;
    conf->leeway = CS_UNSET;
    conf->user_header = NULL;
    conf->rate_count = CS_UNSET;
    conf->rate_window = CS_UNSET;
    conf->rate_by = CS_RATE_BY_USER;
    conf->rate_group = NULL;
    conf->cors = NULL;
    conf->max_per_user = CS_UNSET;
    conf->max_message = CS_UNSET;
    conf->max_event = CS_UNSET;
    conf->max_answer = CS_UNSET;
    conf->record = CS_UNSET;
    conf->hash_key = NULL;
    conf->profile = NULL;
    conf->location = path ? apr_pstrdup(pool, path) : NULL;
    return conf;
}

#define PICK(field, unset) (merged->field = over->field != (unset) ? over->field : under->field)

void *cs_config_merge_dir(apr_pool_t *pool, void *base, void *add)
{
    const cs_dir_config_t *under = base, *over = add, *limits;
    cs_dir_config_t *merged = apr_pcalloc(pool, sizeof(*merged));

    PICK(enabled, CS_UNSET);
    /* A location that names upstreams means those, not those of its server too. */
    PICK(upstreams, NULL);
    PICK(headers, NULL);
    PICK(template, NULL);
    PICK(model, NULL);
    PICK(format, NULL);
    PICK(timeout_total, CS_UNSET);
    PICK(timeout_headers, CS_UNSET);
    PICK(timeout_first_token, CS_UNSET);
    PICK(timeout_idle, CS_UNSET);
    PICK(heartbeat, CS_UNSET);
    PICK(commit_after, CS_UNSET);
    PICK(replay_bytes, CS_UNSET);
    PICK(replay_keep, CS_UNSET);
    PICK(on_disconnect, CS_LEAVE_UNSET);
    PICK(grace, CS_UNSET);
    PICK(share, CS_UNSET);
    PICK(cohort, NULL);
    /* What one directive says stays together. */
    merged->auth = over->auth != CS_AUTH_UNSET ? over->auth : under->auth;
    merged->auth_expires = over->auth != CS_AUTH_UNSET ? over->auth_expires : under->auth_expires;
    PICK(keys, NULL);
    PICK(issuer, NULL);
    PICK(audience, NULL);
    PICK(leeway, CS_UNSET);
    PICK(user_header, NULL);
    limits = over->rate_count != CS_UNSET ? over : under;
    merged->rate_count = limits->rate_count;
    merged->rate_window = limits->rate_window;
    merged->rate_by = limits->rate_by;
    merged->rate_group = limits->rate_group;
    PICK(cors, NULL);
    PICK(max_per_user, CS_UNSET);
    PICK(max_message, CS_UNSET);
    PICK(max_event, CS_UNSET);
    PICK(max_answer, CS_UNSET);
    PICK(record, CS_UNSET);
    PICK(hash_key, NULL);
    PICK(profile, NULL);
    PICK(location, NULL);
    return merged;
}

#define DEFAULT(field, unset, value)                                                                                   \
    do {                                                                                                               \
        if (conf->field == (unset)) {                                                                                  \
            conf->field = (value);                                                                                     \
        }                                                                                                              \
    } while (0)

void cs_config_fill_dir(cs_dir_config_t *conf)
{
    DEFAULT(enabled, CS_UNSET, 0);
    DEFAULT(format, NULL, cs_format_find("native"));
    DEFAULT(timeout_total, CS_UNSET, apr_time_from_sec(60));
    DEFAULT(timeout_headers, CS_UNSET, apr_time_from_sec(15));
    DEFAULT(timeout_first_token, CS_UNSET, apr_time_from_sec(60));
    DEFAULT(timeout_idle, CS_UNSET, apr_time_from_sec(30));
    DEFAULT(heartbeat, CS_UNSET, apr_time_from_sec(30));
    DEFAULT(commit_after, CS_UNSET, apr_time_from_sec(1));
    DEFAULT(replay_bytes, CS_UNSET, 256 * 1024);
    DEFAULT(replay_keep, CS_UNSET, apr_time_from_sec(300));
    DEFAULT(on_disconnect, CS_LEAVE_UNSET, CS_LEAVE_ABORT);
    DEFAULT(grace, CS_UNSET, apr_time_from_sec(10));
    DEFAULT(share, CS_UNSET, 10000);
    DEFAULT(auth, CS_AUTH_UNSET, CS_AUTH_OPTIONAL);
    DEFAULT(auth_expires, CS_UNSET, 0);
    DEFAULT(leeway, CS_UNSET, apr_time_from_sec(30));
    DEFAULT(rate_count, CS_UNSET, 0);
    DEFAULT(max_per_user, CS_UNSET, 1);
    DEFAULT(max_message, CS_UNSET, 32 * 1024);
    DEFAULT(max_event, CS_UNSET, 256 * 1024);
    DEFAULT(max_answer, CS_UNSET, 4 * 1024 * 1024);
    DEFAULT(record, CS_UNSET, 0);
    DEFAULT(profile, NULL, conf->location ? conf->location : "/");
}

void *cs_config_create_server(apr_pool_t *pool, server_rec *server)
{
    cs_server_config_t *conf = apr_pcalloc(pool, sizeof(*conf));

    (void)server;
    conf->max_streams = CS_UNSET;
    conf->arena_bytes = CS_UNSET;
    conf->flag_file = NULL;
    conf->state_dir = NULL;
    conf->journal_max = CS_UNSET;
    conf->journal_admits = CS_UNSET;
    conf->journal_sync = CS_UNSET;
    conf->retention_days = CS_UNSET;
    return conf;
}

void *cs_config_merge_server(apr_pool_t *pool, void *base, void *add)
{
    const cs_server_config_t *under = base, *over = add;
    cs_server_config_t *merged = apr_pcalloc(pool, sizeof(*merged));

    PICK(max_streams, CS_UNSET);
    PICK(arena_bytes, CS_UNSET);
    PICK(flag_file, NULL);
    PICK(state_dir, NULL);
    PICK(journal_max, CS_UNSET);
    PICK(journal_admits, CS_UNSET);
    PICK(journal_sync, CS_UNSET);
    PICK(retention_days, CS_UNSET);
    return merged;
}

void cs_config_server_values(const server_rec *main_server, apr_int64_t *max_streams, apr_int64_t *arena_bytes)
{
    const cs_server_config_t *conf = ap_get_module_config(main_server->module_config, &chatstream_module);

    *max_streams = conf->max_streams == CS_UNSET ? 4096 : conf->max_streams;
    *arena_bytes = conf->arena_bytes == CS_UNSET ? 64 * 1024 * 1024 : conf->arena_bytes;
}

const char *cs_config_flag_file(const server_rec *main_server)
{
    const cs_server_config_t *conf = ap_get_module_config(main_server->module_config, &chatstream_module);

    return conf->flag_file;
}

void cs_config_records(apr_pool_t *pool, const server_rec *main_server, cs_server_config_t *out)
{
    cs_server_config_t *conf = out;

    *conf = *(const cs_server_config_t *)ap_get_module_config(main_server->module_config, &chatstream_module);
    DEFAULT(state_dir, NULL, ap_runtime_dir_relative(pool, "chatstream"));
    DEFAULT(journal_max, CS_UNSET, (apr_int64_t)1024 * 1024 * 1024);
    DEFAULT(journal_admits, CS_UNSET, 0);
    DEFAULT(journal_sync, CS_UNSET, CS_JOURNAL_SYNC_SECOND);
    DEFAULT(retention_days, CS_UNSET, 90);
}
