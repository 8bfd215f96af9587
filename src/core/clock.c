/* SPDX-License-Identifier: Apache-2.0 */
/* clock: the steady clock all timeouts run on, and the one time format the module writes. */
#include "chatstream/core.h"

#include <time.h>

apr_time_t cs_clock_mono(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (apr_time_t)now.tv_sec * APR_USEC_PER_SEC + now.tv_nsec / 1000;
}

static char *put_digits(char *out, int value, int digits)
{
    for (int i = digits - 1; i >= 0; i--) {
        out[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return out + digits;
}

void cs_clock_iso8601(char out[CS_ISO8601_LEN + 1], apr_time_t when)
{
    apr_time_exp_t t;
    apr_time_exp_gmt(&t, when < 0 ? 0 : when);
    char *p = put_digits(out, t.tm_year + 1900, 4);
    *p++ = '-';
    p = put_digits(p, t.tm_mon + 1, 2);
    *p++ = '-';
    p = put_digits(p, t.tm_mday, 2);
    *p++ = 'T';
    p = put_digits(p, t.tm_hour, 2);
    *p++ = ':';
    p = put_digits(p, t.tm_min, 2);
    *p++ = ':';
    p = put_digits(p, t.tm_sec, 2);
    *p++ = '.';
    p = put_digits(p, t.tm_usec / 1000, 3);
    *p++ = 'Z';
    *p = '\0';
}
