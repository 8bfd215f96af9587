/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the audit trail what was written? Chain by chain (verify_chain.c), with what other rows say about it (verify_known.c).
 *
 * The table lives: recorders add rows, retention removes some, a person is erased, all while this reads, and no transaction holds
 * the database still for as long as that takes. So
 *
 *   - what is said about a chain is read before its rows, and its head before and after: rows and head are committed together, hence
 *     an honest chain has at least the head of before and at most that of after;
 *   - a chain that seems wrong is looked at once more with everything read anew, and only what is wrong then is told. Rereading costs
 *     a scan of the table, so a trail that is wrong all over does not get it for every chain.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "sql.h"
#include "verify_chain.h"
#include "verify_known.h"

#define LOOKS         3   /* at one chain */
#define REREADINGS    6   /* of what is said, in all */
#define FINDINGS_KEPT 200 /* of one chain; more are counted */

typedef struct {
    int64_t seq;
    const char *what;
} finding_t;

typedef struct {
    cs_store_t *store;
    const cs_head_t *heads;
    unsigned heads_count;
    void (*tell)(void *baton, const char *chain, uint64_t seq, const char *what);
    void *baton;
    cs_verify_t *result;
    apr_pool_t *pool;
    apr_pool_t *known_pool;
    cs_known_t known;
    apr_hash_t *seen; /* chains that the database has */
    int rereadings;
    char *error;
    size_t size;
} verify_t;

/* One look at one chain. */
typedef struct {
    apr_pool_t *pool;
    apr_array_header_t *findings;
    unsigned count;
} look_t;

static void note(void *baton, int64_t seq, const char *what)
{
    look_t *look = baton;
    finding_t *finding;

    if (look->count++ < FINDINGS_KEPT) {
        finding = apr_array_push(look->findings);
        finding->seq = seq;
        finding->what = apr_pstrdup(look->pool, what);
    }
}

