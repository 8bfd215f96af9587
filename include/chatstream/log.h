/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log: what the children share. One arena of shared memory, made in the parent before the fork, holds the child table, the
 * slot table (one slot a stream) and the blocks of the event logs. Knows core and event only: no httpd, no curl.
 *
 * A stream is written by one thread, the loop of the child that owns it (`cs_log_append`, `cs_log_end`), and read through
 * cursors by anyone, in any child. Writer and readers of one log take no lock; claiming, finding, opening, dropping and
 * freeing take the arena's robust lock, for a moment.
 *
 *     request thread: cs_log_claim -> cursor          (slot is live, owner is this child)
 *     loop thread:    cs_log_append ... cs_log_end    (slot is kept until its replay time is over)
 *     any thread:     cs_log_read_begin, cs_log_read ..., cs_log_read_end, at the end cs_log_cursor_close
 *
 * Links are indexes, never pointers: children of two generations may have mapped the arena from different parents' views.
 */
#ifndef CHATSTREAM_LOG_H
#define CHATSTREAM_LOG_H

#include "chatstream/core.h"
#include "chatstream/event.h"

typedef struct cs_log_t cs_log_t; /* a process's handle to the arena */

#define CS_LOG_NONE     UINT32_MAX
#define CS_LOG_USER_MAX 127
#define CS_LOG_KEY_MAX  127
#define CS_LOG_READERS  8 /* cursors open on one stream at a time */

/* ---- arena ------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t max_streams;  /* live streams: ChatStreamMaxStreams */
    uint32_t max_children; /* processes that may be attached at a time */
    uint64_t bytes;        /* ChatStreamArena: slots, tables and blocks together */
} cs_log_geometry_t;

/* Smallest arena that can serve `max_streams` streams, in bytes. */
uint64_t cs_log_bytes_needed(uint32_t max_streams, uint32_t max_children);
/* Parent, before the fork. APR_EINVAL: geometry too small; else the system's errno. `*out` is NULL on failure. */
apr_status_t cs_log_create(cs_log_t **out, const cs_log_geometry_t *geometry);
/* Unmaps here; the memory lives on in every child that still has it. Accepts NULL. */
void cs_log_destroy(cs_log_t *log);
int cs_log_has_geometry(const cs_log_t *log, const cs_log_geometry_t *geometry);
uint32_t cs_log_slots(const cs_log_t *log); /* slot indexes are below this */
/* Tells this arena from every other, also of another machine and another day. */
void cs_log_arena_id(const cs_log_t *log, cs_uuid_t *id);

typedef struct {
    uint32_t live;
    uint32_t max_streams;
    uint32_t kept; /* ended, still readable */
    uint32_t blocks;
    uint32_t blocks_free;
    uint64_t block_bytes;
    uint32_t children;
} cs_log_usage_t;

void cs_log_usage(cs_log_t *log, cs_log_usage_t *usage);
/* Checks every list and count of a quiet arena. APR_SUCCESS, or APR_EGENERAL with the reason in `why`. */
apr_status_t cs_log_validate(cs_log_t *log, char *why, size_t size);

/* ---- children ---------------------------------------------------------------------------------------------------- */

/* Takes an entry for this process. APR_ENOSPC: table full. */
apr_status_t cs_log_child_attach(cs_log_t *log, uint32_t *child);
/* Its streams should have ended; those that have not end as `worker_lost`. Takes away what cursors are left: they are lagged. */
void cs_log_child_detach(cs_log_t *log, uint32_t child);
/* Readable when another thread or process has something for this child; stays open as long as the arena. */
int cs_log_child_eventfd(const cs_log_t *log, uint32_t child);
/* Wakes the loop of a child without a slot to look at. */
void cs_log_child_wake(cs_log_t *log, uint32_t child);
/* Loop thread of `child`: hands each slot somebody marked since the last call to `fn`. */
void cs_log_child_drain(cs_log_t *log, uint32_t child, void (*fn)(void *baton, uint32_t slot), void *baton);
/* Is it this process's turn to reap? One of all that ask gets a yes in each `interval` microseconds. */
int cs_log_reap_is_due(cs_log_t *log, apr_time_t now_mono, apr_time_t interval);
/* The same for what is too old in the database. */
int cs_log_purge_is_due(cs_log_t *log, apr_time_t now_mono, apr_time_t interval);
/*
 * Any process, about twice a second: ends the streams of dead children as `worker_lost`, takes their cursors away, frees
 * what is kept past its time. Returns how many streams it ended.
 */
