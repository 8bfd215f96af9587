/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retention. Sessions and messages just go. Audit rows go from the front of each chain, in two steps that a crash may part:
 *
 *   announce   a `retention` row says for each chain up to which row it may begin later, and with which hash
 *   carry out  rows up to there are deleted, a few hundred in a transaction, and audit_chains.base_* moves with them
 *
 * A call carries out what retention rows in the table have announced, and then announces anew. So rows are never gone before the row
 * that explains it is in the table: whoever dies at any point leaves something that verifies, and the next call goes on. The
 * journal may be ahead of the table by anything; it does not matter. To have it all done at once: call, apply the journal, call again.
 *
 * What goes is verified one last time: rows that are not what they were, and all behind them, stay as evidence.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_hash.h>
#include <apr_strings.h>

#include "admin_fact.h"
#include "purge.h"
#include "sql.h"
#include "verify_chain.h"
#include "verify_known.h"

#define ROWS_AT_ONCE  500 /* audit rows deleted in one transaction */
#define BASES_AT_ONCE 200 /* in one retention row: its detail stays below 64 KiB, MySQL's TEXT */

/* How far one chain is to begin later. */
typedef struct {
    const char *chain;
    int64_t from; /* where it begins now */
    int64_t seq;
    char hash[65];
} cut_t;

typedef struct {
    cs_store_t *store;
    cs_journal_t *journal;
    apr_time_t before;
    apr_pool_t *pool;
    cs_known_t known;
    apr_hash_t *cuts; /* chain -> cut_t */
    char *error;
    size_t size;
} purge_t;

/* ---- carry out ----------------------------------------------------------------------------------------------------- */

/* One transaction: the base moves to `seq` and the rows up to it go. */
static cs_store_e remove_rows(purge_t *purge, const char *chain, int64_t seq, const char *hash, int *removed)
{
    char digits[CS_SQL_NUMBER];
    const char *base[4];
    const char *rows[2];
    cs_store_e rv;

    base[0] = cs_sql_number(digits, seq);
    base[1] = hash;
    base[2] = chain;
    base[3] = digits;
    rows[0] = chain;
    rows[1] = digits;
    *removed = 0;
    rv = cs_store_begin(purge->store, purge->error, purge->size);
    if (rv != CS_STORE_OK) {
        return rv;
    }
    /* The base first: it is the lock by which two that purge one chain wait for each other. */
    rv = cs_sql_exec(purge->store, CS_STMT_PURGE_BASE, base, NULL, purge->error, purge->size);
    if (rv == CS_STORE_OK) {
        rv = cs_sql_exec(purge->store, CS_STMT_PURGE_AUDIT, rows, removed, purge->error, purge->size);
    }
    if (rv == CS_STORE_OK) {
        rv = cs_store_commit(purge->store, purge->error, purge->size);
    }
    else {
        cs_store_rollback(purge->store);
    }
    return rv;
}

static cs_store_e carry_out_chain(purge_t *purge, const cs_known_chain_t *known, uint64_t *audit_rows)
{
    cs_chain_entry_t entry;
    cs_chain_hash_t row;
    cs_store_e rv = cs_chain_entry_read(purge->store, known->chain, &entry, purge->error, purge->size);

    if (rv != CS_STORE_OK || !entry.is_there || entry.base_seq >= known->base_seq) {
        return rv;
    }
    rv = cs_chain_hash_read(purge->store, known->chain, known->base_seq, &row, purge->error, purge->size);
    if (rv != CS_STORE_OK || !row.is_there || strcmp(row.hash, known->base_hash) != 0) {
        return rv; /* not the chain that was announced: verify has something to say about it */
    }
    while (rv == CS_STORE_OK && entry.base_seq < known->base_seq) {
        int64_t next =
            entry.base_seq + ROWS_AT_ONCE < known->base_seq ? entry.base_seq + ROWS_AT_ONCE : known->base_seq;
        int removed;

        rv = cs_chain_hash_read(purge->store, known->chain, next, &row, purge->error, purge->size);
        if (rv != CS_STORE_OK || !row.is_there) {
            break;
        }
        rv = remove_rows(purge, known->chain, next, row.hash, &removed);
        if (rv == CS_STORE_OK) {
            *audit_rows += (uint64_t)removed;
            entry.base_seq = next;
        }
    }
    return rv;
}

