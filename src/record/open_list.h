/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The streams that are open, on disk: what their closing fact will need, whoever writes it. A writer that is killed leaves the list,
 * and whoever adopts its chain closes what stands on it; so does the next server after a fall of the whole.
 *
 *   STATE_DIR/<chain>.open    entries of ENTRY_SIZE bytes: length, CRC-32C, an encoded fact; all zero when nobody stands there
 *
 * Holds no message, and of users without a name no address. Written with pwrite: a full disk is an error and no signal.
 */
#ifndef CS_RECORD_OPEN_LIST_H
#define CS_RECORD_OPEN_LIST_H

#include "fact.h"

typedef struct cs_open_list_t cs_open_list_t;

/* A new list for a chain, or the one a dead writer left; empty when it left none. */
apr_status_t cs_open_list_open(cs_open_list_t **out, const char *dir, const char *chain);
/* Any thread. `bytes`: an encoded fact. `*place` is the entry's number from now on. */
apr_status_t cs_open_list_add(cs_open_list_t *list, const char *bytes, size_t len, uint32_t *place);
/* Any thread. Wipes the entry. */
void cs_open_list_remove(cs_open_list_t *list, uint32_t place);
/* While nobody adds to it: calls `fn` with each entry that is whole. Returns how many. */
unsigned cs_open_list_each(cs_open_list_t *list, void (*fn)(void *baton, uint32_t place, const cs_fact_t *fact),
                           void *baton);
apr_status_t cs_open_list_sync(cs_open_list_t *list);
/* `gone`: nobody stands on it any more, the file goes too. Accepts NULL. */
void cs_open_list_close(cs_open_list_t *list, int gone);

#endif
