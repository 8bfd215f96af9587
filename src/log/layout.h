/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arena's layout, for the files of this room only.
 *
 *   +--------------+------------+---------+-------------------+--------+----------------+------------------+
 *   | arena_head_t | children[] | marks[] | hash heads (3)    | seen[] | slots[]        | blocks[]         |
 *   +--------------+------------+---------+-------------------+--------+----------------+------------------+
 *
 * marks: one bit a slot for each child, so that a wake-up says what changed. Hash heads: slots by id, by user, by
 * idempotency key. A log is a chain of blocks; positions count bytes since the stream began, so block k of a chain holds
 * [k * BLOCK_DATA, (k + 1) * BLOCK_DATA). Records are padded to RECORD_ALIGN and a record header never crosses a block.
 *
 * Two locks, both robust. `lock` guards slot allocation, the hash chains, the list of kept slots, the opening and closing of
 * cursors and the dropping of a log's head. `pool_lock` guards the free blocks; it may be taken while `lock` is held, never the
 * other way round. A process that dies inside leaves half-linked lists: slot.life and block.owner are the truth they are
 * rebuilt from.
 */
#ifndef CS_LOG_LAYOUT_H
#define CS_LOG_LAYOUT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "chatstream/log.h"

#define NONE              CS_LOG_NONE
#define BLOCK_SIZE        2048u
#define BLOCK_DATA        (BLOCK_SIZE - (uint32_t)sizeof(block_head_t))
#define RECORD_ALIGN      8u
#define LOST_KEEP         apr_time_from_sec(2)
#define SEEN_BUCKETS      8192u
#define SEEN_WAYS         8u
#define BLOCKS_IN_RESERVE 64u /* below this the arena counts as full: several upstream reads may be under way at once */

enum { LIFE_FREE = 0, LIFE_LIVE, LIFE_KEPT };
enum { CURSOR_FREE = 0, CURSOR_OPEN, CURSOR_READING, CURSOR_LAGGED, CURSOR_MASK = 3 };

typedef struct {
    uint32_t next;
    uint32_t owner; /* pool_lock: slot index + 1; 0: free */
} block_head_t;

typedef struct {
    uint32_t len; /* of name and data */
    uint8_t kind;
    uint8_t name_len;
    uint16_t reserved;
} record_head_t;

typedef struct {
    /*
     * CURSOR_*, and above it a serial that tells one use of the entry from the next: a cursor that was taken away must
     * not touch its successor. The reader takes OPEN to READING and back, the writer takes OPEN to LAGGED; FREE: lock.
     */
    _Atomic uint32_t state;
    _Atomic uint32_t child; /* written under lock */
    _Atomic uint32_t want;  /* the reader sleeps and wants its child marked */
    _Atomic uint64_t pos;
    _Atomic uint64_t sent; /* bytes, to the client; the slot's own count takes it over when the cursor is closed */
} cursor_entry_t;

typedef struct {
    uint64_t pos, seq; /* seq: last dropped event */
    /* The block with the last dropped byte, so that a cursor may stand at its end; at pos 0 the first. NONE: no byte yet. */
    _Atomic uint32_t block;
} log_head_t;

/* What each event touches lies in the first cache line, then the readers; what only beginnings and ends need comes after. */
typedef struct {
    /* loop: written by the owner, read by all */
    _Atomic uint64_t tail_pos;
    _Atomic uint64_t tail_seq; /* number of the last event */
    uint64_t room_until;       /* the writer's own: no need to look for room before the tail is here */
    _Atomic uint32_t state;    /* cs_state_e; its release store publishes `ending` */
    _Atomic uint32_t last_block;
    uint32_t blocks;
    _Atomic uint32_t full; /* the writer paused; a reader that moves marks the owner */
    /* anyone: */
    _Atomic uint32_t cancel;
    _Atomic uint32_t wanted; /* some entry's `want` is raised */
    /* constant while the slot is in use: */
    uint32_t owner; /* child index */
    uint32_t limit; /* replay_bytes */
    cursor_entry_t cursors[CS_LOG_READERS];
    /* One is in force. Dropping fills the other and switches, so a writer killed on the way leaves one that is whole. */
    log_head_t heads[2]; /* lock */
    _Atomic uint32_t head;
    /* lock: */
    uint32_t life;
    uint32_t forgotten; /* not to be found any more; freed with the last cursor */
    uint32_t held;      /* its end is not written down yet: not to be freed */
    uint32_t free_next;
    uint32_t kept_prev, kept_next;
    uint32_t id_next, key_next;
    uint32_t user_next, user_prev; /* live slots only; both ways, since one user may have thousands */
    uint64_t user_hash, key_hash;
    apr_time_t ended_at; /* mono */
    apr_time_t keep;
    _Atomic apr_time_t ends_by; /* loop; mono, 0: not known */
    _Atomic uint64_t bytes_sent;
    _Atomic uint32_t reconnects;
    /* constant while the slot is in use: */
    cs_uuid_t id;
    uint32_t scope;
    uint32_t format;
    apr_time_t created_at;
    char user[CS_LOG_USER_MAX + 1];
    char key[CS_LOG_KEY_MAX + 1];
    cs_log_ending_t ending; /* loop */
} __attribute__((aligned(64))) slot_t;

