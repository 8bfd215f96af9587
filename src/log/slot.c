/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "layout.h"

/* ---- hash chains: lock held -------------------------------------------------------------------------------------- */

static uint32_t *id_head(cs_log_t *log, const cs_uuid_t *id)
{
    return &log->id_heads[cs_hash64(id->bytes, sizeof(id->bytes)) & (log->head->nbuckets - 1)];
}

static void chain_remove(cs_log_t *log, uint32_t *head, uint32_t slot, size_t link)
{
    uint32_t *at = head;

    while (*at != NONE && *at != slot) {
        at = (uint32_t *)((char *)&log->slots[*at] + link);
    }
    if (*at == slot) {
        *at = *(uint32_t *)((char *)&log->slots[slot] + link);
    }
}

static void link_slot(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];
    uint32_t *head = id_head(log, &slot->id);

    slot->id_next = *head;
    *head = index;
    if (slot->key[0]) {
        head = &log->key_heads[slot->key_hash & (log->head->nbuckets - 1)];
        slot->key_next = *head;
        *head = index;
    }
}

static void unlink_slot(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];
    uint32_t mask = log->head->nbuckets - 1;

    chain_remove(log, id_head(log, &slot->id), index, offsetof(slot_t, id_next));
    if (slot->key[0]) {
        chain_remove(log, &log->key_heads[slot->key_hash & mask], index, offsetof(slot_t, key_next));
    }
}

static void link_user(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];
    uint32_t *head = &log->user_heads[slot->user_hash & (log->head->nbuckets - 1)];

    slot->user_prev = NONE;
    slot->user_next = *head;
    if (*head != NONE) {
        log->slots[*head].user_prev = index;
    }
    *head = index;
}

static void unlink_user(cs_log_t *log, uint32_t index)
{
    const slot_t *slot = &log->slots[index];

    if (slot->user_prev != NONE) {
        log->slots[slot->user_prev].user_next = slot->user_next;
    }
    else {
        log->user_heads[slot->user_hash & (log->head->nbuckets - 1)] = slot->user_next;
    }
    if (slot->user_next != NONE) {
        log->slots[slot->user_next].user_prev = slot->user_prev;
    }
}

/* ---- free and kept slots: lock held ------------------------------------------------------------------------------ */

static void kept_append(cs_log_t *log, uint32_t index)
{
    arena_head_t *head = log->head;
    slot_t *slot = &log->slots[index];

    slot->kept_prev = head->kept_last;
    slot->kept_next = NONE;
    if (head->kept_last != NONE) {
        log->slots[head->kept_last].kept_next = index;
    }
    else {
        head->kept_first = index;
    }
    head->kept_last = index;
    head->kept++;
}

static void kept_remove(cs_log_t *log, uint32_t index)
{
    arena_head_t *head = log->head;
    slot_t *slot = &log->slots[index];

    if (slot->kept_prev != NONE) {
        log->slots[slot->kept_prev].kept_next = slot->kept_next;
    }
    else {
        head->kept_first = slot->kept_next;
    }
    if (slot->kept_next != NONE) {
        log->slots[slot->kept_next].kept_prev = slot->kept_prev;
    }
    else {
        head->kept_last = slot->kept_prev;
    }
    head->kept--;
}

static void empty_lists(cs_log_t *log)
{
    arena_head_t *head = log->head;

    memset(log->id_heads, 0xff, 3 * (size_t)head->nbuckets * sizeof(uint32_t));
    head->free_slot = head->kept_first = head->kept_last = NONE;
    head->live = head->kept = 0;
}

void cs_log_slots_init(cs_log_t *log)
{
    cs_log_slots_rebuild(log);
}

void cs_log_slots_rebuild(cs_log_t *log)
{
    uint32_t i;

    empty_lists(log);
    for (i = log->head->nslots; i-- > 0;) {
        slot_t *slot = &log->slots[i];

        if (slot->life == LIFE_FREE) {
            slot->free_next = log->head->free_slot;
            log->head->free_slot = i;
            continue;
        }
        if (!slot->forgotten) {
            link_slot(log, i);
        }
        if (slot->life == LIFE_KEPT) {
            kept_append(log, i);
        }
        else {
            link_user(log, i);
            log->head->live++;
        }
    }
    cs_log_blocks_sweep(log);
}

unsigned cs_log_slot_cursors(const slot_t *slot)
{
    unsigned i, count = 0;

    for (i = 0; i < CS_LOG_READERS; i++) {
        count += cursor_state(&slot->cursors[i]) != CURSOR_FREE;
    }
    return count;
}

int cs_log_slot_is_wanted(const slot_t *slot)
{
    return slot->held || cs_log_slot_cursors(slot);
}

void cs_log_slot_keep(cs_log_t *log, uint32_t index, apr_time_t now, apr_time_t keep)
{
    slot_t *slot = &log->slots[index];

    slot->ended_at = now;
    slot->keep = keep;
    unlink_user(log, index);
    slot->life = LIFE_KEPT;
    log->head->live--;
    kept_append(log, index);
}

