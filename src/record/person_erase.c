/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Article 17. Each step is one transaction: what identifies is taken away and the `erase` row that says where goes in with it. The row
 * is in the journal before the transaction is committed, so nothing is ever erased unexplained; a row that names what was not erased
 * after all (a crash between the two) claims nothing that verify would miss. Run again, it goes on where it stopped.
 *
 * First rows that carry only a stream of the user's, then those with the user's key, which tie the others to him, then messages and
 * sessions, for the same reason last.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "admin_fact.h"
#include "sql.h"

#define ROWS_AT_ONCE 500 /* as the statements say in their LIMIT */

typedef struct {
    cs_store_t *store;
    cs_journal_t *journal;
    const char *user;
    char *error;
    size_t size;
} erase_t;

typedef struct {
    char chain[65];
    int64_t first;
    int64_t last;
} span_t;

/* The rows of one transaction, as ranges. */
typedef struct {
    span_t spans[ROWS_AT_ONCE];
    int count;
    int rows;
} batch_t;

/* In the order of chain and seq. */
static int take_row(void *baton, const char *const *columns)
{
    batch_t *batch = baton;
    span_t *last = batch->count > 0 ? &batch->spans[batch->count - 1] : NULL;
    int64_t seq;

    if (columns[0] == NULL || columns[1] == NULL || batch->rows == ROWS_AT_ONCE) {
        return 1;
    }
    seq = apr_strtoi64(columns[1], NULL, 10);
    batch->rows++;
    if (last != NULL && seq == last->last + 1 && strcmp(last->chain, columns[0]) == 0) {
        last->last = seq;
        return 0;
    }
    last = &batch->spans[batch->count++];
    apr_cpystrn(last->chain, columns[0], sizeof(last->chain));
    last->first = last->last = seq;
    return 0;
}

/* ---- the row that says so ------------------------------------------------------------------------------------------ */

static apr_status_t add_span(cs_buf_t *out, const span_t *span, int is_first_of_chain)
{
    char text[64];

    snprintf(text, sizeof(text), "%s%" PRId64, is_first_of_chain ? "" : ",", span->first);
    if (span->last > span->first) {
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "-%" PRId64, span->last);
    }
    return cs_buf_append_str(out, text);
}

/* {"rows":{"<chain>":"3-9,14"},"sessions":n,"messages":n} */
static apr_status_t put_detail(cs_buf_t *out, const batch_t *batch, uint64_t sessions, uint64_t messages)
{
    char counts[96];
    apr_status_t rv = cs_buf_append_str(out, "{\"rows\":{");
    int i;

    for (i = 0; i < batch->count && rv == APR_SUCCESS; i++) {
        const span_t *span = &batch->spans[i];
        int is_first = i == 0 || strcmp(span->chain, batch->spans[i - 1].chain) != 0;

        if (is_first) {
            rv = cs_buf_append_str(out, i > 0 ? "\"," : "");
            if (rv == APR_SUCCESS) {
                rv = cs_buf_append_json(out, span->chain, strlen(span->chain));
            }
            if (rv == APR_SUCCESS) {
                rv = cs_buf_append_str(out, ":\"");
            }
        }
        if (rv == APR_SUCCESS) {
            rv = add_span(out, span, is_first);
        }
    }
    if (rv == APR_SUCCESS) {
        snprintf(counts, sizeof(counts), "%s},\"sessions\":%" PRIu64 ",\"messages\":%" PRIu64 "}",
                 batch->count > 0 ? "\"" : "", sessions, messages);
        rv = cs_buf_append_str(out, counts);
    }
    return rv;
}

/*
 * Applies the journal up to the row just appended, within the open transaction: through the journal's own reader, since the
 * first row of a chain gets its anchors on the way, and so that nothing that waits before it is passed over.
 */
static cs_store_e apply_journal(erase_t *erase, const char *node, uint64_t seq, cs_journal_place_t *after)
{
    cs_fact_t fact;
    cs_store_e rv;

    do {
        switch (cs_journal_read(erase->journal, &fact, after, erase->error, erase->size)) {
        case CS_JOURNAL_FACT:
            break;
        case CS_JOURNAL_END:
            snprintf(erase->error, erase->size, "erase: the journal does not give back what was written to it");
            return CS_STORE_LOST;
        case CS_JOURNAL_CORRUPT:
            return CS_STORE_LOST;
        }
        rv = cs_store_apply(erase->store, cs_journal_chain(erase->journal), node, &fact, erase->error, erase->size);
    } while (rv == CS_STORE_OK && fact.link.seq != seq);
    return rv;
}

