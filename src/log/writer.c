/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writing side of a log: one thread, the loop of the owning child. Bytes are laid down first, the release store of
 * tail_pos publishes them.
 */
#include <string.h>

#include "layout.h"

void cs_log_set_state(cs_log_t *log, uint32_t index, cs_state_e state)
{
    atomic_store_explicit(&log->slots[index].state, state, memory_order_release);
    cs_log_mark_readers(log, index);
}

int cs_log_is_cancelled(const cs_log_t *log, uint32_t index)
{
    return atomic_load_explicit(&log->slots[index].cancel, memory_order_acquire) != 0;
}

unsigned cs_log_readers(const cs_log_t *log, uint32_t index)
{
    return cs_log_slot_cursors(&log->slots[index]);
}

int cs_log_has_readers(const cs_log_t *log, uint32_t index)
{
    const slot_t *slot = &log->slots[index];
    int i = 0;

    while (i < CS_LOG_READERS && cursor_state(&slot->cursors[i]) == CURSOR_FREE) {
        i++;
    }
    return i < CS_LOG_READERS;
}

/* ---- dropping the head ------------------------------------------------------------------------------------------- */

/* The record at `pos` of the block that holds it. */
static const record_head_t *record_at(const cs_log_t *log, uint32_t block, uint64_t pos)
{
    return (const record_head_t *)(block_data(log, block) + pos % BLOCK_DATA);
}

typedef enum { UP_TO_FASTEST, UP_TO_SLOWEST } bound_e;

/* How far the fastest or slowest reader is; the tail when nobody reads. */
static uint64_t reader_bound(const slot_t *slot, uint64_t tail, bound_e which)
{
    uint64_t bound = tail;
    int any = 0, i;

    for (i = 0; i < CS_LOG_READERS; i++) {
        const cursor_entry_t *entry = &slot->cursors[i];
        uint32_t state = cursor_state(entry);

        if (state == CURSOR_OPEN || state == CURSOR_READING) {
            uint64_t pos = atomic_load_explicit(&((cursor_entry_t *)entry)->pos, memory_order_acquire);

            if (!any || (which == UP_TO_FASTEST ? pos > bound : pos < bound)) {
                bound = pos;
            }
            any = 1;
        }
    }
    return bound;
}

/* Lets go of every cursor that stands before `pos`. 0: one of them is reading right now. */
static int pass_by(slot_t *slot, uint64_t pos)
{
    int i;

    for (i = 0; i < CS_LOG_READERS; i++) {
        cursor_entry_t *entry = &slot->cursors[i];
        uint32_t state = atomic_load_explicit(&entry->state, memory_order_acquire);

        /* Cursors move forward, and only inside READING: one past `pos` stays so, an OPEN one stays where it is. */
        if ((state & CURSOR_MASK) == CURSOR_FREE || (state & CURSOR_MASK) == CURSOR_LAGGED
            || atomic_load_explicit(&entry->pos, memory_order_acquire) >= pos) {
            continue;
        }
        if ((state & CURSOR_MASK) == CURSOR_READING
            || !atomic_compare_exchange_strong(&entry->state, &state,
                                               (state & ~(uint32_t)CURSOR_MASK) | CURSOR_LAGGED)) {
            return 0;
        }
    }
    return 1;
}

/* Frees the blocks that end before `pos`; the one that ends at it stays, for cursors that stand at its end. */
static void move_head(cs_log_t *log, slot_t *slot, uint64_t pos, uint64_t seq)
{
    log_head_t *old = head_of(slot), *new = old == slot->heads ? slot->heads + 1 : slot->heads;
    uint32_t first = atomic_load(&old->block), next = first, count = blocks_between(old->pos, pos) - 1, i;

    for (i = 0; i < count; i++) {
        next = block_at(log, next)->next;
    }
    new->pos = pos;
    new->seq = seq;
    atomic_store(&new->block, next);
    atomic_store(&slot->head, (uint32_t)(new - slot->heads));
    slot->blocks -= count;
    cs_log_blocks_give(log, first, count);
}

/* Drops records from the head until no more than `want` bytes are left, as far as readers allow. */
static void drop_head(cs_log_t *log, uint32_t index, uint64_t want, bound_e which)
{
    slot_t *slot = &log->slots[index];
    uint64_t tail = atomic_load_explicit(&slot->tail_pos, memory_order_relaxed), pos, seq, bound;
    uint32_t block;

    cs_log_lock(log);
    pos = head_of(slot)->pos;
    seq = head_of(slot)->seq;
    bound = reader_bound(slot, tail, which);
    block = atomic_load(&head_of(slot)->block);
    if (pos && pos % BLOCK_DATA == 0 && pos < tail) {
        block = block_at(log, block)->next;
    }
    while (pos < bound && tail - pos > want) {
        uint64_t end = pos + record_size(record_at(log, block, pos)->len);
        uint64_t steps;

        if (end > bound) {
            break;
        }
        for (steps = end / BLOCK_DATA - pos / BLOCK_DATA; steps > 0 && block_at(log, block)->next != NONE; steps--) {
            block = block_at(log, block)->next;
        }
        pos = end;
        seq++;
    }
    if (pos > head_of(slot)->pos && pass_by(slot, pos)) {
        move_head(log, slot, pos, seq);
        slot->room_until = pos + slot->limit;
    }
    cs_log_unlock(log);
}