void cs_log_slot_free(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];
    uint32_t first = atomic_load(&head_of(slot)->block), count = slot->blocks;

    kept_remove(log, index);
    if (!slot->forgotten) {
        unlink_slot(log, index);
    }
    slot->life = LIFE_FREE;
    slot->free_next = log->head->free_slot;
    log->head->free_slot = index;
    cs_log_blocks_give(log, first, count);
}

uint32_t cs_log_slot_evict(cs_log_t *log)
{
    uint32_t index = log->head->kept_first;

    while (index != NONE && cs_log_slot_is_wanted(&log->slots[index])) {
        index = log->slots[index].kept_next;
    }
    if (index != NONE) {
        cs_log_slot_free(log, index);
    }
    return index;
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

/* A name too long for the slot keeps its beginning and a hash of the whole. */
static void fit_name(char out[CS_LOG_USER_MAX + 1], const char *name)
{
    size_t len = strlen(name);

    if (len <= CS_LOG_USER_MAX) {
        memcpy(out, name, len + 1);
        return;
    }
    memcpy(out, name, CS_LOG_USER_MAX - 17);
    snprintf(out + CS_LOG_USER_MAX - 17, 18, "#%016llx", (unsigned long long)cs_hash64(name, len));
}

static uint32_t find_id(cs_log_t *log, const cs_uuid_t *id, const char *user)
{
    char name[CS_LOG_USER_MAX + 1];
    uint32_t at = *id_head(log, id);

    fit_name(name, user);
    while (at != NONE && memcmp(log->slots[at].id.bytes, id->bytes, sizeof(id->bytes)) != 0) {
        at = log->slots[at].id_next;
    }
    return at != NONE && !strcmp(log->slots[at].user, name) ? at : NONE;
}

static uint64_t key_hash(const char *user, const char *key, uint32_t scope)
{
    return cs_hash64(user, strlen(user)) * 31 + cs_hash64(key, strlen(key)) * 7 + scope;
}

static uint32_t find_key(cs_log_t *log, const char *user, const char *key, uint32_t scope, uint64_t hash)
{
    uint32_t at = log->key_heads[hash & (log->head->nbuckets - 1)];

    while (at != NONE) {
        const slot_t *slot = &log->slots[at];

        if (slot->key_hash == hash && slot->scope == scope && !strcmp(slot->key, key) && !strcmp(slot->user, user)) {
            break;
        }
        at = slot->key_next;
    }
    return at;
}

/* Lock held; `name` fits. */
static uint32_t count_live(const cs_log_t *log, const char *name)
{
    uint64_t hash = cs_hash64(name, strlen(name));
    uint32_t at, count = 0;

    for (at = log->user_heads[hash & (log->head->nbuckets - 1)]; at != NONE; at = log->slots[at].user_next) {
        count += log->slots[at].user_hash == hash && !strcmp(log->slots[at].user, name);
    }
    return count;
}

uint32_t cs_log_count_user(cs_log_t *log, const char *user)
{
    char name[CS_LOG_USER_MAX + 1];
    uint32_t count;

    fit_name(name, user);
    cs_log_lock(log);
    count = count_live(log, name);
    cs_log_unlock(log);
    return count;
}

apr_time_t cs_log_user_ends_by(cs_log_t *log, const char *user)
{
    char name[CS_LOG_USER_MAX + 1];
    apr_time_t first = 0;
    uint64_t hash;
    uint32_t at;

    fit_name(name, user);
    hash = cs_hash64(name, strlen(name));
    cs_log_lock(log);
    for (at = log->user_heads[hash & (log->head->nbuckets - 1)]; at != NONE; at = log->slots[at].user_next) {
        apr_time_t ends_by = atomic_load(&log->slots[at].ends_by);

        if (log->slots[at].user_hash == hash && !strcmp(log->slots[at].user, name) && ends_by
            && (!first || ends_by < first)) {
            first = ends_by;
        }
    }
    cs_log_unlock(log);
    return first;
}

void cs_log_set_ends_by(cs_log_t *log, uint32_t index, apr_time_t ends_by)
{
    atomic_store_explicit(&log->slots[index].ends_by, ends_by, memory_order_relaxed);
}

/* ---- claim ------------------------------------------------------------------------------------------------------- */

static void fill_slot(cs_log_t *log, uint32_t index, uint32_t child, const cs_log_spec_t *spec, const char *user,
                      uint64_t hash)
{
    slot_t *slot = &log->slots[index];
    uint64_t base = cs_format_by_index(spec->format)->numbers_frame ? 1 : 0; /* the start event's number is taken */

    memset(slot, 0, sizeof(*slot));
    slot->id = spec->id;
    memcpy(slot->user, user, CS_LOG_USER_MAX + 1);
    slot->user_hash = cs_hash64(user, strlen(user));
    if (spec->idem_key) {
        snprintf(slot->key, sizeof(slot->key), "%s", spec->idem_key);
        slot->key_hash = hash;
    }
    slot->scope = spec->scope;
    slot->owner = child;
    slot->format = spec->format;
    slot->limit = spec->replay_bytes;
    slot->room_until = spec->replay_bytes;
    slot->keep = spec->replay_keep;
    slot->created_at = spec->created_at;
    atomic_store(&slot->ends_by, spec->ends_by);
    slot->heads[0].seq = base;
    atomic_store(&slot->heads[0].block, NONE);
    atomic_store(&slot->tail_seq, base);
    atomic_store(&slot->last_block, NONE);
    slot->life = LIFE_LIVE;
}

/* One more reader of a stream: its owner may count the time since the last one left. */
static int attach_reader(cs_log_t *log, uint32_t child, uint32_t index, cs_cursor_t *cursor)
{
    int attached = cs_log_child_is_ours(log, child) && cs_log_cursor_attach(log, child, index, cursor);

    if (attached && log->slots[index].life == LIFE_LIVE) {
        cs_log_mark(log, log->slots[index].owner, index);
    }
    return attached;
}

cs_claim_e cs_log_claim(cs_log_t *log, uint32_t child, const cs_log_spec_t *spec, cs_cursor_t *cursor)
{
    char user[CS_LOG_USER_MAX + 1];
    uint64_t hash = 0;
    uint32_t index;
    cs_claim_e claim = CS_CLAIM_NEW;

    fit_name(user, spec->user);
    cs_log_lock(log);
    if (spec->idem_key) {
        hash = key_hash(user, spec->idem_key, spec->scope);
        index = find_key(log, user, spec->idem_key, spec->scope, hash);
        if (index != NONE) {
            claim = attach_reader(log, child, index, cursor) ? CS_CLAIM_JOINED : CS_CLAIM_READERS;
            cs_log_unlock(log);
            return claim;
        }
    }
    if (spec->max_per_user && count_live(log, user) >= spec->max_per_user) {
        cs_log_unlock(log);
        return CS_CLAIM_USER;
    }
    if (!cs_log_child_is_ours(log, child) || log->head->live >= log->head->max_streams
        || (log->head->free_slot == NONE && cs_log_slot_evict(log) == NONE)) {
        cs_log_unlock(log);
        return CS_CLAIM_FULL;
    }
    index = log->head->free_slot;
    log->head->free_slot = log->slots[index].free_next;
    fill_slot(log, index, child, spec, user, hash);
    link_slot(log, index);
    link_user(log, index);
    log->head->live++;
    cs_log_cursor_attach(log, child, index, cursor);
    cs_log_unlock(log);
    return CS_CLAIM_NEW;
}

/* ---- open, cancel ------------------------------------------------------------------------------------------------ */

/* The number of the last event a reader of an ended stream can have. */
static uint64_t final_seq(const slot_t *slot)
{
    uint64_t seq = atomic_load_explicit(&slot->tail_seq, memory_order_acquire);

    return seq + (cs_format_by_index(slot->format)->numbers_frame || slot->ending.code[0]);
}

cs_open_e cs_log_open(cs_log_t *log, uint32_t child, const cs_uuid_t *id, const char *user, uint64_t after_seq,
                      cs_cursor_t *cursor, uint64_t *gap_to)
{
    cs_open_e result = CS_OPEN_OK;
    uint32_t index;

    *gap_to = 0;
    cs_log_lock(log);
    index = find_id(log, id, user);
    if (index == NONE) {
        result = CS_OPEN_UNKNOWN;
    }
    else {
        slot_t *slot = &log->slots[index];
        uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);

        if (cs_state_is_end(state) && after_seq >= final_seq(slot)) {
            result = CS_OPEN_SEEN;
        }
        else if (!attach_reader(log, child, index, cursor)) {
            result = CS_OPEN_READERS;
        }
        else if (after_seq < head_of(slot)->seq && head_of(slot)->pos) {
            *gap_to = head_of(slot)->seq;
        }
    }
    cs_log_unlock(log);
    if (result == CS_OPEN_OK) {
        cs_log_cursor_skip(cursor, after_seq);
    }
    return result;
}

