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
#include <apr_lib.h>
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
#include "store_inner.h"

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

/* Takes `digits` digits and the mark behind them. -1: that is not what stands there. */
static int take_digits(const char **text, int digits, char mark)
{
    int value = 0;

    for (; digits > 0; digits--) {
        if (!apr_isdigit(**text)) {
            return -1;
        }
        value = value * 10 + (*(*text)++ - '0');
    }
    if (mark && *(*text)++ != mark) {
        return -1;
    }
    return value;
}

/* Up to six digits; what is finer is not kept anyway. */
static int take_fraction(const char **text)
{
    int value = 0, unit;

    if (**text != '.' || !apr_isdigit((*text)[1])) {
        return 0;
    }
    ++*text;
    for (unit = 100000; apr_isdigit(**text); ++*text, unit /= 10) {
        value += (**text - '0') * unit;
    }
    return value;
}

/* "2026-02-17T10:00:00Z", with or without a fraction; or seconds since 1970. 0: neither. */
static int read_time(const char *text, apr_time_t *when)
{
    apr_time_exp_t parts, again;

    if (strlen(text) < 12 && text[strspn(text, "0123456789")] == '\0') {
        *when = apr_time_from_sec(apr_strtoi64(text, NULL, 10));
        return 1;
    }
    memset(&parts, 0, sizeof(parts));
    if ((parts.tm_year = take_digits(&text, 4, '-') - 1900) < 70 || (parts.tm_mon = take_digits(&text, 2, '-') - 1) < 0
        || (parts.tm_mday = take_digits(&text, 2, 'T')) < 1 || (parts.tm_hour = take_digits(&text, 2, ':')) < 0
        || (parts.tm_min = take_digits(&text, 2, ':')) < 0 || (parts.tm_sec = take_digits(&text, 2, '\0')) < 0) {
        return 0;
    }
    parts.tm_usec = take_fraction(&text);
    /* There is no 30th of February. */
    return !strcmp(text, "Z") && apr_time_exp_gmt_get(when, &parts) == APR_SUCCESS
           && apr_time_exp_gmt(&again, *when) == APR_SUCCESS && again.tm_mday == parts.tm_mday
           && again.tm_mon == parts.tm_mon && again.tm_hour == parts.tm_hour && again.tm_min == parts.tm_min
           && again.tm_sec == parts.tm_sec;
}

static int read_number(const char *text, apr_int64_t max, apr_int64_t *value)
{
    char *end;

    *value = apr_strtoi64(text, &end, 10);
    return apr_isdigit(*text) && !*end && strlen(text) < 19 && *value <= max;
}

static const char *take(apr_table_t *args, const char *name)
{
    const char *value = apr_table_get(args, name);

    apr_table_unset(args, name);
    return value && *value ? value : NULL;
}

static int is_filter(const char *text)
{
    size_t len = text ? strlen(text) : 0;

    return len <= FILTER_TEXT && (!text || cs_utf8_valid(text, len));
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
    if (!is_filter(filter->user) || !is_filter(filter->event) || !is_filter(filter->stream_id)) {
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

/* Before the first record there is no table: nothing has happened. */
static int read_once(cs_store_t *store, const cs_audit_filter_t *filter, page_t *page, char *error, size_t size)
{
    int version = 0;

    page->out.len = page->count = 0;
    page->failed = cs_buf_append_str(&page->out, "{\"rows\":[");
    if (cs_store_version(store, &version, error, size)) {
        return 1;
    }
    return version && cs_store_audit(store, filter, add_row, page, error, size) != CS_STORE_OK;
}

/* A connection that mod_dbd has mended no longer knows what was prepared on it. */
static int read_page(cs_store_t *store, const cs_audit_filter_t *filter, page_t *page, char *error, size_t size)
{
    if (!read_once(store, filter, page, error, size)) {
        return 0;
    }
    cs_sql_forget(store);
    return read_once(store, filter, page, error, size);
}

static int answer(request_rec *r, const cs_audit_filter_t *filter)
{
    char error[512] = "", next[64];
    cs_store_t *store = open_store(r, error, sizeof(error));
    page_t page = {.count = 0};
    int status;

    cs_buf_init(&page.out, ANSWER_MAX);
    if (!store || read_page(store, filter, &page, error, sizeof(error))) {
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

/* Does httpd ask for a name? It looks at the request as it is, so for a moment nobody has said his. */
static int needs_a_name(request_rec *r)
{
    char *user = r->user;
    int needed;

    r->user = NULL;
    needed = ap_some_authn_required(r);
    r->user = user;
    return needed;
}

int cs_record_audit(request_rec *r)
{
    cs_audit_filter_t filter;
    const char *wrong;

    ap_discard_request_body(r);
    if (!needs_a_name(r) && !cs_config_handler_is_guarded(r)) {
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
