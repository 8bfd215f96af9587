/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of the list, each in the file of its name. 1: passes; 0: `refusal` is set. */
#ifndef CS_GATE_CHECKS_H
#define CS_GATE_CHECKS_H

#include "chatstream/gate.h"

int cs_check_enabled(cs_case_t *asked);
int cs_check_input(cs_case_t *asked);
int cs_check_identity(cs_case_t *asked);
int cs_check_rollout(cs_case_t *asked);
int cs_check_rate(cs_case_t *asked);
int cs_check_admission(cs_case_t *asked);

static inline int cs_check_refuse(cs_case_t *asked, int status, const char *code, const char *message,
                                  uint32_t retry_after)
{
    asked->refusal = (cs_result_t){status, code, message, (int)retry_after, NULL};
    return 0;
}

#endif
