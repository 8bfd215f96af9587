/* SPDX-License-Identifier: Apache-2.0 */
#include "journal_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "crc32c.h"

apr_status_t cs_dir_open(int *dir, const char *path)
{
    *dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *dir < 0 ? APR_FROM_OS_ERROR(errno) : APR_SUCCESS;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

const char *cs_dir_name(char name[CS_FILE_NAME], const char *chain, cs_file_e type, uint64_t number)
{
    static const char *const suffixes[] = {"journal", "done", "head", "lock"};

    if (type == CS_FILE_SEGMENT) {
        snprintf(name, CS_FILE_NAME, "%s-%" PRIu64 ".journal", chain, number);
    }
    else {
        snprintf(name, CS_FILE_NAME, "%s.%s", chain, suffixes[type]);
    }
    return name;
}

/* Exactly what cs_dir_name makes. */
static int parse_name(cs_dir_file_t *file, const char *name)
{
    char again[CS_FILE_NAME];
    cs_uuid_t uuid;

    if (strlen(name) >= sizeof(again) || strlen(name) <= CS_UUID_LEN
        || cs_uuid_parse(&uuid, name, CS_UUID_LEN) != APR_SUCCESS) {
        return 0;
    }
    cs_uuid_format(file->chain, &uuid);
    file->number = 0;
    if (name[CS_UUID_LEN] == '-') {
        file->type = CS_FILE_SEGMENT;
        file->number = strtoull(name + CS_UUID_LEN + 1, NULL, 10);
        /* Room to count up. */
        return file->number && file->number < UINT64_MAX / 2
               && !strcmp(cs_dir_name(again, file->chain, file->type, file->number), name);
    }
    for (int type = CS_FILE_DONE; type <= CS_FILE_LOCK; type++) {
        file->type = (cs_file_e)type;
        if (!strcmp(cs_dir_name(again, file->chain, file->type, 0), name)) {
            return 1;
        }
    }
    return 0;
}

static int compare(const void *a, const void *b)
{
    const cs_dir_file_t *x = a, *y = b;
    int order = strcmp(x->chain, y->chain);

    if (!order) {
        order = (int)x->type - (int)y->type;
    }
    return order ? order : x->number < y->number ? -1 : x->number > y->number;
}

apr_status_t cs_dir_list(int dir, cs_dir_file_t **files, size_t *count)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    apr_status_t rv = APR_SUCCESS;
    struct dirent *entry;
    size_t cap = 0;

    *files = NULL;
    *count = 0;
    if (!stream) {
        rv = APR_FROM_OS_ERROR(errno);
        if (fd >= 0) {
            close(fd);
        }
        return rv;
    }
    while (errno = 0, (entry = readdir(stream)) != NULL) {
        cs_dir_file_t file;

        if (!parse_name(&file, entry->d_name)) {
            continue;
        }
        if (*count == cap) {
            cs_dir_file_t *more = realloc(*files, (cap = cap ? cap * 2 : 32) * sizeof(*more));

            if (!more) {
                rv = APR_ENOMEM;
                break;
            }
            *files = more;
        }
        (*files)[(*count)++] = file;
    }
    if (rv == APR_SUCCESS && errno) {
        rv = APR_FROM_OS_ERROR(errno);
    }
    closedir(stream);
    if (rv != APR_SUCCESS) {
        free(*files);
        *files = NULL;
        *count = 0;
    }
    else if (*count) {
        qsort(*files, *count, sizeof(**files), compare);
    }
    return rv;
}

