/* SPDX-License-Identifier: Apache-2.0 */
/* journal: the life of one, and appending. */
#include "journal_inner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Past this a segment is left even when facts in it wait: what follows can be removed sooner. */
#define SEGMENT_LARGE ((uint64_t)16 * 1024 * 1024)

apr_status_t cs_journal_complain(char *error, size_t size, apr_status_t rv, const char *what,
                                 const cs_journal_t *journal, const char *file)
{
    char why[120];

    snprintf(error, size, "%s %s/%s: %s", what, journal->path, file, apr_strerror(rv, why, sizeof(why)));
    return rv;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

apr_status_t cs_journal_make(cs_journal_t **out, const cs_journal_options_t *options, char *error, size_t size)
{
    cs_journal_t *journal;
    const char *node = options->node ? options->node : "";
    apr_status_t rv;

    *out = NULL;
    if (strlen(node) >= sizeof(journal->head.node)) {
        snprintf(error, size, "the node's name is longer than 255 bytes");
        return APR_EINVAL;
    }
    journal = calloc(1, sizeof(*journal));
    if (!journal || !(journal->path = strdup(options->dir))) {
        free(journal);
        snprintf(error, size, "no memory");
        return APR_ENOMEM;
    }
    pthread_mutex_init(&journal->lock, NULL);
    pthread_cond_init(&journal->synced, NULL);
    journal->lock_fd = journal->fd = journal->done_fd = -1;
    journal->sync = options->sync;
    journal->head.arena = options->arena;
    memcpy(journal->head.node, node, strlen(node) + 1);
    cs_tip_init(&journal->head.tip);
    cs_tip_init(&journal->safe_tip);
    cs_tip_init(&journal->applied.tip);
    cs_tip_init(&journal->fact_tip);
    cs_buf_init(&journal->entry, CS_ENTRY_HEAD + CS_FACT_MAX);
    cs_scan_init(&journal->scan, -1, 0, 0);
    rv = cs_dir_open(&journal->dir, options->dir);
    if (rv != APR_SUCCESS) {
        cs_journal_complain(error, size, rv, "cannot open", journal, "");
        cs_journal_free(journal);
        return rv;
    }
    *out = journal;
    return APR_SUCCESS;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void cs_journal_free(cs_journal_t *journal)
{
    close_fd(journal->scan.fd);
    cs_scan_free(&journal->scan);
    close_fd(journal->fd);
    close_fd(journal->done_fd);
    close_fd(journal->dir);
    close_fd(journal->lock_fd); /* last: from here on it is another's */
    free(journal->round);
    cs_buf_free(&journal->entry);
    free(journal->segments);
    free(journal->path);
    pthread_cond_destroy(&journal->synced);
    pthread_mutex_destroy(&journal->lock);
    free(journal);
}

apr_status_t cs_journal_create(cs_journal_t **out, const cs_journal_options_t *options, char *error, size_t size)
{
    apr_status_t rv = cs_journal_make(out, options, error, size);
    cs_journal_t *journal = *out;
    char name[CS_FILE_NAME];

    if (rv != APR_SUCCESS) {
        return rv;
    }
    /* Somebody who looks for chains to adopt may lock the new file first, and remove it: then another name. */
    do {
        rv = cs_uuid7_make(&journal->head.chain, apr_time_now());
        cs_uuid_format(journal->chain, &journal->head.chain);
        if (rv == APR_SUCCESS) {
            rv = cs_dir_lock(&journal->lock_fd, journal->dir, journal->chain);
        }
    } while (rv == APR_EBUSY);
    if (rv != APR_SUCCESS) {
        cs_journal_complain(error, size, rv, "cannot lock", journal,
                            cs_dir_name(name, journal->chain, CS_FILE_LOCK, 0));
        cs_journal_free(journal);
        *out = NULL;
        return rv;
    }
    rv = cs_journal_segment_start(journal, 1);
    if (rv != APR_SUCCESS) {
        cs_journal_complain(error, size, rv, "cannot write", journal,
                            cs_dir_name(name, journal->chain, CS_FILE_SEGMENT, 1));
        cs_dir_unlink(journal->dir, journal->chain, CS_FILE_LOCK, 0);
        cs_journal_free(journal);
        *out = NULL;
        return rv;
    }
    journal->at.segment = journal->applied.place.segment = 1;
    journal->at.offset = journal->applied.place.offset = CS_SEGMENT_HEAD;
    journal->fact_end = journal->at;
    return APR_SUCCESS;
}

const char *cs_journal_chain(const cs_journal_t *journal)
{
    return journal->chain;
}

const cs_uuid_t *cs_journal_arena(const cs_journal_t *journal)
{
    return &journal->head.arena;
}

static int is_stood_on(const cs_journal_t *journal)
{
    char name[CS_FILE_NAME];

    snprintf(name, sizeof(name), "%s.open", journal->chain);
    return faccessat(journal->dir, name, F_OK, 0) == 0;
}

void cs_journal_close(cs_journal_t *journal)
{
    const cs_tip_t *tip;
    int whole = 1;

    if (!journal) {
        return;
    }
    tip = &journal->head.tip;
    for (size_t i = 0; i < journal->count; i++) {
        whole = whole && !journal->segments[i].keep;
    }
    if (journal->pending || journal->leftover || !whole || is_stood_on(journal)) {
        cs_journal_sync(journal);
        cs_journal_free(journal);
        return;
    }
    if (tip->seq) {
        cs_head_t head = {.seq = tip->seq};

        memcpy(head.chain, journal->chain, sizeof(head.chain));
        memcpy(head.hash, tip->hash, sizeof(head.hash));
        if (cs_dir_head_write(journal->dir, &head, journal->sync) != APR_SUCCESS) {
            /* Without it the head would be forgotten: somebody else tries. */
            cs_journal_free(journal);
            return;
        }
    }
    /* Whoever dies in between leaves what adopt cleans up: .done covers the segments that are left. */
    for (size_t i = 0; i < journal->count; i++) {
        cs_dir_unlink(journal->dir, journal->chain, CS_FILE_SEGMENT, journal->segments[i].number);
    }
    cs_dir_unlink(journal->dir, journal->chain, CS_FILE_DONE, 0);
    cs_dir_unlink(journal->dir, journal->chain, CS_FILE_LOCK, 0);
    cs_journal_free(journal);
}

/* ---- what is on the disk ----------------------------------------------------------------------------------------- */

/* Readers may go up to `end`. */
static void publish(cs_journal_t *journal, uint64_t end)
{
    cs_segment_t *last = &journal->segments[journal->count - 1];

    journal->pending += end - last->end;
    if (!journal->oldest && end > last->end) {
        journal->oldest = journal->unpublished;
    }
    last->end = end;
}

/* Everything after `end` goes, and the chain with it. */
static void take_back(cs_journal_t *journal, uint64_t end, const cs_tip_t *tip)
{
    journal->end = end;
    journal->head.tip = *tip;
    journal->leftover = ftruncate(journal->fd, (off_t)end) != 0;
}

static void finish(cs_round_t *round, apr_status_t rv)
{
    if (round && !round->waiters) {
        free(round);
    }
    else if (round) {
        round->rv = rv;
        round->done = 1;
    }
}

apr_status_t cs_journal_sync_step(cs_journal_t *journal)
{
    cs_round_t *round;
    uint64_t end = journal->end;
    cs_tip_t tip = journal->head.tip;
    apr_status_t rv;

    if (journal->syncing) {
        pthread_cond_wait(&journal->synced, &journal->lock);
        return APR_SUCCESS;
    }
    round = journal->round;
    journal->round = NULL;
    journal->syncing = 1;
    pthread_mutex_unlock(&journal->lock);
    rv = fdatasync(journal->fd) == 0 ? APR_SUCCESS : APR_FROM_OS_ERROR(errno);
    pthread_mutex_lock(&journal->lock);
    journal->syncing = 0;
    if (rv == APR_SUCCESS) {
        journal->safe_end = end;
        journal->safe_tip = tip;
        if (journal->sync == CS_SYNC_ALWAYS) {
            publish(journal, end);
            journal->unpublished = apr_time_now();
        }
    }
    else if (journal->sync == CS_SYNC_ALWAYS) {
        /* Nobody knows what is on the disk since the last one: all of it goes, also what was written meanwhile. */
        take_back(journal, journal->safe_end, &journal->safe_tip);
        finish(journal->round, rv);
        journal->round = NULL;
    }
    finish(round, rv);
    pthread_cond_broadcast(&journal->synced);
    return rv;
}

/* Everything written so far is on the disk, and nobody is in fdatasync. */
static apr_status_t settle(cs_journal_t *journal)
{
    apr_status_t rv = APR_SUCCESS;

    while (rv == APR_SUCCESS
           && (journal->syncing || (journal->sync != CS_SYNC_OFF && journal->safe_end < journal->end))) {
        rv = cs_journal_sync_step(journal);
    }
    return rv;
}

apr_status_t cs_journal_sync(cs_journal_t *journal)
{
    apr_status_t rv = APR_SUCCESS;
    uint64_t number, end;

    pthread_mutex_lock(&journal->lock);
    number = journal->head.number;
    end = journal->end;
    /* A rotation has synced what it left. */
    while (rv == APR_SUCCESS && journal->head.number == number && journal->safe_end < end
           && journal->safe_end < journal->end) {
        rv = cs_journal_sync_step(journal);
    }
    pthread_mutex_unlock(&journal->lock);
    return rv;
}

/* ---- segments ---------------------------------------------------------------------------------------------------- */

cs_segment_t *cs_journal_segment_add(cs_journal_t *journal, uint64_t number, uint64_t start, uint64_t end)
{
    cs_segment_t *more = realloc(journal->segments, (journal->count + 1) * sizeof(*more));

    if (!more) {
        return NULL;
    }
    journal->segments = more;
    more += journal->count++;
    *more = (cs_segment_t){number, start, end, 0};
    return more;
}

apr_status_t cs_journal_segment_start(cs_journal_t *journal, uint64_t number)
{
    cs_segment_head_t head = journal->head;
    char bytes[CS_SEGMENT_HEAD];
    apr_status_t rv;
    int fd;

    head.number = number;
    head.created = apr_time_now();
    cs_segment_head_put(bytes, &head);
    fd = cs_dir_open_file(journal->dir, journal->chain, CS_FILE_SEGMENT, number, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    rv = cs_dir_write(fd, bytes, sizeof(bytes), 0);
    if (rv == APR_SUCCESS && journal->sync != CS_SYNC_OFF && (fdatasync(fd) != 0 || fsync(journal->dir) != 0)) {
        rv = APR_FROM_OS_ERROR(errno);
    }
    if (rv == APR_SUCCESS && !cs_journal_segment_add(journal, number, CS_SEGMENT_HEAD, CS_SEGMENT_HEAD)) {
        rv = APR_ENOMEM;
    }
    if (rv != APR_SUCCESS) {
        close(fd);
        cs_dir_unlink(journal->dir, journal->chain, CS_FILE_SEGMENT, number);
        return rv;
    }
    close_fd(journal->fd);
    journal->fd = fd;
    journal->head = head;
    journal->end = journal->safe_end = CS_SEGMENT_HEAD;
    journal->safe_tip = head.tip;
    journal->first = 0;
    return APR_SUCCESS;
}

void cs_journal_segments_drop(cs_journal_t *journal)
{
    const cs_journal_place_t *place = &journal->applied.place;
    size_t gone = 0;

    while (!journal->unsettled && gone + 1 < journal->count) {
        const cs_segment_t *segment = &journal->segments[gone];
        cs_journal_place_t end = {segment->number, segment->end};

        if (place_before(place, &end)) {
            break;
        }
        if (segment->keep) {
            char name[CS_FILE_NAME], kept[CS_FILE_NAME + 16];

            cs_dir_name(name, journal->chain, CS_FILE_SEGMENT, segment->number);
            snprintf(kept, sizeof(kept), "%s.corrupt", name);
            renameat(journal->dir, name, journal->dir, kept);
        }
        else {
            cs_dir_unlink(journal->dir, journal->chain, CS_FILE_SEGMENT, segment->number);
        }
        gone++;
    }
    if (gone) {
        journal->count -= gone;
        memmove(journal->segments, journal->segments + gone, journal->count * sizeof(*journal->segments));
    }
}

/* ---- append ------------------------------------------------------------------------------------------------------ */

static int wants_audit(const cs_fact_t *fact)
{
    return fact->text[CS_TXT_EVENT].data && fact->number[CS_NUM_WANTS] & CS_WANT_AUDIT;
}

static apr_status_t write_entry(cs_journal_t *journal, const cs_fact_t *fact, apr_time_t now)
{
    static const char room[CS_ENTRY_HEAD];
    cs_buf_t *entry = &journal->entry;
    apr_status_t rv;

    if (journal->sync == CS_SYNC_ALWAYS && !journal->round && !(journal->round = calloc(1, sizeof(cs_round_t)))) {
        return APR_ENOMEM;
    }
    entry->len = 0;
    if ((rv = cs_buf_append(entry, room, sizeof(room))) != APR_SUCCESS
        || (rv = cs_fact_encode(fact, entry)) != APR_SUCCESS) {
        return rv;
    }
    cs_entry_head_put(entry->data, entry->data + CS_ENTRY_HEAD, entry->len - CS_ENTRY_HEAD, now);
    rv = cs_dir_write(journal->fd, entry->data, entry->len, journal->end);
    if (rv != APR_SUCCESS) {
        take_back(journal, journal->end, &journal->head.tip);
        return rv;
    }
    if (!journal->first) {
        journal->first = cs_clock_mono();
    }
    if (journal->end == journal->segments[journal->count - 1].end) {
        journal->unpublished = now;
    }
    journal->end += entry->len;
    if (fact->link.seq) {
        cs_tip_of(&journal->head.tip, &fact->link);
    }
    if (entry->cap > 1024 * 1024) {
        cs_buf_free(entry);
    }
    return APR_SUCCESS;
}

/* Returns when it is decided. */
static apr_status_t wait_synced(cs_journal_t *journal)
{
    cs_round_t *round = journal->round; /* write_entry made it; whoever leaves it last frees it */
    apr_status_t rv;

    round->waiters++;
    while (!round->done) {
        cs_journal_sync_step(journal);
    }
    rv = round->rv;
    if (!--round->waiters) {
        free(round);
    }
    return rv;
}

static apr_status_t append_locked(cs_journal_t *journal, cs_fact_t *fact)
{
    cs_fact_t linked = *fact;
    apr_time_t now = apr_time_now();
    cs_head_t *anchored = NULL;
    size_t count = 0;
    cs_buf_t detail;
    apr_status_t rv = APR_SUCCESS;

    cs_buf_init(&detail, CS_FACT_MAX);
    memset(&linked.link, 0, sizeof(linked.link));
    if (journal->leftover && (journal->leftover = ftruncate(journal->fd, (off_t)journal->end) != 0)) {
        return APR_FROM_OS_ERROR(errno);
    }
    if (journal->end > SEGMENT_LARGE && settle(journal) == APR_SUCCESS && journal->end > SEGMENT_LARGE) {
        /* When there is no room for another file, this one grows. */
        if (cs_journal_segment_start(journal, journal->head.number + 1) == APR_SUCCESS) {
            cs_journal_segments_drop(journal);
        }
    }
    if (wants_audit(fact)) {
        if (!journal->head.tip.seq) {
            rv = cs_journal_anchor(journal, &fact->text[CS_TXT_DETAIL], &detail, &anchored, &count);
            linked.text[CS_TXT_DETAIL] = (cs_text_t){detail.data, detail.len};
        }
        if (rv == APR_SUCCESS) {
            rv = cs_chain_link(&linked.link, journal->chain, &journal->head.tip, &linked, now);
        }
    }
    if (rv == APR_SUCCESS) {
        rv = write_entry(journal, &linked, now);
    }
    if (rv == APR_SUCCESS) {
        if (journal->sync == CS_SYNC_ALWAYS) {
            rv = wait_synced(journal);
        }
        else {
            publish(journal, journal->end);
        }
    }
    if (rv == APR_SUCCESS) {
        fact->link = linked.link;
        if (count && settle(journal) == APR_SUCCESS) {
            cs_journal_anchored(journal, anchored, count);
        }
    }
    free(anchored);
    cs_buf_free(&detail);
    return rv;
}

apr_status_t cs_journal_append(cs_journal_t *journal, cs_fact_t *fact)
{
    apr_status_t rv;

    pthread_mutex_lock(&journal->lock);
    rv = append_locked(journal, fact);
    pthread_mutex_unlock(&journal->lock);
    return rv;
}

void cs_journal_unsettled(cs_journal_t *journal)
{
    pthread_mutex_lock(&journal->lock);
    journal->unsettled = 1;
    pthread_mutex_unlock(&journal->lock);
}

void cs_journal_settled(cs_journal_t *journal)
{
    pthread_mutex_lock(&journal->lock);
    journal->unsettled = 0;
    cs_journal_segments_drop(journal); /* what became due in between */
    pthread_mutex_unlock(&journal->lock);
}
