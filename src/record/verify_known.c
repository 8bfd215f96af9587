/* SPDX-License-Identifier: Apache-2.0 */
#include "verify_known.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>
#include <json.h>

#include "chain.h"
#include "sql.h"

static cs_known_chain_t *chain_of(cs_known_t *known, const char *chain)
{
    cs_known_chain_t *entry = apr_hash_get(known->chains, chain, APR_HASH_KEY_STRING);

    if (entry == NULL) {
        entry = apr_pcalloc(known->pool, sizeof(*entry));
        entry->chain = apr_pstrdup(known->pool, chain);
        entry->anchors = apr_array_make(known->pool, 2, sizeof(cs_anchor_t));
        entry->erased = apr_array_make(known->pool, 2, sizeof(cs_range_t));
        entry->base_hash = CS_CHAIN_GENESIS;
        apr_hash_set(known->chains, entry->chain, APR_HASH_KEY_STRING, entry);
    }
    return entry;
}

void cs_known_anchor(cs_known_t *known, const char *chain, int64_t seq, const char *hash, const char *by)
{
    cs_anchor_t *anchor = apr_array_push(chain_of(known, chain)->anchors);

    anchor->seq = seq;
    anchor->hash = apr_pstrdup(known->pool, hash);
    anchor->by = apr_pstrdup(known->pool, by);
    anchor->met = 0;
}

/* ---- one row's detail --------------------------------------------------------------------------------------------- */

typedef struct {
    cs_known_t *known;
    int64_t last_id;
    int rows;
} reading_t;

typedef struct {
    const char *chain;
    int64_t seq;
} place_t;

/* {"chain","seq","hash"}; 0 when it is something else. */
static int head_of(struct json_object *object, const char **chain, int64_t *seq, const char **hash)
{
    struct json_object *member;

    if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, "chain", &member)
        || !json_object_is_type(member, json_type_string)) {
        return 0;
    }
    *chain = json_object_get_string(member);
    if (!json_object_object_get_ex(object, "seq", &member) || !json_object_is_type(member, json_type_int)) {
        return 0;
    }
    *seq = json_object_get_int64(member);
    if (!json_object_object_get_ex(object, "hash", &member) || !json_object_is_type(member, json_type_string)) {
        return 0;
    }
    *hash = json_object_get_string(member);
    return 1;
}

static void take_base(cs_known_t *known, const place_t *place, const char *name, int64_t seq, const char *hash)
{
    cs_known_chain_t *chain = chain_of(known, name);

    /* Bases only grow; of two that say the same the later row is the one that will stay longer. */
    if (seq >= chain->base_seq) {
        chain->base_seq = seq;
        chain->base_hash = apr_pstrdup(known->pool, hash);
        chain->base_chain = apr_pstrdup(known->pool, place->chain);
        chain->base_row = place->seq;
    }
}

static void take_heads(cs_known_t *known, const place_t *place, struct json_object *list, int are_bases)
{
    char by[128];
    size_t i;

    if (!json_object_is_type(list, json_type_array)) {
        return;
    }
    apr_snprintf(by, sizeof(by), "row 1 of chain %.36s", place->chain);
    for (i = 0; i < json_object_array_length(list); i++) {
        const char *chain;
        const char *hash;
        int64_t seq;

        if (!head_of(json_object_array_get_idx(list, i), &chain, &seq, &hash)) {
            continue;
        }
        if (are_bases) {
            take_base(known, place, chain, seq, hash);
        }
        else {
            cs_known_anchor(known, chain, seq, hash, by);
        }
    }
}

/* "3-9,14" */
static void take_ranges(cs_known_t *known, const place_t *place, const char *target, const char *text)
{
    cs_known_chain_t *chain = chain_of(known, target);
    cs_erasure_t *erasure = apr_array_push(known->erasures);

    erasure->chain = apr_pstrdup(known->pool, place->chain);
    erasure->seq = place->seq;
    erasure->target = chain->chain;
    erasure->last = 0;
    while (*text != '\0') {
        char *end;
        cs_range_t *range = apr_array_push(chain->erased);

        range->first = range->last = apr_strtoi64(text, &end, 10);
        if (*end == '-') {
            range->last = apr_strtoi64(end + 1, &end, 10);
        }
        if (range->last > erasure->last) {
            erasure->last = range->last;
        }
        if (*end != ',') {
            break;
        }
        text = end + 1;
    }
}