static int arena_is_low(cs_log_t *log)
{
    while (atomic_load_explicit(&log->head->blocks_free, memory_order_relaxed) < BLOCKS_IN_RESERVE) {
        uint32_t evicted;

        cs_log_lock(log);
        evicted = cs_log_slot_evict(log);
        cs_log_unlock(log);
        if (evicted == NONE) {
            return 1;
        }
    }
    return 0;
}

static uint64_t used(slot_t *slot)
{
    return atomic_load_explicit(&slot->tail_pos, memory_order_relaxed) - head_of(slot)->pos;
}

static int make_room(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];

    if (atomic_load_explicit(&slot->tail_pos, memory_order_relaxed) < slot->room_until
        && atomic_load_explicit(&log->head->blocks_free, memory_order_relaxed) >= BLOCKS_IN_RESERVE) {
        return 1;
    }
    if (used(slot) >= slot->limit) {
        /* An eighth at a time, so that a full log does not take the lock for every event. */
        drop_head(log, index, slot->limit - slot->limit / 8, UP_TO_FASTEST);
    }
    if (arena_is_low(log) && used(slot)) {
        /* Replay is what there is to spare; then readers that are far behind. */
        drop_head(log, index, 0, UP_TO_SLOWEST);
        if (arena_is_low(log)) {
            drop_head(log, index, slot->limit / 8, UP_TO_FASTEST);
        }
    }
    return used(slot) < slot->limit && !arena_is_low(log);
}

int cs_log_has_room(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];

    if (make_room(log, index)) {
        return 1;
    }
    /* A reader that moved before it saw the flag would leave us paused for good: look once more after raising it. */
    atomic_store(&slot->full, 1);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with cs_log_read_end */
    if (make_room(log, index)) {
        atomic_store(&slot->full, 0);
        return 1;
    }
    return 0;
}

/* ---- appending --------------------------------------------------------------------------------------------------- */

static apr_status_t take_blocks(cs_log_t *log, uint32_t index, uint32_t count, uint32_t *first, uint32_t *last)
{
    uint32_t taken;

    *first = *last = NONE;
    for (taken = 0; taken < count; taken++) {
        uint32_t block = cs_log_block_take(log, index);

        if (block == NONE) {
            cs_log_blocks_give(log, *first, taken);
            return APR_ENOSPC;
        }
        if (*last == NONE) {
            *first = block;
        }
        else {
            block_at(log, *last)->next = block;
        }
        *last = block;
    }
    return APR_SUCCESS;
}

typedef struct {
    cs_log_t *log;
    uint32_t block;
    uint32_t offset;
} place_t;

static void put(place_t *at, const char *bytes, size_t len)
{
    while (len) {
        size_t part;

        if (at->offset == BLOCK_DATA) {
            at->block = block_at(at->log, at->block)->next;
            at->offset = 0;
        }
        part = BLOCK_DATA - at->offset < len ? BLOCK_DATA - at->offset : len;
        memcpy(block_data(at->log, at->block) + at->offset, bytes, part);
        at->offset += (uint32_t)part;
        bytes += part;
        len -= part;
    }
}

apr_status_t cs_log_append(cs_log_t *log, uint32_t index, const cs_event_t *event)
{
    slot_t *slot = &log->slots[index];
    uint64_t tail = atomic_load_explicit(&slot->tail_pos, memory_order_relaxed);
    size_t name_len = event->name_len > UINT8_MAX ? UINT8_MAX : event->name_len;
    record_head_t head = {(uint32_t)(name_len + event->len), (uint8_t)event->kind, (uint8_t)name_len, 0};
    uint64_t size = record_size(head.len);
    uint32_t used = (uint32_t)(tail % BLOCK_DATA), left = used || !tail ? BLOCK_DATA - used : 0;
    uint32_t last = atomic_load_explicit(&slot->last_block, memory_order_relaxed);
    place_t at = {log, last, used};

    if (event->len > UINT32_MAX / 2) {
        return APR_EINVAL;
    }
    if (last == NONE) {
        left = 0;
    }
    if (size > left) {
        uint32_t count = (uint32_t)((size - left + BLOCK_DATA - 1) / BLOCK_DATA), first, end;
        apr_status_t rv = take_blocks(log, index, count, &first, &end);

        if (rv) {
            return rv;
        }
        if (last == NONE) {
            atomic_store(&head_of(slot)->block, first);
        }
        else {
            block_at(log, last)->next = first;
        }
        slot->blocks += count;
        atomic_store(&slot->last_block, end);
        if (!left) {
            at.block = first;
            at.offset = 0;
        }
    }
    put(&at, (const char *)&head, sizeof(head));
    put(&at, event->name, name_len);
    put(&at, event->data, event->len);
    atomic_store_explicit(&slot->tail_seq, atomic_load_explicit(&slot->tail_seq, memory_order_relaxed) + 1,
                          memory_order_release);
    atomic_store_explicit(&slot->tail_pos, tail + size, memory_order_release);
    return APR_SUCCESS;
}

void cs_log_publish(cs_log_t *log, uint32_t index)
{
    cs_log_mark_readers(log, index);
}

void cs_log_end(cs_log_t *log, uint32_t index, const cs_log_ending_t *ending, cs_log_after_e after)
{
    slot_t *slot = &log->slots[index];

    cs_log_lock(log);
    if (slot->life == LIFE_LIVE) {
        slot->ending = *ending;
        atomic_store_explicit(&slot->state, ending->state, memory_order_release);
        cs_log_slot_keep(log, index, cs_clock_mono(), slot->keep);
        if (after == CS_LOG_FORGET) {
            cs_log_slot_forget(log, index);
        }
        cs_log_mark_readers(log, index);
    }
    cs_log_unlock(log);
}