static cs_store_e carry_out(purge_t *purge, uint64_t *audit_rows)
{
    apr_hash_index_t *index;
    cs_store_e rv = CS_STORE_OK;

    for (index = apr_hash_first(purge->pool, purge->known.chains); index != NULL && rv == CS_STORE_OK;
         index = apr_hash_next(index)) {
        rv = carry_out_chain(purge, apr_hash_this_val(index), audit_rows);
    }
    return rv;
}

/* ---- how far each chain may be cut --------------------------------------------------------------------------------- */

typedef struct {
    cut_t *cut;
    int64_t head_seq;
    char before[CS_SQL_TIME];
} cutting_t;

static void ignore_finding(void *baton, int64_t seq, const char *what)
{
    (void)baton;
    (void)seq;
    (void)what;
}

static int cut_behind(void *baton, const cs_audit_row_t *row)
{
    cutting_t *cutting = baton;

    if ((int64_t)row->seq > cutting->head_seq || strcmp(row->ts, cutting->before) >= 0) {
        return 1;
    }
    cutting->cut->seq = (int64_t)row->seq;
    apr_cpystrn(cutting->cut->hash, row->hash, sizeof(cutting->cut->hash));
    return 0;
}

static int note_yes(void *baton, const char *const *columns)
{
    (void)columns;
    *(int *)baton = 1;
    return 1;
}

/* Spares most chains a page of their rows. */
static cs_store_e begins_old(purge_t *purge, const char *chain, int64_t base_seq, const char *before, int *yes)
{
    char digits[CS_SQL_NUMBER];
    const char *args[3];

    args[0] = chain;
    args[1] = cs_sql_number(digits, base_seq + 1);
    args[2] = before;
    *yes = 0;
    return cs_sql_select(purge->store, CS_STMT_CHAIN_IS_OLD, args, note_yes, yes, purge->error, purge->size);
}

static cs_store_e measure_chain(purge_t *purge, const char *chain)
{
    cs_known_chain_t *known = cs_known_chain(&purge->known, chain);
    cs_chain_entry_t entry;
    cs_chain_walk_t walk;
    cutting_t cutting;
    cut_t cut;
    int is_old = 0;
    cs_store_e rv = cs_chain_entry_read(purge->store, chain, &entry, purge->error, purge->size);

    /* A base that is not the one announced: either that could not be carried out, or somebody moved it. */
    if (rv != CS_STORE_OK || !entry.is_there || entry.base_seq != (known != NULL ? known->base_seq : 0)) {
        return rv;
    }
    cs_sql_time(cutting.before, purge->before);
    rv = begins_old(purge, chain, entry.base_seq, cutting.before, &is_old);
    if (rv != CS_STORE_OK || !is_old) {
        return rv;
    }
    memset(&cut, 0, sizeof(cut));
    cut.chain = apr_pstrdup(purge->pool, chain);
    cut.from = cut.seq = entry.base_seq;
    cutting.cut = &cut;
    cutting.head_seq = entry.head_seq;
    cs_chain_walk_init(&walk, entry.base_seq, entry.base_hash);
    walk.store = purge->store;
    walk.chain = chain;
    walk.known = known;
    walk.finding = ignore_finding;
    walk.row = cut_behind;
    walk.baton = &cutting;
    rv = cs_chain_walk(&walk, purge->error, purge->size);
    if (rv == CS_STORE_OK && cut.seq > cut.from) {
        apr_hash_set(purge->cuts, cut.chain, APR_HASH_KEY_STRING, apr_pmemdup(purge->pool, &cut, sizeof(cut)));
    }
    return rv;
}

typedef struct {
    apr_pool_t *pool;
    apr_array_header_t *chains;
    const char *last;
} listing_t;

static int list_chain(void *baton, const char *const *columns)
{
    listing_t *listing = baton;

    listing->last = columns[0] != NULL ? apr_pstrdup(listing->pool, columns[0]) : NULL;
    if (listing->last != NULL) {
        APR_ARRAY_PUSH(listing->chains, const char *) = listing->last;
    }
    return 1;
}

