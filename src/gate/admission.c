/* SPDX-License-Identifier: Apache-2.0 */
#include "checks.h"

#define FULL_RETRY_AFTER 2 /* seconds; streams end all the time */

int cs_check_admission(cs_case_t *asked)
{
    uint32_t retry_after = FULL_RETRY_AFTER;
    int joined = 0;
    cs_admit_e admitted = asked->admit(asked->baton, &joined, &retry_after);

    if (asked->was_counted && (admitted != CS_ADMIT_YES || joined)) {
        cs_rate_give_back(asked->gate, &asked->rate, &asked->counted); /* nothing was started */
        asked->was_asked = asked->was_counted = 0;
    }
    switch (admitted) {
    case CS_ADMIT_YES:
        return 1;
    case CS_ADMIT_USER:
        return cs_check_refuse(asked, 429, "too_many_streams", "You have as many streams as you may have.",
                               retry_after);
    case CS_ADMIT_READERS:
        return cs_check_refuse(asked, 503, "unavailable", "The stream has too many readers.", FULL_RETRY_AFTER);
    default:
        return cs_check_refuse(asked, 503, "unavailable", "All streams are in use.", FULL_RETRY_AFTER);
    }
}
