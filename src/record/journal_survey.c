/* SPDX-License-Identifier: Apache-2.0 */
#include "journal_survey.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

apr_status_t cs_survey_head(cs_survey_t *survey, int fd, const char *chain, uint64_t number)
{
    char bytes[CS_SEGMENT_HEAD], name[CS_UUID_LEN + 1];
    struct stat file;
    ssize_t got;

    memset(survey, 0, sizeof(*survey));
    cs_tip_init(&survey->tip);
    if (fstat(fd, &file) != 0 || (got = pread(fd, bytes, sizeof(bytes), 0)) < 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    survey->size = survey->torn = (uint64_t)file.st_size;
    survey->head_rv = cs_segment_head_get(&survey->head, bytes, (size_t)got);
    if (survey->head_rv == APR_SUCCESS) {
        cs_uuid_format(name, &survey->head.chain);
        /* A copy under another name is not that chain's. */
        if (strcmp(name, chain) != 0 || survey->head.number != number) {
            survey->head_rv = APR_EINVAL;
        }
    }
    if (survey->head_rv == APR_SUCCESS) {
        survey->start = CS_SEGMENT_HEAD;
        survey->has_tip = 1;
        survey->tip = survey->head.tip;
    }
    else if (number == 1) {
        survey->has_tip = 1; /* before the first segment there is nothing */
    }
    return APR_SUCCESS;
}

apr_status_t cs_survey(cs_survey_t *survey, int fd, const char *chain, uint64_t number)
{
    apr_status_t rv = cs_survey_head(survey, fd, chain, number);
    cs_fact_t fact;
    cs_scan_t scan;
    cs_span_t span;
    cs_scan_e got;

    if (rv != APR_SUCCESS || survey->head_rv == APR_ENOTIMPL) {
        return rv;
    }
    cs_scan_init(&scan, fd, survey->start, survey->size);
    while ((got = cs_scan_next(&scan, &fact, &span)) == CS_SCAN_FACT || got == CS_SCAN_CORRUPT) {
        if (got == CS_SCAN_FACT) {
            survey->facts++;
            if (fact.link.seq > survey->tip.seq) {
                survey->has_tip = 1;
                cs_tip_of(&survey->tip, &fact.link);
            }
        }
    }
    if (got == CS_SCAN_TORN) {
        survey->torn = span.from;
    }
    rv = got == CS_SCAN_FAILED ? scan.rv : APR_SUCCESS;
    cs_scan_free(&scan);
    return rv;
}
