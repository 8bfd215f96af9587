/* SPDX-License-Identifier: Apache-2.0 */
/* What is told about a stream besides its events: for records, which have to know also when the owner is dead. */
#include <string.h>

#include "layout.h"

void cs_log_count_reconnect(cs_log_t *log, uint32_t index)
{
    atomic_fetch_add_explicit(&log->slots[index].reconnects, 1, memory_order_relaxed);
}

void cs_log_hold(cs_log_t *log, uint32_t index)
{
    cs_log_lock(log);
    log->slots[index].held = 1;
    cs_log_unlock(log);
}

void cs_log_release(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];

    cs_log_lock(log);
    slot->held = 0;
    if (slot->life == LIFE_KEPT && slot->forgotten && !cs_log_slot_is_wanted(slot)) {
        cs_log_slot_free(log, index);
    }
    cs_log_unlock(log);
}

void cs_log_told(cs_log_t *log, uint32_t index, cs_log_told_t *told)
{
    slot_t *slot = &log->slots[index];
    int i;

    told->reconnects = atomic_load(&slot->reconnects);
    told->has_ended = cs_state_is_end((cs_state_e)atomic_load_explicit(&slot->state, memory_order_acquire));
    cs_log_lock(log);
    told->bytes_sent = atomic_load(&slot->bytes_sent); /* with the lock: no cursor is closed between the two */
    told->readers = cs_log_slot_cursors(slot);
    for (i = 0; i < CS_LOG_READERS; i++) {
        if (cursor_state(&slot->cursors[i]) != CURSOR_FREE) {
            told->bytes_sent += atomic_load(&slot->cursors[i].sent);
        }
    }
    told->has_ended &= slot->life == LIFE_KEPT;
    if (told->has_ended) {
        told->ending = slot->ending;
    }
    cs_log_unlock(log);
}

uint32_t cs_log_find_held(cs_log_t *log, const cs_uuid_t *id)
{
    uint32_t i, found = NONE;

    cs_log_lock(log);
    for (i = 0; i < log->head->nslots && found == NONE; i++) {
        const slot_t *slot = &log->slots[i];

        if (slot->life != LIFE_FREE && slot->held && !memcmp(slot->id.bytes, id->bytes, sizeof(id->bytes))) {
            found = i;
        }
    }
    cs_log_unlock(log);
    return found;
}

apr_status_t cs_log_open_held(cs_log_t *log, uint32_t child, uint32_t index, cs_cursor_t *cursor)
{
    int attached;

    cs_log_lock(log);
    attached = cs_log_child_is_ours(log, child) && cs_log_cursor_attach(log, child, index, cursor);
    cs_log_unlock(log);
    return attached ? APR_SUCCESS : APR_ENOSPC;
}

/*
 * No lock: an entry is one word. Two children that meet in a bucket may forget one id too early, which costs a `reconnect` in the
 * records.
 */
int cs_log_seen(cs_log_t *log, const char *user, const char *connection_id)
{
    uint64_t name = (cs_hash64(user, strlen(user)) * 31 + cs_hash64(connection_id, strlen(connection_id))) | 1;
    _Atomic uint64_t *bucket = log->seen + (size_t)((name >> 8) % SEEN_BUCKETS) * SEEN_WAYS;
    uint32_t i;

    for (i = 0; i < SEEN_WAYS; i++) {
        if (atomic_load_explicit(&bucket[i], memory_order_relaxed) == name) {
            return 1;
        }
    }
    for (i = SEEN_WAYS - 1; i > 0; i--) { /* the newest stands first, the oldest falls off */
        atomic_store_explicit(&bucket[i], atomic_load_explicit(&bucket[i - 1], memory_order_relaxed),
                              memory_order_relaxed);
    }
    atomic_store_explicit(&bucket[0], name, memory_order_relaxed);
    return 0;
}
