/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>

#include "access.h"
#include "keeping.h"
#include "values.h"

#define DAY          apr_time_from_sec(86400)
#define TEMPLATE_MAX (1024 * 1024)

static unsigned upstream_count; /* gives each its place in the table of reusable handles; start-up is single-threaded */

/* "ChatStreamHeartbeat: '0' is not a time from ..." */
static const char *complain(cmd_parms *cmd, const char *what)
{
    return what ? apr_pstrcat(cmd->pool, cmd->cmd->name, ": ", what, NULL) : NULL;
}

/* What the directive's table entry points at, within the location's configuration. */
#define FIELD(type) ((type *)((char *)dir + (apr_size_t)cmd->info))
#define AT(field)   ((void *)offsetof(cs_dir_config_t, field))

static const char *set_flag(cmd_parms *cmd, void *dir, const char *text)
{
    return complain(cmd, cs_value_flag(cmd->pool, text, FIELD(int)));
}

/* httpd leaves ${NAME} as it is when nobody defined it; the second argument is for that. */
static const char *set_enabled(cmd_parms *cmd, void *dir, const char *text, const char *otherwise)
{
    return set_flag(cmd, dir, otherwise && !strncmp(text, "${", 2) ? otherwise : text);
}

static const char *set_time(cmd_parms *cmd, void *dir, const char *text)
{
    return complain(cmd, cs_value_time(cmd->pool, text, apr_time_from_msec(1), DAY, FIELD(apr_time_t)));
}

static const char *set_size(cmd_parms *cmd, void *dir, const char *text)
{
    return complain(cmd, cs_value_size(cmd->pool, text, 1, 64 * 1024 * 1024, FIELD(apr_int64_t)));
}

static const char *set_number(cmd_parms *cmd, void *dir, const char *text)
{
    return complain(cmd, cs_value_number(cmd->pool, text, 0, 1000000, FIELD(apr_int64_t)));
}

static const char *set_text(cmd_parms *cmd, void *dir, const char *text)
{
    if (!*text) {
        return complain(cmd, "an empty value is not allowed");
    }
    *FIELD(const char *) = text;
    return NULL;
}

/* What becomes a column and a label. */
static const char *set_name(cmd_parms *cmd, void *dir, const char *text)
{
    if (strlen(text) > 255 || !cs_utf8_valid(text, strlen(text))) {
        return complain(cmd, "the name is longer than 255 bytes or not UTF-8");
    }
    return set_text(cmd, dir, text);
}

/* ---- upstream ---------------------------------------------------------------------------------------------------- */

const char *cs_config_readable(apr_pool_t *pool, const char *path)
{
    apr_file_t *file;
    apr_status_t rv = apr_file_open(&file, path, APR_READ, APR_OS_DEFAULT, pool);
    char reason[128];

    if (rv) {
        return apr_psprintf(pool, "cannot read '%s': %s", path, apr_strerror(rv, reason, sizeof(reason)));
    }
    apr_file_close(file);
    return NULL;
}

static const char *upstream_option(cmd_parms *cmd, cs_upstream_t *upstream, const char *option)
{
    if (!strcmp(option, "backup")) {
        upstream->backup = 1;
        return NULL;
    }
    if (!strncmp(option, "dialect=", 8)) {
        upstream->dialect = cs_dialect_find(option + 8);
        return upstream->dialect
                   ? NULL
                   : apr_psprintf(cmd->pool, "unknown dialect '%s'; known are: %s", option + 8, cs_dialect_names());
    }
    if (!strncmp(option, "connect=", 8)) {
        return cs_value_time(cmd->pool, option + 8, apr_time_from_msec(1), apr_time_from_sec(3600),
                             &upstream->connect_timeout);
    }
    if (!strncmp(option, "ca=", 3)) {
        upstream->ca_file = ap_server_root_relative(cmd->pool, option + 3);
        return upstream->ca_file ? cs_config_readable(cmd->temp_pool, upstream->ca_file)
                                 : apr_psprintf(cmd->pool, "'%s' is not a path", option + 3);
    }
    return apr_psprintf(cmd->pool, "unknown option '%s'; known are: dialect=NAME, connect=SECONDS, ca=FILE, backup",
                        option);
}

