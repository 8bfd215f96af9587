/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "layout.h"

#define SCRATCH_MAX (64u * 1024 * 1024)

static slot_t *slot_of(const cs_cursor_t *cursor)
{
    return &cursor->log->slots[cursor->slot];
}

static cursor_entry_t *entry_of(const cs_cursor_t *cursor)
{
    return &slot_of(cursor)->cursors[cursor->entry];
}

int cs_log_cursor_attach(cs_log_t *log, uint32_t child, uint32_t index, cs_cursor_t *cursor)
{
    slot_t *slot = &log->slots[index];
    const log_head_t *head = head_of(slot);
    uint32_t i = 0;

    while (i < CS_LOG_READERS && cursor_state(&slot->cursors[i]) != CURSOR_FREE) {
        i++;
    }
    if (i == CS_LOG_READERS) {
        return 0;
    }
    memset(cursor, 0, sizeof(*cursor));
    cursor->log = log;
    cursor->slot = index;
    cursor->entry = i;
    cursor->serial = log->head->cursor_serial += CURSOR_MASK + 1;
    cursor->pos = head->pos;
    cursor->seq = head->seq;
    cursor->block = head->pos ? atomic_load(&head->block) : NONE;
    cs_buf_init(&cursor->scratch, SCRATCH_MAX);
    atomic_store(&slot->cursors[i].child, child);
    atomic_store(&slot->cursors[i].want, 0);
    atomic_store(&slot->cursors[i].sent, 0);
    atomic_store(&slot->cursors[i].pos, cursor->pos);
    atomic_store(&slot->cursors[i].state, cursor->serial | CURSOR_OPEN);
    return 1;
}

cs_read_e cs_log_read_begin(cs_cursor_t *cursor)
{
    uint32_t expected = cursor->serial | CURSOR_OPEN, reading = cursor->serial | CURSOR_READING;

    cursor->state = atomic_load_explicit(&slot_of(cursor)->state, memory_order_acquire);
    return atomic_compare_exchange_strong(&entry_of(cursor)->state, &expected, reading) ? CS_READ_EMPTY
                                                                                        : CS_READ_LAGGED;
}

void cs_log_read_end(cs_cursor_t *cursor)
{
    slot_t *slot = slot_of(cursor);
    cursor_entry_t *entry = entry_of(cursor);
    uint32_t expected = cursor->serial | CURSOR_READING;
    int moved = atomic_load_explicit(&entry->pos, memory_order_relaxed) != cursor->pos;

    if (atomic_load_explicit(&entry->state, memory_order_relaxed) != expected) {
        return; /* taken away: this child has detached */
    }
    atomic_store_explicit(&entry->pos, cursor->pos, memory_order_release);
    atomic_compare_exchange_strong(&entry->state, &expected, cursor->serial | CURSOR_OPEN);
    if (moved && atomic_load(&slot->full) && atomic_exchange(&slot->full, 0)) {
        cs_log_mark(cursor->log, slot->owner, cursor->slot);
    }
}

int cs_log_has_events(const cs_cursor_t *cursor)
{
    return atomic_load_explicit(&slot_of(cursor)->tail_pos, memory_order_acquire) != cursor->pos;
}

/* Steps into the next block when the cursor stands at the end of its own. Only with bytes left to read. */
static void enter_block(cs_cursor_t *cursor, uint64_t pos)
{
    if (cursor->block == NONE) {
        cursor->block = atomic_load(&head_of(slot_of(cursor))->block);
    }
    else if (pos % BLOCK_DATA == 0) {
        cursor->block = block_at(cursor->log, cursor->block)->next;
    }
}

/* Moves over `len` bytes, appending them to `copy` unless that is NULL. */
static apr_status_t walk(cs_cursor_t *cursor, size_t len, cs_buf_t *copy)
{
    while (len) {
        uint32_t offset = (uint32_t)(cursor->pos % BLOCK_DATA);
        size_t part = BLOCK_DATA - offset < len ? BLOCK_DATA - offset : len;

        if (!offset) {
            enter_block(cursor, cursor->pos);
        }
        if (copy) {
            apr_status_t rv = cs_buf_append(copy, block_data(cursor->log, cursor->block) + offset, part);

            if (rv) {
                return rv;
            }
        }
        cursor->pos += part;
        len -= part;
    }
    return APR_SUCCESS;
}

