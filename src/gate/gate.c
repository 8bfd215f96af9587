/* SPDX-License-Identifier: Apache-2.0 */
#include "checks.h"

/*
 * The order is what a client is told first: that there is nothing here (404), that it asked wrongly (400), who it is not (401), that
 * it is not its turn (404), that it asked too often (429), that there is no room (429, 503). CORS comes before all of it, in
 * cors.c: an answer that a page cannot read helps nobody.
 */
static int (*const for_new[])(cs_case_t *) = {
    cs_check_enabled, cs_check_input, cs_check_identity, cs_check_rollout, cs_check_rate, cs_check_admission, NULL,
};

static int (*const for_look[])(cs_case_t *) = {
    cs_check_enabled, cs_check_input, cs_check_identity, cs_check_rollout, NULL,
};

/* Its stream passed once already: a flag that went off, a limit that was reached, cut nobody's stream. */
static int (*const for_old[])(cs_case_t *) = {cs_check_identity, NULL};

int cs_gate_pass(cs_case_t *asked, cs_gate_list_e list)
{
    int (*const *check)(cs_case_t *) = list == CS_GATE_NEW ? for_new : list == CS_GATE_LOOK ? for_look : for_old;

    while (*check && (*check)(asked)) {
        check++;
    }
    return !*check;
}
