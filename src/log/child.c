/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "layout.h"

/*
 * Start time of a process in clock ticks, 0 when it is gone or a zombie. A zombie keeps its pid until the parent looks, which
 * may take a second: its streams need not wait for that.
 */
static uint64_t process_started(pid_t pid)
{
    char path[48], text[1024], *at;
    unsigned long long started = 0;
    ssize_t len;
    char state = 0;
    int fd;

    snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 0 : 1;
    }
    len = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (len <= 0) {
        return 0;
    }
    text[len] = '\0';
    at = strrchr(text, ')'); /* the command may hold anything, also blanks and parentheses */
    if (!at
        || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state,
                  &started)
               != 2) {
        return 1;
    }
    return state == 'Z' || state == 'X' ? 0 : (uint64_t)started;
}

static int is_dead(const child_t *child)
{
    pid_t pid = atomic_load(&((child_t *)child)->pid);
    uint64_t started;

    if (!pid) {
        return 0;
    }
    if (kill(pid, 0) && errno == ESRCH) {
        return 1;
    }
    if (!child->started) {
        return 0; /* there was no /proc to look at, so its silence means nothing now */
    }
    started = process_started(pid);
    return started == 0 || (started > 1 && child->started > 1 && started != child->started);
}

apr_status_t cs_log_child_attach(cs_log_t *log, uint32_t *out)
{
    uint32_t i;

    cs_log_lock(log);
    for (i = 0; i < log->head->nchildren; i++) {
        child_t *child = &log->children[i];

        if (!atomic_load(&child->pid)) {
            uint64_t drained;

            memset((void *)(log->marks + (size_t)i * log->head->mark_words), 0,
                   log->head->mark_words * sizeof(uint64_t));
            while (read(log->eventfds[i], &drained, sizeof(drained)) > 0) {}
            atomic_store(&child->pending, 0);
            child->started = process_started(getpid());
            atomic_store(&child->pid, getpid());
            break;
        }
    }
    cs_log_unlock(log);
    *out = i;
    return i < log->head->nchildren ? APR_SUCCESS : APR_ENOSPC;
}

int cs_log_child_is_ours(const cs_log_t *log, uint32_t child)
{
    return child < log->head->nchildren && atomic_load(&log->children[child].pid) == getpid();
}

/* Lock held. A reader of our own that is at it right now gets the time to finish; a dead child's never will. */
static void drop_cursor(cursor_entry_t *entry)
{
    int patience = 10000;

    while (cursor_state(entry) == CURSOR_READING && patience--) {
        sched_yield();
    }
    atomic_store(&entry->state, CURSOR_FREE);
}

/* Lock held: takes away every cursor of a child. */
static void drop_cursors(cs_log_t *log, uint32_t child)
{
    int alive = cs_log_child_is_ours(log, child);
    uint32_t i, k;

    for (i = 0; i < log->head->nslots; i++) {
        slot_t *slot = &log->slots[i];
        int dropped = 0;

        if (slot->life == LIFE_FREE) {
            continue;
        }
        for (k = 0; k < CS_LOG_READERS; k++) {
            cursor_entry_t *entry = &slot->cursors[k];

            if (cursor_state(entry) != CURSOR_FREE && atomic_load(&entry->child) == child) {
                if (alive) {
                    drop_cursor(entry);
                }
                atomic_store(&entry->state, CURSOR_FREE);
                dropped = 1;
            }
        }
        if (dropped && slot->life == LIFE_LIVE) {
            cs_log_mark(log, slot->owner, i);
        }
        else if (dropped && slot->forgotten && !cs_log_slot_is_wanted(slot)) {
            cs_log_slot_free(log, i);
        }
    }
}

static unsigned reap_child(cs_log_t *log, uint32_t child, apr_time_t now);

void cs_log_child_detach(cs_log_t *log, uint32_t child)
{
    cs_log_lock(log);
    /* Streams too: one may have been claimed when the loop had already ended. */
    reap_child(log, child, cs_clock_mono());
    cs_log_unlock(log);
}

int cs_log_child_eventfd(const cs_log_t *log, uint32_t child)
{
    return log->eventfds[child];
}

/* Whatever `pending` says: a process that was killed after raising it has not written. */
void cs_log_child_wake(cs_log_t *log, uint32_t child)
{
    uint64_t one = 1;
    ssize_t written;

    atomic_store(&log->children[child].pending, 1);
    written = write(log->eventfds[child], &one, sizeof(one));
    (void)written; /* full means that it is readable */
}

void cs_log_mark(cs_log_t *log, uint32_t child, uint32_t slot)
{
    _Atomic uint64_t *word = log->marks + (size_t)child * log->head->mark_words + slot / 64;

    atomic_fetch_or(word, UINT64_C(1) << (slot % 64));
    if (!atomic_exchange(&log->children[child].pending, 1)) {
        cs_log_child_wake(log, child);
    }
}

