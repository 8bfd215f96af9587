/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/observe.h"

#include <apr_strings.h>
#include <http_protocol.h>

#include "chatstream/sink.h"

int cs_observe_health(request_rec *r, cs_log_t *log, int enabled)
{
    cs_log_usage_t usage = {0};
    const char *status = "down", *json;

    if (log) {
        cs_log_usage(log, &usage);
        status = usage.live < usage.max_streams ? "ok" : "degraded";
    }
    json = apr_psprintf(r->pool,
                        "{\"status\":\"%s\",\"features\":{\"sse_streaming\":%s},"
                        "\"streams\":{\"active\":%u,\"max\":%u,\"kept\":%u},"
                        "\"arena\":{\"blocks\":%u,\"free\":%u,\"block_bytes\":%u},\"children\":%u}\n",
                        status, enabled ? "true" : "false", usage.live, usage.max_streams, usage.kept, usage.blocks,
                        usage.blocks_free, (unsigned)usage.block_bytes, usage.children);
    return cs_response_json(r, log ? HTTP_OK : HTTP_SERVICE_UNAVAILABLE, json, strlen(json));
}
