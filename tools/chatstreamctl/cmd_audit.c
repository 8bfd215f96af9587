/* SPDX-License-Identifier: Apache-2.0 */
/* audit verify, audit export */
#include "ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_hash.h>
#include <apr_strings.h>
#include <apr_tables.h>

#include "record/audit_row.h"

/* ---- verify --------------------------------------------------------------------------------------------------------- */

/* Rows of one chain that are in a journal and not yet in the database; they are the last ones of the chain. */
typedef struct {
    uint64_t first;
    uint64_t last;
} waiting_t;

typedef struct {
    const ctl_t *ctl;
    apr_array_header_t *heads; /* cs_head_t */
    apr_hash_t *waiting;       /* chain -> waiting_t */
    cs_buf_t json;
    unsigned told;
} verify_t;

static void take_head(void *baton, const cs_head_t *head)
{
    verify_t *verify = baton;

    *(cs_head_t *)apr_array_push(verify->heads) = *head;
}

static int take_waiting(void *baton, const char *chain, const cs_journal_place_t *place, const cs_fact_t *fact,
                        int applied, const char *note)
{
    verify_t *verify = baton;
    waiting_t *waiting;

    (void)place;
    if (note != NULL || fact == NULL || applied || fact->link.seq == 0) {
        return 0;
    }
    waiting = apr_hash_get(verify->waiting, chain, APR_HASH_KEY_STRING);
    if (waiting == NULL) {
        waiting = apr_palloc(verify->ctl->pool, sizeof(*waiting));
        waiting->first = waiting->last = fact->link.seq;
        apr_hash_set(verify->waiting, apr_pstrdup(verify->ctl->pool, chain), APR_HASH_KEY_STRING, waiting);
    }
    if (fact->link.seq < waiting->first) {
        waiting->first = fact->link.seq;
    }
    if (fact->link.seq > waiting->last) {
        waiting->last = fact->link.seq;
    }
    return 0;
}

/* A chain may be anchored further than the database is: then what seems missing lies in its journal. */
static int only_waits(const verify_t *verify, const char *chain, uint64_t seq)
{
    const waiting_t *waiting = apr_hash_get(verify->waiting, chain, APR_HASH_KEY_STRING);

    if (waiting == NULL) {
        return 0;
    }
    return seq == 0 ? waiting->first == 1 : seq >= waiting->first && seq <= waiting->last;
}

static void tell(void *baton, const char *chain, uint64_t seq, const char *what)
{
    verify_t *verify = baton;
    cs_buf_t *json = &verify->json;

    if (only_waits(verify, chain, seq)) {
        return;
    }
    verify->told++;
    if (verify->ctl->json) {
        char number[24];

        apr_snprintf(number, sizeof(number), "%" APR_UINT64_T_FMT, seq);
        cs_buf_append_str(json, json->len > 0 ? ",\n{" : "\n{");
        cs_audit_json_text(json, "chain", chain);
        cs_audit_json_int(json, "seq", number);
        cs_audit_json_text(json, "what", what);
        cs_buf_append_str(json, "}");
    }
    else if (seq > 0) {
        printf("chain %s row %" PRIu64 ": %s\n", chain, seq, what);
    }
    else {
        printf("chain %s: %s\n", chain, what);
    }
}

static void sum_up(const verify_t *verify, const cs_verify_t *result)
{
    if (verify->ctl->json) {
        printf("{\"rows\":%" PRIu64 ",\"chains\":%" PRIu64 ",\"erased\":%" PRIu64 ",\"findings\":[", result->rows,
               result->chains, result->erased);
        ctl_put(&verify->json);
        puts("]}");
        return;
    }
    printf("%" PRIu64 " rows in %" PRIu64 " chains, %" PRIu64 " rows without identity: ", result->rows, result->chains,
           result->erased);
    if (verify->told == 0) {
        puts("the trail is what was written");
    }
    else {
        printf("%u finding%s\n", verify->told, verify->told == 1 ? "" : "s");
    }
}

int ctl_audit_verify(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    cs_store_t *store;
    verify_t verify;
    cs_verify_t result;
    int rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);

    if (rc != CTL_OK) {
        return rc;
    }
    memset(&verify, 0, sizeof(verify));
    verify.ctl = ctl;
    verify.heads = apr_array_make(ctl->pool, 16, sizeof(cs_head_t));
    verify.waiting = apr_hash_make(ctl->pool);
    cs_buf_init(&verify.json, 64 * 1024 * 1024);
    /* Before the database is read: what waits now may be there by then, what is there now does not go. */
    if (ctl->state != NULL
        && (cs_journal_heads(ctl->state, take_head, &verify) != APR_SUCCESS
            || cs_journal_list(ctl->state, take_waiting, &verify, error, sizeof(error)) != APR_SUCCESS)) {
        return ctl_complain("the state directory %s cannot be read: %s", ctl->state, error);
    }
    if (cs_store_verify(store, (const cs_head_t *)verify.heads->elts, (unsigned)verify.heads->nelts, tell, &verify,
                        &result, error, sizeof(error))
        != CS_STORE_OK) {
        rc = ctl_complain("audit verify: %s", error);
    }
    else {
        sum_up(&verify, &result);
        rc = verify.told > 0 ? CTL_WRONG : CTL_OK;
    }
    cs_buf_free(&verify.json);
    return rc;
}

/* ---- export --------------------------------------------------------------------------------------------------------- */

typedef struct {
    cs_buf_t line;
    int64_t last;
    int rows;
    int failed;
} export_t;

static int export_row(void *baton, int64_t id, const cs_audit_row_t *row)
{
    export_t *export = baton;

    export->last = id;
    export->rows++;
    export->line.len = 0;
    export->failed = cs_audit_row_json(&export->line, id, row) != APR_SUCCESS
                     || cs_buf_append(&export->line, "\n", 1) != APR_SUCCESS || ctl_put(&export->line) != CTL_OK;
    return export->failed;
}

int ctl_audit_export(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    cs_audit_filter_t filter;
    cs_store_t *store;
    export_t export;
    int rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);

    if (rc != CTL_OK) {
        return rc;
    }
    memset(&filter, 0, sizeof(filter));
    memset(&export, 0, sizeof(export));
    cs_buf_init(&export.line, 16 * 1024 * 1024);
    filter.event = ctl->event;
    filter.user = ctl->user;
    filter.stream_id = ctl->stream;
    filter.from = ctl->from;
    filter.until = ctl->until;
    filter.limit = 1000;
    do {
        export.rows = 0;
        filter.after_id = export.last;
        if (cs_store_audit(store, &filter, export_row, &export, error, sizeof(error)) != CS_STORE_OK) {
            rc = ctl_complain("audit export: %s", error);
        }
    } while (rc == CTL_OK && !export.failed && export.rows > 0);
    cs_buf_free(&export.line);
    return export.failed ? CTL_WRONG : rc;
}
