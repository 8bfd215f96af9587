/* SPDX-License-Identifier: Apache-2.0 */
#include "chatstream/observe.h"

#include <apr_strings.h>
#include <http_protocol.h>

#include "chatstream/record.h"
#include "chatstream/sink.h"

/* "25", or "0.50" */
static const char *percent(apr_pool_t *pool, int share)
{
    return share % 100 ? apr_psprintf(pool, "%d.%02d", share / 100, share % 100) : apr_itoa(pool, share / 100);
}

/* down: a new stream would get 503. degraded: one may, or something that an operator configured does not work. */
static const char *status_of(const cs_log_usage_t *usage, const cs_observed_flags_t *flags,
                             const cs_record_health_t *records)
{
    if (records->refuses) {
        return "down";
    }
    return usage->live >= usage->max_streams || flags->broken || records->database == CS_DATABASE_DOWN
                   || records->journal_full
               ? "degraded"
               : "ok";
}

static const char *records_text(apr_pool_t *pool, const cs_record_health_t *records)
{
    static const char *const names[] = {"off", "ok", "down"};

    return apr_psprintf(pool,
                        "\"database\":\"%s\",\"journal\":{\"bytes\":%" APR_UINT64_T_FMT
                        ",\"oldest_s\":%" APR_INT64_T_FMT ",\"full\":%s},\"records\":{\"saved\":%" APR_UINT64_T_FMT
                        ",\"refused\":%" APR_UINT64_T_FMT ",\"unrecorded\":%" APR_UINT64_T_FMT "},",
                        names[records->database], records->journal_bytes, records->oldest_s,
                        records->journal_full ? "true" : "false", records->saved, records->refused,
                        records->unrecorded);
}

int cs_observe_health(request_rec *r, cs_log_t *log, const cs_observed_flags_t *flags)
{
    cs_log_usage_t usage = {0};
    cs_record_health_t records;
    const char *status = "down", *json;

    cs_record_health(&records);
    if (log) {
        cs_log_usage(log, &usage);
        status = status_of(&usage, flags, &records);
    }
    json = apr_psprintf(r->pool,
                        "{\"status\":\"%s\",\"features\":{\"sse_streaming\":%s},\"rollout\":%s,\"flag_file\":\"%s\",%s"
                        "\"streams\":{\"active\":%u,\"max\":%u,\"kept\":%u},"
                        "\"arena\":{\"blocks\":%u,\"free\":%u,\"block_bytes\":%u},\"children\":%u}\n",
                        status, flags->enabled ? "true" : "false", percent(r->pool, flags->share),
                        flags->broken ? "broken" : "ok", records_text(r->pool, &records), usage.live, usage.max_streams,
                        usage.kept, usage.blocks, usage.blocks_free, (unsigned)usage.block_bytes, usage.children);
    return cs_response_json(r, strcmp(status, "down") ? HTTP_OK : HTTP_SERVICE_UNAVAILABLE, json, strlen(json));
}
