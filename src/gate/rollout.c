/* SPDX-License-Identifier: Apache-2.0 */
#include "checks.h"

/* The same words as when the flag is off: nobody learns whether others are in. */
int cs_check_rollout(cs_case_t *asked)
{
    return !asked->streaming || asked->in_cohort
           || cs_rollout_includes(asked->profile, asked->identity->user, asked->share)
           || cs_check_refuse(asked, 404, "streaming_disabled", "Streaming is not offered here.", 0);
}