static const char *add_upstream(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    cs_dir_config_t *conf = dir;
    cs_upstream_t upstream = {.connect_timeout = apr_time_from_sec(5)}, *upstreams;
    const char *error;
    int i, at;

    if (!argc) {
        return complain(cmd, "the URL is missing");
    }
    error = cs_upstream_parse(cmd->pool, argv[0], &upstream);
    if (error) {
        /* A URL that could be read is shown by its name: its user, password and query may be secrets. */
        return complain(cmd, apr_psprintf(cmd->pool, "'%s': %s", upstream.name ? upstream.name : argv[0], error));
    }
    upstream.dialect = cs_dialect_find("sse");
    for (i = 1; i < argc; i++) {
        error = upstream_option(cmd, &upstream, argv[i]);
        if (error) {
            return complain(cmd, error);
        }
    }
    if (!conf->upstreams) {
        conf->upstreams = apr_array_make(cmd->pool, 2, sizeof(cs_upstream_t));
    }
    upstream.index = upstream_count++;
    /* Backups stand behind the others, whatever the order in the file. */
    apr_array_push(conf->upstreams);
    upstreams = (cs_upstream_t *)conf->upstreams->elts;
    at = conf->upstreams->nelts - 1;
    while (at > 0 && upstreams[at - 1].backup && !upstream.backup) {
        upstreams[at] = upstreams[at - 1];
        at--;
    }
    upstreams[at] = upstream;
    return NULL;
}

int cs_config_is_header_name(const char *name)
{
    static const char others[] = "!#$%&'*+-.^_`|~"; /* RFC 9110 section 5.6.2, token */
    const char *at = name;

    while (apr_isalnum(*at) || (*at && strchr(others, *at))) {
        at++;
    }
    return *name && !*at;
}

static const char *add_header(cmd_parms *cmd, void *dir, const char *name, const char *value)
{
    cs_dir_config_t *conf = dir;

    if (!cs_config_is_header_name(name)) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' is not a header name", name));
    }
    /* The value may be a secret: it is not repeated here. */
    if (strpbrk(value, "\r\n") || !*value) {
        return complain(cmd, apr_psprintf(cmd->pool, "the value of '%s' is empty or holds a line break", name));
    }
    if (!conf->headers) {
        conf->headers = apr_array_make(cmd->pool, 4, sizeof(const char *));
    }
    else {
        apr_array_pop(conf->headers);
    }
    APR_ARRAY_PUSH(conf->headers, const char *) = apr_pstrcat(cmd->pool, name, ": ", value, NULL);
    APR_ARRAY_PUSH(conf->headers, const char *) = NULL;
    return NULL;
}

static apr_status_t destroy_template(void *tmpl)
{
    cs_template_destroy(tmpl);
    return APR_SUCCESS;
}

static const char *read_template(cmd_parms *cmd, const char *path, cs_template_t **tmpl)
{
    char reason[128], *text;
    apr_size_t len;
    const char *error = cs_value_file(cmd->temp_pool, path, TEMPLATE_MAX, &text, &len);

    if (error) {
        return error;
    }
    if (cs_template_create(tmpl, text, len, reason, sizeof(reason))) {
        return apr_psprintf(cmd->pool, "'%s': %s", path, reason);
    }
    apr_pool_cleanup_register(cmd->pool, *tmpl, destroy_template, apr_pool_cleanup_null);
    return NULL;
}

static const char *set_template(cmd_parms *cmd, void *dir, const char *text)
{
    const char *path = ap_server_root_relative(cmd->pool, text);

    return complain(cmd, path ? read_template(cmd, path, &((cs_dir_config_t *)dir)->template)
                              : apr_psprintf(cmd->pool, "'%s' is not a path", text));
}