apr_status_t cs_log_cancel(cs_log_t *log, const cs_uuid_t *id, const char *user, cs_state_e *state)
{
    uint32_t index;

    cs_log_lock(log);
    index = find_id(log, id, user);
    if (index != NONE) {
        slot_t *slot = &log->slots[index];

        *state = atomic_load_explicit(&slot->state, memory_order_acquire);
        if (slot->life == LIFE_LIVE && !atomic_exchange(&slot->cancel, 1)) {
            cs_log_mark(log, slot->owner, index);
        }
    }
    cs_log_unlock(log);
    return index == NONE ? APR_NOTFOUND : APR_SUCCESS;
}

void cs_log_slot_info(const cs_log_t *log, uint32_t index, cs_uuid_t *id, apr_time_t *created_at, uint32_t *format)
{
    const slot_t *slot = &log->slots[index];

    *id = slot->id;
    *created_at = slot->created_at;
    *format = slot->format;
}

cs_state_e cs_log_slot_state(const cs_log_t *log, uint32_t index)
{
    return atomic_load_explicit(&log->slots[index].state, memory_order_acquire);
}

void cs_log_slot_forget(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];

    unlink_slot(log, index);
    slot->forgotten = 1;
    slot->keep = 0;
    if (!cs_log_slot_is_wanted(slot)) {
        cs_log_slot_free(log, index);
    }
}