static void notef(look_t *look, int64_t seq, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void notef(look_t *look, int64_t seq, const char *format, ...)
{
    char what[320];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    note(look, seq, what);
}

static cs_store_e read_known(verify_t *verify)
{
    cs_store_e rv;
    unsigned i;

    apr_pool_clear(verify->known_pool);
    rv = cs_known_read(verify->store, &verify->known, verify->known_pool, verify->error, verify->size);
    for (i = 0; i < verify->heads_count; i++) {
        const cs_head_t *head = &verify->heads[i];

        cs_known_anchor(&verify->known, head->chain, (int64_t)head->seq, head->hash, "the state directory");
    }
    cs_known_sort(&verify->known);
    return rv;
}

/* ---- one chain ----------------------------------------------------------------------------------------------------- */

/* audit_chains may say that rows are gone, but it is no witness: a retention row has to have said so before. */
static void check_base(look_t *look, const cs_chain_entry_t *entry, const cs_known_chain_t *known)
{
    int64_t allowed = known != NULL ? known->base_seq : 0;
    const char *hash = known != NULL ? known->base_hash : CS_CHAIN_GENESIS;

    if (!entry->is_there) {
        return;
    }
    if (entry->base_seq > allowed) {
        notef(look, entry->base_seq + 1, "rows up to %" PRId64 " before it are gone, and %s", entry->base_seq,
              allowed > 0 ? "retention rows do not reach that far" : "no retention row says so");
    }
    else if (entry->base_seq == allowed && strcmp(entry->base_hash, hash) != 0) {
        note(look, entry->base_seq + 1,
             "what retention removed before it does not have the hash that the retention row remembers");
    }
}

static void check_end(look_t *look, const cs_chain_walk_t *walk, const cs_chain_entry_t *before,
                      const cs_chain_entry_t *after)
{
    if (!after->is_there) {
        if (walk->rows > 0) {
            note(look, 0, "has rows, and audit_chains does not know it");
        }
        return;
    }
    if (walk->seq < before->head_seq) {
        if (walk->rows == 0) {
            notef(look, 0, "was removed: rows %" PRId64 " to %" PRId64 " are missing", before->base_seq + 1,
                  before->head_seq);
        }
        else {
            notef(look, walk->seq, "is the last one, rows %" PRId64 " to %" PRId64 " after it are missing",
                  walk->seq + 1, before->head_seq);
        }
    }
    else if (walk->seq > after->head_seq) {
        notef(look, walk->seq, "lies behind the chain's head, which is %" PRId64, after->head_seq);
    }
    else if (walk->seq == after->head_seq && strcmp(walk->hash, after->head_hash) != 0) {
        note(look, walk->seq, "is the chain's head and does not have the hash that audit_chains remembers");
    }
}

/* What others remember and no row was: removed by retention, or by somebody. */
static void check_unmet(look_t *look, const cs_chain_walk_t *walk, const cs_known_chain_t *known)
{
    const cs_anchor_t *anchors;
    int64_t told = INT64_MAX; /* a tail that is missing is told once */
    int i;

    if (known == NULL) {
        return;
    }
    anchors = (const cs_anchor_t *)known->anchors->elts;
    for (i = 0; i < known->anchors->nelts; i++) {
        const cs_anchor_t *anchor = &anchors[i];

        if (anchor->met || anchor->seq <= 0 || anchor->seq == told) {
            continue;
        }
        if (anchor->seq > walk->base_seq) {
            notef(look, anchor->seq, "is missing: %s remembers it", anchor->by);
            told = anchor->seq;
        }
        else if (anchor->seq == known->base_seq && strcmp(anchor->hash, known->base_hash) != 0) {
            notef(look, anchor->seq, "was removed by retention with another hash than %s remembers", anchor->by);
        }
    }
}

static void forget_met(cs_known_chain_t *known)
{
    cs_anchor_t *anchors = known != NULL ? (cs_anchor_t *)known->anchors->elts : NULL;
    int i;

    for (i = 0; known != NULL && i < known->anchors->nelts; i++) {
        anchors[i].met = 0;
    }
}

/* A base that is announced but not yet carried out is a hash like any other to compare with. */
static void check_announced(look_t *look, const char *chain, verify_t *verify, const cs_known_chain_t *known,
                            const cs_chain_entry_t *entry, cs_store_e *rv)
{
    cs_chain_hash_t found;

    if (known == NULL || !entry->is_there || known->base_seq <= entry->base_seq) {
        return;
    }
    *rv = cs_chain_hash_read(verify->store, chain, known->base_seq, &found, verify->error, verify->size);
    if (*rv == CS_STORE_OK && found.is_there && strcmp(found.hash, known->base_hash) != 0) {
        note(look, known->base_seq, "does not have the hash that the retention row remembers");
    }
}

static cs_store_e look_at(verify_t *verify, const char *chain, look_t *look, cs_chain_walk_t *walk, int *is_there)
{
    cs_known_chain_t *known = cs_known_chain(&verify->known, chain);
    cs_chain_entry_t before;
    cs_chain_entry_t after;
    cs_store_e rv;

    rv = cs_chain_entry_read(verify->store, chain, &before, verify->error, verify->size);
    if (rv != CS_STORE_OK) {
        return rv;
    }
    if (before.is_there) {
        cs_chain_walk_init(walk, before.base_seq, before.base_hash);
    }
    else {
        cs_chain_walk_init(walk, known != NULL ? known->base_seq : 0,
                           known != NULL ? known->base_hash : CS_CHAIN_GENESIS);
    }
    walk->store = verify->store;
    walk->chain = chain;
    walk->known = known;
    walk->finding = note;
    walk->baton = look;
    forget_met(known);
    check_base(look, &before, known);
    rv = cs_chain_walk(walk, verify->error, verify->size);
    if (rv == CS_STORE_OK) {
        rv = cs_chain_entry_read(verify->store, chain, &after, verify->error, verify->size);
    }
    if (rv == CS_STORE_OK) {
        check_announced(look, chain, verify, known, &before, &rv);
    }
    if (rv == CS_STORE_OK) {
        check_end(look, walk, &before, &after);
        *is_there = after.is_there || walk->rows > 0;
        if (*is_there) {
            check_unmet(look, walk, known);
        }
    }
    return rv;
}

static void tell_all(verify_t *verify, const char *chain, const look_t *look)
{
    const finding_t *findings = (const finding_t *)look->findings->elts;
    char what[80];
    int i;

    for (i = 0; i < look->findings->nelts; i++) {
        verify->tell(verify->baton, chain, findings[i].seq > 0 ? (uint64_t)findings[i].seq : 0, findings[i].what);
    }
    if (look->count > FINDINGS_KEPT) {
        snprintf(what, sizeof(what), "and %u findings more", look->count - FINDINGS_KEPT);
        verify->tell(verify->baton, chain, 0, what);
    }
    verify->result->findings += look->count;
}

static cs_store_e verify_one(verify_t *verify, const char *chain)
{
    apr_pool_t *pool;
    look_t look;
    cs_chain_walk_t walk;
    cs_store_e rv;
    int is_there = 0;
    int looks;

    apr_pool_create(&pool, verify->pool);
    look.pool = pool;
    for (looks = 1;; looks++) {
        look.findings = apr_array_make(pool, 4, sizeof(finding_t));
        look.count = 0;
        rv = look_at(verify, chain, &look, &walk, &is_there);
        if (rv != CS_STORE_OK || look.count == 0 || looks == LOOKS || verify->rereadings == 0) {
            break;
        }
        verify->rereadings--;
        rv = read_known(verify);
        if (rv != CS_STORE_OK) {
            break;
        }
    }
    if (rv == CS_STORE_OK && is_there) {
        apr_hash_set(verify->seen, apr_pstrdup(verify->pool, chain), APR_HASH_KEY_STRING, "");
        verify->result->chains++;
        verify->result->rows += walk.rows;
        verify->result->erased += walk.erased;
    }
    if (rv == CS_STORE_OK) {
        tell_all(verify, chain, &look);
    }
    apr_pool_destroy(pool);
    return rv;
}

/* ---- all chains ---------------------------------------------------------------------------------------------------- */

typedef struct {
    apr_pool_t *pool;
    const char *chain; /* NULL: that was the last */
} next_t;

static int read_next(void *baton, const char *const *columns)
{
    next_t *next = baton;

    next->chain = columns[0] != NULL ? apr_pstrdup(next->pool, columns[0]) : NULL;
    return 1;
}

static cs_store_e verify_present(verify_t *verify)
{
    apr_pool_t *pools[2];
    next_t next = {NULL, ""};
    cs_store_e rv = CS_STORE_OK;
    int turn = 0;

    apr_pool_create(&pools[0], verify->pool);
    apr_pool_create(&pools[1], verify->pool);
    /* The chain without a name too: nobody writes it, so nobody shall hide rows in it. */
    while (rv == CS_STORE_OK && next.chain != NULL) {
        const char *args[2];

        rv = verify_one(verify, next.chain);
        args[0] = args[1] = next.chain;
        turn = !turn;
        apr_pool_clear(pools[turn]);
        next.pool = pools[turn];
        next.chain = NULL;
        if (rv == CS_STORE_OK) {
            rv = cs_sql_select(verify->store, CS_STMT_CHAIN_NEXT, args, read_next, &next, verify->error, verify->size);
        }
    }
    apr_pool_destroy(pools[0]);
    apr_pool_destroy(pools[1]);
    return rv;
}

/* Chains that are only remembered: everything of them was removed, the entry in audit_chains as well. */
static void verify_absent(verify_t *verify)
{
    apr_hash_index_t *index;
    char what[240];

    for (index = apr_hash_first(verify->pool, verify->known.chains); index != NULL; index = apr_hash_next(index)) {
        const cs_known_chain_t *known = apr_hash_this_val(index);
        const cs_anchor_t *anchors = (const cs_anchor_t *)known->anchors->elts;
        const cs_anchor_t *last = known->anchors->nelts > 0 ? &anchors[known->anchors->nelts - 1] : NULL;

        if (apr_hash_get(verify->seen, known->chain, APR_HASH_KEY_STRING) != NULL) {
            continue;
        }
        if (last != NULL && last->seq > 0) {
            snprintf(what, sizeof(what), "was removed: %s remembers its row %" PRId64, last->by, last->seq);
        }
        else if (known->base_seq > 0) {
            snprintf(what, sizeof(what), "was removed from audit_chains: retention left it at row %" PRId64,
                     known->base_seq);
        }
        else if (known->erased->nelts > 0) {
            snprintf(what, sizeof(what), "was removed: an erase row names rows of it");
        }
        else {
            continue;
        }
        verify->result->findings++;
        verify->tell(verify->baton, known->chain, 0, what);
    }
}

cs_store_e cs_store_verify(cs_store_t *store, const cs_head_t *heads, unsigned count,
                           void (*finding)(void *baton, const char *chain, uint64_t seq, const char *what), void *baton,
                           cs_verify_t *result, char *error, size_t size)
{
    verify_t verify = {
        store, heads, heads != NULL ? count : 0, finding, baton, result, NULL, NULL, {0}, NULL, REREADINGS,
        error, size};
    cs_store_e rv;

    memset(result, 0, sizeof(*result));
    if (apr_pool_create(&verify.pool, NULL) != APR_SUCCESS
        || apr_pool_create(&verify.known_pool, verify.pool) != APR_SUCCESS) {
        snprintf(error, size, "audit verify: out of memory");
        return CS_STORE_LOST;
    }
    verify.seen = apr_hash_make(verify.pool);
    rv = read_known(&verify);
    if (rv == CS_STORE_OK) {
        rv = verify_present(&verify);
    }
    if (rv == CS_STORE_OK) {
        verify_absent(&verify);
    }
    apr_pool_destroy(verify.pool);
    return rv;
}
