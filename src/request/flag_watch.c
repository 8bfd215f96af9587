/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be looked at again while requests come and go: the flag file. Watchdog threads. */
#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>

#include "chatstream/config.h"
#include "chatstream/observe.h"
#include "chatstream/request.h"
#include "limits.h"

APLOG_USE_MODULE(chatstream);

static void tell_change(void)
{
    cs_incident_t change = {CS_INCIDENT_FLAG_CHANGE, NULL, {NULL, NULL, NULL}, NULL, NULL, NULL};
    char detail[96];
    cs_flags_t flags;

    cs_flags_of(cs_limits_gate(), "", &flags);
    apr_snprintf(detail, sizeof(detail), "\"enabled\":%s,\"rollout\":",
                 flags.enabled < 0 ? "null"
                 : flags.enabled   ? "true"
                                   : "false");
    apr_snprintf(detail + strlen(detail), sizeof(detail) - strlen(detail), flags.share < 0 ? "null" : "%d.%02d",
                 flags.share / 100, flags.share % 100);
    change.detail = detail;
    cs_tell_incident(&change);
}

static void tell(server_rec *server, const char *path, cs_flags_look_e look, const char *why)
{
    switch (look) {
    case CS_FLAGS_CHANGED:
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, server, "chatstream: ChatStreamFlagFile: '%s' is in force", path);
        tell_change();
        break;
    case CS_FLAGS_BROKEN:
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, server,
                     "chatstream: ChatStreamFlagFile: '%s': %s; the last good state stays in force", path, why);
        break;
    case CS_FLAGS_GONE:
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, server,
                     "chatstream: ChatStreamFlagFile: '%s' is not there: the directives are in force", path);
        tell_change();
        break;
    default:
        break;
    }
}

void cs_request_load_flags(server_rec *server)
{
    const char *path = cs_config_flag_file(server);
    char why[256] = "";

    if (!path) {
        cs_flags_clear(cs_limits_gate());
        return;
    }
    tell(server, path, cs_flags_load(cs_limits_gate(), path, why, sizeof(why)), why);
}

void cs_request_look_at_flags(server_rec *server)
{
    const char *path = cs_config_flag_file(server);
    char why[256] = "";

    if (path) {
        tell(server, path, cs_flags_look(cs_limits_gate(), path, why, sizeof(why)), why);
    }
}
