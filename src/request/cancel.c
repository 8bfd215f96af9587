/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_strings.h>
#include <httpd.h>

#include "chat.h"
#include "chatstream/sink.h"
#include "chatstream/stream.h"
#include "params_read.h"
#include "redact.h"
#include "telling.h"

static int refuse(request_rec *r, int status, const char *code, const char *message)
{
    const cs_result_t problem = {status, code, message, 0, NULL};

    return cs_response_problem(r, &problem);
}

/* Leaving is not cancelling; this is. Asking twice is asking once. */
int cs_request_cancel(request_rec *r, const cs_dir_config_t *conf)
{
    const char *stream_id, *json;
    const cs_identity_t *identity;
    cs_params_t params;
    cs_result_t result;
    cs_state_e state;
    cs_uuid_t id;

    cs_params_read(r, conf->max_message, &params, &result);
    identity = cs_identity_of(r, conf, params.body_token);
    cs_redact_request(r);
    if (result.status) {
        return cs_response_problem(r, &result);
    }
    if (identity->refusal.status) {
        return cs_telling_refuse(r, conf, identity, &identity->refusal);
    }
    stream_id = params.stream_id ? params.stream_id : apr_table_get(r->headers_in, "X-Stream-Id");
    if (!stream_id || cs_uuid_parse(&id, stream_id, strlen(stream_id))) {
        return refuse(r, HTTP_BAD_REQUEST, "bad_request", "stream_id is missing or is not an id.");
    }
    if (cs_log_cancel(cs_stream_log(), &id, cs_identity_key(r, identity), &state)) {
        return refuse(r, HTTP_GONE, "gone", "The stream is not kept any more.");
    }
    cs_telling_incident(r, conf, identity, CS_INCIDENT_CANCEL, apr_pstrdup(r->pool, stream_id), NULL);
    json = apr_psprintf(r->pool, "{\"stream_id\":\"%s\",\"status\":\"%s\"}\n", apr_pstrdup(r->pool, stream_id),
                        cs_state_is_end(state) ? cs_state_name(state) : "cancelled");
    return cs_response_json(r, HTTP_OK, json, strlen(json));
}
