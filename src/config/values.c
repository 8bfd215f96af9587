/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include <apr_lib.h>
#include <apr_strings.h>

static const char *describe_time(apr_pool_t *pool, apr_time_t value)
{
    return value % apr_time_from_sec(1) ? apr_psprintf(pool, "%" APR_TIME_T_FMT "ms", apr_time_as_msec(value))
                                        : apr_psprintf(pool, "%" APR_TIME_T_FMT "s", apr_time_sec(value));
}

const char *cs_value_time(apr_pool_t *pool, const char *text, apr_time_t min, apr_time_t max, apr_time_t *value)
{
    static const struct {
        const char *name;
        double microseconds;
    } units[] = {{"", 1e6}, {"s", 1e6}, {"ms", 1e3}, {"m", 60e6}, {"min", 60e6}, {"h", 3600e6}};
    char *end = NULL;
    double number = 0;
    size_t i = sizeof(units) / sizeof(units[0]);

    if (apr_isdigit(text[0])) {
        number = strtod(text, &end);
        /* 1e3 and 0x10 are more likely slips than times. */
        if (end == text + strspn(text, "0123456789.")) {
            for (i = 0; i < sizeof(units) / sizeof(units[0]) && strcasecmp(end, units[i].name); i++) {}
        }
    }
    if (i < sizeof(units) / sizeof(units[0]) && isfinite(number)) {
        number *= units[i].microseconds;
        if (number >= (double)min && number <= (double)max) {
            *value = (apr_time_t)(number + 0.5);
            return NULL;
        }
    }
    return apr_psprintf(pool, "'%s' is not a time from %s to %s (seconds, or a number with ms, s, m, h)", text,
                        describe_time(pool, min), describe_time(pool, max));
}

static const char *describe_size(apr_pool_t *pool, apr_int64_t value)
{
    return value && value % (1024 * 1024) == 0 ? apr_psprintf(pool, "%" APR_INT64_T_FMT "m", value / (1024 * 1024))
           : value && value % 1024 == 0        ? apr_psprintf(pool, "%" APR_INT64_T_FMT "k", value / 1024)
                                               : apr_psprintf(pool, "%" APR_INT64_T_FMT, value);
}

const char *cs_value_size(apr_pool_t *pool, const char *text, apr_int64_t min, apr_int64_t max, apr_int64_t *value)
{
    static const char units[] = "kmg";
    apr_int64_t number = 0, factor = 1;
    char *end = NULL;
    int bad = !apr_isdigit(text[0]);

    if (!bad) {
        errno = 0;
        number = apr_strtoi64(text, &end, 10);
        bad = errno != 0;
    }
    if (!bad && *end) {
        const char *unit = strchr(units, apr_tolower(*end));

        bad = !unit || end[1];
        factor = bad ? 1 : (apr_int64_t)1 << (10 * (unit - units + 1));
    }
    if (bad || number > max / factor || number * factor < min) {
        return apr_psprintf(pool, "'%s' is not a size from %s to %s (bytes, or a number with k, m, g)", text,
                            describe_size(pool, min), describe_size(pool, max));
    }
    *value = number * factor;
    return NULL;
}

const char *cs_value_number(apr_pool_t *pool, const char *text, apr_int64_t min, apr_int64_t max, apr_int64_t *value)
{
    char *end = NULL;
    apr_int64_t number;

    errno = 0;
    number = apr_isdigit(text[0]) ? apr_strtoi64(text, &end, 10) : 0;
    if (!end || *end || errno || number < min || number > max) {
        return apr_psprintf(pool, "'%s' is not a number from %" APR_INT64_T_FMT " to %" APR_INT64_T_FMT, text, min,
                            max);
    }
    *value = number;
    return NULL;
}

const char *cs_value_flag(apr_pool_t *pool, const char *text, int *value)
{
    if (!strcasecmp(text, "on") || !strcasecmp(text, "true") || !strcmp(text, "1")) {
        *value = 1;
    }
    else if (!strcasecmp(text, "off") || !strcasecmp(text, "false") || !strcmp(text, "0")) {
        *value = 0;
    }
    else {
        return apr_psprintf(pool, "'%s' is none of On, Off, true, false, 1, 0", text);
    }
    return NULL;
}

const char *cs_value_share(apr_pool_t *pool, const char *text, int *value)
{
    size_t whole = strspn(text, "0123456789"),
           decimals = text[whole] == '.' ? strspn(text + whole + 1, "0123456789") : 0;
    double percent = strtod(text, NULL);

    if (!whole || whole > 3 || percent > 100 || decimals > 2 || (text[whole] == '.' && !decimals)
        || text[whole + (decimals ? decimals + 1 : 0)]) {
        return apr_psprintf(pool, "'%s' is not a percentage from 0 to 100", text);
    }
    *value = (int)(percent * 100 + 0.5);
    return NULL;
}

apr_status_t cs_config_read_file(apr_pool_t *pool, const char *path, cs_buf_t *out, char *error, size_t size)
{
    apr_file_t *file;
    char piece[8192], reason[128];
    apr_size_t len = sizeof(piece);
    apr_status_t rv = apr_file_open(&file, path, APR_READ, APR_OS_DEFAULT, pool);

    if (rv) {
        apr_snprintf(error, size, "%s", apr_strerror(rv, reason, sizeof(reason)));
        return rv;
    }
    while (!rv && !(rv = apr_file_read(file, piece, &len))) {
        rv = cs_buf_append(out, piece, len);
        len = sizeof(piece);
    }
    apr_file_close(file);
    if (APR_STATUS_IS_EOF(rv)) {
        return APR_SUCCESS;
    }
    if (rv == APR_ENOSPC) {
        apr_snprintf(error, size, "larger than %" APR_SIZE_T_FMT " bytes", out->max);
    }
    else {
        apr_snprintf(error, size, "%s", apr_strerror(rv, reason, sizeof(reason)));
    }
    return rv;
}

const char *cs_value_file(apr_pool_t *pool, const char *path, apr_size_t max, char **text, apr_size_t *len)
{
    char error[160];
    const char *message = NULL;
    cs_buf_t file;

    cs_buf_init(&file, max);
    if (cs_config_read_file(pool, path, &file, error, sizeof(error))) {
        message = apr_psprintf(pool, "cannot read '%s': %s", path, error);
    }
    else {
        *len = file.len;
        *text = apr_pstrmemdup(pool, file.data ? file.data : "", file.len);
    }
    cs_buf_free(&file);
    return message;
}
