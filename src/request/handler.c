/* SPDX-License-Identifier: Apache-2.0 */
/* From httpd's hooks to the right story: which handler, which method. */
#include "chatstream/request.h"

#include <string.h>

#include <http_config.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

#include "arrival.h"
#include "chat.h"
#include "chatstream/observe.h"
#include "chatstream/record.h"
#include "chatstream/sink.h"
#include "chatstream/stream.h"
#include "identity.h"
#include "limits.h"
#include "redact.h"

static int wrong_method(request_rec *r, const char *allowed)
{
    static const cs_result_t problem = {HTTP_METHOD_NOT_ALLOWED, "method_not_allowed",
                                        "This method is not allowed here.", 0, NULL};

    apr_table_setn(r->headers_out, "Allow", allowed);
    return cs_response_problem(r, &problem);
}

static int answer_options(request_rec *r, const char *allowed)
{
    apr_table_setn(r->headers_out, "Allow", allowed);
    return HTTP_NO_CONTENT;
}

static int is_asking(const request_rec *r)
{
    return r->method_number == M_GET || r->method_number == M_POST;
}

static int handle_stream(request_rec *r)
{
    static const char allowed[] = "GET, HEAD, POST, DELETE, OPTIONS";
    cs_dir_config_t conf;

    if (r->method_number == M_OPTIONS) {
        return answer_options(r, allowed);
    }
    cs_config_of(r, &conf);
    if (!is_asking(r)) {
        cs_limits_show(r, &conf, cs_identity_of(r, &conf, NULL));
    }
    if (r->method_number == M_DELETE) {
        return cs_request_cancel(r, &conf);
    }
    return is_asking(r) ? cs_request_chat(r, &conf, CS_KIND_STREAM) : wrong_method(r, allowed);
}

static int handle_complete(request_rec *r)
{
    static const char allowed[] = "GET, HEAD, POST, OPTIONS";
    cs_dir_config_t conf;

    if (r->method_number == M_OPTIONS) {
        return answer_options(r, allowed);
    }
    cs_config_of(r, &conf);
    if (!is_asking(r)) {
        cs_limits_show(r, &conf, cs_identity_of(r, &conf, NULL));
    }
    return is_asking(r) ? cs_request_chat(r, &conf, CS_KIND_DOCUMENT) : wrong_method(r, allowed);
}

static int handle_health(request_rec *r)
{
    cs_observed_flags_t flags;
    cs_dir_config_t conf;

    if (r->method_number != M_GET) {
        return wrong_method(r, "GET, HEAD");
    }
    cs_config_of(r, &conf);
    ap_discard_request_body(r);
    cs_limits_flags(&conf, &flags.enabled, &flags.share);
    flags.broken = cs_flags_are_broken(cs_limits_gate());
    return cs_observe_health(r, cs_stream_is_running() ? cs_stream_log() : NULL, &flags);
}

static int handler(request_rec *r)
{
    static const cs_result_t down = {HTTP_SERVICE_UNAVAILABLE, "unavailable", "The server cannot stream now.", 1, NULL};

    if (!r->handler || strncmp(r->handler, "chatstream", 10)) {
        return DECLINED;
    }
    if (!strcmp(r->handler, "chatstream-health")) {
        return handle_health(r);
    }
    if (!strcmp(r->handler, "chatstream-audit")) {
        return r->method_number == M_GET ? cs_record_audit(r) : wrong_method(r, "GET, HEAD");
    }
    if (strcmp(r->handler, "chatstream") && strcmp(r->handler, "chatstream-complete")) {
        return DECLINED;
    }
    if (!cs_stream_is_running()) {
        cs_redact_request(r);
        return cs_response_problem(r, &down);
    }
    return strcmp(r->handler, "chatstream") ? handle_complete(r) : handle_stream(r);
}

/* ---- logs say nothing a user said -------------------------------------------------------------------------------- */

static int is_ours(const request_rec *r)
{
    const cs_dir_config_t *conf = cs_config_dir(r->per_dir_config);

    return (r->handler && !strncmp(r->handler, "chatstream", 10)) || (conf && conf->upstreams);
}

static void before_reading(request_rec *r, conn_rec *c)
{
    (void)c;
    cs_redact_hush(r, CS_HUSH_READING);
}

/* The location is not known yet, but no referrer of any location has to tell a token. */
static int after_reading(request_rec *r)
{
    cs_redact_hush(r, CS_HUSH_READ); /* for the virtual host it turned out to be */
    cs_redact_referer(r);
    return DECLINED;
}

static int early_redaction(request_rec *r)
{
    if (is_ours(r)) {
        cs_redact_line(r);
    }
    return DECLINED;
}

/* Refused before anyone knew which location it was for: a line too long, a header too many. */
static int failed_early(const request_rec *r)
{
    return r->status >= 400 && r->per_dir_config == r->server->lookup_defaults;
}

static int last_redaction(request_rec *r)
{
    request_rec *each;
    int ours = 0;

    for (each = r; each; each = each->next) {
        ours |= is_ours(each) || failed_early(each);
    }
    for (each = r; each && ours; each = each->next) {
        cs_redact_request(each);
    }
    return DECLINED;
}

void cs_request_register_hooks(void)
{
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
    cs_arrival_register_hooks();
    ap_hook_pre_read_request(before_reading, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_post_read_request(after_reading, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_header_parser(early_redaction, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_log_transaction(last_redaction, NULL, NULL, APR_HOOK_REALLY_FIRST);
}