int cs_dir_open_file(int dir, const char *chain, cs_file_e type, uint64_t number, int flags)
{
    char name[CS_FILE_NAME];
    int fd;

    do {
        fd = openat(dir, cs_dir_name(name, chain, type, number), flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

void cs_dir_unlink(int dir, const char *chain, cs_file_e type, uint64_t number)
{
    char name[CS_FILE_NAME];

    unlinkat(dir, cs_dir_name(name, chain, type, number), 0);
}

apr_status_t cs_dir_write(int fd, const char *bytes, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t put = pwrite(fd, bytes, len, (off_t)offset);

        if (put > 0) {
            bytes += put;
            len -= (size_t)put;
            offset += (uint64_t)put;
        }
        else if (put == 0 || errno != EINTR) {
            return put ? APR_FROM_OS_ERROR(errno) : APR_ENOSPC;
        }
    }
    return APR_SUCCESS;
}

/* ---- .lock ------------------------------------------------------------------------------------------------------- */

apr_status_t cs_dir_lock(int *fd, int dir, const char *chain)
{
    char name[CS_FILE_NAME];

    cs_dir_name(name, chain, CS_FILE_LOCK, 0);
    for (;;) {
        struct stat mine, there;

        *fd = cs_dir_open_file(dir, chain, CS_FILE_LOCK, 0, O_RDWR | O_CREAT);
        if (*fd < 0) {
            return APR_FROM_OS_ERROR(errno);
        }
        if (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
            apr_status_t rv = errno == EWOULDBLOCK ? APR_EBUSY : APR_FROM_OS_ERROR(errno);

            close(*fd);
            *fd = -1;
            return rv;
        }
        /* Whoever had it may have removed the file before letting go; then this locks a file that nobody finds any more. */
        if (fstat(*fd, &mine) == 0 && fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0
            && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
            return APR_SUCCESS;
        }
        close(*fd);
    }
}

/* ---- .done ------------------------------------------------------------------------------------------------------- */

enum { DONE_LEN = 96, DONE_APART = 128, HASH_LEN = 32 };
#define DONE_MAGIC "csdone1\n"

static int done_get(cs_done_t *done, const char *p)
{
    if (memcmp(p, DONE_MAGIC, 8) != 0 || get_le(p + DONE_LEN - 4, 4) != cs_crc32c(p, DONE_LEN - 4)) {
        return 0;
    }
    done->generation = get_le(p + 8, 8);
    done->place.segment = get_le(p + 16, 8);
    done->place.offset = get_le(p + 24, 8);
    done->tip.seq = get_le(p + 32, 8);
    done->tip.ts = (apr_time_t)get_le(p + 40, 8);
    put_hex(done->tip.hash, p + 48, HASH_LEN);
    return done->place.segment < UINT64_MAX / 2;
}

void cs_dir_done_read(int dir, const char *chain, cs_done_t *done)
{
    int fd = cs_dir_open_file(dir, chain, CS_FILE_DONE, 0, O_RDONLY);

    memset(done, 0, sizeof(*done));
    cs_tip_init(&done->tip);
    for (int copy = 0; fd >= 0 && copy < 2; copy++) {
        char bytes[DONE_LEN];
        cs_done_t found;

        if (pread(fd, bytes, DONE_LEN, copy * DONE_APART) == DONE_LEN && done_get(&found, bytes)
            && found.generation > done->generation) {
            *done = found;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

apr_status_t cs_dir_done_write(int fd, cs_done_t *done)
{
    char bytes[DONE_LEN] = DONE_MAGIC;

    done->generation++;
    put_le(bytes + 8, done->generation, 8);
    put_le(bytes + 16, done->place.segment, 8);
    put_le(bytes + 24, done->place.offset, 8);
    put_le(bytes + 32, done->tip.seq, 8);
    put_le(bytes + 40, (uint64_t)done->tip.ts, 8);
    get_hex(bytes + 48, done->tip.hash, HASH_LEN);
    put_le(bytes + DONE_LEN - 4, cs_crc32c(bytes, DONE_LEN - 4), 4);
    return cs_dir_write(fd, bytes, DONE_LEN, (done->generation & 1) * DONE_APART);
}

/* ---- .head: "<seq> <hash>\n" ------------------------------------------------------------------------------------- */

apr_status_t cs_dir_head_write(int dir, const cs_head_t *head, cs_sync_e sync)
{
    int fd = cs_dir_open_file(dir, head->chain, CS_FILE_HEAD, 0, O_WRONLY | O_CREAT | O_TRUNC);
    char line[128];
    apr_status_t rv;

    if (fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    snprintf(line, sizeof(line), "%" PRIu64 " %s\n", head->seq, head->hash);
    rv = cs_dir_write(fd, line, strlen(line), 0);
    if (rv == APR_SUCCESS && sync != CS_SYNC_OFF && (fsync(fd) != 0 || fsync(dir) != 0)) {
        rv = APR_FROM_OS_ERROR(errno);
    }
    close(fd);
    return rv;
}

apr_status_t cs_dir_head_read(int dir, const char *chain, cs_head_t *head)
{
    int fd = cs_dir_open_file(dir, chain, CS_FILE_HEAD, 0, O_RDONLY);
    char line[128], again[128], hash[HASH_LEN];
    ssize_t len;

    if (fd < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    len = pread(fd, line, sizeof(line) - 1, 0);
    close(fd);
    line[len > 0 ? len : 0] = '\0';
    memcpy(head->chain, chain, sizeof(head->chain));
    /* Written again it must be the same: one that was cut short is none. */
    if (sscanf(line, "%" SCNu64 " %64s", &head->seq, head->hash) != 2 || !head->seq || strlen(head->hash) != CS_HASH_HEX
        || !get_hex(hash, head->hash, HASH_LEN)) {
        return APR_EINVAL;
    }
    snprintf(again, sizeof(again), "%" PRIu64 " %s\n", head->seq, head->hash);
    return strcmp(line, again) ? APR_EINVAL : APR_SUCCESS;
}