static cs_store_e measure(purge_t *purge)
{
    listing_t listing = {purge->pool, apr_array_make(purge->pool, 64, sizeof(const char *)), ""};
    cs_store_e rv = CS_STORE_OK;
    int i;

    while (rv == CS_STORE_OK && listing.last != NULL) {
        const char *args[2];

        args[0] = args[1] = listing.last;
        listing.last = NULL;
        rv = cs_sql_select(purge->store, CS_STMT_CHAIN_NEXT, args, list_chain, &listing, purge->error, purge->size);
    }
    for (i = 0; rv == CS_STORE_OK && i < listing.chains->nelts; i++) {
        rv = measure_chain(purge, APR_ARRAY_IDX(listing.chains, i, const char *));
    }
    return rv;
}

static int64_t future_base(const purge_t *purge, const char *chain)
{
    const cut_t *cut = apr_hash_get(purge->cuts, chain, APR_HASH_KEY_STRING);
    const cs_known_chain_t *known = cut == NULL ? cs_known_chain(&purge->known, chain) : NULL;

    return cut != NULL ? cut->seq : known != NULL ? known->base_seq : 0;
}

/* The chain keeps row `seq`. */
static cs_store_e shorten(purge_t *purge, cut_t *cut, int64_t seq)
{
    cs_chain_hash_t row;
    cs_store_e rv = CS_STORE_OK;

    if (seq - 1 > cut->from) {
        rv = cs_chain_hash_read(purge->store, cut->chain, seq - 1, &row, purge->error, purge->size);
        if (rv == CS_STORE_OK && row.is_there) {
            cut->seq = seq - 1;
            apr_cpystrn(cut->hash, row.hash, sizeof(cut->hash));
            return rv;
        }
    }
    apr_hash_set(purge->cuts, cut->chain, APR_HASH_KEY_STRING, NULL);
    return rv;
}

/*
 * An `erase` row stays while rows stay that only it explains. They are older than it, so this takes clocks of machines that disagree;
 * but then the trail would never verify again. Each round may uncover another row, hence the loop; cuts only become shorter.
 */
static cs_store_e keep_explanations(purge_t *purge)
{
    const cs_erasure_t *erasures = (const cs_erasure_t *)purge->known.erasures->elts;
    cs_store_e rv = CS_STORE_OK;
    int changed = 1;

    while (changed && rv == CS_STORE_OK) {
        int i;

        changed = 0;
        for (i = 0; i < purge->known.erasures->nelts && rv == CS_STORE_OK; i++) {
            cut_t *cut = apr_hash_get(purge->cuts, erasures[i].chain, APR_HASH_KEY_STRING);

            if (cut != NULL && cut->seq >= erasures[i].seq
                && future_base(purge, erasures[i].target) < erasures[i].last) {
                rv = shorten(purge, cut, erasures[i].seq);
                changed = 1;
            }
        }
    }
    return rv;
}

/* ---- announce ------------------------------------------------------------------------------------------------------ */

typedef struct {
    cs_buf_t detail;
    int count;
} announcement_t;

static apr_status_t add_base(announcement_t *announcement, const char *chain, int64_t seq, const char *hash)
{
    cs_buf_t *out = &announcement->detail;
    apr_status_t rv = cs_buf_append_str(out, announcement->count++ > 0 ? ",{\"chain\":" : "{\"chain\":");

    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, chain, strlen(chain));
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"seq\":");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_u64(out, (uint64_t)seq);
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_str(out, ",\"hash\":");
    }
    if (rv == APR_SUCCESS) {
        rv = cs_buf_append_json(out, hash, strlen(hash));
    }
    return rv == APR_SUCCESS ? cs_buf_append_str(out, "}") : rv;
}

static cs_store_e flush(purge_t *purge, announcement_t *announcement)
{
    char node[CS_NODE_SIZE];
    cs_fact_t fact;
    apr_status_t rv = APR_SUCCESS;

    if (announcement->count > 0) {
        cs_admin_node(node);
        rv = cs_buf_append_str(&announcement->detail, "]}");
        if (rv == APR_SUCCESS) {
            rv = cs_admin_fact(purge->journal, &fact, "retention", node, &announcement->detail, purge->error,
                               purge->size);
        }
        else {
            snprintf(purge->error, purge->size, "retention: out of memory");
        }
    }
    cs_buf_free(&announcement->detail);
    announcement->count = 0;
    return rv == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
}

