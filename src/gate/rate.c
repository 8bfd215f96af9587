/* SPDX-License-Identifier: Apache-2.0 */
#include "checks.h"

int cs_check_rate(cs_case_t *asked)
{
    if (!asked->rate.count) {
        return 1;
    }
    asked->was_asked = 1;
    switch (cs_rate_take(asked->gate, &asked->rate, asked->now, &asked->counted)) {
    case CS_RATE_OK:
        asked->was_counted = 1;
        return 1;
    case CS_RATE_LIMITED:
        return cs_check_refuse(asked, 429, "rate_limited", "Too many requests.", asked->counted.reset);
    default:
        return cs_check_refuse(asked, 503, "unavailable", "Too many users at the same time.",
                               asked->counted.reset ? asked->counted.reset : 1);
    }
}
