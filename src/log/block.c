/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "layout.h"

/* block.owner is the truth; the free list only makes finding fast. */
static void relink(cs_log_t *log)
{
    arena_head_t *head = log->head;
    uint32_t i, count = 0;

    head->free_block = NONE;
    for (i = head->nblocks; i-- > 0;) {
        block_head_t *block = block_at(log, i);

        if (!block->owner) {
            block->next = head->free_block;
            head->free_block = i;
            count++;
        }
    }
    atomic_store(&head->blocks_free, count);
}

static void pool_lock(cs_log_t *log)
{
    if (pthread_mutex_lock(&log->head->pool_lock) == EOWNERDEAD) {
        pthread_mutex_consistent(&log->head->pool_lock);
        relink(log);
    }
}

static void pool_unlock(cs_log_t *log)
{
    pthread_mutex_unlock(&log->head->pool_lock);
}

void cs_log_blocks_init(cs_log_t *log)
{
    relink(log);
}

uint32_t cs_log_block_take(cs_log_t *log, uint32_t slot)
{
    for (;;) {
        uint32_t block, evicted;

        pool_lock(log);
        block = log->head->free_block;
        if (block != NONE) {
            block_head_t *head = block_at(log, block);

            log->head->free_block = head->next;
            head->owner = slot + 1;
            head->next = NONE;
            atomic_fetch_sub_explicit(&log->head->blocks_free, 1, memory_order_relaxed);
            pool_unlock(log);
            return block;
        }
        pool_unlock(log);
        cs_log_lock(log);
        evicted = cs_log_slot_evict(log);
        cs_log_unlock(log);
        if (evicted == NONE) {
            return NONE;
        }
    }
}

static void give_locked(cs_log_t *log, uint32_t block)
{
    block_head_t *head = block_at(log, block);

    head->owner = 0;
    head->next = log->head->free_block;
    log->head->free_block = block;
    atomic_fetch_add_explicit(&log->head->blocks_free, 1, memory_order_relaxed);
}

void cs_log_blocks_give(cs_log_t *log, uint32_t first, uint32_t count)
{
    uint32_t owner;

    if (first == NONE || !count) {
        return;
    }
    pool_lock(log);
    owner = block_at(log, first)->owner;
    while (count-- && first < log->head->nblocks && block_at(log, first)->owner == owner) {
        uint32_t next = block_at(log, first)->next;

        give_locked(log, first);
        first = next;
    }
    pool_unlock(log);
}

void cs_log_blocks_sweep(cs_log_t *log)
{
    uint32_t i;

    pool_lock(log);
    for (i = 0; i < log->head->nblocks; i++) {
        uint32_t owner = block_at(log, i)->owner;

        if (owner && log->slots[owner - 1].life == LIFE_FREE) {
            give_locked(log, i);
        }
    }
    pool_unlock(log);
}

/* ---- after a writer's death -------------------------------------------------------------------------------------- */

static int lost_to(const slot_t *slot, uint32_t child)
{
    return slot->life == LIFE_LIVE && slot->owner == child;
}

/* What was published says how long the chain is; blocks behind it were being filled. Notes the chain in `chained`. */
static void mend_chain(cs_log_t *log, uint32_t index, uint64_t *chained)
{
    slot_t *slot = &log->slots[index];
    log_head_t *head = head_of(slot);
    uint32_t want = blocks_between(head->pos, atomic_load(&slot->tail_pos)), count = 0, last = NONE;
    uint32_t at = atomic_load(&head->block);

    while (count < want && at < log->head->nblocks && block_at(log, at)->owner == index + 1) {
        chained[at / 64] |= UINT64_C(1) << (at % 64);
        last = at;
        at = block_at(log, at)->next;
        count++;
    }
    slot->blocks = count;
    atomic_store(&slot->last_block, last);
    if (last == NONE) {
        atomic_store(&head->block, NONE);
    }
    else {
        block_at(log, last)->next = NONE;
    }
}

void cs_log_blocks_mend(cs_log_t *log, uint32_t child)
{
    uint64_t *chained = calloc((log->head->nblocks + 63) / 64, sizeof(*chained));
    uint32_t i;

    if (!chained) {
        abort(); /* in a process that reaps, as httpd's pools do; the next one tries again */
    }
    for (i = 0; i < log->head->nslots; i++) {
        if (lost_to(&log->slots[i], child)) {
            mend_chain(log, i, chained);
        }
    }
    pool_lock(log);
    for (i = 0; i < log->head->nblocks; i++) {
        uint32_t owner = block_at(log, i)->owner;

        if (owner && lost_to(&log->slots[owner - 1], child) && !(chained[i / 64] >> (i % 64) & 1)) {
            give_locked(log, i);
        }
    }
    pool_unlock(log);
    free(chained);
}