static void take_erasure(cs_known_t *known, const place_t *place, struct json_object *rows)
{
    if (!json_object_is_type(rows, json_type_object)) {
        return;
    }
    json_object_object_foreach(rows, target, ranges) {
        if (json_object_is_type(ranges, json_type_string)) {
            take_ranges(known, place, target, json_object_get_string(ranges));
        }
    }
}

/* id, chain, seq, event, detail */
static int read_row(void *baton, const char *const *columns)
{
    reading_t *reading = baton;
    place_t place;
    struct json_object *detail;
    struct json_object *member;

    reading->last_id = columns[0] != NULL ? apr_strtoi64(columns[0], NULL, 10) : reading->last_id + 1;
    reading->rows++;
    if (columns[1] == NULL || columns[2] == NULL || columns[3] == NULL || columns[4] == NULL) {
        return 0;
    }
    place.chain = columns[1];
    place.seq = apr_strtoi64(columns[2], NULL, 10);
    detail = json_tokener_parse(columns[4]);
    /* A detail that is no JSON says nothing; if it once did, the row's hash tells. */
    if (json_object_is_type(detail, json_type_object)) {
        if (place.seq == 1 && json_object_object_get_ex(detail, "anchors", &member)) {
            take_heads(reading->known, &place, member, 0);
        }
        if (strcmp(columns[3], "retention") == 0 && json_object_object_get_ex(detail, "bases", &member)) {
            take_heads(reading->known, &place, member, 1);
        }
        if (strcmp(columns[3], "erase") == 0 && json_object_object_get_ex(detail, "rows", &member)) {
            take_erasure(reading->known, &place, member);
        }
    }
    json_object_put(detail);
    return 0;
}

cs_store_e cs_known_read(cs_store_t *store, cs_known_t *known, apr_pool_t *pool, char *error, size_t size)
{
    reading_t reading = {known, INT64_MIN + 1, 0};
    cs_store_e rv;

    known->pool = pool;
    known->chains = apr_hash_make(pool);
    known->erasures = apr_array_make(pool, 16, sizeof(cs_erasure_t));
    do {
        char id[CS_SQL_NUMBER];
        const char *args[1];

        args[0] = cs_sql_number(id, reading.last_id);
        reading.rows = 0;
        rv = cs_sql_select(store, CS_STMT_VERIFY_KNOWN, args, read_row, &reading, error, size);
    } while (rv == CS_STORE_OK && reading.rows > 0);
    return rv;
}

/* ---- lookups ------------------------------------------------------------------------------------------------------- */

static int by_seq(const void *a, const void *b)
{
    const cs_anchor_t *left = a;
    const cs_anchor_t *right = b;

    return (left->seq > right->seq) - (left->seq < right->seq);
}

static int by_first(const void *a, const void *b)
{
    const cs_range_t *left = a;
    const cs_range_t *right = b;

    return (left->first > right->first) - (left->first < right->first);
}

static void join_ranges(apr_array_header_t *array)
{
    cs_range_t *ranges = (cs_range_t *)array->elts;
    int kept = 0;
    int i;

    qsort(ranges, (size_t)array->nelts, sizeof(*ranges), by_first);
    for (i = 1; i < array->nelts; i++) {
        if (ranges[i].first <= ranges[kept].last || ranges[i].first == ranges[kept].last + 1) {
            ranges[kept].last = ranges[i].last > ranges[kept].last ? ranges[i].last : ranges[kept].last;
        }
        else {
            ranges[++kept] = ranges[i];
        }
    }
    array->nelts = array->nelts > 0 ? kept + 1 : 0;
}

void cs_known_sort(cs_known_t *known)
{
    apr_hash_index_t *index;

    for (index = apr_hash_first(known->pool, known->chains); index != NULL; index = apr_hash_next(index)) {
        cs_known_chain_t *chain = apr_hash_this_val(index);

        qsort(chain->anchors->elts, (size_t)chain->anchors->nelts, sizeof(cs_anchor_t), by_seq);
        join_ranges(chain->erased);
    }
}

cs_known_chain_t *cs_known_chain(const cs_known_t *known, const char *chain)
{
    return apr_hash_get(known->chains, chain, APR_HASH_KEY_STRING);
}

int cs_known_is_erased(const cs_known_chain_t *chain, int64_t seq)
{
    const cs_range_t *ranges;
    int low = 0;
    int high;

    if (chain == NULL) {
        return 0;
    }
    ranges = (const cs_range_t *)chain->erased->elts;
    high = chain->erased->nelts;
    while (low < high) {
        int middle = low + (high - low) / 2;

        if (ranges[middle].last < seq) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low < chain->erased->nelts && ranges[low].first <= seq;
}