typedef struct {
    _Atomic int32_t pid;      /* 0: free; lock for taking and freeing */
    _Atomic uint32_t pending; /* eventfd was written and not read since */
    uint64_t started;         /* of the process, as /proc tells it: a pid alone may be another's by now */
} child_t;

typedef struct {
    uint64_t magic;
    cs_uuid_t id;
    uint32_t nslots, nblocks, nchildren, nbuckets, max_streams, mark_words;
    uint64_t bytes, off_children, off_marks, off_heads, off_slots, off_blocks;
    pthread_mutex_t lock;
    uint32_t free_slot;
    uint32_t kept_first, kept_last; /* oldest end first */
    _Atomic apr_time_t reaped_at;   /* mono: when somebody last took his turn */
    _Atomic apr_time_t purged_at;
    uint32_t live, kept;
    uint32_t cursor_serial;
    pthread_mutex_t pool_lock;
    uint32_t free_block;
    _Atomic uint32_t blocks_free;
} arena_head_t;

struct cs_log_t {
    char *base;
    arena_head_t *head;
    child_t *children;
    _Atomic uint64_t *marks;
    uint32_t *id_heads, *user_heads, *key_heads;
    _Atomic uint64_t *seen;
    slot_t *slots;
    char *blocks;
    int *eventfds;
};

static inline block_head_t *block_at(const cs_log_t *log, uint32_t block)
{
    return (block_head_t *)(log->blocks + (size_t)block * BLOCK_SIZE);
}

static inline char *block_data(const cs_log_t *log, uint32_t block)
{
    return (char *)(block_at(log, block) + 1);
}

static inline log_head_t *head_of(slot_t *slot)
{
    return &slot->heads[atomic_load(&slot->head)];
}

/* How many blocks hold the bytes from `head` to `tail`. */
static inline uint32_t blocks_between(uint64_t head, uint64_t tail)
{
    return tail ? (uint32_t)((tail - 1) / BLOCK_DATA - (head ? (head - 1) / BLOCK_DATA : 0)) + 1 : 0;
}

static inline uint32_t cursor_state(const cursor_entry_t *entry)
{
    return atomic_load_explicit(&((cursor_entry_t *)entry)->state, memory_order_acquire) & CURSOR_MASK;
}

static inline uint64_t record_size(size_t len)
{
    return (sizeof(record_head_t) + len + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);
}

/* lock.c: both return with the lock held and the lists it guards whole. */
void cs_log_lock(cs_log_t *log);
void cs_log_unlock(cs_log_t *log);
apr_status_t cs_log_mutex_init(pthread_mutex_t *mutex);

/* block.c */
void cs_log_blocks_init(cs_log_t *log);
uint32_t cs_log_block_take(cs_log_t *log, uint32_t slot); /* NONE: none left */
void cs_log_blocks_give(cs_log_t *log, uint32_t first, uint32_t count);
void cs_log_blocks_sweep(cs_log_t *log); /* lock held: frees the blocks of slots that are free */
/* Lock held, the child is dead: makes the chains of its live slots whole, frees what had left or not yet entered them. */
void cs_log_blocks_mend(cs_log_t *log, uint32_t child);

/* slot.c; all with lock held */
void cs_log_slots_init(cs_log_t *log);
void cs_log_slots_rebuild(cs_log_t *log);
void cs_log_slot_keep(cs_log_t *log, uint32_t slot, apr_time_t now, apr_time_t keep);
void cs_log_slot_free(cs_log_t *log, uint32_t slot);
uint32_t cs_log_slot_evict(cs_log_t *log); /* frees the oldest kept slot nobody reads; NONE: there is none */
/* A kept slot nobody shall find any more; freed now, or with its last cursor. */
void cs_log_slot_forget(cs_log_t *log, uint32_t slot);
unsigned cs_log_slot_cursors(const slot_t *slot);
/* Somebody reads it, or its end has to be written down yet. */
int cs_log_slot_is_wanted(const slot_t *slot);

/* child.c */
int cs_log_child_is_ours(const cs_log_t *log, uint32_t child); /* attached by this process, and not detached since */
void cs_log_mark(cs_log_t *log, uint32_t child, uint32_t slot);
void cs_log_mark_readers(cs_log_t *log, uint32_t slot); /* those that asked */

/* cursor.c */
int cs_log_cursor_attach(cs_log_t *log, uint32_t child, uint32_t slot,
                         cs_cursor_t *cursor); /* lock held; 0: no entry */
/* Moves past events up to and with number `seq`. Not between begin and end. */
void cs_log_cursor_skip(cs_cursor_t *cursor, uint64_t seq);

#endif