unsigned cs_log_reap(cs_log_t *log, apr_time_t now_mono);

/* ---- states ------------------------------------------------------------------------------------------------------ */

typedef enum {
    CS_STATE_ADMITTED = 0,
    CS_STATE_CONNECTING,
    CS_STATE_ACTIVE,
    CS_STATE_COMPLETED, /* this and all after it are ends */
    CS_STATE_ERROR,
    CS_STATE_TIMEOUT,
    CS_STATE_CANCELLED,
    CS_STATE_DISCONNECTED
} cs_state_e;

static inline int cs_state_is_end(cs_state_e state)
{
    return state >= CS_STATE_COMPLETED;
}
const char *cs_state_name(cs_state_e state);

/* How a stream ended, as it lies in its slot: no pointers. */
typedef struct {
    uint32_t state;      /* cs_state_e */
    int32_t http_status; /* for readers that have not answered yet; 0: answer 200 and the error event */
    int32_t retry_after; /* seconds, 0: none */
    int32_t retryable;
    char code[24]; /* "": complete */
    char message[104];
    char finish_reason[32]; /* "": not said */
    int64_t prompt_tokens;  /* -1: not said */
    int64_t completion_tokens;
    int64_t first_token_ms; /* -1: none */
    int64_t duration_ms;
    uint64_t tokens;
} cs_log_ending_t;

/* ---- slots ------------------------------------------------------------------------------------------------------- */

typedef struct {
    cs_uuid_t id;
    const char *user;      /* longer ones are told apart by a hash */
    const char *idem_key;  /* NULL: none; at most CS_LOG_KEY_MAX */
    uint32_t scope;        /* hash of where the key counts: location */
    uint32_t format;       /* cs_format_index */
    uint32_t max_per_user; /* live streams of this user, over all children; 0: no limit */
    uint32_t replay_bytes;
    apr_time_t replay_keep; /* microseconds after the end */
    apr_time_t created_at;  /* wall clock */
    apr_time_t ends_by;     /* mono: when it will have ended for sure; 0: not known */
} cs_log_spec_t;

/* A reader's place in one log. Lives in the reader; only one thread at a time uses it. */
typedef struct {
    cs_log_t *log;
    uint32_t slot; /* CS_LOG_NONE: closed */
    uint32_t entry;
    uint32_t serial;
    uint32_t block;
    uint64_t pos;
    uint64_t seq;   /* of the last event read or skipped */
    uint32_t state; /* cs_state_e when reading last began */
    cs_buf_t scratch;
} cs_cursor_t;

typedef enum {
    CS_CLAIM_NEW,    /* slot is ours, cursor stands before its first event */
    CS_CLAIM_JOINED, /* the key names a stream still kept: cursor stands before its first event; nothing was claimed */
    CS_CLAIM_FULL,   /* ChatStreamMaxStreams are live, or this child has detached */
    CS_CLAIM_USER,   /* max_per_user of this user are live */
    CS_CLAIM_READERS /* the stream to join has CS_LOG_READERS readers */
} cs_claim_e;

/* Request thread. */
cs_claim_e cs_log_claim(cs_log_t *log, uint32_t child, const cs_log_spec_t *spec, cs_cursor_t *cursor);
/* Live streams of a user, over all children. */
uint32_t cs_log_count_user(cs_log_t *log, const char *user);
/* When the first of them will have ended for sure, mono; 0: not known, or there is none. */
apr_time_t cs_log_user_ends_by(cs_log_t *log, const char *user);

