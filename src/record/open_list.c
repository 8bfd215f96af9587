/* SPDX-License-Identifier: Apache-2.0 */
#include "open_list.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"

#define ENTRY_SIZE 2048u
#define PATH_SIZE  4096u

typedef struct {
    uint32_t len;
    uint32_t crc;
} entry_head_t;

#define CONTENT_MAX (ENTRY_SIZE - sizeof(entry_head_t))

struct cs_open_list_t {
    int fd;
    pthread_mutex_t lock;
    uint32_t *free_places;
    uint32_t free_count, free_size;
    uint32_t next; /* places from here on were never used */
    char path[PATH_SIZE];
};

apr_status_t cs_open_list_open(cs_open_list_t **out, const char *dir, const char *chain)
{
    cs_open_list_t *list = calloc(1, sizeof(*list));
    struct stat info;
    apr_status_t rv;

    *out = NULL;
    if (!list) {
        return APR_ENOMEM;
    }
    if (snprintf(list->path, sizeof(list->path), "%s/%s.open", dir, chain) >= (int)sizeof(list->path)) {
        free(list);
        return APR_ENAMETOOLONG;
    }
    list->fd = open(list->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (list->fd < 0 || fstat(list->fd, &info)) {
        rv = errno;
        if (list->fd >= 0) {
            close(list->fd);
        }
        free(list);
        return rv;
    }
    list->next = (uint32_t)(((uint64_t)info.st_size + ENTRY_SIZE - 1) / ENTRY_SIZE);
    pthread_mutex_init(&list->lock, NULL);
    *out = list;
    return APR_SUCCESS;
}

static uint32_t take_place(cs_open_list_t *list)
{
    uint32_t place;

    pthread_mutex_lock(&list->lock);
    place = list->free_count ? list->free_places[--list->free_count] : list->next++;
    pthread_mutex_unlock(&list->lock);
    return place;
}

/* A place that cannot be remembered is not used again. */
static void give_place(cs_open_list_t *list, uint32_t place)
{
    pthread_mutex_lock(&list->lock);
    if (list->free_count == list->free_size) {
        uint32_t size = list->free_size ? list->free_size * 2 : 64;
        uint32_t *more = realloc(list->free_places, size * sizeof(*more));

        if (more) {
            list->free_places = more;
            list->free_size = size;
        }
    }
    if (list->free_count < list->free_size) {
        list->free_places[list->free_count++] = place;
    }
    pthread_mutex_unlock(&list->lock);
}

apr_status_t cs_open_list_add(cs_open_list_t *list, const char *bytes, size_t len, uint32_t *place)
{
    char entry[ENTRY_SIZE];
    entry_head_t head = {(uint32_t)len, cs_crc32c(bytes, len)};
    ssize_t written;

    if (len > CONTENT_MAX) {
        return APR_ENOSPC;
    }
    memcpy(entry, &head, sizeof(head));
    memcpy(entry + sizeof(head), bytes, len);
    memset(entry + sizeof(head) + len, 0, CONTENT_MAX - len); /* all of it now: wiping must need no room */
    *place = take_place(list);
    written = pwrite(list->fd, entry, sizeof(entry), (off_t)*place * ENTRY_SIZE);
    if (written != (ssize_t)sizeof(entry)) {
        apr_status_t rv = written < 0 ? errno : APR_ENOSPC;

        cs_open_list_remove(list, *place);
        return rv;
    }
    return APR_SUCCESS;
}

void cs_open_list_remove(cs_open_list_t *list, uint32_t place)
{
    static const char nobody[ENTRY_SIZE];
    ssize_t written = pwrite(list->fd, nobody, sizeof(nobody), (off_t)place * ENTRY_SIZE);

    (void)written; /* overwriting needs no new room */
    give_place(list, place);
}

unsigned cs_open_list_each(cs_open_list_t *list, void (*fn)(void *baton, uint32_t place, const cs_fact_t *fact),
                           void *baton)
{
    char entry[ENTRY_SIZE];
    entry_head_t head;
    unsigned count = 0;
    uint32_t place, end;

    pthread_mutex_lock(&list->lock);
    end = list->next;
    pthread_mutex_unlock(&list->lock);
    for (place = 0; place < end; place++) {
        ssize_t got = pread(list->fd, entry, sizeof(entry), (off_t)place * ENTRY_SIZE);
        cs_fact_t fact;

        memcpy(&head, entry, sizeof(head));
        if (got < (ssize_t)sizeof(head) || !head.len || head.len > (size_t)got - sizeof(head)
            || cs_crc32c(entry + sizeof(head), head.len) != head.crc
            || cs_fact_decode(&fact, entry + sizeof(head), head.len)) {
            continue; /* free, or its writer died in the middle: then nothing was started */
        }
        fn(baton, place, &fact);
        count++;
    }
    return count;
}

apr_status_t cs_open_list_sync(cs_open_list_t *list)
{
    return fdatasync(list->fd) ? errno : APR_SUCCESS;
}

void cs_open_list_close(cs_open_list_t *list, int gone)
{
    if (!list) {
        return;
    }
    if (gone) {
        unlink(list->path);
    }
    close(list->fd);
    pthread_mutex_destroy(&list->lock);
    free(list->free_places);
    free(list);
}
