/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal_inner: what the files of the journal share. `lock` guards everything but what is marked; "reader:" belongs to the one thread
 * that reads and applies.
 *
 *   segments   [ 4 ][ 5 ][ 6 ]        the last one is written to; the others are whole and go when they are applied
 *   in it      | head | applied | published | not yet on the disk (ALWAYS only) |
 *                                          ^ segments[last].end                ^ end
 */
#ifndef CS_RECORD_JOURNAL_INNER_H
#define CS_RECORD_JOURNAL_INNER_H

#include <pthread.h>

#include "journal.h"
#include "journal_dir.h"
#include "journal_scan.h"

typedef struct {
    uint64_t number;
    uint64_t start; /* CS_SEGMENT_HEAD; 0 when the head is damaged, so that the reader tells */
    uint64_t end;   /* readers go up to here */
    int keep;       /* what was wrong in it could not be set aside: is renamed instead of removed */
} cs_segment_t;

/* Appends under ALWAYS that share one fdatasync. */
typedef struct {
    unsigned waiters;
    apr_status_t rv;
    int done;
} cs_round_t;

struct cs_journal_t {
    pthread_mutex_t lock;
    pthread_cond_t synced;
    int dir, lock_fd, fd, done_fd;
    cs_sync_e sync;
    char *path; /* of dir, for messages */
    char chain[CS_UUID_LEN + 1];
    cs_segment_head_t head; /* of the segment that is written; its tip: the chain's, now */
    cs_segment_t *segments;
    size_t count;

    uint64_t end;             /* of what is written */
    int leftover;             /* after `end` are bytes of a write that failed, and the file could not be cut */
    _Atomic apr_time_t first; /* steady clock: of the first entry in the segment, 0: there is none */
    apr_time_t unpublished;   /* wall clock: of the first entry after segments[last].end */
    cs_buf_t entry;

    int syncing;       /* a thread is in fdatasync, without the lock: no other file may take fd's place */
    uint64_t safe_end; /* this far it is on the disk */
    cs_tip_t safe_tip; /* and the chain's tip there */
    cs_round_t *round; /* of the next fdatasync; NULL: nobody waits */

    cs_done_t applied;        /* everything before its place is in the database */
    _Atomic int unsettled;    /* somebody relies on what he has just appended being found: no segment goes */
    _Atomic uint64_t pending; /* atomic: bytes published and not applied */
    _Atomic apr_time_t oldest;

    cs_scan_t scan;              /* reader: */
    cs_journal_place_t at;       /* reader: */
    cs_journal_place_t told;     /* reader: damage before it was told and set aside */
    cs_journal_place_t fact_end; /* reader: of the last fact; between it and `at` was nothing but damage */
    cs_tip_t fact_tip;           /* reader: the chain at fact_end */
};

/* An object without files. */
apr_status_t cs_journal_make(cs_journal_t **out, const cs_journal_options_t *options, char *error, size_t size);
void cs_journal_free(cs_journal_t *journal);
apr_status_t cs_journal_complain(char *error, size_t size, apr_status_t rv, const char *what,
                                 const cs_journal_t *journal, const char *file);

/* All under the lock. */
cs_segment_t *cs_journal_segment_add(cs_journal_t *journal, uint64_t number, uint64_t start, uint64_t end);
/* A new file to write to. On an error the old one is written on. */
apr_status_t cs_journal_segment_start(cs_journal_t *journal, uint64_t number);
/* Removes what is wholly applied, but never the last. */
void cs_journal_segments_drop(cs_journal_t *journal);
void cs_journal_count_pending(cs_journal_t *journal);
/* One fdatasync, by this thread or one that is at it. */
apr_status_t cs_journal_sync_step(cs_journal_t *journal);

/*
 * `anchored` (malloc'ed) are the chains named in `out`, the member "anchors" put into the JSON object `detail`.
 */
apr_status_t cs_journal_anchor(const cs_journal_t *journal, const cs_text_t *detail, cs_buf_t *out,
                               cs_head_t **anchored, size_t *count);
void cs_journal_anchored(cs_journal_t *journal, const cs_head_t *anchored, size_t count);

static inline int place_before(const cs_journal_place_t *a, const cs_journal_place_t *b)
{
    return a->segment < b->segment || (a->segment == b->segment && a->offset < b->offset);
}

#endif
