/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writing side of a log: one thread, the loop of the owning child. Bytes are laid down first, the release store of
 * tail_pos publishes them.
 */
#include <string.h>

#include "layout.h"

#define BLOCKS_IN_RESERVE 64 /* below this the arena counts as full: several upstream reads may be under way at once */

void cs_log_set_state(cs_log_t *log, uint32_t index, cs_state_e state)
{
    atomic_store_explicit(&log->slots[index].state, state, memory_order_release);
    cs_log_mark_readers(log, index);
}

int cs_log_is_cancelled(const cs_log_t *log, uint32_t index)
{
    return atomic_load_explicit(&log->slots[index].cancel, memory_order_acquire) != 0;
}

unsigned cs_log_readers(const cs_log_t *log, uint32_t index) { return cs_log_slot_cursors(&log->slots[index]); }

/* ---- dropping the head ------------------------------------------------------------------------------------------- */

/* The record at `pos` of the block that holds it. */
static const record_head_t *record_at(const cs_log_t *log, uint32_t block, uint64_t pos)
{
    return (const record_head_t *)(block_data(log, block) + pos % BLOCK_DATA);
}

/* How far the fastest reader is; the tail when nobody reads. */
static uint64_t fastest_reader(slot_t *slot, uint64_t tail)
{
    uint64_t fastest = 0;
    int any = 0, i;

    for (i = 0; i < CS_LOG_READERS; i++) {
        cursor_entry_t *entry = &slot->cursors[i];
        uint32_t state = atomic_load_explicit(&entry->state, memory_order_acquire);

        if (state == CURSOR_OPEN || state == CURSOR_READING) {
            uint64_t pos = atomic_load_explicit(&entry->pos, memory_order_acquire);

            fastest = pos > fastest ? pos : fastest;
            any = 1;
        }
    }
    return any ? fastest : tail;
}

/* Lets go of every cursor that stands before `pos`. 0: one of them is reading right now. */
static int pass_by(slot_t *slot, uint64_t pos)
{
    int i;

    for (i = 0; i < CS_LOG_READERS; i++) {
        cursor_entry_t *entry = &slot->cursors[i];
        uint32_t expected = CURSOR_OPEN;

        /* A cursor moves only inside READING, so an OPEN one stays where it is until the exchange fails. */
        if (atomic_load_explicit(&entry->state, memory_order_acquire) == CURSOR_READING) {
            return 0;
        }
        if (atomic_load_explicit(&entry->pos, memory_order_acquire) < pos &&
            !atomic_compare_exchange_strong(&entry->state, &expected, CURSOR_LAGGED) && expected == CURSOR_READING) {
            return 0;
        }
    }
    return 1;
}

/* Frees the blocks that end before `pos`; the one that ends at it stays, for cursors that stand at its end. */
static void drop_blocks(cs_log_t *log, slot_t *slot, uint64_t old_pos, uint64_t pos)
{
    uint64_t old_block = old_pos ? (old_pos - 1) / BLOCK_DATA : 0, new_block = (pos - 1) / BLOCK_DATA;
    uint32_t first = atomic_load(&slot->first_block), next = first, count = (uint32_t)(new_block - old_block), i;

    for (i = 0; i < count; i++) {
        next = block_at(log, next)->next;
    }
    atomic_store(&slot->first_block, next);
    slot->blocks -= count;
    cs_log_blocks_give(log, first, count);
}

/* Drops records from the head until no more than `want` bytes are left, as far as readers allow. */
static void drop_head(cs_log_t *log, uint32_t index, uint64_t want)
{
    slot_t *slot = &log->slots[index];
    uint64_t tail = atomic_load_explicit(&slot->tail_pos, memory_order_relaxed), pos, seq, bound;
    uint32_t block;

    cs_log_lock(log);
    pos = slot->head_pos;
    seq = slot->head_seq;
    bound = fastest_reader(slot, tail);
    block = atomic_load(&slot->first_block);
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
    if (pos > slot->head_pos && pass_by(slot, pos)) {
        drop_blocks(log, slot, slot->head_pos, pos);
        slot->head_pos = pos;
        slot->head_seq = seq;
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

static int make_room(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];
    uint64_t used = atomic_load_explicit(&slot->tail_pos, memory_order_relaxed) - slot->head_pos;
    int low = atomic_load_explicit(&log->head->blocks_free, memory_order_relaxed) < BLOCKS_IN_RESERVE && arena_is_low(log);

    if (used < slot->limit && !low) {
        return 1;
    }
    if (used) {
        /* An eighth at a time, so that a full log does not take the lock for every event. */
        drop_head(log, index, low ? 0 : slot->limit - slot->limit / 8);
    }
    used = atomic_load_explicit(&slot->tail_pos, memory_order_relaxed) - slot->head_pos;
    return used < slot->limit && !(low && arena_is_low(log));
}

int cs_log_has_room(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];

    if (make_room(log, index)) {
        return 1;
    }
    /* A reader that moved before it saw the flag would leave us paused for good: look once more after raising it. */
    atomic_store(&slot->full, 1);
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
    record_head_t head = { (uint32_t)(name_len + event->len), (uint8_t)event->kind, (uint8_t)name_len, 0 };
    uint64_t size = record_size(head.len);
    uint32_t used = (uint32_t)(tail % BLOCK_DATA), left = used || !tail ? BLOCK_DATA - used : 0;
    uint32_t last = atomic_load_explicit(&slot->last_block, memory_order_relaxed);
    place_t at = { log, last, used };

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
            atomic_store(&slot->first_block, first);
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

void cs_log_publish(cs_log_t *log, uint32_t index) { cs_log_mark_readers(log, index); }

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