static const char *set_format(cmd_parms *cmd, void *dir, const char *text)
{
    cs_dir_config_t *conf = dir;

    conf->format = cs_format_find(text);
    return conf->format
               ? NULL
               : complain(cmd, apr_psprintf(cmd->pool, "unknown format '%s'; known are: %s", text, cs_format_names()));
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static const char *set_timeouts(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    cs_dir_config_t *conf = dir;
    const char *error = argc ? NULL : "the total time is missing";
    int i;

    for (i = 0; i < argc && !error; i++) {
        const char *text = argv[i];
        apr_time_t *field = &conf->timeout_total;

        if (!strncmp(text, "headers=", 8)) {
            field = &conf->timeout_headers;
            text += 8;
        }
        else if (!strncmp(text, "first-token=", 12)) {
            field = &conf->timeout_first_token;
            text += 12;
        }
        else if (!strncmp(text, "idle=", 5)) {
            field = &conf->timeout_idle;
            text += 5;
        }
        else if (i) {
            error = apr_psprintf(cmd->pool, "unknown option '%s'; known are: headers=, first-token=, idle=", text);
            break;
        }
        error = cs_value_time(cmd->pool, text, apr_time_from_msec(1), DAY, field);
    }
    return complain(cmd, error);
}

static const char *set_replay(cmd_parms *cmd, void *dir, const char *bytes, const char *seconds)
{
    cs_dir_config_t *conf = dir;
    const char *error = cs_value_size(cmd->pool, bytes, 4096, (apr_int64_t)256 * 1024 * 1024, &conf->replay_bytes);

    if (!error && seconds) {
        error = cs_value_time(cmd->pool, seconds, 0, DAY, &conf->replay_keep);
    }
    return complain(cmd, error);
}

static const char *set_on_disconnect(cmd_parms *cmd, void *dir, const char *what, const char *grace)
{
    cs_dir_config_t *conf = dir;

    if (!strcasecmp(what, "detach") && !grace) {
        conf->on_disconnect = CS_LEAVE_DETACH;
        return NULL;
    }
    if (strcasecmp(what, "abort")) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s%s%s' is neither 'abort [GRACE]' nor 'detach'", what,
                                          grace ? " " : "", grace ? grace : ""));
    }
    conf->on_disconnect = CS_LEAVE_ABORT;
    return grace ? complain(cmd, cs_value_time(cmd->pool, grace, 0, DAY, &conf->grace)) : NULL;
}

static cs_server_config_t *main_config(cmd_parms *cmd, const char **error)
{
    *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return ap_get_module_config(cmd->server->module_config, &chatstream_module);
}

static const char *set_max_streams(cmd_parms *cmd, void *dir, const char *text)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    return error ? error : complain(cmd, cs_value_number(cmd->pool, text, 1, 1000000, &conf->max_streams));
}

static const char *set_flag_file(cmd_parms *cmd, void *dir, const char *text)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    if (!error) {
        conf->flag_file = ap_server_root_relative(cmd->pool, text);
        error = conf->flag_file ? NULL : complain(cmd, apr_psprintf(cmd->pool, "'%s' is not a path", text));
    }
    return error;
}

static const char *set_arena(cmd_parms *cmd, void *dir, const char *text)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    return error ? error
                 : complain(cmd, cs_value_size(cmd->pool, text, 64 * 1024, (apr_int64_t)1 << 40, &conf->arena_bytes));
}

#define ANYWHERE (RSRC_CONF | ACCESS_CONF)

