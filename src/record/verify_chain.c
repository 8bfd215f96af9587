/* SPDX-License-Identifier: Apache-2.0 */
#include "verify_chain.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "audit_row.h"
#include "sql.h"

static void copy_hash(char out[65], const char *text)
{
    apr_cpystrn(out, text != NULL ? text : "", 65);
}

static int64_t number_of(const char *text)
{
    return text != NULL ? apr_strtoi64(text, NULL, 10) : 0;
}

static int read_entry(void *baton, const char *const *columns)
{
    cs_chain_entry_t *entry = baton;

    entry->is_there = 1;
    entry->head_seq = number_of(columns[0]);
    copy_hash(entry->head_hash, columns[1]);
    entry->base_seq = number_of(columns[2]);
    copy_hash(entry->base_hash, columns[3]);
    return 1;
}

cs_store_e cs_chain_entry_read(cs_store_t *store, const char *chain, cs_chain_entry_t *entry, char *error, size_t size)
{
    memset(entry, 0, sizeof(*entry));
    return cs_sql_select(store, CS_STMT_VERIFY_ENTRY, &chain, read_entry, entry, error, size);
}

static int read_hash(void *baton, const char *const *columns)
{
    cs_chain_hash_t *hash = baton;

    hash->is_there = 1;
    copy_hash(hash->hash, columns[0]);
    return 1;
}

cs_store_e cs_chain_hash_read(cs_store_t *store, const char *chain, int64_t seq, cs_chain_hash_t *hash, char *error,
                              size_t size)
{
    char digits[CS_SQL_NUMBER];
    const char *args[2];

    memset(hash, 0, sizeof(*hash));
    args[0] = chain;
    args[1] = cs_sql_number(digits, seq);
    return cs_sql_select(store, CS_STMT_CHAIN_HASH, args, read_hash, hash, error, size);
}

/* ---- one row ------------------------------------------------------------------------------------------------------- */

static void find(cs_chain_walk_t *walk, int64_t seq, const char *what)
{
    walk->findings++;
    walk->finding(walk->baton, seq, what);
}

/* Is it the one that has to come now? What one that was changed says of the row before it is not worth a second finding. */
static void check_place(cs_chain_walk_t *walk, const cs_audit_row_t *row, int64_t seq, int is_changed)
{
    char what[160];

    if (seq <= walk->base_seq) {
        find(walk, seq, "lies before the first row that retention has left");
    }
    else if (seq <= walk->seq) {
        find(walk, seq, "is there a second time");
    }
    else if (seq > walk->seq + 1) {
        if (seq == walk->seq + 2) {
            snprintf(what, sizeof(what), "row %" PRId64 " before it is missing", walk->seq + 1);
        }
        else {
            snprintf(what, sizeof(what), "rows %" PRId64 " to %" PRId64 " before it are missing", walk->seq + 1,
                     seq - 1);
        }
        find(walk, seq, what);
    }
    else if (!is_changed && !walk->is_doubtful && strcmp(row->prev_hash, walk->hash) != 0) {
        find(walk, seq,
             walk->seq > walk->base_seq ? "does not continue the row before it"
             : walk->base_seq > 0       ? "does not continue what retention has removed"
                                        : "is the first row and claims another before it");
    }
}

/* Does it say what it said when it was written? 0: no. */
static int check_content(cs_chain_walk_t *walk, const cs_audit_row_t *row, int64_t seq)
{
    char hash[65];

    cs_chain_hash(hash, row);
    if (strcmp(hash, row->hash) != 0) {
        find(walk, seq, "was changed: it does not have the hash it was written with");
        return 0;
    }
    if (strcmp(row->ts, walk->ts) < 0) {
        find(walk, seq, "is earlier than the row before it");
    }
    return 1;
}

/* Who it was about: covered by `identity`, which outlives an erasure. */
static void check_identity(cs_chain_walk_t *walk, const cs_audit_row_t *row, int64_t seq)
{
    char identity[65];

    if (row->salt != NULL) {
        cs_chain_identity(identity, row);
        if (strcmp(identity, row->identity) != 0) {
            find(walk, seq, "was changed: user, email, address or query hash are not those it was written with");
        }
        return;
    }
    walk->erased++;
    if (row->user_key != NULL || row->user_email != NULL || row->ip != NULL || row->query_hash != NULL) {
        find(walk, seq, "was changed: it has no salt, yet names somebody");
    }
    else if (!cs_known_is_erased(walk->known, seq)) {
        find(walk, seq, "was made anonymous, and no erase row says so");
    }
}

/* Do others remember it as it is? */
static void check_anchors(cs_chain_walk_t *walk, const cs_audit_row_t *row, int64_t seq)
{
    cs_anchor_t *anchors;
    char what[240];

    if (walk->known == NULL) {
        return;
    }
    anchors = (cs_anchor_t *)walk->known->anchors->elts;
    for (; walk->next_anchor < walk->known->anchors->nelts && anchors[walk->next_anchor].seq <= seq;
         walk->next_anchor++) {
        cs_anchor_t *anchor = &anchors[walk->next_anchor];

        if (anchor->seq < seq) {
            continue; /* verify.c asks why it was not met */
        }
        anchor->met = 1;
        if (strcmp(anchor->hash, row->hash) != 0) {
            snprintf(what, sizeof(what), "has not the hash that %s remembers", anchor->by);
            find(walk, seq, what);
        }
    }
}

static int check_row(void *baton, const char *const *columns)
{
    cs_chain_walk_t *walk = baton;
    unsigned before = walk->findings;
    cs_audit_row_t row;
    int64_t seq;
    int is_changed;

    cs_audit_row_read(columns, &row, &walk->page_id, &seq);
    walk->page_seq = seq;
    walk->page_rows++;
    walk->rows++;
    is_changed = !check_content(walk, &row, seq);
    check_place(walk, &row, seq, is_changed);
    walk->is_doubtful = is_changed;
    check_identity(walk, &row, seq);
    check_anchors(walk, &row, seq);
    if (seq > walk->seq) {
        walk->seq = seq;
        copy_hash(walk->hash, row.hash);
        apr_cpystrn(walk->ts, row.ts, sizeof(walk->ts));
    }
    if (walk->row != NULL && (walk->findings > before || walk->row(walk->baton, &row) != 0)) {
        walk->stopped = 1;
    }
    return walk->stopped;
}

/* ---- all of them --------------------------------------------------------------------------------------------------- */

void cs_chain_walk_init(cs_chain_walk_t *walk, int64_t base_seq, const char *base_hash)
{
    memset(walk, 0, sizeof(*walk));
    walk->base_seq = walk->seq = base_seq;
    copy_hash(walk->hash, base_hash);
    /* Not base_seq: rows where none may be shall be seen too. */
    walk->page_seq = INT64_MIN + 1;
    walk->page_id = INT64_MIN + 1;
}

cs_store_e cs_chain_walk(cs_chain_walk_t *walk, char *error, size_t size)
{
    cs_store_e rv;

    do {
        char seq[CS_SQL_NUMBER];
        char id[CS_SQL_NUMBER];
        const char *args[4];

        /* By seq and id: should the table have lost its unique index, a seq that is there twice is read twice. */
        args[0] = walk->chain;
        args[1] = cs_sql_number(seq, walk->page_seq);
        args[2] = seq;
        args[3] = cs_sql_number(id, walk->page_id);
        walk->page_rows = 0;
        rv = cs_sql_select(walk->store, CS_STMT_VERIFY_ROWS, args, check_row, walk, error, size);
    } while (rv == CS_STORE_OK && walk->page_rows > 0 && !walk->stopped);
    return rv;
}