typedef enum {
    CS_OPEN_OK,
    CS_OPEN_UNKNOWN, /* no such stream, or another user's */
    CS_OPEN_SEEN,    /* the stream has ended and `after_seq` was its last event */
    CS_OPEN_READERS
} cs_open_e;

/*
 * Request thread: a cursor on the stream `id` of `user`, standing after event `after_seq` (0: at the beginning). Where the log
 * has dropped events the cursor lacks, `*gap_to` is the last dropped one (else 0) and the cursor stands after it.
 */
cs_open_e cs_log_open(cs_log_t *log, uint32_t child, const cs_uuid_t *id, const char *user, uint64_t after_seq,
                      cs_cursor_t *cursor, uint64_t *gap_to);
/*
 * Asks for the end of a stream. APR_SUCCESS: asked, or it has ended already; `*state` as it is now. APR_NOTFOUND: no such
 * stream of this user.
 */
apr_status_t cs_log_cancel(cs_log_t *log, const cs_uuid_t *id, const char *user, cs_state_e *state);

/* What a slot says about its stream. Constant while the caller owns the slot or has a cursor on it. */
void cs_log_slot_info(const cs_log_t *log, uint32_t slot, cs_uuid_t *id, apr_time_t *created_at, uint32_t *format);
cs_state_e cs_log_slot_state(const cs_log_t *log, uint32_t slot);

/* ---- what is told about a stream besides its events ---------------------------------------------------------------- */

/* Any thread that has a cursor on it: somebody came back. */
void cs_log_count_reconnect(cs_log_t *log, uint32_t slot);
/*
 * The stream's end has to be written down before its slot may go. Not part of the claim: whoever calls this has noted somewhere that
 * outlives him which stream it is, so that others can release it for him.
 */
void cs_log_hold(cs_log_t *log, uint32_t slot);
/* It is written down. Any process. */
void cs_log_release(cs_log_t *log, uint32_t slot);

typedef struct {
    uint64_t bytes_sent;
    uint32_t reconnects;
    unsigned readers; /* open now: bytes_sent may grow */
    int has_ended;
    cs_log_ending_t ending; /* when it has */
} cs_log_told_t;

/* Of a slot that is held. */
void cs_log_told(cs_log_t *log, uint32_t slot, cs_log_told_t *told);
/* The held slot of a stream, also of one that is forgotten; CS_LOG_NONE. Looks at every slot: for after a child's death. */
uint32_t cs_log_find_held(cs_log_t *log, const cs_uuid_t *id);
/* A reader on a held slot, from the first event that is kept: its number less one is in `cursor->seq`. APR_ENOSPC: CS_LOG_READERS read. */
apr_status_t cs_log_open_held(cs_log_t *log, uint32_t child, uint32_t slot, cs_cursor_t *cursor);
/*
 * Has a client used this connection id before? Remembers some 65,000, the ones used last. `user` and `connection_id` together are
 * one name.
 */
int cs_log_seen(cs_log_t *log, const char *user, const char *connection_id);

/* ---- writer: the owner's loop thread ----------------------------------------------------------------------------- */

/* CONNECTING, ACTIVE. ACTIVE says that the upstream's headers have come: readers may commit. Wakes readers. */
void cs_log_set_state(cs_log_t *log, uint32_t slot, cs_state_e state);
int cs_log_is_cancelled(const cs_log_t *log, uint32_t slot);
/* The clock that will end this stream moved: mono. */
void cs_log_set_ends_by(cs_log_t *log, uint32_t slot, apr_time_t ends_by);
/* Cursors open now. */
unsigned cs_log_readers(const cs_log_t *log, uint32_t slot);
/* The same as a question, cheap enough for each event. */
int cs_log_has_readers(const cs_log_t *log, uint32_t slot);
/*
 * Room for another read of the upstream? Drops what every reader has read, and what lagging readers have not, as long as one
 * reader is ahead of them. 0: all readers are behind and the log is full, or the arena is: pause the upstream; the slot is
 * marked when that may have changed (a full arena: try again after a while).
 */
