/* SPDX-License-Identifier: Apache-2.0 */
/* journal_survey: one look at a whole segment, before it is adopted or anchored. Never writes. */
#ifndef CS_RECORD_JOURNAL_SURVEY_H
#define CS_RECORD_JOURNAL_SURVEY_H

#include "journal_scan.h"

typedef struct {
    uint64_t size;
    apr_status_t
        head_rv; /* APR_SUCCESS: `head` is this segment's; APR_ENOTIMPL: of a later version; else it is damaged */
    cs_segment_head_t head;
    uint64_t start; /* where reading begins: after the head, or at 0 when that is damaged */
    uint64_t torn;  /* where a last entry begins that was cut short; `size`: there is none */
    uint64_t facts;
    int has_tip; /* the chain's tip at the end of the segment is known */
    cs_tip_t tip;
} cs_survey_t;

/* The head only. */
apr_status_t cs_survey_head(cs_survey_t *survey, int fd, const char *chain, uint64_t number);
apr_status_t cs_survey(cs_survey_t *survey, int fd, const char *chain, uint64_t number);

#endif
