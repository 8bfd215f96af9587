/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal_adopt: a dead writer's chain goes on. Entries are never written behind those of the dead: the adopter starts a segment of its
 * own, so that whatever is wrong at the old end, and whatever .done says about it, cannot touch what is new.
 */
#include "journal_inner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "journal_survey.h"

/* What was found of one chain. */
typedef struct {
    cs_done_t done;
    uint64_t last;   /* the largest number of a segment there ever was, as far as known */
    int has_head;    /* node and arena are known */
    int has_tip;     /* where the chain stands is known */
    int has_ended;   /* there is a .head */
    int reusable;    /* the last segment is empty and as good as new */
    uint64_t broken; /* a segment that nothing can be made of; 0: none */
} find_t;

/* Under the lock on the chain, so its files do not change. `files` are the segments, ascending. */
static apr_status_t look_at_segment(cs_journal_t *journal, find_t *find, const cs_dir_file_t *file, int is_last)
{
    int fd = cs_dir_open_file(journal->dir, journal->chain, CS_FILE_SEGMENT, file->number, O_RDWR);
    cs_survey_t survey;
    apr_status_t rv;

    if (fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    /* Only the last one can be torn, and its tip is the chain's; the rest need not be read now. */
    rv = is_last || !find->has_tip ? cs_survey(&survey, fd, journal->chain, file->number)
                                   : cs_survey_head(&survey, fd, journal->chain, file->number);
    if (rv == APR_SUCCESS && survey.head_rv == APR_ENOTIMPL) {
        rv = APR_ENOTIMPL;
    }
    if (rv != APR_SUCCESS) {
        goto cleanup;
    }
    if (survey.head_rv != APR_SUCCESS && survey.size <= CS_SEGMENT_HEAD) {
        /* Killed before the head was written: nobody has written anything behind it. */
        find->broken = survey.size == CS_SEGMENT_HEAD ? file->number : find->broken;
        if (!find->broken) {
            cs_dir_unlink(journal->dir, journal->chain, CS_FILE_SEGMENT, file->number);
        }
        goto cleanup;
    }
    if (survey.head_rv == APR_SUCCESS && !find->has_head) {
        find->has_head = 1;
        journal->head.arena = survey.head.arena;
        memcpy(journal->head.node, survey.head.node, sizeof(journal->head.node));
    }
    if (survey.has_tip && (!find->has_tip || survey.tip.seq > journal->head.tip.seq)) {
        find->has_tip = 1;
        journal->head.tip = survey.tip;
    }
    if (is_last) {
        find->reusable = survey.head_rv == APR_SUCCESS && survey.torn == CS_SEGMENT_HEAD && !survey.facts;
        if (survey.torn < survey.size) {
            if (ftruncate(fd, (off_t)survey.torn) != 0) {
                rv = APR_FROM_OS_ERROR(errno);
                goto cleanup;
            }
            survey.size = survey.torn;
        }
    }
    if (journal->sync != CS_SYNC_OFF && fdatasync(fd) != 0) {
        rv = APR_FROM_OS_ERROR(errno);
        goto cleanup;
    }
    if (!cs_journal_segment_add(journal, file->number, survey.start, survey.size)) {
        rv = APR_ENOMEM;
    }
cleanup:
    close(fd);
    return rv;
}

static int compare_segments(const void *a, const void *b)
{
    const cs_segment_t *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

/* From the last backwards, until the tip is known. */
static apr_status_t look_at_chain(cs_journal_t *journal, find_t *find)
{
    cs_dir_file_t *files;
    size_t count;
    apr_status_t rv = cs_dir_list(journal->dir, &files, &count);
    int is_last = 1;

    memset(find, 0, sizeof(*find));
    cs_dir_done_read(journal->dir, journal->chain, &find->done);
    find->last = find->done.place.segment;
    for (size_t i = count; rv == APR_SUCCESS && i--;) {
        if (strcmp(files[i].chain, journal->chain) != 0) {
            continue;
        }
        if (files[i].type == CS_FILE_HEAD) {
            find->has_ended = 1;
        }
        else if (files[i].type == CS_FILE_SEGMENT) {
            if (files[i].number > find->last) {
                find->last = files[i].number;
            }
            rv = look_at_segment(journal, find, &files[i], is_last);
            is_last = is_last && !journal->count;
        }
    }
    free(files);
    if (journal->count) {
        qsort(journal->segments, journal->count, sizeof(*journal->segments), compare_segments);
        /* One that was in the way of a new segment, or that .done has passed, is not written to. */
        find->reusable = find->reusable && journal->segments[journal->count - 1].number == find->last
                         && (find->done.place.segment < find->last || find->done.place.offset <= CS_SEGMENT_HEAD);
    }
    if (find->done.tip.seq && (!find->has_tip || find->done.tip.seq > journal->head.tip.seq)) {
        /* Rows the database has must not get their numbers again, also when the journal has lost them. */
        find->has_tip = 1;
        journal->head.tip = find->done.tip;
    }
    return rv;
}

/* Its segments are gone, or never were: whoever had it died while it made or removed the files. */
static void bury(cs_journal_t *journal, const find_t *find)
{
    if (journal->head.tip.seq && !find->has_ended) {
        cs_head_t head = {.seq = journal->head.tip.seq};

        memcpy(head.chain, journal->chain, sizeof(head.chain));
        memcpy(head.hash, journal->head.tip.hash, sizeof(head.hash));
        if (cs_dir_head_write(journal->dir, &head, journal->sync) != APR_SUCCESS) {
            return; /* next time */
        }
    }
    cs_dir_unlink(journal->dir, journal->chain, CS_FILE_DONE, 0);
    cs_dir_unlink(journal->dir, journal->chain, CS_FILE_LOCK, 0);
}

/* Nobody can tell where the chain stands. Its files are kept under names that nobody adopts. */
static apr_status_t put_away(cs_journal_t *journal, const find_t *find, char *error, size_t size)
{
    char name[CS_FILE_NAME], kept[CS_FILE_NAME + 16];

    if (find->broken) {
        cs_journal_segment_add(journal, find->broken, 0, 0);
    }
    for (size_t i = 0; i < journal->count; i++) {
        cs_dir_name(name, journal->chain, CS_FILE_SEGMENT, journal->segments[i].number);
        snprintf(kept, sizeof(kept), "%s.corrupt", name);
        if (renameat(journal->dir, name, journal->dir, kept) != 0) {
            return cs_journal_complain(error, size, APR_FROM_OS_ERROR(errno), "cannot rename", journal, name);
        }
        snprintf(error, size, "%s/%s has no readable head: set aside as %s", journal->path, name, kept);
    }
    bury(journal, find);
    return APR_EGENERAL;
}

/* The rest of a chain whose lock this process holds. */
static apr_status_t take_over(cs_journal_t *journal, char *error, size_t size)
{
    apr_status_t rv;
    find_t find;

    rv = look_at_chain(journal, &find);
    if (rv != APR_SUCCESS) {
        return cs_journal_complain(error, size, rv, "cannot take over", journal, journal->chain);
    }
    if (find.broken || (journal->count && !find.has_tip)) {
        /* A broken last one is the crash of a rotation when the one before it is there. */
        if (!find.has_tip) {
            return put_away(journal, &find, error, size);
        }
        cs_dir_unlink(journal->dir, journal->chain, CS_FILE_SEGMENT, find.broken);
    }
    if (!journal->count) {
        bury(journal, &find);
        return APR_NOTFOUND;
    }
    journal->applied = find.done;
    if (find.reusable) {
        journal->fd = cs_dir_open_file(journal->dir, journal->chain, CS_FILE_SEGMENT, find.last, O_RDWR);
        rv = journal->fd < 0 ? APR_FROM_OS_ERROR(errno) : APR_SUCCESS;
        journal->head.number = find.last;
        journal->end = journal->safe_end = CS_SEGMENT_HEAD;
        journal->safe_tip = journal->head.tip;
    }
    else {
        rv = cs_journal_segment_start(journal, find.last + 1);
    }
    if (rv != APR_SUCCESS) {
        return cs_journal_complain(error, size, rv, "cannot write a segment for", journal, journal->chain);
    }
    cs_dir_unlink(journal->dir, journal->chain, CS_FILE_HEAD, 0);
    if (!journal->applied.generation) {
        journal->applied.place = (cs_journal_place_t){journal->segments[0].number, 0};
    }
    /* Segments that are applied stay for now: the dead may have died before he had settled what is in them. */
    cs_journal_count_pending(journal);
    cs_journal_rewind(journal);
    return APR_SUCCESS;
}

apr_status_t cs_journal_adopt(cs_journal_t **out, const cs_journal_options_t *options, char *error, size_t size)
{
    cs_journal_t *journal;
    cs_dir_file_t *files;
    size_t count;
    apr_status_t rv = cs_journal_make(&journal, options, error, size), later = APR_NOTFOUND;
    char tried[CS_UUID_LEN + 1] = "";

    *out = NULL;
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *error = '\0';
    rv = cs_dir_list(journal->dir, &files, &count);
    if (rv != APR_SUCCESS) {
        cs_journal_complain(error, size, rv, "cannot read", journal, "");
    }
    for (size_t i = 0; rv == APR_SUCCESS && i < count; i++) {
        if (!strcmp(files[i].chain, tried) || files[i].type == CS_FILE_HEAD) {
            continue;
        }
        memcpy(tried, files[i].chain, sizeof(tried));
        memcpy(journal->chain, tried, sizeof(journal->chain));
        cs_uuid_parse(&journal->head.chain, tried, CS_UUID_LEN);
        rv = cs_dir_lock(&journal->lock_fd, journal->dir, tried);
        if (rv == APR_EBUSY) {
            rv = APR_SUCCESS; /* it lives */
            continue;
        }
        rv = rv == APR_SUCCESS ? take_over(journal, error, size)
                               : cs_journal_complain(error, size, rv, "cannot lock", journal, tried);
        if (rv == APR_SUCCESS) {
            *out = journal;
            break;
        }
        cs_journal_free(journal);
        journal = NULL;
        if (rv == APR_EGENERAL) {
            break; /* was set aside: said once */
        }
        /* One that cannot be taken now, or that a newer version wrote, must not keep the others waiting. */
        later = rv == APR_NOTFOUND ? later : rv;
        rv = cs_journal_make(&journal, options, error + strlen(error), 0);
    }
    free(files);
    if (!*out) {
        if (journal) {
            cs_journal_free(journal);
        }
        rv = rv == APR_SUCCESS ? later : rv;
    }
    return rv;
}