const command_rec cs_config_directives[] = {
    AP_INIT_TAKE12("ChatStreamEnabled", set_enabled, AT(enabled), ANYWHERE, "On or Off: whether streaming is offered"),
    AP_INIT_TAKE1("ChatStreamRollout", cs_access_rollout, NULL, ANYWHERE, "percentage of the users who may stream"),
    AP_INIT_ITERATE("ChatStreamCohort", cs_access_cohort, NULL, ANYWHERE, "users who always may: names, or @FILE"),
    AP_INIT_TAKE1("ChatStreamFlagFile", set_flag_file, NULL, RSRC_CONF, "JSON file that overrides flag and percentage"),
    AP_INIT_TAKE12("ChatStreamAuth", cs_access_auth, NULL, ANYWHERE, "off, optional, or required [expire]"),
    AP_INIT_TAKE2("ChatStreamJWTKey", cs_access_jwt_key, NULL, ANYWHERE, "algorithm and key file of tokens"),
    AP_INIT_TAKE12("ChatStreamJWKS", cs_access_jwks, NULL, ANYWHERE, "file or URL of a key set, [ca=FILE]"),
    AP_INIT_TAKE1("ChatStreamJWTIssuer", set_text, AT(issuer), ANYWHERE, "the iss a token must have"),
    AP_INIT_TAKE1("ChatStreamJWTAudience", set_text, AT(audience), ANYWHERE, "the aud a token must have"),
    AP_INIT_TAKE1("ChatStreamJWTLeeway", cs_access_leeway, NULL, ANYWHERE, "how far clocks may differ"),
    AP_INIT_TAKE1("ChatStreamUserHeader", cs_access_user_header, NULL, ANYWHERE, "header that names the user"),
    AP_INIT_TAKE123("ChatStreamRateLimit", cs_access_rate_limit, NULL, ANYWHERE,
                    "N/SECONDS [key=user|ip] [group=NAME], or off"),
    AP_INIT_ITERATE("ChatStreamCORS", cs_access_cors, NULL, ANYWHERE, "origins of pages that may read answers"),
    AP_INIT_TAKE_ARGV("ChatStreamUpstream", add_upstream, NULL, ANYWHERE,
                      "URL [dialect=NAME] [connect=SECONDS] [ca=FILE] [backup]"),
    AP_INIT_TAKE2("ChatStreamUpstreamHeader", add_header, NULL, ANYWHERE,
                  "name and value of a header for the upstream"),
    AP_INIT_TAKE1("ChatStreamRequestTemplate", set_template, NULL, ANYWHERE, "JSON file: the upstream's request body"),
    AP_INIT_TAKE1("ChatStreamModel", set_text, AT(model), ANYWHERE, "model name for the upstream's request"),
    AP_INIT_TAKE1("ChatStreamFormat", set_format, NULL, ANYWHERE, "wire format of the events"),
    AP_INIT_TAKE_ARGV("ChatStreamTimeout", set_timeouts, NULL, ANYWHERE,
                      "TOTAL [headers=SECONDS] [first-token=SECONDS] [idle=SECONDS]"),
    AP_INIT_TAKE1("ChatStreamHeartbeat", set_time, AT(heartbeat), ANYWHERE, "seconds of silence before a heartbeat"),
    AP_INIT_TAKE1("ChatStreamCommitAfter", set_time, AT(commit_after), ANYWHERE,
                  "how long a failure may still get a status of its own"),
    AP_INIT_TAKE12("ChatStreamReplay", set_replay, NULL, ANYWHERE, "BYTES [SECONDS] kept of each stream"),
    AP_INIT_TAKE12("ChatStreamOnDisconnect", set_on_disconnect, NULL, ANYWHERE, "abort [GRACE], or detach"),
    AP_INIT_TAKE1("ChatStreamMaxPerUser", set_number, AT(max_per_user), ANYWHERE,
                  "streams of one user at the same time"),
    AP_INIT_TAKE1("ChatStreamMaxMessage", set_size, AT(max_message), ANYWHERE, "largest message, in bytes"),
    AP_INIT_TAKE1("ChatStreamMaxEvent", set_size, AT(max_event), ANYWHERE, "largest event of an upstream, in bytes"),
    AP_INIT_TAKE1("ChatStreamMaxAnswer", set_size, AT(max_answer), ANYWHERE, "largest answer, in bytes"),
    AP_INIT_TAKE1("ChatStreamProfile", set_name, AT(profile), ANYWHERE, "name of this location in records and metrics"),
    AP_INIT_TAKE_ARGV("ChatStreamRecord", cs_keeping_record, NULL, ANYWHERE, "sessions, transcript, audit; or off"),
    AP_INIT_TAKE1("ChatStreamHashKey", cs_keeping_hash_key, NULL, ANYWHERE, "file with the key of query hashes"),
    AP_INIT_TAKE1("ChatStreamStateDir", cs_keeping_state_dir, NULL, RSRC_CONF, "directory of the journal"),
    AP_INIT_TAKE12("ChatStreamJournalMax", cs_keeping_journal_max, NULL, RSRC_CONF, "BYTES [refuse|admit]"),
    AP_INIT_TAKE1("ChatStreamJournalSync", cs_keeping_journal_sync, NULL, RSRC_CONF, "always, second or off"),
    AP_INIT_TAKE1("ChatStreamRetention", cs_keeping_retention, NULL, RSRC_CONF, "days that records are kept"),
    AP_INIT_TAKE1("ChatStreamMaxStreams", set_max_streams, NULL, RSRC_CONF,
                  "streams at the same time, over all children"),
    AP_INIT_TAKE1("ChatStreamArena", set_arena, NULL, RSRC_CONF, "bytes of shared memory"),
    {.name = NULL},
};