void cs_log_mark_readers(cs_log_t *log, uint32_t index)
{
    slot_t *slot = &log->slots[index];
    int i;

    atomic_thread_fence(memory_order_seq_cst); /* pairs with cs_log_want_wake */
    if (!atomic_load_explicit(&slot->wanted, memory_order_relaxed)) {
        return;
    }
    atomic_store(&slot->wanted, 0); /* before the entries: one raised from now on raises this again */
    for (i = 0; i < CS_LOG_READERS; i++) {
        cursor_entry_t *entry = &slot->cursors[i];

        if (atomic_load_explicit(&entry->want, memory_order_relaxed) && atomic_exchange(&entry->want, 0)
            && cursor_state(entry) != CURSOR_FREE) {
            cs_log_mark(log, atomic_load(&entry->child), index);
        }
    }
}

void cs_log_child_drain(cs_log_t *log, uint32_t child, void (*fn)(void *baton, uint32_t slot), void *baton)
{
    _Atomic uint64_t *words = log->marks + (size_t)child * log->head->mark_words;
    uint64_t count;
    uint32_t i;
    ssize_t got = read(log->eventfds[child], &count, sizeof(count));

    (void)got;
    /* An exchange, not a store: who found it raised has marked before, and we must see that mark. */
    atomic_exchange(&log->children[child].pending, 0);
    for (i = 0; i < log->head->mark_words; i++) {
        uint64_t bits = atomic_load_explicit(&words[i], memory_order_relaxed) ? atomic_exchange(&words[i], 0) : 0;

        while (bits) {
            fn(baton, i * 64 + (uint32_t)__builtin_ctzll(bits));
            bits &= bits - 1;
        }
    }
}

/* ---- reaping ----------------------------------------------------------------------------------------------------- */

/* Lock held. */
static void end_lost(cs_log_t *log, uint32_t index, apr_time_t now)
{
    slot_t *slot = &log->slots[index];
    cs_log_ending_t *ending = &slot->ending;
    int i;

    /* It may have died in the act of ending it: then readers have seen that end already. */
    if (!cs_state_is_end((cs_state_e)atomic_load(&slot->state))) {
        memset(ending, 0, sizeof(*ending));
        ending->state = CS_STATE_ERROR;
        ending->retryable = 1;
        ending->prompt_tokens = ending->completion_tokens = ending->first_token_ms = -1;
        ending->duration_ms = -1;
        /* Nearly: events of other kinds count as well. The first number was the start event's, see fill_slot. */
        ending->tokens = atomic_load(&slot->tail_seq) - (cs_format_by_index(slot->format)->numbers_frame ? 1 : 0);
        snprintf(ending->code, sizeof(ending->code), "worker_lost");
        snprintf(ending->message, sizeof(ending->message), "The server process that held this stream was lost.");
        atomic_store_explicit(&slot->state, CS_STATE_ERROR, memory_order_release);
    }
    /* Long enough for a client that was cut off to come back and read how it ended, no longer: the blocks are wanted. */
    cs_log_slot_keep(log, index, now, LOST_KEEP);
    for (i = 0; i < CS_LOG_READERS; i++) {
        if (cursor_state(&slot->cursors[i]) != CURSOR_FREE) {
            cs_log_mark(log, atomic_load(&slot->cursors[i].child), index);
        }
    }
}

/* Lock held. */
static unsigned reap_child(cs_log_t *log, uint32_t child, apr_time_t now)
{
    unsigned lost = 0;
    uint32_t i;

    drop_cursors(log, child);
    cs_log_blocks_mend(log, child);
    for (i = 0; i < log->head->nslots; i++) {
        if (log->slots[i].life == LIFE_LIVE && log->slots[i].owner == child) {
            end_lost(log, i, now);
            lost++;
        }
    }
    atomic_store(&log->children[child].pid, 0);
    for (i = 0; i < log->head->nchildren; i++) {
        cs_log_child_wake(log, i); /* it may have died with somebody's `pending` raised and nothing written */
    }
    return lost;
}

/* Lock held. */
static void expire(cs_log_t *log, apr_time_t now)
{
    uint32_t at = log->head->kept_first;

    while (at != NONE) {
        const slot_t *slot = &log->slots[at];
        uint32_t next = slot->kept_next;

        if (now - slot->ended_at >= slot->keep && !cs_log_slot_is_wanted(slot)) {
            cs_log_slot_free(log, at);
        }
        at = next;
    }
}

static int take_turn(_Atomic apr_time_t *taken, apr_time_t now, apr_time_t interval)
{
    apr_time_t last = atomic_load(taken);

    return (!last || now - last >= interval) && atomic_compare_exchange_strong(taken, &last, now);
}

int cs_log_reap_is_due(cs_log_t *log, apr_time_t now, apr_time_t interval)
{
    return take_turn(&log->head->reaped_at, now, interval);
}

int cs_log_purge_is_due(cs_log_t *log, apr_time_t now, apr_time_t interval)
{
    return take_turn(&log->head->purged_at, now, interval);
}

unsigned cs_log_reap(cs_log_t *log, apr_time_t now)
{
    unsigned lost = 0;
    uint32_t i;

    for (i = 0; i < log->head->nchildren; i++) {
        if (is_dead(&log->children[i])) {
            cs_log_lock(log);
            if (is_dead(&log->children[i])) {
                lost += reap_child(log, i, now);
                cs_log_blocks_sweep(log); /* of a slot it was freeing */
            }
            cs_log_unlock(log);
        }
    }
    cs_log_lock(log);
    expire(log, now);
    cs_log_unlock(log);
    return lost;
}
