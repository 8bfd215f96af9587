/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal_scan: walks the entries of one segment, and finds the next good one after damage. Never writes. One thread; memory is about
 * 64 KiB, or the largest entry.
 */
#ifndef CS_RECORD_JOURNAL_SCAN_H
#define CS_RECORD_JOURNAL_SCAN_H

#include "journal_entry.h"

typedef struct {
    int fd;         /* the caller's; -1: none */
    uint64_t at;    /* where the next entry begins */
    uint64_t limit; /* the segment ends here, for now; may grow between calls */
    apr_status_t rv;
    char *data; /* a window of the file: `len` bytes from `start` */
    size_t cap, len;
    uint64_t start;
} cs_scan_t;

typedef enum {
    CS_SCAN_FACT,
    CS_SCAN_END,
    CS_SCAN_TORN,    /* the last entry was cut short: from `from`. `at` stays */
    CS_SCAN_CORRUPT, /* no facts between `from` and `to` */
    CS_SCAN_FAILED   /* the system's error is in rv; `at` stays */
} cs_scan_e;

typedef struct {
    uint64_t from, to;
    apr_time_t at; /* of FACT: when it was appended */
} cs_span_t;

void cs_scan_init(cs_scan_t *scan, int fd, uint64_t at, uint64_t limit);
void cs_scan_free(cs_scan_t *scan);
/* `fact` is valid until the next call. */
cs_scan_e cs_scan_next(cs_scan_t *scan, cs_fact_t *fact, cs_span_t *span);

#endif