static cs_store_e announce_one(purge_t *purge, announcement_t *announcement, const char *chain, int64_t seq,
                               const char *hash)
{
    char before[CS_SQL_TIME];
    apr_status_t rv = APR_SUCCESS;

    if (announcement->count == 0) {
        cs_buf_init(&announcement->detail, 256 * 1024);
        rv = cs_buf_append_str(&announcement->detail, "{\"before\":\"");
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append_str(&announcement->detail, cs_sql_time(before, purge->before));
        }
        if (rv == APR_SUCCESS) {
            rv = cs_buf_append_str(&announcement->detail, "\",\"bases\":[");
        }
    }
    if (rv == APR_SUCCESS) {
        rv = add_base(announcement, chain, seq, hash);
    }
    if (rv != APR_SUCCESS) {
        snprintf(purge->error, purge->size, "retention: out of memory");
        return CS_STORE_LOST;
    }
    return announcement->count >= BASES_AT_ONCE ? flush(purge, announcement) : CS_STORE_OK;
}

/*
 * What an older retention row says, and only that one, is said again before it goes. First, for should there be several rows, the
 * first ones may be in the table long before the others.
 */
static cs_store_e announce_again(purge_t *purge, announcement_t *announcement)
{
    apr_hash_index_t *index;
    cs_store_e rv = CS_STORE_OK;

    for (index = apr_hash_first(purge->pool, purge->known.chains); index != NULL && rv == CS_STORE_OK;
         index = apr_hash_next(index)) {
        const cs_known_chain_t *known = apr_hash_this_val(index);

        if (known->base_seq > 0 && future_base(purge, known->base_chain) >= known->base_row) {
            rv = announce_one(purge, announcement, known->chain, known->base_seq, known->base_hash);
        }
    }
    return rv;
}

static cs_store_e announce(purge_t *purge)
{
    announcement_t announcement;
    apr_hash_index_t *index;
    cs_store_e rv;

    memset(&announcement, 0, sizeof(announcement));
    if (apr_hash_count(purge->cuts) == 0) {
        return CS_STORE_OK;
    }
    rv = announce_again(purge, &announcement);
    for (index = apr_hash_first(purge->pool, purge->cuts); index != NULL && rv == CS_STORE_OK;
         index = apr_hash_next(index)) {
        const cut_t *cut = apr_hash_this_val(index);

        rv = announce_one(purge, &announcement, cut->chain, cut->seq, cut->hash);
    }
    if (rv == CS_STORE_OK) {
        rv = flush(purge, &announcement);
    }
    cs_buf_free(&announcement.detail);
    return rv;
}

/* ---- all of it ----------------------------------------------------------------------------------------------------- */

static cs_store_e purge_audit(purge_t *purge, uint64_t *audit_rows)
{
    cs_store_e rv = cs_known_read(purge->store, &purge->known, purge->pool, purge->error, purge->size);

    if (rv == CS_STORE_OK) {
        cs_known_sort(&purge->known);
        rv = carry_out(purge, audit_rows);
    }
    if (rv == CS_STORE_OK) {
        rv = measure(purge);
    }
    if (rv == CS_STORE_OK) {
        rv = keep_explanations(purge);
    }
    return rv == CS_STORE_OK ? announce(purge) : rv;
}

cs_store_e cs_store_purge(cs_store_t *store, cs_journal_t *journal, apr_time_t before, uint64_t *sessions,
                          uint64_t *audit_rows, char *error, size_t size)
{
    purge_t purge = {store, journal, before, NULL, {0}, NULL, error, size};
    cs_store_e rv;

    *sessions = *audit_rows = 0;
    if (apr_pool_create(&purge.pool, NULL) != APR_SUCCESS) {
        snprintf(error, size, "purge: out of memory");
        return CS_STORE_LOST;
    }
    purge.cuts = apr_hash_make(purge.pool);
    rv = cs_purge_sessions(store, before, sessions, error, size);
    if (rv == CS_STORE_OK) {
        rv = purge_audit(&purge, audit_rows);
    }
    apr_pool_destroy(purge.pool);
    return rv;
}