int cs_log_has_room(cs_log_t *log, uint32_t slot);
/*
 * Appends one event and publishes it; `event->seq` is ignored, the log counts. May pass replay_bytes by one upstream read.
 * APR_ENOSPC: the arena has no block left, even after freeing kept streams.
 */
apr_status_t cs_log_append(cs_log_t *log, uint32_t slot, const cs_event_t *event);
/* Wakes readers in other children that asked to be. Local ones are the hub's. Once per upstream read is enough. */
void cs_log_publish(cs_log_t *log, uint32_t slot);
typedef enum { CS_LOG_KEEP, CS_LOG_FORGET } cs_log_after_e;
/*
 * The one end of a stream. KEEP: readable for its replay time. FORGET: it failed before anything was said; its id and key are
 * unknown from now on, and the slot is freed with its last cursor. Later calls for the same slot do nothing.
 */
void cs_log_end(cs_log_t *log, uint32_t slot, const cs_log_ending_t *ending, cs_log_after_e after);

/* ---- readers ----------------------------------------------------------------------------------------------------- */

typedef enum {
    CS_READ_EVENT, /* *event is set; its text is valid until the next call on this cursor */
    CS_READ_EMPTY, /* nothing more now */
    CS_READ_ENDED, /* nothing more ever; *ending is set and cursor->seq + 1 is the ending's number */
    CS_READ_LAGGED /* the log went on without this reader; the cursor is useless */
} cs_read_e;

/* Between begin and end the writer leaves alone what the cursor can see. Do not block in between. */
cs_read_e cs_log_read_begin(cs_cursor_t *cursor); /* EMPTY or LAGGED */
cs_read_e cs_log_read(cs_cursor_t *cursor, cs_event_t *event, cs_log_ending_t *ending);
void cs_log_read_end(cs_cursor_t *cursor);
/* Is there an event to read? */
int cs_log_has_events(const cs_cursor_t *cursor);
/*
 * Before sleeping: asks the writer, when it is in another child, to mark the slot for ours. 0: something came meanwhile, read
 * again.
 */
int cs_log_want_wake(cs_cursor_t *cursor);
/* The reader sent so many bytes more to its client. */
void cs_log_cursor_sent(cs_cursor_t *cursor, uint64_t bytes);
/* Marks the slot for its owner when this was a reader it may have waited for. Closed or zeroed cursors are fine. */
void cs_log_cursor_close(cs_cursor_t *cursor);

/* ---- hub: who in this process wants to know about a slot (loop thread only) ---------------------------------------- */

typedef struct cs_log_watch_t {
    struct cs_log_watch_t *next, **prev; /* the hub's */
    void (*changed)(void *baton);        /* may remove any watch */
    void *baton;
    uint32_t slot;
} cs_log_watch_t;

typedef struct cs_log_hub_t cs_log_hub_t;

apr_status_t cs_log_hub_create(cs_log_hub_t **out, cs_log_t *log, uint32_t child);
void cs_log_hub_destroy(cs_log_hub_t *hub);
void cs_log_hub_add(cs_log_hub_t *hub, cs_log_watch_t *watch);
void cs_log_hub_remove(cs_log_hub_t *hub, cs_log_watch_t *watch); /* not watching: nothing happens */
/* The slot's watches are called at the next dispatch; once, however often it was marked. */
void cs_log_hub_mark(cs_log_hub_t *hub, uint32_t slot);
void cs_log_hub_drain(cs_log_hub_t *hub); /* marks what other threads and processes marked */
void cs_log_hub_dispatch(cs_log_hub_t *hub);

#endif
