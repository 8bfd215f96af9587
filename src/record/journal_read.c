/* SPDX-License-Identifier: Apache-2.0 */
/* journal_read: the way of facts out of the journal, and what happens to segments behind it. */
#include "journal_inner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A segment that is wholly applied goes when it is larger, or older, than this. */
enum { SEGMENT_SMALL = 64 * 1024, SEGMENT_OLD = APR_USEC_PER_SEC };

static void close_scan(cs_journal_t *journal)
{
    if (journal->scan.fd >= 0) {
        close(journal->scan.fd);
        journal->scan.fd = -1;
    }
    cs_scan_free(&journal->scan);
}

/* The first segment that is not before `place`; NULL: none. */
static cs_segment_t *find_segment(cs_journal_t *journal, const cs_journal_place_t *place)
{
    for (size_t i = 0; i < journal->count; i++) {
        if (journal->segments[i].number >= place->segment) {
            return &journal->segments[i];
        }
    }
    return NULL;
}

/*
 * Moves `at` to where the next bytes are and lets the scan see as far as was published. 0: nothing more now.
 *
 * A row in the database must not be ahead of the journal on the disk: after a power failure the chain would go on before it and use
 * its numbers again. So what SECOND has not synced yet is synced here, once for each batch.
 */
static int more(cs_journal_t *journal, apr_status_t *rv)
{
    cs_segment_t *segment;
    uint64_t limit = 0;
    int last = 0;

    *rv = APR_SUCCESS;
    pthread_mutex_lock(&journal->lock);
    while ((segment = find_segment(journal, &journal->at)) != NULL) {
        last = segment == &journal->segments[journal->count - 1];
        limit = segment->end;
        if (segment->number > journal->at.segment || journal->at.offset < segment->start) {
            journal->at = (cs_journal_place_t){segment->number, segment->start};
            close_scan(journal);
        }
        if (journal->at.offset < limit || last) {
            break;
        }
        journal->at = (cs_journal_place_t){segment->number + 1, 0};
        close_scan(journal);
    }
    if (segment && last && journal->sync == CS_SYNC_SECOND && journal->at.offset < limit) {
        uint64_t number = segment->number;

        while (journal->head.number == number && journal->safe_end < limit
               && cs_journal_sync_step(journal) == APR_SUCCESS) {}
    }
    pthread_mutex_unlock(&journal->lock);
    if (!segment || journal->at.offset >= limit) {
        return 0;
    }
    if (journal->scan.fd < 0) {
        int fd = cs_dir_open_file(journal->dir, journal->chain, CS_FILE_SEGMENT, journal->at.segment, O_RDONLY);

        if (fd < 0) {
            *rv = APR_FROM_OS_ERROR(errno);
            return 0;
        }
        cs_scan_init(&journal->scan, fd, journal->at.offset, limit);
    }
    journal->scan.limit = limit;
    return 1;
}

