/* SPDX-License-Identifier: Apache-2.0 */
/* gdpr export, gdpr erase */
#include "ctl.h"

#include <inttypes.h>
#include <stdio.h>

#include "record/store_status.h"

#define DOCUMENT_MAX ((size_t)1024 * 1024 * 1024)

int ctl_gdpr_export(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    cs_store_t *store;
    cs_buf_t out;
    int rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);

    if (rc != CTL_OK) {
        return rc;
    }
    cs_buf_init(&out, DOCUMENT_MAX);
    if (cs_store_export_user(store, ctl->user, &out, error, sizeof(error)) != CS_STORE_OK) {
        rc = ctl_complain("gdpr export: %s", error);
    }
    else {
        rc = ctl_put(&out);
    }
    cs_buf_free(&out);
    return rc;
}

static void report(const ctl_t *ctl, uint64_t sessions, uint64_t messages, uint64_t rows, int64_t active)
{
    if (ctl->json) {
        printf("{\"sessions\":%" PRIu64 ",\"messages\":%" PRIu64 ",\"audit_rows\":%" PRIu64 ",\"active\":%" PRId64
               "}\n",
               sessions, messages, rows, active);
        return;
    }
    printf("%" PRIu64 " sessions and %" PRIu64 " audit rows made anonymous, %" PRIu64 " messages deleted\n", sessions,
           rows, messages);
    if (active > 0) {
        printf(
            "%" PRId64
            " of the sessions had not ended: what they still write will be the user's. Erase again when they have.\n",
            active);
    }
}

int ctl_gdpr_erase(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    uint64_t sessions;
    uint64_t messages;
    uint64_t rows;
    int64_t active;
    cs_journal_t *journal;
    cs_store_t *store;
    int rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);

    if (rc != CTL_OK) {
        return rc;
    }
    rc = ctl_journal(ctl, &journal);
    if (rc != CTL_OK) {
        return rc;
    }
    if (cs_store_active(store, ctl->user, &active, error, sizeof(error)) != CS_STORE_OK
        || cs_store_erase_user(store, journal, ctl->user, &sessions, &messages, &rows, error, sizeof(error))
               != CS_STORE_OK) {
        rc = ctl_complain("gdpr erase: not everything is erased, run it again: %s", error);
    }
    else {
        report(ctl, sessions, messages, rows, active);
        rc = ctl_apply(store, journal, NULL);
    }
    cs_journal_close(journal);
    return rc;
}