static cs_read_e nothing_more(cs_cursor_t *cursor, cs_log_ending_t *ending)
{
    slot_t *slot = slot_of(cursor);
    uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);

    if (!cs_state_is_end(state) || atomic_load_explicit(&slot->tail_pos, memory_order_acquire) != cursor->pos) {
        return CS_READ_EMPTY;
    }
    *ending = slot->ending;
    return CS_READ_ENDED;
}

cs_read_e cs_log_read(cs_cursor_t *cursor, cs_event_t *event, cs_log_ending_t *ending)
{
    uint64_t tail = atomic_load_explicit(&slot_of(cursor)->tail_pos, memory_order_acquire);
    record_head_t head;
    const char *text;
    uint32_t offset;
    uint64_t size;

    if (cursor->pos == tail) {
        cs_read_e more = nothing_more(cursor, ending);

        tail = atomic_load_explicit(&slot_of(cursor)->tail_pos, memory_order_acquire);
        if (more == CS_READ_ENDED || cursor->pos == tail) {
            return more;
        }
    }
    offset = (uint32_t)(cursor->pos % BLOCK_DATA);
    if (!offset) {
        enter_block(cursor, cursor->pos);
    }
    text = block_data(cursor->log, cursor->block) + offset;
    memcpy(&head, text, sizeof(head));
    size = record_size(head.len);
    text += sizeof(head);
    if (offset + size <= BLOCK_DATA) {
        cursor->pos += size;
    }
    else {
        /* Over the block's edge: gather it. What walk() enters is the block after this header. */
        cursor->pos += sizeof(head);
        cursor->scratch.len = 0;
        if (walk(cursor, head.len, &cursor->scratch) || walk(cursor, size - sizeof(head) - head.len, NULL)) {
            return CS_READ_LAGGED;
        }
        text = cursor->scratch.data;
    }
    cursor->seq++;
    event->kind = (cs_event_kind_e)head.kind;
    event->seq = cursor->seq;
    event->name = text;
    event->name_len = head.name_len;
    event->data = text + head.name_len;
    event->len = head.len - head.name_len;
    return CS_READ_EVENT;
}

void cs_log_cursor_skip(cs_cursor_t *cursor, uint64_t seq)
{
    cs_event_t event;
    cs_log_ending_t ending;

    if (cs_log_read_begin(cursor) == CS_READ_LAGGED) {
        return;
    }
    while (cursor->seq < seq && cs_log_read(cursor, &event, &ending) == CS_READ_EVENT) {}
    cs_log_read_end(cursor);
}

int cs_log_want_wake(cs_cursor_t *cursor)
{
    slot_t *slot = slot_of(cursor);

    /* In the owner's own process the hub tells. */
    if (slot->owner != atomic_load_explicit(&entry_of(cursor)->child, memory_order_relaxed)) {
        atomic_store(&entry_of(cursor)->want, 1);
        atomic_store(&slot->wanted, 1);
    }
    /* Raised before looking: a writer that published earlier is seen here, a later one sees the flag. */
    return atomic_load(&slot->tail_pos) == cursor->pos && atomic_load(&slot->state) == cursor->state
           && atomic_load(&entry_of(cursor)->state) == (cursor->serial | CURSOR_OPEN);
}

void cs_log_cursor_sent(cs_cursor_t *cursor, uint64_t bytes)
{
    cursor_entry_t *entry = entry_of(cursor);

    atomic_store_explicit(&entry->sent, atomic_load_explicit(&entry->sent, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
}

void cs_log_cursor_close(cs_cursor_t *cursor)
{
    cs_log_t *log = cursor->log;
    slot_t *slot;

    if (!log || cursor->slot == NONE) {
        return;
    }
    slot = slot_of(cursor);
    cs_log_lock(log);
    if ((atomic_load(&entry_of(cursor)->state) & ~(uint32_t)CURSOR_MASK) != cursor->serial) {
        slot = NULL; /* taken away; entry and slot may be another's by now */
    }
    else {
        atomic_fetch_add(&slot->bytes_sent, atomic_exchange(&entry_of(cursor)->sent, 0));
        atomic_store(&entry_of(cursor)->state, CURSOR_FREE);
    }
    if (slot && slot->life == LIFE_LIVE) {
        cs_log_mark(log, slot->owner, cursor->slot);
    }
    else if (slot && slot->life == LIFE_KEPT && slot->forgotten && !cs_log_slot_is_wanted(slot)) {
        cs_log_slot_free(log, cursor->slot);
    }
    cs_log_unlock(log);
    cs_buf_free(&cursor->scratch);
    cursor->slot = NONE;
}