/* Ends the transaction, one way or the other. */
static cs_store_e finish(erase_t *erase, cs_store_e rv, const batch_t *batch, uint64_t sessions, uint64_t messages)
{
    char node[CS_NODE_SIZE];
    cs_journal_place_t after;
    cs_fact_t fact;
    cs_buf_t detail;

    cs_buf_init(&detail, 1024 * 1024);
    cs_admin_node(node);
    if (rv == CS_STORE_OK && put_detail(&detail, batch, sessions, messages) != APR_SUCCESS) {
        snprintf(erase->error, erase->size, "erase: out of memory");
        rv = CS_STORE_LOST;
    }
    if (rv == CS_STORE_OK
        && cs_admin_fact(erase->journal, &fact, "erase", node, &detail, erase->error, erase->size) != APR_SUCCESS) {
        rv = CS_STORE_LOST;
    }
    if (rv == CS_STORE_OK) {
        rv = apply_journal(erase, node, fact.link.seq, &after);
        if (rv == CS_STORE_OK) {
            rv = cs_store_commit(erase->store, erase->error, erase->size);
        }
        else {
            cs_store_rollback(erase->store);
        }
        if (rv == CS_STORE_OK) {
            /* If this fails they are applied again, which changes nothing. */
            cs_journal_applied(erase->journal, &after);
        }
        else {
            cs_journal_rewind(erase->journal);
        }
    }
    else {
        cs_store_rollback(erase->store);
    }
    cs_buf_free(&detail);
    return rv;
}

/* ---- the steps ----------------------------------------------------------------------------------------------------- */

static cs_store_e blank_rows(erase_t *erase, const batch_t *batch)
{
    cs_store_e rv = CS_STORE_OK;
    int i;

    for (i = 0; i < batch->count && rv == CS_STORE_OK; i++) {
        char first[CS_SQL_NUMBER];
        char last[CS_SQL_NUMBER];
        const char *args[3];

        args[0] = batch->spans[i].chain;
        args[1] = cs_sql_number(first, batch->spans[i].first);
        args[2] = cs_sql_number(last, batch->spans[i].last);
        rv = cs_sql_exec(erase->store, CS_STMT_ERASE_AUDIT, args, NULL, erase->error, erase->size);
    }
    return rv;
}

static cs_store_e erase_rows(erase_t *erase, cs_stmt_e which, uint64_t *audit_rows)
{
    const char *args[2];
    batch_t batch;
    cs_store_e rv;

    args[0] = args[1] = erase->user;
    do {
        batch.count = batch.rows = 0;
        rv = cs_store_begin(erase->store, erase->error, erase->size);
        if (rv == CS_STORE_OK) {
            rv = cs_sql_select(erase->store, which, args, take_row, &batch, erase->error, erase->size);
            if (rv == CS_STORE_OK && batch.rows == 0) {
                cs_store_rollback(erase->store);
                break;
            }
            if (rv == CS_STORE_OK) {
                rv = blank_rows(erase, &batch);
            }
            rv = finish(erase, rv, &batch, 0, 0);
        }
        if (rv == CS_STORE_OK) {
            *audit_rows += (uint64_t)batch.rows;
        }
    } while (rv == CS_STORE_OK);
    return rv;
}

static cs_store_e erase_conversations(erase_t *erase, uint64_t *sessions, uint64_t *messages)
{
    const char *args[2];
    batch_t none;
    int messages_gone = 0;
    int sessions_blank = 0;
    cs_store_e rv = cs_store_begin(erase->store, erase->error, erase->size);

    if (rv != CS_STORE_OK) {
        return rv;
    }
    args[0] = args[1] = erase->user;
    none.count = none.rows = 0;
    rv = cs_sql_exec(erase->store, CS_STMT_ERASE_MESSAGES, args, &messages_gone, erase->error, erase->size);
    if (rv == CS_STORE_OK) {
        rv = cs_sql_exec(erase->store, CS_STMT_ERASE_SESSIONS, args, &sessions_blank, erase->error, erase->size);
    }
    if (rv == CS_STORE_OK && messages_gone == 0 && sessions_blank == 0) {
        cs_store_rollback(erase->store);
        return rv;
    }
    rv = finish(erase, rv, &none, (uint64_t)sessions_blank, (uint64_t)messages_gone);
    if (rv == CS_STORE_OK) {
        *sessions = (uint64_t)sessions_blank;
        *messages = (uint64_t)messages_gone;
    }
    return rv;
}

cs_store_e cs_store_erase_user(cs_store_t *store, cs_journal_t *journal, const char *user, uint64_t *sessions,
                               uint64_t *messages, uint64_t *audit_rows, char *error, size_t size)
{
    erase_t erase = {store, journal, user, error, size};
    cs_store_e rv;

    *sessions = *messages = *audit_rows = 0;
    rv = erase_rows(&erase, CS_STMT_ERASE_STREAM_ROWS, audit_rows);
    if (rv == CS_STORE_OK) {
        rv = erase_rows(&erase, CS_STMT_ERASE_USER_ROWS, audit_rows);
    }
    return rv == CS_STORE_OK ? erase_conversations(&erase, sessions, messages) : rv;
}
