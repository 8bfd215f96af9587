/* SPDX-License-Identifier: Apache-2.0 */
#include "checks.h"

int cs_check_enabled(cs_case_t *asked)
{
    return !asked->streaming || asked->enabled
           || cs_check_refuse(asked, 404, "streaming_disabled", "Streaming is not offered here.", 0);
}
