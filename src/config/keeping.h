/* SPDX-License-Identifier: Apache-2.0 */
/* The directives that say what is kept, where and how long. All return NULL, or the whole message. */
#ifndef CS_CONFIG_KEEPING_H
#define CS_CONFIG_KEEPING_H

#include "chatstream/config.h"

const char *cs_keeping_record(cmd_parms *cmd, void *dir, int argc, char *const argv[]);
const char *cs_keeping_hash_key(cmd_parms *cmd, void *dir, const char *path);
const char *cs_keeping_state_dir(cmd_parms *cmd, void *dir, const char *path);
const char *cs_keeping_journal_max(cmd_parms *cmd, void *dir, const char *bytes, const char *then);
const char *cs_keeping_journal_sync(cmd_parms *cmd, void *dir, const char *when);
const char *cs_keeping_retention(cmd_parms *cmd, void *dir, const char *days);

#endif
