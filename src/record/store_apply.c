/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Facts to rows. Whatever part of a fact was applied before, by this process or by one that died, applying it again
 * completes it and changes nothing else.
 */
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "store_inner.h"

/* How far a chain got in this transaction. */
typedef struct {
    const char *chain;
    const char *node;
    apr_time_t first, last;
    uint64_t seq;
    char hash[65];
} head_t;

/* One fact on its way: what several of its rows need, NUL-terminated. */
typedef struct {
    cs_store_t *store;
    const cs_fact_t *fact;
    const char *text[CS_TXT_COUNT];
    char at[CS_SQL_TIME];
    char *error;
    size_t size;
} work_t;

/* Texts of databases hold no U+0000: it is shown as what cannot be shown, so that nothing behind it gets lost. */
static const char *text_of(apr_pool_t *pool, const cs_text_t *text)
{
    const char *from = text->data, *end = text->data + text->len, *nul = memchr(from, 0, text->len);
    char *out, *at;

    if (!nul) {
        return apr_pstrmemdup(pool, text->data, text->len);
    }
    at = out = apr_palloc(pool, text->len * 3 + 1);
    for (; from < end; from++) {
        if (*from) {
            *at++ = *from;
        }
        else {
            memcpy(at, "\xEF\xBF\xBD", 3);
            at += 3;
        }
    }
    *at = '\0';
    return out;
}

/* ---- transaction -------------------------------------------------------------------------------------------------- */

cs_store_e cs_store_begin(cs_store_t *store, char *error, size_t size)
{
    /* IMMEDIATE: waits for the other writers here, and not with half of the batch written. */
    static const char *const begin[] = {"BEGIN IMMEDIATE", "BEGIN", "START TRANSACTION"};
    cs_store_e got;

    if (store->open) {
        cs_store_rollback(store);
    }
    apr_pool_clear(store->trans);
    store->heads = apr_array_make(store->trans, 2, sizeof(head_t));
    store->failed = CS_STORE_LOST; /* until there is one */
    got = cs_sql_prepare(store, CS_STMT_SESSION_OPEN, CS_STMT_CHAIN_HEAD, error, size);
    if (got == CS_STORE_OK) {
        got = cs_sql_run(store, "begin", begin[store->sql], error, size);
    }
    if (got != CS_STORE_OK) {
        cs_store_rollback(store);
        return CS_STORE_LOST;
    }
    store->open = 1;
    store->failed = CS_STORE_OK;
    return CS_STORE_OK;
}

void cs_store_rollback(cs_store_t *store)
{
    char ignored[256];

    store->open = 0;
    cs_sql_run(store, "rollback", "ROLLBACK", ignored, sizeof(ignored));
    if (store->failed == CS_STORE_LOST) {
        cs_sql_forget(store);
    }
}

static cs_store_e write_head(cs_store_t *store, const head_t *head, char *error, size_t size)
{
    char first[CS_SQL_TIME], last[CS_SQL_TIME], seq[CS_SQL_NUMBER];
    const char *args[] = {head->chain,
                          head->node,
                          cs_sql_time(first, head->first),
                          cs_sql_time(last, head->last),
                          cs_sql_number(seq, (int64_t)head->seq),
                          head->hash,
                          CS_CHAIN_GENESIS};

    return cs_sql_exec(store, CS_STMT_CHAIN_HEAD, args, NULL, error, size);
}

cs_store_e cs_store_commit(cs_store_t *store, char *error, size_t size)
{
    cs_store_e got = store->failed;
    int i;

    if (!store->open) {
        snprintf(error, size, "commit: no transaction");
        return CS_STORE_LOST;
    }
    if (got != CS_STORE_OK) { /* PostgreSQL would answer COMMIT with a rollback, and success */
        snprintf(error, size, "commit: the transaction has failed before");
    }
    for (i = 0; got == CS_STORE_OK && i < store->heads->nelts; i++) {
        got = write_head(store, &APR_ARRAY_IDX(store->heads, i, head_t), error, size);
    }
    if (got == CS_STORE_OK) {
        got = cs_sql_run(store, "commit", "COMMIT", error, size);
    }
    if (got != CS_STORE_OK) {
        cs_store_rollback(store);
    }
    store->open = 0;
    return got;
}

/* ---- rows --------------------------------------------------------------------------------------------------------- */

static cs_store_e exec(work_t *work, cs_stmt_e stmt, const char *const *args, int *affected)
{
    return cs_sql_exec(work->store, stmt, args, affected, work->error, work->size);
}

static int wants(const work_t *work, int bit)
{
    int64_t bits = work->fact->number[CS_NUM_WANTS];

    return bits != CS_NUM_NONE && (bits & bit) != 0;
}

