/* SPDX-License-Identifier: Apache-2.0 */
/* journal_list: a directory's facts from outside, read only and without locks: writers may be at work. */
#include "journal_inner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "journal_survey.h"

typedef int list_fn(void *baton, const char *chain, const cs_journal_place_t *place, const cs_fact_t *fact, int applied,
                    const char *note);

/* 1: `fn` wants no more. */
static int list_segment(int fd, const cs_dir_file_t *file, const cs_done_t *done, list_fn *fn, void *baton,
                        apr_status_t *rv)
{
    char name[CS_FILE_NAME], note[200];
    int stop = 0;
    cs_survey_t survey;
    cs_scan_e got;
    cs_scan_t scan;
    cs_span_t span;
    cs_fact_t fact;

    *rv = cs_survey_head(&survey, fd, file->chain, file->number);
    if (*rv != APR_SUCCESS || survey.size == 0) {
        return 0;
    }
    cs_dir_name(name, file->chain, file->type, file->number);
    if (survey.head_rv == APR_ENOTIMPL) {
        cs_journal_place_t place = {file->number, 0};

        snprintf(note, sizeof(note), "%s was written by a later version", name);
        return fn(baton, file->chain, &place, NULL, 0, note);
    }
    cs_scan_init(&scan, fd, survey.start, survey.size);
    do {
        cs_journal_place_t place = {file->number, 0};
        int applied;

        got = cs_scan_next(&scan, &fact, &span);
        place.offset = span.to;
        applied = done->generation && !place_before(&done->place, &place);
        if (got == CS_SCAN_FACT) {
            stop = fn(baton, file->chain, &place, &fact, applied, NULL);
        }
        else if (got == CS_SCAN_TORN) {
            stop = fn(baton, file->chain, &place, NULL, applied, "torn");
        }
        else if (got == CS_SCAN_CORRUPT) {
            snprintf(note, sizeof(note), "%s: %" PRIu64 " bytes at offset %" PRIu64 " are corrupt", name,
                     span.to - span.from, span.from);
            stop = fn(baton, file->chain, &place, NULL, applied, note);
        }
        else if (got == CS_SCAN_FAILED) {
            *rv = scan.rv;
        }
    } while (!stop && (got == CS_SCAN_FACT || got == CS_SCAN_CORRUPT));
    cs_scan_free(&scan);
    return stop;
}

/* Segments in order with what .done says about them; `chain` NULL: of all. */
static apr_status_t each_segment(const char *path, const char *chain,
                                 int (*each)(int fd, const cs_dir_file_t *, const cs_done_t *, void *, apr_status_t *),
                                 void *baton, char *error, size_t size)
{
    char name[CS_FILE_NAME], why[120];
    cs_dir_file_t *files = NULL;
    size_t count = 0;
    apr_status_t rv;
    cs_done_t done;
    int dir, stop = 0;

    *name = '\0';
    if ((rv = cs_dir_open(&dir, path)) == APR_SUCCESS) {
        rv = cs_dir_list(dir, &files, &count);
    }
    for (size_t i = 0; rv == APR_SUCCESS && !stop && i < count; i++) {
        int fd;

        if (files[i].type != CS_FILE_SEGMENT || (chain && strcmp(chain, files[i].chain) != 0)) {
            continue;
        }
        if (i == 0 || strcmp(files[i - 1].chain, files[i].chain) != 0) {
            cs_dir_done_read(dir, files[i].chain, &done);
        }
        cs_dir_name(name, files[i].chain, CS_FILE_SEGMENT, files[i].number);
        fd = cs_dir_open_file(dir, files[i].chain, CS_FILE_SEGMENT, files[i].number, O_RDONLY);
        if (fd < 0) {
            /* Applied and removed since the directory was read. */
            rv = errno == ENOENT ? APR_SUCCESS : APR_FROM_OS_ERROR(errno);
            continue;
        }
        stop = each(fd, &files[i], &done, baton, &rv);
        close(fd);
    }
    if (rv != APR_SUCCESS) {
        snprintf(error, size, "cannot read %s/%s: %s", path, name, apr_strerror(rv, why, sizeof(why)));
    }
    free(files);
    if (dir >= 0) {
        close(dir);
    }
    return rv;
}

typedef struct {
    list_fn *fn;
    void *baton;
} list_t;

static int list_one(int fd, const cs_dir_file_t *file, const cs_done_t *done, void *baton, apr_status_t *rv)
{
    list_t *list = baton;

    return list_segment(fd, file, done, list->fn, list->baton, rv);
}

apr_status_t cs_journal_list(const char *dir,
                             int (*fn)(void *baton, const char *chain, const cs_journal_place_t *place,
                                       const cs_fact_t *fact, int applied, const char *note),
                             void *baton, char *error, size_t size)
{
    list_t list = {fn, baton};

    return each_segment(dir, NULL, list_one, &list, error, size);
}

apr_status_t cs_journal_each(const cs_journal_t *journal,
                             int (*fn)(void *baton, const char *chain, const cs_journal_place_t *place,
                                       const cs_fact_t *fact, int applied, const char *note),
                             void *baton, char *error, size_t size)
{
    list_t list = {fn, baton};

    return each_segment(journal->path, journal->chain, list_one, &list, error, size);
}

typedef struct {
    uint64_t bytes;
    apr_time_t oldest;
} usage_t;

static int use_one(int fd, const cs_dir_file_t *file, const cs_done_t *done, void *baton, apr_status_t *rv)
{
    usage_t *usage = baton;
    uint64_t from = CS_SEGMENT_HEAD;
    char bytes[CS_ENTRY_HEAD];
    cs_entry_head_t head;
    cs_survey_t survey;

    *rv = cs_survey_head(&survey, fd, file->chain, file->number);
    if (*rv != APR_SUCCESS || file->number < done->place.segment) {
        return 0;
    }
    if (file->number == done->place.segment && done->place.offset > from) {
        from = done->place.offset;
    }
    if (from < survey.size) {
        usage->bytes += survey.size - from;
        if (pread(fd, bytes, sizeof(bytes), (off_t)from) == sizeof(bytes) && cs_entry_head_get(&head, bytes)
            && (!usage->oldest || head.at < usage->oldest)) {
            usage->oldest = head.at;
        }
    }
    return 0;
}

apr_status_t cs_journal_usage(const char *dir, uint64_t *bytes, apr_time_t *oldest)
{
    usage_t usage = {0, 0};
    char error[256];
    apr_status_t rv = each_segment(dir, NULL, use_one, &usage, error, sizeof(error));

    *bytes = usage.bytes;
    *oldest = usage.oldest;
    return rv;
}
