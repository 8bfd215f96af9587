/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: what the directives said. Read at start-up, constant afterwards; lives as long as the configuration's pool.
 */
#ifndef CHATSTREAM_CONFIG_H
#define CHATSTREAM_CONFIG_H

#include <apr_hash.h>
#include <apr_tables.h>
#include <httpd.h>
#include <http_config.h>

#include "chatstream/event.h"
#include "chatstream/upstream.h"

typedef enum { CS_LEAVE_UNSET = 0, CS_LEAVE_ABORT, CS_LEAVE_DETACH } cs_leave_e;

typedef enum { CS_JOURNAL_SYNC_OFF = 1, CS_JOURNAL_SYNC_SECOND, CS_JOURNAL_SYNC_ALWAYS } cs_journal_sync_mode_e;
typedef enum { CS_AUTH_UNSET = 0, CS_AUTH_OFF, CS_AUTH_OPTIONAL, CS_AUTH_REQUIRED } cs_auth_e;
typedef enum { CS_RATE_BY_USER = 0, CS_RATE_BY_ADDRESS } cs_rate_by_e;

#define CS_UNSET (-1)

/* ChatStreamRecord; bits of `record`. */
#define CS_RECORD_SESSIONS   1
#define CS_RECORD_TRANSCRIPT 2
#define CS_RECORD_AUDIT      4

typedef struct {
    const char *bytes;
    apr_size_t len;
} cs_secret_t;

/* ChatStreamJWTKey, ChatStreamJWKS. What is in it becomes keys in the gate, once, after the configuration was read. */
typedef struct cs_key_source_t {
    struct cs_key_source_t *next; /* of this configuration */
    const char *directive;        /* for messages */
    const char *algorithm;        /* NULL: a key set */
    const char *place;            /* path, or URL */
    const char *ca_file;          /* of a URL; NULL: the system's */
    int is_url;
    struct cs_keys_t *keys; /* of a file; the gate's */
    struct cs_jwks_t *jwks; /* of a URL; the gate's */
} cs_key_source_t;

/* Times are microseconds, sizes bytes; CS_UNSET until merged with the defaults. */
typedef struct cs_dir_config_t {
    int enabled;
    apr_array_header_t *upstreams; /* of cs_upstream_t, those that are no backups first; NULL: none */
    apr_array_header_t *headers;   /* of const char *, "Name: value", with a NULL behind the last */
    cs_template_t *template;
    const char *model;
    const cs_format_t *format;
    apr_time_t timeout_total;
    apr_time_t timeout_headers;
    apr_time_t timeout_first_token;
    apr_time_t timeout_idle;
    apr_time_t heartbeat;
    apr_time_t commit_after;
    apr_int64_t replay_bytes;
    apr_time_t replay_keep;
    cs_leave_e on_disconnect;
    apr_time_t grace;
    int share;          /* of the users, in hundredths of a percent */
    apr_hash_t *cohort; /* names of users who are always in; NULL: none */
    cs_auth_e auth;
    int auth_expires;         /* a stream ends with its token */
    apr_array_header_t *keys; /* of cs_key_source_t *; NULL: tokens mean nothing here */
    const char *issuer;
    const char *audience;
    apr_time_t leeway;
    const char *user_header;
    apr_int64_t rate_count; /* starts in rate_window; 0: no limit */
    apr_time_t rate_window;
    cs_rate_by_e rate_by;
    const char *rate_group;   /* NULL: the location's own */
    apr_array_header_t *cors; /* of const char *, exact origins, or "*" alone; NULL or empty: none */
    apr_int64_t max_per_user;
    apr_int64_t max_message;
    apr_int64_t max_event;
    apr_int64_t max_answer;
    int record;                  /* CS_RECORD_*; 0: nothing */
    const cs_secret_t *hash_key; /* NULL: none */
    const char *profile;
    const char *location; /* the path this configuration belongs to; NULL: server level */
} cs_dir_config_t;

/* Of the main server; the others have none of their own. */
typedef struct cs_server_config_t {
    apr_int64_t max_streams;
    apr_int64_t arena_bytes;
    const char *flag_file;
    const char *state_dir;
    apr_int64_t journal_max;
    int journal_admits; /* when it is full, streams go on without being recorded */
    int journal_sync;   /* cs_journal_sync_mode_e */
    apr_int64_t retention_days;
} cs_server_config_t;

extern module AP_MODULE_DECLARE_DATA chatstream_module;
extern const command_rec cs_config_directives[];

void *cs_config_create_dir(apr_pool_t *pool, char *path);
void *cs_config_merge_dir(apr_pool_t *pool, void *base, void *add);
void *cs_config_create_server(apr_pool_t *pool, server_rec *server);
void *cs_config_merge_server(apr_pool_t *pool, void *base, void *add);

static inline cs_dir_config_t *cs_config_dir(ap_conf_vector_t *vector)
{
    return ap_get_module_config(vector, &chatstream_module);
}

/* The merged configuration of a request, defaults filled in; into the caller's own, since most callers need it for a moment. */
void cs_config_of(const request_rec *r, cs_dir_config_t *conf);
/* Defaults filled in. */
void cs_config_server_values(const server_rec *main_server, apr_int64_t *max_streams, apr_int64_t *arena_bytes);
const char *cs_config_flag_file(const server_rec *main_server); /* NULL: none */
/* The main server's, defaults filled in. */
void cs_config_records(apr_pool_t *pool, const server_rec *main_server, cs_server_config_t *conf);
/* Some location records something. */
int cs_config_has_records(void);
/* A directive outside of any virtual host, as it was written: NULL, there is none. */
const char *cs_config_main_directive(const char *name);
/* The texts of DBDPrepareSQL for labels that begin with `prefix`: label -> text. */
apr_hash_t *cs_config_prepared(apr_pool_t *pool, const char *prefix);
/* The section that sets the handler of this request has a Require that does not let everybody in. */
int cs_config_handler_is_guarded(const request_rec *r);
/* All of this configuration, the last one first. */
cs_key_source_t *cs_config_key_sources(void);
/*
 * All of a file whose path a directive named, into `file`, which bounds its size. `error`: why not, without its name.
 */
apr_status_t cs_config_read_file(apr_pool_t *pool, const char *path, cs_buf_t *file, char *error, size_t size);
/* The largest number of starts any ChatStreamRateLimit of this configuration allows; 0: there is none. */
uint32_t cs_config_rate_max(void);
/*
 * After the whole configuration was read: what only then can be checked. Logs each mistake; HTTP_INTERNAL_SERVER_ERROR stops the
 * start.
 */
int cs_config_check(apr_pool_t *temporary, server_rec *main_server, uint32_t max_children);

#endif
