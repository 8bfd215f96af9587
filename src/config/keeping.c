/* SPDX-License-Identifier: Apache-2.0 */
#include "keeping.h"

#include <apr_strings.h>
#include <http_core.h>

#include "values.h"

#define HASH_KEY_MIN 16
#define HASH_KEY_MAX 4096

static int has_records; /* start-up is single-threaded */

static const char *complain(cmd_parms *cmd, const char *what)
{
    return what ? apr_pstrcat(cmd->pool, cmd->cmd->name, ": ", what, NULL) : NULL;
}

static cs_server_config_t *main_config(cmd_parms *cmd, const char **error)
{
    *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return ap_get_module_config(cmd->server->module_config, &chatstream_module);
}

/* ---- of a location ----------------------------------------------------------------------------------------------- */

static apr_status_t forget(void *data)
{
    (void)data;
    has_records = 0;
    return APR_SUCCESS;
}

int cs_config_has_records(void)
{
    return has_records;
}

const char *cs_keeping_record(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    static const struct {
        const char *name;
        int bit;
    } kinds[] = {{"sessions", CS_RECORD_SESSIONS}, {"transcript", CS_RECORD_TRANSCRIPT}, {"audit", CS_RECORD_AUDIT}};
    cs_dir_config_t *conf = dir;
    int i, record = 0;

    for (i = 0; i < argc; i++) {
        size_t k = 0;

        while (k < 3 && strcasecmp(argv[i], kinds[k].name)) {
            k++;
        }
        if (k == 3 && (argc > 1 || strcasecmp(argv[i], "off"))) {
            return complain(
                cmd, apr_psprintf(cmd->pool, "'%s' is none of sessions, transcript, audit, nor off alone", argv[i]));
        }
        record |= k < 3 ? kinds[k].bit : 0;
    }
    if (!argc) {
        return complain(cmd, "what to record is missing: sessions, transcript, audit, or off");
    }
    conf->record = record;
    if (record && !has_records) {
        has_records = 1;
        apr_pool_cleanup_register(cmd->pool, NULL, forget, apr_pool_cleanup_null);
    }
    return NULL;
}

const char *cs_keeping_hash_key(cmd_parms *cmd, void *dir, const char *text)
{
    const char *path = ap_server_root_relative(cmd->pool, text), *error;
    cs_secret_t *secret = apr_palloc(cmd->pool, sizeof(*secret));
    apr_size_t len;
    char *bytes;

    if (!path) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' is not a path", text));
    }
    error = cs_value_file(cmd->pool, path, HASH_KEY_MAX, &bytes, &len);
    if (error) {
        return complain(cmd, error);
    }
    while (len && (bytes[len - 1] == '\n' || bytes[len - 1] == '\r')) {
        len--;
    }
    if (len < HASH_KEY_MIN) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' holds fewer than %d bytes", path, HASH_KEY_MIN));
    }
    secret->bytes = bytes;
    secret->len = len;
    ((cs_dir_config_t *)dir)->hash_key = secret;
    return NULL;
}

/* ---- of the server ----------------------------------------------------------------------------------------------- */

const char *cs_keeping_state_dir(cmd_parms *cmd, void *dir, const char *path)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    if (!error) {
        conf->state_dir = ap_runtime_dir_relative(cmd->pool, path);
        error = conf->state_dir ? NULL : complain(cmd, apr_psprintf(cmd->pool, "'%s' is not a path", path));
    }
    return error;
}

const char *cs_keeping_journal_max(cmd_parms *cmd, void *dir, const char *bytes, const char *then)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    if (error) {
        return error;
    }
    conf->journal_admits = then && !strcasecmp(then, "admit");
    if (then && strcasecmp(then, "admit") && strcasecmp(then, "refuse")) {
        return complain(cmd, apr_psprintf(cmd->pool, "'%s' is neither refuse nor admit", then));
    }
    return complain(cmd, cs_value_size(cmd->pool, bytes, 64 * 1024, (apr_int64_t)1 << 40, &conf->journal_max));
}

const char *cs_keeping_journal_sync(cmd_parms *cmd, void *dir, const char *when)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    if (error) {
        return error;
    }
    conf->journal_sync = !strcasecmp(when, "always")   ? CS_JOURNAL_SYNC_ALWAYS
                         : !strcasecmp(when, "second") ? CS_JOURNAL_SYNC_SECOND
                         : !strcasecmp(when, "off")    ? CS_JOURNAL_SYNC_OFF
                                                       : CS_UNSET;
    return conf->journal_sync != CS_UNSET
               ? NULL
               : complain(cmd, apr_psprintf(cmd->pool, "'%s' is none of always, second, off", when));
}

const char *cs_keeping_retention(cmd_parms *cmd, void *dir, const char *days)
{
    const char *error;
    cs_server_config_t *conf = main_config(cmd, &error);

    (void)dir;
    return error ? error : complain(cmd, cs_value_number(cmd->pool, days, 1, 36500, &conf->retention_days));
}
