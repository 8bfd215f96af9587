/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chatstream-audit: the audit trail for those who may see it, filtered and paged, as JSON. It tells who did what, so it does not work
 * where everybody is let in.
 *
 *   ?from=2026-02-17T10:00:00Z&until=…&event=auth_failed&user=…&stream_id=…&limit=100&after=<next of the page before>
 */
#include <stdlib.h>
#include <string.h>

#include <apr_dbd.h>
#include <apr_date.h>
#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mod_dbd.h>
#include <util_script.h>

#include "audit_row.h"
#include "chatstream/sink.h"
#include "recorder.h"

APLOG_USE_MODULE(chatstream);

#define LIMIT       100
#define LIMIT_MAX   1000
#define ANSWER_MAX  (64u * 1024 * 1024)
#define FILTER_TEXT 255

static int problem(request_rec *r, int status, const char *code, const char *message, int retry_after)
{
    const cs_result_t result = {status, code, message, retry_after, NULL};

    return cs_response_problem(r, &result);
}

/* ---- the question ------------------------------------------------------------------------------------------------- */

/* "2026-02-17T10:00:00Z", with or without a fraction; or seconds since 1970. 0: neither. */
static int read_time(const char *text, apr_time_t *when)
{
    char *end;
    apr_int64_t seconds = apr_strtoi64(text, &end, 10);
    apr_time_exp_t parts;
    double fraction = 0;
    int year, month, day, hour, minute, used = 0;

    if (*text && !*end && seconds >= 0 && seconds < APR_INT64_C(100000000000)) {
        *when = apr_time_from_sec(seconds);
        return 1;
    }
    memset(&parts, 0, sizeof(parts));
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%lf%n", &year, &month, &day, &hour, &minute, &fraction, &used) != 6
        || strcmp(text + used, "Z") != 0 || fraction < 0 || fraction >= 62 || month < 1 || month > 12 || day < 1
        || day > 31 || hour > 23 || minute > 59) {
        return 0;
    }
    parts.tm_year = year - 1900;
    parts.tm_mon = month - 1;
    parts.tm_mday = day;
    parts.tm_hour = hour;
    parts.tm_min = minute;
    parts.tm_sec = (int)fraction;
    parts.tm_usec = (int)((fraction - (int)fraction) * 1e6 + 0.5);
    return apr_time_exp_gmt_get(when, &parts) == APR_SUCCESS;
}

static int read_number(const char *text, apr_int64_t max, apr_int64_t *value)
{
    char *end;

    *value = apr_strtoi64(text, &end, 10);
    return *text && !*end && *value >= 0 && *value <= max;
}

static const char *take(apr_table_t *args, const char *name)
{
    const char *value = apr_table_get(args, name);

    apr_table_unset(args, name);
    return value && *value ? value : NULL;
}

/* NULL: fine, else what is wrong. A name that is not known is: a filter that does not filter shows too much. */
static const char *read_filter(request_rec *r, cs_audit_filter_t *filter)
{
    const char *from, *until, *limit, *after;
    apr_int64_t number = LIMIT;
    apr_table_t *args;

    memset(filter, 0, sizeof(*filter));
    ap_args_to_table(r, &args);
    from = take(args, "from");
    until = take(args, "until");
    limit = take(args, "limit");
    after = take(args, "after");
    filter->event = take(args, "event");
    filter->user = take(args, "user");
    filter->stream_id = take(args, "stream_id");
    if (!apr_is_empty_table(args)) {
        return "Known are from, until, event, user, stream_id, limit and after.";
    }
    if ((from && !read_time(from, &filter->from)) || (until && !read_time(until, &filter->until))) {
        return "from and until are times like 2026-02-17T10:00:00Z, or seconds since 1970.";
    }
    if (limit && (!read_number(limit, LIMIT_MAX, &number) || !number)) {
        return "limit is a number from 1 to 1000.";
    }
    filter->limit = (int)number;
    if (after && !read_number(after, APR_INT64_MAX, &filter->after_id)) {
        return "after is what the page before gave as next.";
    }
    if ((filter->user && (strlen(filter->user) > FILTER_TEXT || !cs_utf8_valid(filter->user, strlen(filter->user))))
        || (filter->event && strlen(filter->event) > FILTER_TEXT)
        || (filter->stream_id && strlen(filter->stream_id) > FILTER_TEXT)) {
        return "A filter is too long, or not UTF-8.";
    }
    return NULL;
}

