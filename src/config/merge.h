/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CS_CONFIG_MERGE_H
#define CS_CONFIG_MERGE_H

#include "chatstream/config.h"

/* Gives every value nobody set its default. */
void cs_config_fill_dir(cs_dir_config_t *conf);

#endif