static const char *message_id(const work_t *work, const char *role)
{
    return apr_pstrcat(work->store->row, work->text[CS_TXT_STREAM_ID], ":", role, NULL);
}

static cs_store_e message(work_t *work, const char *role, int content)
{
    const char *args[] = {message_id(work, role),
                          work->text[CS_TXT_STREAM_ID],
                          work->text[CS_TXT_CONVERSATION_ID],
                          work->text[CS_TXT_USER_KEY],
                          role,
                          work->text[content],
                          work->at,
                          work->fact->number[CS_NUM_PARTIAL] == 1 ? "1" : "0"};

    return exec(work, CS_STMT_MESSAGE, args, NULL);
}

static void note_head(cs_store_t *store, const char *chain, const char *node, const cs_link_t *link)
{
    head_t *heads = (head_t *)store->heads->elts, *head = NULL;
    int i;

    for (i = 0; head == NULL && i < store->heads->nelts; i++) {
        head = strcmp(heads[i].chain, chain) == 0 ? &heads[i] : NULL;
    }
    if (head == NULL) {
        head = apr_array_push(store->heads);
        memset(head, 0, sizeof(*head));
        head->chain = apr_pstrdup(store->trans, chain);
        head->node = apr_pstrdup(store->trans, node);
        head->first = link->ts;
    }
    if (link->seq > head->seq) {
        head->seq = link->seq;
        head->last = link->ts;
        memcpy(head->hash, link->hash, sizeof(head->hash));
    }
}

static cs_store_e audit(work_t *work, const char *chain, const char *node)
{
    const cs_link_t *link = &work->fact->link;
    char ts[CS_SQL_TIME], seq[CS_SQL_NUMBER];
    const char *args[] = {cs_sql_time(ts, link->ts),
                          chain,
                          cs_sql_number(seq, (int64_t)link->seq),
                          work->text[CS_TXT_EVENT],
                          work->text[CS_TXT_STREAM_ID],
                          work->text[CS_TXT_USER_KEY],
                          work->text[CS_TXT_USER_EMAIL],
                          work->text[CS_TXT_IP],
                          work->text[CS_TXT_QUERY_HASH],
                          work->text[CS_TXT_DETAIL],
                          link->salt,
                          link->identity,
                          link->prev_hash,
                          link->hash};
    cs_store_e got;

    if (link->seq == 0) {
        return CS_STORE_OK;
    }
    got = exec(work, CS_STMT_AUDIT, args, NULL);
    if (got == CS_STORE_OK) {
        note_head(work->store, chain, node, link);
    }
    return got;
}

/* ---- facts -------------------------------------------------------------------------------------------------------- */

static cs_store_e open_session(work_t *work, const char *node, int *affected)
{
    const char *const *text = work->text;
    const char *args[] = {text[CS_TXT_STREAM_ID],
                          work->at,
                          work->at,
                          text[CS_TXT_PROFILE],
                          text[CS_TXT_USER_KEY],
                          text[CS_TXT_USER_EMAIL],
                          text[CS_TXT_CONNECTION_ID],
                          text[CS_TXT_RESOURCE],
                          text[CS_TXT_QUERY_HASH],
                          text[CS_TXT_UPSTREAM],
                          node};

    return exec(work, CS_STMT_SESSION_OPEN, args, affected);
}

static cs_store_e apply_open(work_t *work, const char *node)
{
    int inserted = 1;
    cs_store_e got = CS_STORE_OK;

    if (wants(work, CS_WANT_SESSIONS)) {
        got = open_session(work, node, &inserted);
    }
    if (got == CS_STORE_OK && wants(work, CS_WANT_TRANSCRIPT) && work->text[CS_TXT_MESSAGE] != NULL) {
        got = message(work, "user", CS_TXT_MESSAGE);
        if (got == CS_STORE_OK && inserted == 0) { /* it may be finished already */
            got = exec(work, CS_STMT_SESSION_SAVED, &work->text[CS_TXT_STREAM_ID], NULL);
        }
    }
    return got;
}

/* The figures of an end as texts. */
typedef struct {
    char buf[7][CS_SQL_NUMBER];
    const char *first_chunk, *duration, *chunks, *bytes, *reconnects, *prompt, *completion;
} figures_t;

