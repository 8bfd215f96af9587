/* SPDX-License-Identifier: Apache-2.0 */
/* journal_anchor: a chain's first row names how far the other chains are, so that none can be cut off at its end unnoticed. */
#include "journal_inner.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "journal_survey.h"

enum { ANCHORS_MAX = 256 };

static void raise_head(cs_head_t *head, const cs_tip_t *tip)
{
    if (tip->seq > head->seq) {
        head->seq = tip->seq;
        memcpy(head->hash, tip->hash, sizeof(head->hash));
    }
}

/* How far a chain is, from whatever there is of it; seq 0: not at all, or not known. The files may go meanwhile. */
static void find_head(cs_head_t *head, int dir, const cs_dir_file_t *files, size_t count)
{
    memset(head, 0, sizeof(*head));
    memcpy(head->chain, files->chain, sizeof(head->chain));
    /* The last segment that can be read says it; sorted, it is the last in the list before the small files. */
    for (size_t i = count; i-- && !head->seq;) {
        cs_survey_t survey;
        int fd;

        if (files[i].type != CS_FILE_SEGMENT) {
            continue;
        }
        fd = cs_dir_open_file(dir, head->chain, CS_FILE_SEGMENT, files[i].number, O_RDONLY);
        if (fd >= 0) {
            if (cs_survey(&survey, fd, head->chain, files[i].number) == APR_SUCCESS && survey.has_tip) {
                raise_head(head, &survey.tip);
            }
            close(fd);
        }
    }
    for (size_t i = 0; i < count; i++) {
        cs_head_t ended;
        cs_done_t done;

        if (files[i].type == CS_FILE_HEAD && cs_dir_head_read(dir, head->chain, &ended) == APR_SUCCESS
            && ended.seq > head->seq) {
            *head = ended;
        }
        else if (files[i].type == CS_FILE_DONE) {
            cs_dir_done_read(dir, head->chain, &done);
            raise_head(head, &done.tip);
        }
    }
}

/* Newest chains first. */
static apr_status_t find_heads(const cs_journal_t *journal, cs_head_t **heads, size_t *count)
{
    cs_dir_file_t *files;
    size_t left, begin;
    apr_status_t rv = cs_dir_list(journal->dir, &files, &left);

    *count = 0;
    *heads = malloc(ANCHORS_MAX * sizeof(**heads));
    if (rv == APR_SUCCESS && !*heads) {
        rv = APR_ENOMEM;
    }
    for (; rv == APR_SUCCESS && left && *count < ANCHORS_MAX; left = begin) {
        cs_head_t *head = &(*heads)[*count];

        for (begin = left - 1; begin && !strcmp(files[begin - 1].chain, files[left - 1].chain); begin--) {}
        if (strcmp(files[begin].chain, journal->chain) != 0) {
            find_head(head, journal->dir, files + begin, left - begin);
            *count += head->seq > 0;
        }
    }
    free(files);
    return rv;
}

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* What stands between the braces of an object; 0: it is none. */
static int object_members(const cs_text_t *detail, cs_text_t *members)
{
    const char *p = detail->data, *end = p + detail->len;

    while (p < end && is_space(*p)) {
        p++;
    }
    while (p < end && is_space(end[-1])) {
        end--;
    }
    if (end - p < 2 || *p != '{' || end[-1] != '}') {
        return 0;
    }
    for (p++, end--; p < end && is_space(*p); p++) {}
    *members = (cs_text_t){p, (size_t)(end - p)};
    return 1;
}

static apr_status_t put_anchors(cs_buf_t *out, const cs_head_t *heads, size_t count)
{
    apr_status_t rv = cs_buf_append_str(out, "{\"anchors\":[");

    for (size_t i = 0; rv == APR_SUCCESS && i < count; i++) {
        (void)((rv = cs_buf_append_str(out, i ? ",{\"chain\":\"" : "{\"chain\":\""))
               || (rv = cs_buf_append_str(out, heads[i].chain)) || (rv = cs_buf_append_str(out, "\",\"seq\":"))
               || (rv = cs_buf_append_u64(out, heads[i].seq)) || (rv = cs_buf_append_str(out, ",\"hash\":\""))
               || (rv = cs_buf_append_str(out, heads[i].hash)) || (rv = cs_buf_append_str(out, "\"}")));
    }
    return rv ? rv : cs_buf_append_str(out, "]");
}

apr_status_t cs_journal_anchor(const cs_journal_t *journal, const cs_text_t *detail, cs_buf_t *out,
                               cs_head_t **anchored, size_t *count)
{
    apr_status_t rv = find_heads(journal, anchored, count);
    cs_text_t members = {NULL, 0};

    if (rv == APR_SUCCESS) {
        rv = put_anchors(out, *anchored, *count);
    }
    if (rv == APR_SUCCESS && detail->data) {
        if (!object_members(detail, &members)) {
            /* Not what the caller promised; it is kept all the same. */
            rv = cs_buf_append_str(out, ",\"detail\":");
            rv = rv ? rv : cs_buf_append_json(out, detail->data, detail->len);
        }
        else if (members.len) {
            rv = cs_buf_append_str(out, ",");
            rv = rv ? rv : cs_buf_append(out, members.data, members.len);
        }
    }
    return rv ? rv : cs_buf_append_str(out, "}");
}

void cs_journal_anchored(cs_journal_t *journal, const cs_head_t *anchored, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cs_head_t head;

        /* One that lived then may have gone on since, and ended. */
        if (cs_dir_head_read(journal->dir, anchored[i].chain, &head) == APR_SUCCESS && head.seq == anchored[i].seq) {
            cs_dir_unlink(journal->dir, anchored[i].chain, CS_FILE_HEAD, 0);
        }
    }
}

apr_status_t cs_journal_heads(const char *path, void (*fn)(void *baton, const cs_head_t *head), void *baton)
{
    cs_dir_file_t *files;
    size_t count;
    apr_status_t rv;
    int dir;

    if ((rv = cs_dir_open(&dir, path)) != APR_SUCCESS) {
        return rv;
    }
    rv = cs_dir_list(dir, &files, &count);
    for (size_t i = 0; i < count; i++) {
        cs_head_t head;

        if (files[i].type == CS_FILE_HEAD && cs_dir_head_read(dir, files[i].chain, &head) == APR_SUCCESS) {
            fn(baton, &head);
        }
    }
    free(files);
    close(dir);
    return rv;
}
