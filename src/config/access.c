/* SPDX-License-Identifier: Apache-2.0 */
#include "access.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_uri.h>
#include <http_core.h>

#include "values.h"

#define COHORT_FILE_MAX (4 * 1024 * 1024)
#define NAME_MAX_BYTES  255
#define RATE_MAX        100000

static cs_key_source_t *key_sources; /* start-up is single-threaded */
static uint32_t rate_max;

static const char *complain(cmd_parms *cmd, const char *what)
{
    return what ? apr_pstrcat(cmd->pool, cmd->cmd->name, ": ", what, NULL) : NULL;
}

/* ---- rollout ----------------------------------------------------------------------------------------------------- */

const char *cs_access_rollout(cmd_parms *cmd, void *dir, const char *percent)
{
    return complain(cmd, cs_value_share(cmd->pool, percent, &((cs_dir_config_t *)dir)->share));
}

static const char *add_name(cmd_parms *cmd, cs_dir_config_t *conf, const char *name, size_t len)
{
    if (len > NAME_MAX_BYTES || !cs_utf8_valid(name, len)) {
        return "a name is longer than 255 bytes or not UTF-8";
    }
    apr_hash_set(conf->cohort, apr_pstrmemdup(cmd->pool, name, len), (apr_ssize_t)len, "");
    return NULL;
}

/* One name a line; blanks around it, empty lines and lines with # are nothing. */
static const char *add_lines(cmd_parms *cmd, cs_dir_config_t *conf, const char *text)
{
    const char *error = NULL;

    while (*text && !error) {
        size_t line = strcspn(text, "\n"), len = line;
        const char *name = text;

        while (len && apr_isspace(*name)) {
            name++;
            len--;
        }
        while (len && apr_isspace(name[len - 1])) {
            len--;
        }
        if (len && *name != '#') {
            error = add_name(cmd, conf, name, len);
        }
        text += line + (text[line] == '\n');
    }
    return error;
}

const char *cs_access_cohort(cmd_parms *cmd, void *dir, const char *name)
{
    cs_dir_config_t *conf = dir;
    const char *path, *error;
    char *text;
    apr_size_t len;

    if (!conf->cohort) {
        conf->cohort = apr_hash_make(cmd->pool);
    }
    if (*name != '@') {
        return complain(cmd, *name ? add_name(cmd, conf, name, strlen(name)) : "an empty name is not allowed");
    }
    path = ap_server_root_relative(cmd->pool, name + 1);
    if (!path) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' is not a path", name + 1));
    }
    error = cs_value_file(cmd->temp_pool, path, COHORT_FILE_MAX, &text, &len);
    if (!error && strlen(text) != len) {
        error = "the file holds a NUL byte";
    }
    return complain(cmd, error ? error : add_lines(cmd, conf, text));
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

const char *cs_access_auth(cmd_parms *cmd, void *dir, const char *mode, const char *expire)
{
    static const struct {
        const char *name;
        cs_auth_e auth;
    } modes[] = {{"off", CS_AUTH_OFF}, {"optional", CS_AUTH_OPTIONAL}, {"required", CS_AUTH_REQUIRED}};
    cs_dir_config_t *conf = dir;
    size_t i;

    for (i = 0; i < sizeof(modes) / sizeof(modes[0]) && strcasecmp(mode, modes[i].name); i++) {}
    if (i == sizeof(modes) / sizeof(modes[0])
        || (expire && (strcasecmp(expire, "expire") || modes[i].auth != CS_AUTH_REQUIRED))) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s%s%s' is neither 'off', 'optional' nor 'required [expire]'",
                                          mode, expire ? " " : "", expire ? expire : ""));
    }
    conf->auth = modes[i].auth;
    conf->auth_expires = expire != NULL;
    return NULL;
}

static apr_status_t forget_sources(void *data)
{
    (void)data;
    key_sources = NULL;
    rate_max = 0;
    return APR_SUCCESS;
}

static void forget_with(apr_pool_t *pool)
{
    if (!key_sources && !rate_max) {
        apr_pool_cleanup_register(pool, NULL, forget_sources, apr_pool_cleanup_null);
    }
}

static void add_source(cmd_parms *cmd, cs_dir_config_t *conf, const cs_key_source_t *from)
{
    cs_key_source_t *source = apr_pmemdup(cmd->pool, from, sizeof(*source));

    forget_with(cmd->pool);
    source->directive = cmd->cmd->name;
    source->next = key_sources;
    key_sources = source;
    if (!conf->keys) {
        conf->keys = apr_array_make(cmd->pool, 2, sizeof(cs_key_source_t *));
    }
    APR_ARRAY_PUSH(conf->keys, cs_key_source_t *) = source;
}

const char *cs_access_jwt_key(cmd_parms *cmd, void *dir, const char *algorithm, const char *path)
{
    cs_key_source_t source = {.algorithm = algorithm, .place = ap_server_root_relative(cmd->pool, path)};
    const char *error = source.place ? cs_config_readable(cmd->temp_pool, source.place)
                                     : apr_psprintf(cmd->pool, "'%s' is not a path", path);

    if (!error) {
        add_source(cmd, dir, &source);
    }
    return complain(cmd, error);
}

