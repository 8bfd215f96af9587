/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: facts on disk before anybody counts them as done. One per writer (a child process, or a tool), and it is the writer's
 * audit chain too. Knows core only: no server, no SQL.
 *
 *   STATE_DIR/<chain>.lock          held with flock by the process that writes this chain; free: its writer is dead
 *   STATE_DIR/<chain>-<n>.journal   segments, read in order; each begins with a header: version, chain, node, arena, the chain's seq,
 *                                   hash and ts before its first entry
 *   STATE_DIR/<chain>.done          how far the facts are in the database: segment and offset
 *   STATE_DIR/<chain>.head          a chain that has ended: its last seq and hash, until another chain has anchored it
 *   STATE_DIR/<chain>.corrupt       what could not be read, for a person to look at
 *
 * Entry: marker, length, time, CRC-32C of both, the encoded fact; one write (journal_entry.h). A last entry that is not whole was being
 * written when the writer died: it is dropped. One that is wrong is set aside in <chain>.corrupt and told, and reading goes on at the
 * next that is right.
 *
 * flock is inherited by fork: a child that neither execs nor ends before its parent keeps the parent's chains from being adopted.
 *
 *     cs_journal_create -> cs_journal_append ... (any thread)
 *     one thread: cs_journal_read -> database -> cs_journal_applied ... -> cs_journal_close
 *
 * When everything is in the database, the segment goes: messages do not lie about longer than needed.
 */
#ifndef CS_RECORD_JOURNAL_H
#define CS_RECORD_JOURNAL_H

#include "chatstream/core.h"
#include "fact.h"

typedef struct cs_journal_t cs_journal_t; /* the right to write one chain */

typedef enum { CS_SYNC_OFF = 1, CS_SYNC_SECOND, CS_SYNC_ALWAYS } cs_sync_e;

typedef struct {
    const char *dir;
    const char *node; /* host name; at most 255 bytes */
    cs_uuid_t arena;  /* whose slots the streams of this writer are; all zero: a tool, it has none */
    cs_sync_e sync;   /* ALWAYS: append returns when the fact is on the disk; SECOND: somebody calls cs_journal_sync */
} cs_journal_options_t;

/*
 * Starts a chain of its own. Its first audit row will anchor the heads of all chains the directory knows. `error` says what went
 * wrong and with which file.
 */
apr_status_t cs_journal_create(cs_journal_t **out, const cs_journal_options_t *options, char *error, size_t size);
/*
 * Takes over a chain whose writer is dead, if there is one: drops a torn last entry and writes on where that one stopped. APR_NOTFOUND:
 * there is none. Its chain, node and arena are those it was created with. Other errors are told by `error`: APR_EGENERAL, a chain nothing
 * can be made of was set aside, call again; the system's, or APR_ENOTIMPL (a later
 * version wrote it): one cannot be taken now, and there is no other.
 */
apr_status_t cs_journal_adopt(cs_journal_t **out, const cs_journal_options_t *options, char *error, size_t size);
const char *cs_journal_chain(const cs_journal_t *journal); /* 36 characters */
const cs_uuid_t *cs_journal_arena(const cs_journal_t *journal);

/*
 * Any thread. Gives the fact its link when it has an EVENT and wants audit, then appends it. Nothing was appended on an error (a
 * write that was cut short is taken back), which is the system's: ENOSPC, EIO; or APR_EINVAL: the fact will never be taken (see
 * cs_fact_encode). In the first audit row of a chain the DETAIL that is written has the member "anchors"; the caller's stays.
 */
apr_status_t cs_journal_append(cs_journal_t *journal, cs_fact_t *fact);
/* fsync, when something was appended since the last. */
apr_status_t cs_journal_sync(cs_journal_t *journal);

/* Where a fact ends: given by read, taken by applied. */
typedef struct {
    uint64_t segment;
    uint64_t offset;
} cs_journal_place_t;

typedef enum {
    CS_JOURNAL_FACT,
    CS_JOURNAL_END,    /* nothing more now; `error` is not empty when the file cannot be read at the moment */
    CS_JOURNAL_CORRUPT /* an entry was set aside; go on reading. `error` says which */
} cs_journal_read_e;

/*
 * One thread. The next fact after the last one read; `fact` is valid until the next call. `after` is set for FACT and CORRUPT. With
 * CS_SYNC_SECOND it first syncs what it is about to give, once for each batch: no database is ahead of the journal on the disk.
 */
cs_journal_read_e cs_journal_read(cs_journal_t *journal, cs_fact_t *fact, cs_journal_place_t *after, char *error,
                                  size_t size);
/* One thread. Reads again from what was applied last: a transaction was rolled back. */
void cs_journal_rewind(cs_journal_t *journal);
/*
 * One thread. All facts up to `place` are in the database for good. Segments that are done are removed: the last one when it is large or a
 * second old, so call again with the same place once a second. APR_EINVAL: `place` was not read yet.
 */
apr_status_t cs_journal_applied(cs_journal_t *journal, const cs_journal_place_t *place);
/* Bytes appended and not yet applied; since when the oldest waits (wall clock, 0: nothing does). Any thread. */
uint64_t cs_journal_pending(const cs_journal_t *journal, apr_time_t *oldest);

/* The store thread, when it has nothing to apply: a segment whose facts are all in the database goes when it is about a second old. */
void cs_journal_tick(cs_journal_t *journal);
/*
 * Between these two no segment is removed, applied or not: what was appended in between can be found in the files by whoever has to
 * finish this, should the process die in the middle. One thread at a time.
 */
void cs_journal_unsettled(cs_journal_t *journal);
void cs_journal_settled(cs_journal_t *journal);

/*
 * Gives the chain up. All applied, and nobody stands on its open list (<chain>.open, open_list.h): its files go, but for the head. Else
 * they stay, for somebody to adopt. Accepts NULL.
 */
void cs_journal_close(cs_journal_t *journal);

/*
 * Every fact that is still in this chain's files, applied or not; as cs_journal_list. The thread that adopted it, before anybody reads.
 */
apr_status_t cs_journal_each(const cs_journal_t *journal,
                             int (*fn)(void *baton, const char *chain, const cs_journal_place_t *place,
                                       const cs_fact_t *fact, int applied, const char *note),
                             void *baton, char *error, size_t size);

/* ---- for tools ---------------------------------------------------------------------------------------------------- */

/*
 * Every fact of every chain in the directory, read only, without locks: calls `fn`; `applied`: it is in the database; `note` instead of a
 * fact: "torn", or what is corrupt. Non-zero from `fn` stops.
 */
apr_status_t cs_journal_list(const char *dir,
                             int (*fn)(void *baton, const char *chain, const cs_journal_place_t *place,
                                       const cs_fact_t *fact, int applied, const char *note),
                             void *baton, char *error, size_t size);

/* The whole directory: bytes not yet applied and the age of the oldest of them. */
apr_status_t cs_journal_usage(const char *dir, uint64_t *bytes, apr_time_t *oldest);

/* Heads of chains that the directory knows: those that have ended and were not anchored since. For audit verify. */
typedef struct {
    char chain[CS_UUID_LEN + 1];
    uint64_t seq;
    char hash[65];
} cs_head_t;

apr_status_t cs_journal_heads(const char *dir, void (*fn)(void *baton, const cs_head_t *head), void *baton);

#endif