/* What is wrong goes to <chain>.corrupt, each piece after a line that says where it was. */
static apr_status_t set_aside(cs_journal_t *journal, const char *name, const cs_span_t *span)
{
    char to[CS_FILE_NAME], line[160], bytes[8192];
    apr_status_t rv = APR_SUCCESS;
    off_t end;
    int fd;

    snprintf(to, sizeof(to), "%s.corrupt", journal->chain);
    fd = openat(journal->dir, to, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    end = lseek(fd, 0, SEEK_END);
    snprintf(line, sizeof(line), "\n%s offset %" PRIu64 " bytes %" PRIu64 "\n", name, span->from,
             span->to - span->from);
    rv = end < 0 ? APR_FROM_OS_ERROR(errno) : cs_dir_write(fd, line, strlen(line), (uint64_t)end);
    end += (off_t)strlen(line);
    for (uint64_t at = span->from; rv == APR_SUCCESS && at < span->to;) {
        size_t want = span->to - at < sizeof(bytes) ? span->to - at : sizeof(bytes);
        ssize_t got = pread(journal->scan.fd, bytes, want, (off_t)at);

        if (got <= 0) {
            rv = got ? APR_FROM_OS_ERROR(errno) : APR_EOF;
            break;
        }
        rv = cs_dir_write(fd, bytes, (size_t)got, (uint64_t)end);
        at += (uint64_t)got;
        end += got;
    }
    if (rv == APR_SUCCESS && journal->sync != CS_SYNC_OFF && fsync(fd) != 0) {
        rv = APR_FROM_OS_ERROR(errno);
    }
    close(fd);
    return rv;
}

/* 0: it was told before. */
static int tell(cs_journal_t *journal, const cs_span_t *span, char *error, size_t size)
{
    cs_journal_place_t from = {journal->at.segment, span->from};
    char name[CS_FILE_NAME], why[120];
    apr_status_t rv;

    if (place_before(&from, &journal->told)) {
        return 0;
    }
    cs_dir_name(name, journal->chain, CS_FILE_SEGMENT, from.segment);
    rv = set_aside(journal, name, span);
    journal->told = (cs_journal_place_t){from.segment, span->to};
    if (rv == APR_SUCCESS) {
        snprintf(error, size, "%s/%s: %" PRIu64 " bytes at offset %" PRIu64 " are corrupt, set aside in %s.corrupt",
                 journal->path, name, span->to - span->from, span->from, journal->chain);
    }
    else {
        cs_segment_t *segment;

        pthread_mutex_lock(&journal->lock);
        segment = find_segment(journal, &from);
        if (segment && segment->number == from.segment) {
            segment->keep = 1;
        }
        pthread_mutex_unlock(&journal->lock);
        snprintf(error, size,
                 "%s/%s: %" PRIu64 " bytes at offset %" PRIu64
                 " are corrupt and cannot be set aside (%s): the file is kept",
                 journal->path, name, span->to - span->from, span->from, apr_strerror(rv, why, sizeof(why)));
    }
    return 1;
}

cs_journal_read_e cs_journal_read(cs_journal_t *journal, cs_fact_t *fact, cs_journal_place_t *after, char *error,
                                  size_t size)
{
    char name[CS_FILE_NAME], why[120];
    apr_status_t rv;
    cs_span_t span;
    cs_scan_e got;

    if (size) {
        *error = '\0';
    }
    for (;;) {
        if ((journal->scan.fd < 0 || journal->scan.at >= journal->scan.limit) && !more(journal, &rv)) {
            got = rv == APR_SUCCESS ? CS_SCAN_END : CS_SCAN_FAILED;
        }
        else {
            got = cs_scan_next(&journal->scan, fact, &span);
            rv = journal->scan.rv;
        }
        switch (got) {
        case CS_SCAN_FACT:
            journal->at.offset = span.to;
            journal->fact_end = journal->at;
            if (fact->link.seq > journal->fact_tip.seq) {
                cs_tip_of(&journal->fact_tip, &fact->link);
            }
            *after = journal->at;
            return CS_JOURNAL_FACT;
        case CS_SCAN_TORN:
            /* A writer's own end was cut away when the chain was adopted: this is within. */
            journal->scan.at = span.to;
            /* fall through */
        case CS_SCAN_CORRUPT: {
            int told = !tell(journal, &span, error, size);

            journal->at.offset = span.to;
            *after = journal->at;
            if (!told) {
                return CS_JOURNAL_CORRUPT;
            }
            continue;
        }
        case CS_SCAN_FAILED:
            /* Of the system; it may pass. Nothing is skipped. */
            snprintf(error, size, "cannot read %s/%s: %s", journal->path,
                     cs_dir_name(name, journal->chain, CS_FILE_SEGMENT, journal->at.segment),
                     apr_strerror(rv, why, sizeof(why)));
            return CS_JOURNAL_END;
        default:
            return CS_JOURNAL_END;
        }
    }
}

void cs_journal_rewind(cs_journal_t *journal)
{
    close_scan(journal);
    journal->at = journal->fact_end = journal->applied.place;
    journal->fact_tip = journal->applied.tip;
}

/* ---- applied ----------------------------------------------------------------------------------------------------- */

/* When the entry at `place` was appended; a place within damage: not known, so now. */
static apr_time_t appended_at(const cs_journal_t *journal, const cs_journal_place_t *place)
{
    int fd = cs_dir_open_file(journal->dir, journal->chain, CS_FILE_SEGMENT, place->segment, O_RDONLY);
    char bytes[CS_ENTRY_HEAD];
    apr_time_t at = apr_time_now();
    cs_entry_head_t head;

    if (fd >= 0) {
        if (pread(fd, bytes, sizeof(bytes), (off_t)place->offset) == sizeof(bytes) && cs_entry_head_get(&head, bytes)) {
            at = head.at;
        }
        close(fd);
    }
    return at;
}

void cs_journal_count_pending(cs_journal_t *journal)
{
    cs_journal_place_t first = {0, 0};
    uint64_t pending = 0;

    for (size_t i = 0; i < journal->count; i++) {
        const cs_segment_t *segment = &journal->segments[i];
        const cs_journal_place_t *place = &journal->applied.place;
        uint64_t from = segment->start;

        if (segment->number < place->segment) {
            continue;
        }
        if (segment->number == place->segment && place->offset > from) {
            from = place->offset;
        }
        if (from < segment->end) {
            if (!pending) {
                first = (cs_journal_place_t){segment->number, from};
            }
            pending += segment->end - from;
        }
    }
    journal->oldest = pending ? appended_at(journal, &first) : 0;
    journal->pending = pending;
}

static apr_status_t write_done(cs_journal_t *journal)
{
    apr_status_t rv;

    if (journal->done_fd < 0) {
        journal->done_fd = cs_dir_open_file(journal->dir, journal->chain, CS_FILE_DONE, 0, O_RDWR | O_CREAT);
        if (journal->done_fd < 0) {
            return APR_FROM_OS_ERROR(errno);
        }
    }
    rv = cs_dir_done_write(journal->done_fd, &journal->applied);
    if (rv == APR_SUCCESS && journal->sync == CS_SYNC_ALWAYS && fdatasync(journal->done_fd) != 0) {
        rv = APR_FROM_OS_ERROR(errno);
    }
    return rv;
}

apr_status_t cs_journal_applied(cs_journal_t *journal, const cs_journal_place_t *asked)
{
    cs_journal_place_t place = *asked;
    apr_status_t rv = APR_SUCCESS;

    if (place_before(&journal->at, &place)) {
        return APR_EINVAL; /* nobody has read that far */
    }
    pthread_mutex_lock(&journal->lock);
    if (!place_before(&place, &journal->fact_end) || !place_before(&journal->applied.place, &journal->fact_end)) {
        place = journal->at; /* no fact lies in between: what was damaged there has been told, and is over, too */
    }
    if (place_before(&journal->applied.place, &place)) {
        journal->applied.place = place;
        if (!place_before(&place, &journal->fact_end)) {
            journal->applied.tip = journal->fact_tip;
        }
        rv = write_done(journal);
        cs_journal_count_pending(journal);
        cs_journal_segments_drop(journal);
    }
    /* A failure leaves the file for the next call, which comes within a second. */
    if (!journal->pending && journal->first && !journal->syncing
        && journal->end == journal->segments[journal->count - 1].end
        && (journal->end > SEGMENT_SMALL || cs_clock_mono() - journal->first >= SEGMENT_OLD)
        && cs_journal_segment_start(journal, journal->head.number + 1) == APR_SUCCESS) {
        cs_journal_segments_drop(journal);
    }
    pthread_mutex_unlock(&journal->lock);
    return rv;
}

uint64_t cs_journal_pending(const cs_journal_t *journal, apr_time_t *oldest)
{
    if (oldest) {
        *oldest = journal->oldest;
    }
    return journal->pending;
}

void cs_journal_tick(cs_journal_t *journal)
{
    cs_journal_place_t place;

    if (journal->first) { /* without the lock: looked at again with it, and in the next tick */
        pthread_mutex_lock(&journal->lock);
        place = journal->applied.place;
        pthread_mutex_unlock(&journal->lock);
        cs_journal_applied(journal, &place);
    }
}
