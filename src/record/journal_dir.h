/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal_dir: the files of chains in a state directory: names, locks, and the two small ones, .done and .head. Files with other names
 * do not exist for it.
 */
#ifndef CS_RECORD_JOURNAL_DIR_H
#define CS_RECORD_JOURNAL_DIR_H

#include "chain_link.h"
#include "journal.h"

typedef enum { CS_FILE_SEGMENT, CS_FILE_DONE, CS_FILE_HEAD, CS_FILE_LOCK } cs_file_e;

typedef struct {
    char chain[CS_UUID_LEN + 1];
    cs_file_e type;
    uint64_t number; /* of a segment */
} cs_dir_file_t;

/* Sorted by chain (older ones first: their names begin with the time), type, number. malloc'ed. */
apr_status_t cs_dir_list(int dir, cs_dir_file_t **files, size_t *count);
apr_status_t cs_dir_open(int *dir, const char *path);

#define CS_FILE_NAME 80
const char *cs_dir_name(char name[CS_FILE_NAME], const char *chain, cs_file_e type, uint64_t number);
int cs_dir_open_file(int dir, const char *chain, cs_file_e type, uint64_t number, int flags);
void cs_dir_unlink(int dir, const char *chain, cs_file_e type, uint64_t number);
/* All bytes at `offset`, or an error. EINTR and short writes are dealt with. */
apr_status_t cs_dir_write(int fd, const char *bytes, size_t len, uint64_t offset);

/*
 * The right to write a chain. APR_EBUSY: somebody has it. `fd` holds it until it is closed. flock belongs to the open file, so a child
 * that was forked meanwhile holds it too, until it execs or ends: fork children of a writer do not outlive it, or exec.
 */
apr_status_t cs_dir_lock(int *fd, int dir, const char *chain);

/* .done: two copies, written in turn, so that one that was cut short leaves the other. */
typedef struct {
    uint64_t generation; /* 0: nothing was applied yet */
    cs_journal_place_t place;
    cs_tip_t tip; /* the last row that is in the database, as far as known */
} cs_done_t;

void cs_dir_done_read(int dir, const char *chain, cs_done_t *done);
/* Counts the generation up. */
apr_status_t cs_dir_done_write(int fd, cs_done_t *done);

apr_status_t cs_dir_head_write(int dir, const cs_head_t *head, cs_sync_e sync);
apr_status_t cs_dir_head_read(int dir, const char *chain, cs_head_t *head);

#endif