static void figures_set(figures_t *f, const cs_fact_t *fact)
{
    f->first_chunk = cs_sql_number(f->buf[0], fact->number[CS_NUM_FIRST_CHUNK_MS]);
    f->duration = cs_sql_number(f->buf[1], fact->number[CS_NUM_DURATION_MS]);
    f->chunks = cs_sql_number(f->buf[2], fact->number[CS_NUM_CHUNK_COUNT]);
    f->bytes = cs_sql_number(f->buf[3], fact->number[CS_NUM_BYTES_SENT]);
    f->reconnects = cs_sql_number(f->buf[4], fact->number[CS_NUM_RECONNECTS]);
    f->prompt = cs_sql_number(f->buf[5], fact->number[CS_NUM_PROMPT_TOKENS]);
    f->completion = cs_sql_number(f->buf[6], fact->number[CS_NUM_COMPLETION_TOKENS]);
}

/* `saved`: id of the user's message, which makes db_saved true when it is there; NULL: no transcript. */
static cs_store_e close_session(work_t *work, const figures_t *f, const char *saved, int *affected)
{
    const char *const *text = work->text;
    const char *args[] = {text[CS_TXT_STATUS],
                          text[CS_TXT_ERROR_CODE],
                          work->at,
                          work->at,
                          f->first_chunk,
                          f->duration,
                          f->chunks,
                          f->bytes,
                          f->reconnects,
                          f->prompt,
                          f->completion,
                          text[CS_TXT_UPSTREAM],
                          saved,
                          text[CS_TXT_STREAM_ID]};

    return exec(work, CS_STMT_SESSION_CLOSE, args, affected);
}

/* Begun when it ended less what it took. */
static cs_store_e whole_session(work_t *work, const figures_t *f, const char *saved, const char *node)
{
    const char *const *text = work->text;
    int64_t took = work->fact->number[CS_NUM_DURATION_MS];
    char begun[CS_SQL_TIME];
    const char *args[] = {text[CS_TXT_STREAM_ID],
                          cs_sql_time(begun, work->fact->number[CS_NUM_AT] - (took == CS_NUM_NONE ? 0 : took * 1000)),
                          work->at,
                          work->at,
                          text[CS_TXT_PROFILE],
                          text[CS_TXT_USER_KEY],
                          text[CS_TXT_USER_EMAIL],
                          text[CS_TXT_CONNECTION_ID],
                          text[CS_TXT_RESOURCE],
                          text[CS_TXT_STATUS],
                          text[CS_TXT_ERROR_CODE],
                          f->first_chunk,
                          f->duration,
                          f->chunks,
                          f->bytes,
                          f->reconnects,
                          text[CS_TXT_QUERY_HASH],
                          f->prompt,
                          f->completion,
                          text[CS_TXT_UPSTREAM],
                          node,
                          saved};

    return exec(work, CS_STMT_SESSION_WHOLE, args, NULL);
}

static cs_store_e apply_close(work_t *work, const char *node)
{
    int transcript = wants(work, CS_WANT_TRANSCRIPT), changed = 0;
    const char *saved = transcript ? message_id(work, "user") : NULL;
    figures_t figures;
    cs_store_e got = CS_STORE_OK;

    if (transcript && work->fact->text[CS_TXT_ANSWER].len > 0) {
        got = message(work, "assistant", CS_TXT_ANSWER);
    }
    if (got != CS_STORE_OK || !wants(work, CS_WANT_SESSIONS)) {
        return got;
    }
    figures_set(&figures, work->fact);
    got = close_session(work, &figures, saved, &changed);
    if (got == CS_STORE_OK && changed == 0) {
        got = whole_session(work, &figures, saved, node);
    }
    return got;
}

cs_store_e cs_store_apply(cs_store_t *store, const char *chain, const char *node, const cs_fact_t *fact, char *error,
                          size_t size)
{
    work_t work = {.store = store, .fact = fact, .error = error, .size = size};
    const char *session_node;
    cs_store_e got = CS_STORE_OK;
    int i;

    if (!store->open || store->failed != CS_STORE_OK) {
        snprintf(error, size, "apply: %s", store->open ? "the transaction has failed before" : "no transaction");
        return store->open ? store->failed : CS_STORE_LOST;
    }
    apr_pool_clear(store->row);
    for (i = 0; i < CS_TXT_COUNT; i++) {
        if (fact->text[i].data != NULL) {
            work.text[i] = text_of(store->row, &fact->text[i]);
        }
    }
    session_node = work.text[CS_TXT_NODE] != NULL ? work.text[CS_TXT_NODE] : node;
    cs_sql_time(work.at, fact->number[CS_NUM_AT]);

    if (work.text[CS_TXT_STREAM_ID] != NULL && fact->number[CS_NUM_AT] != CS_NUM_NONE) {
        if (fact->kind == CS_FACT_OPEN) {
            got = apply_open(&work, session_node);
        }
        else if (fact->kind == CS_FACT_CLOSE) {
            got = apply_close(&work, session_node);
        }
    }
    return got == CS_STORE_OK ? audit(&work, chain, node) : got;
}
