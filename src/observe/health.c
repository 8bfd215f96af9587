/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/observe.h"

#include <apr_strings.h>
#include <http_protocol.h>

#include "chatstream/sink.h"

/* "25", or "0.5" */
static const char *percent(apr_pool_t *pool, int share)
{
    return share % 100 ? apr_psprintf(pool, "%d.%02d", share / 100, share % 100) : apr_itoa(pool, share / 100);
}

int cs_observe_health(request_rec *r, cs_log_t *log, const cs_observed_flags_t *flags)
{
    cs_log_usage_t usage = {0};
    const char *status = "down", *json;

    if (log) {
        cs_log_usage(log, &usage);
        status = usage.live < usage.max_streams && !flags->broken ? "ok" : "degraded";
    }
    json = apr_psprintf(r->pool,
                        "{\"status\":\"%s\",\"features\":{\"sse_streaming\":%s},\"rollout\":%s,\"flag_file\":\"%s\","
                        "\"streams\":{\"active\":%u,\"max\":%u,\"kept\":%u},"
                        "\"arena\":{\"blocks\":%u,\"free\":%u,\"block_bytes\":%u},\"children\":%u}\n",
                        status, flags->enabled ? "true" : "false", percent(r->pool, flags->share),
                        flags->broken ? "broken" : "ok", usage.live, usage.max_streams, usage.kept, usage.blocks,
                        usage.blocks_free, (unsigned)usage.block_bytes, usage.children);
    return cs_response_json(r, log ? HTTP_OK : HTTP_SERVICE_UNAVAILABLE, json, strlen(json));
}