const char *cs_access_jwks(cmd_parms *cmd, void *dir, const char *place, const char *ca)
{
    cs_key_source_t source = {.place = place};
    const char *error = NULL;
    apr_uri_t uri;

    source.is_url = !strncmp(place, "https://", 8) || !strncmp(place, "http://", 7);
    if (!source.is_url) {
        source.place = ap_server_root_relative(cmd->pool, place);
        error = source.place ? cs_config_readable(cmd->temp_pool, source.place)
                             : apr_psprintf(cmd->pool, "'%s' is not a path", place);
    }
    else if (apr_uri_parse(cmd->temp_pool, place, &uri) || !uri.hostname || uri.user || uri.fragment) {
        error = "this is no URL of a key set";
    }
    if (ca && !error) {
        if (!source.is_url || strncmp(ca, "ca=", 3)) {
            return complain(cmd, apr_psprintf(cmd->pool, "unknown option '%s'; known is ca=FILE, for a URL", ca));
        }
        source.ca_file = ap_server_root_relative(cmd->pool, ca + 3);
        error = source.ca_file ? cs_config_readable(cmd->temp_pool, source.ca_file)
                               : apr_psprintf(cmd->pool, "'%s' is not a path", ca + 3);
    }
    if (!error) {
        add_source(cmd, dir, &source);
    }
    return complain(cmd, error);
}

cs_key_source_t *cs_config_key_sources(void)
{
    return key_sources;
}

const char *cs_access_leeway(cmd_parms *cmd, void *dir, const char *text)
{
    return complain(cmd, cs_value_time(cmd->pool, text, 0, apr_time_from_sec(3600), &((cs_dir_config_t *)dir)->leeway));
}

const char *cs_access_user_header(cmd_parms *cmd, void *dir, const char *name)
{
    if (!cs_config_is_header_name(name)) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' is not a header name", name));
    }
    ((cs_dir_config_t *)dir)->user_header = name;
    return NULL;
}

/* ---- rate -------------------------------------------------------------------------------------------------------- */

static const char *rate_option(cmd_parms *cmd, cs_dir_config_t *conf, const char *option)
{
    if (!strncmp(option, "group=", 6) && option[6] && strlen(option + 6) <= NAME_MAX_BYTES) {
        conf->rate_group = option + 6;
    }
    else if (!strcmp(option, "key=user")) {
        conf->rate_by = CS_RATE_BY_USER;
    }
    else if (!strcmp(option, "key=ip")) {
        conf->rate_by = CS_RATE_BY_ADDRESS;
    }
    else {
        return apr_psprintf(cmd->pool, "unknown option '%s'; known are: key=user, key=ip, group=NAME", option);
    }
    return NULL;
}

const char *cs_access_rate_limit(cmd_parms *cmd, void *dir, const char *rate, const char *one, const char *two)
{
    cs_dir_config_t *conf = dir;
    const char *slash = strchr(rate, '/'), *error;

    conf->rate_by = CS_RATE_BY_USER;
    conf->rate_group = NULL;
    if (!strcasecmp(rate, "off") && !one) {
        conf->rate_count = 0;
        conf->rate_window = 0;
        return NULL;
    }
    if (!slash) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' is not N/SECONDS", rate));
    }
    error = cs_value_number(cmd->pool, apr_pstrmemdup(cmd->temp_pool, rate, (apr_size_t)(slash - rate)), 1, RATE_MAX,
                            &conf->rate_count);
    if (!error) {
        error = cs_value_time(cmd->pool, slash + 1, apr_time_from_sec(1), apr_time_from_sec(86400), &conf->rate_window);
    }
    if (!error && one) {
        error = rate_option(cmd, conf, one);
    }
    if (!error && two) {
        error = rate_option(cmd, conf, two);
    }
    if (!error && (uint32_t)conf->rate_count > rate_max) {
        forget_with(cmd->pool);
        rate_max = (uint32_t)conf->rate_count;
    }
    return complain(cmd, error);
}

uint32_t cs_config_rate_max(void)
{
    return rate_max;
}

/* ---- CORS -------------------------------------------------------------------------------------------------------- */

/* RFC 6454 section 6.2, as browsers send it: scheme "://" host [":" port], lower case. */
static int is_origin(const char *text)
{
    const char *host = strstr(text, "://");
    size_t len;

    if (!host || host == text || strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789+-.") != (size_t)(host - text)) {
        return 0;
    }
    host += 3;
    len = strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789-._~%:[]");
    return len && !host[len] && *host != ':';
}

const char *cs_access_cors(cmd_parms *cmd, void *dir, const char *origin)
{
    cs_dir_config_t *conf = dir;
    char *name = apr_pstrdup(cmd->pool, origin);

    if (!conf->cors) {
        conf->cors = apr_array_make(cmd->pool, 2, sizeof(const char *));
    }
    ap_str_tolower(name);
    if (!strcmp(name, "off")) {
        apr_array_clear(conf->cors);
        return NULL;
    }
    if (strcmp(name, "*") && !is_origin(name)) {
        return complain(
            cmd,
            apr_psprintf(cmd->pool, "'%s' is neither '*' nor an origin like https://www.example.com:8443", origin));
    }
    if (conf->cors->nelts && (!strcmp(name, "*") || !strcmp(APR_ARRAY_IDX(conf->cors, 0, const char *), "*"))) {
        return complain(cmd, "'*' stands alone: it allows every origin, without credentials");
    }
    APR_ARRAY_PUSH(conf->cors, const char *) = name;
    return NULL;
}
