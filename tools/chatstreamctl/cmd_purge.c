/* SPDX-License-Identifier: Apache-2.0 */
/* purge */
#include "ctl.h"

#include <inttypes.h>
#include <stdio.h>

#define ROUNDS 8

/*
 * One round announces, the next one carries out what was announced: see src/record/purge.c. A round that announced nothing has nothing
 * left to do.
 */
static int purge(const ctl_t *ctl, cs_store_t *store, cs_journal_t *journal, uint64_t *sessions, uint64_t *rows)
{
    char error[CTL_ERROR] = "";
    uint64_t announced = 1;
    int rc = CTL_OK;
    int i;

    *sessions = *rows = 0;
    for (i = 0; i < ROUNDS && announced > 0 && rc == CTL_OK; i++) {
        uint64_t some_sessions;
        uint64_t some_rows;

        if (cs_store_purge(store, journal, ctl->before, &some_sessions, &some_rows, error, sizeof(error))
            != CS_STORE_OK) {
            rc = ctl_complain("purge: stopped, run it again: %s", error);
        }
        *sessions += some_sessions;
        *rows += some_rows;
        if (rc == CTL_OK) {
            rc = ctl_apply(store, journal, &announced);
        }
    }
    return rc;
}

int ctl_purge(const ctl_t *ctl)
{
    uint64_t sessions;
    uint64_t rows;
    cs_journal_t *journal;
    cs_store_t *store;
    int rc;

    if (ctl->before < 0) {
        return ctl_misused("purge needs --days or --before");
    }
    rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);
    if (rc == CTL_OK) {
        rc = ctl_journal(ctl, &journal);
    }
    if (rc != CTL_OK) {
        return rc;
    }
    rc = purge(ctl, store, journal, &sessions, &rows);
    printf(ctl->json ? "{\"sessions\":%" PRIu64 ",\"audit_rows\":%" PRIu64 "}\n"
                     : "%" PRIu64 " sessions and %" PRIu64 " audit rows removed\n",
           sessions, rows);
    cs_journal_close(journal);
    return rc;
}
