/* SPDX-License-Identifier: Apache-2.0 */
#include "audit_row.h"

#include <string.h>

#include <apr_strings.h>
#include <json.h>

static int64_t number_of(const char *text)
{
    return text != NULL ? apr_strtoi64(text, NULL, 10) : 0;
}

void cs_audit_row_read(const char *const *columns, cs_audit_row_t *row, int64_t *id, int64_t *seq)
{
    static const char none[] = "";

    *id = number_of(columns[0]);
    *seq = number_of(columns[2]);
    /* Columns that may not be NULL: somebody may have changed the table so that they are. */
    row->chain = columns[1] != NULL ? columns[1] : none;
    row->seq = (uint64_t)*seq;
    row->ts = columns[3] != NULL ? columns[3] : none;
    row->event = columns[4] != NULL ? columns[4] : none;
    row->stream_id = columns[5];
    row->user_key = columns[6];
    row->user_email = columns[7];
    row->ip = columns[8];
    row->query_hash = columns[9];
    row->detail = columns[10];
    row->salt = columns[11];
    row->identity = columns[12] != NULL ? columns[12] : none;
    row->prev_hash = columns[13] != NULL ? columns[13] : none;
    row->hash = columns[14] != NULL ? columns[14] : none;
}

static apr_status_t append_name(cs_buf_t *out, const char *name)
{
    apr_status_t rv = APR_SUCCESS;

    if (out->len > 0 && out->data[out->len - 1] != '{') {
        rv = cs_buf_append(out, ",", 1);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, name, strlen(name));
    }
    return rv == APR_SUCCESS ? cs_buf_append(out, ":", 1) : rv;
}

static apr_status_t append_text(cs_buf_t *out, const char *text)
{
    size_t len = strlen(text);
    cs_buf_t repaired;
    apr_status_t rv;

    if (cs_utf8_valid(text, len)) {
        return cs_buf_append_json(out, text, len);
    }
    cs_buf_init(&repaired, out->max);
    rv = cs_utf8_append_repaired(&repaired, text, len);
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, repaired.data, repaired.len);
    }
    cs_buf_free(&repaired);
    return rv;
}

apr_status_t cs_audit_json_text(cs_buf_t *out, const char *name, const char *text)
{
    apr_status_t rv = append_name(out, name);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    return text != NULL ? append_text(out, text) : cs_buf_append(out, "null", 4);
}

/* Digits with a sign: what a JSON number is, whatever else the database may have let into the column. */
static int is_integer(const char *text)
{
    size_t len = strlen(text);
    size_t start = text[0] == '-';

    return len > start && strspn(text + start, "0123456789") == len - start && (text[start] != '0' || len == start + 1);
}

apr_status_t cs_audit_json_int(cs_buf_t *out, const char *name, const char *digits)
{
    apr_status_t rv;

    if (digits == NULL || !is_integer(digits)) {
        return cs_audit_json_text(out, name, digits);
    }
    rv = append_name(out, name);
    return rv == APR_SUCCESS ? cs_buf_append_str(out, digits) : rv;
}

/* Is it one object, on one line and nothing behind it, so that it may stand in a document as it is? */
static int is_object(const char *text)
{
    size_t len = strlen(text);
    struct json_tokener *tokener;
    struct json_object *object;
    int yes;

    if (text[0] != '{' || len > INT32_MAX || strpbrk(text, "\r\n") != NULL || !cs_utf8_valid(text, len)
        || (tokener = json_tokener_new()) == NULL) {
        return 0;
    }
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    object = json_tokener_parse_ex(tokener, text, (int)len);
    yes = object != NULL && json_tokener_get_parse_end(tokener) == len;
    json_object_put(object);
    json_tokener_free(tokener);
    return yes;
}

static apr_status_t append_detail(cs_buf_t *out, const char *detail)
{
    apr_status_t rv;

    if (detail == NULL || !is_object(detail)) {
        return cs_audit_json_text(out, "detail", detail);
    }
    rv = append_name(out, "detail");
    return rv == APR_SUCCESS ? cs_buf_append_str(out, detail) : rv;
}

apr_status_t cs_audit_row_json(cs_buf_t *out, int64_t id, const cs_audit_row_t *row)
{
    const struct {
        const char *name;
        const char *text;
    } before[] = {{"chain", row->chain},
                  {NULL, NULL},
                  {"ts", row->ts},
                  {"event", row->event},
                  {"stream_id", row->stream_id},
                  {"user_key", row->user_key},
                  {"user_email", row->user_email},
                  {"ip", row->ip},
                  {"query_hash", row->query_hash}},
      after[] = {
          {"salt", row->salt}, {"identity_hash", row->identity}, {"prev_hash", row->prev_hash}, {"hash", row->hash}};
    char digits[24];
    apr_status_t rv;
    size_t i;

    apr_snprintf(digits, sizeof(digits), "%" APR_INT64_T_FMT, id);
    rv = cs_buf_append(out, "{", 1);
    if (rv == APR_SUCCESS) {
        rv = cs_audit_json_int(out, "id", digits);
    }
    for (i = 0; rv == APR_SUCCESS && i < sizeof(before) / sizeof(before[0]); i++) {
        if (before[i].name != NULL) {
            rv = cs_audit_json_text(out, before[i].name, before[i].text);
            continue;
        }
        apr_snprintf(digits, sizeof(digits), "%" APR_INT64_T_FMT, (int64_t)row->seq);
        rv = cs_audit_json_int(out, "seq", digits);
    }
    if (rv == APR_SUCCESS) {
        rv = append_detail(out, row->detail);
    }
    for (i = 0; rv == APR_SUCCESS && i < sizeof(after) / sizeof(after[0]); i++) {
        rv = cs_audit_json_text(out, after[i].name, after[i].text);
    }
    return rv == APR_SUCCESS ? cs_buf_append(out, "}", 1) : rv;
}
