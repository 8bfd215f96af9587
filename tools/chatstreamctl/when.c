/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

/* Microseconds of ".5", ".123456"; 0 when it is not digits. */
static int fraction_parse(int *usec, const char **text)
{
    const char *at = *text;
    int digits = 0;

    *usec = 0;
    if (*at != '.') {
        return 1;
    }
    for (at++; *at >= '0' && *at <= '9'; at++, digits++) {
        if (digits < 6) {
            *usec = *usec * 10 + (*at - '0');
        }
    }
    *text = at;
    if (digits == 0) {
        return 0;
    }
    for (; digits < 6; digits++) {
        *usec *= 10;
    }
    return 1;
}

int ctl_time_parse(apr_time_t *when, const char *text)
{
    apr_time_exp_t parts;
    apr_time_exp_t again;
    int length = 0;

    memset(&parts, 0, sizeof(parts));
    if (sscanf(text, "%4d-%2d-%2d%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday, &length) != 3 || length != 10) {
        return 0;
    }
    text += length;
    if (*text == 'T' || *text == ' ') {
        length = 0;
        if (sscanf(text + 1, "%2d:%2d:%2d%n", &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &length) != 3
            || length != 8) {
            return 0;
        }
        text += 1 + length;
        if (!fraction_parse(&parts.tm_usec, &text)) {
            return 0;
        }
    }
    if (*text == 'Z') {
        text++;
    }
    parts.tm_year -= 1900;
    parts.tm_mon -= 1;
    /* What comes back is what went in, or it was February 30th. */
    return *text == '\0' && parts.tm_year >= 70 && apr_time_exp_gmt_get(when, &parts) == APR_SUCCESS
           && apr_time_exp_gmt(&again, *when) == APR_SUCCESS && again.tm_mday == parts.tm_mday
           && again.tm_mon == parts.tm_mon && again.tm_hour == parts.tm_hour && again.tm_min == parts.tm_min
           && again.tm_sec == parts.tm_sec;
}
