/* SPDX-License-Identifier: Apache-2.0 */
#include "journal_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crc32c.h"

enum { WINDOW = 64 * 1024, WINDOW_KEEP = 1024 * 1024 };

void cs_scan_init(cs_scan_t *scan, int fd, uint64_t at, uint64_t limit)
{
    memset(scan, 0, sizeof(*scan));
    scan->fd = fd;
    scan->at = at;
    scan->limit = limit;
}

void cs_scan_free(cs_scan_t *scan)
{
    free(scan->data);
    scan->data = NULL;
    scan->cap = scan->len = 0;
}

/* Makes room for `need` bytes; gives back what one large message took. */
static int resize(cs_scan_t *scan, size_t need)
{
    size_t cap = need > WINDOW ? need : WINDOW;
    char *data;

    if (cap <= scan->cap && (scan->cap <= WINDOW_KEEP || cap > WINDOW)) {
        return 1;
    }
    if (scan->len > cap) {
        scan->len = cap;
    }
    data = realloc(scan->data, cap);
    if (!data) {
        scan->rv = APR_ENOMEM;
        return 0;
    }
    scan->data = data;
    scan->cap = cap;
    return 1;
}

/* `need` bytes from `from`, all of them before the limit. NULL: rv says why; APR_EOF: the file was cut since. */
static const char *window(cs_scan_t *scan, uint64_t from, size_t need)
{
    if (from >= scan->start && from - scan->start <= scan->len && need <= scan->len - (from - scan->start)) {
        return scan->data + (from - scan->start);
    }
    if (from >= scan->start && from - scan->start < scan->len) {
        scan->len -= from - scan->start;
        memmove(scan->data, scan->data + (from - scan->start), scan->len);
    }
    else {
        scan->len = 0;
    }
    scan->start = from;
    if (!resize(scan, need)) {
        return NULL;
    }
    while (scan->len < need) {
        uint64_t left = scan->limit - from - scan->len;
        size_t room = scan->cap - scan->len;
        ssize_t got = pread(scan->fd, scan->data + scan->len, left < room ? left : room, (off_t)(from + scan->len));

        if (got > 0) {
            scan->len += (size_t)got;
        }
        else if (got == 0 || errno != EINTR) {
            scan->rv = got ? APR_FROM_OS_ERROR(errno) : APR_EOF;
            return NULL;
        }
    }
    return scan->data;
}

typedef enum { LOOK_ENTRY, LOOK_TORN, LOOK_BAD, LOOK_FAILED } look_e;

/* What begins at `from`? `p` points at the fact of an ENTRY. */
static look_e look(cs_scan_t *scan, uint64_t from, cs_entry_head_t *head, const char **p)
{
    uint64_t rest = scan->limit - from;

    *p = window(scan, from, rest < CS_ENTRY_HEAD ? rest : CS_ENTRY_HEAD);
    if (!*p) {
        return LOOK_FAILED;
    }
    if (rest < CS_ENTRY_HEAD) {
        return memcmp(*p, CS_ENTRY_MARKER, rest < 4 ? rest : 4) == 0 ? LOOK_TORN : LOOK_BAD;
    }
    if (!cs_entry_head_get(head, *p)) {
        return LOOK_BAD;
    }
    if (head->len > rest - CS_ENTRY_HEAD) {
        return LOOK_TORN;
    }
    *p = window(scan, from, CS_ENTRY_HEAD + head->len);
    if (!*p) {
        return LOOK_FAILED;
    }
    *p += CS_ENTRY_HEAD;
    return cs_crc32c(*p, head->len) == head->crc ? LOOK_ENTRY : LOOK_BAD;
}

/* Where the next entry begins after the bad one at `from`: the limit when there is none. 0: failed. */
static uint64_t resync(cs_scan_t *scan, uint64_t from)
{
    uint64_t at = from + 1;

    while (at < scan->limit && scan->limit - at >= 4) {
        size_t span = scan->limit - at < WINDOW ? scan->limit - at : WINDOW;
        const char *p = window(scan, at, span);
        const char *found = p ? memmem(p, span, CS_ENTRY_MARKER, 4) : NULL;
        cs_entry_head_t head;
        look_e what;

        if (!p) {
            return 0;
        }
        if (!found) {
            at += span - 3;
            continue;
        }
        at += (uint64_t)(found - p);
        what = look(scan, at, &head, &p);
        if (what == LOOK_FAILED) {
            return 0;
        }
        if (what == LOOK_ENTRY || what == LOOK_TORN) {
            return at;
        }
        at++;
    }
    return scan->limit;
}

static cs_scan_e failed(cs_scan_t *scan)
{
    if (scan->rv == APR_EOF) {
        /* Of a living writer, read without its lock: it took a write back. */
        scan->limit = scan->at;
        return CS_SCAN_END;
    }
    return CS_SCAN_FAILED;
}

cs_scan_e cs_scan_next(cs_scan_t *scan, cs_fact_t *fact, cs_span_t *span)
{
    cs_entry_head_t head;
    const char *p;

    span->from = span->to = scan->at;
    if (scan->at >= scan->limit) {
        return CS_SCAN_END;
    }
    switch (look(scan, scan->at, &head, &p)) {
    case LOOK_ENTRY:
        span->to = scan->at + CS_ENTRY_HEAD + head.len;
        span->at = head.at;
        scan->at = span->to;
        return cs_fact_decode(fact, p, head.len) == APR_SUCCESS ? CS_SCAN_FACT : CS_SCAN_CORRUPT;
    case LOOK_TORN:
        span->to = scan->limit;
        return CS_SCAN_TORN;
    case LOOK_BAD:
        span->to = resync(scan, scan->at);
        if (!span->to) {
            return failed(scan);
        }
        scan->at = span->to;
        return CS_SCAN_CORRUPT;
    default:
        return failed(scan);
    }
}
