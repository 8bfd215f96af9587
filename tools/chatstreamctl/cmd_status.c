/* SPDX-License-Identifier: Apache-2.0 */
/* migrate, status */
#include "ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "record/audit_row.h"
#include "record/store_status.h"

int ctl_migrate(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    cs_store_t *store;
    int version = 0;
    int rc = ctl_store(ctl, &store, CTL_ANY_SCHEMA);

    if (rc != CTL_OK) {
        return rc;
    }
    if (cs_store_migrate(store, error, sizeof(error)) != APR_SUCCESS
        || cs_store_version(store, &version, error, sizeof(error)) != APR_SUCCESS) {
        return ctl_complain("migrate: %s", error);
    }
    printf(ctl->json ? "{\"schema\":%d}\n" : "schema version %d\n", version);
    return CTL_OK;
}

typedef struct {
    int version;
    cs_store_rows_t rows;
    cs_buf_t text;
    cs_buf_t json;
    uint64_t bytes;
    apr_time_t oldest;
} status_t;

static void note_status(void *baton, const char *name, int64_t count, int64_t recent)
{
    status_t *status = baton;
    char line[160];

    snprintf(line, sizeof(line), "  %-14.40s %10" PRId64 " %10" PRId64 "\n", name, count, recent);
    cs_buf_append_str(&status->text, line);
    cs_buf_append_str(&status->json, status->json.len > 0 ? "," : "");
    cs_buf_append_json(&status->json, name, strlen(name));
    snprintf(line, sizeof(line), ":{\"total\":%" PRId64 ",\"last_hour\":%" PRId64 "}", count, recent);
    cs_buf_append_str(&status->json, line);
}

static int64_t age(apr_time_t oldest)
{
    return oldest != 0 ? (int64_t)apr_time_sec(apr_time_now() - oldest) : 0;
}

static void print_json(const ctl_t *ctl, const status_t *status)
{
    printf("{\"schema\":%d,\"sessions\":{%.*s},\"messages\":%" PRId64 ",\"audit\":{\"rows\":%" PRId64
           ",\"chains\":%" PRId64 "}",
           status->version, (int)status->json.len, status->json.len > 0 ? status->json.data : "", status->rows.messages,
           status->rows.audit_rows, status->rows.chains);
    if (ctl->state != NULL) {
        printf(",\"journal\":{\"bytes\":%" PRIu64 ",\"oldest_s\":%" PRId64 "}", status->bytes, age(status->oldest));
    }
    puts("}");
}

static void print_text(const ctl_t *ctl, const status_t *status)
{
    printf("schema version %d\n", status->version);
    printf("sessions              total  last hour\n%.*s", (int)status->text.len,
           status->text.len > 0 ? status->text.data : "");
    printf("messages         %10" PRId64 "\n", status->rows.messages);
    printf("audit rows       %10" PRId64 " in %" PRId64 " chains\n", status->rows.audit_rows, status->rows.chains);
    if (ctl->state != NULL) {
        printf("journal          %10" PRIu64 " bytes wait, the oldest since %" PRId64 " s\n", status->bytes,
               age(status->oldest));
    }
}

int ctl_status(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    cs_store_t *store;
    status_t status;
    int rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);

    if (rc != CTL_OK) {
        return rc;
    }
    memset(&status, 0, sizeof(status));
    cs_buf_init(&status.text, 64 * 1024);
    cs_buf_init(&status.json, 64 * 1024);
    if (cs_store_version(store, &status.version, error, sizeof(error)) != APR_SUCCESS
        || cs_store_sessions(store, apr_time_now() - apr_time_from_sec(3600), note_status, &status, error,
                             sizeof(error))
               != CS_STORE_OK
        || cs_store_rows(store, &status.rows, error, sizeof(error)) != CS_STORE_OK) {
        rc = ctl_complain("status: %s", error);
    }
    else if (ctl->state != NULL && cs_journal_usage(ctl->state, &status.bytes, &status.oldest) != APR_SUCCESS) {
        rc = ctl_complain("status: the journals in %s cannot be read", ctl->state);
    }
    else if (ctl->json) {
        print_json(ctl, &status);
    }
    else {
        print_text(ctl, &status);
    }
    cs_buf_free(&status.text);
    cs_buf_free(&status.json);
    return rc;
}