/* ---- the answer --------------------------------------------------------------------------------------------------- */

typedef struct {
    cs_buf_t out;
    int64_t last;
    int count;
    apr_status_t failed;
} page_t;

static int add_row(void *baton, int64_t id, const cs_audit_row_t *row)
{
    page_t *page = baton;

    if (page->count++) {
        page->failed = cs_buf_append(&page->out, ",", 1);
    }
    if (!page->failed) {
        page->failed = cs_audit_row_json(&page->out, id, row);
    }
    page->last = id;
    return page->failed != APR_SUCCESS;
}

/* The connection goes back with the request; mod_dbd's, or the file in the state directory. */
static cs_store_t *open_store(request_rec *r, char *error, size_t size)
{
    APR_OPTIONAL_FN_TYPE(ap_dbd_acquire) *acquire = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_acquire);
    cs_server_config_t conf;
    cs_store_t *store = NULL;
    ap_dbd_t *dbd;

    if (cs_config_main_directive("DBDriver")) {
        dbd = acquire ? acquire(r) : NULL;
        if (!dbd) {
            apr_snprintf(error, size, "mod_dbd has no connection");
            return NULL;
        }
        cs_store_wrap(&store, r->pool, dbd->driver, dbd->handle, dbd->prepared, error, size);
        return store;
    }
    cs_config_records(r->pool, cs_recorder.server ? cs_recorder.server : r->server, &conf);
    cs_store_open(&store, r->pool, "sqlite3", apr_pstrcat(r->pool, conf.state_dir, "/chatstream.db", NULL), error,
                  size);
    return store;
}

static int answer(request_rec *r, const cs_audit_filter_t *filter)
{
    char error[512] = "", next[64];
    cs_store_t *store = open_store(r, error, sizeof(error));
    page_t page = {.count = 0};
    int status;

    cs_buf_init(&page.out, ANSWER_MAX);
    page.failed = cs_buf_append_str(&page.out, "{\"rows\":[");
    if (!store || cs_store_audit(store, filter, add_row, &page, error, sizeof(error)) != CS_STORE_OK) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, r->server, "chatstream: chatstream-audit: %s", error);
        cs_buf_free(&page.out);
        return problem(r, HTTP_SERVICE_UNAVAILABLE, "unavailable", "The database is away.", 5);
    }
    apr_snprintf(next, sizeof(next),
                 page.count == filter->limit ? "],\"next\":%" APR_INT64_T_FMT "}\n" : "],\"next\":null}\n", page.last);
    page.failed |= cs_buf_append_str(&page.out, next);
    status = page.failed ? problem(r, HTTP_INTERNAL_SERVER_ERROR, "too_large", "Ask for fewer rows.", 0)
                         : cs_response_json(r, HTTP_OK, page.out.data, page.out.len);
    cs_buf_free(&page.out);
    return status;
}

int cs_record_audit(request_rec *r)
{
    cs_audit_filter_t filter;
    const char *wrong;

    ap_discard_request_body(r);
    if (!ap_some_authn_required(r) && !cs_config_handler_is_guarded(r)) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, r->server,
                     "chatstream: chatstream-audit does not work without a Require: everybody could read it");
        return problem(r, HTTP_FORBIDDEN, "forbidden", "The audit trail needs a Require in its section.", 0);
    }
    if (!cs_config_has_records()) {
        return problem(r, HTTP_NOT_FOUND, "not_recorded", "Nothing is recorded here.", 0);
    }
    wrong = read_filter(r, &filter);
    return wrong ? problem(r, HTTP_BAD_REQUEST, "bad_request", wrong, 0) : answer(r, &filter);
}
